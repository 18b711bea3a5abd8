"""Calibration: surprises of different signals on one scale, and their sum.

Per identity class (kind of actor, within its stream) and signal a histogram of *(edge, hour) cells*, each counted once at its
strongest; the slow line counts (edge, day) cells. A surprise becomes G = -ln(share of cells at least as surprising): the scale is the
same for all, an empty history says G = 0, nothing is strange. A class of few cells leans on its stream.
An endpoint may teach at most ``cap`` cells an hour, so that a flood of spoofed addresses cannot make itself normal; partners of several
days so many times as many, or what a hub's regulars do (clients of a name server) would be strange for ever.
Signals add up inside a logarithm: score = 1/beta ln sum (w e^G)^beta, between the harmonic mean and the minimum of the p-values.
"""

from __future__ import annotations

import math

import numpy as np
from numba import njit

from models.counts import MOST_CELLS
from models.kernels import DAY, HOUR, SECOND, advance, day_unit, hour_unit, passed, second_of
from models.profiles import Fields

#: A pair keeps a signal's bin in one byte, counted from one: 0 = it said nothing.
BINS = 255
#: Bins to a nat, up to LINEAR nats; from there to MOST nats the other half of the bins in equal ratios, so that floods of very
#: different size are told apart. A surprise beyond counts as the last bin.
PER_NAT = 8.0
LINEAR = 16.0
_HALF = int(LINEAR * PER_NAT)
#: June: 1,000 instead of 10,000 raises hard-mode AP from .031 to .115 and costs .0004 of AUC; 100 costs .003.
MOST = 1_000.0
_STEEP = (BINS - 1 - _HALF) / math.log(MOST / LINEAR)
#: Where a drifting signal's mean is put, so that what is below it still has bins.
CENTRE = 8.0
#: Cells of the tail that is extrapolated. 10 to 100 did equally well on DARPA-98 June.
TAIL_CELLS = 30.0
#: Weight of a taught cell in a drifting signal's running mean, at least. 5,000 costs hard-mode AUC, without it growth costs budget.
SLOWEST_MEAN = 1.0 / 20_000.0
#: Memory of the histograms.
MEMORY = 30.0 * DAY
#: A thin stream's scores are stretched as if it had had at least this many cells: few cells prove little.
FEWEST = 300.0
#: ... and at most this much.
MOST_STRETCH = 2.0
#: A row of a known cell is evidence again when it is this much stronger, in nats: one bin.
STEP = 1.0 / PER_NAT

#: A class leans on the other cells of its stream as on so many of its own.
LEAN = 300.0
#: Cells of a peer group from which a share is worth saying, and at which old ones count half.
FEWEST_PEERS = 20.0
MOST_PEERS = 50_000.0

#: Evidence is what about this many times the budget would let through: less would starve the threshold, more is noise to carry.
EVIDENCE_PER_ALERT = 10.0
#: ... but never what is no stranger than about one cell in five.
LEAST_FLOOR = 1.5
#: The floor rises by at most this much while there is more evidence than that, and so stays below where alerts begin
#: (ln EVIDENCE_PER_ALERT above it): a stream that is new all over would otherwise be one piece of evidence.
MOST_RAISED = 1.5
#: Share of a day (of the stream's age) after which evidence is counted up against what was meant.
RECKONING = 0.02
#: Stream-wide scalars: now, age, the evidence floor in force (0 = not yet), ln of the cells known (no score is much above it); how much
#: the floor is raised, evidence since the last reckoning, age at it.
CLOCK = ("now", "age", "floor", "ceiling", "raised", "evidence", "reckoned")

#: Fields on the pair table: whether its current cell teaches; score already reported in it; rows above the floor in it, and those of
#: them that were not reported. Then ``bins``, ``u1`` a signal: the cell's
#: bin + 1, 0 = silent.
PAIR: Fields = (("taught", "u1"), ("peak", "f4"), ("events", "u2"), ("unsaid", "u2"))
#: Fields on the object table: cells taught this hour and since when; surprising partners this hour and since when.
OBJECT: Fields = (("cells", "u2"), ("cells_since", "u4"), ("strange", "u4"), ("strange_since", "u4"))

#: Largest surprise that counts in the level of a signal: one hour of floods must not move it for all.
MOST_LEVEL = 20.0
#: Cells of a stream's hour from which its mean is a level.
FEWEST_LEVEL = 5.0
#: Columns of a finished hour before the mean surprise of each signal (NaN = too few said anything): any time in it, and the stream.
HOUR_TIME, HOUR_STREAM = range(2)
LEVELS = 2

#: Columns of the evidence matrix before the G of each signal and, after these, the share of the peers' cells at least as surprising to
#: each (NaN = not known).
ROW, SCORE, FIRST, OBJECT_STRANGE, UNIT, LEARNED, CEILING, OWN_HOURS, EVENTS = range(9)
EVIDENCE = 9


@njit(cache=True, inline="always")
def bin_of(x: float) -> int:
    """The bin of a surprise."""
    if x < LINEAR:
        return max(int(x * PER_NAT), 0)
    return min(int(_HALF + math.log(x / LINEAR) * _STEEP), BINS - 1)


@njit(cache=True, inline="always")
def nats_of(b: int) -> float:
    """The lower end of a bin, in nats."""
    if b <= _HALF:
        return b / PER_NAT
    return LINEAR * math.exp((b - _HALF) / _STEEP)


@njit(cache=True)
def _rebuild(histogram: np.ndarray, weight: float, beta: float, stretch: float, gain: np.ndarray, term: np.ndarray) -> None:
    """One signal's table: ``gain[bin]`` = G, ``term[bin]`` = (w e^G)^beta."""
    total = 0.0
    for b in range(BINS):
        total += histogram[b]
    above = 0.0
    edge = -1
    for b in range(BINS - 1, -1, -1):
        above += histogram[b]
        if edge < 0 and above >= TAIL_CELLS:
            edge = b
        gain[b] = math.log((1.0 + total) / (1.0 + above))
    most = math.log(1.0 + total) + 2.0
    if edge >= 0 and histogram_above(histogram, edge) > 2.0 * TAIL_CELLS:
        # Most cells share one value (often zero): the tail is what lies above it, however little.
        while edge < BINS - 1 and histogram_above(histogram, edge) > 2.0 * TAIL_CELLS and histogram_above(histogram, edge + 1) > 0.0:
            edge += 1
    if edge >= 0:
        cells = 0.0
        beyond = 0.0
        for b in range(edge, BINS):
            cells += histogram[b]
            beyond += histogram[b] * (nats_of(b) - nats_of(edge))
        # Mean excess over the edge in nats, and half a nat; with fewer cells than a tail should have, the rest count as one nat each.
        missing = max(TAIL_CELLS - cells, 0.0)
        mean = (beyond + missing) / max(cells, TAIL_CELLS) + 0.5
        for b in range(edge + 1, BINS):
            gain[b] = gain[edge] + (nats_of(b) - nats_of(edge)) / mean
    for b in range(BINS):
        gain[b] = min(gain[b], most) * stretch
        term[b] = (weight * math.exp(gain[b])) ** beta


@njit(cache=True)
def histogram_above(histogram: np.ndarray, edge: int) -> float:
    """Cells in ``edge`` and the bins above it."""
    total = 0.0
    for b in range(edge, BINS):
        total += histogram[b]
    return total


@njit(cache=True)
def _floor(cells: float, age: float, per_day: float) -> float:
    """The score from which rows are evidence: about EVIDENCE_PER_ALERT cells a day for each alert a day."""
    days = max(min(age, MEMORY) / day_unit(age), 1.0)
    return max(math.log(max(cells / days, 1.0) / (EVIDENCE_PER_ALERT * per_day)), LEAST_FLOOR)


@njit(cache=True)
def _reckon(clock: np.ndarray, per_day: float) -> None:
    """Raise or lower the floor by how much evidence there was."""
    days = (clock[1] - clock[6]) / day_unit(clock[1])
    if days < RECKONING:
        return
    meant = max(EVIDENCE_PER_ALERT * per_day * days, 1.0)
    step = min(max(math.log(max(clock[5] / meant, 0.1)), -0.5), 1.0)
    clock[4] = min(max(clock[4] + step, 0.0), MOST_RAISED)
    clock[5] = 0.0
    clock[6] = clock[1]


@njit(cache=True)
def _share(histogram: np.ndarray, b: int) -> float:
    """The share of a peer group's cells in bin ``b`` and above; NaN where there are too few to tell."""
    total = 0.0
    above = 0.0
    for other in range(BINS):
        total += histogram[other]
        if other >= b:
            above += histogram[other]
    if total > MOST_PEERS:
        for other in range(BINS):
            histogram[other] *= 0.5
    return math.nan if total < FEWEST_PEERS else (1.0 + above) / (1.0 + total)


@njit(cache=True)
def calibrate(
    time: np.ndarray,
    learn: np.ndarray,
    new_cell: np.ndarray,
    stream: np.ndarray,
    everyone: np.ndarray,
    kind: np.ndarray,
    actor_cells: np.ndarray,
    acquainted: np.ndarray,
    own_hours: np.ndarray,
    peer: np.ndarray,
    surprise: np.ndarray,
    object_slot: np.ndarray,
    pair_slot: np.ndarray,
    object_: np.ndarray,
    pair: np.ndarray,
    clock: np.ndarray,
    cells: np.ndarray,
    means: np.ndarray,
    histogram: np.ndarray,
    gain: np.ndarray,
    term: np.ndarray,
    peers: np.ndarray,
    weights: np.ndarray,
    drifts: np.ndarray,
    settings: np.ndarray,
    level: np.ndarray,
    score: np.ndarray,
    evidence: np.ndarray,
    finished: np.ndarray,
) -> tuple[int, int]:
    """Score rows, teach cells, collect evidence. Returns how many evidence rows and how many finished hours were written.

    ``surprise`` float64[signals, n], NaN = the row does not say. ``everyone`` int64[n]: the class of the row's whole stream, whose
    classes follow it; ``kind`` int[n]: how far on the row's own class is. ``actor_cells`` float64[n]: cells of the actor this hour;
    ``acquainted`` float64[n]: fading days on which the pair has met before. ``peer`` int32[n]: the actor's peer group, 0 = none.
    ``clock`` as CLOCK. ``cells`` float64[C, 4]: cells taught, cells and time at the last rebuild, whether ever built. ``means``
    float64[S, signals, 2]: running mean, cells in it. ``histogram``, ``gain``, ``term`` float64[C, signals, BINS]; ``peers``
    float64[G, signals, BINS]. ``object_``, ``pair``: records of OBJECT, and of PAIR with ``bins``.
    ``settings``: cap, least score of a strange partner, beta, stretch (0/1), alerts a day, length of a cell (HOUR or DAY).
    ``level`` float64[S, 2 x signals + 1]: sums and numbers of the surprises of this hour's taught cells, and when it was.
    ``score`` float64[n], ``evidence`` float64[n, EVIDENCE + 2 x signals] and ``finished`` float64[n, LEVELS + signals] are written.
    """
    many = surprise.shape[0]
    stride = cells.shape[0] // means.shape[0]
    cap, beta, period = settings[0], settings[2], settings[5]
    found = 0
    hours = 0
    bins = np.zeros(many, np.int64)
    pooled = np.zeros(BINS)
    for i in range(len(time)):
        now = time[i]
        advance(clock, now)
        hour = hour_unit(clock[1])
        unit = hour if period == HOUR else day_unit(clock[1])
        s = stream[i]
        whole = everyone[i]
        c = whole + kind[i]
        for step in range(2):
            at = c if step == 1 else whole
            own = cells[at]
            if (step == 1 or c != whole) and (
                own[3] == 0.0 or (now > own[2] and passed(now, own[2], hour, HOUR)) or own[0] >= 1.3 * own[1] + 20.0
            ):
                fade = math.exp(-max(now - own[2], 0.0) / MEMORY) if own[3] != 0.0 else 1.0
                own[0] *= fade
                for k in range(many):
                    for b in range(BINS):
                        histogram[at, k, b] *= fade
                own[1] = own[0]
                own[2] = max(now, own[2])
                own[3] = 1.0
                if step == 0:
                    continue
                everything = 0.0
                for other in range(means.shape[0]):
                    everything += cells[other * stride, 0]
                clock[3] = math.log(1.0 + everything)
                _reckon(clock, settings[4])
                clock[2] = _floor(everything, clock[1], settings[4]) + clock[4]
                stretch = 1.0
                if settings[3] != 0.0:
                    stretch = math.log(1.0 + max(everything, FEWEST)) / math.log(1.0 + max(cells[whole, 0], FEWEST))
                lean = 0.0 if c == whole else min(LEAN / max(cells[whole, 0] - own[0], 1.0), 1.0)
                for k in range(many):
                    for b in range(BINS):
                        pooled[b] = histogram[c, k, b] + lean * max(histogram[whole, k, b] - histogram[c, k, b], 0.0)
                    _rebuild(pooled, weights[k], beta, min(stretch, MOST_STRETCH), gain[c, k], term[c, k])
        total = 0.0
        for k in range(many):
            x = surprise[k, i]
            if math.isnan(x):
                bins[k] = -1
                total += weights[k] ** beta
                continue
            if drifts[k] and means[s, k, 1] > 0.0:
                x = x - means[s, k, 0] + CENTRE
            elif drifts[k]:
                x = CENTRE
            b = bin_of(x)
            bins[k] = b
            total += term[c, k, b]
        value = math.log(total) / beta
        score[i] = value
        o = object_[object_slot[i]]
        p = pair[pair_slot[i]]
        if new_cell[i]:
            # Also where the row is too late for its actor and does not teach: the cell before is over all the same.
            p.peak = 0.0
            p.taught = 0
            p.events = 0
            p.unsaid = 0
        if learn[i]:
            if new_cell[i]:
                if o.cells_since == 0 or passed(now, o.cells_since * SECOND, unit, period):
                    o.cells = 0
                    o.cells_since = second_of(now)
                # Who has met on so many days is no flood of strangers: a hub's old partners are heard too.
                room = cap * max(acquainted[i], 1.0)
                if actor_cells[i] <= room and o.cells < room:
                    o.cells = min(o.cells + 1, MOST_CELLS)
                    p.taught = 1
                    since = level[s, 2 * many]
                    if since != 0.0 and math.floor(now / HOUR) > math.floor(since / HOUR):
                        finished[hours, HOUR_TIME] = since
                        finished[hours, HOUR_STREAM] = s
                        for k in range(many):
                            said = level[s, many + k]
                            finished[hours, LEVELS + k] = level[s, k] / said if said >= FEWEST_LEVEL else math.nan
                        hours += 1
                        level[s, :] = 0.0
                    level[s, 2 * many] = max(level[s, 2 * many], now)
                    cells[c, 0] += 1.0
                    if c != whole:
                        cells[whole, 0] += 1.0
                    for k in range(many):
                        p.bins[k] = bins[k] + 1
                        if bins[k] < 0:
                            continue
                        level[s, k] += min(surprise[k, i], MOST_LEVEL)
                        level[s, many + k] += 1.0
                        histogram[c, k, bins[k]] += 1.0
                        if c != whole:
                            histogram[whole, k, bins[k]] += 1.0
                        if peer[i] > 0:
                            peers[peer[i], k, bins[k]] += 1.0
                        if drifts[k]:
                            means[s, k, 1] += 1.0
                            weight = max(1.0 / means[s, k, 1], SLOWEST_MEAN)
                            means[s, k, 0] += weight * (surprise[k, i] - means[s, k, 0])
            elif p.taught != 0:
                for k in range(many):
                    b = bins[k]
                    before = int(p.bins[k]) - 1
                    if b > before:
                        if before >= 0:
                            histogram[c, k, before] = max(histogram[c, k, before] - 1.0, 0.0)
                            if c != whole:
                                histogram[whole, k, before] = max(histogram[whole, k, before] - 1.0, 0.0)
                        histogram[c, k, b] += 1.0
                        if c != whole:
                            histogram[whole, k, b] += 1.0
                        p.bins[k] = b + 1
        if value < clock[2]:
            continue
        strange = max(settings[1], clock[2])
        first = value >= strange and p.peak < strange
        stronger = value >= p.peak + STEP
        if first and learn[i]:
            if o.strange_since == 0 or passed(now, o.strange_since * SECOND, unit, period):
                o.strange = 0
                o.strange_since = second_of(now)
            o.strange += 1
        # A cell that goes on says so after 2, 4, 8, ... rows: one flood is not a flood of evidence.
        p.events = min(p.events + 1, MOST_CELLS)
        p.unsaid = min(p.unsaid + 1, MOST_CELLS)
        if not stronger and p.events & (p.events - 1):
            continue
        row = evidence[found]
        row[ROW] = i
        row[SCORE] = value
        row[FIRST] = 2.0 if first else (1.0 if stronger else 0.0)
        # What was strange in an earlier cell is nobody's partner now.
        row[OBJECT_STRANGE] = 0.0 if o.strange_since == 0 or passed(now, o.strange_since * SECOND, unit, period) else o.strange
        row[UNIT] = unit
        row[LEARNED] = 1.0 if learn[i] else 0.0
        row[CEILING] = clock[3]
        row[OWN_HOURS] = own_hours[i]
        row[EVENTS] = p.unsaid
        p.unsaid = 0
        for k in range(many):
            row[EVIDENCE + k] = gain[c, k, bins[k]] if bins[k] >= 0 else 0.0
            row[EVIDENCE + many + k] = _share(peers[peer[i], k], bins[k]) if bins[k] >= 0 and peer[i] > 0 else math.nan
        found += 1
        if stronger:
            if p.peak == 0.0:
                clock[5] += 1.0
            p.peak = value
    return found, hours
