"""The way from one stage to the next: rows are collected and leave as one block for each partition, whatever blocks they came in.

Building a block costs as much as fifty rows of it, so a router is emptied every few milliseconds and not after every input block. What
came in together leaves together: the receiver drops by the offset of the input block, so no offset may be split over two blocks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np

from connectors.event import Block
from connectors.names import Names
from connectors.wire import Packet, encode, part_of, row_bytes
from detector.rows import ActorSide
from models import counts

#: Rows after which a router is emptied at once.
FULL = 8_000
#: Rows of a block on its way to the actors' visit, at most: what comes of it must go on in one message, with all that was found.
MOST_ROWS = 4_000
#: Share of a message that the numbers of such a block take up when it goes on; that of a message on the way to the actors' visit, texts
#: included. Together they stay below the whole.
_NUMBERS, _COMING = 0.4, 0.5
#: Bytes that a message needs besides its value.
_ENVELOPE = 4_096
#: The default of ``kafka.message_bytes``.
_MESSAGE_BYTES = 8 << 20


def most_rows(message_bytes: int, signals: int) -> int:
    """Rows of a block for the actors' visit, at most: what goes on must fit into a message. ``signals``: how many that visit asks."""
    extra = (("counts", "<f8", len(counts.OUTPUT)), ("peer", "<i4", 0), ("surprises", "<f8", 4 * signals), ("from", "<i4", 0))
    width = row_bytes((*extra, ("offset", "<i8", 0)))
    return max(1, min(MOST_ROWS, int(_NUMBERS * message_bytes) // width))


def most_coming(message_bytes: int) -> int:
    """Bytes of a message for the actors' visit, at most."""
    return int(_COMING * message_bytes)


class Router:
    """Collects the rows of actors' visits for the partitions of their objects."""

    def __init__(self, names: Names, partitions: int) -> None:
        self.names = names
        self.partitions = partitions
        #: Bytes of the largest message that the broker takes.
        self.message_bytes = _MESSAGE_BYTES
        self._waiting: list[tuple[Packet, ActorSide, int, np.ndarray]] = []
        self._rows = 0

    def __len__(self) -> int:
        return self._rows

    @property
    def full(self) -> bool:
        """Whether it should be emptied at once."""
        return self._rows >= FULL

    @property
    def blocks(self) -> list[Block]:
        """The blocks that wait."""
        return [packet.block for packet, *_ in self._waiting]

    def add(self, packet: Packet, side: ActorSide, partition: int, offsets: np.ndarray) -> None:
        """Take in a block as its actors' visit left it. ``offsets``: int64[n], from which message of that visit's ``partition`` each
        row comes."""
        if len(packet.block):
            self._waiting.append((packet, side, partition, offsets))
            self._rows += len(packet.block)

    def flush(self) -> list[tuple[int, bytes]]:
        """(partition, message) of all that waits."""
        if not self._waiting:
            return []
        logs = renumbered([packet for packet, *_ in self._waiting])
        waiting, self._waiting, self._rows = self._waiting, [], 0
        return list(self._leaving(waiting, logs))

    def _leaving(
        self, waiting: Sequence[tuple[Packet, ActorSide, int, np.ndarray]], logs: tuple[str, ...]
    ) -> Iterator[tuple[int, bytes]]:
        """What has come in, in as few messages as the broker takes; of one input block there is one for each partition at most."""
        parts = self._joined(waiting, logs)
        if len(waiting) > 1 and any(len(data) > self.message_bytes - _ENVELOPE for _, data in parts):
            half = len(waiting) // 2
            yield from self._leaving(waiting[:half], logs)
            yield from self._leaving(waiting[half:], logs)
        else:
            yield from parts

    def _joined(self, waiting: Sequence[tuple[Packet, ActorSide, int, np.ndarray]], logs: tuple[str, ...]) -> list[tuple[int, bytes]]:
        block = Block.concat([packet.block for packet, *_ in waiting])
        sides = [side for _, side, *_ in waiting]
        extra = {
            "counts": np.hstack([side.counts for side in sides]).T,
            "peer": np.concatenate([side.peer for side in sides]),
            "surprises": np.hstack([np.vstack(list(side.signals.values())) for side in sides]).T,
            "from": np.concatenate([np.full(len(packet.block), partition, np.int32) for packet, _, partition, _ in waiting]),
            "offset": np.concatenate([offsets for *_, offsets in waiting]),
        }
        arrived = min(packet.arrived for packet, *_ in waiting)
        signals = tuple(sides[0].signals)
        out = []
        home = homes(block, block.object, self.partitions)
        for partition in np.unique(home).tolist():
            rows = np.flatnonzero(home == partition) if self.partitions > 1 else slice(0, len(block))
            part = {name: values[rows] for name, values in extra.items()}
            out.append((partition, encode(Packet(block.take(rows), logs, arrived, part, signals))))
        return out


def renumbered(packets: Sequence[Packet]) -> tuple[str, ...]:
    """The logs of all packets; their blocks are numbered by these from now on."""
    logs: dict[str, int] = {}
    for packet in packets:
        table = np.array([logs.setdefault(log, len(logs)) for log in packet.logs], np.int32)
        packet.block.partition = table[packet.block.partition]
    return tuple(logs)


def runs(block: Block) -> np.ndarray:
    """int64[records + 1]: where the rows of each record begin, and the end. Rows of one record follow each other."""
    if not len(block):
        return np.zeros(1, np.int64)
    fresh = (block.record[1:] != block.record[:-1]) | (block.partition[1:] != block.partition[:-1])
    return np.concatenate([[0], np.flatnonzero(fresh) + 1, [len(block)]])


def pieces(block: Block, most: int) -> Iterator[tuple[Block, int]]:
    """A block in pieces of ``most`` rows at most, whole records each. A record with more is by itself: (piece, which part of the record
    it is), cut in the same way whenever it is read."""
    if len(block) <= most:
        yield block, 0
        return
    edges = runs(block)
    at = 0
    while at < len(edges) - 1:
        begin = int(edges[at])
        upto = int(np.searchsorted(edges, begin + most, side="right")) - 1
        if upto > at:
            yield block.take(slice(begin, int(edges[upto]))), 0
            at = upto
            continue
        end = int(edges[at + 1])
        for part, start in enumerate(range(begin, end, most)):
            yield block.take(slice(start, min(start + most, end))), part
        at += 1


def fitting(
    block: Block, logs: tuple[str, ...], arrived: int, limit: int, route: Callable[..., list[tuple[int, bytes]]], part: int = 0
) -> tuple[list[tuple[int, bytes]], list[tuple[str, int]]]:
    """What ``route(block, logs, arrived)`` gives, in messages of ``limit`` bytes at most; and of which records (log, offset) rows fit
    into none. Whether a record fits does not depend on what it came with. ``part``: see ``pieces``."""
    parts = route(block, tuple(part_of(log, part) for log in logs), arrived)
    if all(len(data) <= limit for _, data in parts):
        return parts, []
    edges = runs(block)
    if len(edges) == 2:
        return [], [(logs[int(block.partition[0])], int(block.record[0]))]
    middle = int(edges[len(edges) // 2])
    out: list[tuple[int, bytes]] = []
    large: list[tuple[str, int]] = []
    for rows in (slice(0, middle), slice(middle, len(block))):
        more, left = fitting(block.take(rows), logs, arrived, limit, route, part)
        out, large = out + more, large + left
    return out, large


def by_actor(block: Block, logs: tuple[str, ...], arrived: int, partitions: int) -> list[tuple[int, bytes]]:
    """(partition, message) of resolved events, for the partitions of their actors."""
    home = homes(block, block.actor, partitions)
    out = []
    for partition in np.unique(home).tolist():
        rows = np.flatnonzero(home == partition) if partitions > 1 else slice(0, len(block))
        out.append((partition, encode(Packet(block.take(rows), logs, arrived))))
    return out


def homes(block: Block, codes: np.ndarray, partitions: int) -> np.ndarray:
    """int64[n]: the partition of each identity."""
    home: np.ndarray = (block.names.hashes[codes] % np.uint64(partitions)).astype(np.int64)
    return home


def side_of(packet: Packet) -> ActorSide:
    """What the actors' visit found of the rows of a packet that a router has sent."""
    surprises = np.ascontiguousarray(packet.extra["surprises"].T)
    signals = {name: surprises[4 * k : 4 * k + 4] for k, name in enumerate(packet.signals)}
    found = np.ascontiguousarray(packet.extra["counts"].T)
    if found.shape[0] != len(counts.OUTPUT) or surprises.shape[0] != 4 * len(signals):
        raise ValueError("the actors' visit sends other columns than this release knows")
    return ActorSide(found, packet.extra["peer"], signals)
