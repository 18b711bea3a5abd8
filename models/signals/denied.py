"""Denied ratio: refusals of this hour against the actor's usual share of them."""

from __future__ import annotations

import math
from typing import Annotated

import msgspec
import numpy as np
from numba import njit

from models.kernels import DAY, HOUR, passed
from models.signals import Rows, Signal, Visit, number

#: Refusals an hour that say nothing: anyone mistypes. Without it a single one among the never-refused is the rarest event there is.
FREE = 1.0
#: Pseudo-attempts with which an actor leans on everyone's share.
LEAN = 20.0
#: Attempts that one hour of one actor counts for at most: a flood of refusals must not become what is usual, least of all for others.
MOST_ATTEMPTS = 100.0


@njit(cache=True)
def _denied(
    time: np.ndarray,
    learn: np.ndarray,
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
        share = (row[0] + LEAN * everyone) / (row[1] + LEAN)
        bad = row[2]
        tried = row[3]
        if row[4] == 0.0 or passed(now, row[4], HOUR, HOUR):
            if row[4] != 0.0:
                # The hour that is over teaches at most twice the usual share of refusals, and at least one.
                part = min(1.0, MOST_ATTEMPTS / max(tried, 1.0))
                told = part * tried
                taught = min(part * bad, max(1.0, 2.0 * share * told))
                fade = math.exp(-max(now - row[4], 0.0) / memory)
                own = (row[0] + taught) * fade, (row[1] + told) * fade
                fade = math.exp(-max(now - scalars[2], 0.0) / memory)
                all_ = scalars[0] * fade + taught, scalars[1] * fade + told
                everyone = (all_[0] + 0.5) / (all_[1] + 10.0)
                share = (own[0] + LEAN * everyone) / (own[1] + LEAN)
                if learn[i]:
                    row[0], row[1] = own
                    scalars[0], scalars[1] = all_
                    scalars[2] = max(now, scalars[2])
            bad = 0.0
            tried = 0.0
            if learn[i]:
                row[4] = now
        bad += refused[i] * weight[i]
        tried += weight[i]
        # A row that does not teach is judged in its own hour too, but leaves the books as they are.
        if learn[i]:
            row[2] = bad
            row[3] = tried
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
    Cost: two logarithms a refused event, 40 bytes an actor. Parameters: ``memory_days``. Paper: Chernoff, 1952.
    """

    unit = "refusals this hour"
    needs = "outcome"

    weight: float = 0.1
    memory_days: Annotated[float, msgspec.Meta(gt=0, le=3650)] = 7.0

    @property
    def visit(self) -> Visit:
        """At the actor."""
        return "actor"

    def state(self) -> dict[str, tuple[str, ...]]:
        """Decayed refusals and attempts; this hour's, and when it began."""
        return {"actor": ("refused", "tried", "refused_now", "tried_now", "since")}

    def scalars(self) -> tuple[str, ...]:
        """Everyone's refusals and attempts, and their time."""
        return ("refused", "tried", "time")

    def surprise(self, rows: Rows, tables: dict[str, np.ndarray], scalars: np.ndarray, out: np.ndarray) -> None:
        """See the contract."""
        _denied(
            rows.time,
            rows.learn,
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
