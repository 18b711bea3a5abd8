"""Novelty of a pair, from either side: how strange this actor is at this endpoint, and this endpoint for this actor."""

from __future__ import annotations

import math
from typing import Annotated, Literal

import msgspec
import numpy as np
from numba import njit

from models.counts import ALL_HOURS, DAYS, HOURS, PAIR_DAYS, PARTNERS, POPULATION
from models.signals import Rows, Signal, Visit, number


@njit(cache=True)
def _pitman_yor(
    pair: np.ndarray,
    own: np.ndarray,
    partners: np.ndarray,
    back_off: np.ndarray,
    discount: float,
    strength: float,
    out: np.ndarray,
) -> None:
    for i in range(len(pair)):
        share = min((back_off[0, i] + 0.5) / (back_off[1, i] + 0.5 * back_off[2, i]), 1.0)
        spread = strength + discount * partners[i]
        p = (max(pair[i] - discount, 0.0) + spread * share) / (max(own[i], pair[i]) + spread)
        out[0, i] = -math.log(min(p, 1.0))
        out[1, i] = pair[i]
        out[2, i] = own[i]
        out[3, i] = partners[i]


class Novelty(Signal):
    """-ln of the Pitman-Yor predictive probability of the partner, counted in edge-days, backing off to how active it is at all.

    ``at = "object"``: the actor at this endpoint (who comes here?). ``at = "actor"``: the endpoint at this actor (where does it go?).
    Idea: a pair that never met is more surprising where one side has few, steady partners and the other is rare everywhere.
    Fails on services that everybody touches once, and on attackers who keep to known pairs. Counting days, not events, is what makes
    it work: on events the AUC of the first form is .605, on days .970 (DARPA-98 June).
    Cost: one logarithm an event; no state beyond the unit counts. Parameters (no unit): ``discount`` in (0, 1), ``strength`` > 0;
    indifferent over .2-.8 and .2-5. Paper: Pitman and Yor, 1997; Teh, 2006.
    """

    drifts = True
    unit = "days met"

    at: Literal["object", "actor"] = "object"
    discount: Annotated[float, msgspec.Meta(gt=0, lt=1)] = 0.5
    strength: Annotated[float, msgspec.Meta(gt=0, le=1e6)] = 1.0

    @property
    def visit(self) -> Visit:
        """At the object, which then knows both sides."""
        return "object"

    def surprise(self, rows: Rows, tables: dict[str, np.ndarray], scalars: np.ndarray, out: np.ndarray) -> None:
        """See the contract."""
        own, other = (rows.counts, rows.actor_counts) if self.at == "object" else (rows.actor_counts, rows.counts)
        back_off = np.vstack((other[HOURS], other[ALL_HOURS], other[POPULATION]))
        _pitman_yor(rows.counts[PAIR_DAYS], own[DAYS], own[PARTNERS], back_off, self.discount, self.strength, out)

    def text(self, seen: float, expected: float, usual: float, actor: str, object: str) -> str:
        """See the contract; here ``expected`` is the side's days with anyone and ``usual`` its partners ever."""
        side, other = (object, actor) if self.at == "object" else (actor, object)
        met = "has never met" if seen < 0.05 else "seldom meets" if seen < 2.0 else f"meets (on {number(round(seen))} days)"
        others = round(usual - (seen >= 0.05))
        if others < 1:
            return f"{side} {met} {other}, and nobody else" if seen >= 0.05 else f"{side} {met} {other}; it is new here itself"
        return f"{side} {met} {other}; it knows {number(others)} other{'s' if others > 1 else ''}"


LEARNER = Novelty
