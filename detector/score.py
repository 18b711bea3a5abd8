"""Score, the second core: every event visits its actor, then its object; what the two find together is calibrated and combined.

The actor's visit comes first because the object's surprise at an actor backs off to how rare the actor is. It sends along what only
it knows; the object's visit completes the signals, puts them on one scale, and passes on the rows that came out surprising.
Pure: blocks in, evidence out; no clock, no I/O. The result does not depend on how the rows are cut into blocks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from fnmatch import fnmatchcase

import numpy as np

from connectors.event import Block
from connectors.names import Names
from detector.changes import Changes
from detector.config import Config, ConfigError
from detector.marks import Marks, outward
from detector.peering import HABITS, Peering
from detector.rows import ActorSide, facets, rows_of
from detector.scale import Found, Scale
from models import calibration, counts
from models.counts import count
from models.groups import peer_table
from models.kernels import DAY, HOUR, SECOND, pair_keys
from models.profiles import Fields, Table
from models.signals import Line, Rows, Signal, Visit

#: A minute of profile time.
_MINUTE = 60e6


#: Seconds that a long history keeps an idle profile longer than a short one, at most: thirty days.
MOST_SETTLED = 30.0 * DAY / SECOND
#: Tables made only where a signal keeps state in them.
OPTIONAL = ("peer", "peer_pair")


class _Visit:
    """What the two visits share: tables by name, signals with their scalars, admission of new entities."""

    side: Visit

    def __init__(self, config: Config, base: dict[str, dict[str, Fields]], limits: dict[str, int]) -> None:
        self.signals: dict[str, Signal] = {name: s for name, s in config.learners().items() if s.visit == self.side}
        asked = {table for s in self.signals.values() for table in s.state()}
        self.lateness = config.time.lateness_minutes * _MINUTE
        self.tables: dict[str, Table] = {}
        for table, owners in base.items():
            if table in OPTIONAL and table not in asked:
                continue
            wanted = {name: s.state()[table] for name, s in self.signals.items() if table in s.state()}
            name = f"{self.side}.{table}"
            self.tables[table] = peer_table(name, owners | wanted) if table == "peer" else Table(name, owners | wanted, limits[table])
        self.units = np.zeros(len(counts.SCALARS))
        self.scalars = {name: np.zeros(len(s.scalars())) for name, s in self.signals.items()}
        self.evicted = 0
        #: When which table had to forget profiles, and its limit. Whoever reads it clears it.
        self.full: list[tuple[float, str, int]] = []
        self._outward = Marks(outward)
        self.configure(config)

    def configure(self, config: Config) -> None:
        """Take over what may change while it runs."""
        patterns = self.patterns = config.identities.restricted
        # Not of ``self``: profiles in a cycle would stay in memory long after their partition has gone.
        self._restricted = Marks(lambda name: any(fnmatchcase(name, pattern) for pattern in patterns))
        self.changes = Changes(config)

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
                        self._make_room(table, max(float(block.time[start]), float(self.units[0])))
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

    def _make_room(self, table: str, now: float) -> None:
        held = self.tables[table]
        self.full.append((now, held.name, held.limit))
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
        doing, done = self._restricted.of(names, actor) != 0, self._restricted.of(names, object_) != 0
        for table, each in slots.items():
            meant = doing if table == "actor" else done if table in ("object", "endpoint", "peer_pair") else doing | done
            self.tables[table].protected[each[meant]] = True

    def idle(self, table: str) -> np.ndarray:
        """float64[used]: when each slot of a table was last seen, or later where it is worth keeping; the lowest go first."""
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


def _settled(last: np.ndarray, units: np.ndarray, length: float) -> np.ndarray:
    """When profiles were last seen, in seconds, and later by as long as they have been active: so a flood of newcomers pushes out
    newcomers, not whom we have known for weeks."""
    settled: np.ndarray = last + np.minimum(units * (length / SECOND), MOST_SETTLED)
    return settled


class ActorVisit(_Visit):
    """What this principal does."""

    side = "actor"

    def __init__(self, config: Config) -> None:
        base: dict[str, dict[str, Fields]] = {
            "actor": {"keeper": counts.KEEPER, "owner": counts.OWNER, "habits": HABITS},
            "actor_pair": {"units": counts.PAIR},
            "peer": {},
        }
        super().__init__(config, base, {"actor": config.limits.actors, "actor_pair": config.limits.pairs})
        self.peering = Peering(self.signals)

    def idle(self, table: str) -> np.ndarray:
        """See the base class."""
        held = self.tables[table]
        if table == "actor":
            return _settled(held["owner"]["last"], held["owner"]["hours"], HOUR)[: held.used]
        return _settled(held["units"]["hour_taught"], held["units"]["days"], DAY)[: held.used]

    def visit(self, block: Block) -> ActorSide:
        """Score a block from its actors' side, then learn it. What is due of the peer groups is done between two rows."""
        parts = []
        while (rows := self.peering.before_training(block, self.units[0])) < len(block):
            parts.append(self._visit(block.take(slice(0, rows))))
            block = block.take(slice(rows, len(block)))
            self._regroup(max(float(block.time[0]), float(self.units[0])))
        last = self._visit(block)
        return last if not parts else ActorSide.joined([*parts, last])

    def _regroup(self, now: float) -> None:
        fresh = self.peering.step(self.tables["actor"], now)
        if "peer" in self.tables:
            self.tables["peer"].change_all()
            for column in self.tables["peer"].columns.values():
                column[fresh] = np.zeros((), column.dtype)

    def _visit(self, block: Block) -> ActorSide:
        n = len(block)
        actor = block.names.hashes[block.actor]
        pair = np.empty(n, np.uint64)
        pair_keys(actor, facets(block), pair)
        side = ActorSide(np.empty((len(counts.OUTPUT), n)), np.zeros(n, np.int32), {})
        parts: list[dict[str, np.ndarray]] = []
        for run, slots, known in self.admit({"actor": actor, "actor_pair": pair}, block):
            part = block if run == slice(0, n) else block.take(run)
            pace = self.changes.paces(part)
            out = np.empty((len(counts.OUTPUT), len(part)))
            count(
                part.time,
                slots["actor"],
                slots["actor"],
                slots["actor_pair"],
                self.population(slots["actor"], known["actor"]),
                pace,
                self.tables["actor"]["keeper"],
                self.tables["actor"]["owner"],
                self.tables["actor_pair"]["units"],
                self.units,
                self.lateness,
                out,
            )
            done: dict[str, np.ndarray] = {}
            side.peer[run] = self.peering.learn(part, out, slots["actor"], self.tables["actor"])
            if "peer" in self.tables:
                self.tables["peer"].change_all()
                slots["peer"] = side.peer[run]
            self.ask(rows_of(part, out, slots, out, pace, self._outward.of(part.names, part.object) != 0), done)
            side.counts[:, run] = out
            parts.append(done)
        for name in self.signals:
            side.signals[name] = parts[0][name] if len(parts) == 1 else np.hstack([np.empty((4, 0)), *(part[name] for part in parts)])
        return side


class ObjectVisit(_Visit):
    """What happens to this object; and the combination of both visits."""

    side = "object"

    def __init__(self, config: Config, partitions: int = 1) -> None:
        """``partitions``: how many such visits share the objects. Each sees its share of them, and of the calibration's cells."""
        lines: tuple[Line, ...] = ("main", "slow")
        used = {each.line for each in config.learners().values()}
        self.scales = [Scale(config, line) for line in lines if line in used]
        self._partitions = partitions
        base: dict[str, dict[str, Fields]] = {
            "object": {"keeper": counts.KEEPER} | {scale.owner: calibration.OBJECT for scale in self.scales},
            "endpoint": {"owner": counts.OWNER},
            "pair": {"units": counts.PAIR} | {scale.owner: scale.fields for scale in self.scales},
            "peer": {},
            "peer_pair": {"keeper": (("last", "u4"),)},
        }
        given = config.limits
        # Groups are few, and most endpoints are used by the members of one or two.
        limits = {"object": given.objects, "endpoint": given.endpoints, "pair": given.pairs, "peer_pair": given.endpoints}
        super().__init__(config, base, limits)

    def configure(self, config: Config) -> None:
        """See the base class."""
        super().configure(config)
        for scale in self.scales:
            scale.configure(config)

    def idle(self, table: str) -> np.ndarray:
        """See the base class."""
        held = self.tables[table]
        if table == "object":
            worried = held[self.scales[0].owner]["strange_since"] * SECOND
            last: np.ndarray = np.maximum(held["keeper"]["last"], worried)
        elif table == "endpoint":
            last = _settled(held["owner"]["last"], held["owner"]["hours"], HOUR)
        elif table == "pair":
            last = _settled(held["units"]["hour_taught"], held["units"]["days"], DAY)
        else:
            last = held["keeper"]["last"]
        return last[: held.used]

    def visit(self, block: Block, side: ActorSide, scores: Callable[[np.ndarray], None] | None = None) -> Iterator[Found]:
        """Score a block from its objects' side, combine, then learn it. ``scores``, if given, gets float64[n] of
        the main line run by run."""
        n = len(block)
        endpoint = facets(block)
        pair = np.empty(n, np.uint64)
        pair_keys(endpoint, block.names.hashes[block.actor], pair)
        keys = {"object": block.names.hashes[block.object], "endpoint": endpoint, "pair": pair}
        if "peer_pair" in self.tables:
            keys["peer_pair"] = np.empty(n, np.uint64)
            pair_keys(endpoint, side.peer.astype(np.uint64), keys["peer_pair"])
        for run, slots, known in self.admit(keys, block):
            part = block if run == slice(0, n) else block.take(run)
            given = side if run == slice(0, n) else side.part(run)
            pace = self.changes.paces(part)
            out = np.empty((len(counts.OUTPUT), len(part)))
            count(
                part.time,
                slots["object"],
                slots["endpoint"],
                slots["pair"],
                self.population(slots["endpoint"], known["endpoint"]),
                pace,
                self.tables["object"]["keeper"],
                self.tables["endpoint"]["owner"],
                self.tables["pair"]["units"],
                self.units,
                self.lateness,
                out,
            )
            if self._partitions > 1:
                # Objects are spread evenly by their hash, so that the others hold as much as this one.
                out[counts.ALL_HOURS] *= self._partitions
                out[counts.POPULATION] *= self._partitions
            if "peer" in self.tables:
                self.tables["peer"].change_all()
                slots["peer"] = given.peer
            rows = rows_of(part, out, slots, given.counts, pace, self._outward.of(part.names, part.object) != 0)
            if "peer_pair" in self.tables:
                # Rows of one endpoint are in order of time, so that the last of several is the latest.
                seen = self.tables["peer_pair"]["keeper"]["last"]
                seen[slots["peer_pair"][rows.learn]] = rows.time[rows.learn] / SECOND
            done = dict(given.signals)
            self.ask(rows, done)
            for scale in self.scales:
                tables = {name: self.tables[name][scale.owner] for name in ("object", "pair")}
                score, found = scale.judge(part, rows, given.peer, done, tables)
                if scores is not None and scale.line == "main":
                    scores(score)
                yield found

    def arrays(self) -> dict[str, np.ndarray]:
        """See the base class."""
        mine = super().arrays()
        for scale in self.scales:
            mine |= scale.arrays()
        return mine
