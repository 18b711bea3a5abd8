"""Ingest, the first core: decoded batches of one or several raw logs in, one ordered log of resolved events out.

Three steps, each a pure function of what came before in the log: a row whose clock runs far ahead of all its neighbours is taken out
(one bad clock must not age every profile), several logs are merged by event time, and actors and objects are resolved to principals
(``detector.identity``).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from connectors.event import HOUR, Binding, Block, Reject
from connectors.names import Names
from connectors.sources import Decoded

#: How many following rows say whether a jump forward in time is a gap in the log or a broken clock.
WITNESSES = 32

_NEVER = (1 << 63) - 1
#: Columns of a block that hold codes of its names.
_CODED = ("actor", "object", "via", "detail")


class TimeGuard:
    """Takes rows out that are ahead of their log's time, unless most of the rows that follow confirm the new time.

    Works on one log, in its order. A row in doubt waits for WITNESSES rows after it, or for the end.
    """

    def __init__(self, ahead_hours: float) -> None:
        self.ahead = int(ahead_hours * HOUR)
        self.clock: int | None = None
        self._waiting: list[Decoded] = []

    @property
    def waiting(self) -> int:
        """Rows that are not decided yet."""
        return sum(len(decoded.block) for decoded in self._waiting)

    @property
    def blocks(self) -> list[Block]:
        """The blocks that are not decided yet."""
        return [decoded.block for decoded in self._waiting]

    def admit(self, decoded: Decoded | None) -> list[Decoded]:
        """What is decided after this batch; None marks the end of the log. Rejects carry the reason ``time-ahead``."""
        if decoded is not None and not self._waiting and self._plain(decoded.block.time):
            return [decoded]
        if decoded is not None:
            self._waiting.append(decoded)
        if not self._waiting:
            return []
        whole = self._waiting[0] if len(self._waiting) == 1 else joined(self._waiting)
        block = whole.block
        # Decided record by record: the rows of one stay together, and are no witnesses of their own time.
        first = np.flatnonzero(np.diff(block.record, prepend=-1))
        latest = np.maximum.reduceat(block.time, first) if len(first) else block.time
        keep, decided = self._decide(latest, decoded is None)
        rows = int(first[decided]) if decided < len(first) else len(block)
        last = int(block.record[rows]) - 1 if rows < len(block) else _NEVER
        out = _part(whole, slice(0, rows), -1, last)
        out.skipped = whole.skipped
        self._waiting = [_part(whole, slice(rows, len(block)), last, _NEVER)] if rows < len(block) else []
        gone = np.flatnonzero(~keep[:decided])
        if len(gone):
            times = {int(block.record[first[each]]): int(latest[each]) for each in gone}
            out.rejects += [Reject(record, "time-ahead", _ahead(time, self.ahead)) for record, time in times.items()]
            out.bindings = [binding for binding in out.bindings if binding.record not in times]
            out.block = out.block.take(~np.isin(out.block.record, list(times)))
        self._move(out.block.time)
        return [out]

    def _plain(self, time: np.ndarray) -> bool:
        """Whether nothing in it is in doubt; moves the clock if so."""
        if len(time) == 0:
            return True
        if self.clock is None:
            return False
        highest = np.maximum.accumulate(time)
        if time[0] > self.clock + self.ahead or (time[1:] > np.maximum(highest[:-1], self.clock) + self.ahead).any():
            return False
        self._move(time)
        return True

    def _move(self, time: np.ndarray) -> None:
        if len(time):
            highest = int(time.max())
            self.clock = highest if self.clock is None else max(self.clock, highest)

    def _decide(self, time: np.ndarray, final: bool) -> tuple[np.ndarray, int]:
        """(which rows to keep, how many rows are decided)."""
        keep = np.ones(len(time), np.bool_)
        clock = self.clock
        row = 0
        while row < len(time):
            if clock is not None:
                before = np.maximum.accumulate(np.concatenate([[clock], time[row:]]))
                doubtful = np.flatnonzero(time[row:] > before[:-1] + self.ahead)
                if len(doubtful) == 0:
                    return keep, len(time)
                clock = int(before[doubtful[0]])
                row += int(doubtful[0])
            witnesses = time[row + 1 : row + 1 + WITNESSES]
            if len(witnesses) < WITNESSES and not final:
                return keep, row
            confirmed = 2 * np.count_nonzero(witnesses >= time[row] - self.ahead) > len(witnesses)
            if confirmed or (len(witnesses) == 0 and clock is None):
                clock = int(time[row])
            else:
                keep[row] = False
            row += 1
        return keep, row


def _ahead(time: int, ahead: int) -> str:
    when = np.datetime64(time, "us")
    return f"time {when}Z is more than {ahead / HOUR:g} h ahead of the records around it"


def joined(parts: list[Decoded]) -> Decoded:
    """Batches that follow one another as one."""
    skipped: dict[str, int] = {}
    for part in parts:
        for kind, many in part.skipped.items():
            skipped[kind] = skipped.get(kind, 0) + many
    return Decoded(
        Block.concat([part.block for part in parts]),
        [reject for part in parts for reject in part.rejects],
        skipped,
        [binding for part in parts for binding in part.bindings],
    )


def _part(whole: Decoded, rows: slice, after: int, last: int) -> Decoded:
    """Some rows of a batch with the rejects and bindings of records in (after, last]."""
    return Decoded(
        whole.block.take(rows),
        [reject for reject in whole.rejects if after < reject.record <= last],
        {},
        [binding for binding in whole.bindings if after < binding.record <= last],
    )


@dataclass
class _Lane:
    blocks: list[Block] = field(default_factory=list)
    keys: list[np.ndarray] = field(default_factory=list)
    bindings: list[tuple[int, Binding]] = field(default_factory=list)
    clock: int | None = None
    done: bool = False


class Merge:
    """Several logs as one, by arrival where it was recorded, else by event time (as far as each log had come by then), ties by the
    order of the logs.

    Each log keeps its own order. A row leaves when no log can still bring an earlier one. ``arrivals``: for each log what gives the
    arrival of records (microseconds, never running back), or None.
    """

    def __init__(self, lanes: int, arrivals: Sequence[Callable[[np.ndarray], np.ndarray] | None] = ()) -> None:
        self._lanes = [_Lane() for _ in range(lanes)]
        self._arrivals = arrivals or [None] * lanes

    @property
    def blocks(self) -> list[Block]:
        """The blocks that are not taken yet."""
        return [block for lane in self._lanes for block in lane.blocks]

    def next_lane(self) -> int | None:
        """The log to read on: the one that holds the others up. None when all have ended."""
        open_ = [(lane.clock if lane.clock is not None else -1, i) for i, lane in enumerate(self._lanes) if not lane.done]
        return min(open_)[1] if open_ else None

    def add(self, lane: int, decoded: Decoded) -> None:
        """Append to a log."""
        held = self._lanes[lane]
        block = decoded.block
        arrivals = self._arrivals[lane]
        stamp = block.time if arrivals is None else arrivals(block.record)
        highest = np.maximum.accumulate(stamp) if len(block) else stamp
        if held.clock is not None:
            highest = np.maximum(highest, held.clock)
        for binding in decoded.bindings:
            rows = int(np.searchsorted(block.record, binding.record, side="right"))
            # Before the log's first row there is nothing it could come after.
            key = int(highest[rows - 1]) if rows else (held.clock if held.clock is not None else -1)
            held.bindings.append((key, binding))
        if len(block):
            block.partition[:] = lane
            held.blocks.append(block)
            held.keys.append(highest)
            held.clock = int(highest[-1])

    def end(self, lane: int) -> None:
        """A log has ended."""
        self._lanes[lane].done = True

    def take(self) -> tuple[Block | None, list[tuple[int, Binding]]]:
        """The rows that are in order for good (None: none), and the bindings with the row before which each takes effect."""
        clocks = [lane.clock if lane.clock is not None else 0 for lane in self._lanes if not lane.done]
        # With a single log nothing can come in between; with several, rows at the horizon itself may still meet an equal.
        alone = len(self._lanes) == 1
        horizon = min(clocks) if clocks and not alone else _NEVER
        blocks: list[Block] = []
        keys: list[np.ndarray] = []
        bindings: list[tuple[int, int, Binding]] = []
        for number, lane in enumerate(self._lanes):
            while lane.blocks:
                many = int(np.searchsorted(lane.keys[0], horizon, side="left"))
                if many == 0:
                    break
                blocks.append(lane.blocks[0].take(slice(0, many)) if many < len(lane.blocks[0]) else lane.blocks[0])
                keys.append(lane.keys[0][:many])
                if many < len(lane.blocks[0]):
                    lane.blocks[0] = lane.blocks[0].take(slice(many, len(lane.blocks[0])))
                    lane.keys[0] = lane.keys[0][many:]
                    break
                del lane.blocks[0], lane.keys[0]
            ready = [item for item in lane.bindings if item[0] < horizon]
            if ready:
                lane.bindings = [item for item in lane.bindings if item[0] >= horizon]
                bindings += [(key, number, binding) for key, binding in ready]
        bindings.sort(key=_order)
        if not blocks:
            return None, [(0, binding) for _, _, binding in bindings]
        block = Block.concat(blocks)
        key = np.concatenate(keys)
        if len(self._lanes) > 1 and (key[1:] < key[:-1]).any():
            order = np.argsort(key, kind="stable")
            block, key = block.take(order), key[order]
        return block, self._placed(block, key, bindings)

    @staticmethod
    def _placed(block: Block, key: np.ndarray, bindings: list[tuple[int, int, Binding]]) -> list[tuple[int, Binding]]:
        placed = []
        for at, lane, binding in bindings:
            row = int(np.searchsorted(key, at, side="left"))
            while row < len(key) and key[row] == at and (block.partition[row], block.record[row]) <= (lane, binding.record):
                row += 1
            placed.append((row, binding))
        return placed


def _order(item: tuple[int, int, Binding]) -> tuple[int, int, int]:
    return item[0], item[1], item[2].record


def restart(names: Names, waiting: Sequence[Block]) -> None:
    """Have ``names`` let go of every text that none of the blocks that wait refers to, and number these blocks anew."""
    columns = [getattr(block, column) for block in waiting for column in _CODED]
    mapping = names.restart(np.unique(np.concatenate([np.empty(0, np.int32), *columns])))
    for block in waiting:
        for column in _CODED:
            # A new array, because a block that was cut shares its columns with its other part.
            setattr(block, column, mapping[getattr(block, column)])
