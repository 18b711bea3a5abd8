"""Rate: events in the current minute against the key's own minutes."""

from __future__ import annotations

import math
from typing import Annotated, Literal

import msgspec
import numpy as np
from numba import njit

from models.kernels import DAY, MINUTE
from models.profiles import Fields
from models.signals import Rows, Signal, Visit, number

#: Strength of the prior in minutes: 1 to 10 times less or more made no difference on DARPA-98 June.
PRIOR = 200.0
#: Deviations above the mean that a minute teaches at most; inside an announced change the latter.
MOST_TAUGHT, MOST_TAUGHT_IN_CHANGE = 2.0, 3.0
#: Expected events a minute before anything is known.
FIRST = {"actor": 0.02, "object": 0.02, "pair": 0.002}


@njit(cache=True)
def _rate(
    time: np.ndarray,
    learn: np.ndarray,
    pace: np.ndarray,
    weight: np.ndarray,
    slot: np.ndarray,
    table: np.ndarray,
    first: float,
    memory: float,
    out: np.ndarray,
) -> None:
    for i in range(len(time)):
        row = table[slot[i]]
        minute = math.floor(time[i] / MINUTE)
        count, total, squares, minutes = float(row.count), float(row.sum), float(row.squares), float(row.minutes)
        mean = (total + PRIOR * first) / (minutes + PRIOR)
        square = (squares + PRIOR * (first + first * first)) / (minutes + PRIOR)
        if row.minute != minute:
            if row.minute != 0:
                # The minute that is over teaches at most what a mildly busy one would.
                deviation = math.sqrt(max(square - mean * mean, mean))
                most = MOST_TAUGHT_IN_CHANGE if pace[i] > 1.0 else MOST_TAUGHT
                taught = min(count, mean + max(1.0, most * deviation))
                fade = math.exp(-(minute - row.minute) / memory)
                total = (total + pace[i] * taught) * fade
                squares = (squares + pace[i] * taught * taught) * fade
                minutes = (minutes + pace[i]) * fade + memory * (1.0 - math.exp(-(minute - row.minute - 1.0) / memory))
                mean = (total + PRIOR * first) / (minutes + PRIOR)
                square = (squares + PRIOR * (first + first * first)) / (minutes + PRIOR)
            count = 0.0
        seen = count + weight[i]
        # A row that does not teach is judged in its own minute too, but leaves the books as they are.
        if learn[i]:
            row.minute, row.count, row.sum, row.squares, row.minutes = minute, seen, total, squares, minutes
        variance = max(square - mean * mean, mean * 1.000001)
        x = 0.0
        if seen > mean:
            size = mean * mean / (variance - mean)
            if size > 1e6 * mean:
                x = seen * math.log(seen / mean) - (seen - mean)
            else:
                x = seen * math.log(seen / mean) - (seen + size) * math.log((seen + size) / (mean + size))
        out[0, i] = max(x, 0.0)
        out[1, i] = seen
        out[2, i] = mean
        out[3, i] = max(mean + 2.0 * math.sqrt(variance), 1.0)


class Rate(Signal):
    """Chernoff bound of a negative binomial for the events of this minute so far; the minute is learned when it is over.

    ``of``: whose minutes: the actor's, the object's or the pair's. Idea: floods, scans, brute force, beacons run wild.
    Fails on slow attacks; a minute that is over teaches at most mean + 2 sd, so a flood buys no baseline, and neither does a slow push
    quickly. Benign bursts are as extreme as attacks: keep the weight small (0.03).
    Cost: two logarithms an event, 20 bytes an identity. Parameters: ``memory_days`` (2-30 did equally well). Paper: Chernoff, 1952.
    """

    unit = "events a minute"
    needs = "rate"

    weight: float = 0.03
    of: Literal["actor", "object", "pair"] = "actor"
    memory_days: Annotated[float, msgspec.Meta(gt=0, le=3650)] = 7.0

    @property
    def visit(self) -> Visit:
        """The actor's own at the actor, the others at the object."""
        return "actor" if self.of == "actor" else "object"

    def state(self) -> dict[str, Fields]:
        """Current minute and its count; decayed sum, sum of squares and number of past minutes."""
        return {self.of: (("minute", "u4"), ("count", "f4"), ("sum", "f4"), ("squares", "f4"), ("minutes", "f4"))}

    def surprise(self, rows: Rows, tables: dict[str, np.ndarray], scalars: np.ndarray, out: np.ndarray) -> None:
        """See the contract."""
        _rate(
            rows.time,
            rows.learn,
            rows.pace,
            rows.weight,
            rows.slots[self.of],
            tables[self.of],
            FIRST[self.of],
            self.memory_days * DAY / MINUTE,
            out,
        )

    def text(self, seen: float, expected: float, usual: float, actor: str, object: str) -> str:
        """See the contract."""
        who = {"actor": actor, "object": object, "pair": f"{actor} at {object}"}[self.of]
        return f"{who}: {number(seen)} events this minute, {number(expected)} expected, up to {number(usual)} would be normal"


LEARNER = Rate
