"""Fan-out: endpoints an actor meets for the first time ever, in the last hour, against its own such hours."""

from __future__ import annotations

import math
from typing import Annotated

import msgspec
import numpy as np
from numba import njit

from models.counts import PAIR_DAYS
from models.kernels import HOUR, SECOND, advance, hour_unit, passed, second_of, t_tail
from models.profiles import Fields
from models.signals import Rows, Signal, Visit, number
from models.signals.magnitude import BASELINE, FINDING, FLOOR, HEAVY, LEAN, MOST_TAUGHT, POPULATION, teach, teach_all, winsorised


@njit(cache=True)
def _fanout(
    time: np.ndarray,
    learn: np.ndarray,
    pace: np.ndarray,
    pair_days: np.ndarray,
    slot: np.ndarray,
    table: np.ndarray,
    population: np.ndarray,
    clock: np.ndarray,
    memory: float,
    out: np.ndarray,
) -> None:
    everyone = population[0]
    for i in range(len(time)):
        row = table[slot[i]]
        new = pair_days[i] == 0.0
        second = second_of(time[i])
        met = row.partners * math.exp(-max((float(second) - row.time) * SECOND, 0.0) / memory) + (1.0 if new else 0.0)
        value = math.log1p(met)
        all_variance = max(everyone.variance, 1.0) if everyone.seen < FINDING else everyone.variance
        seen = float(row.seen)
        mean = (seen * row.mean + LEAN * everyone.mean) / (seen + LEAN)
        variance = (seen * row.variance + LEAN * all_variance) / (seen + LEAN) + FLOOR
        deviation = math.sqrt(variance)
        out[0, i] = t_tail(value, mean, variance, min(seen, HEAVY)) if new else 0.0
        out[1, i] = met
        out[2, i] = math.expm1(mean)
        out[3, i] = math.expm1(mean + 2.0 * deviation)
        if not learn[i]:
            continue
        advance(clock, time[i])
        if not new:
            continue
        row.partners = met
        row.time = second
        # One lesson an hour that is over, of its highest: a scan of thousands is one lesson, for its source and for everyone.
        if row.since == 0 or passed(time[i], row.since * SECOND, hour_unit(clock[1]), HOUR):
            if row.since != 0:
                peak = float(row.peak)
                teach(row, winsorised(peak, mean, deviation, seen, FINDING, MOST_TAUGHT, pace[i]), pace[i])
                teach_all(everyone, peak)
            row.since = second
            row.peak = 0.0
        row.peak = max(row.peak, value)


class Fanout(Signal):
    """Student-t tail of ln(1 + f), f = decayed number of first-ever partners; scored at each new one, learned by
    the hour.

    Idea: scans, lateral movement and collecting before a theft meet many for the first time within an hour. Partners are endpoints:
    object, action and detail. Fails on patient attackers, and on crawlers whose trade it is. Cost: a logarithm and an exponential an
    event, 28 bytes an actor. Parameters: ``memory_hours``.
    """

    unit = "new partners in an hour"

    weight: float = 0.1
    memory_hours: Annotated[float, msgspec.Meta(gt=0, le=8760)] = 1.0

    @property
    def visit(self) -> Visit:
        """At the actor."""
        return "actor"

    def state(self) -> dict[str, Fields]:
        """Lessons, mean and variance of ln(1 + f); f and its time; the current hour and its highest ln(1 + f)."""
        return {"actor": (*BASELINE, ("partners", "f4"), ("time", "u4"), ("since", "u4"), ("peak", "f4"))}

    def scalars(self) -> tuple[str, ...]:
        """Everyone's lessons, mean and variance; clock and age."""
        return ("seen", "mean", "variance", "now", "age")

    def surprise(self, rows: Rows, tables: dict[str, np.ndarray], scalars: np.ndarray, out: np.ndarray) -> None:
        """See the contract."""
        memory = self.memory_hours * HOUR
        partners, actors = rows.counts[PAIR_DAYS], rows.slots["actor"]
        everyone, clock = scalars[:3].view(POPULATION), scalars[3:]
        _fanout(rows.time, rows.learn, rows.pace, partners, actors, tables["actor"], everyone, clock, memory, out)

    def text(self, seen: float, expected: float, usual: float, actor: str, object: str) -> str:
        """See the contract."""
        met = f"{actor} met {number(round(seen))} new partners within an hour"
        return f"{met}, {number(round(expected, 1))} expected, up to {number(math.ceil(usual))} would be normal"


LEARNER = Fanout
