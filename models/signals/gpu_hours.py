"""GPU-hours: what an actor's jobs have used in the last day, against its own days; and levels learned by the hour, for its kin too."""

from __future__ import annotations

import math
from typing import Annotated, Any

import msgspec
import numpy as np
from numba import njit

from models.kernels import HOUR, SECOND, advance, hour_unit, passed, second_of, t_tail
from models.profiles import Fields
from models.signals import Rows, Signal, Visit, number
from models.signals.magnitude import BASELINE, FINDING, FLOOR, HEAVY, LEAN, MOST_TAUGHT, POPULATION, teach, teach_all, winsorised

#: A level of an actor that is learned by the hour: its baseline, the hour at hand and the highest value in it.
LEVEL: Fields = (*BASELINE, ("since", "u4"), ("peak", "f4"))


@njit(cache=True)
def pooled(row: Any, everyone: Any, value: float) -> tuple[float, float]:
    """(mean, variance) that are expected of an actor's level, leaning on everyone's. Where nothing is known of anyone, the first
    ``value`` is what is usual."""
    seen = float(row.seen)
    all_mean = everyone.mean if everyone.seen != 0.0 else value
    all_variance = max(everyone.variance, 1.0) if everyone.seen < FINDING else everyone.variance
    mean = (seen * row.mean + LEAN * all_mean) / (seen + LEAN)
    return mean, (seen * row.variance + LEAN * all_variance) / (seen + LEAN) + FLOOR


@njit(cache=True)
def teach_by_hour(row: Any, everyone: Any, value: float, mean: float, variance: float, now: float, age: float, pace: float) -> None:
    """One lesson an hour that is over, of the highest level in it, and at most mean + 1 sd: however many rows, they are one."""
    if row.since == 0 or passed(now, row.since * SECOND, hour_unit(age), HOUR):
        if row.since != 0:
            peak = float(row.peak)
            teach(row, winsorised(peak, mean, math.sqrt(variance), float(row.seen), FINDING, MOST_TAUGHT, pace), pace)
            teach_all(everyone, peak)
        row.since = second_of(now)
        row.peak = 0.0
    row.peak = max(row.peak, value)


@njit(cache=True)
def _gpu_hours(
    time: np.ndarray,
    learn: np.ndarray,
    pace: np.ndarray,
    gpu_seconds: np.ndarray,
    slot: np.ndarray,
    table: np.ndarray,
    population: np.ndarray,
    clock: np.ndarray,
    memory: float,
    out: np.ndarray,
) -> None:
    everyone = population[0]
    for i in range(len(time)):
        if math.isnan(gpu_seconds[i]):
            out[:, i] = math.nan
            continue
        row = table[slot[i]]
        second = second_of(time[i])
        total = row.hours * math.exp(-max((float(second) - row.time) * SECOND, 0.0) / memory) + gpu_seconds[i] / 3600.0
        value = math.log1p(total)
        mean, variance = pooled(row, everyone, value)
        # A job that used nothing says nothing about what was used.
        out[0, i] = t_tail(value, mean, variance, min(float(row.seen), HEAVY)) if gpu_seconds[i] > 0.0 else 0.0
        out[1, i] = total
        out[2, i] = math.expm1(mean)
        out[3, i] = math.expm1(min(mean + 2.0 * math.sqrt(variance), 80.0))
        if not learn[i]:
            continue
        advance(clock, time[i])
        row.hours, row.time = total, second
        teach_by_hour(row, everyone, value, mean, variance, time[i], clock[1], pace[i])


class GpuHours(Signal):
    """Student-t tail of ln(1 + v), v = decayed sum of the GPU-hours that an actor's jobs used.

    Idea: mining, training on stolen data and jobs under a stolen account use more than the account ever did. In logarithms one job of
    a thousand GPU-hours and a hundred jobs of ten are the same news. Use is booked when it is reported, at a job's end. One lesson an
    hour, of its highest level, at most mean + 1 sd.
    Fails on a job that does not end (see ``hoarding``), where sources tell GPUs and not GPU-seconds (pods: also ``hoarding``), and on
    accounts that use everything anyway. Cost: two logarithms and an exponential a job, nothing on other rows; 28 bytes an actor.
    Parameters: ``memory_hours``. Paper: Huber, 1964 (winsorising); Lange, Little and Taylor, 1989 (t).
    """

    unit = "GPU-hours"
    needs = "gpus"

    weight: float = 0.3
    memory_hours: Annotated[float, msgspec.Meta(gt=0, le=8760)] = 24.0

    @property
    def visit(self) -> Visit:
        """At the actor."""
        return "actor"

    def state(self) -> dict[str, Fields]:
        """Lessons, mean and variance of ln(1 + v), the current hour and its highest; v in GPU-hours, and its time."""
        return {"actor": (*LEVEL, ("hours", "f4"), ("time", "u4"))}

    def scalars(self) -> tuple[str, ...]:
        """Everyone's lessons, mean and variance; clock and age."""
        return ("seen", "mean", "variance", "now", "age")

    def surprise(self, rows: Rows, tables: dict[str, np.ndarray], scalars: np.ndarray, out: np.ndarray) -> None:
        """See the contract."""
        everyone, clock = scalars[:3].view(POPULATION), scalars[3:]
        memory = self.memory_hours * HOUR
        actors = rows.slots["actor"]
        _gpu_hours(rows.time, rows.learn, rows.pace, rows.gpu_seconds, actors, tables["actor"], everyone, clock, memory, out)

    def text(self, seen: float, expected: float, usual: float, actor: str, object: str) -> str:
        """See the contract."""
        used = f"jobs of {actor} used {number(round(seen, 1))} GPU-hours in the last day"
        return f"{used}, {number(round(expected, 1))} expected, up to {number(round(usual, 1))} would be normal"


LEARNER = GpuHours
