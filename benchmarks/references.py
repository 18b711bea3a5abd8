"""The rivals: scores of the very same rows by trivial counters, by detectors of river and scikit-learn, and by xStream.

Every rival scores a row before it learns it, knows no label and nothing that comes later. The detectors get the features of
``features``; the slow ones run in a process of their own (``python -m benchmarks.references FOLDER ...``), every row of them.
"""

from __future__ import annotations

import math
import subprocess
import sys
import time as wall
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numba import njit
from river import anomaly
from sklearn.ensemble import IsolationForest

from benchmarks.blame import edges
from benchmarks.datasets import DataSet

MINUTE_US = 60_000_000
DAY_US = 1440 * MINUTE_US
#: ln(1 + count) is divided by that of this many, ln(1 + bytes) by that of a terabyte: river's trees expect [0, 1].
MOST_ROWS = 1e6
MOST_BYTES = 1e12
#: Seed of everything that draws.
SEED = 1
#: What a flow row tells a detector that knows nothing of identities. First the one number a one-dimensional detector gets.
FEATURES = (
    "minute",
    "actor_minute",
    "object_minute",
    "edge_minute",
    "actor_seen",
    "object_seen",
    "edge_seen",
    "day_sine",
    "day_cosine",
)


@dataclass(frozen=True)
class Scored:
    """A score per row, higher is stranger, and how long it took."""

    scores: np.ndarray
    seconds: float


@njit(cache=True)
def _count(minute: np.ndarray, key: np.ndarray, keys: int, now: np.ndarray, ever: np.ndarray) -> None:
    """Rows of each row's key, itself included: in its minute so far, and before it ever."""
    last = np.full(keys, -1, np.int64)
    in_minute = np.zeros(keys, np.int64)
    in_all = np.zeros(keys, np.int64)
    for i in range(len(key)):
        k = key[i]
        if last[k] != minute[i]:
            last[k] = minute[i]
            in_minute[k] = 0
        in_minute[k] += 1
        now[i] = in_minute[k]
        ever[i] = in_all[k]
        in_all[k] += 1


def counts(data: DataSet, key: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(rows of the key in this minute so far, rows of it before) per row."""
    now, ever = np.zeros(len(data)), np.zeros(len(data))
    _count(data.block.time // MINUTE_US, key, int(key.max()) + 1 if len(key) else 1, now, ever)
    return now, ever


def features(data: DataSet) -> np.ndarray:
    """float64[rows, FEATURES and what the set tells besides]: all in [0, 1], all known when the row comes.

    Besides: ln bytes in and out and how often the edge had this detail, where the set has them.
    """
    block = data.block
    pair = edges(data)
    scale = math.log1p(MOST_ROWS)
    every = counts(data, np.zeros(len(data), np.int64))[0]
    keyed = [counts(data, key) for key in (block.actor, block.object, pair)]
    columns = [np.log1p(every) / scale]
    columns += [np.log1p(now) / scale for now, _ in keyed]
    columns += [np.log1p(ever) / scale for _, ever in keyed]
    turn = 2.0 * np.pi * (block.time % DAY_US) / DAY_US
    columns += [0.5 + 0.5 * np.sin(turn), 0.5 + 0.5 * np.cos(turn)]
    columns += [
        np.log1p(np.nan_to_num(moved)) / math.log1p(MOST_BYTES)
        for moved in (block.bytes_out, block.bytes_in)
        if np.isfinite(moved).any()
    ]
    if (block.detail >= 0).any():
        _, facet = np.unique(pair * (len(block.names) + 1) + block.detail + 1, return_inverse=True)
        columns.append(np.log1p(counts(data, facet)[1]) / scale)
    stacked: np.ndarray = np.minimum(np.column_stack(columns), 1.0)
    return stacked


def rows_this_minute(data: DataSet) -> np.ndarray:
    """The counter that ignores who and whom."""
    return counts(data, np.zeros(len(data), np.int64))[0]


def new_edge(data: DataSet) -> np.ndarray:
    """How new the pair of actor and object is: minus the rows it had before, ties broken at random, for ties in order of arrival would
    favour those who are there early, the victims."""
    return -counts(data, edges(data))[1] + 0.5 * np.random.default_rng(SEED).random(len(data))


def chance(data: DataSet) -> np.ndarray:
    """What luck alone reaches."""
    return np.random.default_rng(SEED + 1).random(len(data))


def isolation_forest(x: np.ndarray, time: np.ndarray) -> np.ndarray:
    """scikit-learn's, with its defaults, fitted anew on all rows so far once a day; on a younger stream whenever its age has grown by
    a quarter. Rows before the first fit (256 rows) score 0."""
    scores = np.zeros(len(x))
    begin = 256
    while begin < len(x):
        age = time[begin] - time[0]
        end = int(np.searchsorted(time, time[begin] + max(min(age / 4, DAY_US), MINUTE_US), side="right"))
        end = max(end, begin + 256)
        forest = IsolationForest(random_state=SEED).fit(x[:begin])
        scores[begin:end] = -forest.score_samples(x[begin:end])
        begin = end
    return scores


def gaussian_scorer(x: np.ndarray) -> np.ndarray:
    """river's, with its defaults, of the one number that the best counter counts: ln of the rows this minute."""
    scorer: Any = anomaly.GaussianScorer
    model = scorer()
    scores = np.zeros(len(x))
    for i, value in enumerate(x[:, 0].tolist()):
        scores[i] = model.score_one({}, value)
        model.learn_one({}, value)
    return scores


def row_by_row(model: Any, x: np.ndarray) -> np.ndarray:
    """Of a river detector that scores a row before it learns it."""
    scores = np.zeros(len(x))
    for i, row in enumerate(x.tolist()):
        said = dict(enumerate(row))
        scores[i] = model.score_one(said)
        model.learn_one(said)
    return scores


def half_space_trees(x: np.ndarray) -> np.ndarray:
    """river's, with its defaults."""
    return row_by_row(anomaly.HalfSpaceTrees(seed=SEED), x)


def one_class_svm(x: np.ndarray) -> np.ndarray:
    """river's, with its defaults."""
    return row_by_row(anomaly.OneClassSVM(), x)


def loda(x: np.ndarray) -> np.ndarray:
    """river's, with its defaults."""
    return row_by_row(anomaly.LODA(seed=SEED), x)


#: xStream as its paper has it: this many projections and chains, of this depth; counters a level; rows a window.
_PROJECTIONS, _CHAINS, _DEPTH, _CELLS, _WINDOW = 20, 50, 15, 1 << 12, 2048


@njit(cache=True)
def _chains(x: np.ndarray, shift: np.ndarray, width: np.ndarray, chosen: np.ndarray, window: int, cells: int) -> np.ndarray:
    """Minus the mean over chains of the lowest log2(1 + count) + level; counts are those of the window before, of the present one
    while there is none."""
    chains, depth = chosen.shape
    before = np.zeros((chains, depth, cells), np.float32)
    present = np.zeros((chains, depth, cells), np.float32)
    scores = np.zeros(len(x))
    z, times = np.zeros(x.shape[1]), np.zeros(x.shape[1], np.int64)
    for i in range(len(x)):
        counts = before if i >= window else present
        total = 0.0
        for c in range(chains):
            times[:] = 0
            lowest = np.inf
            bins = np.uint64(14695981039346656037)
            for level in range(depth):
                f = chosen[c, level]
                if times[f] == 0:
                    z[f] = (x[i, f] + shift[c, f]) / width[f]
                else:
                    z[f] = 2.0 * z[f] - shift[c, f] / width[f]
                times[f] += 1
                bins = (bins ^ np.uint64(np.int64(np.floor(z[f])))) * np.uint64(1099511628211)
                bins ^= bins >> np.uint64(29)
                cell = np.int64(bins % np.uint64(cells))
                lowest = min(lowest, np.log2(1.0 + counts[c, level, cell]) + level + 1)
                present[c, level, cell] += 1.0
            total += lowest
        scores[i] = -total / chains
        if (i + 1) % window == 0:
            before, present = present, before
            present[:] = 0.0
    return scores


def xstream(x: np.ndarray) -> np.ndarray:
    """Half-space chains over random projections (Manzoor, Lamba and Akoglu, 2018). Written here: what is published of it draws in
    packages that are not kept up. Widths come from the features' range, which is [0, 1], and not from the first rows."""
    draw = np.random.default_rng(SEED)
    signs = draw.choice([-1.0, 0.0, 1.0], (x.shape[1], _PROJECTIONS), p=[1 / 6, 2 / 3, 1 / 6]) * math.sqrt(3.0 / _PROJECTIONS)
    width = np.maximum(np.abs(signs).sum(0) / 2.0, 1e-9)
    shift = draw.random((_CHAINS, _PROJECTIONS)) * width
    chosen = draw.integers(0, _PROJECTIONS, (_CHAINS, _DEPTH))
    scores: np.ndarray = _chains(x @ signs, shift, width, chosen, _WINDOW, _CELLS)
    return scores


#: Counters made of the rows themselves.
COUNTERS: dict[str, Callable[[DataSet], np.ndarray]] = {"rows_this_minute": rows_this_minute, "new_edge": new_edge, "random": chance}
#: Row by row in Python.
SLOW: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "half_space_trees": half_space_trees,
    "gaussian_scorer": gaussian_scorer,
    "one_class_svm": one_class_svm,
    "loda": loda,
    "xstream": xstream,
}
#: All rivals, in the order in which they are shown.
NAMES = (*COUNTERS, *SLOW, "isolation_forest")


class Apart:
    """Slow rivals at work in one process of their own, over one set after another. ``folder`` must last until the last ``results``."""

    def __init__(self, x: dict[str, np.ndarray], folder: Path) -> None:
        """``x``: the features of each set by its name."""
        self._folders = {name: folder / str(number) for number, name in enumerate(x)}
        for name, path in self._folders.items():
            path.mkdir()
            np.save(path / "features.npy", x[name])
        command = [sys.executable, "-m", "benchmarks.references", *map(str, self._folders.values())]
        self._process = subprocess.Popen(command, cwd=Path(__file__).resolve().parent.parent)  # noqa: S603 - our own module

    def results(self, name: str) -> dict[str, Scored]:
        """Wait for all; what they said of one set. Raises RuntimeError where the process failed."""
        if self._process.wait() != 0:
            raise RuntimeError("the slow references failed; their message stands above")
        found = {}
        for rival in SLOW:
            kept = np.load(self._folders[name] / f"{rival}.npy")
            found[rival] = Scored(kept[1:], float(kept[0]))
        return found

    def stop(self) -> None:
        """End the process if it still runs."""
        self._process.kill()
        self._process.wait()


def quick(data: DataSet, x: np.ndarray) -> dict[str, Scored]:
    """The rivals that take no process of their own."""
    found = {}
    for name, score in COUNTERS.items():
        score(data.where(np.arange(len(data)) < 2, data.name))  # compiles
        began = wall.perf_counter()
        scores = score(data)
        found[name] = Scored(scores, wall.perf_counter() - began)
    began = wall.perf_counter()
    scores = isolation_forest(x, data.block.time)
    found["isolation_forest"] = Scored(scores, wall.perf_counter() - began)
    return found


def main() -> None:
    """Score ``features.npy`` of each folder given by the slow rivals, each into a file there: seconds, then scores."""
    for folder in map(Path, sys.argv[1:]):
        x = np.load(folder / "features.npy")
        for name, score in SLOW.items():
            began = wall.perf_counter()
            scores = score(x)
            np.save(folder / f"{name}.npy", np.concatenate([[wall.perf_counter() - began], scores]))


if __name__ == "__main__":
    main()
