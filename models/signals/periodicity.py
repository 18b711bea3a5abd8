"""Periodicity: calls of a pair that come at even intervals where its calls did not before."""

from __future__ import annotations

import math
from typing import Annotated

import msgspec
import numpy as np
from numba import njit

from models.kernels import MINUTE, second_of
from models.profiles import Fields
from models.signals import Rows, Signal, Visit

#: Mean |ln(interval / usual interval)| before anything is known of anyone: about that of calls at random (a Poisson process).
RANDOM = 1.2
#: No pair counts as more even than this: the first late run of a job that was never late is one, and no change of its ways.
EVENEST = 0.05
#: Pseudo-intervals with which a pair leans on everyone's evenness. The more, the sooner a new timer stands out and the longer a new job
#: does: at 5, 10, 30 jitter of 30 % takes 14, 12, 10 beats to 8 nats, and a job is forgiven after 60, 120, 260 runs.
LEAN = 10.0
#: Intervals after which a pair's own evenness moves no slower: an old pair stays surprising for hundreds of beats.
LONGEST = 500.0
#: Most that an interval adds to and takes from the evidence, in nats. A beat missed or a night slept through is one interval.
MOST_ADDED, MOST_TAKEN = 2.0, 3.0
#: Most evidence: more proves no more, and would take longer to forget.
MOST = 30.0
#: Intervals over which a run's own interval is followed, so that a slow drift of it is no unevenness.
FOLLOWED = 30.0
#: Largest |ln(interval / usual interval)| that is learned: a factor of 20.
MOST_TAUGHT = 3.0
#: A pair teaches everyone at its 8th, 16th, 32nd ... interval (when the number gets a digit in base two): a flood buys a handful.
FIRST_LESSON = 8
#: Rates at which everyone's evenness and the share of whole minutes move.
ALL_RATE = 0.001
#: Streams (``connectors.event.Stream``) whose clocks are told apart, with room for more.
STREAMS = 8
#: A pair: its last event; the run: mean ln interval, mean |ln deviation| from it, intervals, evidence; its own mean |ln deviation|, and
#: intervals known.
PAIR: Fields = (("last", "u4"), ("mean", "f4"), ("deviation", "f4"), ("run", "u2"), ("evidence", "f4"), ("usual", "f4"), ("seen", "u2"))


@njit(cache=True)
def _periodicity(
    time: np.ndarray,
    learn: np.ndarray,
    pace: np.ndarray,
    stream: np.ndarray,
    slot: np.ndarray,
    table: np.ndarray,
    everyone: np.ndarray,
    minutes: np.ndarray,
    jitter: float,
    out: np.ndarray,
) -> None:
    for i in range(len(time)):
        row = table[slot[i]]
        now = second_of(time[i])
        clock = minutes[stream[i] % STREAMS]
        # A log that keeps whole minutes cannot tell calls within one apart.
        grain = 60.0 if clock[1] > 0.5 else 1.0
        gap = float(now) - float(row.last) if row.last != 0 else 0.0
        all_ = everyone[1] if everyone[0] > 0.0 else RANDOM
        seen = float(row.seen)
        usual = max((seen * row.usual + LEAN * all_) / (seen + LEAN), EVENEST)
        mean, deviation, run, evidence = float(row.mean), float(row.deviation), float(row.run), float(row.evidence)
        # What comes within a tick of the clock is one arrival, and so is a flood, however long.
        arrived = gap > grain
        off = 0.0
        if arrived:
            # Without the tick in which nothing can be told apart, so that crowded calls at random remain a Poisson process.
            gap -= grain
            value = math.log(gap)
            # No interval is more even than the clock can tell.
            off = max(abs(value - mean), grain / gap) if run > 0.0 else usual
            # Of a pair as even as a timer already, an uneven interval is no evidence either.
            added = math.log(usual / jitter) - off * max(1.0 / jitter - 1.0 / usual, 0.0)
            evidence = min(evidence + min(max(added, -MOST_TAKEN), MOST_ADDED), MOST) if run > 0.0 else 0.0
            if evidence <= 0.0:
                # Not even, or too briefly: the latest interval is the first of a new run.
                mean, deviation, run, evidence = value, 0.0, 1.0, 0.0
            else:
                weight = 1.0 / min(run + 1.0, FOLLOWED)
                mean += weight * (value - mean)
                deviation += (off - deviation) / min(run, FOLLOWED)
                run = min(run + 1.0, 65_535.0)
        interval = math.exp(mean) + grain if run > 0.0 else 0.0
        out[0, i] = evidence
        out[1, i] = (deviation if run > 1.0 else usual) * interval
        out[2, i] = usual * interval
        out[3, i] = jitter * interval
        if not learn[i]:
            continue
        whole = 1.0 if time[i] % MINUTE == 0.0 else 0.0
        clock[0] += 1.0
        clock[1] += max(ALL_RATE, 1.0 / clock[0]) * (whole - clock[1])
        row.last = now
        if not arrived:
            continue
        if row.run > 0:
            # Inside an announced change an interval counts for several.
            before = int(row.seen)
            row.seen = min(before + int(min(pace[i], 100.0)), 65_535)
            row.usual += min(pace[i] / min(float(row.seen), LONGEST), 1.0) * (min(off, MOST_TAUGHT) - row.usual)
            if row.seen >= FIRST_LESSON and before ^ int(row.seen) > before:
                everyone[0] += 1.0
                everyone[1] += max(ALL_RATE, 1.0 / everyone[0]) * (row.usual - everyone[1])
        row.mean, row.deviation, row.run, row.evidence = mean, deviation, run, evidence


class Periodicity(Signal):
    """Cumulative log-likelihood ratio of a pair's intervals under a timer's law against the pair's own, both Laplace in ln interval.

    Idea: an implant calls home by a timer, people and programs call when there is cause. Each interval is compared with the mean of the
    run so far: as near as a timer with jitter comes to it, it adds to the evidence, otherwise it takes from it, and at zero a new run
    begins. What the pair's own intervals used to vary by, leaning on everyone's, is the alternative, so a job that was always
    regular says nothing, nor does a site where everything is. A pair new and even is surprising for its first hundreds of calls.
    Calls within a second (within a minute where the log keeps whole minutes) are one arrival, and so is a flood; no interval counts as
    more even than the clock tells. Evidence is bounded by the interval and in all, so a missed beat costs little.
    Fails on a timer of wide jitter, on one hidden among a pair's other calls, and on intervals of less than three seconds.
    Cost: two logarithms and an exponential an arrival, 24 bytes a pair. Parameters: ``jitter``, the mean relative deviation of a
    timer's intervals (a uniform jitter of 30 % is one of .16). Paper: Page, 1954 (the sum).
    """

    unit = "seconds that intervals vary by"
    needs = "rate"

    weight: float = 0.1
    jitter: Annotated[float, msgspec.Meta(gt=0, lt=1)] = 0.2

    @property
    def visit(self) -> Visit:
        """At the actor."""
        return "actor"

    def state(self) -> dict[str, Fields]:
        """Last event, the run, and the pair's own evenness."""
        return {"actor_pair": PAIR}

    def scalars(self) -> tuple[str, ...]:
        """Everyone's lessons and evenness; then of each stream rows and the share of them at whole minutes."""
        return ("lessons", "usual", *(f"{field}_{stream}" for stream in range(STREAMS) for field in ("rows", "minutes")))

    def surprise(self, rows: Rows, tables: dict[str, np.ndarray], scalars: np.ndarray, out: np.ndarray) -> None:
        """See the contract. ``usual`` is here the least that would have been unremarkable: the strange is what varies little."""
        _periodicity(
            rows.time,
            rows.learn,
            rows.pace,
            rows.stream,
            rows.slots["actor_pair"],
            tables["actor_pair"],
            scalars[:2],
            scalars[2:].reshape(STREAMS, 2),
            self.jitter,
            out,
        )

    def text(self, seen: float, expected: float, usual: float, actor: str, object: str) -> str:
        """See the contract."""
        interval = usual / self.jitter
        varies, usually = (min(value / interval, 9.99) if interval > value / 9.99 else 9.99 for value in (seen, expected))
        calls = f"{actor} calls {object} every {_duration(interval)}, give or take {varies:.0%}"
        return f"{calls}, where such pairs usually vary by {usually:.0%}; from {self.jitter:.0%} on it would be normal"


def _duration(seconds: float) -> str:
    """Seconds for people."""
    for unit, size in (("days", 86_400.0), ("h", 3_600.0), ("min", 60.0)):
        if seconds >= 2.0 * size:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds:.3g} s"


LEARNER = Periodicity
