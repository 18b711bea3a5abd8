"""Compiled inner loops that several parts of `models` share: slots by key, units of time, heavy tails.

All of them run row by row in log order, so a block may be cut anywhere without changing a result. Times are microseconds as float64
(exact below 2**53, that is until the year 2255); records of profiles keep whole seconds, ``u4`` (until the year 2106), 0 = never.
"""

from __future__ import annotations

import math

import numpy as np
from numba import njit

HOUR = 3_600_000_000.0
DAY = 24.0 * HOUR
MINUTE = 60_000_000.0
SECOND = 1_000_000.0

#: The share of an index that may be used before it grows: linear probing slows beyond it.
FULLEST = 0.6


@njit(cache=True, inline="always")
def _place(key: np.uint64, mask: int) -> np.int64:
    # Fibonacci hashing: keys are already hashes, but pair keys are sums of two.
    return np.int64(((key * np.uint64(0x9E3779B97F4A7C15)) >> np.uint64(20)) & np.uint64(mask))


@njit(cache=True)
def find_or_add(
    keys: np.ndarray, slots: np.ndarray, wanted: np.ndarray, out: np.ndarray, start: int, stop: int, used: int, limit: int
) -> tuple[int, int]:
    """Slots of ``wanted[start:stop]`` into ``out``, new keys taking slots ``used``, ``used + 1``, ...

    ``keys`` (uint64, 0 = free) and ``slots`` (int32) are an open-addressing table with room. Stops before the row that would need
    slot ``limit``. Returns (rows done up to here, slots used).
    """
    mask = len(keys) - 1
    for i in range(start, stop):
        key = wanted[i]
        if key == 0:
            key = np.uint64(1)
        place = _place(key, mask)
        while keys[place] != key and keys[place] != 0:
            place = (place + 1) & mask
        if keys[place] == 0:
            if used >= limit:
                return i, used
            keys[place] = key
            slots[place] = used
            used += 1
        out[i] = slots[place]
    return stop, used


@njit(cache=True)
def contains(keys: np.ndarray, wanted: np.ndarray, out: np.ndarray) -> None:
    """``out[i]`` = whether ``wanted[i]`` is in the index."""
    mask = len(keys) - 1
    for i in range(len(wanted)):
        key = wanted[i]
        if key == 0:
            key = np.uint64(1)
        place = _place(key, mask)
        while keys[place] != key and keys[place] != 0:
            place = (place + 1) & mask
        out[i] = keys[place] == key


@njit(cache=True)
def index_all(keys: np.ndarray, slots: np.ndarray, of_slot: np.ndarray, used: int) -> None:
    """Fill an empty index from the keys by slot."""
    mask = len(keys) - 1
    for slot in range(used):
        key = of_slot[slot]
        place = _place(key, mask)
        while keys[place] != 0:
            place = (place + 1) & mask
        keys[place] = key
        slots[place] = slot


@njit(cache=True)
def pair_keys(left: np.ndarray, right: np.ndarray, out: np.ndarray) -> None:
    """One 64-bit key for each ordered pair of 64-bit hashes (the multiplier breaks the symmetry)."""
    for i in range(len(left)):
        mixed = (left[i] * np.uint64(0xBF58476D1CE4E5B9)) ^ (right[i] + np.uint64(0x9E3779B97F4A7C15))
        mixed ^= mixed >> np.uint64(31)
        out[i] = mixed * np.uint64(0x94D049BB133111EB)


@njit(cache=True, inline="always")
def hour_unit(age: float) -> float:
    """The teaching unit "hour" of a stream of this age: grows with it, so that a short trace teaches too."""
    return min(max(age / 60.0, MINUTE), HOUR)


@njit(cache=True, inline="always")
def day_unit(age: float) -> float:
    """The teaching unit "day" of a stream of this age."""
    return min(max(age / 12.0, MINUTE), DAY)


@njit(cache=True, inline="always")
def second_of(now: float) -> np.uint32:
    """The whole second of a time in microseconds, as records keep it.

    An age is the difference of two whole seconds: were the time now taken to the microsecond, a thousand events within one second
    would each age the record by the part of the second that had gone.
    """
    return np.uint32(now / SECOND)


@njit(cache=True, inline="always")
def passed(now: float, since: float, unit: float, full: float) -> bool:
    """Whether a new unit has begun: below its full length when that long has passed, at full length by clock hour or date."""
    if unit < full:
        return now - since >= unit
    return math.floor(now / full) > math.floor(since / full)


@njit(cache=True, inline="always")
def advance(clock: np.ndarray, time: float) -> None:
    """Move a stream's clock ``[now, age]`` to a row's time. A gap counts as one day at most, so that silence is not history."""
    if clock[0] == 0.0:
        clock[0] = time
    elif time > clock[0]:
        clock[1] += min(time - clock[0], DAY)
        clock[0] = time


@njit(cache=True, inline="always")
def t_tail(value: float, mean: float, variance: float, seen: float) -> float:
    """Surprise of a high value under a Student t fitted to ``seen`` values: an ordering to be calibrated, not a probability."""
    if value <= mean:
        return 0.0
    nu = min(seen + 2.0, 30.0)
    return 0.5 * (nu + 1.0) * math.log1p((value - mean) ** 2 / (variance * nu))
