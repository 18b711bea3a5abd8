"""The arithmetic of ``benchmarks.kafka``: what a process has used and done, delays of markers, and how figures stand to their aims."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

#: What a process does first is compiling and loading: so large a part of its work is not measured.
WARM = 0.2


class Sample(NamedTuple):
    """A process at a moment: seconds on the wall, seconds of processor it has used, and how much it has done, all since it began."""

    wall: float
    cpu: float
    done: int


class Rate(NamedTuple):
    """What was done in a window, and what it took: ``cpu`` seconds of processor, from ``began`` to ``ended`` on the wall."""

    done: int
    cpu: float
    began: float
    ended: float

    @property
    def per_core(self) -> float:
        """What one core that does nothing else would do in a second."""
        return self.done / self.cpu if self.cpu > 0 else math.nan

    @property
    def per_second(self) -> float:
        """What was done in a second on the wall."""
        return self.done / (self.ended - self.began)


def rate(samples: Sequence[Sample], warm: float = WARM) -> Rate:
    """The work after the first ``warm`` of it, until the last was done.

    Raises ValueError where there is nothing to measure between the two.
    """
    last = samples[-1].done if samples else 0
    begin = next((each for each in samples if each.done >= warm * last), None)
    end = next((each for each in samples if each.done == last), None)
    if begin is None or end is None or end.done <= begin.done:
        raise ValueError("too little work to measure: it was done between two samples")
    return Rate(end.done - begin.done, end.cpu - begin.cpu, begin.wall, end.wall)


def quantile(values: Sequence[float], share: float) -> float:
    """The least value that at least ``share`` of all do not exceed; NaN of none.

    >>> quantile([4, 1, 3, 2], 0.5), quantile(range(1, 101), 0.99)
    (2, 99)
    """
    ordered = sorted(values)
    return ordered[max(math.ceil(share * len(ordered)) - 1, 0)] if ordered else math.nan


def delays(sent: Mapping[int, float], seen: Mapping[int, float], since: float) -> list[float]:
    """Seconds from the sending to the receipt of each marker that was sent from then on and was seen."""
    return [seen[number] - at for number, at in sent.items() if since <= at and number in seen]


def summary(delays_: Sequence[float]) -> dict[str, Any]:
    """Delays for people: in ms, and how many they are."""
    return {
        "p50_ms": round(quantile(delays_, 0.5) * 1000, 1),
        "p99_ms": round(quantile(delays_, 0.99) * 1000, 1),
        "worst_ms": round(max(delays_, default=math.nan) * 1000, 1),
        "seen": len(delays_),
    }


def cpu_of(stat: str, ticks: int) -> float:
    """Seconds of processor in the text of ``/proc/<pid>/stat``. The name in it may hold anything, so it is passed over from behind."""
    fields = stat.rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / ticks


def cpu(pid: int) -> float:
    """Seconds of processor that a process has used, all threads."""
    return cpu_of(Path(f"/proc/{pid}/stat").read_text(), os.sysconf("SC_CLK_TCK"))


class Machine(NamedTuple):
    """Seconds of processor that everything on this machine has used, and seconds that there were, over all cores."""

    busy: float
    there: float

    @staticmethod
    def now() -> Machine:
        """As of now."""
        return Machine.of(Path("/proc/stat").read_text(), os.sysconf("SC_CLK_TCK"))

    @staticmethod
    def of(text: str, ticks: int) -> Machine:
        """From the text of ``/proc/stat``: user, nice, system, idle, iowait, irq, softirq, steal; guests are counted in the first."""
        fields = [int(field) / ticks for field in text.split("\n", 1)[0].split()[1:9]]
        return Machine(sum(fields) - fields[3] - fields[4], sum(fields))

    def others(self, before: Machine, own: float) -> float:
        """The share of all cores since ``before`` that went to others than us, who have used ``own`` seconds."""
        passed = self.there - before.there
        return max(self.busy - before.busy - own, 0.0) / passed if passed > 0 else math.nan


#: Aims of issue 5: the figure's path -> (whether it is to be at least or at most that, the number).
AIMS: dict[str, tuple[str, float]] = {
    "ingest.ratio_to_getmany_per_core": (">=", 0.5),
    "visits.actor_ratio_to_faust_agent": (">=", 40.0),
    "visits.object_ratio_to_faust_agent": (">=", 40.0),
    "latency.ratio_to_relay_p50": ("<=", 1.5),
    "latency.ratio_to_relay_p99": ("<=", 1.5),
    "latency.alerts.p50_ms": ("<=", 25.0),
    "latency.alerts.p99_ms": ("<=", 75.0),
    "burst.during_and_after.p99_ms": ("<=", 2_000.0),
    "burst.lost_or_doubled": ("<=", 0.0),
    "workers.ratio_two_to_one": (">=", 1.8),
    "recovery.identities_per_second": (">=", 100_000.0),
    "checkpoints.sigterm_seconds": ("<=", 10.0),
    "checkpoints.ratio_p99_with_to_without": ("<=", 1.25),
}


def lines(figures: Mapping[str, Any], before: str = "") -> Iterator[str]:
    """Figures as lines for people, those with an aim with it and whether it is met."""
    for name, value in figures.items():
        path = before + name
        if isinstance(value, dict):
            yield from lines(value, f"{path}.")
            continue
        text = f"{path:52} {value:,}" if isinstance(value, int) and not isinstance(value, bool) else f"{path:52} {value}"
        if path in AIMS:
            way, aim = AIMS[path]
            text += f"   aim {way} {aim:g}: {'met' if met(path, value) else 'NOT met'}"
        yield text


def met(path: str, value: float) -> bool:
    """Whether a figure is as its aim wants it. Nothing is as good as what was not measured."""
    way, aim = AIMS[path]
    return value >= aim if way == ">=" else value <= aim
