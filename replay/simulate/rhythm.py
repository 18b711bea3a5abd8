"""When things happen: times of day by rhythm, office hours with a lunch, and steady beats. Times are int64 microseconds UTC."""

from __future__ import annotations

import numpy as np

from connectors.event import DAY, HOUR, MINUTE

Times = np.ndarray

#: Demand by hour of the day in UTC, 1 at its peak: the working hours of all sites on top of each other.
DAYTIME = np.array(
    [0.25, 0.2, 0.15, 0.15, 0.25, 0.35, 0.5, 0.7, 0.9, 1.0, 1.0, 0.95, 0.85, 0.95, 1.0, 1.0, 0.95, 0.85, 0.7, 0.6, 0.5, 0.45, 0.4, 0.3]
)
#: What is left of the demand on a Saturday or Sunday.
WEEKEND = 0.35


def is_weekend(time: int) -> bool:
    """Whether a time falls on a Saturday or Sunday (1970-01-01 was a Thursday)."""
    return (time // DAY + 3) % 7 >= 5


def poisson(rng: np.random.Generator, begin: int, end: int, per_hour: float) -> Times:
    """Times in order in [begin, end) of a steady Poisson stream."""
    if end <= begin:
        return np.zeros(0, np.int64)
    count = rng.poisson(per_hour * (end - begin) / HOUR)
    return np.sort(rng.integers(begin, end, count))


def demand(rng: np.random.Generator, begin: int, end: int, per_hour: float) -> Times:
    """Times in order in [begin, end), within one day, of a stream that follows the day's demand; ``per_hour`` is its peak."""
    peak = per_hour * (WEEKEND if is_weekend(begin) else 1.0)
    times = poisson(rng, begin, end, peak)
    keep = rng.random(len(times)) < DAYTIME[times // HOUR % 24]
    kept: Times = times[keep]
    return kept


def beat(rng: np.random.Generator, begin: int, end: int, period: int, jitter: int) -> Times:
    """Times in order in [begin, end), ``period`` apart, each up to ``jitter`` late, with a phase of its own."""
    if end <= begin:
        return np.zeros(0, np.int64)
    ticks = np.arange(begin + int(rng.integers(period)), end, period, dtype=np.int64)
    times = ticks + rng.integers(0, jitter, len(ticks))
    inside: Times = times[times < end]
    return inside


def office(rng: np.random.Generator, begin: int, end: int, per_hour: float) -> Times:
    """Times in order of somebody's activity during a shift: as ``poisson``, a third as much in the middle half hour."""
    times = poisson(rng, begin, end, per_hour)
    lunch = np.abs(times - (begin + end) // 2) < 15 * MINUTE
    kept: Times = times[~lunch | (rng.random(len(times)) < 1 / 3)]
    return kept


def spread(rng: np.random.Generator, median: float, sigma: float, count: int, lowest: float, highest: float) -> np.ndarray:
    """int64[count]: log-normal around ``median``, kept within bounds."""
    drawn: np.ndarray = np.clip(rng.lognormal(np.log(median), sigma, count), lowest, highest).astype(np.int64)
    return drawn
