"""Attestation: work that starts, or a key released, on an object whose attestation failed, ran out or never was."""

from __future__ import annotations

import math
from typing import Annotated, Any

import msgspec
import numpy as np
from numba import njit

from models.kernels import DAY, HOUR, SECOND, advance, hour_unit, passed, second_of
from models.profiles import Fields
from models.signals import Rows, Signal, Visit, number

#: Numbers of ``connectors.event.Action``.
SUBMIT, START, EXEC, RELEASE_KEY, ATTEST = 9, 10, 12, 18, 19
#: What an hour of an object can hold: an attestation, one that failed; work, work without a valid attestation, work after a failed one.
ATTESTED, FAILED, WORKED, UNATTESTED, WORKED_AFTER_FAILURE = 1, 2, 4, 8, 16
#: Hours with which an object leans on all others.
LEAN = 20.0
#: When an object, or all of them, know this many hours, all count half: what counts is lately.
LONGEST, LONGEST_ALL = 500.0, 50_000.0
#: Nobody has attested for so long: whoever attested at all has stopped, and the signal falls silent.
SILENT = 10.0 * DAY
#: Ages in hours above this mean "never": records count from 1970.
NEVER = 100_000.0
#: Counts of hours, of an object or of all: with attestations, with failed ones; with work, without attestation, after a failed one.
HOURS = ("attested", "failed", "worked", "unattested", "worked_after_failure")
#: An object: seconds of its last good and its last failed attestation; the hour at hand and what it holds; its hours.
STATE: Fields = (("good", "u4"), ("bad", "u4"), ("since", "u4"), ("holds", "u1"), ("hours", "f4", len(HOURS)))


@njit(cache=True)
def _count(hours: Any, holds: int, times: float, longest: float) -> None:
    """Count an hour that is over by what it holds."""
    if hours[0] + hours[2] >= longest:
        for each in range(len(hours)):
            hours[each] *= 0.5
    for each in range(len(hours)):
        if (holds >> each) & 1:
            hours[each] += times


@njit(cache=True, inline="always")
def _share(own: Any, everyone: np.ndarray, bad: int, all_: int) -> float:
    """Share of hours with something bad among those with it at all, of an object that leans on everyone's."""
    share = (everyone[bad] + 0.5) / (everyone[all_] + 1.0)
    return float((own[bad] + LEAN * share) / (own[all_] + LEAN))


@njit(cache=True)
def _attestation(
    time: np.ndarray,
    learn: np.ndarray,
    pace: np.ndarray,
    action: np.ndarray,
    refused: np.ndarray,
    slot: np.ndarray,
    table: np.ndarray,
    clock: np.ndarray,
    everyone: np.ndarray,
    valid: float,
    out: np.ndarray,
) -> None:
    for i in range(len(time)):
        attests = action[i] == ATTEST
        works = action[i] in (SUBMIT, START, EXEC, RELEASE_KEY)
        now = time[i]
        told = not math.isnan(refused[i]) if attests else works and clock[2] != 0.0 and now - clock[2] <= SILENT
        if not told:
            out[:, i] = math.nan
            continue
        row = table[slot[i]]
        second = second_of(now)
        failed = refused[i] == 1.0 if attests else row.bad > row.good
        age = max(float(second) - float(row.good), 0.0) * SECOND if works or failed else 0.0
        if attests:
            expected = _share(row.hours, everyone, 1, 0)
            strange = expected if failed else 1.0
        else:
            expected = _share(row.hours, everyone, 3, 2)
            after_failure = _share(row.hours, everyone, 4, 2)
            strange = min(after_failure, expected) if failed else expected if age >= valid else 1.0
        out[0, i] = -math.log(min(strange, 1.0))
        out[1, i] = age / HOUR
        out[2, i] = expected
        out[3, i] = 0.0 if attests or failed else valid / HOUR
        if not learn[i]:
            continue
        advance(clock, now)
        if row.since == 0 or passed(now, row.since * SECOND, hour_unit(clock[1]), HOUR):
            if row.since != 0:
                _count(row.hours, row.holds, pace[i], LONGEST)
                _count(everyone, row.holds, 1.0, LONGEST_ALL)
            row.since = second
            row.holds = 0
        if attests:
            clock[2] = max(clock[2], now)
            row.holds |= ATTESTED | FAILED if failed else ATTESTED
            # Of several within a second the last decides.
            if failed:
                row.bad = max(second, row.good + 1)
            else:
                row.good = max(second, row.bad)
        elif failed:
            row.holds |= WORKED | UNATTESTED | WORKED_AFTER_FAILURE
        else:
            row.holds |= WORKED | UNATTESTED if age >= valid else WORKED


class Attestation(Signal):
    """-ln of the share of hours in which work started here without a valid attestation, where it just did; and of the share of
    attestations that fail, where one just failed.

    Idea: hardware that cannot prove what it runs must get neither jobs nor keys. What a scheduler should refuse and does not is seen
    here: a job submitted to or started on, a shell opened on, or a key released to an object whose last attestation failed, is older
    than ``valid_hours``, or never was. Where that is usual (queues and pods, which nobody attests) it is not strange; after a failure
    it is never less strange than without any. As long as no attestation was seen within ten days the signal is silent.
    What sources must say: rows of action ``attest`` whose object is what was attested (the node; the actor is the verifier or the node
    itself), with their outcome; and, of the same object, the rows of action submit, start, exec or ``release_key`` (the key is the
    detail). A source that puts jobs on queues, or releases keys with the key as the object, is not connected to the node, and nothing
    is strange. An hour counts once, when it is over.
    Fails on what runs on after its attestation ran out, and on a verifier that is fooled. Cost: a logarithm a row it is about, nothing
    on others; 33 bytes an object. Parameters: ``valid_hours``. Paper: RFC 9334, 2023 (RATS).
    """

    unit = "hours since it attested"
    needs = "attestation"

    weight: float = 0.3
    valid_hours: Annotated[float, msgspec.Meta(gt=0, le=8760)] = 24.0

    @property
    def visit(self) -> Visit:
        """At the object."""
        return "object"

    def state(self) -> dict[str, Fields]:
        """The last good and failed attestation; hours by what they held."""
        return {"object": STATE}

    def scalars(self) -> tuple[str, ...]:
        """Clock, age, time of the last attestation of anything; hours of all objects."""
        return ("now", "age", "attested_at", *HOURS)

    def surprise(self, rows: Rows, tables: dict[str, np.ndarray], scalars: np.ndarray, out: np.ndarray) -> None:
        """See the contract. ``seen``: the age of the last good attestation, since 1970 where there is none; ``usual``: the age that
        would be good, 0 where none would be; ``expected``: the share of hours with the like, of this object leaning on all."""
        _attestation(
            rows.time,
            rows.learn,
            rows.pace,
            rows.action,
            rows.refused,
            rows.slots["object"],
            tables["object"],
            scalars[:3],
            scalars[3:],
            self.valid_hours * HOUR,
            out,
        )

    def text(self, seen: float, expected: float, usual: float, actor: str, object: str) -> str:
        """See the contract."""
        share = f"that is so in {min(expected, 1.0):.2%} of such hours"
        if usual <= 0.0:
            failed = f"the last attestation of {object} failed, and {actor} was at it; {share}"
            return failed if seen > 0.0 else f"{object} has just attested"
        if seen >= NEVER:
            return f"{actor} used {object}, which has never attested; {share}"
        if seen >= usual:
            return f"{actor} used {object}, which attested {number(seen)} hours ago, {number(usual)} at most are good; {share}"
        return f"{object} attested {number(seen)} hours ago, which is good for {number(usual)} hours"


LEARNER = Attestation
