"""One line's scale: the calibration of its signals, and the combination of a row's surprises into one score.

The main line works by the hour, the slow one by the day; apart from that they are alike, and neither knows of the other.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from connectors.event import Block, Stream
from connectors.names import KINDS
from detector.config import Config
from detector.marks import Marks
from models import calibration, counts
from models.drift import Drift
from models.groups import PEERS
from models.kernels import DAY, HOUR
from models.profiles import Fields, record
from models.signals import Line, Rows

#: Kinds of actor: each is an identity class of its own within its stream. 0 = none of them, and everyone.
CLASSES = 1 + len(KINDS)
_NUMBERS = {kind: number for number, kind in enumerate(KINDS, 1)}


@dataclass(slots=True)
class Found:
    """The surprising rows of a run, of one line. ``rows`` float64[m, EVIDENCE + 2 x signals] as ``models.calibration`` writes them;
    ``values`` float64[m, signals, 3]: seen, expected, usual. ``signals``: the order of the signals. ``drift``: where the level of a
    signal has moved, by stream and place of the signal."""

    block: Block
    rows: np.ndarray
    values: np.ndarray
    signals: tuple[str, ...]
    line: Line = "main"
    drift: Drift | None = None


def kind_number(name: str) -> int:
    """The number of an identity's kind.

    >>> kind_number("user:ann") == kind_number("user:bob"), kind_number("elsewhere")
    (True, 0)
    """
    return _NUMBERS.get(name.partition(":")[0], 0)


class Scale:
    """The calibration of one line's signals. Its state: fields of the object's and the pair's table, and ``arrays()``."""

    def __init__(self, config: Config, line: Line) -> None:
        self.line: Line = line
        mine = {name: each for name, each in config.learners().items() if each.line == line}
        self.order = tuple(mine)
        many, classes = len(mine), len(Stream) * CLASSES
        self.owner = "calibration" if line == "main" else f"calibration_{line}"
        # Kept by the signals' names, so that state of other signals, or of the same in another order, is told apart; worked on as one.
        self.fields: Fields = (*calibration.PAIR, *((f"bin_{name}", "u1") for name in mine))
        self._cell = record((*calibration.PAIR, ("bins", "u1", many)))
        self._kinds = Marks(kind_number)
        self._weights = np.array([each.weight for each in mine.values()])
        self._drifts = np.array([each.drifts for each in mine.values()])
        self.configure(config)
        self._new = counts.NEW_DAY if line == "slow" else counts.NEW_HOUR
        self.clock = np.zeros(len(calibration.CLOCK))
        self._arrays = {
            "cells": np.zeros((classes, 4)),
            "means": np.zeros((len(Stream), many, 2)),
            "histogram": np.zeros((classes, many, calibration.BINS)),
            "gain": np.zeros((classes, many, calibration.BINS)),
            "term": np.zeros((classes, many, calibration.BINS)),
            "peers": np.zeros((PEERS, many, calibration.BINS)),
            "level": np.zeros((len(Stream), 2 * many + 1)),
        }
        self.drift = Drift()

    def configure(self, config: Config) -> None:
        """Take over what may change while it runs."""
        slow = self.line == "slow"
        self._settings = np.array(
            [
                config.calibration.cap,
                config.calibration.floor,
                config.calibration.beta,
                float(config.calibration.equalise_streams),
                config.budget.slow_alerts_per_day if slow else config.budget.alerts_per_day,
                DAY if slow else HOUR,
            ]
        )

    def arrays(self) -> dict[str, np.ndarray]:
        """The state outside the tables, by name."""
        return {f"{self.line}.{name}": array for name, array in ({"clock": self.clock} | self._arrays).items()}

    def judge(
        self, block: Block, rows: Rows, peer: np.ndarray, done: dict[str, np.ndarray], tables: dict[str, np.ndarray]
    ) -> tuple[np.ndarray, Found]:
        """(float64[n] scores, what is surprising) of a run of rows; teaches the calibration. ``peer`` int32[n]: the actors' peer
        groups; ``tables``: object and pair records."""
        n, many = len(block), len(self.order)
        surprise = np.empty((many, n))
        for k, name in enumerate(self.order):
            surprise[k] = done[name][0]
        score = np.empty(n)
        evidence = np.empty((n, calibration.EVIDENCE + 2 * many))
        finished = np.empty((n, calibration.LEVELS + many))
        found, hours = calibration.calibrate(
            rows.time,
            rows.learn & (rows.actor_counts[counts.LEARN] != 0.0),
            rows.counts[self._new],
            block.stream,
            block.stream.astype(np.int64) * CLASSES,
            self._kinds.of(block.names, block.actor),
            rows.actor_counts[counts.CELLS] if self.line == "main" else np.zeros(n),
            rows.counts[counts.PAIR_DAYS],
            rows.actor_counts[counts.HOURS],
            peer,
            surprise,
            rows.slots["object"],
            rows.slots["pair"],
            tables["object"],
            tables["pair"].view(self._cell),
            self.clock,
            self._arrays["cells"],
            self._arrays["means"],
            self._arrays["histogram"],
            self._arrays["gain"],
            self._arrays["term"],
            self._arrays["peers"],
            self._weights,
            self._drifts,
            self._settings,
            self._arrays["level"],
            score,
            evidence,
            finished,
        )
        for hour in finished[:hours].tolist():
            for k, level in enumerate(hour[calibration.LEVELS :]):
                self.drift.add((int(hour[calibration.HOUR_STREAM]), k), level, int(hour[calibration.HOUR_TIME]))
        kept = evidence[:found].copy()
        index = kept[:, calibration.ROW].astype(np.int64)
        values = np.empty((found, many, 3))
        for k, name in enumerate(self.order):
            values[:, k, :] = done[name][1:, index].T
        return score, Found(block, kept, values, self.order, self.line, self.drift)
