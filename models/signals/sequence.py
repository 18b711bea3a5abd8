"""Sequence: what an identity does right after what it did before."""

from __future__ import annotations

import math
from typing import Annotated, Any

import msgspec
import numpy as np
from numba import njit

from models.kernels import MINUTE, SECOND, second_of
from models.profiles import Fields
from models.signals import Rows, Signal, Visit, number

#: Numbers of ``connectors.event``: the streams and actions that are told apart here.
FLOW, AUTH = 0, 3
CONNECT, SUBMIT, END, USE = 1, 9, 11, 16
#: Actions told apart: those of ``connectors.event.Action``, and the ones before ``submit`` a second time for the auth stream, where
#: a list or a read is a request to a control plane and not to a registry.
CODES = 32
SECOND_TIME = 19
#: What stands before the first step after a pause.
PAUSE = 31
#: Places of an actor's steps: (before, then) is remembered by a hash.
PLACES = 64
#: The same again counts up to so many steps from an action: enough to make anything else strange.
MOST_SAME = 1000
#: A counter is full here; then all of the actor's count half.
FULL = 255
#: Each of everyone's steps counts at least this much: one identity more does not make a step usual.
EVEN = 2.0
#: Times that an actor has done a step when it teaches everyone. Once may be chance, and a flood of throw-away identities does it once.
BELIEVED = 2
#: An actor: second and code of its last step (+ 1), places taught in that minute; steps to something else by place, and all by what
#: stands before.
STEPS: Fields = (("time", "u4"), ("last", "u1"), ("taught", "u8"), ("steps", "u1", PLACES), ("before", "u2", CODES))


@njit(cache=True, inline="always")
def _code(stream: int, action: int) -> int:
    """The code of what a row does; -1 where it is no step.

    A flow is written when it ends and a job ends by itself, so neither has a place in the order of what its owner does; ``use``
    goes with every other act.
    """
    if stream == FLOW or action in (0, END, USE):
        return -1
    return action + SECOND_TIME if stream == AUTH and CONNECT <= action <= SUBMIT else action


@njit(cache=True, inline="always")
def _place(before: int, then: int) -> int:
    return int((np.uint64(before * CODES + then + 1) * np.uint64(0x9E3779B97F4A7C15)) >> np.uint64(58))


@njit(cache=True)
def _teach(row: Any, place: int, before: int, times: int) -> None:
    """Count a step; where a counter would overflow, all count half."""
    if row.steps[place] + times > FULL:
        for each in range(PLACES):
            row.steps[each] = row.steps[each] // 2
        for each in range(CODES):
            row.before[each] = row.before[each] // 2
    row.steps[place] += times
    row.before[before] += times


@njit(cache=True)
def _sequence(
    time: np.ndarray,
    learn: np.ndarray,
    pace: np.ndarray,
    stream: np.ndarray,
    action: np.ndarray,
    slot: np.ndarray,
    table: np.ndarray,
    everyone: np.ndarray,
    pause: float,
    strength: float,
    out: np.ndarray,
) -> None:
    for i in range(len(time)):
        then = _code(stream[i], action[i])
        if then < 0:
            out[:, i] = math.nan
            continue
        row = table[slot[i]]
        second = second_of(time[i])
        away = row.last == 0 or (float(second) - float(row.time)) * SECOND >= pause
        before = PAUSE if away else int(row.last) - 1
        place = _place(before, then)
        all_ = everyone[before]
        done, total = float(row.steps[place]), float(row.before[before])
        share = (all_[then] + EVEN) / (all_[CODES] + EVEN * CODES)
        p = (min(done, total) + strength * share) / (total + strength)
        # Doing the same again is never strange; that it was done tells how strange it is to do something else.
        out[0, i] = -math.log(min(p, 1.0)) if before != then else 0.0
        out[1, i] = done
        out[2, i] = (total + strength) * share
        out[3, i] = total
        if not learn[i]:
            continue
        if math.floor(row.time * SECOND / MINUTE) != math.floor(second * SECOND / MINUTE):
            row.taught = np.uint64(0)
        row.time, row.last = second, then + 1
        bit = np.uint64(1) << np.uint64(place)
        # A step counts once a minute, so a flood of them is one, and so is a flood of the same.
        if row.taught & bit:
            continue
        row.taught |= bit
        if before == then:
            row.before[before] = min(row.before[before] + 1, max(row.before[before], MOST_SAME))
            continue
        known = row.steps[place]
        # Inside an announced change it counts more, but hardly more than all that is known.
        _teach(row, place, before, int(max(min(pace[i], total + 1.0), 1.0)))
        if known < BELIEVED <= row.steps[place]:
            all_[then] += 1.0
            all_[CODES] += 1.0


class Sequence(Signal):
    """-ln of the probability of this action right after the one before, from the actor's own steps, backing off to everyone's.

    Idea: machines, and people at a portal, do things in an order: list then pull, log in then issue. A token in other hands reads
    secrets where its owner renewed a lease. A step is (action, next action); to the same action again it scores 0. After a pause the
    next one begins anew: how an identity begins is a habit too. A step counts once a minute; it teaches everyone's shares when an
    identity takes it a second time, so everyone's are shares of identities, and neither a flood nor a crowd of new names moves them.
    Flows, ends of jobs and ``use`` rows are no steps: they come when something ends, or with every act.
    Fails on identities that do all things in any order (people exploring), and where several sources of one identity are merged with
    unequal delays. Cost: a logarithm a step, nothing on flows; 141 bytes an actor. Parameters: ``pause_minutes``; ``strength``
    in steps, with which an actor leans on everyone. Paper: Markov chains of commands: Schonlau et al., 2001.
    """

    unit = "steps"

    weight: float = 0.1
    pause_minutes: Annotated[float, msgspec.Meta(gt=0, le=10_080)] = 60.0
    strength: Annotated[float, msgspec.Meta(gt=0, le=1e4)] = 5.0

    @property
    def visit(self) -> Visit:
        """At the actor."""
        return "actor"

    def state(self) -> dict[str, Fields]:
        """The last step, and all by place."""
        return {"actor": STEPS}

    def scalars(self) -> tuple[str, ...]:
        """Everyone's steps: for each action before, how many identities went on with each, and all of them."""
        return tuple(f"{before}_{then}" for before in range(CODES) for then in (*range(CODES), "all"))

    def surprise(self, rows: Rows, tables: dict[str, np.ndarray], scalars: np.ndarray, out: np.ndarray) -> None:
        """See the contract. ``usual`` is here how many steps the actor has taken from the action before, ``expected`` how many of these
        and of ``strength`` more would be this one if it were like everyone."""
        _sequence(
            rows.time,
            rows.learn,
            rows.pace,
            rows.stream,
            rows.action,
            rows.slots["actor"],
            tables["actor"],
            scalars.reshape(CODES, CODES + 1),
            self.pause_minutes * MINUTE,
            self.strength,
            out,
        )

    def text(self, seen: float, expected: float, usual: float, actor: str, object: str) -> str:
        """See the contract."""
        everyone = f"everyone: 1 in {number(min((usual + self.strength) / max(expected, 1e-9), 1e9))}"
        if usual < 1.0:
            return f"{actor} went on to this from something it never went on from before; {everyone}"
        own = f"in {number(seen)} of its last {number(usual)} steps from there"
        return f"{actor} did this right after what it had done before, as {own}; {everyone}"


LEARNER = Sequence
