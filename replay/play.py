"""Replaying recorded traces through the embedded detector, and what came of it in one summary."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import IO, Any

import msgspec
import orjson

from connectors import ocsf
from connectors.alert import Alert, Evidence
from connectors.event import DAY, Reject
from connectors.names import Names
from connectors.sources.table import Mapping
from connectors.trace import TraceError
from detector.checkpoint import Checkpoints, Progress, StateError, digest, places_of
from detector.config import Config
from detector.pipeline import Cores, Log, Pipeline, Place, Tally, quiet_collector
from detector.respond import Responder
from replay.inputs import PACED_RECORDS, Input, Inputs, Pace, PacedLog, open_inputs
from replay.spread import Spread

#: Events between two checkpoints of a run with a state file.
CHECKPOINT_EVENTS = 2_000_000


class Summary(msgspec.Struct, kw_only=True):
    """What a run did. ``alerts_per_day`` divides by the days the events span, at least one. ``late``: scored, not learned."""

    events: int
    identities: int
    rejected: dict[str, int]
    skipped: dict[str, int]
    late: int
    alerts: int
    alerts_per_day: float
    actions: dict[str, int]
    days: float
    seconds: float
    events_per_second: float
    state_digest: str
    sources: dict[str, str]
    evicted: int
    strongest: list[Evidence]
    examples: dict[str, list[str]]
    version: str


class Plan(msgspec.Struct, kw_only=True):
    """What to replay and where to put what comes of it. ``speed``: so many times as fast as it was recorded, None as fast as it goes.
    ``partitions``: over how many the work is laid out, as the distributed engine does it."""

    paths: list[Path]
    config: Config
    version: str
    source: str | None = None
    mapping: Mapping | None = None
    alerts: Path | None = None
    state: Path | None = None
    deadletter: Path | None = None
    limit: int | None = None
    batch_records: int = 4096
    speed: float | None = None
    partitions: int = 1


class Watcher:
    """What a caller wants to hear of a run while it goes on: override what matters."""

    def started(self, traces: list[Input]) -> None:
        """All logs are open."""

    def alert(self, alert: Alert) -> None:
        """A revision of an alert."""

    def tick(self, tally: Tally, traces: list[Input]) -> None:
        """A batch is done."""


class _Output:
    """The alert file: appended to, and cut back to the last checkpoint when a run is taken up again."""

    def __init__(self, path: Path | None, stack: ExitStack, progress: Progress) -> None:
        self.file: IO[bytes] | None = None
        self.key = "" if path is None else path.name
        if path is None:
            return
        keep = progress.alerts.get(self.key)
        self.file = stack.enter_context(path.open("r+b" if keep is not None and path.exists() else "wb"))
        if keep is not None:
            self.file.truncate(keep)
            self.file.seek(0, 2)

    def write(self, alert: Alert, version: str) -> None:
        if self.file is not None:
            self.file.write(ocsf.encode(alert, version))

    def length(self) -> int:
        if self.file is None:
            return 0
        self.file.flush()
        return self.file.tell()


def _no_overlap(plan: Plan, read: list[Path]) -> None:
    """Refuse to read a file twice, and to write over what is read or over another output. Raises TraceError."""
    seen: dict[Path, str] = {}
    for path in read:
        if path.resolve() in seen:
            raise TraceError(f"{path}: named twice")
        seen[path.resolve()] = "an input"
    for output, what in ((plan.alerts, "--alerts"), (plan.deadletter, "--deadletter"), (plan.state, "--state")):
        if output is None or (output.exists() and not output.is_file()):
            continue  # a device or a pipe may be named as often as one likes
        if output.resolve() in seen:
            raise TraceError(f"{output}: is {seen[output.resolve()]} already, so {what} may not write to it")
        seen[output.resolve()] = what


class _Keeper:
    """Keeps the state file of a run, where it has one."""

    def __init__(self, plan: Plan, cores: Cores | Spread, inputs: Inputs, stack: ExitStack) -> None:
        self.progress = Progress()
        self._store: Checkpoints | None = None
        self._saved = 0
        self._prints = inputs.prints
        if plan.state is not None:
            if isinstance(cores, Spread) or inputs.events is not None:
                what = "--partitions" if isinstance(cores, Spread) else "a trace of resolved events"
                raise StateError(f"{plan.state}: {what} keeps no state file; leave --state out")
            self._store = Checkpoints(plan.state, plan.config)
            self._cores = cores
            stack.callback(self._store.close)
            self.progress = self._store.restore(cores)
        self.places: list[Place] = places_of(self.progress, inputs.prints)

    def due(self, events: int) -> bool:
        """Whether so many events make a checkpoint due."""
        return self._store is not None and events - self._saved >= CHECKPOINT_EVENTS

    def save(self, events: int, output: _Output) -> None:
        """Write a checkpoint, if there is a file for it."""
        if self._store is None:
            return
        progress = self.progress
        progress.places |= {print_: (place.records, place.clock) for print_, place in zip(self._prints, self.places, strict=True)}
        progress.events += events - self._saved
        self._saved = events
        if output.file is not None:
            progress.alerts[output.key] = output.length()
        self._store.save(self._cores, progress)


def play(plan: Plan, responder: Responder, watcher: Watcher) -> Summary:
    """Replay the plan's traces. Raises TraceError, StateError or OSError before anything is scored."""
    _no_overlap(plan, [path for path in plan.paths if not path.is_dir()])
    names = Names()
    cores = Cores(plan.config) if plan.partitions == 1 else Spread(plan.config, plan.partitions)
    with ExitStack() as stack:
        records = plan.batch_records if plan.speed is None else min(plan.batch_records, PACED_RECORDS)
        inputs = open_inputs(plan.paths, plan.source, plan.mapping, names, records)
        _no_overlap(plan, inputs.files)
        keeper = _Keeper(plan, cores, inputs, stack)
        output = _Output(plan.alerts, stack, keeper.progress)
        letters = stack.enter_context(plan.deadletter.open("wb")) if plan.deadletter is not None else None

        def on_alert(alert: Alert) -> None:
            output.write(alert, plan.version)
            watcher.alert(alert)
            responder.handle(alert)

        pipeline = Pipeline(cores, names=names, on_alert=on_alert, on_reject=_letter(letters, inputs.shown))
        watcher.started(inputs.shown)
        stack.enter_context(quiet_collector())
        for tally in tallies(pipeline, inputs, keeper.places, plan.limit, plan.speed):
            responder.expire(tally.last)
            watcher.tick(tally, inputs.shown)
            if keeper.due(tally.events):
                keeper.save(tally.events, output)
        keeper.save(pipeline.tally.events, output)
        return _summary(plan, pipeline, cores, responder, inputs.shown)


def tallies(
    pipeline: Pipeline, inputs: Inputs, places: list[Place] | None = None, limit: int | None = None, speed: float | None = None
) -> Iterator[Tally]:
    """Run the inputs through a pipeline, at a pace if asked. Yields after every batch."""
    pace = None if speed is None else Pace(speed)
    if inputs.events is None:
        ahead = pipeline.cores.config.time.ahead_hours
        logs: list[Log] = list(inputs.logs if pace is None else [PacedLog(log, pace, ahead) for log in inputs.logs])
        yield from pipeline.run(logs, places, limit)
        return
    blocks = inputs.events.blocks()
    if pace is not None:
        blocks = pace.held(blocks)
    yield from pipeline.run_resolved(blocks, inputs.events.titles, limit)


def _letter(letters: IO[bytes] | None, traces: list[Input]) -> Callable[[str, Reject], None]:
    """Writes a dead letter: reason, source, path, record number, message."""
    sources = {trace.path: trace.source for trace in traces}

    def write(path: str, reject: Reject) -> None:
        if letters is not None:
            letter: dict[str, Any] = {
                "reason": reject.reason,
                "message": reject.message,
                "source": sources.get(path, ""),
                "path": path,
                "record": reject.record,
                "raw": reject.raw.decode("utf-8", "backslashreplace"),
            }
            letters.write(orjson.dumps(letter, option=orjson.OPT_APPEND_NEWLINE))

    return write


def _summary(plan: Plan, pipeline: Pipeline, cores: Cores | Spread, responder: Responder, traces: list[Input]) -> Summary:
    tally = pipeline.tally
    days = (tally.last - tally.first) / DAY
    return Summary(
        events=tally.events,
        identities=cores.identities,
        rejected=dict(sorted(tally.rejected.items())),
        skipped=dict(sorted(tally.skipped.items())),
        late=cores.late,
        alerts=tally.alerts,
        alerts_per_day=round(tally.alerts / max(days, 1.0), 3),
        actions=responder.counts(),
        days=round(days, 4),
        seconds=round(tally.seconds, 3),
        events_per_second=round(tally.events / tally.seconds, 1) if tally.seconds else 0.0,
        state_digest=cores.digest() if isinstance(cores, Spread) else digest(cores),
        sources={trace.path: trace.source for trace in traces},
        evicted=cores.evicted,
        strongest=cores.strongest,
        examples={
            reason: [f"{path}: record {reject.record}: {reject.message}" for path, reject in shown]
            for reason, shown in sorted(tally.examples.items())
        },
        version=plan.version,
    )
