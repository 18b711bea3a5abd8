"""Units of activity: the counts that novelty and rarity are judged on, and each row's place in time.

An edge (actor, endpoint) counts **once an hour** as activity and **once a day** as acquaintance, however many events it has: a flood
buys one unit. Both units grow with the stream's age (``kernels.hour_unit``), so that a trace of an hour teaches too. The same kernel
serves both visits: the owner of the units is the actor in one, the endpoint (object, action, detail) in the other.
"""

from __future__ import annotations

import math

import numpy as np
from numba import njit

from models.kernels import DAY, HOUR, advance, day_unit, hour_unit, passed

#: Memory of acquaintance (edge-days): ten days. Anything from 3 to 30 days did equally well on DARPA-98 June.
MEMORY = 10.0 * DAY
#: Memory of activity (edge-hours). Ten days cost hard-mode AUC there (.75 -> .61): who was active at all matters for long.
ACTIVITY_MEMORY = 180.0 * DAY

#: Edges an hour that count as activity of one owner: without a bound one scan makes a stranger look like the busiest of all, for good.
#: June: 8 costs hard-mode AUC (.70 -> .58), 64 raises macro AUC over no bound (.881 -> .893).
BUSIEST = 64.0

#: Fields of the keeper of time (actor; object).
KEEPER = ("last",)
#: Fields of the owner of units (actor; endpoint): decayed edge-hours and edge-days with their times, partners ever, and the cells it
#: may teach the calibration in the current hour.
OWNER = ("hours", "hours_time", "days", "days_time", "partners", "cells", "cells_since", "last")
#: Fields of a pair: when it last taught, decayed days.
PAIR = ("hour_taught", "day_taught", "days", "days_time")
#: Stream-wide scalars: clock, age, all edge-hours and their time, late rows.
SCALARS = ("now", "age", "hours", "hours_time", "late")

#: Columns that ``count`` writes per row, all as they were *before* the row taught.
OUTPUT = ("time", "learn", "new_hour", "hours", "all_hours", "population", "days", "partners", "pair_days", "cells")
TIME, LEARN, NEW_HOUR, HOURS, ALL_HOURS, POPULATION, DAYS, PARTNERS, PAIR_DAYS, CELLS = range(len(OUTPUT))


@njit(cache=True, inline="always")
def faded(value: float, since: float, memory: float) -> float:
    """A count after ``since`` microseconds. Nothing stays nothing: most pairs of a young stream are new."""
    if value == 0.0 or since <= 0.0:
        return value
    return value * math.exp(-since / memory)


@njit(cache=True)
def count(
    time: np.ndarray,
    keeper_slot: np.ndarray,
    owner_slot: np.ndarray,
    pair_slot: np.ndarray,
    population: np.ndarray,
    keeper: np.ndarray,
    owner: np.ndarray,
    pair: np.ndarray,
    scalars: np.ndarray,
    lateness: float,
    out: np.ndarray,
) -> None:
    """Place every row in time and read, then teach, the units.

    ``time`` int64[n]; slots int32[n]; ``population`` int64[n]: owners known up to that row; ``out`` float64[len(OUTPUT), n].
    A row that is at most ``lateness`` behind its keeper counts at the keeper's time; one further behind reads but does not teach.
    """
    for i in range(len(time)):
        t = float(time[i])
        advance(scalars, t)
        k = keeper_slot[i]
        o = owner_slot[i]
        e = pair_slot[i]
        learn = True
        behind = keeper[k, 0] - t
        if behind > lateness:
            learn = False
            scalars[4] += 1.0
        now = max(t, keeper[k, 0])
        if learn:
            keeper[k, 0] = now
            owner[o, 7] = max(owner[o, 7], now)
        hours = faded(owner[o, 0], now - owner[o, 1], ACTIVITY_MEMORY)
        all_hours = faded(scalars[2], now - scalars[3], ACTIVITY_MEMORY)
        days = faded(owner[o, 2], now - owner[o, 3], MEMORY)
        pair_days = faded(pair[e, 2], now - pair[e, 3], MEMORY)
        unit = hour_unit(scalars[1])
        new_hour = learn and (pair[e, 0] == 0.0 or passed(now, pair[e, 0], unit, HOUR))
        out[0, i] = now
        out[1, i] = 1.0 if learn else 0.0
        out[2, i] = 1.0 if new_hour else 0.0
        out[3, i] = hours
        out[4, i] = all_hours
        out[5, i] = population[i]
        out[6, i] = days
        out[7, i] = owner[o, 4]
        out[8, i] = pair_days
        if new_hour:
            if owner[o, 6] == 0.0 or passed(now, owner[o, 6], unit, HOUR):
                owner[o, 5] = 0.0
                owner[o, 6] = now
            owner[o, 5] += 1.0
            active = 1.0 if owner[o, 5] <= BUSIEST else 0.0
            owner[o, 0] = hours + active
            owner[o, 1] = now
            scalars[2] = all_hours + active
            scalars[3] = max(now, scalars[3])
            if pair[e, 1] == 0.0 or passed(now, pair[e, 1], day_unit(scalars[1]), DAY):
                if pair[e, 1] == 0.0:
                    owner[o, 4] += 1.0
                owner[o, 2] = days + 1.0
                owner[o, 3] = now
                pair[e, 1] = now
                pair[e, 2] = pair_days + 1.0
                pair[e, 3] = now
            pair[e, 0] = now
        out[9, i] = owner[o, 5]
