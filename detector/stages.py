"""The cores as stages between logs: one object a partition, a message in, messages out.

A stage is a pure fold of the log it reads. What it sends on carries the partition and the offset it came from, and what it takes in is
compared with the highest offset taken in from there: a row that a stage before it has sent again after a crash is known and dropped.
So every row counts once, although every log may hold it twice. No Kafka here: ``detector.worker`` moves the messages.
"""

from __future__ import annotations

import itertools
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from typing import Generic, NamedTuple, TypeVar

import msgspec
import numpy as np

from connectors.event import Block
from connectors.names import stable_hash
from connectors.wire import Packet, Tick, WireError, is_replayed, title
from detector.config import Config
from detector.evidence import Item, items_of
from detector.learned import load, others
from detector.messages import VERSION, Message, record_of
from detector.partitions import add_up
from detector.router import most_coming, most_rows, renumbered, side_of
from detector.rows import ActorSide
from detector.score import ActorVisit, ObjectVisit
from detector.stage import Note, Out, Shared, Stage, Taken
from models import counts
from models.calibration import ROW
from models.profiles import Table
from models.signals import Line

LINES: tuple[Line, ...] = ("main", "slow")
Visit = TypeVar("Visit", ActorVisit, ObjectVisit)


class Coming(NamedTuple):
    """A message that is about to be taken in."""

    offset: int
    packet: Packet
    data: bytes


class VisitStage(Stage, Generic[Visit]):
    """What the stages with a visit have in common: messages that follow one another go through it as one block.

    A visit of a hundred rows costs hardly more than one of ten, so that a stage that is behind catches up. What comes of each message
    is the same as by itself."""

    visit: Visit

    def __init__(self, config: Config, partition: int, partitions: int, shared: Shared) -> None:
        super().__init__(config, partition, partitions, shared)
        # What the actors' visits send on in one message must fit into it, as it does of the largest that come by themselves.
        self._most_rows = most_rows(shared.router.message_bytes, config.asked_of_actors())
        self._most_bytes = most_coming(shared.router.message_bytes)

    def take(self, data: bytes, offset: int, time: int = 0) -> Taken:
        """See the base class."""
        (taken,) = self.takes([Note(offset, data, time)])
        return taken

    def takes(self, run: Sequence[Note]) -> Iterator[Taken]:
        """See the base class."""
        held: list[Coming] = []
        rows = size = 0
        for offset, data, _ in run:
            self.trying = offset
            try:
                packet = self._packet(data, [each.packet.block for each in held])
            except WireError:
                # What came before it counts.
                yield from self._all(held)
                raise
            rows, size = rows + len(packet.block), size + len(data)
            if held and (packet.passes or held[-1].packet.passes or rows > self._most_rows or size > self._most_bytes):
                yield from self._all(held)
                held, rows, size = [], len(packet.block), len(data)
            held.append(Coming(offset, packet, data))
        yield from self._all(held)

    def _all(self, held: list[Coming]) -> Iterator[Taken]:
        if not held:
            return
        self.trying = held[-1].offset
        outs = self._passed(held[0]) if held[0].packet.passes else self._visited(held)
        self.applied = self.trying + 1
        full = self._full(self.visit)
        for (_, packet, _), out in zip(held, outs, strict=True):
            yield Taken(out, full, packet.arrived, () if packet.tick is None else (packet.tick,))
            full = []

    def _packet(self, data: bytes, waiting: Sequence[Block]) -> Packet:
        """A message; ``waiting``: blocks that are not visited yet. Raises WireError."""
        return self.shared.packet(data, waiting)

    def _passed(self, one: Coming) -> list[list[Out]]:
        """What is to be sent of a message without rows."""
        raise NotImplementedError

    def _visited(self, held: list[Coming]) -> list[list[Out]]:
        """What is to be sent of each of several messages with rows."""
        raise NotImplementedError

    @property
    def late(self) -> int:
        """See the base class."""
        return self.visit.late

    @property
    def identities(self) -> int:
        """See the base class."""
        return self.visit.tables[self.name].used

    def _configure(self, config: Config) -> None:
        """See the base class."""
        self.visit.configure(config)

    def tables(self) -> list[Table]:
        """See the base class."""
        return list(self.visit.tables.values())

    def blobs(self) -> Iterator[tuple[str, bytes]]:
        """See the base class."""
        yield from super().blobs()
        yield from others(self.visit)

    def load(self, records: dict[str, list[bytes]]) -> None:
        """See the base class."""
        super().load(records)
        load(self.visit, records)


class ActorStage(VisitStage[ActorVisit]):
    """What these principals do."""

    name = "actor"

    def __init__(self, config: Config, partition: int, partitions: int, shared: Shared) -> None:
        super().__init__(config, partition, partitions, shared)
        self.visit = ActorVisit(config)

    def quick(self) -> bool:
        """See the base class."""
        return not self.visit.peering.training

    def _passed(self, one: Coming) -> list[list[Out]]:
        """See the base class."""
        self.follow(one.packet.control)
        return [[*self.shared.flush(), Out("by_object", self.partition, None, one.data)]]

    def _visited(self, held: list[Coming]) -> list[list[Out]]:
        """See the base class. What goes on waits in the router."""
        offsets = [np.full(self._fresh(packet), offset) for offset, packet, _ in held]
        fresh = [packet for _, packet, _ in held if len(packet.block)]
        if fresh:
            logs = renumbered(fresh)
            arrived = min(packet.arrived for packet in fresh)
            block = Block.concat([packet.block for packet in fresh])
            self.rows += len(block)
            self.shared.router.add(
                Packet(block, logs, arrived), self.visit.visit(block), self.partition, np.concatenate(offsets, dtype=np.int64)
            )
        return [[] for _ in held]

    def _fresh(self, packet: Packet) -> int:
        """Drop the rows that were taken in before, by the marks as they are before this message. Returns how many stay."""
        block = packet.block
        keep = np.ones(len(block), np.bool_)
        for number, log in enumerate(packet.logs):
            mine = block.partition == number
            keep &= ~mine | (block.record > self.marks.get(log, -1))
            if mine.any():
                self.marks[log] = max(self.marks.get(log, -1), int(block.record[mine].max()))
        self.dropped += len(block) - int(np.count_nonzero(keep))
        if not keep.all():
            packet.block = block.take(keep)
        return len(packet.block)


class ObjectStage(VisitStage[ObjectVisit]):
    """What happens to these objects, and the combination of both visits."""

    name = "object"

    def __init__(self, config: Config, partition: int, partitions: int, shared: Shared) -> None:
        super().__init__(config, partition, partitions, shared)
        self.visit = ObjectVisit(config, partitions)
        self._asked = tuple(ActorVisit(config).signals)
        self._latest = np.zeros((partitions, 2))
        self.clocks: dict[Line, int] = dict.fromkeys(LINES, 0)

    def _packet(self, data: bytes, waiting: Sequence[Block]) -> Packet:
        """See the base class."""
        packet = super()._packet(data, waiting)
        if len(packet.block) and packet.signals != self._asked:
            raise WireError("the actors' visit runs other signals than this stage's configuration names")
        return packet

    def _passed(self, one: Coming) -> list[list[Out]]:
        """See the base class."""
        self.follow(one.packet.control)
        items = self._tick(one.packet.tick) if one.packet.tick is not None else []
        return [self._sent(items, one.packet, one.offset)]

    def _visited(self, held: list[Coming]) -> list[list[Out]]:
        """See the base class. What a message gave rise to is told with its own offset, whatever it was visited with."""
        given = [(offset, packet) for offset, packet, _ in held if len(packet.block)]
        if not given:
            return [[] for _ in held]
        parts = [self._fresh(packet) for _, packet in given]
        logs = renumbered([packet for _, packet in given])
        ends = list(itertools.accumulate(len(block) for block, _ in parts))
        told = self._judge(Block.concat([block for block, _ in parts]), ActorSide.joined([side for _, side in parts]), logs, ends)
        items = {offset: each for (offset, _), each in zip(given, told, strict=True)}
        return [self._sent(items.get(offset, []), packet, offset) for offset, packet, _ in held]

    def _judge(self, block: Block, side: ActorSide, logs: tuple[str, ...], ends: list[int]) -> list[list[tuple[Line, list[Item]]]]:
        """What a judge is told of rows, for each message by itself; ``ends``: where the rows of each end."""
        self.rows += len(block)
        found: list[dict[Line, list[Item]]] = [{line: [] for line in LINES} for _ in ends]
        begins = [0, *ends]
        done: dict[Line, int] = dict.fromkeys(LINES, 0)
        for run in self.visit.visit(block, side):
            items, self.clocks[run.line] = items_of(run, self.clocks[run.line], logs)
            for row, item in items:
                if item.piece is not None:
                    item.piece.replayed, item.piece.partition = is_replayed(item.piece.partition), title(item.piece.partition)
                at = done[run.line] + row
                number = bisect_right(ends, at)
                if item.row:
                    item.row[ROW] = float(at - begins[number])
                found[number][run.line].append(item)
            done[run.line] += len(run.block)
        return [[(line, items) for line, items in each.items() if items] for each in found]

    def _fresh(self, packet: Packet) -> tuple[Block, ActorSide]:
        """The rows that were not taken in before, by the marks as they are before this message."""
        source, at = packet.extra["from"], packet.extra["offset"]
        keep = np.ones(len(source), np.bool_)
        for partition in np.unique(source).tolist():
            mine, upstream = source == partition, f"actor-{partition}"
            keep &= ~mine | (at > self.marks.get(upstream, -1))
            self.marks[upstream] = max(self.marks.get(upstream, -1), int(at[mine].max()))
        self.dropped += len(source) - int(np.count_nonzero(keep))
        side = side_of(packet)
        if not keep.all():
            rows = np.flatnonzero(keep)
            packet.block, side, source = packet.block.take(rows), side.part(rows), source[rows]
        if self.partitions > 1:
            add_up(source, side.counts[counts.ALL_HOURS], side.counts[counts.POPULATION], self._latest)
        return packet.block, side

    def _tick(self, tick: Tick) -> list[tuple[Line, list[Item]]]:
        items: list[tuple[Line, list[Item]]] = []
        # A canary of a busy partition says nothing of the time, and so changes nothing.
        for line in LINES if tick.clock else ():
            self.clocks[line] = max(self.clocks[line], tick.clock)
            items.append((line, [Item(float(self.clocks[line]))]))
        return items

    def _sent(self, items: list[tuple[Line, list[Item]]], packet: Packet, offset: int) -> list[Out]:
        """One message for each partition of judges that has anything to hear. All hear of the time."""
        sent: dict[int, list[tuple[Line, list[Item]]]] = {}
        for line, told in items:
            parts: dict[int, list[Item]] = {}
            for item in told:
                if self.partitions == 1:
                    parts.setdefault(0, []).append(item)
                elif item.row:
                    parts.setdefault(stable_hash(item.actor) % self.partitions, []).append(item)
                else:
                    for partition in range(self.partitions):
                        parts.setdefault(partition, []).append(item)
            for partition, mine in parts.items():
                sent.setdefault(partition, []).append((line, mine))
        if packet.passes:
            # A tick goes the way of its partition to the end, and says there that the way is open.
            sent.setdefault(self.partition, [])
        out = []
        for partition, mine_ in sorted(sent.items()):
            message = Message(VERSION, "object", self.partition, offset, packet.arrived, mine_)
            if partition == self.partition:
                message.tick, message.control = packet.tick, packet.control
            out.append(Out("evidence", partition, None, record_of(message), alone=message.control is not None))
        return out

    def blobs(self) -> Iterator[tuple[str, bytes]]:
        """See the base class."""
        yield from super().blobs()
        yield "object.stage", msgspec.msgpack.encode({"latest": self._latest.tobytes(), "clocks": self.clocks})

    def load(self, records: dict[str, list[bytes]]) -> None:
        """See the base class."""
        super().load(records)
        own = msgspec.msgpack.decode(records["object.stage"][0])
        self._latest[...] = np.frombuffer(own["latest"]).reshape(self._latest.shape)
        self.clocks = own["clocks"]
