"""Magnitude: bytes of one event against the pair's own, then the actor's, then everyone's."""

from __future__ import annotations

import math

import numpy as np
from numba import njit

from models.kernels import MINUTE, t_tail
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
#: Lessons after which a mean moves no slower.
LONGEST = 500.0


@njit(cache=True, inline="always")
def winsorised(value: float, mean: float, deviation: float, seen: float, finding: float, most: float) -> float:
    """What an observation may teach a key that has ``seen`` so many: up to mean + ``most`` sd, in the first ``finding`` + 3 sd."""
    return min(max(value, mean - 3.0 * deviation), mean + (3.0 if seen < finding else most) * deviation)


@njit(cache=True)
def teach_all(row: np.ndarray, value: float) -> None:
    """Teach the population ``[seen, mean, variance]``: within 3 sd once it has begun, so that it can widen, but slowly."""
    deviation = math.sqrt(row[2] + FLOOR)
    weight = max(ALL_RATE, 1.0 / (row[0] + 1.0))
    delta = value - row[1]
    if row[0] >= FINDING:
        delta = min(max(delta, -3.0 * deviation), 3.0 * deviation)
    row[1] += weight * delta
    row[2] += weight * (delta * delta - row[2])
    row[0] += 1.0


@njit(cache=True)
def teach(row: np.ndarray, value: float) -> None:
    """Teach a key ``[seen, mean, variance]``."""
    weight = 1.0 / min(row[0] + 1.0, LONGEST)
    delta = value - row[1]
    row[2] += weight * (delta * delta * (1.0 - weight) - row[2])
    row[1] += weight * delta
    row[0] += 1.0


@njit(cache=True)
def _magnitude(
    time: np.ndarray,
    moved: np.ndarray,
    basis: np.ndarray,
    learn: np.ndarray,
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
        all_mean = all_[1] if all_[0] != 0.0 else value
        all_variance = max(all_[2], 1.0) if all_[0] < FINDING else all_[2]
        # Sensors that count differently share no baseline: a row of another basis leans on its population alone.
        same_pair = own[0] == 0.0 or own[3] == basis[i]
        same_actor = self[0] == 0.0 or self[3] == basis[i]
        n_self = self[0] if same_actor else 0.0
        n_own = own[0] if same_pair else 0.0
        mean = (n_self * self[1] + LEAN * all_mean) / (n_self + LEAN)
        variance = (n_self * self[2] + LEAN * all_variance) / (n_self + LEAN)
        mean = (n_own * own[1] + LEAN * mean) / (n_own + LEAN)
        variance = (n_own * own[2] + LEAN * variance) / (n_own + LEAN) + FLOOR
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
        if same_pair and own[4] != minute:
            own[3] = basis[i]
            own[4] = minute
            teach(own, winsorised(value, mean, deviation, n_own, FINDING, MOST_TAUGHT))
        if same_actor and self[4] != minute:
            self[3] = basis[i]
            self[4] = minute
            teach(self, winsorised(value, mean, deviation, n_self, FINDING, MOST_TAUGHT))
            teach_all(all_, value)


class Magnitude(Signal):
    """Student-t tail of ln(1 + bytes moved) under the pair's mean and variance, leaning on the actor's, leaning on everyone's.

    Idea: an upload far larger than this pair ever made. The tail is an ordering only: calibration by rank makes it a probability,
    because no parametric tail of byte counts holds (nominal 1e-3 came out at 2e-2). Learning is winsorised at mean + 1 sd.
    Fails on theft in usual-sized pieces (see egress) and where the source has no bytes. Cost: two logarithms an event; 40 bytes an
    actor, 40 a pair. Paper: Huber, 1964 (winsorising); Lange, Little and Taylor, 1989 (t).
    """

    unit = "bytes"
    needs = "bytes"

    weight: float = 0.3

    @property
    def visit(self) -> Visit:
        """At the actor."""
        return "actor"

    def state(self) -> dict[str, tuple[str, ...]]:
        """Minutes learned, mean and variance of ln(1 + bytes), what the bytes count, and the last minute learned."""
        fields = ("seen", "mean", "variance", "basis", "minute")
        return {"actor": fields, "actor_pair": fields}

    def scalars(self) -> tuple[str, ...]:
        """The population's, for each of five bases."""
        return tuple(f"{field}_{basis}" for basis in range(5) for field in ("seen", "mean", "variance"))

    def surprise(self, rows: Rows, tables: dict[str, np.ndarray], scalars: np.ndarray, out: np.ndarray) -> None:
        """See the contract."""
        _magnitude(
            rows.time,
            rows.moved,
            rows.basis,
            rows.learn,
            rows.slots["actor"],
            rows.slots["actor_pair"],
            tables["actor"],
            tables["actor_pair"],
            scalars.reshape(5, 3),
            out,
        )

    def text(self, seen: float, expected: float, usual: float, actor: str, object: str) -> str:
        """See the contract."""
        return f"{amount(seen)} moved, about {amount(expected)} expected between these two, up to {amount(usual)} would be normal"


LEARNER = Magnitude
