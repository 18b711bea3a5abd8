"""Trials: the detector over a trace with one configuration each, several at once in processes of their own.

A trial keeps what its alerts come to, not the alerts: memory is that of one detector and some hundred bytes an alert.
"""

from __future__ import annotations

import multiprocessing
import os
import resource
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
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
    """What one alert came to. Times in microseconds UTC. ``told``: when it opened and when it said something new. ``records``: (log,
    record number) of the evidence it opened with."""

    uid: str
    line: str
    notice: bool
    blamed: str
    role: str
    named: list[str]
    opened: int
    first: int
    last: int
    told: list[int]
    severity: int
    score: float
    threshold: float
    signals: list[str]
    headline: str
    records: list[tuple[str, int]]


class Trial(msgspec.Struct, kw_only=True):
    """What a pass with one configuration gave. ``peak_bytes``: the most memory its process held."""

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
    """Collects the revisions of alerts as cases, in order of opening."""

    def __init__(self) -> None:
        self.held: dict[str, Case] = {}

    def add(self, alert: Alert) -> None:
        """Take a revision in."""
        case = self.held.get(alert.uid)
        if case is None:
            if len(self.held) >= MOST_CASES:
                return
            case = self.held[alert.uid] = Case(
                uid=alert.uid,
                line=alert.line,
                notice=bool(alert.notice),
                blamed=alert.blamed,
                role=alert.role,
                named=[],
                opened=alert.opened,
                first=alert.first,
                last=alert.last,
                told=[],
                severity=alert.severity,
                score=alert.score,
                threshold=alert.threshold,
                signals=[],
                headline=headline(alert),
                records=[(piece.partition, piece.offset) for piece in alert.evidence],
            )
        if alert.activity != "close":
            case.told.append(alert.time)
        case.named = sorted({alert.blamed, *alert.principals, *alert.targets})
        case.last = alert.last
        case.severity = alert.severity
        case.signals = list(alert.signals)


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
    days = (tally.last - tally.first) / DAY
    return Trial(
        name=variant.name,
        events=tally.events,
        days=days,
        first=tally.first,
        last=tally.last,
        alerts=tally.alerts,
        alerts_per_day=tally.alerts / max(days, 1.0),
        cases=list(cases.held.values()),
        seconds=tally.seconds,
        peak_bytes=peak_bytes(),
    )


def peak_bytes() -> int:
    """The most memory that this process ever held."""
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
    """All trials, in the order of ``variants``. ``progress`` hears the share done of each. Raises TraceError."""
    subject.open(Names(), verified=False)
    shares = [0.0] * len(variants)
    if jobs == 1:
        found = []
        for i, variant in enumerate(variants):

            def share(done: float, i: int = i) -> None:
                shares[i] = done
                progress(shares)

            found.append(run(subject, variant, share))
        return found
    # A fresh interpreter for each worker: a fork would copy locks and threads of the libraries in whatever state they are.
    context = multiprocessing.get_context("spawn")
    board = context.Array("d", len(variants))
    pool = ProcessPoolExecutor(jobs, mp_context=context, initializer=_seated, initargs=(board,))
    try:
        futures = [pool.submit(_worked, subject, variant, i) for i, variant in enumerate(variants)]
        return _awaited(futures, board, progress)
    except BrokenProcessPool:
        raise TraceError("a trial's process ended, most likely for want of memory: try --jobs 1") from None
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
        for process in multiprocessing.active_children():
            process.terminate()


def _awaited(futures: list[Future[Trial]], board: Any, progress: Callable[[list[float]], None]) -> list[Trial]:
    pending = set(futures)
    while pending:
        done, pending = wait(pending, LOOK_SECONDS)
        progress(list(board))
        for each in done:
            each.result()
    return [each.result() for each in futures]


#: The board on which a worker writes how far it is.
_board: Any = None


def _seated(board: Any) -> None:
    # A worker process is given it once, when it begins.
    global _board
    _board = board


def _worked(subject: Subject, variant: Variant, place: int) -> Trial:
    def share(done: float) -> None:
        _board[place] = done

    return run(subject, variant, share)
