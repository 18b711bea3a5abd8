"""Outward: an identity that talks to addresses outside the site, or comes from one, and did not use to."""

from __future__ import annotations

import math
from typing import Annotated

import msgspec
import numpy as np
from numba import njit

from models.counts import faded
from models.kernels import DAY, HOUR, SECOND, advance, hour_unit, passed, second_of
from models.profiles import Fields
from models.signals import Rows, Signal, Visit, number

#: Number of ``connectors.event.Stream``.
FLOW = 0
#: Active hours with which an actor leans on everyone.
LEAN = 20.0


@njit(cache=True)
def _outward(
    time: np.ndarray,
    learn: np.ndarray,
    pace: np.ndarray,
    stream: np.ndarray,
    outward: np.ndarray,
    slot: np.ndarray,
    table: np.ndarray,
    clock: np.ndarray,
    everyone: np.ndarray,
    memory: float,
    flows: bool,
    out: np.ndarray,
) -> None:
    for i in range(len(time)):
        if (stream[i] == FLOW) != flows:
            out[:, i] = math.nan
            continue
        row = table[slot[i]]
        now = time[i]
        hours, outside = float(row.hours), float(row.outside)
        over = row.since == 0 or passed(now, row.since * SECOND, hour_unit(clock[1]), HOUR)
        if over and row.since != 0:
            # The hour that is over counts once, and once as one in which it talked to the outside.
            fade = faded(1.0, now - row.since * SECOND, memory)
            outside = (outside + row.now * pace[i]) * fade
            hours = (hours + pace[i]) * fade
        share = (everyone[1] + 0.5) / (everyone[0] + 1.0)
        p = (outside + LEAN * share) / (hours + LEAN)
        out[0, i] = -math.log(min(p, 1.0)) if outward[i] else 0.0
        out[1, i] = outside
        out[2, i] = (hours + LEAN) * share
        out[3, i] = hours
        if not learn[i]:
            continue
        advance(clock, now)
        if over:
            if row.since != 0:
                fade = faded(1.0, now - everyone[2], memory)
                everyone[0] = everyone[0] * fade + 1.0
                everyone[1] = everyone[1] * fade + row.now
                everyone[2] = max(now, everyone[2])
            row.hours, row.outside = hours, outside
            row.since, row.now = second_of(now), 0
        if outward[i]:
            row.now = 1


class Outward(Signal):
    """-ln of the share of an actor's active hours in which it talked to an address outside the site, leaning on everyone's.

    Idea: a job, a database or a node has its partners inside; one that suddenly talks to the Internet brings tools in or data out. An
    hour counts once, however many flows it has, and when it is over; so a flood buys one hour, and an identity that never comes back
    teaches nobody. What stays inside scores 0.
    With ``calls`` not whom a flow goes to but where a log-in or a request comes from, on the streams whose records name that address;
    where people work from outside as a rule, their own hours and everyone's keep it silent.
    Fails on identities that browse or call out anyway (people, loaders, gateways), where a proxy stands between, and where the outside
    has names and not addresses. Cost: a logarithm an outward flow, an exponential an hour and actor; 13 bytes an actor. Parameters:
    ``calls``, ``memory_days``. Paper: a beta-binomial share (Skellam, 1948).
    """

    unit = "hours with the outside"

    weight: float = 0.1
    calls: bool = False
    memory_days: Annotated[float, msgspec.Meta(gt=0, le=3650)] = 30.0

    @property
    def visit(self) -> Visit:
        """At the actor."""
        return "actor"

    def state(self) -> dict[str, Fields]:
        """Decayed active hours, and those with the outside; the hour at hand, and whether it is one."""
        return {"actor": (("hours", "f4"), ("outside", "f4"), ("since", "u4"), ("now", "u1"))}

    def scalars(self) -> tuple[str, ...]:
        """Clock and age; everyone's hours, those with the outside, and their time."""
        return ("now", "age", "hours", "outside", "time")

    def surprise(self, rows: Rows, tables: dict[str, np.ndarray], scalars: np.ndarray, out: np.ndarray) -> None:
        """See the contract. ``usual`` is here how many hours the actor was active, ``expected`` how many of these and of LEAN
        more would be outward if it were like everyone."""
        memory = self.memory_days * DAY
        _outward(
            rows.time,
            rows.learn,
            rows.pace,
            rows.stream,
            rows.outward,
            rows.slots["actor"],
            tables["actor"],
            scalars[:2],
            scalars[2:],
            memory,
            not self.calls,
            out,
        )

    def text(self, seen: float, expected: float, usual: float, actor: str, object: str) -> str:
        """See the contract."""
        everyone = f"everyone: 1 in {number(min((usual + LEAN) / max(expected, 1e-9), 1e9))}"
        does, did = ("comes from", "came from outside") if self.calls else ("talks to", "talked to the outside")
        if usual < 0.5:
            return f"{actor} {does} {object}, which is outside, in its first active hour ({everyone})"
        own = f"in {number(round(seen))} of its {number(round(usual))} active hours it {did}"
        return f"{actor} {does} {object}, which is outside; {own} ({everyone})"


LEARNER = Outward
