"""Fan-out: endpoints an actor meets for the first time ever, in the last hour, against its own such hours."""

from __future__ import annotations

import math
from typing import Annotated

import msgspec
import numpy as np
from numba import njit

from models.counts import PAIR_DAYS
from models.kernels import HOUR, t_tail
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
        if not learn[i] or not new:
            continue
        row[3] = met
        row[4] = time[i]
        teach(row, winsorised(value, mean, deviation, row[0], FINDING, MOST_TAUGHT))
        teach_all(everyone, value)


class Fanout(Signal):
    """Student-t tail of ln(1 + f), f = decayed number of first-ever partners; scored and learned at each new one.

    Idea: scans, lateral movement and collecting before a theft meet many for the first time within an hour. Partners are endpoints:
    object, action and detail. Fails on patient attackers, and on crawlers whose trade it is. Cost: a logarithm and an exponential an
    event, 40 bytes an actor. Parameters: ``memory_hours``.
    """

    unit = "new partners in an hour"

    weight: float = 0.1
    memory_hours: Annotated[float, msgspec.Meta(gt=0, le=8760)] = 1.0

    @property
    def visit(self) -> Visit:
        """At the actor."""
        return "actor"

    def state(self) -> dict[str, tuple[str, ...]]:
        """Lessons, mean and variance of ln(1 + f); f and its time."""
        return {"actor": ("seen", "mean", "variance", "partners", "time")}

    def scalars(self) -> tuple[str, ...]:
        """Everyone's lessons, mean and variance."""
        return ("seen", "mean", "variance")

    def surprise(self, rows: Rows, tables: dict[str, np.ndarray], scalars: np.ndarray, out: np.ndarray) -> None:
        """See the contract."""
        memory = self.memory_hours * HOUR
        _fanout(rows.time, rows.learn, rows.counts[PAIR_DAYS], rows.slots["actor"], tables["actor"], scalars, memory, out)

    def text(self, seen: float, expected: float, usual: float, actor: str, object: str) -> str:
        """See the contract."""
        met = f"{actor} met {number(round(seen, 1))} new partners within an hour"
        return f"{met}, {number(round(expected, 1))} expected, up to {number(round(usual, 1))} would be normal"


LEARNER = Fanout
