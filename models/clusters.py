"""Clusters of points that are the same on every run: k-means with a sample, a number and names that do not jump.

Nothing here depends on the order of rows, on the number of threads or on a seed of the process; what may change from one processor to
another is the last bit of a sum, which is why groups are trained once and handed on as a record.

Idea: features are put on one scale by median and quartiles and clipped; a sample by hash, of which no label may be much, is
clustered by scikit-learn's k-means for a few numbers of groups; the simplified silhouette says how well each separates. New groups take
the numbers of the old ones whose members they have.

Fails where groups are no blobs (k-means cuts a ring into sectors), and finds none that holds less than ``LEAST_MEMBERS`` of the sample.
Cost: see ``models.peers``. Papers: D. Arthur, S. Vassilvitskii, "k-means++", SODA 2007; P. Rousseeuw, "Silhouettes", J. Comput. Appl.
Math. 20, 1987.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from models.kernels import pair_keys

#: Most groups: more would each have too few members on any site, and cost memory and time per counter kept by group.
MOST_GROUPS = 32
#: Members of the sample below which a centre is no group: a prior from one or two is their history, not a prior.
LEAST_MEMBERS = 4
#: Identities looked at for training: they place 32 centres as well as all would.
SAMPLE = 10_000
#: Of the sample the commonest label is at most an eighth, but where there is little else it may be the first number (enough to tell its
#: own kinds apart); no label is more than the second.
SAMPLE_OF_LABEL = (256, 1250)
#: Spreads from the median beyond which a feature says no more: what an outlier can pull.
CLIP = 4.0
#: Silhouette that more groups, or the same number as before, may cost. More groups are better priors; the same number keeps the old.
TOLERANCE = 0.05
#: Labels remembered, those of most identities first: 10 bytes each, and the state stays below a broker's usual message limit of 1 MB.
MOST_LABELS = 65_536
#: Widest scale of a feature, in least differences: where quartiles lie in different groups, their distance is what tells these apart,
#: and as a scale it would shrink it to nothing. 1 to 4 find six planted ways of life alike, 8 and more find none of them.
WIDEST = 3.0
#: Quartiles of a normal distribution lie so many standard deviations apart.
QUARTILES = 1.349


@njit(cache=True)
def scaled(features: np.ndarray, shift: np.ndarray, scale: np.ndarray, out: np.ndarray) -> None:
    """Features in spreads from the median, clipped; unknown ones at the median."""
    for i in range(features.shape[0]):
        for j in range(features.shape[1]):
            z = (features[i, j] - shift[j]) / scale[j]
            out[i, j] = min(max(z, -CLIP), CLIP) if np.isfinite(features[i, j]) else 0.0


@njit(cache=True)
def _nearest(points: np.ndarray, centres: np.ndarray, which: np.ndarray, nearest: np.ndarray, second: np.ndarray) -> None:
    """For every point the index of its nearest centre (the first of equals), and squared distances to the two nearest.

    ``centres`` is [features, k]: the inner loop runs over centres, so that it is done several at a time and adds up in one order.
    """
    k = centres.shape[1]
    far = np.empty(k)
    for i in range(points.shape[0]):
        far[:] = 0.0
        for j in range(points.shape[1]):
            p = points[i, j]
            for c in range(k):
                far[c] += (p - centres[j, c]) * (p - centres[j, c])
        best, nearest[i], second[i] = 0, np.inf, np.inf
        for c in range(k):
            if far[c] < nearest[i]:
                second[i] = nearest[i]
                best, nearest[i] = c, far[c]
            elif far[c] < second[i]:
                second[i] = far[c]
        which[i] = best


def places(points: np.ndarray, centres: np.ndarray) -> tuple[np.ndarray, float]:
    """(int32[n] the centre each point belongs to, how well the centres separate them: the mean simplified silhouette, -1 to 1)."""
    which, nearest, second = np.empty(len(points), np.int32), np.empty(len(points)), np.empty(len(points))
    _nearest(points, np.ascontiguousarray(centres.T), which, nearest, second)
    if len(centres) < 2:
        return which, -1.0
    near, next_ = np.sqrt(nearest), np.sqrt(second)
    return which, float(np.mean((next_ - near) / np.maximum(next_, 1e-12)))


def robust(features: np.ndarray, least: tuple[float, ...]) -> tuple[np.ndarray, np.ndarray]:
    """(shift, scale) of each column: its median, and its spread by quartiles, from once to ``WIDEST`` times the ``least``
    that makes a difference."""
    shift, scale = np.zeros(features.shape[1]), np.array(least)
    for j, column in enumerate(features.T):
        known = column[np.isfinite(column)]
        if len(known):
            low, shift[j], high = np.quantile(known, (0.25, 0.5, 0.75))
            scale[j] = min(max(scale[j], (high - low) / QUARTILES), WIDEST * scale[j])
    return shift, scale


def sampled(label: np.ndarray, key: np.ndarray) -> np.ndarray:
    """Rows for training, in an order that depends on the keys alone: at most SAMPLE in all, and of a label as SAMPLE_OF_LABEL says."""
    mixed = np.empty(len(key), np.uint64)
    # Not the key itself: whoever chooses names could otherwise choose to be in the sample of every table that takes the lowest.
    pair_keys(key, label, mixed)
    order = np.lexsort((label, mixed))
    by_label = order[np.argsort(label[order], kind="stable")]
    begins = np.flatnonzero(np.r_[True, label[by_label][1:] != label[by_label][:-1]])
    carried = np.diff(np.r_[begins, len(by_label)])
    least, most = SAMPLE_OF_LABEL
    rank = np.arange(len(by_label)) - np.repeat(begins, carried)
    taken = by_label[rank < min(max((len(key) - carried.max()) // 7, least), most)]
    chosen_: np.ndarray = taken[np.lexsort((label[taken], mixed[taken]))][:SAMPLE]
    return chosen_


def _fitted(points: np.ndarray, k: int, start: np.ndarray | None) -> np.ndarray:
    """Centres of k-means, from ``start`` or from the best of three seeded starts; those with too few members left out."""
    # Imported only here: it takes a second.
    from sklearn.cluster import KMeans
    from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

    # Two threads would add up in another order than one.
    with threadpool_limits(limits=1):
        means = KMeans(k, init="k-means++" if start is None else start, n_init=3 if start is None else 1, random_state=0).fit(points)
    centres: np.ndarray = means.cluster_centers_
    members = np.bincount(places(points, centres)[0], minlength=k)
    return centres[members >= LEAST_MEMBERS]


def chosen(points: np.ndarray, start: np.ndarray) -> np.ndarray:
    """Centres for the points: as many as separate them well, those grown from ``start`` if they do as well as any."""
    distinct = len(np.unique(points, axis=0))
    most = min(MOST_GROUPS, int(np.sqrt(len(points) / 2)), distinct)
    found: list[tuple[float, np.ndarray]] = []
    for k in (2, 3, 4, 6, 8, 12, 16, 24, 32):
        if k <= most:
            centres = _fitted(points, k, None)
            found.append((places(points, centres)[1], centres))
    if 2 <= len(start) <= distinct:
        centres = _fitted(points, len(start), start)
        found.append((places(points, centres)[1], centres))
    best = max((score for score, _ in found), default=-1.0)
    good = [centres for score, centres in found if score >= best - TOLERANCE and len(centres) > 1]
    return good[-1] if good else points[:0]


def matched(before: np.ndarray, now: np.ndarray, far: np.ndarray) -> np.ndarray:
    """int16[k]: the number of each new group, given each sampled row's old number (-1 = none) and new group, and ``far``
    float64[MOST_GROUPS, k]: how far each old centre is from each new one (infinite where there was none).

    A number goes on with the nearest new group that shares at least half of its members or gives it half of its own. Nearness decides,
    not the number of members: a crowd of newcomers had to be put somewhere by the old centres, and would take the number with it.
    The other groups get numbers that were free before, as long as there are any.
    """
    k = far.shape[1]
    shared = np.zeros((MOST_GROUPS, k), np.int64)
    known = before >= 0
    np.add.at(shared, (before[known], now[known]), 1)
    was, is_ = shared.sum(axis=1), np.bincount(now, minlength=k)
    ids = np.full(k, -1, np.int16)
    taken = np.zeros(MOST_GROUPS, np.bool_)
    for flat in np.argsort(far, axis=None, kind="stable"):
        old, new = divmod(int(flat), k)
        if taken[old] or ids[new] >= 0 or 2 * shared[old, new] < max(min(was[old], is_[new]), 1):
            continue
        ids[new], taken[old] = old, True
    free = sorted(np.flatnonzero(~taken).tolist(), key=lambda old: bool(np.isfinite(far[old, 0])))
    for new in np.argsort(-is_, kind="stable"):
        if ids[new] < 0:
            ids[new] = free.pop(0)
    return ids


def majorities(label: np.ndarray, group: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(uint64[m] labels ascending, int16[m] the group of at least half of those who carry each, -1 where there is none)."""
    codes = np.empty(len(label), np.int64)
    labels, codes[:] = np.unique(label, return_inverse=True)
    counts = np.zeros((len(labels), MOST_GROUPS), np.int64)
    np.add.at(counts, (codes, group), 1)
    carried, most = counts.sum(axis=1), counts.argmax(axis=1)
    majority = np.where(2 * counts.max(axis=1) >= carried, most, -1).astype(np.int16)
    # Ties of size go by hash, since the labels are in its order.
    keep = np.sort(np.argsort(-carried, kind="stable")[:MOST_LABELS])
    return labels[keep], majority[keep]
