"""One pass of the detector over a data set, exactly as in use: blocks in, scores and alerts out."""

from __future__ import annotations

import copy
import time as wall
from dataclasses import dataclass

import numpy as np

from benchmarks.datasets import DataSet
from benchmarks.verdicts import Openings
from connectors.alert import Alert, Evidence
from detector.config import Config
from detector.partitions import Partitions
from detector.pipeline import Cores, quiet_collector

#: Rows to a block. Results do not depend on it.
BATCH = 4096


@dataclass(frozen=True)
class Run:
    """What came of a pass: a score per row, every revision of the alerts that stand on evidence, seconds."""

    scores: np.ndarray
    revisions: list[Alert]
    strongest: list[Evidence]
    seconds: float

    def of_line(self, line: str) -> list[Alert]:
        """The alerts of one line of the budget, as they opened."""
        return [alert for alert in self.revisions if alert.line == line and alert.activity == "open"]


def run(data: DataSet, config: Config, per_day: float, partitions: int = 1) -> Run:
    """Fold all rows. ``per_day``: the alert budget; everything else is as in ``config``."""
    config = copy.deepcopy(config)
    config.budget.alerts_per_day = per_day
    cores = Cores(config) if partitions == 1 else Partitions(config, partitions)
    scores: list[np.ndarray] = []
    alerts: list[Alert] = []
    began = wall.perf_counter()
    with quiet_collector():
        for start in range(0, len(data), BATCH):
            part = data.block.take(slice(start, start + BATCH))
            alerts += cores.fold(part, lambda said: scores.append(said.copy()))
    seconds = wall.perf_counter() - began
    founded = [alert for alert in alerts if alert.evidence]
    strongest = cores.fusion.strongest if isinstance(cores, Cores) else []
    return Run(np.concatenate(scores) if scores else np.zeros(0), founded, strongest, seconds)


def peak(alert: Alert) -> Evidence:
    """The piece of evidence that opened an alert: the latest of its score."""
    best = min(abs(piece.score - alert.score) for piece in alert.evidence)
    return max((piece for piece in alert.evidence if abs(piece.score - alert.score) == best), key=lambda piece: piece.offset)


def openings(alerts: list[Alert], data: DataSet) -> Openings:
    """Alerts as rows and codes."""
    codes = [data.block.names.find(alert.blamed) for alert in alerts]
    return Openings(
        np.array([peak(alert).offset for alert in alerts], np.int64),
        np.array([-1 if code is None else code for code in codes], np.int64),
    )
