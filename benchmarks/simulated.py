"""The simulator's scenarios as one data set: rows resolved and in order as the detector sees them, and which attack each belongs to."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np

from benchmarks.datasets import BENIGN, NEITHER, DataSet
from connectors.alert import Alert
from connectors.event import Block
from connectors.names import Names
from detector.config import Config
from detector.pipeline import Cores, Pipeline, quiet_collector
from replay.inputs import open_inputs
from replay.simulate.labels import LABELS, read_labels
from replay.simulate.scenarios import available
from replay.simulating import write_trace

#: What the set is called.
NAME = "simulated"
#: Long enough for baselines and for the attacks that take days; the size of the demo's factory.
DAYS, SEED, SCALE = 14, 1, 1.0


class Tape(Cores):
    """Keeps the blocks that the cores would judge."""

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self.kept: list[Block] = []

    def fold(self, block: Block, scores: Callable[[np.ndarray], None] | None = None) -> list[Alert]:
        """Keep it; no alert ever."""
        self.kept.append(block)
        return []


def simulated(config: Config, days: int = DAYS, seed: int = SEED, scale: float = SCALE) -> DataSet:
    """Every scenario on one background. Rows of hard cases are benign; rows that two scenarios share are neither."""
    with tempfile.TemporaryDirectory(prefix="tocsin-simulated-") as scratch:
        folder = Path(scratch)
        write_trace(folder, days=days, seed=seed, scale=scale, scenarios=list(available()))
        labels = [label for label in read_labels(folder / LABELS) if not label.benign]
        names, tape = Names(), Tape(config)
        inputs = open_inputs([folder], None, None, names, 4096)
        logs = [Path(log.path).name for log in inputs.logs]
        with quiet_collector():
            for _ in Pipeline(tape, names=names).run(list(inputs.logs)):
                pass
    block = Block.concat(tape.kept)
    attacks = tuple(sorted({label.scenario for label in labels}))
    truth = np.full(len(block), BENIGN, np.int32)
    for label in labels:
        code = attacks.index(label.scenario)
        for number, log in enumerate(logs):
            mine = (block.partition == number) & np.isin(block.record, label.records.get(log, []))
            truth[mine & (truth != BENIGN) & (truth != code)] = NEITHER
            truth[mine & (truth == BENIGN)] = code
    block.label = None
    block.partition[:] = 0
    block.record = np.arange(len(block))
    return DataSet(NAME, block, attacks, truth)
