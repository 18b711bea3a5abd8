"""Denied ratio: refusals of this hour against the actor's usual share of them."""

from __future__ import annotations

import math
from typing import Annotated

import msgspec
import numpy as np
from numba import njit

from models.kernels import DAY, HOUR, SECOND, passed, second_of
from models.profiles import Fields
from models.signals import Rows, Signal, Visit, number

#: Refusals an hour that say nothing: anyone mistypes. Without it a single one among the never-refused is the rarest event there is.
FREE = 1.0
#: Pseudo-attempts with which an actor leans on everyone's share.
LEAN = 20.0
#: Attempts that one hour of one actor counts for at most: a flood of refusals must not become what is usual, least of all for others.
MOST_ATTEMPTS = 100.0
#: An hour teaches at most this many times the usual share of refusals; inside an announced change the latter.
MOST_SHARE, MOST_SHARE_IN_CHANGE = 2.0, 3.0


@njit(cache=True)
def _denied(
    time: np.ndarray,
    learn: np.ndarray,
    pace: np.ndarray,
    refused: np.ndarray,
    weight: np.ndarray,
    slot: np.ndarray,
    table: np.ndarray,
    scalars: np.ndarray,
    memory: float,
    out: np.ndarray,
) -> None:
    for i in range(len(time)):
        if math.isnan(refused[i]):
            out[:, i] = math.nan
            continue
        row = table[slot[i]]
        now = time[i]
        everyone = (scalars[0] + 0.5) / (scalars[1] + 10.0)
        share = (row.refused + LEAN * everyone) / (row.tried + LEAN)
        bad = float(row.refused_now)
        tried = float(row.tried_now)
        began = row.since * SECOND
        if row.since == 0 or passed(now, began, HOUR, HOUR):
            if row.since != 0:
                # The hour that is over teaches at most so many times the usual share of refusals, and at least one.
                part = min(1.0, MOST_ATTEMPTS / max(tried, 1.0))
                told = part * tried
                taught = min(part * bad, max(1.0, MOST_SHARE * share * told))
                fade = math.exp(-max(now - scalars[2], 0.0) / memory)
                all_ = scalars[0] * fade + taught, scalars[1] * fade + told
                if pace[i] > 1.0:
                    taught = min(part * bad, max(1.0, MOST_SHARE_IN_CHANGE * share * told))
                fade = math.exp(-max(now - began, 0.0) / memory)
                own = (row.refused + pace[i] * taught) * fade, (row.tried + pace[i] * told) * fade
                everyone = (all_[0] + 0.5) / (all_[1] + 10.0)
                share = (own[0] + LEAN * everyone) / (own[1] + LEAN)
                if learn[i]:
                    row.refused, row.tried = own
                    scalars[0], scalars[1] = all_
                    scalars[2] = max(now, scalars[2])
            bad = 0.0
            tried = 0.0
            if learn[i]:
                row.since = second_of(now)
        bad += refused[i] * weight[i]
        tried += weight[i]
        # A row that does not teach is judged in its own hour too, but leaves the books as they are.
        if learn[i]:
            row.refused_now = bad
            row.tried_now = tried
        mean = share * tried + FREE
        x = 0.0
        if refused[i] > 0.0 and bad > mean:
            x = bad * math.log(bad / mean) - (bad - mean)
        out[0, i] = x
        out[1, i] = bad
        out[2, i] = share * tried
        out[3, i] = math.ceil(mean + 2.0 * math.sqrt(mean))


class Denied(Signal):
    """Chernoff bound of a Poisson count for the refusals (denied or failed) of this hour, beyond the usual share and one to spare.

    Idea: probing, guessing and scanning are refused far more often than work is. Only a refused event is surprising, so that evidence
    points at refusals. Fails on attackers with valid rights and where the source does not say the outcome.
    Cost: two logarithms a refused event, 20 bytes an actor. Parameters: ``memory_days``. Paper: Chernoff, 1952.
    """

    unit = "refusals this hour"
    needs = "outcome"

    weight: float = 0.1
    memory_days: Annotated[float, msgspec.Meta(gt=0, le=3650)] = 7.0

    @property
    def visit(self) -> Visit:
        """At the actor."""
        return "actor"

    def state(self) -> dict[str, Fields]:
        """Decayed refusals and attempts; this hour's, and when it began."""
        return {"actor": (("refused", "f4"), ("tried", "f4"), ("refused_now", "f4"), ("tried_now", "f4"), ("since", "u4"))}

    def scalars(self) -> tuple[str, ...]:
        """Everyone's refusals and attempts, and their time."""
        return ("refused", "tried", "time")

    def surprise(self, rows: Rows, tables: dict[str, np.ndarray], scalars: np.ndarray, out: np.ndarray) -> None:
        """See the contract."""
        _denied(
            rows.time,
            rows.learn,
            rows.pace,
            rows.refused,
            rows.weight,
            rows.slots["actor"],
            tables["actor"],
            scalars,
            self.memory_days * DAY,
            out,
        )

    def text(self, seen: float, expected: float, usual: float, actor: str, object: str) -> str:
        """See the contract."""
        return f"{actor} was refused {number(seen)} times this hour, {number(expected)} expected, up to {number(usual)} would be normal"


LEARNER = Denied
