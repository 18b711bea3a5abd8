"""Replaying recorded traces through the embedded detector, and what came of it in one summary."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
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
from connectors.trace import Trace, TraceError, open_trace
from detector.checkpoint import Checkpoints, Progress, digest, places_of
from detector.config import Config
from detector.pipeline import Cores, Log, Pipeline, Tally, quiet_collector
from detector.respond import Responder

#: Events between two checkpoints of a run with a state file.
CHECKPOINT_EVENTS = 2_000_000
#: Bytes of a log that tell it from others, so that a state knows how far it was read.
FINGERPRINT_BYTES = 4096


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
    """What to replay and where to put what comes of it."""

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


class Watcher:
    """What a caller wants to hear of a run while it goes on: override what matters."""

    def started(self, traces: list[Trace]) -> None:
        """All logs are open."""

    def alert(self, alert: Alert) -> None:
        """A revision of an alert."""

    def tick(self, tally: Tally, traces: list[Trace]) -> None:
        """A batch is done."""


def fingerprint(path: Path) -> str:
    """What a log begins with, as a hash: the same log grown longer, or under another name, keeps it."""
    with path.open("rb") as file:
        return hashlib.blake2b(file.read(FINGERPRINT_BYTES), digest_size=16).hexdigest()


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


def _no_overlap(plan: Plan) -> None:
    """Refuse to read a file twice, and to write over what is read or over another output. Raises TraceError."""
    seen: dict[Path, str] = {}
    for path in plan.paths:
        if path.resolve() in seen:
            raise TraceError(f"{path}: named twice")
        seen[path.resolve()] = "an input"
    for output, what in ((plan.alerts, "--alerts"), (plan.deadletter, "--deadletter"), (plan.state, "--state")):
        if output is None or (output.exists() and not output.is_file()):
            continue  # a device or a pipe may be named as often as one likes
        if output.resolve() in seen:
            raise TraceError(f"{output}: is {seen[output.resolve()]} already, so {what} may not write to it")
        seen[output.resolve()] = what


def play(plan: Plan, responder: Responder, watcher: Watcher) -> Summary:
    """Replay the plan's traces. Raises TraceError, StateError or OSError before anything is scored."""
    _no_overlap(plan)
    names = Names()
    cores = Cores(plan.config)
    with ExitStack() as stack:
        traces = [open_trace(path, plan.source, plan.mapping, names, plan.batch_records) for path in plan.paths]
        progress = Progress()
        store = None
        if plan.state is not None:
            store = Checkpoints(plan.state, plan.config)
            stack.callback(store.close)
            progress = store.restore(cores)
        output = _Output(plan.alerts, stack, progress)
        letters = stack.enter_context(plan.deadletter.open("wb")) if plan.deadletter is not None else None
        prints = [fingerprint(path) for path in plan.paths]
        places = places_of(progress, prints)

        def on_alert(alert: Alert) -> None:
            output.write(alert, plan.version)
            watcher.alert(alert)
            responder.handle(alert)

        pipeline = Pipeline(cores, names=names, on_alert=on_alert, on_reject=_letter(letters, traces))

        def save() -> None:
            if store is not None:
                progress.places |= {print_: (place.records, place.clock) for print_, place in zip(prints, places, strict=True)}
                progress.events += pipeline.tally.events - saved[0]
                saved[0] = pipeline.tally.events
                if output.file is not None:
                    progress.alerts[output.key] = output.length()
                store.save(cores, progress)

        saved = [0]
        watcher.started(traces)
        stack.enter_context(quiet_collector())
        logs: list[Log] = list(traces)
        for tally in pipeline.run(logs, places, plan.limit):
            responder.expire(tally.last)
            watcher.tick(tally, traces)
            if tally.events - saved[0] >= CHECKPOINT_EVENTS:
                save()
        save()
        return _summary(plan, pipeline, cores, responder, traces)


def _letter(letters: IO[bytes] | None, traces: list[Trace]) -> Callable[[str, Reject], None]:
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


def _summary(plan: Plan, pipeline: Pipeline, cores: Cores, responder: Responder, traces: list[Trace]) -> Summary:
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
        state_digest=digest(cores),
        sources={trace.path: trace.source for trace in traces},
        evicted=cores.actors.evicted + cores.objects.evicted,
        strongest=cores.fusion.strongest,
        examples={
            reason: [f"{path}: record {reject.record}: {reject.message}" for path, reject in shown]
            for reason, shown in sorted(tally.examples.items())
        },
        version=plan.version,
    )
