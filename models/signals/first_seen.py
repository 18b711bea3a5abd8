"""First seen: an identity that was never active before, where newcomers are few."""

from __future__ import annotations

import math
from typing import Annotated

import msgspec
import numpy as np
from numba import njit

from models.counts import BUSIEST, CELLS, NEW_HOUR
from models.kernels import DAY, HOUR, SECOND, advance, hour_unit, passed, second_of
from models.profiles import Fields, record
from models.signals import Rows, Signal, Visit, number

#: Newcomers of one stream that an hour may teach: this many, or so many times as many as usual. Without a bound a flood of made-up
#: identities makes newcomers normal.
FEWEST_AN_HOUR, TIMES_USUAL = 20.0, 3.0
#: Streams (``connectors.event.Stream``) whose newcomers are counted apart, with room for more.
STREAMS = 8
#: A stream: decayed newcomers and units of activity, their time; the current hour and the newcomers taught in it.
NEWCOMERS: Fields = (("newcomers", "f8"), ("units", "f8"), ("time", "f8"), ("hour", "f8"), ("taught", "f8"))
_NEWCOMERS = record(NEWCOMERS)


@njit(cache=True)
def _first_seen(
    time: np.ndarray,
    learn: np.ndarray,
    pace: np.ndarray,
    stream: np.ndarray,
    new_hour: np.ndarray,
    cells: np.ndarray,
    slot: np.ndarray,
    table: np.ndarray,
    clock: np.ndarray,
    streams: np.ndarray,
    memory: float,
    out: np.ndarray,
) -> None:
    for i in range(len(time)):
        row = table[slot[i]]
        all_ = streams[stream[i] % STREAMS]
        now = time[i]
        fade = math.exp(-max(now - all_.time, 0.0) / memory)
        newcomers, units = all_.newcomers * fade, all_.units * fade
        new = row.since == 0 or not passed(now, row.since * SECOND, hour_unit(clock[1]), HOUR)
        out[0, i] = math.log((units + 1.0) / (newcomers + 1.0)) if new else 0.0
        out[1, i] = 1.0 if new else 0.0
        out[2, i] = (newcomers + 1.0) / (units + 1.0)
        out[3, i] = units
        if not learn[i]:
            continue
        advance(clock, now)
        if row.since == 0:
            row.since = second_of(now)
            if all_.hour == 0.0 or passed(now, all_.hour, hour_unit(clock[1]), HOUR):
                all_.hour = now
                all_.taught = 0.0
            # How many an hour usually has: their decayed number over the length of the memory, as far as that is filled.
            usual = newcomers * hour_unit(clock[1]) / max(memory * (1.0 - math.exp(-clock[1] / memory)), HOUR)
            row.counts = 1 if all_.taught < max(FEWEST_AN_HOUR, TIMES_USUAL * usual) * pace[i] else 0
            if row.counts:
                all_.taught += 1.0
                newcomers += pace[i]
        elif not new:
            # Whoever comes back is one of the known from now on, however many came with it.
            row.counts = 1
        if new_hour[i] == 0.0 or row.counts == 0 or cells[i] > BUSIEST:
            continue
        all_.newcomers, all_.units = newcomers, units + pace[i]
        all_.time = max(now, all_.time)


class FirstSeen(Signal):
    """-ln of the share of a stream's active hours that were some identity's first, on the rows of an identity's first hour.

    Idea: where accounts, addresses and workloads have long been known, one that nobody has ever seen is news; where they come and go,
    it is not. The chance that the next unit of activity (an actor at an endpoint, once an hour) is a newcomer's is the share of those
    that were (Good and Turing). Each stream has its own share. An identity known for an hour scores 0. Of the newcomers of an hour
    only so many teach (20, or three times the usual), and the units of the others count neither, so that a flood of made-up names
    does not make newcomers normal. All newcomers score alike, so it says little beside ``rarity``: keep the weight small (0.03).
    Fails on attackers who use a known identity, and calls an identity that was forgotten for lack of room new again.
    Cost: an exponential an event and a logarithm in a first hour; 5 bytes an actor. Parameters: ``memory_days``. Paper: Good, 1953.
    """

    unit = "newcomers"

    weight: float = 0.03
    memory_days: Annotated[float, msgspec.Meta(gt=0, le=3650)] = 10.0

    @property
    def visit(self) -> Visit:
        """At the actor."""
        return "actor"

    def state(self) -> dict[str, Fields]:
        """When it was first seen, and whether its units count."""
        return {"actor": (("since", "u4"), ("counts", "u1"))}

    def scalars(self) -> tuple[str, ...]:
        """Clock and age; then each stream's newcomers."""
        return ("now", "age", *(f"{field[0]}_{stream}" for stream in range(STREAMS) for field in NEWCOMERS))

    def surprise(self, rows: Rows, tables: dict[str, np.ndarray], scalars: np.ndarray, out: np.ndarray) -> None:
        """See the contract. ``seen`` is 1 for a newcomer, ``expected`` how many are in a unit of activity, ``usual`` all units."""
        _first_seen(
            rows.time,
            rows.learn,
            rows.pace,
            rows.stream,
            rows.counts[NEW_HOUR],
            rows.counts[CELLS],
            rows.slots["actor"],
            tables["actor"],
            scalars[:2],
            scalars[2:].view(_NEWCOMERS),
            self.memory_days * DAY,
            out,
        )

    def text(self, seen: float, expected: float, usual: float, actor: str, object: str) -> str:
        """See the contract."""
        newcomers = min(max(expected * (usual + 1.0) - 1.0, 0.0), usual)
        share = f"{number(round(newcomers, 1))} of {number(round(usual))} active hours here were a newcomer's"
        return f"first hour ever of {actor}; {share}" if seen >= 0.5 else f"{actor} is known here; {share}"


LEARNER = FirstSeen
