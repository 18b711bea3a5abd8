"""The alert budget: from "at most N a day" to a threshold on the score.

The threshold is the (N c D)-th largest of the cells of the last D days, a cell being one identity's strongest score in one period (an
hour, for the slow line a day) while no alert on it is open; c corrects for what was spent against what was granted. Only past cells
count, so the threshold is causal. Where the work is split over partitions, each counts its own cells and the threshold comes from all.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import msgspec
import numpy as np

from models import kernels
from models.kernels import DAY, HOUR

#: Called from Python the plain functions are faster than the compiled ones.
day_unit, hour_unit, passed = kernels.day_unit.py_func, kernels.hour_unit.py_func, kernels.passed.py_func
#: Longest look back, in days.
WINDOW = 14.0
#: Bins to a nat, and how many.
PER_NAT = 16
BINS = 1024
#: Cells before which nothing alerts: a threshold from fewer would be noise.
FEWEST = 10
#: A budget by the day has nothing to compare with before: the growth of a young stream is no one's growth.
YOUNGEST = 3.0 * DAY
#: What was granted over what was spent, to this power and within these bounds, corrects the quantile. What a quantile of past cells
#: lets through falls short by a share r; with power g the budget is missed by r^(1/(1+g)) only. Benign sets, N = 10: 1 spent 76 to 92 %
#: of the budget, 2 88 to 92 %, 3 89 to 99 %, but 3 swings.
POWER = 3.0
CLAMP = 4.0
#: A threshold of all partitions that was reckoned so long ago, in event time, or so large a share of the stream's age, comes from a
#: past that is not a judge's any more: it reads a backlog, and is ahead of whoever adds up.
STALE, STALE_SHARE = 3.0 * HOUR, 0.25
#: Alerts that a partition's share of the budget must come to by now for it to draw a threshold of its own: below it cannot be kept.
SOUND = 3.0
#: How many days' worth of alerts one day may open before its own strongest set the bar. Benign sets: 1 spends 5 % less, 2 and 4 the
#: same.
DAYS_WORTH = 1.5


class Cell(msgspec.Struct, array_like=True):
    """An identity's strongest score of the current hour: since when, how much, and whether it is counted (no alert was open)."""

    since: float
    value: float
    counted: bool
    hour: int


class Budget(msgspec.Struct):
    """The state of the budget of one line in one partition. All of it is plain data.

    ``period``: the length of a cell. ``partitions``: how many share the budget; with more than one, ``reckon`` is called from outside.
    ``behind``: what came last from all of them was stale, or nothing has come yet and this one goes by itself.
    """

    per_day: float
    period: float = HOUR
    partitions: int = 1
    threshold: float = math.inf
    age: float = 0.0
    now: float = 0.0
    rebuilt: float = 0.0
    openings: list[tuple[float, float, float]] = []
    cells: dict[str, Cell] = {}
    hours: dict[int, dict[int, int]] = {}
    behind: bool = False

    def advance(self, now: float) -> bool:
        """Move the clock. Returns whether an hour (of the stream's age) has passed and the threshold is due; alone it is recomputed,
        and so it is, from this one's cells and share of the budget, where that of several is stale or has never come."""
        if self.now == 0.0:
            self.now = self.rebuilt = now
        if now <= self.now:
            return False
        self.age += min(now - self.now, DAY)
        self.now = now
        if not passed(now, self.rebuilt, hour_unit(self.age), HOUR):
            return False
        self.rebuilt = now
        self._forget()
        if self.partitions == 1:
            reckon([self])
        elif self.behind or self.threshold == math.inf:
            self._alone()
        return True

    def hear(self, threshold: float, reckoned: float) -> None:
        """Take over the threshold of all partitions. ``reckoned``: when that was, in event time; 0 = unknown. Of a stale one only what
        this one's own cells do not tell."""
        self.threshold = threshold
        self.behind = bool(reckoned) and self.now - reckoned > max(STALE, STALE_SHARE * min(self.age, WINDOW * DAY))
        if self.behind:
            self._alone()

    def _alone(self) -> None:
        """Draw the threshold from this partition's cells and share of the budget, if they are enough."""
        share = self.per_day / self.partitions
        if share * min(WINDOW, self.age / DAY) < SOUND:
            return
        own = _threshold([self], share, self.now)
        # The lowest there is would let everything through: fewer cells than the share wants.
        if 0.0 < own < math.inf:
            self.threshold, self.behind = own, True

    def _over(self, cell: Cell) -> bool:
        """Whether a cell's period has passed."""
        unit = hour_unit(self.age) if self.period == HOUR else day_unit(self.age)
        return passed(self.now, cell.since, unit, self.period)

    def note(self, identity: str, score: float, has_open_alert: bool) -> None:
        """A surprising event of an identity, at the time of the last ``advance``."""
        cell = self.cells.get(identity)
        if cell is None or self._over(cell):
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
        """What a score must exceed to open an alert now: the threshold; and where the last day's alerts are spent (DAYS_WORTH times N),
        also the weakest of as many strongest, so that a day that is stranger than its past does not flood anyone before the next
        reckoning.

        ``ceiling``: what the calibration can say at most by now. It rises while a stream is young, and past scores with it.
        """
        # A young stream has been granted less than a day's worth.
        allowed = max(math.ceil(DAYS_WORTH * self.per_day / self.partitions * min(self.age / DAY, 1.0)), 1)
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

    def _forget(self) -> None:
        oldest = self.now - WINDOW * DAY
        self.openings = [opening for opening in self.openings if opening[0] >= oldest]
        for hour in [hour for hour in self.hours if (hour + 1) * HOUR < oldest]:
            del self.hours[hour]
        for identity in [name for name, cell in self.cells.items() if self._over(cell)]:
            del self.cells[identity]


def reckon(parts: Sequence[Budget]) -> None:
    """Set the threshold of all partitions of a budget from the cells and openings of all."""
    per_day, now = parts[0].per_day, max(part.now for part in parts)
    threshold = _threshold(parts, per_day, now)
    for part in parts:
        part.threshold, part.behind = threshold, False


def _threshold(parts: Sequence[Budget], per_day: float, now: float) -> float:
    bins = np.zeros(BINS, np.int64)
    for part in parts:
        for hour in part.hours.values():
            for bin_, many in hour.items():
                bins[bin_] += many
    age = max(part.age for part in parts)
    if bins.sum() < FEWEST or (parts[0].period == DAY and age < YOUNGEST):
        return math.inf
    openings = [opening[0] for part in parts for opening in part.openings]
    granted = per_day * min(WINDOW, age / DAY)
    correction = ((granted + 2 * per_day) / (len(openings) + 2 * per_day)) ** POWER
    correction = min(max(correction, 1 / CLAMP), CLAMP)
    last_day = sum(time > now - DAY for time in openings)
    if last_day > per_day:
        correction *= (per_day / last_day) ** 2
    wanted = max(granted * correction, 1.0)
    above = np.cumsum(bins[::-1])
    # The lowest bin edge with no more cells above it than are wanted, or the next one where that comes nearer: scores of thin streams
    # have few values, and always erring on one side would add up.
    spare = int(np.searchsorted(above, wanted, side="right"))
    if spare < BINS and above[spare] - wanted < wanted - (above[spare - 1] if spare else 0):
        spare += 1
    return (BINS - spare) / PER_NAT
