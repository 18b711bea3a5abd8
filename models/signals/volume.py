"""Day volume: what a key has done or moved since its day began, against its own active days."""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal

import msgspec
import numpy as np
from numba import njit

from models.kernels import DAY, SECOND, advance, day_unit, passed, second_of, t_tail
from models.profiles import Fields, record
from models.signals import Line, Rows, Signal, Visit, amount, number
from models.signals.magnitude import FLOOR, LEAN, POPULATION, teach_all, winsorised

#: Days in which a newcomer's baseline is found rather than defended.
FINDING = 4.0
#: Deviations above its mean that a day teaches at most. Without a bound a boiling frog teaches its own growth: on DARPA-98 June 2 of 12
#: were caught, with 1 sd and with half of one 8 of 12.
MOST_TAUGHT = 1.0
#: Days remembered while a young stream's days still grow: the earlier were shorter, and so less even. 6, 12 or no such bound: frogs of
#: growth 1.3 on June are caught after 8, 8.5 or 8.5 days (middle of eight edges).
YOUNG = 6.0
#: Beyond this many days a t is a normal law for our purpose.
NORMAL = 28.0
#: Days unseen after which a key may start anew with a byte count of another basis, as when a sensor was replaced.
FORGOTTEN = 7.0 * DAY
#: What the bytes of a registry count (``connectors.event.Basis.object``): no sensor of flows counts that, so both have their own days.
OBJECT = 4
#: Kinds of byte count (``connectors.event.Basis``), each with a population of its own.
BASES = 5
#: A key's days: begin of the current one, the amount so far and the fastest pace in it; days known, mean and variance of their
#: ln(1 + amount); what the amount counts.
DAYS: Fields = (("since", "u4"), ("total", "f4"), ("pace", "u1"), ("seen", "u1"), ("mean", "f4"), ("variance", "f4"), ("basis", "u1"))
_DAYS = record(DAYS)


@njit(cache=True, inline="always")
def foreign(row: Any, basis: int, now: float) -> bool:
    """Whether a key counts in another basis than this row, and did so of late. Two sensors' counts of a transfer must not add up."""
    return bool(row.since != 0 and row.basis != basis and now - row.since * SECOND < FORGOTTEN)


@njit(cache=True, inline="always")
def lesson(pace: float, days: float, longest: float) -> float:
    """Weight of a key's next day: as in a plain mean, but no less than one in ``longest``; in a change ``pace`` times as much, up to as
    much as all days before it."""
    weight = 1.0 / min(days + 1.0, longest)
    return max(weight, min(pace * weight, 0.5))


@njit(cache=True)
def _volume(
    time: np.ndarray,
    learn: np.ndarray,
    pace: np.ndarray,
    amounts: np.ndarray,
    basis: np.ndarray,
    slot: np.ndarray,
    table: np.ndarray,
    clock: np.ndarray,
    everyone: np.ndarray,
    longest: float,
    out: np.ndarray,
) -> None:
    ways = table.shape[1]
    for i in range(len(time)):
        if math.isnan(amounts[i]):
            out[:, i] = math.nan
            continue
        row = table[slot[i], 1 if ways == 2 and basis[i] == OBJECT else 0]
        now = time[i]
        if foreign(row, basis[i], now):
            out[:, i] = math.nan
            continue
        unit = day_unit(clock[1])
        # Amounts of a young stream's shorter days are stretched, so that growing days are no growth.
        scale = DAY / unit
        known = row.since != 0 and row.basis == basis[i]
        total, days, mean, variance = 0.0, 0.0, 0.0, 0.0
        if known:
            total, days, mean, variance = float(row.total), float(row.seen), float(row.mean), float(row.variance)
        over = known and passed(now, row.since * SECOND, unit, DAY)
        all_ = everyone[basis[i]]
        all_variance = max(all_.variance, 1.0) if all_.seen < FINDING else all_.variance
        finished = math.log1p(total * scale)
        if over:
            # The day that is over is learned before this one is judged.
            deviation = math.sqrt((days * variance + LEAN * all_variance) / (days + LEAN) + FLOOR)
            centre = (days * mean + LEAN * (all_.mean if all_.seen != 0.0 else finished)) / (days + LEAN)
            most = longest if unit >= DAY else YOUNG
            weight = lesson(row.pace, days, most)
            delta = winsorised(finished, centre, deviation, days, FINDING, MOST_TAUGHT, row.pace) - mean
            mean += weight * delta
            variance += weight * (delta * delta * (1.0 - weight) - variance)
            days = min(days + 1.0, most)
            total = 0.0
        value = math.log1p((total + amounts[i]) * scale)
        # Where nothing is known of anyone, the first day is what is usual.
        centre = value if all_.seen == 0.0 and days == 0.0 else (days * mean + LEAN * all_.mean) / (days + LEAN)
        spread = (days * variance + LEAN * all_variance) / (days + LEAN) + FLOOR
        out[0, i] = t_tail(value, centre, spread, min(days, NORMAL)) if amounts[i] > 0.0 else 0.0
        out[1, i] = total + amounts[i]
        out[2, i] = math.expm1(centre) / scale
        out[3, i] = math.expm1(min(centre + 2.0 * math.sqrt(spread), 80.0)) / scale
        if not learn[i] or amounts[i] <= 0.0:
            continue
        advance(clock, now)
        if over:
            teach_all(all_, finished)
        if over or not known:
            row.since, row.pace, row.basis = second_of(now), 0, basis[i]
            row.seen, row.mean, row.variance = days, mean, variance
        row.total = total + amounts[i]
        row.pace = max(row.pace, int(min(pace[i], 255.0)))


class Volume(Signal):
    """Student-t tail of ln(1 + amount since the day began) under the mean and variance of the key's own active days.

    ``of``: whose days, the actor's or the pair's; ``what``: events, or bytes moved. Idea: what grows by a little every day stays below
    every alarm of the minute, but not below what its own days were. A day is learned when it is over and at most at mean + 1 sd, so a
    growth that is patient does not teach itself; days do not fade by time, so neither does waiting. Leans on everyone's days like on
    three of its own. A young stream's days are shorter (``kernels.day_unit``), its amounts stretched to a day's. Bytes read from a
    registry and bytes sent are two days; counts of different bases never mix.
    Fails on growth below about a seventh a day, on amounts that vary by more than that anyway, and on a key that is new.
    Growth by 1.3 a day, one false alarm a day: sources whose days vary by a third are seen below 5 times; June's uneven edges (16 of
    them, their days vary by a factor 1.5 to 4) on day 5 to 12, most on day 8 or 9; growth by 1.6 on day 4 to 8.
    Cost: three logarithms and two exponentials an event; 19 bytes a key, 38 an actor for bytes. Parameters: ``longest_days``, after
    which the mean moves no slower. Paper: Huber, 1964 (winsorising).
    """

    weight: float = 1.0
    line: Line = "slow"
    of: Literal["actor", "pair"] = "actor"
    what: Literal["events", "bytes"] = "events"
    longest_days: Annotated[float, msgspec.Meta(ge=7, le=250)] = 60.0

    # What is counted is a setting, so unit and need are of the instance.
    @property
    def unit(self) -> str:  # type: ignore[override]
        """The unit of what is counted."""
        return "events a day" if self.what == "events" else "bytes a day"

    @property
    def needs(self) -> str:  # type: ignore[override]
        """What the source must say."""
        return "rate" if self.what == "events" else "bytes"

    @property
    def visit(self) -> Visit:
        """The actor's own at the actor, the pair's at the object."""
        return "actor" if self.of == "actor" else "object"

    @property
    def _ways(self) -> tuple[str, ...]:
        return ("sent", "read") if (self.of, self.what) == ("actor", "bytes") else ("days",)

    def state(self) -> dict[str, Fields]:
        """The key's days; of an actor's bytes those sent and those read out of a registry."""
        return {self.of: tuple((f"{way}_{field[0]}", field[1]) for way in self._ways for field in DAYS)}

    def scalars(self) -> tuple[str, ...]:
        """Clock and age; then everyone's days, mean and variance for each basis (events have but one)."""
        bases = BASES if self.what == "bytes" else 1
        return ("now", "age", *(f"{field}_{basis}" for basis in range(bases) for field in POPULATION.names or ()))

    def surprise(self, rows: Rows, tables: dict[str, np.ndarray], scalars: np.ndarray, out: np.ndarray) -> None:
        """See the contract."""
        events = self.what == "events"
        _volume(
            rows.time,
            rows.learn,
            rows.pace,
            rows.weight if events else rows.moved,
            np.zeros(len(rows), np.int8) if events else rows.basis,
            rows.slots[self.of],
            tables[self.of].view(_DAYS).reshape(-1, len(self._ways)),
            scalars[:2],
            scalars[2:].view(POPULATION),
            self.longest_days,
            out,
        )

    def text(self, seen: float, expected: float, usual: float, actor: str, object: str) -> str:
        """See the contract."""
        who = actor if self.of == "actor" else f"{actor} at {object}"
        say = number if self.what == "events" else amount
        what = "events" if self.what == "events" else "moved"
        done = f"{who}: {say(seen)} {what} since its day began"
        return f"{done}, {say(expected)} expected in all of it, up to {say(usual)} would be normal"


LEARNER = Volume
