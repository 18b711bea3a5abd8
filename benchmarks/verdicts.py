"""How good a score of rows is, and how good the alerts made of it: labels and scores in, figures out."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from benchmarks.datasets import BENIGN, FLOODS, DataSet

HOUR = 3_600_000_000
DAY = 24 * HOUR
#: Rows of one attack name further apart than this are two instances.
GAP = HOUR


def _runs(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Where runs of equal values begin and end in sorted ``values``."""
    begins = np.flatnonzero(np.append(True, values[1:] != values[:-1])) if len(values) else np.zeros(0, np.int64)
    return begins, np.append(begins[1:], len(values))


def auc(scores: np.ndarray, positive: np.ndarray) -> float | None:
    """Area under the ROC curve, a tie counting half; None where one side is empty.

    >>> auc(np.array([1.0, 2.0, 2.0, 3.0]), np.array([False, False, True, True]))
    0.875
    """
    many, others = int(positive.sum()), int((~positive).sum())
    if many == 0 or others == 0:
        return None
    order = np.argsort(scores, kind="stable")
    begins, ends = _runs(scores[order])
    below = np.concatenate([[0], np.cumsum(~positive[order])])
    hits = np.concatenate([[0], np.cumsum(positive[order])])
    won = (hits[ends] - hits[begins]) * (below[begins] + below[ends]) / 2.0
    return float(won.sum() / many / others)


def average_precision(scores: np.ndarray, positive: np.ndarray) -> float | None:
    """Precision at each score that a positive row has, averaged over the positive rows; rows of equal score come together.

    >>> average_precision(np.array([3.0, 2.0, 1.0]), np.array([True, False, True]))
    0.8333333333333333
    """
    many = int(positive.sum())
    if many == 0 or many == len(positive):
        return None
    order = np.argsort(-scores, kind="stable")
    begins, ends = _runs(scores[order])
    hits = np.concatenate([[0], np.cumsum(positive[order])])
    return float(((hits[ends] - hits[begins]) * hits[ends] / ends).sum() / many)


def by_attack(scores: np.ndarray, data: DataSet) -> dict[str, float]:
    """AUC of each attack name against all benign rows."""
    benign = data.truth == BENIGN
    found = {}
    for code, attack in enumerate(data.attacks):
        rows = benign | (data.truth == code)
        value = auc(scores[rows], data.truth[rows] == code)
        if value is not None:
            found[attack] = value
    return found


def _mean(values: list[float]) -> float | None:
    return float(np.mean(values)) if values else None


def row_figures(scores: np.ndarray, data: DataSet) -> dict[str, float | None]:
    """``auc``, ``ap``, ``macro_auc`` (names of at least 50 rows), ``macro_auc_5``, ``hard_auc``, ``hard_ap``; rows that are neither
    attack nor benign do not count."""
    judged = data.truth >= BENIGN
    attack = data.truth >= 0
    floods = [code for code, name in enumerate(data.attacks) if name in FLOODS]
    hard = judged & ~np.isin(data.truth, floods)
    many = np.bincount(data.truth[attack], minlength=len(data.attacks))
    of_name = by_attack(scores, data)
    large = {name for code, name in enumerate(data.attacks) if many[code] >= 50}
    some = {name for code, name in enumerate(data.attacks) if many[code] >= 5}
    return {
        "auc": auc(scores[judged], attack[judged]),
        "ap": average_precision(scores[judged], attack[judged]),
        "macro_auc": _mean([value for name, value in of_name.items() if name in large]),
        "macro_auc_5": _mean([value for name, value in of_name.items() if name in some]),
        "hard_auc": auc(scores[hard], attack[hard]),
        "hard_ap": average_precision(scores[hard], attack[hard]),
    }


@dataclass(frozen=True)
class Openings:
    """Alerts by how they opened: the row of the opening event and the identity blamed (a code of the block's names)."""

    row: np.ndarray
    blamed: np.ndarray


def instances(data: DataSet) -> np.ndarray:
    """int32 per row: which instance of its attack it belongs to, -1 for rows of none. An instance is the rows of one attack name
    with gaps of at most an hour."""
    out = np.full(len(data), -1, np.int32)
    used = 0
    for code in range(len(data.attacks)):
        rows = np.flatnonzero(data.truth == code)
        if len(rows):
            number = np.cumsum(np.diff(data.block.time[rows], prepend=data.block.time[rows[0]]) > GAP)
            out[rows] = used + number
            used += int(number[-1]) + 1
    return out


def alert_figures(found: Openings, data: DataSet) -> dict[str, float | None]:
    """What the alerts of a stream caught.

    Strict: an alert counts if it peaks, that is opens, on a row of the attack. ``names_loose`` counts an alert on any source or target
    of an instance in any clock hour the instance touches: a warning, for chance alone scores high on it.
    """
    instance = instances(data)
    total = len(set(data.truth[data.truth >= 0].tolist()))
    caught = instance[found.row]
    names = data.truth[found.row]
    time = data.block.time
    a_day = np.bincount((time[found.row] // DAY - time[0] // DAY).astype(np.int64)) if len(found.row) else np.zeros(1)
    delays = [_delay(data, instance, found, each) for each in np.unique(caught[caught >= 0]).tolist()]
    return {
        "names_caught_at_10_per_day": len(set(names[names >= 0].tolist())) / total if total else None,
        "precision_at_10_per_day": float((names >= 0).mean()) if len(names) and total else None,
        "alerts_per_day": len(found.row) / data.days if data.days > 0.0 else None,
        "worst_day": float(a_day.max()),
        "names_loose": len(_loose(found, data, instance)) / total if total else None,
        "instances_caught": float(len(delays) / (int(instance.max()) + 1)) if total else None,
        "delay_seconds": float(np.median([delay[0] for delay in delays])) if delays else None,
        "delay_events": float(np.median([delay[1] for delay in delays])) if delays else None,
    }


def _delay(data: DataSet, instance: np.ndarray, found: Openings, which: int) -> tuple[float, int]:
    """Seconds and events from an instance's first row to the first alert on it."""
    first = int(np.flatnonzero(instance == which)[0])
    caught = int(found.row[instance[found.row] == which].min())
    return float(data.block.time[caught] - data.block.time[first]) / 1e6, caught - first


def _loose(found: Openings, data: DataSet, instance: np.ndarray) -> set[int]:
    """Attacks with an instance of which a source or target was blamed in an hour it touches."""
    hour = data.block.time // HOUR
    alerted = set(zip(found.blamed.tolist(), hour[found.row].tolist(), strict=True))
    caught: set[int] = set()
    rows = np.flatnonzero(instance >= 0)
    rows = rows[np.argsort(instance[rows], kind="stable")]
    for begin, end in zip(*_runs(instance[rows]), strict=True):
        own = rows[begin:end]
        hours = np.unique(hour[own]).tolist()
        ends = np.unique(np.concatenate([data.block.actor[own], data.block.object[own]])).tolist()
        if any((each, when) in alerted for each in ends for when in hours):
            caught.add(int(data.truth[own[0]]))
    return caught
