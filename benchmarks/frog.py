"""The boiling frog: a known benign edge grows a little every day. How large is it when the first alert on it opens?

What is injected are copies of the edge's own rows, spread over the day as its rows of the days before are: only the volume grows.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass

import numpy as np

from benchmarks.datasets import BENIGN, DataSet
from benchmarks.ours import peak, run
from benchmarks.verdicts import DAY
from connectors.alert import Alert
from connectors.event import Block
from detector.config import Config

#: Chosen once, by volume alone: of the edges of June with rows on at least ten of its first fourteen days and a median of 20 to 400 on
#: those, four from the quiet to the busiest, of which two are steady (at most twice their median) and two burst (3 and 6 times).
EDGES = (
    ("ip:172.16.112.20", "ip:135.13.216.191"),
    ("ip:172.16.112.20", "ip:192.168.1.20"),
    ("ip:192.168.1.1", "ip:192.168.1.5"),
    ("ip:172.16.112.20", "ip:192.168.1.10"),
)
GROWTHS = (1.3, 1.6)
#: Days before the growth begins, and days that it lasts.
BEFORE, LASTING = 14, 14
#: Rows move by up to so many minutes, so that copies do not fall on the very minutes of the originals.
JITTER = 30
MINUTE = 60_000_000
SEED = 1


@dataclass(frozen=True)
class Catch:
    """The first alert of a line that opens on the edge: on which day of the growth, at how many times the usual volume, and what the
    detector said. ``day`` 0: never."""

    line: str
    day: int = 0
    multiple: float = 0.0
    said: str = ""


def rows_of(data: DataSet, edge: tuple[str, str]) -> np.ndarray:
    """Rows of an edge, none where the set does not know it."""
    codes = [data.block.names.find(end) for end in edge]
    if None in codes:
        return np.zeros(0, np.int64)
    return np.flatnonzero((data.block.actor == codes[0]) & (data.block.object == codes[1]))


def begins(data: DataSet) -> int:
    """Midnight before the first day of growth."""
    return (int(data.block.time[0]) // DAY + BEFORE) * DAY


def usual(data: DataSet, edge: tuple[str, str]) -> float:
    """Median rows of a day on which the edge was active, before the growth."""
    time = data.block.time[rows_of(data, edge)]
    days = np.unique(time[time < begins(data)] // DAY, return_counts=True)[1]
    return float(np.median(days)) if len(days) else 0.0


def grown(data: DataSet, edge: tuple[str, str], growth: float) -> DataSet:
    """The set with the edge's growth in it: on day k of it ``usual * (growth ** k - 1)`` rows more."""
    draw = np.random.default_rng(SEED)
    begin = begins(data)
    own = rows_of(data, edge)
    own = own[data.block.time[own] < begin]
    extra, times = [np.arange(len(data))], [data.block.time]
    for day in range(1, LASTING + 1):
        many = round(usual(data, edge) * (growth**day - 1.0))
        chosen = draw.choice(own, many)
        minute = (data.block.time[chosen] % DAY) // MINUTE + draw.integers(-JITTER, JITTER + 1, many)
        extra.append(chosen)
        times.append(begin + (day - 1) * DAY + minute % 1440 * MINUTE)
    block: Block = data.block.take(np.concatenate(extra))
    block.time = np.concatenate(times)
    block = block.take(np.argsort(block.time, kind="stable"))
    block.record = np.arange(len(block))
    return DataSet(data.name, block, (), np.full(len(block), BENIGN, np.int32))


def on_edge(alerts: list[Alert], edge: tuple[str, str], begin: int) -> list[Alert]:
    """Alerts from ``begin`` on that blame an end of the edge and opened on it, the first first."""
    found = [each for each in alerts if each.time >= begin and each.blamed in edge]
    return sorted((each for each in found if (peak(each).actor, peak(each).object) == edge), key=lambda each: each.time)


def catches(alerts: dict[str, list[Alert]], edge: tuple[str, str], growth: float, begin: int) -> list[Catch]:
    """What each line caught."""
    out = []
    for line, of_line in alerts.items():
        found = on_edge(of_line, edge, begin)
        if not found:
            out.append(Catch(line))
            continue
        day = int(found[0].time - begin) // DAY + 1
        reasons = peak(found[0]).reasons
        out.append(Catch(line, day, round(growth**day, 2), f"{reasons[0].signal}: {reasons[0].text}" if reasons else ""))
    return out


def frog(data: DataSet, config: Config, per_day: float) -> list[dict[str, object]]:
    """The experiment over all edges and growths; growth 1 is the control, on which no alert is expected."""
    begin = begins(data)
    control = run(data, config, per_day)
    out: list[dict[str, object]] = []
    for edge in EDGES:
        volume = usual(data, edge)
        if volume == 0.0:
            continue
        for growth in (1.0, *GROWTHS):
            pass_ = control if growth == 1.0 else run(grown(data, edge, growth), config, per_day)
            lines = {line: pass_.of_line(line) for line in ("main", "slow")}
            of_edge = {"edge": " -> ".join(edge), "rows_a_day": volume, "growth": growth}
            out += [of_edge | asdict(caught) for caught in catches(lines, edge, growth, begin)]
    return out
