"""The same detector over several partitions in one process, as the distributed engine lays it out.

Actors, objects and evidence are each spread by a stable hash; the actor's visit, the object's visit and the judgement of a partition
know nothing of the others' profiles. Three things cross: what an actor's visit sends along with a row (with it, how much activity its
partition has seen, so that the object's visit can add the partitions up), evidence that is blamed on the object, and the cells of the
alert budget. Measured against one partition by ``benchmarks.detection``.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator

import numpy as np
from numba import njit

from connectors.alert import Alert
from connectors.event import HOUR, MINUTE, Block
from detector.config import Config
from detector.fuse import Fusion, judge
from detector.rows import ActorSide
from detector.scale import Found
from detector.score import ActorVisit, ObjectVisit
from models import calibration, counts


@njit(cache=True)
def add_up(partition: np.ndarray, hours: np.ndarray, population: np.ndarray, latest: np.ndarray) -> None:
    """Replace what each row's partition has seen by the sum over the latest of each. ``latest`` float64[P, 2] is kept."""
    for i in range(len(partition)):
        latest[partition[i], 0] = hours[i]
        latest[partition[i], 1] = population[i]
        hours[i] = latest[:, 0].sum()
        population[i] = latest[:, 1].sum()


class Partitions:
    """The cores of ``many`` partitions, folded one after the other. Same surface as ``detector.pipeline.Cores``."""

    def __init__(self, config: Config, many: int) -> None:
        self.config = config
        self.many = many
        self.actors = [ActorVisit(config) for _ in range(many)]
        self.objects = [ObjectVisit(config, many) for _ in range(many)]
        self.judges = {line: [Fusion(config, line, many) for _ in range(many)] for line in ("main", "slow")}
        self._latest = np.zeros((many, many, 2))
        self._clock = 0

    def fold(self, block: Block, scores: Callable[[np.ndarray], None] | None = None) -> list[Alert]:
        """Score a resolved block, learn it, judge what came out."""
        return [alert for part in self._between_reckonings(block) for alert in self._fold(part, scores)]

    def _between_reckonings(self, block: Block) -> Iterator[Block]:
        """A block cut where the alert budget may be reckoned anew: partitions are folded one after the other, and none may run ahead of
        that. By the minute while the stream is young, by the hour from then on (``kernels.hour_unit``)."""
        if len(block) == 0:
            return
        unit = HOUR if self.judges["main"][0].state.budget.age >= 60 * HOUR else MINUTE
        clock = np.maximum.accumulate(np.maximum(block.time, self._clock))
        begins = np.flatnonzero(np.diff(clock // unit, prepend=self._clock // unit)).tolist()
        self._clock = int(clock[-1])
        for start, stop in itertools.pairwise(sorted({0, *begins, len(block)})):
            yield block.take(slice(start, stop))

    def _fold(self, block: Block, scores: Callable[[np.ndarray], None] | None) -> list[Alert]:
        hashes = block.names.hashes
        of_actor = (hashes[block.actor] % np.uint64(self.many)).astype(np.int64)
        of_object = (hashes[block.object] % np.uint64(self.many)).astype(np.int64)
        side = self._visit_actors(block, of_actor)
        score = np.empty(len(block))
        found: dict[str, list[tuple[np.ndarray, Found]]] = {"main": [], "slow": []}
        for partition in np.unique(of_object).tolist():
            rows = np.flatnonzero(of_object == partition)
            given = side.part(rows)
            add_up(of_actor[rows], given.counts[counts.ALL_HOURS], given.counts[counts.POPULATION], self._latest[partition])
            said: list[np.ndarray] = []
            done = dict.fromkeys(found, 0)
            for each in self.objects[partition].visit(block.take(rows), given, said.append):
                start = done[each.line]
                done[each.line] += len(each.block)
                found[each.line].append((rows[start : done[each.line]], each))
            score[rows] = np.concatenate(said)
        if scores is not None:
            scores(score)
        out: list[Alert] = []
        for line, parts in found.items():
            if parts:
                out += judge(self.judges[line], _together(block, parts))
        out.sort(key=lambda alert: alert.time)
        return out

    def _visit_actors(self, block: Block, of_actor: np.ndarray) -> ActorSide:
        n = len(block)
        whole = ActorSide(np.empty((len(counts.OUTPUT), n)), np.zeros(n, np.int32), {})
        for partition in np.unique(of_actor).tolist():
            rows = np.flatnonzero(of_actor == partition)
            side = self.actors[partition].visit(block.take(rows))
            whole.counts[:, rows] = side.counts
            whole.peer[rows] = side.peer
            for name, matrix in side.signals.items():
                whole.signals.setdefault(name, np.empty((4, n)))[:, rows] = matrix
        return whole


def _together(block: Block, parts: list[tuple[np.ndarray, Found]]) -> Found:
    """What several partitions found in a block, in the order of its rows."""
    rows = np.concatenate([found.rows for _, found in parts])
    index = np.concatenate([at[found.rows[:, calibration.ROW].astype(np.int64)] for at, found in parts])
    rows[:, calibration.ROW] = index
    order = np.argsort(index, kind="stable")
    values = np.concatenate([found.values for _, found in parts])
    first = parts[0][1]
    return Found(block, rows[order], values[order], first.signals, first.line)
