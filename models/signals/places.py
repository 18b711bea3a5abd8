"""Places: one identity in several places at once, some of them new."""

from __future__ import annotations

import math
from typing import Annotated, Any

import msgspec
import numpy as np
from numba import njit

from models.kernels import DAY, MINUTE, SECOND, advance, day_unit, passed, second_of, t_tail
from models.profiles import Fields
from models.signals import Rows, Signal, Visit, number
from models.signals.gpu_hours import LEVEL, pooled, teach_by_hour
from models.signals.magnitude import POPULATION

#: Numbers of ``connectors.event``.
FLOW, JOB, USE = 0, 2, 16
#: Places remembered at once. Whoever is in more is in "6 or more", and that is then its usual.
RING = 6
#: Beyond this many days the known places are forgotten but for the last day's, so that the memory of places stays sharp.
KNOWN_DAYS = 30.0
#: Lessons beyond which a t is a normal law for our purpose.
NORMAL = 28.0
#: An actor: the level of concurrency; the last places and when each was seen; known places as a Bloom filter, those of the current
#: day as another, and since when either counts; whether ``use`` rows say where it is.
VISITED: Fields = (
    *LEVEL,
    ("places", "u4", RING),
    ("times", "u4", RING),
    ("known", "u8"),
    ("today", "u8"),
    ("known_since", "u4"),
    ("day", "u4"),
    ("used", "u1"),
)


@njit(cache=True, inline="always")
def _bits(place: int) -> np.uint64:
    """Two of 64 bits, from a fragment of a hash."""
    one, other = np.uint64((place >> 1) & 63), np.uint64((place >> 7) & 63)
    return (np.uint64(1) << one) | (np.uint64(1) << other)


@njit(cache=True)
def _elsewhere(row: Any, place: int, second: int, window: float) -> tuple[int, bool]:
    """(places in use within the window with this one, whether all of them were known before today)."""
    bits = _bits(place)
    many, known = 1, (row.known & bits) == bits
    for k in range(RING):
        each = row.places[k]
        if each == 0 or each == place or (float(second) - float(row.times[k])) * SECOND >= window:
            continue
        many += 1
        bits = _bits(each)
        known = known and (row.known & bits) == bits
    return many, known


@njit(cache=True)
def _remember(row: Any, place: int, second: int, age: float) -> None:
    """Note a place: in the ring over the one seen longest ago, and among the day's."""
    now = second * SECOND
    if row.day == 0 or passed(now, row.day * SECOND, day_unit(age), DAY):
        if row.known_since == 0 or now - row.known_since * SECOND > KNOWN_DAYS * DAY:
            row.known = np.uint64(0)
            row.known_since = second
        row.known |= row.today
        row.today = np.uint64(0)
        row.day = second
    row.today |= _bits(place)
    oldest = 0
    for k in range(RING):
        if row.places[k] == place:
            oldest = k
            break
        if row.times[k] < row.times[oldest]:
            oldest = k
    row.places[oldest] = place
    row.times[oldest] = second


@njit(cache=True)
def _places(
    time: np.ndarray,
    learn: np.ndarray,
    pace: np.ndarray,
    stream: np.ndarray,
    action: np.ndarray,
    via: np.ndarray,
    object_: np.ndarray,
    slot: np.ndarray,
    table: np.ndarray,
    population: np.ndarray,
    clock: np.ndarray,
    window: float,
    out: np.ndarray,
) -> None:
    everyone = population[0]
    for i in range(len(time)):
        if stream[i] in (FLOW, JOB):
            out[:, i] = math.nan
            continue
        used = action[i] == USE
        place = object_[i] if used else via[i]
        if place == 0 or (not used and table[slot[i]].used):
            out[:, i] = math.nan
            continue
        row = table[slot[i]]
        second = int(second_of(time[i]))
        # 0 marks a free entry of the ring.
        fragment = int((place * np.uint64(0x9E3779B97F4A7C15)) >> np.uint64(32)) | 1
        many, known = _elsewhere(row, fragment, second, window)
        value = float(many)
        mean, variance = pooled(row, everyone, 1.0)
        out[0, i] = t_tail(value, mean, variance, min(float(row.seen), NORMAL)) if not known else 0.0
        out[1, i] = value
        out[2, i] = mean
        out[3, i] = max(mean + 2.0 * math.sqrt(variance), 1.0)
        if not learn[i]:
            continue
        advance(clock, time[i])
        if used:
            row.used = 1
        _remember(row, fragment, second, clock[1])
        teach_by_hour(row, everyone, value, mean, variance, time[i], clock[1], pace[i])


class Places(Signal):
    """Student-t tail of the number of places an identity was seen in within some minutes, unless all of them are known of it.

    Idea: a stolen token or session works somewhere else while its owner goes on working: one identity is in two places at once.
    A place is where the identity was seen (the object of a ``use`` row: an address, or whoever is behind it); an identity of which no
    source says that is where its acts came through (``via``: address or pod). Tokens and sessions come and go with every login and are
    no places, which is why ``use`` rows go before ``via``; nor are jobs; and who is behind a flow is known from its place, so that a
    flow cannot show anybody elsewhere. A place of an earlier day is known: two known ones at once (the desk and the VPN) score 0.
    Services in many pods learn that they are. One lesson an hour, of its highest.
    Fails when the thief waits for the owner to stop (``novelty`` sees the new place), behind one shared address, in the very place of
    the owner, and on identities in six places and more, where a seventh is not seen. A roll-out that replaces all pods of a service at
    once looks the same where no binding says that the pods are one service: announce it.
    Cost: a logarithm a row that says a place, nothing on others; 93 bytes an actor. Parameters: ``window_minutes``. Paper: Bloom, 1970.
    """

    unit = "places at once"
    needs = "bindings"

    weight: float = 0.1
    window_minutes: Annotated[float, msgspec.Meta(gt=0, le=1440)] = 10.0

    @property
    def visit(self) -> Visit:
        """At the actor."""
        return "actor"

    def state(self) -> dict[str, Fields]:
        """The level, the last places, the known ones."""
        return {"actor": VISITED}

    def scalars(self) -> tuple[str, ...]:
        """Everyone's lessons, mean and variance; clock and age."""
        return ("seen", "mean", "variance", "now", "age")

    def surprise(self, rows: Rows, tables: dict[str, np.ndarray], scalars: np.ndarray, out: np.ndarray) -> None:
        """See the contract."""
        _places(
            rows.time,
            rows.learn,
            rows.pace,
            rows.stream,
            rows.action,
            rows.via,
            rows.object,
            rows.slots["actor"],
            tables["actor"],
            scalars[:3].view(POPULATION),
            scalars[3:],
            self.window_minutes * MINUTE,
            out,
        )

    def text(self, seen: float, expected: float, usual: float, actor: str, object: str) -> str:
        """See the contract."""
        many = "1 place" if seen < 1.5 else f"{number(round(seen))} places" if seen < RING else f"{RING} or more places"
        there = f"{actor} was in {many} within {number(self.window_minutes)} minutes"
        return f"{there}, {number(round(expected, 1))} expected, up to {number(math.floor(usual))} would be normal"


LEARNER = Places
