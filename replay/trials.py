"""Trials: the detector over a trace with one configuration each, several at once in processes of their own.

A trial keeps what its alerts come to, not the alerts: memory is that of one detector and some hundred bytes an alert. Every trial has a
process to itself, so that the memory it says it took is its own.
"""

from __future__ import annotations

import multiprocessing
import os
import resource
import signal
import sys
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import msgspec

from connectors.alert import Alert
from connectors.event import DAY
from connectors.names import Names
from connectors.sources.table import Mapping
from connectors.trace import TraceError
from detector.config import parse
from detector.pipeline import Cores, Pipeline, Tally, quiet_collector
from replay.explain import headline
from replay.inputs import Inputs, open_inputs
from replay.play import tallies
from replay.spread import Spread
from replay.variants import Variant

#: Records decoded at a time, as in ``replay``.
BATCH_RECORDS = 4096
#: Cases that a trial keeps. A configuration that opens more is no use to anyone, and they are counted all the same.
MOST_CASES = 50_000
#: Memory that one trial may need: 0.5 GB were measured on 4.2 million events of a simulated week, three times that for larger sites.
TRIAL_BYTES = 1_500_000_000
#: Seconds between two looks at how far the trials are.
LOOK_SECONDS = 0.2


class Case(msgspec.Struct, kw_only=True):
    """What one alert came to. Times in microseconds UTC. ``told``: when it opened and when it said something new. ``named``: identity
    -> when it first named it. ``records``: (log, record number, when it first showed it) of its evidence."""

    uid: str
    line: str
    notice: bool
    blamed: str
    role: str
    named: dict[str, int]
    opened: int
    first: int
    last: int
    told: list[int]
    severity: int
    score: float
    threshold: float
    signals: list[str]
    headline: str
    records: list[tuple[str, int, int]]


class Trial(msgspec.Struct, kw_only=True):
    """What a pass with one configuration gave. ``alerts``: on behaviour; ``notices``: those of the detector on itself, which no budget
    bounds. ``dropped``: alerts beyond ``MOST_CASES``, which are counted and not kept. ``peak_bytes``: the most memory its process
    held."""

    name: str
    events: int
    days: float
    first: int
    last: int
    alerts: int
    alerts_per_day: float
    cases: list[Case]
    seconds: float
    peak_bytes: int
    dropped: int = 0
    notices: int = 0


class Subject(msgspec.Struct, kw_only=True):
    """What all trials read."""

    paths: list[str]
    source: str | None = None
    mapping: Mapping | None = None
    limit: int | None = None
    partitions: int = 1

    def open(self, names: Names, *, verified: bool) -> Inputs:
        """Open the inputs. Raises TraceError."""
        return open_inputs([Path(each) for each in self.paths], self.source, self.mapping, names, BATCH_RECORDS, verified=verified)


class Cases:
    """Collects the revisions of alerts as cases, in order of opening; ``dropped`` counts the alerts that found no room, ``opened``
    those on behaviour, ``notices`` those of the detector on itself."""

    def __init__(self) -> None:
        self.held: dict[str, Case] = {}
        self.dropped = self.opened = self.notices = 0
        self._shown: dict[str, set[tuple[str, int]]] = {}

    def add(self, alert: Alert) -> None:
        """Take a revision in."""
        if alert.activity == "open":
            self.opened += not alert.notice
            self.notices += bool(alert.notice)
        case = self.held.get(alert.uid)
        if case is None:
            if len(self.held) >= MOST_CASES:
                self.dropped += alert.activity == "open"
                return
            case = self.held[alert.uid] = Case(
                uid=alert.uid,
                line=alert.line,
                notice=bool(alert.notice),
                blamed=alert.blamed,
                role=alert.role,
                named={},
                opened=alert.opened,
                first=alert.first,
                last=alert.last,
                told=[],
                severity=alert.severity,
                score=alert.score,
                threshold=alert.threshold,
                signals=[],
                headline=headline(alert),
                records=[],
            )
        case.last = alert.last
        case.severity = alert.severity
        case.signals = list(alert.signals)
        if alert.activity == "close":
            self._shown.pop(alert.uid, None)
            return
        case.told.append(alert.time)
        for identity in (alert.blamed, *alert.principals, *alert.targets):
            case.named.setdefault(identity, alert.time)
        shown = self._shown.setdefault(alert.uid, set())
        fresh = [(piece.partition, piece.offset) for piece in alert.evidence if (piece.partition, piece.offset) not in shown]
        shown.update(fresh)
        case.records += [(log, record, alert.time) for log, record in dict.fromkeys(fresh)]


def run(subject: Subject, variant: Variant, share: Callable[[float], None] = lambda _: None, *, verified: bool = True) -> Trial:
    """One pass. ``share`` is told how much of the trace is done. Raises TraceError."""
    config = parse(variant.text)
    names, cases = Names(), Cases()
    inputs = subject.open(names, verified=verified)
    cores = Cores(config) if subject.partitions == 1 else Spread(config, subject.partitions)
    pipeline = Pipeline(cores, names=names, on_alert=cases.add)
    whole = max(sum(each.total_bytes for each in inputs.shown), 1)
    tally = Tally()
    with quiet_collector():
        for tally in tallies(pipeline, inputs, limit=subject.limit):  # noqa: B007  the last one is what came of it
            share(sum(each.bytes_read for each in inputs.shown) / whole)
    return trial(variant.name, tally, cases)


def trial(name: str, tally: Tally, cases: Cases) -> Trial:
    """What a pass gave that has come to its end."""
    days = (tally.last - tally.first) / DAY
    return Trial(
        name=name,
        events=tally.events,
        days=days,
        first=tally.first,
        last=tally.last,
        alerts=cases.opened,
        alerts_per_day=cases.opened / max(days, 1.0),
        cases=list(cases.held.values()),
        seconds=tally.seconds,
        peak_bytes=peak_bytes(),
        dropped=cases.dropped,
        notices=cases.notices,
    )


def peak_bytes() -> int:
    """The most memory that this process ever held since its program began."""
    try:
        # What getrusage says is inherited from the process that started this one.
        status = Path("/proc/self/status").read_text(encoding="ascii", errors="replace")
        return next(int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("VmHWM:"))
    except (OSError, StopIteration):
        pass
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def workers(wanted: int | None, trials: int) -> int:
    """How many trials to run at once: no more than processors, and than half the memory holds."""
    if wanted is not None:
        return max(min(wanted, trials), 1)
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2
    return max(min(os.cpu_count() or 1, trials, memory // TRIAL_BYTES), 1)


def run_all(
    subject: Subject, variants: Sequence[Variant], jobs: int, progress: Callable[[list[float]], None] = lambda _: None
) -> list[Trial]:
    """All trials, in the order of ``variants``, ``jobs`` at a time, each in a process of its own. ``progress`` hears the share done of
    each. The caller has verified the inputs. Raises TraceError."""
    subject.open(Names(), verified=True)
    # A fresh interpreter for each: a fork would copy locks and threads of the libraries in whatever state they are.
    context = multiprocessing.get_context("spawn")
    board: Any = context.RawArray("d", max(len(variants), 1))
    found: dict[int, Trial] = {}
    running: dict[Connection, tuple[int, BaseProcess]] = {}
    try:
        for i, variant in enumerate(variants):
            if len(running) >= jobs:
                _gathered(running, found, board, progress)
            ours, theirs = context.Pipe(duplex=False)
            process: BaseProcess = context.Process(target=_worked, args=(subject, variant, board, i, theirs), daemon=True)
            process.start()
            # Held here as well, the pipe would not end with the process.
            theirs.close()
            running[ours] = (i, process)
        while running:
            _gathered(running, found, board, progress)
        progress(list(board))
    finally:
        for pipe, (_, process) in running.items():
            process.terminate()
            process.join()
            pipe.close()
    return [found[i] for i, _ in enumerate(variants)]


def _gathered(
    running: dict[Connection, tuple[int, BaseProcess]], found: dict[int, Trial], board: Any, progress: Callable[[list[float]], None]
) -> None:
    """Wait until at least one trial is done and take in all that are. Raises what a trial raised; TraceError where one just ended."""
    while not (done := wait(list(running), LOOK_SECONDS)):
        progress(list(board))
    for pipe in [each for each in running if each in done]:
        i, process = running[pipe]
        try:
            result = pipe.recv()
        except EOFError:
            raise TraceError("a trial's process ended, most likely for want of memory: try --jobs 1") from None
        if isinstance(result, BaseException):
            raise result
        found[i] = result
        del running[pipe]
        pipe.close()
        process.join()


def _worked(subject: Subject, variant: Variant, board: Any, place: int, pipe: Connection) -> None:
    """One trial in a process of its own; the pipe is given the trial, or what was raised."""
    # Who interrupts us interrupts the process that started us as well, and that one ends us.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = os.getppid()

    def share(done: float) -> None:
        if os.getppid() != parent:
            os._exit(1)  # nobody is left to hear of it
        board[place] = done

    result: Trial | Exception
    try:
        result = run(subject, variant, share)
    except Exception as error:
        result = error  # it is raised where it is received
    pipe.send(result)
