"""Novelty of a pair, from either side: how strange this actor is at this endpoint, and this endpoint for this actor."""

from __future__ import annotations

import math
from typing import Annotated, Literal

import msgspec
import numpy as np
from numba import njit

from models.counts import ALL_HOURS, DAYS, HOURS, LEARN, MEMORY, NEW_DAY, PAIR_DAYS, PARTNERS, POPULATION, faded
from models.kernels import SECOND, second_of
from models.profiles import Fields
from models.signals import Rows, Signal, Visit, number

#: Edge-days of everyone with which a peer group's habits lean on everyone's.
LEAN = 10.0
#: What a peer group did: edge-days with their time, fading like all acquaintance.
HABIT: Fields = (("days", "f4"), ("time", "u4"))


@njit(cache=True, inline="always")
def _fresh(days: float, time: int, now: float) -> float:
    return faded(float(days), max(now - time * SECOND, 0.0), MEMORY)


@njit(cache=True)
def _pitman_yor(
    time: np.ndarray,
    teach: np.ndarray,
    pace: np.ndarray,
    pair: np.ndarray,
    own: np.ndarray,
    partners: np.ndarray,
    back_off: np.ndarray,
    at_object: np.ndarray,
    peer_slot: np.ndarray,
    peer_pair_slot: np.ndarray,
    peer: np.ndarray,
    peer_pair: np.ndarray,
    everyone: np.ndarray,
    discount: float,
    strength: float,
    of_actor: bool,
    out: np.ndarray,
) -> None:
    for i in range(len(pair)):
        share = min((back_off[0, i] + 0.5) / (back_off[1, i] + 0.5 * back_off[2, i]), 1.0)
        group = peer_slot[i]
        if group > 0:
            habit = peer_pair[peer_pair_slot[i]]
            here = _fresh(habit.days, habit.time, time[i])
            all_here = _fresh(peer[group].days, peer[group].time, time[i])
            if of_actor:
                # Where does its group go? Everyone's share is the prior.
                share = min((here + LEAN * share) / (all_here + LEAN), 1.0)
            else:
                # Who comes here: more likely one of a group that comes here more than elsewhere.
                total = faded(everyone[0], max(time[i] - everyone[1], 0.0), MEMORY)
                usual = (all_here + 1.0) / (total + 1.0)
                share = min(share * (here + LEAN * usual) / ((at_object[i] + LEAN) * usual), 1.0)
        spread = strength + discount * partners[i]
        p = (max(pair[i] - discount, 0.0) + spread * share) / (max(own[i], pair[i]) + spread)
        out[0, i] = -math.log(min(p, 1.0))
        out[1, i] = pair[i]
        out[2, i] = own[i]
        out[3, i] = partners[i]
        if not teach[i] or group == 0:
            continue
        second = second_of(time[i])
        habit = peer_pair[peer_pair_slot[i]]
        habit.days = _fresh(habit.days, habit.time, time[i]) + pace[i]
        habit.time = second
        peer[group].days = _fresh(peer[group].days, peer[group].time, time[i]) + pace[i]
        peer[group].time = max(second, peer[group].time)
        everyone[0] = faded(everyone[0], max(time[i] - everyone[1], 0.0), MEMORY) + pace[i]
        everyone[1] = max(time[i], everyone[1])


class Novelty(Signal):
    """-ln of the Pitman-Yor predictive probability of the partner, counted in edge-days, backing off to the actor's peer group and to
    how active the partner is at all.

    ``at = "object"``: the actor at this endpoint (who comes here?). ``at = "actor"``: the endpoint at this actor (where does it go?).
    Idea: a pair that never met is more surprising where one side has few, steady partners and the other is rare everywhere; less so
    where others of the actor's group meet it all the time.
    Fails on services that everybody touches once, and on attackers who keep to known pairs. Counting days, not events, is what makes
    it work: on events the AUC of the first form is .605, on days .970 (DARPA-98 June).
    Cost: one logarithm an event; 8 bytes a peer group and endpoint, beside the visits' own unit counts. Parameters (no unit):
    ``discount`` in (0, 1), ``strength`` > 0; indifferent over .2-.8 and .2-5. Paper: Pitman and Yor, 1997; Teh, 2006.
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

    def state(self) -> dict[str, Fields]:
        """Edge-days of a peer group, and of a peer group at an endpoint, each with their time."""
        return {"peer": HABIT, "peer_pair": HABIT}

    def scalars(self) -> tuple[str, ...]:
        """Edge-days of all groups and their time."""
        return ("days", "time")

    def surprise(self, rows: Rows, tables: dict[str, np.ndarray], scalars: np.ndarray, out: np.ndarray) -> None:
        """See the contract."""
        of_actor = self.at == "actor"
        own, other = (rows.actor_counts, rows.counts) if of_actor else (rows.counts, rows.actor_counts)
        back_off = np.vstack((other[HOURS], other[ALL_HOURS], other[POPULATION]))
        _pitman_yor(
            rows.time,
            rows.learn & (rows.actor_counts[LEARN] != 0.0) & (rows.counts[NEW_DAY] != 0.0),
            rows.pace,
            rows.counts[PAIR_DAYS],
            own[DAYS],
            own[PARTNERS],
            back_off,
            rows.counts[DAYS],
            rows.slots["peer"],
            rows.slots["peer_pair"],
            tables["peer"],
            tables["peer_pair"],
            scalars,
            self.discount,
            self.strength,
            of_actor,
            out,
        )

    def text(self, seen: float, expected: float, usual: float, actor: str, object: str) -> str:
        """See the contract; here ``expected`` is the side's days with anyone and ``usual`` its partners ever."""
        side, other = (object, actor) if self.at == "object" else (actor, object)
        met = "has never met" if seen < 0.05 else "seldom meets" if seen < 2.0 else f"meets (on {number(round(seen))} days)"
        others = round(usual - (seen >= 0.05))
        if others < 1:
            return f"{side} {met} {other}, and nobody else" if seen >= 0.05 else f"{side} {met} {other}; it is new here itself"
        return f"{side} {met} {other}; it knows {number(others)} other{'s' if others > 1 else ''}"


LEARNER = Novelty
