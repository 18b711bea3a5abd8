"""The boiling frog: a known benign edge grows a little every day. How large is it when the first alert on it opens?

What is injected are copies of the edge's own rows, spread over the day as its rows of the days before are: only the volume grows.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass

import numpy as np

from benchmarks.datasets import BENIGN, DataSet
from benchmarks.ours import run
from benchmarks.verdicts import DAY
from connectors.alert import Alert, Evidence
from connectors.event import Block
from detector.config import Config

#: Chosen once, by volume alone: of the edges of June with rows on at least ten of its first fourteen days and a median of 20 to 400 on
#: those, four from the quiet to the busiest that share no end. The last bursts by itself: five of its benign days reach six times that.
EDGES = (
    ("ip:135.13.216.191", "ip:172.16.112.50"),
    ("ip:197.218.177.69", "ip:172.16.114.148"),
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
    """The first time a line tells of the edge: on which day of the growth, at how many times the usual volume, whether an alert opened
    or one that was open on an end of it took the edge in, and what was said. ``day`` 0: never."""

    line: str
    day: int = 0
    multiple: float = 0.0
    how: str = ""
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


def on_edge(revisions: list[Alert], edge: tuple[str, str], begin: int) -> list[tuple[Alert, Evidence]]:
    """Revisions that blame an end of the edge and hold evidence on it, from ``begin`` on, strong enough to open the alert by itself;
    each with the latest such evidence, in order of time."""
    found = []
    for alert in revisions:
        own = [
            each for each in alert.evidence if (each.actor, each.object) == edge and each.time >= begin and each.score > alert.threshold
        ]
        if alert.blamed in edge and own:
            found.append((alert, max(own, key=lambda each: each.time)))
    return sorted(found, key=lambda each: each[0].time)


def catch(line: str, revisions: list[Alert], edge: tuple[str, str], growth: float, begin: int) -> Catch:
    """What a line caught."""
    found = on_edge([alert for alert in revisions if alert.line == line], edge, begin)
    if not found:
        return Catch(line)
    alert, piece = found[0]
    day = int(alert.time - begin) // DAY + 1
    said = f"{piece.reasons[0].signal}: {piece.reasons[0].text}" if piece.reasons else ""
    return Catch(line, day, round(growth**day, 2), "opened" if alert.activity == "open" else "joined", said)


def frog(data: DataSet, config: Config, per_day: float) -> list[dict[str, object]]:
    """The experiment over all edges and growths; growth 1 is the control: what is said of the edge as it is."""
    begin = begins(data)
    control = run(data, config, per_day)
    out: list[dict[str, object]] = []
    for edge in EDGES:
        volume = usual(data, edge)
        if volume == 0.0:
            continue
        for growth in (1.0, *GROWTHS):
            found = control if growth == 1.0 else run(grown(data, edge, growth), config, per_day)
            of_edge = {"edge": " -> ".join(edge), "rows_a_day": volume, "growth": growth}
            out += [of_edge | asdict(catch(line, found.revisions, edge, growth, begin)) for line in ("main", "slow")]
    return out
