"""A stage for learners: rows made from events the way the two visits of ``detector.score`` make them, without the rest of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np

from connectors.event import Action, Stream
from models import counts
from models.counts import count
from models.groups import peer_table
from models.kernels import DAY, HOUR, MINUTE, pair_keys
from models.profiles import Fields, Table
from models.signals import Rows, Signal

#: A Monday, 2024-01-01, in microseconds.
START = 1_704_067_200_000_000
SECOND = 1_000_000


@dataclass
class Events:
    """Columns of events in log order; all arrays of one length. ``peer``: the number of the actor's peer group, 0-63."""

    time: np.ndarray
    actor: np.ndarray
    object: np.ndarray
    moved: np.ndarray
    answered: np.ndarray
    basis: np.ndarray
    model: np.ndarray
    refused: np.ndarray
    weight: np.ndarray
    stream: np.ndarray
    action: np.ndarray
    via: np.ndarray
    detail: np.ndarray
    gpus: np.ndarray
    gpu_seconds: np.ndarray
    outward: np.ndarray
    pace: np.ndarray
    peer: np.ndarray

    def __len__(self) -> int:
        return len(self.time)

    def take(self, rows: slice | list[int]) -> Events:
        return Events(**{field.name: getattr(self, field.name)[rows] for field in fields(self)})


#: Columns of an event with their types, and what they are where nothing is said: one pull of a model from a registry.
COLUMNS: dict[str, tuple[type, Any]] = {
    "actor": (np.uint64, 1),
    "object": (np.uint64, 101),
    "moved": (np.float64, 1e9),
    "answered": (np.float64, np.nan),
    "basis": (np.int8, 4),
    "model": (np.bool_, True),
    "refused": (np.float64, 0.0),
    "weight": (np.float64, 1.0),
    "stream": (np.int8, Stream.registry),
    "action": (np.int8, Action.pull),
    "via": (np.uint64, 0),
    "detail": (np.uint64, 0),
    "gpus": (np.float64, np.nan),
    "gpu_seconds": (np.float64, np.nan),
    "outward": (np.bool_, False),
    "pace": (np.float64, 1.0),
    "peer": (np.int32, 0),
}


def events(time: np.ndarray | list[int], actor: int | np.ndarray = 1, object: int | np.ndarray = 101, **more: Any) -> Events:
    """Events of one or several identities; scalars stand for all rows. ``more``: other columns than their defaults."""
    n = len(time)
    given = {name: default for name, (_, default) in COLUMNS.items()} | {"actor": actor, "object": object} | more

    def column(name: str) -> np.ndarray:
        kind, value = COLUMNS[name][0], given.pop(name)
        return np.full(n, value, kind) if np.isscalar(value) else np.asarray(value, kind)

    made = Events(time=np.asarray(time, np.int64), **{name: column(name) for name in COLUMNS})
    assert not given, f"no such column: {sorted(given)}"
    return made


def joined(*parts: Events) -> Events:
    """One after the other."""
    return Events(**{field.name: np.concatenate([getattr(part, field.name) for part in parts]) for field in fields(Events)})


def mixed(n: int, seed: int = 0) -> Events:
    """What a real log throws at a learner: gaps, rows late and too late, unknown bytes and outcomes, two kinds of byte count, every
    stream and action, announced changes."""
    rng = np.random.default_rng(seed)
    gaps = rng.exponential(40.0, n) * SECOND
    gaps[rng.random(n) < 0.02] += HOUR
    gaps[rng.random(n) < 0.005] += DAY
    time = START + np.cumsum(gaps).astype(np.int64)
    time[rng.random(n) < 0.2] -= np.int64(20 * MINUTE)
    time[rng.random(n) < 0.05] -= np.int64(3 * HOUR)
    moved = np.where(rng.random(n) < 0.1, 0.0, rng.lognormal(18.0, 2.0, n))
    moved[rng.random(n) < 0.2] = np.nan
    refused = (rng.random(n) < 0.15).astype(np.float64)
    refused[rng.random(n) < 0.2] = np.nan
    actor = rng.zipf(1.6, n) % 12
    basis = np.where(rng.random(n) < 0.05, 1, 1 + 3 * (actor % 2)).astype(np.int8)
    object_ = rng.zipf(1.5, n) % 9 + 101
    weight = np.where(rng.random(n) < 0.1, 5.0, 1.0)
    # What is drawn from here on leaves the columns above as they are.
    stream = np.where(basis == 4, Stream.registry, rng.choice([Stream.flow, Stream.job, Stream.auth], n, p=[0.5, 0.3, 0.2]))
    job = stream == Stream.job
    gpus = np.where(job & (rng.random(n) < 0.8), 2.0 ** rng.integers(0, 7, n), np.nan)
    action = np.select(
        [stream == Stream.registry, stream == Stream.flow, job],
        [
            rng.choice([Action.pull, Action.pull, Action.push, Action.list], n),
            Action.connect,
            rng.choice([Action.submit, Action.end], n),
        ],
        Action.login,
    )
    return events(
        time,
        actor + 1,
        object_,
        moved=moved,
        answered=np.where(np.isnan(moved) | (rng.random(n) < 0.5), np.nan, 1e3 * (actor + 1)),
        basis=basis,
        model=basis == 4,
        refused=refused,
        weight=weight,
        stream=stream,
        action=action,
        via=np.where(rng.random(n) < 0.5, 0, 1001 + actor * 3 + rng.integers(0, 3, n)),
        detail=np.where(rng.random(n) < 0.3, 0, 2001 + rng.zipf(1.7, n) % 4),
        gpus=gpus,
        gpu_seconds=np.where(action == Action.end, gpus * rng.lognormal(8.0, 1.0, n), np.nan),
        outward=(stream == Stream.flow) & (object_ % 3 == 0),
        pace=np.where(rng.random(n) < 0.1, 4.0, 1.0),
        peer=actor % 3,
    )


def steady(days: float, actors: int = 4, objects: int = 3, every: float = 20 * MINUTE) -> Events:
    """A calm past: every actor at every object in turn, 1 GB at a time, one refusal in twenty."""
    rng = np.random.default_rng(7)
    n = int(days * DAY / every) * actors
    step = np.arange(n)
    return replace(
        events(START + (step // actors * every).astype(np.int64) + step % actors * SECOND, moved=1e9),
        actor=(step % actors + 1).astype(np.uint64),
        object=((step // actors + step) % objects + 101).astype(np.uint64),
        moved=rng.lognormal(np.log(1e9), 0.3, n),
        refused=(rng.random(n) < 0.05).astype(np.float64),
    )


class Stage:
    """One learner with its state, and the unit counts of both visits that it reads."""

    def __init__(self, make: Callable[[], Signal], lateness: float = HOUR) -> None:
        self.make = make
        self.signal = signal = make()
        self.lateness = lateness
        self.past: list[Events] = []
        state = signal.state()

        def table(name: str, base: dict[str, Fields]) -> Table:
            return Table(name, base | ({"signal": state[name]} if name in state else {}), 1 << 20)

        self.tables = {
            "actor": table("actor", {"keeper": counts.KEEPER, "owner": counts.OWNER}),
            "actor_pair": table("actor_pair", {"units": counts.PAIR}),
            "object": table("object", {"keeper": counts.KEEPER}),
            "endpoint": table("endpoint", {"owner": counts.OWNER}),
            "pair": table("pair", {"units": counts.PAIR}),
            "peer_pair": table("peer_pair", {}),
            "peer": peer_table("peer", {"signal": state["peer"]} if "peer" in state else {}),
        }
        self.units = {"actor": np.zeros(len(counts.SCALARS)), "object": np.zeros(len(counts.SCALARS))}
        self.scalars = np.zeros(len(signal.scalars()))

    def rows(self, given: Events) -> Rows:
        """The run as the learner's visit sees it; teaches the unit counts."""
        n = len(given)
        endpoint, there, back, group = (np.empty(n, np.uint64) for _ in range(4))
        pair_keys(given.object, given.detail + given.action.astype(np.uint64), endpoint)
        pair_keys(given.actor, endpoint, there)
        pair_keys(endpoint, given.actor, back)
        pair_keys(endpoint, given.peer.astype(np.uint64), group)
        keys = {
            "actor": given.actor,
            "actor_pair": there,
            "object": given.object,
            "endpoint": endpoint,
            "pair": back,
            "peer_pair": group,
        }
        before = {name: self.tables[name].used for name in keys}
        slots = {}
        for name, wanted in keys.items():
            slots[name] = np.empty(n, np.int32)
            self.tables[name].find(wanted, slots[name], 0, n)
        slots["peer"] = given.peer
        seen = {}
        for side, keeper, owner, pair in (("actor", "actor", "actor", "actor_pair"), ("object", "object", "endpoint", "pair")):
            seen[side] = np.empty((len(counts.OUTPUT), n))
            population = np.maximum.accumulate(np.maximum(slots[owner].astype(np.int64) + 1, before[owner]))
            count(
                given.time,
                slots[keeper],
                slots[owner],
                slots[pair],
                population,
                given.pace,
                self.tables[keeper]["keeper"],
                self.tables[owner]["owner"],
                self.tables[pair]["units"],
                self.units[side],
                self.lateness,
                seen[side],
            )
        own = seen[self.signal.visit]
        return Rows(
            time=own[counts.TIME],
            learn=own[counts.LEARN] != 0.0,
            counts=own,
            actor_counts=seen["actor"],
            slots=slots,
            moved=given.moved,
            answered=given.answered,
            basis=given.basis,
            model=given.model,
            refused=given.refused,
            weight=given.weight,
            stream=given.stream,
            action=given.action,
            actor=given.actor,
            object=given.object,
            via=given.via,
            detail=given.detail,
            gpus=given.gpus,
            gpu_seconds=given.gpu_seconds,
            outward=given.outward,
            pace=given.pace,
        )

    def ask(self, rows: Rows) -> np.ndarray:
        """float64[4, n]: what the learner says to a run."""
        out = np.empty((4, len(rows)))
        state = {name: self.tables[name]["signal"] for name in self.signal.state()}
        self.signal.surprise(rows, state, self.scalars, out)
        return out

    def play(self, given: Events) -> np.ndarray:
        """One run of rows: scored, then learned."""
        self.past.append(given)
        return self.ask(self.rows(given))

    def twin(self) -> Stage:
        """A learner of the same make with a copy of the state, through the chunk records; one that is not durable relives its past."""
        other = type(self)(self.make, self.lateness)
        if not self.signal.durable:
            for given in self.past:
                other.play(given)
            return other
        for name, table in self.tables.items():
            other.tables[name].load(list(table.dump()))
        other.units = {side: units.copy() for side, units in self.units.items()}
        other.scalars = self.scalars.copy()
        return other

    def probe(self, given: Events, learn: bool = True) -> tuple[np.ndarray, bytes]:
        """(what the learner would say to a run, what its state would then be), on a copy; ``learn`` False withholds the lesson."""
        other = self.twin()
        rows = other.rows(given)
        rows.learn = rows.learn & learn
        out = other.ask(rows)
        return out, other.state()

    def state(self) -> bytes:
        """All that the learner remembers, with the profiles in order of their keys."""
        kept = []
        for name in self.signal.state():
            table = self.tables[name]
            keys = table.keys()
            known = table["signal"][: table.used]
            # A row of zeros is a profile that was never taught: a slot of its own, but no memory.
            taught = known.view(np.uint8).reshape(len(known), known.itemsize).any(axis=1)
            kept += [keys[taught].tobytes(), known[taught].tobytes()]
        return b"".join([*kept, self.scalars.tobytes()])
