"""From any score of rows to alerts: the blame rule, the cells of (identity, hour) and the causal threshold, for rivals as for ours.

Scores are first replaced by their rank (ties at random, seeded), put as nats: -ln of the share of rows at least as high. That changes
no order, so it tells nothing ahead of time; it only fixes how fine the bins are in which past cells are counted.
"""

from __future__ import annotations

import math

import numpy as np
from numba import njit

from benchmarks.datasets import DataSet
from benchmarks.verdicts import Openings, alert_figures

#: Bins of rank: 1/128 nat, up to e^16 rows.
PER_NAT = 128
BINS = 16 * PER_NAT
#: As ``models.budget``: days and hours looked back, and cells before which nothing alerts.
WINDOW_DAYS = 14
RING = WINDOW_DAYS * 24 + 1
FEWEST = 10
HOUR_US = 3_600_000_000
#: How long an alert lasts after its last event above the threshold: not beyond its hour, or as in ``detector.fuse``.
LASTING = (0.0, 6.0)
#: Seed of ties.
SEED = 1


def nats(scores: np.ndarray) -> np.ndarray:
    """Bins (int32) of the ranks of scores.

    >>> nats(np.array([1.0, 5.0])).tolist()
    [0, 88]
    """
    order = np.lexsort((np.random.default_rng(SEED).random(len(scores)), scores))
    share = np.empty(len(scores))
    share[order] = (len(scores) - np.arange(len(scores))) / max(len(scores), 1)
    bins: np.ndarray = np.minimum(-np.log(share) * PER_NAT, BINS - 1).astype(np.int32)
    return bins


def median_so_far(bins: np.ndarray) -> np.ndarray:
    """Of each row the median bin of the rows before it (int32; BINS where there are none)."""
    out = np.empty(len(bins), np.int32)
    _medians(bins, out)
    return out


@njit(cache=True)
def _medians(bins: np.ndarray, out: np.ndarray) -> None:
    counts = np.zeros(BINS + 1, np.int64)
    median, below = 0, 0
    for i in range(len(bins)):
        out[i] = BINS if i == 0 else median
        counts[bins[i]] += 1
        if bins[i] < median:
            below += 1
        half = (i + 1) // 2
        while below > half:
            median -= 1
            below -= counts[median]
        while below + counts[median] <= half:
            below += counts[median]
            median += 1


def blame(data: DataSet, hot: np.ndarray) -> np.ndarray:
    """The identity blamed for each row that is ``hot`` (code of the block's names), -1 for the others: of its two ends the one with
    more distinct hot edges this clock hour, on a tie the actor."""
    block = data.block
    out = np.full(len(data), -1, np.int64)
    _blame(block.time // HOUR_US, block.actor, block.object, edges(data), hot, len(block.names), out)
    return out


def edges(data: DataSet) -> np.ndarray:
    """A number for each pair of actor and object, from 0."""
    pair = data.block.actor.astype(np.int64) * len(data.block.names) + data.block.object
    numbered: np.ndarray = np.unique(pair, return_inverse=True)[1]
    return numbered


@njit(cache=True)
def _blame(
    hour: np.ndarray, actor: np.ndarray, object: np.ndarray, edge: np.ndarray, hot: np.ndarray, identities: int, out: np.ndarray
) -> None:
    last = np.full(identities, -1, np.int64)
    partners = np.zeros(identities, np.int64)
    seen = np.full(edge.max() + 1 if len(edge) else 1, -1, np.int64)
    for i in range(len(hot)):
        if not hot[i]:
            continue
        for end in (actor[i], object[i]):
            if last[end] != hour[i]:
                last[end] = hour[i]
                partners[end] = 0
        if seen[edge[i]] != hour[i]:
            seen[edge[i]] = hour[i]
            partners[actor[i]] += 1
            partners[object[i]] += 1
        out[i] = object[i] if partners[object[i]] > partners[actor[i]] else actor[i]


@njit(cache=True)
def _threshold(bins: np.ndarray, wanted: float) -> int:
    """The lowest bin above which no more than ``wanted`` cells lie."""
    above = 0
    for bin_ in range(BINS - 1, -1, -1):
        above += bins[bin_]
        if above > wanted:
            return bin_
    return -1


@njit(cache=True)
def _wanted(per_day: float, age: float, within: int, last_day: int) -> float:
    """How many cells of the window may lie above the threshold, after what was spent against what was granted."""
    granted = per_day * min(age, float(WINDOW_DAYS))
    correction = min(max((granted + 2.0 * per_day) / (within + 2.0 * per_day), 0.5), 2.0)
    if last_day > per_day:
        correction *= (per_day / last_day) ** 2
    return max(granted * correction, 1.0)


@njit(cache=True)
def _bar(threshold: int, opened: np.ndarray, since: int, used: int, allowed: int) -> int:
    """The threshold, or where the last day's alerts are spent the weakest of its strongest ``allowed``."""
    if used - since < allowed:
        return threshold
    weakest: int = np.sort(opened[since:used])[used - since - allowed]
    return max(threshold, weakest)


@njit(cache=True)
def _open(
    time: np.ndarray, blamed: np.ndarray, bins: np.ndarray, identities: int, per_day: float, lasting: float, out: np.ndarray
) -> int:
    """Rows that open an alert into ``out``; returns how many. ``lasting`` in hours."""
    held = np.zeros(BINS, np.int64)
    ring = np.zeros((RING, BINS), np.int32)
    cell_hour = np.full(identities, -1, np.int64)
    cell_bin = np.full(identities, -1, np.int64)
    counted = np.zeros(identities, np.bool_)
    until = np.full(identities, -1, np.int64)
    opened = np.zeros(len(time), np.int64)
    used, day_start, window_start = 0, 0, 0
    threshold = BINS
    hour = time[0] // HOUR_US
    for i in range(len(time)):
        now = time[i]
        if now // HOUR_US > hour:
            for gone in range(hour + 1, min(now // HOUR_US, hour + RING) + 1):
                held -= ring[gone % RING]
                ring[gone % RING] = 0
            hour = now // HOUR_US
            age = (now - time[0]) / (24.0 * HOUR_US)
            while day_start < used and time[out[day_start]] <= now - 24 * HOUR_US:
                day_start += 1
            while window_start < used and time[out[window_start]] < now - WINDOW_DAYS * 24 * HOUR_US:
                window_start += 1
            threshold = BINS
            if held.sum() >= FEWEST:
                threshold = _threshold(held, _wanted(per_day, age, used - window_start, used - day_start))
        who = blamed[i]
        if who < 0:
            continue
        if cell_hour[who] != hour:
            cell_hour[who] = hour
            cell_bin[who] = -1
            counted[who] = now > until[who]
        if bins[i] > cell_bin[who]:
            if counted[who]:
                if cell_bin[who] >= 0:
                    ring[hour % RING, cell_bin[who]] -= 1
                    held[cell_bin[who]] -= 1
                ring[hour % RING, bins[i]] += 1
                held[bins[i]] += 1
            cell_bin[who] = bins[i]
        if bins[i] <= threshold:
            continue
        if now > until[who]:
            while day_start < used and time[out[day_start]] <= now - 24 * HOUR_US:
                day_start += 1
            allowed = max(math.ceil(per_day * min((now - time[0]) / (24.0 * HOUR_US), 1.0)), 1)
            if bins[i] <= _bar(threshold, opened, day_start, used, allowed):
                continue
            opened[used] = bins[i]
            out[used] = i
            used += 1
        # A cell gives one alert; a longer one lasts while it is fed.
        until[who] = max((hour + 1) * HOUR_US - 1, now + int(lasting * HOUR_US))
    return used


def openings(data: DataSet, scores: np.ndarray, per_day: float, lasting: float, floor: float | None = None) -> Openings:
    """The alerts of a score. A row is hot, that is takes part in blame and cells, above ``floor``, by default above the median of
    the rows before it."""
    bins = nats(scores)
    blamed = blame(data, bins > median_so_far(bins) if floor is None else scores > floor)
    out = np.zeros(len(data), np.int64)
    used = _open(data.block.time, blamed, bins, len(data.block.names), per_day, lasting, out) if len(data) else 0
    return Openings(out[:used], blamed[out[:used]])


def best_figures(data: DataSet, scores: np.ndarray, per_day: float, floor: float | None = None) -> dict[str, float | None]:
    """``alert_figures`` with the better (names, then precision) of the two ways for an alert to end: a rival's fairest chance."""
    tried = [alert_figures(openings(data, scores, per_day, lasting, floor), data) for lasting in LASTING]
    return max(tried, key=lambda each: (each["names_caught_at_10_per_day"] or 0.0, each["precision_at_10_per_day"] or 0.0))


@njit(cache=True)
def _accumulate(
    time: np.ndarray,
    blamed: np.ndarray,
    edge: np.ndarray,
    scores: np.ndarray,
    identities: int,
    floor: float,
    leak: float,
    out: np.ndarray,
) -> None:
    held = np.zeros(identities)
    when = np.zeros(identities, np.int64)
    most = np.zeros(edge.max() + 1 if len(edge) else 1)
    since = np.full(len(most), -1, np.int64)
    for i in range(len(time)):
        who = blamed[i]
        if who < 0:
            continue
        e, hour = edge[i], time[i] // HOUR_US
        if since[e] != hour:
            since[e] = hour
            most[e] = floor
        held[who] *= math.exp(-(time[i] - when[who]) / (leak * HOUR_US))
        when[who] = time[i]
        if scores[i] > most[e]:
            held[who] += scores[i] - most[e]
            most[e] = scores[i]
        out[i] = held[who]


def evidence(data: DataSet, scores: np.ndarray, floor: float = 5.0, leak: float = 6.0) -> np.ndarray:
    """Accumulated evidence in nats of the identity that each row would be blamed on: the sum of what each edge's strongest score of an
    hour has above ``floor``, leaking in ``leak`` hours.

    Every row takes part in the blame, also one that is not strange: it counts as the deed of an identity under suspicion.
    Hard AUC / AP of June when this was chosen: the score alone .700 / .020; plus evidence on rows above 4.6 nats .702 / .104; plus
    evidence on all rows .960 / .123, much of that one theft of many plain rows by one source; evidence alone .948 / .117; the score
    plus ln(1 + evidence) .938 / .065.
    """
    out = np.zeros(len(data))
    everything = np.ones(len(data), np.bool_)
    _accumulate(data.block.time, blame(data, everything), edges(data), scores, len(data.block.names), floor, leak, out)
    return out
