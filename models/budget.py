"""The alert budget: from "at most N a day" to a threshold on the score.

The threshold is the (N c D)-th largest of the cells of the last D days, a cell being one identity's strongest score in one hour while
no alert on it is open; c corrects for what was spent against what was granted. Only past cells count, so the threshold is causal.
"""

from __future__ import annotations

import math

import msgspec
import numpy as np

from models import kernels
from models.kernels import DAY, HOUR

#: Called from Python the plain functions are faster than the compiled ones.
hour_unit, passed = kernels.hour_unit.py_func, kernels.passed.py_func
#: Longest look back, in days.
WINDOW = 14.0
#: Bins to a nat, and how many.
PER_NAT = 16
BINS = 1024
#: Cells before which nothing alerts: a threshold from fewer would be noise.
FEWEST = 10


class Cell(msgspec.Struct, array_like=True):
    """An identity's strongest score of the current hour: since when, how much, and whether it is counted (no alert was open)."""

    since: float
    value: float
    counted: bool
    hour: int


class Budget(msgspec.Struct):
    """The state of the budget. All of it is plain data."""

    per_day: float
    threshold: float = math.inf
    age: float = 0.0
    now: float = 0.0
    rebuilt: float = 0.0
    openings: list[tuple[float, float, float]] = []
    cells: dict[str, Cell] = {}
    hours: dict[int, dict[int, int]] = {}

    def advance(self, now: float) -> None:
        """Move the clock; recompute the threshold when an hour (of the stream's age) has passed."""
        if self.now == 0.0:
            self.now = self.rebuilt = now
        if now <= self.now:
            return
        self.age += min(now - self.now, DAY)
        self.now = now
        unit = hour_unit(self.age)
        if passed(now, self.rebuilt, unit, HOUR):
            self.rebuilt = now
            self._forget(unit)
            self.threshold = self._threshold()

    def note(self, identity: str, score: float, has_open_alert: bool) -> None:
        """A surprising event of an identity, at the time of the last ``advance``."""
        unit = hour_unit(self.age)
        cell = self.cells.get(identity)
        if cell is None or passed(self.now, cell.since, unit, HOUR):
            cell = self.cells[identity] = Cell(self.now, 0.0, not has_open_alert, int(self.now // HOUR))
        if score <= cell.value:
            return
        if cell.counted:
            hour = self.hours.setdefault(cell.hour, {})
            if cell.value > 0.0:
                self._count(hour, cell.value, -1)
            self._count(hour, score, 1)
        cell.value = score

    def bar(self, ceiling: float) -> float:
        """What a score must exceed to open an alert now: the threshold; and where the last day's alerts are spent, also the weakest
        of the day's strongest N, so that a day that is stranger than its past does not flood anyone before the next reckoning.

        ``ceiling``: what the calibration can say at most by now. It rises while a stream is young, and past scores with it.
        """
        # A young stream has been granted less than a day's worth.
        allowed = max(math.ceil(self.per_day * min(self.age / DAY, 1.0)), 1)
        recent = [score - then + ceiling for time, score, then in self.openings if time > self.now - DAY]
        if len(recent) < allowed:
            return self.threshold
        return max(self.threshold, sorted(recent)[-allowed])

    def opened(self, score: float, ceiling: float) -> None:
        """An alert was opened at the time of the last ``advance``."""
        self.openings.append((self.now, score, ceiling))

    @staticmethod
    def _count(hour: dict[int, int], value: float, by: int) -> None:
        bin_ = min(int(value * PER_NAT), BINS - 1)
        left = hour.get(bin_, 0) + by
        if left:
            hour[bin_] = left
        else:
            hour.pop(bin_, None)

    def _forget(self, unit: float) -> None:
        oldest = self.now - WINDOW * DAY
        self.openings = [opening for opening in self.openings if opening[0] >= oldest]
        for hour in [hour for hour in self.hours if (hour + 1) * HOUR < oldest]:
            del self.hours[hour]
        for identity in [name for name, cell in self.cells.items() if passed(self.now, cell.since, unit, HOUR)]:
            del self.cells[identity]

    def _threshold(self) -> float:
        bins = np.zeros(BINS, np.int64)
        for hour in self.hours.values():
            for bin_, many in hour.items():
                bins[bin_] += many
        if bins.sum() < FEWEST:
            return math.inf
        days = min(WINDOW, self.age / DAY)
        granted = self.per_day * days
        correction = min(max((granted + 2 * self.per_day) / (len(self.openings) + 2 * self.per_day), 0.5), 2.0)
        last_day = sum(time > self.now - DAY for time, _, _ in self.openings)
        if last_day > self.per_day:
            correction *= (self.per_day / last_day) ** 2
        wanted = max(granted * correction, 1.0)
        above = np.cumsum(bins[::-1])
        # The lowest bin edge with no more cells above it than are wanted.
        spare = int(np.searchsorted(above, wanted, side="right"))
        return (BINS - spare) / PER_NAT
