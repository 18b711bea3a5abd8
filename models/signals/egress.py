"""Cumulative egress: what an actor has moved in the last day, in model-sizes, against its own days."""

from __future__ import annotations

import math
from typing import Annotated

import msgspec
import numpy as np
from numba import njit

from models.kernels import DAY, HOUR, SECOND, hour_unit, passed, second_of, t_tail
from models.profiles import Fields, record
from models.signals import Rows, Signal, Visit
from models.signals.magnitude import ALL_RATE, BASELINE, FLOOR, HEAVY, LEAN, POPULATION, teach, teach_all, winsorised

#: A blob or object below this is a layer or a shard, no weights: it tells nothing about the size of models. 100 MiB.
SMALLEST_MODEL = float(100 << 20)
#: Lessons in which a newcomer's baseline is found: two days, because a sum with a day's memory takes as long to fill.
FINDING = 48.0
#: Deviations above the mean that an hour teaches at most. At 1 a node that moves much on some days and little on others never gets a
#: baseline that knows both, because exceedances then cannot widen the variance.
MOST_TAUGHT = 2.0
#: Models seen before their mean size is believed.
ENOUGH_MODELS = 10.0
#: What the bytes of a registry count (``connectors.event.Basis.object``): no sensor of flows counts that, so both add up apart.
OBJECT = 4
#: One of an actor's two sums: its baseline, the bytes and their time, the last lesson, what the bytes count. The bytes are as exact as
#: they come: in half as many digits a drip of small pieces would not add up.
SUM: Fields = (*BASELINE, ("bytes", "f8"), ("bytes_time", "u4"), ("taught", "u4"), ("basis", "u1"))
_SUM = record(SUM)


@njit(cache=True)
def _egress(
    time: np.ndarray,
    learn: np.ndarray,
    pace: np.ndarray,
    moved: np.ndarray,
    basis: np.ndarray,
    model: np.ndarray,
    slot: np.ndarray,
    table: np.ndarray,
    sizes: np.ndarray,
    everyone: np.ndarray,
    assumed: float,
    memory: float,
    out: np.ndarray,
) -> None:
    for i in range(len(time)):
        if math.isnan(moved[i]):
            out[:, i] = math.nan
            continue
        way = 1 if basis[i] == OBJECT else 0
        row = table[slot[i], way]
        now = time[i]
        second = second_of(now)
        if row.bytes_time != 0 and row.basis != basis[i]:
            # The same transfer seen by a sensor that counts differently must not add up twice.
            out[:, i] = math.nan
            continue
        size = math.exp(sizes[0]) if sizes[1] >= ENOUGH_MODELS else assumed
        total = row.bytes * math.exp(-max((float(second) - row.bytes_time) * SECOND, 0.0) / memory) + moved[i]
        value = math.log1p(total / size)
        all_ = everyone[way]
        seen = float(row.seen)
        mean = (seen * row.mean + LEAN * all_.mean) / (seen + LEAN)
        variance = (seen * row.variance + LEAN * all_.variance) / (seen + LEAN) + FLOOR
        deviation = math.sqrt(variance)
        out[0, i] = t_tail(value, mean, variance, min(seen, HEAVY)) if moved[i] > 0.0 else 0.0
        out[1, i] = total / size
        out[2, i] = math.expm1(mean)
        out[3, i] = math.expm1(min(mean + 2.0 * deviation, 80.0))
        if not learn[i]:
            continue
        row.basis = basis[i]
        row.bytes = total
        row.bytes_time = second
        # One lesson an hour, of the level reached and of a model's size: whoever moves the most does not set the scale.
        if row.taught == 0 or passed(now, row.taught * SECOND, hour_unit(sizes[3]), HOUR):
            row.taught = second
            teach(row, winsorised(value, mean, deviation, seen, FINDING, MOST_TAUGHT, pace[i]), pace[i])
            teach_all(all_, value)
            if model[i] and moved[i] >= SMALLEST_MODEL:
                sizes[1] += 1.0
                sizes[0] += max(ALL_RATE, 1.0 / sizes[1]) * (math.log(moved[i]) - sizes[0])
        if sizes[2] != 0.0 and now > sizes[2]:
            sizes[3] += min(now - sizes[2], DAY)
        sizes[2] = max(sizes[2], now)


class Egress(Signal):
    """Student-t tail of ln(1 + v), v = decayed sum of the bytes an actor moved, in sizes of a model's weights.

    Idea: theft of weights moves a model's size, at once or in drips. In units of a model's size small talk is all alike (near zero)
    and only an amount that could be a model stands out. The size is the geometric mean of the objects of 100 MiB and more that
    registry records show, one an actor and hour; until ten are seen, ``model_bytes``. What is read from a registry and what is sent
    over the network are two sums.
    Fails on a drip slower than the memory, and on actors whose trade is moving models. Cost: two logarithms and an exponential an
    event, 58 bytes an actor. Parameters: ``model_bytes``, ``memory_hours``, ``outside``: count only what is sent to addresses outside
    the site, so that the terabytes which move within it are no cover; a model is then as large as ``model_bytes`` says.
    """

    unit = "model-sizes"
    needs = "bytes"

    weight: float = 0.3
    model_bytes: Annotated[float, msgspec.Meta(ge=1e6, le=1e15)] = 4e9
    memory_hours: Annotated[float, msgspec.Meta(gt=0, le=8760)] = 24.0
    outside: bool = False

    @property
    def visit(self) -> Visit:
        """At the actor."""
        return "actor"

    def state(self) -> dict[str, Fields]:
        """Both sums, one after the other: what is sent, and what is read out of a registry."""
        return {"actor": tuple((f"{way}_{field[0]}", field[1]) for way in ("sent", "read") for field in SUM)}

    def scalars(self) -> tuple[str, ...]:
        """Mean ln size of models and how many, clock and age; then lessons, mean and variance of everyone, for each sum."""
        return ("ln_size", "sizes", "now", "age", *(f"{way}_{field}" for way in ("sent", "read") for field in POPULATION.names or ()))

    def surprise(self, rows: Rows, tables: dict[str, np.ndarray], scalars: np.ndarray, out: np.ndarray) -> None:
        """See the contract."""
        _egress(
            rows.time,
            rows.learn,
            rows.pace,
            np.where(rows.outward, rows.moved, np.nan) if self.outside else rows.moved,
            rows.basis,
            rows.model,
            rows.slots["actor"],
            tables["actor"].view(_SUM).reshape(-1, 2),
            scalars[:4],
            scalars[4:].view(POPULATION),
            self.model_bytes,
            self.memory_hours * HOUR,
            out,
        )

    def text(self, seen: float, expected: float, usual: float, actor: str, object: str) -> str:
        """See the contract."""
        moved = "sent to the outside" if self.outside else "moved"
        return (
            f"{actor} {moved} {_sizes(seen)} in the last day, {_sizes(max(expected, 0.0))} expected, "
            f"up to {_sizes(max(usual, 0.0))} would be normal"
        )


def _sizes(value: float) -> str:
    return f"{value:.2%} of a model" if value < 1 else f"{value:.1f} model-sizes"


LEARNER = Egress
