"""Drip: egress that is a little too large for many days, by a cumulative sum of each day's excess."""

from __future__ import annotations

import math
from typing import Annotated

import msgspec
import numpy as np
from numba import njit

from models.kernels import DAY, SECOND, advance, day_unit, passed, second_of
from models.profiles import Fields, record
from models.signals import Line, Rows, Signal, Visit, amount
from models.signals.magnitude import FLOOR, LEAN, winsorised
from models.signals.volume import DAYS, OBJECT, YOUNG, foreign, lesson

#: Days of an actor's own before its excess counts: from fewer its mean is not known well enough to add up what exceeds it.
SETTLED = 5.0
#: Deviations that a day adds or takes at most: one enormous day is the trade of other signals.
MOST_ADDED = 3.0
#: Deviations above its mean that a day teaches at most. At 1, as for volume, the deviation shrinks so far that ordinary days add up.
MOST_TAUGHT = 2.0
#: Most that the sum reaches: usual days come to it once in millions of days, and more would only take longer to come down.
MOST_SUM = 15.0
#: Rate at which everyone's variance moves.
ALL_RATE = 0.001
#: An actor's days as those of ``volume``; besides the sum of its excess, in deviations, and days and bytes since it left zero.
DRIP: Fields = (*DAYS, ("sum", "f4"), ("days", "u1"), ("moved", "f4"))
_DRIP = record(DRIP)


@njit(cache=True)
def _drip(
    time: np.ndarray,
    learn: np.ndarray,
    pace: np.ndarray,
    moved: np.ndarray,
    basis: np.ndarray,
    slot: np.ndarray,
    table: np.ndarray,
    clock: np.ndarray,
    everyone: np.ndarray,
    size: float,
    slack: float,
    longest: float,
    out: np.ndarray,
) -> None:
    for i in range(len(time)):
        if math.isnan(moved[i]):
            out[:, i] = math.nan
            continue
        way = 1 if basis[i] == OBJECT else 0
        row = table[slot[i], way]
        now = time[i]
        if foreign(row, basis[i], now):
            out[:, i] = math.nan
            continue
        unit = day_unit(clock[1])
        # Bytes a day, in units of ``size``.
        scale = DAY / unit / size
        known = row.since != 0 and row.basis == basis[i]
        total, seen, mean, variance, excess, days, gone = 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0
        if known:
            total, seen, mean, variance = float(row.total), float(row.seen), float(row.mean), float(row.variance)
            excess, days, gone = float(row.sum), float(row.days), float(row.moved)
        over = known and passed(now, row.since * SECOND, unit, DAY)
        all_ = everyone[way]
        delta = 0.0
        if over:
            # The day that is over is added and learned before this one is judged.
            finished = math.log1p(total * scale)
            if seen > 0.0:
                deviation = math.sqrt(((seen * variance + LEAN * all_[1]) / (seen + LEAN) + FLOOR) * (1.0 + 1.0 / seen))
                if seen >= SETTLED:
                    excess += min(max((finished - mean) / deviation, -MOST_ADDED), MOST_ADDED) - slack
                    excess = min(max(excess, 0.0), MOST_SUM)
                    days, gone = (min(days + 1.0, 255.0), gone + total) if excess > 0.0 else (0.0, 0.0)
                finished = winsorised(finished, mean, deviation, seen, SETTLED, MOST_TAUGHT, row.pace)
            most = longest if unit >= DAY else YOUNG
            weight = lesson(row.pace, seen, most)
            delta = finished - mean
            mean += weight * delta
            variance += weight * (delta * delta * (1.0 - weight) - variance)
            seen = min(seen + 1.0, most)
            total = 0.0
        spread = (seen * variance + LEAN * all_[1]) / (seen + LEAN) + FLOOR
        deviation = math.sqrt(spread * (1.0 + 1.0 / max(seen, 1.0)))
        today = total + moved[i]
        above = min((math.log1p(today * scale) - mean) / deviation, MOST_ADDED) - slack
        # Only a day that itself adds to the sum says so: days as usual bring it down in silence.
        rises = above > 0.0 and seen >= SETTLED and moved[i] > 0.0
        out[0, i] = 2.0 * slack * (excess + above) if rises else 0.0
        out[1, i] = gone + today
        out[2, i] = (days + 1.0) * math.expm1(mean) / scale
        out[3, i] = (days + 1.0) * math.expm1(min(mean + slack * deviation, 80.0)) / scale
        if not learn[i] or moved[i] <= 0.0:
            continue
        advance(clock, now)
        if over and seen > 1.0:
            # A first day has no mean to differ from.
            all_[0] += 1.0
            all_[1] += max(ALL_RATE, 1.0 / all_[0]) * (delta * delta - all_[1])
        if over or not known:
            row.since, row.pace, row.basis = second_of(now), 0, basis[i]
            row.seen, row.mean, row.variance = seen, mean, variance
            row.sum, row.days, row.moved = excess, days, gone
        row.total = today
        row.pace = max(row.pace, int(min(pace[i], 255.0)))


class Drip(Signal):
    """Cumulative sum (Page) of an actor's daily egress over its own mean: S = max(0, S + z - k), surprise 2 k S in nats.

    Idea: a thief who takes a little every day stays below every alarm of the day, but not for long below the sum of what is too much.
    z is the day's ln(1 + bytes / ``day_bytes``) in deviations of the actor's own earlier days (of the day so far, while it lasts),
    within 3; ``slack`` k is what a day may exceed them by. The mean is the slow of two speeds: it learns a day at 1 / (days known), at
    least at 1 / ``longest_days``, at most at mean + 2 sd, and only after the sum has compared the day with it. Under usual days sums
    beyond h come at a rate of exp(-2 k h), hence the surprise. Bytes sent and bytes read from a registry are two sums.
    Fails in an actor's first five days, on an actor whose amounts vary by more than the thief takes, and on a thief who takes less than
    ``day_bytes`` a day: below it days are all alike. On made-up actors with 2 GB a day (sd .5) 3 GB a day more were seen on day 5 to 8.
    Cost: two logarithms and two exponentials an event, 56 bytes an actor. Paper: Page, 1954; Lorden, 1971; Hawkins, 1987
    (self-starting sums).
    """

    unit = "bytes since more than usual began"
    needs = "bytes"

    weight: float = 1.0
    line: Line = "slow"
    day_bytes: Annotated[float, msgspec.Meta(ge=1e3, le=1e15)] = 1e8
    slack: Annotated[float, msgspec.Meta(ge=0.1, le=2)] = 0.5
    longest_days: Annotated[float, msgspec.Meta(ge=7, le=250)] = 60.0

    @property
    def visit(self) -> Visit:
        """At the actor."""
        return "actor"

    def state(self) -> dict[str, Fields]:
        """Of what is sent and of what is read out of a registry: days as of ``volume``, and the sum."""
        return {"actor": tuple((f"{way}_{field[0]}", field[1]) for way in ("sent", "read") for field in DRIP)}

    def scalars(self) -> tuple[str, ...]:
        """Clock and age; then, of what is sent and what is read, everyone's days and variance of an actor's own days."""
        return ("now", "age", "sent_days", "sent_variance", "read_days", "read_variance")

    def surprise(self, rows: Rows, tables: dict[str, np.ndarray], scalars: np.ndarray, out: np.ndarray) -> None:
        """See the contract."""
        _drip(
            rows.time,
            rows.learn,
            rows.pace,
            rows.moved,
            rows.basis,
            rows.slots["actor"],
            tables["actor"].view(_DRIP).reshape(-1, 2),
            scalars[:2],
            scalars[2:].reshape(2, 2),
            self.day_bytes,
            self.slack,
            self.longest_days,
            out,
        )

    def text(self, seen: float, expected: float, usual: float, actor: str, object: str) -> str:
        """See the contract."""
        moved = f"{actor} moved {amount(seen)} since its days began to exceed the usual"
        more = f"{amount(max(seen - expected, 0.0))} more than expected"
        return f"{moved}, {more}: {amount(expected)} expected in that time, up to {amount(usual)} would be normal"


LEARNER = Drip
