"""A learner that keeps the contract of ``models.signals``, and children of it that each break one rule."""

from __future__ import annotations

import math
import random
from dataclasses import replace
from typing import Annotated, ClassVar

import msgspec
import numpy as np

from models.kernels import MINUTE
from models.profiles import Fields, record
from models.signals import Rows, Signal, Visit

MEMORY: Fields = (("lessons", "f4"), ("mean", "f4"), ("minute", "u4"))


class Plain(Signal, dict=True):
    """Distance of ln(1 + bytes) from the actor's own mean.

    Idea: the simplest learner that keeps the contract. Fails on everything subtle. Cost: a logarithm an event. ``memory``: lessons
    after which the mean moves no slower.
    """

    unit = "bytes"
    #: Whose ladder it climbs.
    like: ClassVar[str] = "magnitude"

    memory: Annotated[float, msgspec.Meta(gt=0, le=1e6)] = 50.0

    @property
    def visit(self) -> Visit:
        return "actor"

    def state(self) -> dict[str, Fields]:
        return {"actor": MEMORY}

    def scalars(self) -> tuple[str, ...]:
        return ("rows",)

    def surprise(self, rows: Rows, tables: dict[str, np.ndarray], scalars: np.ndarray, out: np.ndarray) -> None:
        for i in range(len(rows)):
            self.row(rows, i, tables["actor"][rows.slots["actor"][i]], scalars, out[:, i])

    def row(self, rows: Rows, i: int, own: np.void, scalars: np.ndarray, out: np.ndarray) -> None:
        if math.isnan(rows.moved[i]):
            out[:] = math.nan
            return
        self.judge(rows, i, own, out)
        if rows.learn[i]:
            scalars[0] += 1.0
            self.teach(rows, i, own)

    def judge(self, rows: Rows, i: int, own: np.void, out: np.ndarray) -> None:
        excess = math.log1p(rows.moved[i]) - own["mean"] if own["lessons"] else 0.0
        out[:] = max(excess, 0.0), rows.moved[i], math.expm1(own["mean"]), math.expm1(own["mean"] + 1.0)

    def teach(self, rows: Rows, i: int, own: np.void) -> None:
        minute = rows.time[i] // MINUTE
        if own["minute"] == minute:
            return
        value = math.log1p(rows.moved[i])
        # Inside an announced change a lesson weighs more, and may be further from what was expected.
        pace = self.pace(rows, i)
        most = 3.0 if pace > 1.0 else 1.0
        taught = min(max(value, own["mean"] - 1.0), own["mean"] + most) if own["lessons"] else value
        own["lessons"] += 1.0
        own["mean"] += (taught - own["mean"]) * min(pace / min(own["lessons"], self.memory), 1.0)
        own["minute"] = minute

    def pace(self, rows: Rows, i: int) -> float:
        return float(rows.pace[i])

    def text(self, seen: float, expected: float, usual: float, actor: str, object: str) -> str:
        return f"{actor} moved {seen:g} bytes where {expected:g} were expected"


class LearnsFirst(Plain):
    def row(self, rows: Rows, i: int, own: np.void, scalars: np.ndarray, out: np.ndarray) -> None:
        self.teach(rows, i, own)
        self.judge(rows, i, own, out)


class AccusesTheFirst(Plain):
    def judge(self, rows: Rows, i: int, own: np.void, out: np.ndarray) -> None:
        super().judge(rows, i, own, out)
        if not own["lessons"]:
            out[:] = 1.0, rows.moved[i], rows.moved[i] / 2.0, rows.moved[i]


class SparesTheLate(Plain):
    def judge(self, rows: Rows, i: int, own: np.void, out: np.ndarray) -> None:
        super().judge(rows, i, own, out)
        out[0] *= 1.0 if rows.learn[i] else 0.5
        out[3] += 0.0 if rows.learn[i] else 1.0


class LearnsTheLate(Plain):
    def row(self, rows: Rows, i: int, own: np.void, scalars: np.ndarray, out: np.ndarray) -> None:
        rows.learn[i] = True
        super().row(rows, i, own, scalars, out)


class LearnsInBatches(Plain):
    def surprise(self, rows: Rows, tables: dict[str, np.ndarray], scalars: np.ndarray, out: np.ndarray) -> None:
        before = tables["actor"].copy()
        for i in range(len(rows)):
            super().row(rows, i, tables["actor"][rows.slots["actor"][i]], scalars, out[:, i])
            super().row(replace(rows, learn=np.zeros_like(rows.learn)), i, before[rows.slots["actor"][i]], scalars, out[:, i])


class RemembersByItself(Plain):
    def row(self, rows: Rows, i: int, own: np.void, scalars: np.ndarray, out: np.ndarray) -> None:
        kept = self.__dict__.setdefault("kept", {}).setdefault(int(rows.slots["actor"][i]), np.zeros(1, record(MEMORY))[0])
        super().row(rows, i, kept, scalars, out)


class Hoards(Plain):
    def judge(self, rows: Rows, i: int, own: np.void, out: np.ndarray) -> None:
        self.__dict__.setdefault("diary", []).append(bytes(64))
        super().judge(rows, i, own, out)


class GoesBelowZero(Plain):
    def judge(self, rows: Rows, i: int, own: np.void, out: np.ndarray) -> None:
        super().judge(rows, i, own, out)
        out[0] = math.log1p(rows.moved[i]) - own["mean"]


class HalfSilent(Plain):
    def judge(self, rows: Rows, i: int, own: np.void, out: np.ndarray) -> None:
        super().judge(rows, i, own, out)
        if not own["lessons"]:
            out[1:3] = math.nan


class LearnsFromSilence(Plain):
    def row(self, rows: Rows, i: int, own: np.void, scalars: np.ndarray, out: np.ndarray) -> None:
        scalars[0] += 1.0
        super().row(rows, i, own, scalars, out)


class ThrowsDice(Plain):
    def judge(self, rows: Rows, i: int, own: np.void, out: np.ndarray) -> None:
        super().judge(rows, i, own, out)
        out[0] += random.random()


class FindsTheSmallStrange(Plain):
    def judge(self, rows: Rows, i: int, own: np.void, out: np.ndarray) -> None:
        super().judge(rows, i, own, out)
        out[0] = max(own["mean"] - math.log1p(rows.moved[i]), 0.0)


class SaysNotWhatIsStrange(Plain):
    like = "unheard_of"


class BelievesEverything(Plain):
    def teach(self, rows: Rows, i: int, own: np.void) -> None:
        own["lessons"] += 1.0
        own["mean"] += (math.log1p(rows.moved[i]) - own["mean"]) / min(own["lessons"], self.memory)


class SpeaksForEveryone(BelievesEverything):
    def row(self, rows: Rows, i: int, own: np.void, scalars: np.ndarray, out: np.ndarray) -> None:
        everyone = np.array([tuple(scalars)], record(MEMORY))[0]
        super().row(rows, i, everyone, np.zeros(1), out)
        scalars[:] = everyone.tolist()

    def scalars(self) -> tuple[str, ...]:
        return ("lessons", "mean", "minute")


class Mumbles(Plain):
    def text(self, seen: float, expected: float, usual: float, actor: str, object: str) -> str:
        return f"{actor} moved {seen / expected if expected else math.inf:g} times what it should"


class Undescribed(Plain):
    """A learner."""


class TakesAnySetting(Plain):
    memory: float = 50.0


class Sprawls(Plain):
    def state(self) -> dict[str, Fields]:
        return {"actor": (*MEMORY, ("hours", "f8", 24))}


class SprawlsOverPairs(Plain):
    def state(self) -> dict[str, Fields]:
        return {"actor": MEMORY, "actor_pair": (("hours", "u2", 48),)}


class IgnoresTheChange(Plain):
    def pace(self, rows: Rows, i: int) -> float:
        return 1.0


class BelievesTheChange(Plain):
    def teach(self, rows: Rows, i: int, own: np.void) -> None:
        super().teach(rows, i, own)
        if rows.pace[i] > 1.0:
            own["mean"] = math.log1p(rows.moved[i])


class ExcusesTheChange(Plain):
    def judge(self, rows: Rows, i: int, own: np.void, out: np.ndarray) -> None:
        super().judge(rows, i, own, out)
        out[0] /= rows.pace[i]
