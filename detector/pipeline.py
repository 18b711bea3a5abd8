"""The embedded shell: the four cores in one process, files in, alerts and actions out, no server.

It reads, chains and counts; everything that decides anything is in a core. With a state file it continues where the last run on the
same logs ended.
"""

from __future__ import annotations

import gc
import time as wall
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import PurePath
from typing import Protocol

import numpy as np

from connectors.alert import Alert, Evidence
from connectors.event import Block, Reject
from connectors.names import Names
from connectors.sources import Decoded
from detector.config import Config
from detector.fuse import Fusion
from detector.identity import Bindings
from detector.ingest import Merge, TimeGuard, restart
from detector.notices import Notices
from detector.score import ActorVisit, ObjectVisit

#: Records of each reason that are shown; all are counted.
EXAMPLES = 3


@contextmanager
def quiet_collector() -> Iterator[None]:
    """Have Python look for garbage cycles less often: blocks make many objects and no cycles, and a tenth of the time went there."""
    usual = gc.get_threshold()
    gc.set_threshold(50_000, 20, 50)
    try:
        yield
    finally:
        gc.set_threshold(*usual)


class Log(Protocol):
    """One raw log as the shell reads it: ``connectors.trace.Trace``, or anything that gives decoded batches in order."""

    @property
    def path(self) -> str:
        """What it is called in alerts and messages."""
        ...

    def __iter__(self) -> Iterator[Decoded]: ...


@dataclass
class Tally:
    """What went by."""

    events: int = 0
    records: int = 0
    rejected: dict[str, int] = field(default_factory=dict)
    examples: dict[str, list[tuple[str, Reject]]] = field(default_factory=dict)
    skipped: dict[str, int] = field(default_factory=dict)
    alerts: int = 0
    revisions: int = 0
    first: int = 0
    last: int = 0
    seconds: float = 0.0


@dataclass
class Place:
    """How far one log has been read: records decided, the log's clock, the merge's."""

    records: int = 0
    clock: int | None = None


class Cores:
    """The state of the whole detector for one partition, and the way of a block through it."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self.bindings = Bindings(config.limits.bindings)
        self.actors = ActorVisit(config)
        self.objects = ObjectVisit(config)
        self.fusion = Fusion(config)
        self.slow = Fusion(config, "slow")
        self.notices = Notices()

    def fold(self, block: Block, scores: Callable[[np.ndarray], None] | None = None) -> list[Alert]:
        """Score a resolved block, learn it, judge what came out."""
        side = self.actors.visit(block)
        out: list[Alert] = []
        for found in self.objects.visit(block, side, scores):
            out += (self.slow if found.line == "slow" else self.fusion).judge(found)
        for visit in (self.actors, self.objects):
            for each in visit.full:
                out += self.notices.full(*each)
            visit.full.clear()
        out.sort(key=lambda alert: alert.time)
        return out

    def title(self, paths: tuple[str, ...]) -> None:
        """What alerts call the logs, by index of the raw partition."""
        self.fusion.paths = self.slow.paths = paths

    @property
    def identities(self) -> int:
        """Distinct identities with a profile, as actor or object."""
        return len(np.union1d(self.actors.tables["actor"].keys(), self.objects.tables["object"].keys()))

    @property
    def evicted(self) -> int:
        """Profiles forgotten at a limit."""
        return self.actors.evicted + self.objects.evicted

    @property
    def strongest(self) -> list[Evidence]:
        """The strongest evidence of the main line."""
        return self.fusion.strongest

    @property
    def late(self) -> int:
        """Rows scored but not learned, because they came too late for their object's or their actor's profile."""
        return max(self.actors.late, self.objects.late)


class Folding(Protocol):
    """What a pipeline feeds: ``Cores``, or the same over several partitions."""

    config: Config
    bindings: Bindings

    def fold(self, block: Block, scores: Callable[[np.ndarray], None] | None = None) -> list[Alert]:
        """See ``Cores.fold``."""
        ...

    def title(self, paths: tuple[str, ...]) -> None:
        """See ``Cores.title``."""
        ...


class Pipeline:
    """Runs logs through the cores. ``on_alert`` gets every revision, ``on_reject`` every reject with its log's path.

    All logs decode into ``names``. What ``scores`` is given of a block is valid during the call: later its codes may mean others.
    """

    def __init__(
        self,
        cores: Folding,
        *,
        names: Names,
        on_alert: Callable[[Alert], None] = lambda _: None,
        on_reject: Callable[[str, Reject], None] = lambda *_: None,
        on_tick: Callable[[Tally], None] = lambda _: None,
        scores: Callable[[Block, np.ndarray], None] | None = None,
    ) -> None:
        self.cores = cores
        self.names = names
        self.tally = Tally()
        self._on_alert = on_alert
        self._on_reject = on_reject
        self._on_tick = on_tick
        self._scores = scores

    def run(self, logs: list[Log], places: list[Place] | None = None, limit: int | None = None) -> Iterator[Tally]:
        """Read all logs to their end, or up to ``limit`` events. Yields after every batch; ``places`` is kept up to date."""
        places = places if places is not None else [Place() for _ in logs]
        self.cores.title(_titles([log.path for log in logs]))
        merge = Merge(len(logs), [getattr(log, "arrivals", None) for log in logs])
        guards = []
        for place in places:
            guard = TimeGuard(self.cores.config.time.ahead_hours)
            guard.clock = place.clock
            guards.append(guard)
        streams = [iter(log) for log in logs]
        began = wall.perf_counter()
        while (lane := merge.next_lane()) is not None:
            if self.names.full:
                restart(self.names, [*merge.blocks, *(block for guard in guards for block in guard.blocks)])
            decoded = next(streams[lane], None)
            for part in guards[lane].admit(None if decoded is None else self._fresh(decoded, places[lane])):
                self._count(part, logs[lane].path)
                merge.add(lane, part)
            if decoded is None:
                merge.end(lane)
            block, upcoming = merge.take()
            if block is not None:
                done = self._fold(block, upcoming, places, limit)
                self.tally.seconds = wall.perf_counter() - began
                yield self.tally
                if done:
                    return
            else:
                for _, binding in upcoming:
                    self.cores.bindings.learn(binding)
        self.tally.seconds = wall.perf_counter() - began
        yield self.tally

    def run_resolved(self, blocks: Iterable[Block], titles: Sequence[str], limit: int | None = None) -> Iterator[Tally]:
        """Fold blocks that ingest has resolved and ordered already, up to ``limit`` events. Yields after every block, each made from
        ``names`` only when it is asked for. ``titles``: what their raw partitions are called."""
        self.cores.title(tuple(titles))
        began = wall.perf_counter()
        for block in blocks:
            if limit is not None:
                block = block.take(slice(0, limit - self.tally.events))
            if len(block):
                self._judge(block, [])
            self.tally.seconds = wall.perf_counter() - began
            yield self.tally
            if limit is not None and self.tally.events >= limit:
                return
            if self.names.full:
                restart(self.names, [])

    @staticmethod
    def _fresh(decoded: Decoded, place: Place) -> Decoded:
        """A batch without the records that an earlier run has already folded."""
        if place.records == 0 or (len(decoded.block) and decoded.block.record[0] >= place.records):
            return decoded
        keep = decoded.block.record >= place.records
        return Decoded(
            decoded.block.take(keep),
            [reject for reject in decoded.rejects if reject.record >= place.records],
            {} if not keep.any() else decoded.skipped,
            [binding for binding in decoded.bindings if binding.record >= place.records],
        )

    def _count(self, part: Decoded, path: str) -> None:
        tally = self.tally
        for reject in part.rejects:
            tally.rejected[reject.reason] = tally.rejected.get(reject.reason, 0) + 1
            examples = tally.examples.setdefault(reject.reason, [])
            if len(examples) < EXAMPLES:
                examples.append((path, reject))
            self._on_reject(path, reject)
        for kind, many in part.skipped.items():
            tally.skipped[kind] = tally.skipped.get(kind, 0) + many

    def _fold(self, block: Block, upcoming: list, places: list[Place], limit: int | None) -> bool:  # type: ignore[type-arg]
        """Resolve, score, judge. Returns whether the limit is reached."""
        done = False
        if limit is not None and self.tally.events + len(block) >= limit:
            block = block.take(slice(0, limit - self.tally.events))
            upcoming = [(row, binding) for row, binding in upcoming if row <= len(block)]
            done = True
        self.cores.bindings.resolve(block, upcoming)
        if len(block):
            self._judge(block, places)
        return done

    def _judge(self, block: Block, places: list[Place]) -> None:
        """Score a resolved block, judge, tell, count."""
        each = None
        if self._scores is not None:
            given, start = self._scores, [0]

            def each(scores: np.ndarray) -> None:
                given(block.take(slice(start[0], start[0] + len(scores))), scores)
                start[0] += len(scores)

        for alert in self.cores.fold(block, each):
            self.tally.revisions += 1
            self.tally.alerts += alert.activity == "open"
            self._on_alert(alert)
        self._mark(block, places)
        self._on_tick(self.tally)

    def _mark(self, block: Block, places: list[Place]) -> None:
        tally = self.tally
        tally.events += len(block)
        low, high = int(block.time.min()), int(block.time.max())
        tally.first = low if tally.first == 0 else min(tally.first, low)
        tally.last = max(tally.last, high)
        for lane, place in enumerate(places):
            mine = block.partition == lane if len(places) > 1 else slice(None)
            record = block.record[mine]
            if len(record):
                place.records = max(place.records, int(record.max()) + 1)
                newest = int(block.time[mine].max())
                place.clock = newest if place.clock is None else max(place.clock, newest)


def _titles(paths: list[str]) -> tuple[str, ...]:
    """What alerts call the logs: the file name where that tells them apart, so that where a trace lies changes no result."""
    names = [PurePath(path).name or path for path in paths]
    return tuple(names if len(set(names)) == len(names) else paths)
