"""Hour of week: an identity active at an hour of the day, on a weekday or at the weekend, at which it is not."""

from __future__ import annotations

import math
from typing import Annotated, Any

import msgspec
import numpy as np
from numba import njit

from models.kernels import DAY, HOUR, SECOND, advance, second_of
from models.profiles import Fields
from models.signals import Rows, Signal, Visit, number

#: Hours of the day, and with weekdays and weekends apart.
HOURS, CELLS = 24, 48
#: Hours of the week.
WEEK = 168
#: Hours that an identity is taken to have been active at each hour of the day before it was: one unusual hour is one.
LEAN = 1.0
#: Everyone's profile makes that up to so many times less: where nobody works at night, a newcomer at night is a little strange.
MOST_STRANGER = 4.0
#: Hours with which each of everyone's hours leans on their mean.
LEAN_ALL = 50.0
#: Everyone's hours are halved when they are this many, about a month of a thousand identities at work.
MOST_ALL = 200_000.0
#: A cell in one byte; all of them then fit into two.
MOST_HOURS = 255
#: First day of the epoch: a Thursday, three days after a Monday.
THURSDAY = 3
#: An identity: hours active by hour of the day (UTC), first those of weekdays, then those of weekends; of these all, and the sums of
#: their squares on weekdays and weekends; since when they are counted; the last hour counted (since the epoch), and as how many.
RHYTHM: Fields = (
    ("hours", "u1", CELLS),
    ("total", "u2"),
    ("weekdays", "u4"),
    ("weekends", "u4"),
    ("since", "u4"),
    ("hour", "u4"),
    ("taught", "u1"),
)


@njit(cache=True, inline="always")
def _weekdays(day: int) -> int:
    """Weekdays before a day of the epoch, counted from a Monday."""
    day += THURSDAY
    return day // 7 * 5 + min(day % 7, 5)


@njit(cache=True, inline="always")
def _days(first: int, last: int, weekend: bool) -> int:
    """Weekdays, or days of weekends, from ``first`` to before ``last``."""
    of_week = _weekdays(last) - _weekdays(first)
    return last - first - of_week if weekend else of_week


@njit(cache=True)
def _recount(row: Any) -> None:
    """Total and squares after the hours have changed."""
    total, weekdays, weekends = 0, 0, 0
    for cell in range(CELLS):
        many = int(row.hours[cell])
        total += many
        if cell < HOURS:
            weekdays += many * many
        else:
            weekends += many * many
    row.total, row.weekdays, row.weekends = total, weekdays, weekends


@njit(cache=True)
def _teach(row: Any, cell: int, hour: int, now: float, times: int, memory: float) -> None:
    """Count an hour; when twice the memory is full, halve it."""
    if row.since == 0:
        row.since = second_of(now)
    many = int(row.hours[cell])
    more = min(many + times, MOST_HOURS)
    row.hours[cell] = more
    row.total += more - many
    if cell < HOURS:
        row.weekdays += more * more - many * many
    else:
        row.weekends += more * more - many * many
    row.hour, row.taught = hour, more - many
    age = now - row.since * SECOND
    if more == MOST_HOURS or age >= 2.0 * memory:
        for each in range(CELLS):
            # Up, so that what was ever done once is not forgotten before it is old.
            row.hours[each] = (int(row.hours[each]) + 1) // 2
        row.taught = (int(row.taught) + 1) // 2
        row.since = second_of(now - min(age / 2.0, memory))
        _recount(row)


@njit(cache=True, inline="always")
def _everyone(week: np.ndarray, hour: int) -> float:
    """How much less than usual everyone does at an hour of the week: 1 to 1 / MOST_STRANGER; 1 while no week is known."""
    mean = week[WEEK] / WEEK
    return float(min(max((week[hour] + LEAN_ALL) / (mean + LEAN_ALL), 1.0 / MOST_STRANGER), 1.0))


@njit(cache=True)
def _expected(row: Any, hour: int, weekend: bool, own: float, total: float) -> float:
    """Times that an identity would have been active at this hour, were it a usual one: how often the hour came round since it is known,
    times the mean share of such occasions on which the identity used its hours. ``own``: what the squares have from this hour."""
    day = hour // HOURS
    since = int(row.since * SECOND / HOUR)
    begun = since // HOURS
    occasions = _days(begun + (1 if hour % HOURS < since % HOURS else 0), day, weekend)
    weekdays, weekends = float(row.weekdays), float(row.weekends)
    if weekend:
        weekends -= own
    else:
        weekdays -= own
    used = weekdays / max(_days(begun, day + 1, False), 1) + weekends / max(_days(begun, day + 1, True), 1)
    return float(max(occasions, 0) * min(used / total, 1.0))


@njit(cache=True)
def _hour_of_week(
    time: np.ndarray,
    learn: np.ndarray,
    pace: np.ndarray,
    slot: np.ndarray,
    table: np.ndarray,
    clock: np.ndarray,
    week: np.ndarray,
    memory: float,
    out: np.ndarray,
) -> None:
    for i in range(len(time)):
        row = table[slot[i]]
        now = time[i]
        hour = int(now / HOUR)
        day = hour // HOURS
        at = hour % HOURS
        weekend = (day + THURSDAY) % 7 >= 5
        of_week = (day + THURSDAY) % 7 * HOURS + at
        first = HOURS if weekend else 0
        # What this hour has already taught is not its past.
        own = float(row.taught) if row.hour == hour else 0.0
        total = float(row.total) - own
        seen, expected = 0.0, 0.0
        if total > 0.0:
            mine = float(row.hours[first + at]) - own
            # A little late or early is not another hour.
            beside = float(row.hours[first + (at + 1) % HOURS]) + float(row.hours[first + (at + 23) % HOURS])
            seen = max(mine, 0.5 * mine + 0.25 * beside)
            expected = _expected(row, hour, weekend, own * (2.0 * mine + own), total)
        everyone = _everyone(week, of_week) if clock[1] >= 7.0 * DAY else 1.0
        out[0, i] = max(math.log((expected + LEAN) / (seen + LEAN * everyone)), 0.0)
        out[1, i] = seen
        out[2, i] = expected
        out[3, i] = total
        if not learn[i]:
            continue
        advance(clock, now)
        if row.hour != hour:
            _teach(row, first + at, hour, now, int(min(pace[i], 100.0)), memory)
            week[of_week] += 1.0
            week[WEEK] += 1.0
            if week[WEEK] >= MOST_ALL:
                for each in range(WEEK + 1):
                    week[each] *= 0.5


class HourOfWeek(Signal):
    """ln((e + 1) / (s + 1)): s hours active at this hour of the day before, e as many as at the identity's usual hours.

    Idea: a stolen account is used when its thief is awake. An hour counts once, however busy, in one of 24 cells for weekdays and 24
    for weekends. e is how often this hour came round since the identity is known, times the share of such occasions on which its usual
    hours were used (their own mean). So an identity active at all hours, or seldom, or known for a few days has e near s and scores 0;
    it is not silent, because that it has no rhythm is known of it, and silence would leave it out of what is usual. Hours that never
    came round count for nothing, so a short trace knows no rhythm, and neither midnight nor Tuesday is strange for coming first.
    A neighbouring hour counts a quarter. Once a week is known, the 1 beside s is divided by up to 4 where everyone does less.
    Hours are UTC: when the clocks change, a working day moves by an hour, and its edges are a little strange for some weeks.
    Fails on thieves in the same time zone, on shift workers, and on a change of habits until it is half of what is remembered.
    Cost: one logarithm an event, 67 bytes an actor. Parameters: ``memory_days``: hours are halved when twice as many days are in them.
    """

    unit = "hours active at this time of the week"
    needs = "rate"

    weight: float = 0.1
    memory_days: Annotated[float, msgspec.Meta(ge=7, le=120)] = 56.0

    @property
    def visit(self) -> Visit:
        """At the actor."""
        return "actor"

    def state(self) -> dict[str, Fields]:
        """Hours by cell, and what follows from them; since when, and the last."""
        return {"actor": RHYTHM}

    def scalars(self) -> tuple[str, ...]:
        """Clock and age; then everyone's hours by hour of the week, and all of them."""
        return ("now", "age", *(f"hour_{hour}" for hour in range(WEEK)), "hours")

    def surprise(self, rows: Rows, tables: dict[str, np.ndarray], scalars: np.ndarray, out: np.ndarray) -> None:
        """See the contract. ``usual`` is here all hours that the identity is known to have been active."""
        _hour_of_week(
            rows.time,
            rows.learn,
            rows.pace,
            rows.slots["actor"],
            tables["actor"],
            scalars[:2],
            scalars[2:],
            self.memory_days * DAY,
            out,
        )

    def text(self, seen: float, expected: float, usual: float, actor: str, object: str) -> str:
        """See the contract."""
        known = f"of the {number(usual)} hours that {actor} was active, {number(seen)} were at this time of the week"
        return f"{known}; its usual hours have {number(expected)}"


LEARNER = HourOfWeek
