"""Cumulative egress: what an actor has moved in the last day, in model-sizes, against its own days."""

from __future__ import annotations

import math
from typing import Annotated

import msgspec
import numpy as np
from numba import njit

from models.kernels import DAY, HOUR, hour_unit, passed, t_tail
from models.signals import Rows, Signal, Visit
from models.signals.magnitude import ALL_RATE, FLOOR, HEAVY, LEAN

#: A blob or object below this is no weights: it tells nothing about the size of models. 1 MiB.
SMALLEST_MODEL = float(1 << 20)
#: Hours of history after which an actor's mean moves no slower: about a month of activity.
LONGEST = 500.0


@njit(cache=True)
def _egress(
    time: np.ndarray,
    learn: np.ndarray,
    moved: np.ndarray,
    basis: np.ndarray,
    model: np.ndarray,
    slot: np.ndarray,
    table: np.ndarray,
    scalars: np.ndarray,
    assumed: float,
    memory: float,
    out: np.ndarray,
) -> None:
    for i in range(len(time)):
        if math.isnan(moved[i]):
            out[:, i] = math.nan
            continue
        row = table[slot[i]]
        now = time[i]
        if row[1] != 0.0 and row[6] != basis[i]:
            # The same transfer seen by a sensor that counts differently must not add up twice.
            out[:, i] = math.nan
            continue
        size = math.exp(scalars[0]) if scalars[1] >= 10.0 else assumed
        total = row[0] * math.exp(-max(now - row[1], 0.0) / memory) + moved[i]
        value = math.log1p(total / size)
        mean = (row[2] * row[3] + LEAN * scalars[3]) / (row[2] + LEAN)
        variance = (row[2] * row[4] + LEAN * scalars[4]) / (row[2] + LEAN) + FLOOR
        deviation = math.sqrt(variance)
        out[0, i] = t_tail(value, mean, variance, min(row[2], HEAVY)) if moved[i] > 0.0 else 0.0
        out[1, i] = total / size
        out[2, i] = math.expm1(mean)
        out[3, i] = math.expm1(min(mean + 2.0 * deviation, 80.0))
        if not learn[i]:
            continue
        row[0] = total
        row[1] = now
        row[6] = basis[i]
        if model[i] and moved[i] >= SMALLEST_MODEL and (row[7] == 0.0 or passed(now, row[7], hour_unit(scalars[6]), HOUR)):
            # One lesson an hour and actor here too, or a flood of one huge object would make every other theft look small.
            row[7] = now
            scalars[1] += 1.0
            weight = max(ALL_RATE, 1.0 / scalars[1])
            scalars[0] += weight * (math.log(moved[i]) - scalars[0])
        # One lesson an hour, of the level reached, at most mean + 1 sd.
        if row[5] == 0.0 or passed(now, row[5], hour_unit(scalars[6]), HOUR):
            row[5] = now
            taught = min(max(value, mean - 3.0 * deviation), mean + deviation)
            weight = 1.0 / min(row[2] + 1.0, LONGEST)
            delta = taught - row[3]
            row[4] += weight * (delta * delta * (1.0 - weight) - row[4])
            row[3] += weight * delta
            row[2] += 1.0
            scalars[2] += 1.0
            weight = max(ALL_RATE, 1.0 / scalars[2])
            delta = taught - scalars[3]
            scalars[3] += weight * delta
            scalars[4] += weight * (delta * delta - scalars[4])
        if scalars[5] != 0.0 and now > scalars[5]:
            scalars[6] += min(now - scalars[5], DAY)
        scalars[5] = max(scalars[5], now)


class Egress(Signal):
    """Student-t tail of ln(1 + v), v = decayed sum of the bytes an actor moved, in sizes of a model's weights.

    Idea: theft of weights moves a model's size, at once or in drips. In units of a model's size small talk is all alike (near zero)
    and only an amount that could be a model stands out. The size is the running geometric mean of the objects of 1 MiB and more
    that registry records show, until ten are seen ``model_bytes``.
    Fails on a drip slower than the memory, and on actors whose trade is moving models. Cost: two logarithms and an exponential an
    event, 64 bytes an actor. Parameters: ``model_bytes``, ``memory_hours``.
    """

    unit = "model-sizes"

    weight: float = 0.3
    model_bytes: Annotated[float, msgspec.Meta(gt=0, le=1e15)] = 4e9
    memory_hours: Annotated[float, msgspec.Meta(gt=0, le=87_600)] = 24.0

    @property
    def visit(self) -> Visit:
        """At the actor."""
        return "actor"

    def state(self) -> dict[str, tuple[str, ...]]:
        """Decayed bytes and their time; hours taught, mean and variance of ln(1 + v), last lesson; what the bytes count; last size
        told."""
        return {"actor": ("bytes", "bytes_time", "hours", "mean", "variance", "taught", "basis", "sized")}

    def scalars(self) -> tuple[str, ...]:
        """Mean ln size of models and how many; lessons, mean and variance of everyone; clock and age."""
        return ("ln_size", "sizes", "lessons", "mean", "variance", "now", "age")

    def surprise(self, rows: Rows, tables: dict[str, np.ndarray], scalars: np.ndarray, out: np.ndarray) -> None:
        """See the contract."""
        _egress(
            rows.time,
            rows.learn,
            rows.moved,
            rows.basis,
            rows.model,
            rows.slots["actor"],
            tables["actor"],
            scalars,
            self.model_bytes,
            self.memory_hours * HOUR,
            out,
        )

    def text(self, seen: float, expected: float, usual: float, actor: str, object: str) -> str:
        """See the contract."""
        return f"{actor} moved {_sizes(seen)} in the last day, {_sizes(expected)} expected, up to {_sizes(usual)} would be normal"


def _sizes(value: float) -> str:
    return f"{value:.1%} of a model" if value < 1 else f"{value:.1f} model-sizes"


LEARNER = Egress
