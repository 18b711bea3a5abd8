"""A learner that keeps the contract of ``models.signals``, and children of it that each break one rule."""

from __future__ import annotations

import math
import random
from dataclasses import replace
from typing import Annotated, ClassVar

import msgspec
import numpy as np

from models.kernels import MINUTE
from models.signals import Rows, Signal, Visit


class Plain(Signal, dict=True):
    """Distance of ln(1 + bytes) from the actor's own mean.

    Idea: the simplest learner that keeps the contract. Fails on everything subtle. Cost: a logarithm an event. ``pace``: lessons after
    which the mean moves no slower.
    """

    unit = "bytes"
    #: Whose ladder it climbs.
    like: ClassVar[str] = "magnitude"

    pace: Annotated[float, msgspec.Meta(gt=0, le=1e6)] = 50.0

    @property
    def visit(self) -> Visit:
        return "actor"

    def state(self) -> dict[str, tuple[str, ...]]:
        return {"actor": ("lessons", "mean", "minute")}

    def scalars(self) -> tuple[str, ...]:
        return ("rows",)

    def surprise(self, rows: Rows, tables: dict[str, np.ndarray], scalars: np.ndarray, out: np.ndarray) -> None:
        for i in range(len(rows)):
            self.row(rows, i, tables["actor"][rows.slots["actor"][i]], scalars, out[:, i])

    def row(self, rows: Rows, i: int, own: np.ndarray, scalars: np.ndarray, out: np.ndarray) -> None:
        if math.isnan(rows.moved[i]):
            out[:] = math.nan
            return
        self.judge(rows, i, own, out)
        if rows.learn[i]:
            scalars[0] += 1.0
            self.teach(rows, i, own)

    def judge(self, rows: Rows, i: int, own: np.ndarray, out: np.ndarray) -> None:
        excess = math.log1p(rows.moved[i]) - own[1] if own[0] else 0.0
        out[:] = max(excess, 0.0), rows.moved[i], math.expm1(own[1]), math.expm1(own[1] + 1.0)

    def teach(self, rows: Rows, i: int, own: np.ndarray) -> None:
        minute = rows.time[i] // MINUTE
        if own[2] == minute:
            return
        value = math.log1p(rows.moved[i])
        taught = min(max(value, own[1] - 1.0), own[1] + 1.0) if own[0] else value
        own[0] += 1.0
        own[1] += (taught - own[1]) / min(own[0], self.pace)
        own[2] = minute

    def text(self, seen: float, expected: float, usual: float, actor: str, object: str) -> str:
        return f"{actor} moved {seen:g} bytes where {expected:g} were expected"


class LearnsFirst(Plain):
    def row(self, rows: Rows, i: int, own: np.ndarray, scalars: np.ndarray, out: np.ndarray) -> None:
        self.teach(rows, i, own)
        self.judge(rows, i, own, out)


class AccusesTheFirst(Plain):
    def judge(self, rows: Rows, i: int, own: np.ndarray, out: np.ndarray) -> None:
        super().judge(rows, i, own, out)
        if not own[0]:
            out[:] = 1.0, rows.moved[i], rows.moved[i] / 2.0, rows.moved[i]


class SparesTheLate(Plain):
    def judge(self, rows: Rows, i: int, own: np.ndarray, out: np.ndarray) -> None:
        super().judge(rows, i, own, out)
        out[0] *= 1.0 if rows.learn[i] else 0.5
        out[3] += 0.0 if rows.learn[i] else 1.0


class LearnsTheLate(Plain):
    def row(self, rows: Rows, i: int, own: np.ndarray, scalars: np.ndarray, out: np.ndarray) -> None:
        rows.learn[i] = True
        super().row(rows, i, own, scalars, out)


class LearnsInBatches(Plain):
    def surprise(self, rows: Rows, tables: dict[str, np.ndarray], scalars: np.ndarray, out: np.ndarray) -> None:
        before = tables["actor"].copy()
        for i in range(len(rows)):
            super().row(rows, i, tables["actor"][rows.slots["actor"][i]], scalars, out[:, i])
            super().row(replace(rows, learn=np.zeros_like(rows.learn)), i, before[rows.slots["actor"][i]], scalars, out[:, i])


class RemembersByItself(Plain):
    def row(self, rows: Rows, i: int, own: np.ndarray, scalars: np.ndarray, out: np.ndarray) -> None:
        kept = self.__dict__.setdefault("kept", {}).setdefault(int(rows.slots["actor"][i]), np.zeros(3))
        super().row(rows, i, kept, scalars, out)


class Hoards(Plain):
    def judge(self, rows: Rows, i: int, own: np.ndarray, out: np.ndarray) -> None:
        self.__dict__.setdefault("diary", []).append(bytes(64))
        super().judge(rows, i, own, out)


class GoesBelowZero(Plain):
    def judge(self, rows: Rows, i: int, own: np.ndarray, out: np.ndarray) -> None:
        super().judge(rows, i, own, out)
        out[0] = math.log1p(rows.moved[i]) - own[1]


class HalfSilent(Plain):
    def judge(self, rows: Rows, i: int, own: np.ndarray, out: np.ndarray) -> None:
        super().judge(rows, i, own, out)
        if not own[0]:
            out[1:3] = math.nan


class LearnsFromSilence(Plain):
    def row(self, rows: Rows, i: int, own: np.ndarray, scalars: np.ndarray, out: np.ndarray) -> None:
        scalars[0] += 1.0
        super().row(rows, i, own, scalars, out)


class ThrowsDice(Plain):
    def judge(self, rows: Rows, i: int, own: np.ndarray, out: np.ndarray) -> None:
        super().judge(rows, i, own, out)
        out[0] += random.random()


class FindsTheSmallStrange(Plain):
    def judge(self, rows: Rows, i: int, own: np.ndarray, out: np.ndarray) -> None:
        super().judge(rows, i, own, out)
        out[0] = max(own[1] - math.log1p(rows.moved[i]), 0.0)


class SaysNotWhatIsStrange(Plain):
    like = "unheard_of"


class BelievesEverything(Plain):
    def teach(self, rows: Rows, i: int, own: np.ndarray) -> None:
        own[0] += 1.0
        own[1] += (math.log1p(rows.moved[i]) - own[1]) / min(own[0], self.pace)


class SpeaksForEveryone(BelievesEverything):
    def row(self, rows: Rows, i: int, own: np.ndarray, scalars: np.ndarray, out: np.ndarray) -> None:
        everyone = np.array([scalars[0], scalars[1], scalars[2]])
        super().row(rows, i, everyone, np.zeros(1), out)
        scalars[:3] = everyone

    def scalars(self) -> tuple[str, ...]:
        return ("lessons", "mean", "minute")


class Mumbles(Plain):
    def text(self, seen: float, expected: float, usual: float, actor: str, object: str) -> str:
        return f"{actor} moved {seen / expected if expected else math.inf:g} times what it should"


class Undescribed(Plain):
    """A learner."""


class TakesAnySetting(Plain):
    pace: float = 50.0
