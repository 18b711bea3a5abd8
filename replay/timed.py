"""When the records of a raw log happened, line by line: the time of the log never runs back, and a broken clock does not move it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import chain
from typing import NamedTuple

import numpy as np

from connectors.event import Block
from connectors.sources import Decoded, Source
from detector.ingest import TimeGuard


class Timed(NamedTuple):
    """Some records in order: ``lines``; ``times`` int64[n], microseconds: the latest time of the log up to and with each, 0 before the
    first; ``block``: their events, ``record`` counted from the first of the lines. Events far ahead of their neighbours are left out,
    as ingest leaves them out."""

    lines: list[bytes]
    times: np.ndarray
    block: Block


def timed(source: Source, batches: Iterable[list[bytes]], ahead_hours: float) -> Iterator[Timed]:
    """Decode batches of lines; a batch waits for the next ones where these must tell a gap in the log from a broken clock."""
    guard, clock, done = TimeGuard(ahead_hours), 0, 0
    lines: list[bytes] = []
    blocks: list[Block] = []
    for batch in chain(batches, [None]):
        decoded: Decoded | None = None
        if batch is not None:
            decoded = source.decode(batch)
            decoded.block.record = decoded.block.record + (done + len(lines))
            # Whoever wants rejects and bindings decodes for themselves.
            decoded.rejects, decoded.bindings = [], []
            lines = lines + batch if lines else batch
        blocks += [part.block for part in guard.admit(decoded)]
        if guard.waiting or not lines:
            continue
        block = blocks[0] if len(blocks) == 1 else Block.concat(blocks)
        block.record = block.record - done
        times = np.full(len(lines), clock, np.int64)
        np.maximum.at(times, block.record, block.time)
        times = np.maximum.accumulate(times)
        clock, done = int(times[-1]), done + len(lines)
        yield Timed(lines, times, block)
        lines, blocks = [], []
