"""Evidence: a surprising event as it is kept, in numbers, and as it is told, in words."""

from __future__ import annotations

import itertools
import math

import msgspec
import numpy as np

from connectors.alert import Evidence, Reason
from connectors.event import DAY, MINUTE, Action, Outcome, Stream
from detector.scale import Found
from models.calibration import EVENTS, EVIDENCE, FIRST, LEARNED, OWN_HOURS, ROW, SCORE
from models.drift import Moved
from models.signals import Signal

#: A signal is told of from this many nats on: 1 cell in 3.
TOLD = 1.0
#: How long a moved level is worth mentioning, in microseconds: a month.
RECENT = 30 * DAY
#: A signal that says so many nats more than the score has been lowered by its weight, and that is told.
LOWERED = 1.0


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
    #: Base rate among the actor's peers for each signal, NaN = unknown; the actor's active hours, and hours in which it gave evidence.
    peers: list[float] = []
    own_hours: float = 0.0
    own_strange: int = 0
    #: The announced change it falls into, "" = none; what of its signals has moved for everyone of late.
    change: str = ""
    moved: list[str] = []
    #: Its record was played back from a recording.
    replayed: bool = False
    events: int = 1
    #: When its cell was last strengthened, and when it began.
    at: float = 0.0
    cell: float = 0.0

    def same_edge(self, other: Piece) -> bool:
        """Whether it is about the same pair, action and detail."""
        return self.actor == other.actor and self.object == other.object and self.action == other.action and self.detail == other.detail


class Item(msgspec.Struct, array_like=True):
    """What a judge is told, in the order of the rows: that it is now ``clock``, and if there is a ``row`` (as ``models.calibration``
    writes it), that it was surprising; ``piece`` where it says something new."""

    clock: float
    row: list[float] = []
    actor: str = ""
    object: str = ""
    piece: Piece | None = None


def items_of(found: Found, clock: int, paths: tuple[str, ...]) -> tuple[list[tuple[int, Item]], int]:
    """A run of rows as a judge is told of it, each item with the row it is about, and the clock after it. ``clock``: latest time of any
    row before; ``paths``: what alerts call the logs.

    The clock is told with the first row of every minute, surprising or not, so that what happens when does not depend on where a block
    ends.
    """
    block, names = found.block, found.block.names.values
    if len(block) == 0:
        return [], clock
    clocks = np.maximum.accumulate(np.maximum(block.time, clock))
    begins = np.flatnonzero(np.diff(clocks // MINUTE, prepend=clock // MINUTE)).tolist()
    items: list[tuple[int, Item]] = []
    ticks = iter([*begins, len(block)])
    tick = next(ticks)
    for row, piece in zip(found.rows.tolist(), pieces_of(found, paths), strict=True):
        i = int(row[ROW])
        while tick <= i:
            items.append((tick, Item(float(clocks[tick]))))
            tick = next(ticks)
        items.append((i, Item(float(clocks[i]), row[:EVIDENCE], names[block.actor[i]], names[block.object[i]], piece)))
    while tick < len(block):
        items.append((tick, Item(float(clocks[tick]))))
        tick = next(ticks)
    return items, int(clocks[-1])


def pieces_of(found: Found, paths: tuple[str, ...]) -> list[Piece | None]:
    """A piece for each evidence row of a run that says something new, None for the others. ``paths``: what alerts call the logs.

    Columns leave numpy once for all rows: taken out cell by cell they cost more than everything else in this core.
    """
    block, names = found.block, found.block.names.values
    new = found.rows[:, FIRST] > 0.0
    rows, many = found.rows[new], len(found.signals)
    at = rows[:, ROW].astype(np.int64)
    recent = _recent(found)

    def column(name: str) -> list[int]:
        taken: list[int] = getattr(block, name)[at].tolist()
        return taken

    made = iter(
        Piece(
            time=time,
            stream=stream,
            action=action,
            outcome=outcome,
            actor=names[actor],
            object=names[object_],
            via=names[via] if via >= 0 else "",
            detail=names[detail] if detail >= 0 else "",
            score=round(row[SCORE], 4),
            gains=row[EVIDENCE : EVIDENCE + many],
            peers=row[EVIDENCE + many :],
            own_hours=row[OWN_HOURS],
            events=int(row[EVENTS]),
            moved=_moved(recent[stream], row, time) if stream in recent else [],
            values=values,
            source=block.sources[source],
            partition=paths[partition] if partition < len(paths) else str(partition),
            offset=record,
            uid=block.uid[i],
            late=row[LEARNED] == 0.0,
        )
        for i, row, values, time, stream, action, outcome, actor, object_, via, detail, source, partition, record in zip(
            at.tolist(),
            rows.tolist(),
            found.values[new].reshape(len(at), 3 * many).tolist(),
            *map(column, ("time", "stream", "action", "outcome", "actor", "object", "via", "detail", "source", "partition", "record")),
            strict=True,
        )
    )
    return [next(made) if each else None for each in new.tolist()]


def _recent(found: Found) -> dict[int, list[tuple[int, str, tuple[Moved, ...]]]]:
    """For each stream where the level of a signal has moved: place and name of these signals, and when. Few ever do, and every piece
    asks."""
    if found.drift is None:
        return {}
    held: dict[int, list[tuple[int, str, tuple[Moved, ...]]]] = {}
    for stream, (k, name) in itertools.product(map(int, Stream), enumerate(found.signals)):
        if moves := found.drift.history((stream, k)):
            held.setdefault(stream, []).append((k, name, moves))
    return held


def _moved(recent: list[tuple[int, str, tuple[Moved, ...]]], row: list[float], time: int) -> list[str]:
    """Which of the signals that find a row strange have moved for everyone in the last month, as far as was known then."""
    said = []
    for k, name, moves in recent:
        if row[EVIDENCE + k] >= TOLD:
            said += [moved.text(name) for moved in moves if moved.found <= time < moved.found + RECENT]
    return said[-1:]


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
            base_rate_peers=_finite(piece.peers[k]) if piece.peers else None,
            text=learner.text(seen, expected, usual, piece.actor, piece.object),
        )
        reasons.append((math.log(max(learner.weight, 1e-9)) + gain, reason))
    reasons.sort(key=lambda each: -each[0])
    lowered = ["it came too late to be learned, so it was only scored"] if piece.late else []
    if piece.change:
        lowered.append(
            f"the announced change '{piece.change}' was on: scored as ever, learned faster, so the like will be less strange"
        )
    lowered += [f"{text} for everyone, which may be a change of the site" for text in piece.moved]
    lowered += _weighed_down(piece, learners)
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
        lowered=lowered,
        own_hours=round(piece.own_hours, 1),
        own_strange=piece.own_strange,
    )


def _weighed_down(piece: Piece, learners: dict[str, Signal]) -> list[str]:
    """Why the score is well below what the most surprised signal says: its share of the budget of false alarms."""
    gain, name = max(zip(piece.gains, learners, strict=True), key=lambda each: each[0])
    weight = learners[name].weight
    if gain - piece.score < LOWERED or not 0.0 < weight < 1.0:
        return []
    return [f"{name} alone says {gain:.1f}, but often errs: its share of {weight:g} in false alarms takes {-math.log(weight):.1f} off"]


def _finite(value: float) -> float | None:
    return float(f"{value:.6g}") if np.isfinite(value) else None
