"""Magnitude: bytes of one event against the pair's own, then the actor's, then everyone's."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numba import njit

from models.kernels import MINUTE, t_tail
from models.profiles import Fields, record
from models.signals import Rows, Signal, Visit, amount

#: Pseudo-observations with which each level leans on the one above it.
LEAN = 3.0
#: Byte counts have heavy tails: degrees of freedom beyond this many observations would make every fourth transfer a wonder.
HEAVY = 3.0
#: Keeps the variance of constant sizes from vanishing, in squared nats of ln bytes.
FLOOR = 0.02
#: Rate at which the population's mean and variance move.
ALL_RATE = 0.001
#: Observations in which a newcomer's baseline is found rather than defended: they teach up to mean + 3 sd, later ones up to + 1 sd.
#: Without it one that starts far above everyone's mean never catches up, because what is cut off also shrinks the deviation.
FINDING = 8.0
#: Deviations above the mean that an observation teaches at most. .5, 1 and 2 did much the same on DARPA-98 June.
MOST_TAUGHT = 1.0
#: ... and inside an announced change, where the unusual is meant to become usual.
MOST_TAUGHT_IN_CHANGE = 3.0
#: Lessons after which a mean moves no slower.
LONGEST = 500.0
#: A baseline of a key: lessons, mean and variance. ``teach`` teaches any record with these fields.
BASELINE: Fields = (("seen", "f4"), ("mean", "f4"), ("variance", "f4"))
#: The same of a population, as three stream-wide scalars are viewed. ``teach_all`` teaches any record with these fields.
POPULATION = record((("seen", "f8"), ("mean", "f8"), ("variance", "f8")))


@njit(cache=True, inline="always")
def winsorised(value: float, mean: float, deviation: float, seen: float, finding: float, most: float, pace: float = 1.0) -> float:
    """What an observation may teach a key that has ``seen`` so many: up to mean + ``most`` sd, in the first ``finding`` and inside an
    announced change (``pace`` above 1) up to + 3 sd."""
    if seen < finding:
        most = 3.0
    elif pace > 1.0:
        most = max(most, MOST_TAUGHT_IN_CHANGE)
    return min(max(value, mean - 3.0 * deviation), mean + most * deviation)


@njit(cache=True)
def teach_all(row: Any, value: float) -> None:
    """Teach the population: within 3 sd once it has begun, so that it can widen, but slowly. A change of some is not everyone's: no
    ``pace`` here."""
    deviation = math.sqrt(row.variance + FLOOR)
    weight = max(ALL_RATE, 1.0 / (row.seen + 1.0))
    delta = value - row.mean
    if row.seen >= FINDING:
        delta = min(max(delta, -3.0 * deviation), 3.0 * deviation)
    row.mean += weight * delta
    row.variance += weight * (delta * delta - row.variance)
    row.seen += 1.0


@njit(cache=True)
def teach(row: Any, value: float, pace: float = 1.0) -> None:
    """Teach a key, inside an announced change ``pace`` times as firmly."""
    seen, mean, variance = float(row.seen), float(row.mean), float(row.variance)
    weight = min(pace / min(seen + 1.0, LONGEST), 1.0)
    delta = value - mean
    row.variance = variance + weight * (delta * delta * (1.0 - weight) - variance)
    row.mean = mean + weight * delta
    row.seen = seen + 1.0


@njit(cache=True)
def _magnitude(
    time: np.ndarray,
    moved: np.ndarray,
    basis: np.ndarray,
    learn: np.ndarray,
    pace: np.ndarray,
    actor_slot: np.ndarray,
    pair_slot: np.ndarray,
    actor: np.ndarray,
    pair: np.ndarray,
    everyone: np.ndarray,
    out: np.ndarray,
) -> None:
    for i in range(len(moved)):
        if math.isnan(moved[i]):
            out[:, i] = math.nan
            continue
        if moved[i] == 0.0:
            # Nothing moved: no size to compare, and a size of zero would only widen what is normal.
            out[:, i] = 0.0
            continue
        own = pair[pair_slot[i]]
        self = actor[actor_slot[i]]
        all_ = everyone[basis[i]]
        value = math.log1p(moved[i])
        # Where nothing is known of anyone, the first value is what is usual.
        all_mean = all_.mean if all_.seen != 0.0 else value
        all_variance = max(all_.variance, 1.0) if all_.seen < FINDING else all_.variance
        # Sensors that count differently share no baseline: a row of another basis leans on its population alone.
        same_pair = own.seen == 0.0 or own.basis == basis[i]
        same_actor = self.seen == 0.0 or self.basis == basis[i]
        n_self = float(self.seen) if same_actor else 0.0
        n_own = float(own.seen) if same_pair else 0.0
        mean = (n_self * self.mean + LEAN * all_mean) / (n_self + LEAN)
        variance = (n_self * self.variance + LEAN * all_variance) / (n_self + LEAN)
        mean = (n_own * own.mean + LEAN * mean) / (n_own + LEAN)
        variance = (n_own * own.variance + LEAN * variance) / (n_own + LEAN) + FLOOR
        deviation = math.sqrt(variance)
        # A new pair is judged by the actor's history, and as firmly as that is known.
        support = (n_own * n_own + LEAN * n_self) / (n_own + LEAN)
        out[0, i] = t_tail(value, mean, variance, min(support, HEAVY))
        out[1, i] = moved[i]
        out[2, i] = math.expm1(mean)
        out[3, i] = math.expm1(min(mean + 2.0 * deviation, 80.0))
        if not learn[i]:
            continue
        # One lesson a minute, so that a flood buys one step and not a baseline.
        minute = math.floor(time[i] / MINUTE)
        if same_pair and own.minute != minute:
            own.basis = basis[i]
            own.minute = minute
            teach(own, winsorised(value, mean, deviation, n_own, FINDING, MOST_TAUGHT, pace[i]), pace[i])
        if same_actor and self.minute != minute:
            self.basis = basis[i]
            self.minute = minute
            teach(self, winsorised(value, mean, deviation, n_self, FINDING, MOST_TAUGHT, pace[i]), pace[i])
            teach_all(all_, value)


class Magnitude(Signal):
    """Student-t tail of ln(1 + bytes moved) under the pair's mean and variance, leaning on the actor's, leaning on everyone's.

    Idea: an upload far larger than this pair ever made. The tail is an ordering only: calibration by rank makes it a probability,
    because no parametric tail of byte counts holds (nominal 1e-3 came out at 2e-2). Learning is winsorised at mean + 1 sd.
    Fails on theft in usual-sized pieces (see egress) and where the source has no bytes. Cost: two logarithms an event; 17 bytes an
    actor, 17 a pair. Paper: Huber, 1964 (winsorising); Lange, Little and Taylor, 1989 (t).
    """

    unit = "bytes"
    needs = "bytes"

    weight: float = 0.3

    @property
    def visit(self) -> Visit:
        """At the actor."""
        return "actor"

    def state(self) -> dict[str, Fields]:
        """Minutes learned, mean and variance of ln(1 + bytes), what the bytes count, and the last minute learned."""
        fields: Fields = (*BASELINE, ("basis", "u1"), ("minute", "u4"))
        return {"actor": fields, "actor_pair": fields}

    def scalars(self) -> tuple[str, ...]:
        """The population's, for each of five bases."""
        return tuple(f"{field}_{basis}" for basis in range(5) for field in POPULATION.names or ())

    def surprise(self, rows: Rows, tables: dict[str, np.ndarray], scalars: np.ndarray, out: np.ndarray) -> None:
        """See the contract."""
        _magnitude(
            rows.time,
            rows.moved,
            rows.basis,
            rows.learn,
            rows.pace,
            rows.slots["actor"],
            rows.slots["actor_pair"],
            tables["actor"],
            tables["actor_pair"],
            scalars.view(POPULATION),
            out,
        )

    def text(self, seen: float, expected: float, usual: float, actor: str, object: str) -> str:
        """See the contract."""
        return f"{amount(seen)} moved, about {amount(expected)} expected between these two, up to {amount(usual)} would be normal"


LEARNER = Magnitude
