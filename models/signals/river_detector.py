"""Any anomaly detector of river as a signal, one for everyone or one per identity."""

from __future__ import annotations

import inspect
import math
from typing import Any, Literal

import msgspec
import numpy as np

from models.counts import PAIR_DAYS
from models.kernels import DAY, t_tail
from models.profiles import Fields
from models.signals import Rows, Signal, Visit, number

#: ln of the largest transfer that keeps a feature below 1: detectors like HalfSpaceTrees want [0, 1].
LARGEST = 40.0
#: Detectors kept beyond the live identities before the dead are dropped.
SLACK = 10_000


#: What ``features`` gives.
FEATURES = ("bytes", "hour", "weekday", "refused", "new_partner")


def features(rows: Rows, i: int) -> dict[str, float]:
    """One event as river sees it: all in [0, 1], 0 where the source does not say."""
    day = rows.time[i] / DAY
    moved = rows.moved[i]
    refused = rows.refused[i]
    return {
        "bytes": 0.0 if math.isnan(moved) else min(math.log1p(moved) / LARGEST, 1.0),
        "hour": (rows.time[i] % DAY) / DAY,
        # 1 January 1970 was a Thursday.
        "weekday": ((day + 3.0) % 7.0) / 7.0,
        "refused": 0.0 if math.isnan(refused) else float(refused),
        "new_partner": 1.0 / (1.0 + rows.counts[PAIR_DAYS, i]),
    }


class RiverDetector(Signal, dict=True):
    """A river ``anomaly`` detector by its class name, over ``features``: scored before it learns, late events never learned.

    Idea: whatever river offers can be tried beside our own signals under the same calibration and budget. Its score, of any scale, is
    turned into an ordering against the running mean and variance of all its scores. Fails to survive a restart: river keeps its state
    in objects and we do not pickle, so ``--state`` refuses it. Costs what river costs: 10 to 100 microseconds an event.
    Parameters: ``detector`` (``HalfSpaceTrees``, ``LocalOutlierFactor``, ...), ``per``, ``settings`` for its constructor.
    """

    durable = False
    unit = "score"

    weight: float = 0.1
    detector: str = "HalfSpaceTrees"
    per: Literal["everyone", "actor"] = "everyone"
    settings: dict[str, Any] = msgspec.field(default_factory=dict)

    def __post_init__(self) -> None:
        """Raise ValueError, with a sentence, unless river has such a detector and takes the settings."""
        self.made: dict[int, Any] = {}
        nothing = dict.fromkeys(FEATURES, 0.0)
        rehearsal = self._new()
        try:
            # A setting may be wrong in a way that river notices only at the first event.
            rehearsal.score_one(nothing)
            rehearsal.learn_one(nothing)
        except Exception as error:
            raise ValueError(f"expected settings of river's {self.detector} that work: {error} - at `$.settings`") from None

    def _new(self) -> Any:
        # Imported only where it is named: it takes a second.
        from river import anomaly
        from river.base import AnomalyDetector

        offered = {name: getattr(anomaly, name) for name in anomaly.__all__}
        known = [name for name, each in offered.items() if isinstance(each, type) and issubclass(each, AnomalyDetector)]
        if self.detector not in known:
            raise ValueError(f"expected a river anomaly detector ({', '.join(known)}), got {self.detector!r} - at `$.detector`")
        made = offered[self.detector]
        # Without a seed it would score the same log differently every time.
        seed = {"seed": 0} if "seed" in inspect.signature(made).parameters else {}
        try:
            return made(**seed | self.settings)
        except TypeError as error:
            raise ValueError(f"expected settings of river's {self.detector}: {error} - at `$.settings`") from None

    @property
    def visit(self) -> Visit:
        """At the actor."""
        return "actor"

    def state(self) -> dict[str, Fields]:
        """The number of the actor's own detector: slots move, numbers do not."""
        return {"actor": (("number", "u4"),)}

    def scalars(self) -> tuple[str, ...]:
        """Detectors made; scores, their mean and variance."""
        return ("made", "scores", "mean", "variance")

    def surprise(self, rows: Rows, tables: dict[str, np.ndarray], scalars: np.ndarray, out: np.ndarray) -> None:
        """See the contract."""
        slots = rows.slots["actor"].tolist()
        for i, slot in enumerate(slots):
            detector = self._of(tables["actor"], slot, scalars, bool(rows.learn[i]))
            x = features(rows, i)
            score = float(detector.score_one(x))
            if not math.isfinite(score):
                score = scalars[2]
            out[0, i] = t_tail(score, scalars[2], scalars[3] + 1e-6, scalars[1])
            out[1, i] = score
            out[2, i] = scalars[2]
            out[3, i] = scalars[2] + 2.0 * math.sqrt(scalars[3])
            if rows.learn[i]:
                detector.learn_one(x)
                scalars[1] += 1.0
                weight = max(1.0 / scalars[1], 0.001)
                delta = score - scalars[2]
                scalars[2] += weight * delta
                scalars[3] += weight * (delta * delta * (1.0 - weight) - scalars[3])
        if len(self.made) > len(tables["actor"]) + SLACK:
            live = set(tables["actor"]["number"].tolist())
            for number_ in [held for held in self.made if held not in live]:
                del self.made[number_]

    def _of(self, actor: np.ndarray, slot: int, scalars: np.ndarray, learn: bool) -> Any:
        if self.per == "everyone":
            if 0 not in self.made:
                self.made[0] = self._new()
            return self.made[0]
        own = actor["number"]
        if own[slot] == 0:
            if not learn:
                return self._new()
            scalars[0] += 1.0
            own[slot] = int(scalars[0])
            self.made[int(scalars[0])] = self._new()
        return self.made[int(own[slot])]

    def text(self, seen: float, expected: float, usual: float, actor: str, object: str) -> str:
        """See the contract."""
        return f"river's {self.detector} scores {number(seen)}, {number(expected)} expected, up to {number(usual)} would be normal"


LEARNER = RiverDetector
