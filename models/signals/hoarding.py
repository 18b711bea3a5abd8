"""Hoarding: GPUs that an actor holds at the same time, against what it usually holds."""

from __future__ import annotations

import math
from typing import Annotated

import msgspec
import numpy as np
from numba import njit

from models.kernels import DAY, SECOND, advance, second_of, t_tail
from models.profiles import Fields
from models.signals import Rows, Signal, Visit, number
from models.signals.gpu_hours import LEVEL, pooled, teach_by_hour
from models.signals.magnitude import HEAVY, POPULATION

#: Numbers of ``connectors.event.Action``: what takes GPUs, what gives them back.
CREATE, SUBMIT, START = 6, 9, 10
DELETE, END = 5, 11


@njit(cache=True)
def _hoarding(
    time: np.ndarray,
    learn: np.ndarray,
    pace: np.ndarray,
    gpus: np.ndarray,
    action: np.ndarray,
    refused: np.ndarray,
    slot: np.ndarray,
    table: np.ndarray,
    population: np.ndarray,
    clock: np.ndarray,
    half_life: float,
    out: np.ndarray,
) -> None:
    everyone = population[0]
    for i in range(len(time)):
        what = action[i]
        takes = what in (START, CREATE, SUBMIT)
        if math.isnan(gpus[i]) or not (takes or what in (END, DELETE)):
            out[:, i] = math.nan
            continue
        row = table[slot[i]]
        if what == SUBMIT and row.starts:
            # It will be told when it starts.
            out[:, i] = math.nan
            continue
        second = second_of(time[i])
        held = row.held * math.exp2(-max((float(second) - row.time) * SECOND, 0.0) / half_life)
        held = held + gpus[i] if takes else max(held - gpus[i], 0.0)
        value = math.log1p(held)
        mean, variance = pooled(row, everyone, value)
        out[0, i] = t_tail(value, mean, variance, min(float(row.seen), HEAVY)) if takes and gpus[i] > 0.0 else 0.0
        out[1, i] = held
        out[2, i] = math.expm1(mean)
        out[3, i] = math.expm1(min(mean + 2.0 * math.sqrt(variance), 80.0))
        # What was refused is held by nobody.
        if not learn[i] or (takes and refused[i] == 1.0):
            continue
        advance(clock, time[i])
        row.held, row.time = held, second
        if what == START:
            row.starts = 1
        if takes:
            teach_by_hour(row, everyone, value, mean, variance, time[i], clock[1], pace[i])


class Hoarding(Signal):
    """Student-t tail of ln(1 + h), h = GPUs an actor holds at the same time; scored when it takes more.

    Idea: GPUs are few, so a stolen or greedy account shows by how many it holds at once, long before its jobs end and are billed. Rows
    with GPUs and action start or create take them, end and delete give them back; submit takes them as long as the actor was never
    told to start; a refused request is scored, but takes none. What is held halves every ``half_life_days``, for ends that are never
    told: where a source tells no ends at all (pods that are created and not seen to go), h is the GPUs asked for lately, which is as
    good to compare. One lesson an hour, of its highest level, at most mean + 1 sd.
    Fails where only ends are told (Slurm without ``enable_job_start``: h stays 0, nothing is strange), on jobs that run for weeks
    (half forgotten), and on schedulers that hold for others: their own usual is high. Cost: two logarithms and an exponential a row
    with GPUs, nothing on others; 29 bytes an actor. Parameters: ``half_life_days``. Paper: Huber, 1964 (winsorising).
    """

    unit = "GPUs held"
    needs = "gpus"

    weight: float = 0.1
    half_life_days: Annotated[float, msgspec.Meta(gt=0, le=365)] = 7.0

    @property
    def visit(self) -> Visit:
        """At the actor."""
        return "actor"

    def state(self) -> dict[str, Fields]:
        """Lessons, mean and variance of ln(1 + h), the current hour and its highest; h and its time; whether starts are told."""
        return {"actor": (*LEVEL, ("held", "f4"), ("time", "u4"), ("starts", "u1"))}

    def scalars(self) -> tuple[str, ...]:
        """Everyone's lessons, mean and variance; clock and age."""
        return ("seen", "mean", "variance", "now", "age")

    def surprise(self, rows: Rows, tables: dict[str, np.ndarray], scalars: np.ndarray, out: np.ndarray) -> None:
        """See the contract."""
        _hoarding(
            rows.time,
            rows.learn,
            rows.pace,
            rows.gpus,
            rows.action,
            rows.refused,
            rows.slots["actor"],
            tables["actor"],
            scalars[:3].view(POPULATION),
            scalars[3:],
            self.half_life_days * DAY,
            out,
        )

    def text(self, seen: float, expected: float, usual: float, actor: str, object: str) -> str:
        """See the contract."""
        held = f"{actor} holds {number(round(seen))} GPUs at once"
        return f"{held}, {number(round(expected, 1))} expected, up to {number(math.ceil(usual))} would be normal"


LEARNER = Hoarding
