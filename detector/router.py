"""The way from one stage to the next: rows are collected and leave as one block for each partition, whatever blocks they came in.

Building a block costs as much as fifty rows of it, so a router is emptied every few milliseconds and not after every input block. What
came in together leaves together: the receiver drops by the offset of the input block, so no offset may be split over two blocks.
"""

from __future__ import annotations

import numpy as np

from connectors.event import Block
from connectors.names import Names
from connectors.wire import Packet, encode
from detector.rows import ActorSide
from models import counts

#: Rows after which a router is emptied at once: a block stays well below a broker's limit for a message.
FULL = 8_000


class Router:
    """Collects the rows of actors' visits for the partitions of their objects."""

    def __init__(self, names: Names, partitions: int) -> None:
        self.names = names
        self.partitions = partitions
        self._waiting: list[tuple[Packet, ActorSide, int, int]] = []
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

    def add(self, packet: Packet, side: ActorSide, partition: int, offset: int) -> None:
        """Take in a block as its actors' visit left it: the message at ``offset`` of that visit's ``partition``."""
        if len(packet.block):
            self._waiting.append((packet, side, partition, offset))
            self._rows += len(packet.block)

    def flush(self) -> list[tuple[int, bytes]]:
        """(partition, message) of all that waits."""
        if not self._waiting:
            return []
        logs: dict[str, int] = {}
        for packet, *_ in self._waiting:
            table = np.array([logs.setdefault(log, len(logs)) for log in packet.logs], np.int32)
            packet.block.partition = table[packet.block.partition]
        block = Block.concat([packet.block for packet, *_ in self._waiting])
        sides = [side for _, side, *_ in self._waiting]
        extra = {
            "counts": np.hstack([side.counts for side in sides]).T,
            "peer": np.concatenate([side.peer for side in sides]),
            "surprises": np.hstack([np.vstack(list(side.signals.values())) for side in sides]).T,
            "from": np.concatenate([np.full(len(packet.block), partition, np.int32) for packet, _, partition, _ in self._waiting]),
            "offset": np.concatenate([np.full(len(packet.block), offset, np.int64) for packet, _, _, offset in self._waiting]),
        }
        arrived = min(packet.arrived for packet, *_ in self._waiting)
        signals = tuple(sides[0].signals)
        self._waiting, self._rows = [], 0
        out = []
        home = homes(block, block.object, self.partitions)
        for partition in np.unique(home).tolist():
            rows = np.flatnonzero(home == partition) if self.partitions > 1 else slice(0, len(block))
            part = {name: values[rows] for name, values in extra.items()}
            out.append((partition, encode(Packet(block.take(rows), tuple(logs), arrived, part, signals))))
        return out


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
