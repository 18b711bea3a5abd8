"""Size: how usual a transfer of this size is between these two, larger or smaller."""

from __future__ import annotations

import math
from typing import Annotated

import msgspec
import numpy as np
from numba import njit

from models.kernels import MINUTE
from models.profiles import Fields
from models.signals import Rows, Signal, Visit, number

#: Sizes are told apart by quarters of a doubling, both ways together, and remembered by a hash of this many places.
PER_DOUBLING = 4.0
PLACES = 32
#: A place is full here; then all of a pair's count half.
FULL = 255
#: Pseudo-count with which a place of everyone's leans on an even spread.
EVEN = 1.0
#: Discount of the Pitman-Yor estimate and its strength, as in ``novelty``.
DISCOUNT, STRENGTH = 0.5, 1.0


@njit(cache=True, inline="always")
def _place(sent: float, answered: float) -> int:
    there = 0 if math.isnan(sent) else 1 + int(math.log2(1.0 + sent) * PER_DOUBLING)
    back = 0 if math.isnan(answered) else 1 + int(math.log2(1.0 + answered) * PER_DOUBLING)
    return int(((np.uint64(there * 1024 + back) * np.uint64(0x9E3779B97F4A7C15)) >> np.uint64(40)) & np.uint64(PLACES - 1))


@njit(cache=True)
def _size(
    time: np.ndarray,
    learn: np.ndarray,
    pace: np.ndarray,
    moved: np.ndarray,
    answered: np.ndarray,
    basis: np.ndarray,
    slot: np.ndarray,
    table: np.ndarray,
    everyone: np.ndarray,
    fewest: float,
    out: np.ndarray,
) -> None:
    for i in range(len(time)):
        if math.isnan(moved[i]) and math.isnan(answered[i]):
            out[:, i] = math.nan
            continue
        row = table[slot[i]]
        all_ = everyone[basis[i]]
        place = _place(moved[i], answered[i])
        seen = float(row.counts[place])
        lessons = float(row.lessons)
        usual = (all_[1 + place] + EVEN) / (all_[0] + EVEN * PLACES)
        spread = STRENGTH + DISCOUNT * row.kinds
        p = (max(seen - DISCOUNT, 0.0) + spread * usual) / (lessons + spread)
        same = row.basis == basis[i] + 1
        # A pair that has hardly met has no usual size: that it is new is for others to say.
        out[0, i] = -math.log(min(p, 1.0)) if same and lessons >= fewest else 0.0
        out[1, i] = seen if same else 0.0
        out[2, i] = (lessons / row.kinds) if same and row.kinds > 0 else 0.0
        out[3, i] = lessons if same else 0.0
        if not learn[i] or (row.basis != 0 and not same):
            continue
        minute = math.floor(time[i] / MINUTE)
        if row.minute != minute:
            row.minute = minute
            row.taught = 0
        # One lesson a size and minute: a flood buys one.
        if (row.taught >> place) & 1:
            continue
        row.taught |= np.uint32(1) << np.uint32(place)
        row.basis = basis[i] + 1
        if row.counts[place] == 0:
            row.kinds += 1
            all_[1 + place] += 1.0
            all_[0] += 1.0
        weight = int(max(pace[i], 1.0))
        if row.counts[place] + weight > FULL:
            row.lessons = 0
            row.kinds = 0
            for each in range(PLACES):
                row.counts[each] = row.counts[each] // 2
                row.lessons += row.counts[each]
                row.kinds += 1 if row.counts[each] > 0 else 0
            if row.counts[place] == 0:
                row.kinds += 1
        row.counts[place] += weight
        row.lessons += weight


class Size(Signal):
    """-ln of the Pitman-Yor predictive probability of the transfer's size, sent and answered together, among this pair's past ones.

    Idea: machines repeat themselves, so a size a pair has never had is news even where it is small: a scan that gets no answer, a
    log-in that fails, an export in place of a query. ``magnitude`` looks upwards only. Pairs of ever other sizes expect other sizes.
    Sizes within a quarter of a doubling are one; a size counts once a minute.
    Fails where sizes say nothing (streaming, chatty protocols), on attackers who keep to usual sizes, and where two sizes share one of
    the 32 places. Cost: three logarithms an event that says bytes, 44 bytes a pair. Parameters: ``fewest``, lessons a pair must have
    had before it is judged. Paper: Pitman and Yor, 1997; Weinberger et al., 2009 (hashing).
    """

    unit = "transfers of this size"
    needs = "bytes"

    weight: float = 0.3
    fewest: Annotated[float, msgspec.Meta(ge=1, le=10_000)] = 3.0

    @property
    def visit(self) -> Visit:
        """At the actor."""
        return "actor"

    def state(self) -> dict[str, Fields]:
        """Lessons by place, in all, and places used; the current minute and the places taught in it; what the bytes count, plus one."""
        fields: Fields = (
            ("lessons", "u2"),
            ("kinds", "u1"),
            ("basis", "u1"),
            ("minute", "u4"),
            ("taught", "u4"),
            ("counts", "u1", PLACES),
        )
        return {"actor_pair": fields}

    def scalars(self) -> tuple[str, ...]:
        """Of each of five bases: pairs' sizes in all, and by place."""
        return tuple(f"{name}_{basis}" for basis in range(5) for name in ("all", *map(str, range(PLACES))))

    def surprise(self, rows: Rows, tables: dict[str, np.ndarray], scalars: np.ndarray, out: np.ndarray) -> None:
        """See the contract."""
        _size(
            rows.time,
            rows.learn,
            rows.pace,
            rows.moved,
            rows.answered,
            rows.basis,
            rows.slots["actor_pair"],
            tables["actor_pair"],
            scalars.reshape(5, 1 + PLACES),
            self.fewest,
            out,
        )

    def text(self, seen: float, expected: float, usual: float, actor: str, object: str) -> str:
        """See the contract; here ``expected`` is what a usual size of the pair has and ``usual`` all its transfers."""
        often = "no transfer" if seen < 0.5 else "1 transfer" if seen < 1.5 else f"{number(seen)} transfers"
        return (
            f"{often} of this size among the last {number(usual)} between these two; a usual size has had {number(round(expected, 1))}"
        )


LEARNER = Size
