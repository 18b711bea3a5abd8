"""Units of activity: the counts that novelty and rarity are judged on, and each row's place in time.

An edge (actor, endpoint) counts **once an hour** as activity and **once a day** as acquaintance, however many events it has: a flood
buys one unit. How active an owner is counts up to yesterday: whoever is busy for the first time today is no less rare for it (June:
hard-mode AP .065 instead of .020). Both units grow with the stream's age (``kernels.hour_unit``), so that a trace of an hour teaches
too. The same kernel serves both visits: the owner of the units is the actor in one, the endpoint (object, action, detail) in the other.
"""

from __future__ import annotations

import math

import numpy as np
from numba import njit

from models.kernels import DAY, HOUR, SECOND, advance, day_unit, hour_unit, passed, second_of
from models.profiles import Fields

#: Memory of acquaintance (edge-days): ten days. Anything from 3 to 30 days did equally well on DARPA-98 June.
MEMORY = 10.0 * DAY
#: Memory of activity (edge-hours). Ten days cost hard-mode AUC there (.75 -> .61): who was active at all matters for long.
ACTIVITY_MEMORY = 180.0 * DAY

#: Edges an hour that count as activity of one owner: without a bound one scan makes a stranger look like the busiest of all, for good.
#: June: 8 costs hard-mode AUC (.70 -> .58), 64 raises macro AUC over no bound (.881 -> .893).
BUSIEST = 64.0

#: Most that the count of an hour's cells says.
MOST_CELLS = 65_535

#: The keeper of time (actor; object): its clock in microseconds, to which late rows are moved up exactly.
KEEPER: Fields = (("last", "f8"),)
#: The owner of units (actor; endpoint): decayed edge-hours and edge-days with their times, partners ever, the cells it may teach the
#: calibration in the current hour (no more than MOST_CELLS), when it last learned, and its hours as they were when today began.
OWNER: Fields = (
    ("hours", "f4"),
    ("hours_time", "u4"),
    ("days", "f4"),
    ("days_time", "u4"),
    ("partners", "f4"),
    ("cells", "u2"),
    ("cells_since", "u4"),
    ("last", "u4"),
    ("before", "f4"),
    ("today", "u4"),
)
#: A pair: the hour and the day it last taught, and its decayed days at the latter.
PAIR: Fields = (("hour_taught", "u4"), ("day_taught", "u4"), ("days", "f4"))
#: Stream-wide scalars: clock, age, all edge-hours and their time, late rows.
SCALARS = ("now", "age", "hours", "hours_time", "late")

#: Columns that ``count`` writes per row, all as they were *before* the row taught.
OUTPUT = ("time", "learn", "new_hour", "hours", "all_hours", "population", "days", "partners", "pair_days", "cells", "new_day")
TIME, LEARN, NEW_HOUR, HOURS, ALL_HOURS, POPULATION, DAYS, PARTNERS, PAIR_DAYS, CELLS, NEW_DAY = range(len(OUTPUT))


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
    pace: np.ndarray,
    keeper: np.ndarray,
    owner: np.ndarray,
    pair: np.ndarray,
    scalars: np.ndarray,
    lateness: float,
    out: np.ndarray,
) -> None:
    """Place every row in time and read, then teach, the units.

    ``time`` int64[n]; slots int32[n]; ``population`` int64[n]: owners known up to that row; ``pace`` float64[n]: how many days a day
    of acquaintance counts for; ``keeper``, ``owner``, ``pair``: records; ``out`` float64[len(OUTPUT), n].
    A row that is at most ``lateness`` behind its keeper counts at the keeper's time; one further behind reads but does not teach.
    """
    for i in range(len(time)):
        t = float(time[i])
        advance(scalars, t)
        k = keeper[keeper_slot[i]]
        o = owner[owner_slot[i]]
        e = pair[pair_slot[i]]
        learn = True
        if k.last - t > lateness:
            learn = False
            scalars[4] += 1.0
        now = max(t, k.last)
        second = second_of(now)
        if learn:
            k.last = now
            o.last = max(o.last, second)
        whole = second * SECOND
        hours = faded(float(o.hours), whole - o.hours_time * SECOND, ACTIVITY_MEMORY)
        all_hours = faded(scalars[2], now - scalars[3], ACTIVITY_MEMORY)
        days = faded(float(o.days), whole - o.days_time * SECOND, MEMORY)
        pair_days = faded(float(e.days), whole - e.day_taught * SECOND, MEMORY)
        unit = hour_unit(scalars[1])
        new_hour = learn and (e.hour_taught == 0 or passed(now, e.hour_taught * SECOND, unit, HOUR))
        out[0, i] = now
        out[1, i] = 1.0 if learn else 0.0
        out[2, i] = 1.0 if new_hour else 0.0
        if o.today == 0 or passed(now, o.today * SECOND, day_unit(scalars[1]), DAY):
            before = hours
            if learn:
                o.before = hours
                o.today = second
        else:
            before = float(o.before)
        new_day = new_hour and (e.day_taught == 0 or passed(now, e.day_taught * SECOND, day_unit(scalars[1]), DAY))
        out[3, i] = before
        out[4, i] = all_hours
        out[5, i] = population[i]
        out[6, i] = days
        out[7, i] = o.partners
        out[8, i] = pair_days
        if new_hour:
            if o.cells_since == 0 or passed(now, o.cells_since * SECOND, unit, HOUR):
                o.cells = 0
                o.cells_since = second
            o.cells = min(o.cells + 1, MOST_CELLS)
            scalars[2] = all_hours
            scalars[3] = max(now, scalars[3])
            if o.cells <= BUSIEST:
                # Written only where it grows: fading it at every new pair of a scan would round it away.
                o.hours = hours + 1.0
                o.hours_time = second
                scalars[2] += 1.0
            if new_day:
                if e.day_taught == 0:
                    o.partners += 1.0
                o.days = days + pace[i]
                o.days_time = second
                e.day_taught = second
                e.days = pair_days + pace[i]
            e.hour_taught = second
        out[9, i] = o.cells
        out[10, i] = 1.0 if new_day else 0.0
