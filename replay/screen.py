"""What a run shows: progress on a terminal, quiet lines when piped, alerts as they come, a summary at the end."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from types import TracebackType
from typing import IO

import msgspec
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TaskProgressColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from connectors import ocsf
from connectors.alert import Alert
from detector.pipeline import Tally
from replay.explain import headline
from replay.inputs import Input
from replay.play import Summary, Watcher

#: Seconds between two progress lines where there is no terminal.
QUIET_SECONDS = 10.0
#: Longest line of an alert where there is no terminal to ask.
WIDTH = 160
#: Alerts that are shown one by one; after these only the count goes on.
SHOWN = 40


def printable(text: str) -> str:
    """Text with nothing in it that a terminal would obey."""
    return "".join(character if character.isprintable() else f"\\u{ord(character):04x}" for character in text)


def last_alerts() -> Path:
    """Where the alerts of the last run are kept for ``explain``."""
    base = os.environ.get("XDG_STATE_HOME")
    return (Path(base) if base else Path.home() / ".local" / "state") / "tocsin" / "last-alerts.jsonl"


class Screen(Watcher):
    """Shows a run on standard error; keeps its alerts for ``explain``; writes findings to standard output if asked."""

    def __init__(self, version: str, *, to_stdout: bool = False, quiet: bool = False, title: str = "replaying") -> None:
        self.version = version
        self.title = title
        self.to_stdout = to_stdout
        self.quiet = quiet
        self.console = Console(stderr=True, highlight=False, markup=False, soft_wrap=True)
        #: Openings shown so far; a caller may want them once more at the end.
        self.opened: list[Alert] = []
        self._progress: Progress | None = None
        self._task: TaskID | None = None
        self._told = time.monotonic()
        self._last: IO[bytes] | None = None

    def __enter__(self) -> Screen:
        path = last_alerts()
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._last = path.open("wb")
        except OSError:
            self._last = None  # a read-only home: `explain` then wants --alerts
        if self.console.is_terminal and not self.quiet:
            self._progress = Progress(
                TextColumn("{task.description}"),
                BarColumn(),
                TaskProgressColumn(),
                TextColumn("{task.fields[rate]}"),
                TimeElapsedColumn(),
                TimeRemainingColumn(),
                console=self.console,
            )
            self._progress.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._progress is not None:
            self._progress.stop()
        if self._last is not None:
            self._last.close()

    def say(self, text: str) -> None:
        """A line for people."""
        if not self.quiet:
            self.console.print(printable(text))

    def started(self, traces: list[Input]) -> None:
        """Say what every file was taken for."""
        for trace in traces:
            self.say(f"{trace.path}: read as {trace.source}")
        if self._progress is not None:
            self._task = self._progress.add_task(self.title, total=max(sum(t.total_bytes for t in traces), 1), rate="")

    def alert(self, alert: Alert) -> None:
        """Keep it, and show its opening and its closing."""
        line = ocsf.encode(alert, self.version)
        if self._last is not None:
            self._last.write(line)
        if self.to_stdout:
            sys.stdout.buffer.write(line)
        if alert.activity == "open":
            self.opened.append(alert)
            if len(self.opened) <= SHOWN:
                self.say(headline(alert, WIDTH))
            elif len(self.opened) == SHOWN + 1:
                self.say("more alerts follow; they are counted, and written where --alerts says")

    def tick(self, tally: Tally, traces: list[Input]) -> None:
        """Move the bar, or say a line now and then."""
        rate = f"{tally.events / tally.seconds:,.0f} events/s, {tally.alerts} alerts" if tally.seconds else ""
        if self._progress is not None and self._task is not None:
            self._progress.update(self._task, completed=sum(trace.bytes_read for trace in traces), rate=rate)
        elif time.monotonic() - self._told > QUIET_SECONDS:
            self._told = time.monotonic()
            self.say(f"{self.title}: {tally.events:,} events, {rate}")


def close(summary: Summary, *, json_: bool, to_stdout: bool) -> None:
    """The summary: for people, or as one JSON object on the last line of standard output."""
    if json_:
        sys.stdout.buffer.write(msgspec.json.encode(summary) + b"\n")
        sys.stdout.flush()
        return
    page(lines(summary), stderr=to_stdout)


def page(text: list[str], *, stderr: bool = False) -> None:
    """Print lines for people."""
    out = Console(stderr=stderr, highlight=False, markup=False, soft_wrap=True)
    for line in text:
        out.print(printable(line))


def lines(summary: Summary) -> list[str]:
    """The summary for people, line by line."""
    rejected = sum(summary.rejected.values())
    text = [
        "",
        f"events      {summary.events:,} over {summary.days:.2f} days, {summary.events_per_second:,.0f} a second",
        f"identities  {summary.identities:,}" + (f" ({summary.evicted:,} profiles forgotten at a limit)" if summary.evicted else ""),
        f"rejected    {rejected:,}",
        *(f"              {many:,} {reason}" for reason, many in summary.rejected.items()),
    ]
    text += [f"              e.g. {shown[0]}" for shown in summary.examples.values() if shown]
    if summary.skipped:
        text.append("skipped     " + ", ".join(f"{many:,} {kind}" for kind, many in summary.skipped.items()) + " (other record types)")
    text += [
        f"late        {summary.late:,} (scored, not learned)",
        f"alerts      {summary.alerts}, {summary.alerts_per_day:.2f} a day",
        "actions     " + (", ".join(f"{many} {outcome}" for outcome, many in summary.actions.items() if many) or "none"),
        f"state       {summary.state_digest}",
    ]
    if summary.strongest and not summary.alerts:
        best = summary.strongest[0]
        text.append(f"strongest   {best.actor} {best.action} {best.object}: {best.reasons[0].text if best.reasons else ''}")
    if summary.alerts:
        text.append("            tocsin explain ALERT-ID says why")
    return text
