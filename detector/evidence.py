"""Evidence: a surprising event as it is kept, in numbers, and as it is told, in words."""

from __future__ import annotations

import math

import msgspec
import numpy as np

from connectors.alert import Evidence, Reason
from connectors.event import Action, Outcome, Stream
from detector.score import Found
from models.calibration import EVIDENCE, LEARNED, ROW, SCORE
from models.signals import Signal

#: A signal is told of from this many nats on: 1 cell in 3.
TOLD = 1.0


class Piece(msgspec.Struct):
    """A piece of evidence as it is kept: what ``Evidence`` says, before anything is put into words."""

    time: int
    stream: int
    action: int
    outcome: int
    actor: str
    object: str
    via: str
    detail: str
    score: float
    #: G of each signal; seen, expected and usual of the first, of the second, ...
    gains: list[float]
    values: list[float]
    source: str
    partition: str
    offset: int
    uid: str
    late: bool
    events: int = 1
    #: When its cell was last strengthened, and when it began.
    at: float = 0.0
    cell: float = 0.0

    def same_edge(self, other: Piece) -> bool:
        """Whether it is about the same pair, action and detail."""
        return self.actor == other.actor and self.object == other.object and self.action == other.action and self.detail == other.detail


def piece_of(found: Found, number: int, paths: tuple[str, ...]) -> Piece:
    """The evidence row ``number`` of a run, to keep. ``paths``: what alerts call the logs."""
    i = int(found.rows[number, ROW])
    block, row = found.block, found.rows[number]
    names = block.names.values
    via, detail, partition = int(block.via[i]), int(block.detail[i]), int(block.partition[i])
    return Piece(
        time=int(block.time[i]),
        stream=int(block.stream[i]),
        action=int(block.action[i]),
        outcome=int(block.outcome[i]),
        actor=names[block.actor[i]],
        object=names[block.object[i]],
        via=names[via] if via >= 0 else "",
        detail=names[detail] if detail >= 0 else "",
        score=round(float(row[SCORE]), 4),
        gains=row[EVIDENCE:].tolist(),
        values=found.values[number].ravel().tolist(),
        source=block.sources[block.source[i]],
        partition=paths[partition] if partition < len(paths) else str(partition),
        offset=int(block.record[i]),
        uid=block.uid[i],
        late=bool(row[LEARNED] == 0.0),
    )


def worded(piece: Piece, learners: dict[str, Signal]) -> Evidence:
    """A piece put into words: signals of weight first, what is not strange left out."""
    reasons = []
    for k, ((name, learner), gain) in enumerate(zip(learners.items(), piece.gains, strict=True)):
        if gain < TOLD:
            continue
        seen, expected, usual = piece.values[3 * k : 3 * k + 3]
        reason = Reason(
            signal=name,
            surprise=round(gain, 4),
            seen=_finite(seen),
            expected=_finite(expected),
            usual=_finite(usual),
            unit=learner.unit,
            base_rate=float(f"{math.exp(-gain):.3g}"),
            text=learner.text(seen, expected, usual, piece.actor, piece.object),
        )
        reasons.append((math.log(max(learner.weight, 1e-9)) + gain, reason))
    reasons.sort(key=lambda each: -each[0])
    return Evidence(
        time=piece.time,
        stream=Stream(piece.stream).name,
        action=Action(piece.action).name,
        outcome=Outcome(piece.outcome).name,
        actor=piece.actor,
        object=piece.object,
        via=piece.via,
        detail=piece.detail,
        score=piece.score,
        reasons=[reason for _, reason in reasons],
        source=piece.source,
        partition=piece.partition,
        offset=piece.offset,
        uid=piece.uid,
        events=piece.events,
        lowered=["it came too late to be learned, so it was only scored"] if piece.late else [],
    )


def _finite(value: float) -> float | None:
    return float(f"{value:.6g}") if np.isfinite(value) else None
