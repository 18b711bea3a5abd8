"""Rarity of the actor: how small a share of all activity this identity usually is."""

from __future__ import annotations

import math

import numpy as np
from numba import njit

from models.counts import ALL_HOURS, HOURS, POPULATION
from models.signals import Rows, Signal, Visit, number


@njit(cache=True)
def _rarity(hours: np.ndarray, all_hours: np.ndarray, population: np.ndarray, out: np.ndarray) -> None:
    for i in range(len(hours)):
        share = (hours[i] + 0.5) / (all_hours[i] + 0.5 * population[i])
        out[0, i] = -math.log(min(share, 1.0))
        out[1, i] = hours[i]
        out[2, i] = all_hours[i] / population[i]
        out[3, i] = math.nan


class Rarity(Signal):
    """-ln of the actor's share of all active edge-hours up to yesterday, half an hour added to everyone.

    Idea: most attacks come from identities that are rarely active (detection.md of the design: hard-mode AUC .551 without it).
    Fails when the attacker uses a busy identity; then novelty, rate and bytes have to see it. In a growing population every newcomer
    is a record: hence ``drifts``.
    A period is an hour, shorter while the stream is young.
    Cost: one logarithm an event; no state beyond the visit's own unit counts. Paper: add-half (Krichevsky-Trofimov) estimate, 1981.
    """

    drifts = True
    unit = "active periods"

    @property
    def visit(self) -> Visit:
        """At the object, which knows what all partitions of actors have seen."""
        return "object"

    def surprise(self, rows: Rows, tables: dict[str, np.ndarray], scalars: np.ndarray, out: np.ndarray) -> None:
        """See the contract."""
        seen = rows.actor_counts
        _rarity(seen[HOURS], seen[ALL_HOURS], seen[POPULATION], out)

    def text(self, seen: float, expected: float, usual: float, actor: str, object: str) -> str:
        """See the contract."""
        if seen < 0.05:
            return f"{actor} has not been active here before; identities here average {number(round(expected, 1))} periods of activity"
        return f"{actor} was active in {number(round(seen, 1))} periods so far; identities here average {number(round(expected, 1))}"


LEARNER = Rarity
