"""Score, the second core: every event visits its actor, then its object; what the two find together is calibrated and combined.

The actor's visit comes first because the object's surprise at an actor backs off to how rare the actor is. It sends along what only
it knows; the object's visit completes the signals, puts them on one scale, and passes on the rows that came out surprising.
Pure: blocks in, evidence out; no clock, no I/O. The result does not depend on how the rows are cut into blocks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase

import msgspec
import numpy as np

from connectors.event import Action, Block, Outcome, Stream
from connectors.names import Names
from detector.config import Config, ConfigError
from models import calibration, counts
from models.counts import count
from models.kernels import pair_keys
from models.profiles import Table
from models.signals import Rows, Signal, Visit

#: Seconds in a minute and an hour of profile time.
_MINUTE = 60e6


@dataclass(slots=True)
class ActorSide:
    """What the actor's visit sends along with a block: ``counts`` float64[len(counts.OUTPUT), n] and, per signal of its own,
    float64[4, n]."""

    counts: np.ndarray
    signals: dict[str, np.ndarray]

    def part(self, rows: slice) -> ActorSide:
        """The same for some rows."""
        return ActorSide(self.counts[:, rows], {name: matrix[:, rows] for name, matrix in self.signals.items()})


@dataclass(slots=True)
class Found:
    """The surprising rows of a block. ``rows`` float64[m, EVIDENCE + signals] as ``models.calibration`` writes them;
    ``values`` float64[m, signals, 3]: seen, expected, usual. ``signals``: the order of the signals."""

    block: Block
    rows: np.ndarray
    values: np.ndarray
    signals: tuple[str, ...]


def facets(block: Block) -> np.ndarray:
    """uint64[n]: the endpoint each row touches: object, action and detail together."""
    hashes = block.names.hashes
    detail = np.where(block.detail >= 0, hashes[block.detail], np.uint64(0))
    out = np.empty(len(block), np.uint64)
    pair_keys(hashes[block.object], detail + block.action.astype(np.uint64), out)
    return out


def rows_of(block: Block, out: np.ndarray, slots: dict[str, np.ndarray], actor: np.ndarray) -> Rows:
    """A block as the signals read it. Bytes that left: sent by the actor of a flow, or read out of a registry."""
    pulled = (block.stream == Stream.registry) & ((block.action == Action.pull) | (block.action == Action.read))
    refused = np.where((block.outcome == Outcome.denied) | (block.outcome == Outcome.failed), 1.0, 0.0)
    refused[block.outcome == Outcome.unknown] = np.nan
    return Rows(
        time=out[counts.TIME],
        learn=out[counts.LEARN] != 0.0,
        counts=out,
        actor_counts=actor,
        slots=slots,
        moved=np.where(pulled, block.bytes_in, block.bytes_out),
        basis=block.bytes_basis,
        model=block.stream == Stream.registry,
        refused=refused,
        weight=block.count,
    )


class _Visit:
    """What the two visits share: tables by name, signals with their scalars, admission of new entities."""

    side: Visit

    def __init__(self, config: Config, base: dict[str, dict[str, tuple[str, ...]]], limits: dict[str, int]) -> None:
        self.signals: dict[str, Signal] = {name: s for name, s in config.learners().items() if s.visit == self.side}
        self.lateness = config.time.lateness_minutes * _MINUTE
        self.patterns = config.identities.restricted
        self.tables: dict[str, Table] = {}
        for table, owners in base.items():
            wanted = {name: s.state()[table] for name, s in self.signals.items() if table in s.state()}
            self.tables[table] = Table(f"{self.side}.{table}", owners | wanted, limits[table])
        self.units = np.zeros(len(counts.SCALARS))
        self.scalars = {name: np.zeros(len(s.scalars())) for name, s in self.signals.items()}
        self.evicted = 0
        self._names: Names | None = None
        self._restricted = np.zeros(0, np.bool_)

    @property
    def late(self) -> int:
        """Rows that came too late to be learned."""
        return int(self.units[4])

    def ask(self, rows: Rows, done: dict[str, np.ndarray]) -> None:
        """Every signal of this visit, in the configured order, into ``done``."""
        for name, signal in self.signals.items():
            out = np.empty((4, len(rows)))
            state = {table: self.tables[table][name] for table in signal.state()}
            signal.surprise(rows, state, self.scalars[name], out)
            done[name] = out

    def admit(self, keys: dict[str, np.ndarray], block: Block) -> Iterator[tuple[slice, dict[str, np.ndarray], dict[str, int]]]:
        """Runs of rows that all tables had room for, with their slots and how many of each table were known before. Between runs the
        full table forgets its longest idle.

        A row is admitted by all tables or by none, so that what is forgotten does not depend on where a block ends.
        """
        n = len(block)
        slots = {table: np.empty(n, np.int32) for table in keys}
        start = 0
        while start < n:
            stop = n
            for table, wanted in keys.items():
                stop = min(stop, start + self._room(table, wanted[start:stop]))
            if stop == start:
                for table in keys:
                    if self._room(table, keys[table][start : start + 1]) == 0:
                        self._make_room(table)
                continue
            known = {table: self.tables[table].used for table in keys}
            for table, wanted in keys.items():
                self.tables[table].find(wanted, slots[table], start, stop)
            run = slice(start, stop)
            if self.patterns:
                self._protect({table: each[run] for table, each in slots.items()}, block.actor[run], block.object[run], block.names)
            yield run, {table: slots[table][run] for table in keys}, known
            start = stop

    def _room(self, table: str, wanted: np.ndarray) -> int:
        """How many of the first rows a table surely has room for: all, unless it is nearly full, then those before the first that
        would exceed it."""
        held = self.tables[table]
        free = held.limit - held.used
        if free >= len(wanted):
            return len(wanted)
        known = held.known(wanted)
        fresh = np.zeros(len(wanted), np.bool_)
        values, first = np.unique(wanted[~known], return_index=True)
        fresh[np.flatnonzero(~known)[first]] = True
        over = np.flatnonzero(np.cumsum(fresh) > free)
        return int(over[0]) if len(over) and len(values) else len(wanted)

    def _make_room(self, table: str) -> None:
        held = self.tables[table]
        gone = held.evict(self.idle(table))
        if gone == 0 and table not in ("actor", "object"):
            # What is known *of* the restricted goes last, but it goes: anyone may call on them from a million addresses.
            held.protected[:] = False
            gone = held.evict(self.idle(table))
        if gone == 0:
            raise ConfigError([f"limits: all {held.limit} profiles of {table} are restricted; raise the limit"])
        self.evicted += gone

    def _protect(self, slots: dict[str, np.ndarray], actor: np.ndarray, object_: np.ndarray, names: Names) -> None:
        """Mark the profiles of restricted identities, and of their endpoints and pairs."""
        if names is not self._names:
            self._names, self._restricted = names, np.zeros(0, np.bool_)
        fresh = names.values[len(self._restricted) :]
        if fresh:
            marks = [any(fnmatchcase(name, pattern) for pattern in self.patterns) for name in fresh]
            self._restricted = np.concatenate([self._restricted, np.array(marks, np.bool_)])
        doing, done = self._restricted[actor], self._restricted[object_]
        for table, each in slots.items():
            meant = doing if table == "actor" else done if table in ("object", "endpoint") else doing | done
            self.tables[table].protected[each[meant]] = True

    def idle(self, table: str) -> np.ndarray:
        """float64[used]: when each slot of a table was last seen."""
        raise NotImplementedError

    @staticmethod
    def population(slots: np.ndarray, known: int) -> np.ndarray:
        """int64[n]: how many of a table's entities were known at each row, ``known`` before the first."""
        return np.maximum.accumulate(np.maximum(slots.astype(np.int64) + 1, known))

    def arrays(self) -> dict[str, np.ndarray]:
        """The state outside the tables, by name."""
        return {"units": self.units} | {f"scalars.{name}": values for name, values in self.scalars.items()}

    def nbytes(self) -> int:
        """Bytes held by profiles."""
        return sum(table.nbytes for table in self.tables.values())


class ActorVisit(_Visit):
    """What this principal does."""

    side = "actor"

    def __init__(self, config: Config) -> None:
        base: dict[str, dict[str, tuple[str, ...]]] = {
            "actor": {"keeper": counts.KEEPER, "owner": counts.OWNER},
            "actor_pair": {"units": counts.PAIR},
        }
        super().__init__(config, base, {"actor": config.limits.actors, "actor_pair": config.limits.pairs})

    def idle(self, table: str) -> np.ndarray:
        """See the base class."""
        held = self.tables[table]
        return held["owner"][: held.used, 7] if table == "actor" else held["units"][: held.used, 0]

    def visit(self, block: Block) -> ActorSide:
        """Score a block from its actors' side, then learn it."""
        n = len(block)
        actor = block.names.hashes[block.actor]
        pair = np.empty(n, np.uint64)
        pair_keys(actor, facets(block), pair)
        side = ActorSide(np.empty((len(counts.OUTPUT), n)), {})
        parts: list[dict[str, np.ndarray]] = []
        for run, slots, known in self.admit({"actor": actor, "actor_pair": pair}, block):
            part = block if run == slice(0, n) else block.take(run)
            out = np.empty((len(counts.OUTPUT), len(part)))
            count(
                part.time,
                slots["actor"],
                slots["actor"],
                slots["actor_pair"],
                self.population(slots["actor"], known["actor"]),
                self.tables["actor"]["keeper"],
                self.tables["actor"]["owner"],
                self.tables["actor_pair"]["units"],
                self.units,
                self.lateness,
                out,
            )
            done: dict[str, np.ndarray] = {}
            self.ask(rows_of(part, out, slots, out), done)
            side.counts[:, run] = out
            parts.append(done)
        for name in self.signals:
            side.signals[name] = parts[0][name] if len(parts) == 1 else np.hstack([np.empty((4, 0)), *(part[name] for part in parts)])
        return side


class ObjectVisit(_Visit):
    """What happens to this object; and the combination of both visits."""

    side = "object"

    def __init__(self, config: Config) -> None:
        everything = config.learners()
        self.order = tuple(everything)
        fields = (*calibration.PAIR, *(f"bin_{name}" for name in self.order))
        base: dict[str, dict[str, tuple[str, ...]]] = {
            "object": {"keeper": counts.KEEPER, "calibration": calibration.OBJECT},
            "endpoint": {"owner": counts.OWNER},
            "pair": {"units": counts.PAIR, "calibration": fields},
        }
        limits = {"object": config.limits.objects, "endpoint": config.limits.endpoints, "pair": config.limits.pairs}
        super().__init__(config, base, limits)
        streams, many = len(Stream), len(self.order)
        self.clock = np.zeros(len(calibration.CLOCK))
        self.streams = np.zeros((streams, 4))
        self.means = np.zeros((streams, many, 2))
        self.histogram = np.zeros((streams, many, calibration.BINS))
        self.gain = np.zeros((streams, many, calibration.BINS))
        self.term = np.zeros((streams, many, calibration.BINS))
        self.weights = np.array([s.weight for s in everything.values()])
        self.drifts = np.array([s.drifts for s in everything.values()])
        given = config.calibration
        stretch = float(given.equalise_streams)
        self.settings = np.array([given.cap, given.floor, given.beta, stretch, config.budget.alerts_per_day])

    def idle(self, table: str) -> np.ndarray:
        """See the base class."""
        held = self.tables[table]
        if table == "object":
            last: np.ndarray = np.maximum(held["keeper"][: held.used, 0], held["calibration"][: held.used, 3])
            return last
        return held["owner"][: held.used, 7] if table == "endpoint" else held["units"][: held.used, 0]

    def visit(self, block: Block, side: ActorSide, scores: Callable[[np.ndarray], None] | None = None) -> Iterator[Found]:
        """Score a block from its objects' side, combine, then learn it. ``scores``, if given, gets float64[n] run by run."""
        n = len(block)
        endpoint = facets(block)
        pair = np.empty(n, np.uint64)
        pair_keys(endpoint, block.names.hashes[block.actor], pair)
        keys = {"object": block.names.hashes[block.object], "endpoint": endpoint, "pair": pair}
        for run, slots, known in self.admit(keys, block):
            part = block if run == slice(0, n) else block.take(run)
            given = side if run == slice(0, n) else side.part(run)
            out = np.empty((len(counts.OUTPUT), len(part)))
            count(
                part.time,
                slots["object"],
                slots["endpoint"],
                slots["pair"],
                self.population(slots["endpoint"], known["endpoint"]),
                self.tables["object"]["keeper"],
                self.tables["endpoint"]["owner"],
                self.tables["pair"]["units"],
                self.units,
                self.lateness,
                out,
            )
            rows = rows_of(part, out, slots, given.counts)
            done = dict(given.signals)
            self.ask(rows, done)
            yield self._combine(part, rows, done, scores)

    def _combine(self, block: Block, rows: Rows, done: dict[str, np.ndarray], scores: Callable[[np.ndarray], None] | None) -> Found:
        n = len(block)
        surprise = np.empty((len(self.order), n))
        for k, name in enumerate(self.order):
            surprise[k] = done[name][0]
        score = np.empty(n)
        evidence = np.empty((n, calibration.EVIDENCE + len(self.order)))
        found = calibration.calibrate(
            rows.time,
            rows.learn & (rows.actor_counts[counts.LEARN] != 0.0),
            rows.counts[counts.NEW_HOUR],
            block.stream,
            rows.actor_counts[counts.CELLS],
            surprise,
            rows.slots["object"],
            rows.slots["pair"],
            self.tables["object"]["calibration"],
            self.tables["pair"]["calibration"],
            self.clock,
            self.streams,
            self.means,
            self.histogram,
            self.gain,
            self.term,
            self.weights,
            self.drifts,
            self.settings,
            score,
            evidence,
        )
        if scores is not None:
            scores(score)
        kept = evidence[:found].copy()
        index = kept[:, calibration.ROW].astype(np.int64)
        values = np.empty((found, len(self.order), 3))
        for k, name in enumerate(self.order):
            values[:, k, :] = done[name][1:, index].T
        return Found(block, kept, values, self.order)

    def arrays(self) -> dict[str, np.ndarray]:
        """See the base class."""
        return super().arrays() | {
            "clock": self.clock,
            "streams": self.streams,
            "means": self.means,
            "histogram": self.histogram,
            "gain": self.gain,
            "term": self.term,
        }


def dump(visit: _Visit) -> Iterator[tuple[str, int, bytes]]:
    """A visit's state as records (table, chunk number, bytes). Equal states give equal bytes."""
    for name, table in visit.tables.items():
        for number, chunk in enumerate(table.dump()):
            yield f"{visit.side}.{name}", number, chunk
    arrays = {name: (list(array.shape), array.tobytes()) for name, array in sorted(visit.arrays().items())}
    yield f"{visit.side}.arrays", 0, msgspec.msgpack.encode({"version": 1, "evicted": visit.evicted, "arrays": arrays})


def load(visit: _Visit, records: dict[str, list[bytes]]) -> None:
    """Take over what ``dump`` gave. Raises ValueError with a sentence on another version or configuration."""
    for name, table in visit.tables.items():
        table.load(records[f"{visit.side}.{name}"])
    saved = msgspec.msgpack.decode(records[f"{visit.side}.arrays"][0])
    if saved["version"] != 1:
        raise ValueError(f"state of the {visit.side}'s visit: version {saved['version']}, this release reads 1")
    visit.evicted = saved["evicted"]
    for name, array in visit.arrays().items():
        shape, data = saved["arrays"].get(name, ([], b""))
        if shape != list(array.shape):
            raise ValueError(f"state of the {visit.side}'s visit was made with other signals than the configuration names ({name})")
        array[...] = np.frombuffer(data).reshape(shape)
