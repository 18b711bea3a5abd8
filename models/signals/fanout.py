"""Fan-out: endpoints an actor meets for the first time ever, in the last hour, against its own such hours."""

from __future__ import annotations

import math
from typing import Annotated

import msgspec
import numpy as np
from numba import njit

from models.counts import PAIR_DAYS
from models.kernels import HOUR, advance, hour_unit, passed, t_tail
from models.signals import Rows, Signal, Visit, number
from models.signals.magnitude import FINDING, FLOOR, HEAVY, LEAN, MOST_TAUGHT, teach, teach_all, winsorised


@njit(cache=True)
def _fanout(
    time: np.ndarray,
    learn: np.ndarray,
    pair_days: np.ndarray,
    slot: np.ndarray,
    table: np.ndarray,
    everyone: np.ndarray,
    clock: np.ndarray,
    memory: float,
    out: np.ndarray,
) -> None:
    for i in range(len(time)):
        row = table[slot[i]]
        new = pair_days[i] == 0.0
        met = row[3] * math.exp(-max(time[i] - row[4], 0.0) / memory) + (1.0 if new else 0.0)
        value = math.log1p(met)
        all_variance = max(everyone[2], 1.0) if everyone[0] < FINDING else everyone[2]
        mean = (row[0] * row[1] + LEAN * everyone[1]) / (row[0] + LEAN)
        variance = (row[0] * row[2] + LEAN * all_variance) / (row[0] + LEAN) + FLOOR
        deviation = math.sqrt(variance)
        out[0, i] = t_tail(value, mean, variance, min(row[0], HEAVY)) if new else 0.0
        out[1, i] = met
        out[2, i] = math.expm1(mean)
        out[3, i] = math.expm1(mean + 2.0 * deviation)
        if not learn[i]:
            continue
        advance(clock, time[i])
        if not new:
            continue
        row[3] = met
        row[4] = time[i]
        # One lesson an hour that is over, of its highest: a scan of thousands is one lesson, for its source and for everyone.
        if row[5] == 0.0 or passed(time[i], row[5], hour_unit(clock[1]), HOUR):
            if row[5] != 0.0:
                teach(row, winsorised(row[6], mean, deviation, row[0], FINDING, MOST_TAUGHT))
                teach_all(everyone, row[6])
            row[5] = time[i]
            row[6] = 0.0
        row[6] = max(row[6], value)


class Fanout(Signal):
    """Student-t tail of ln(1 + f), f = decayed number of first-ever partners; scored at each new one, learned by
    the hour.

    Idea: scans, lateral movement and collecting before a theft meet many for the first time within an hour. Partners are endpoints:
    object, action and detail. Fails on patient attackers, and on crawlers whose trade it is. Cost: a logarithm and an exponential an
    event, 56 bytes an actor. Parameters: ``memory_hours``.
    """

    unit = "new partners in an hour"

    weight: float = 0.1
    memory_hours: Annotated[float, msgspec.Meta(gt=0, le=8760)] = 1.0

    @property
    def visit(self) -> Visit:
        """At the actor."""
        return "actor"

    def state(self) -> dict[str, tuple[str, ...]]:
        """Lessons, mean and variance of ln(1 + f); f and its time; the current hour and its highest ln(1 + f)."""
        return {"actor": ("seen", "mean", "variance", "partners", "time", "since", "peak")}

    def scalars(self) -> tuple[str, ...]:
        """Everyone's lessons, mean and variance; clock and age."""
        return ("seen", "mean", "variance", "now", "age")

    def surprise(self, rows: Rows, tables: dict[str, np.ndarray], scalars: np.ndarray, out: np.ndarray) -> None:
        """See the contract."""
        memory = self.memory_hours * HOUR
        partners, actors = rows.counts[PAIR_DAYS], rows.slots["actor"]
        _fanout(rows.time, rows.learn, partners, actors, tables["actor"], scalars[:3], scalars[3:], memory, out)

    def text(self, seen: float, expected: float, usual: float, actor: str, object: str) -> str:
        """See the contract."""
        met = f"{actor} met {number(round(seen))} new partners within an hour"
        return f"{met}, {number(round(expected, 1))} expected, up to {number(math.ceil(usual))} would be normal"


LEARNER = Fanout
