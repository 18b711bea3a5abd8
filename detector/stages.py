"""The cores as stages between logs: one object a partition, a message in, messages out.

A stage is a pure fold of the log it reads. What it sends on carries the partition and the offset it came from, and what it takes in is
compared with the highest offset taken in from there: a row that a stage before it has sent again after a crash is known and dropped.
So every row counts once, although every log may hold it twice. No Kafka here: ``detector.worker`` moves the messages.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec
import numpy as np

from connectors.alert import Alert
from connectors.event import Block
from connectors.names import stable_hash
from connectors.wire import Packet, Tick, WireError, is_replayed, title
from detector.config import Config
from detector.evidence import Item, items_of
from detector.fuse import Fuse, Fusion
from detector.messages import VERSION, Judged, Message, Share, read_message
from detector.partitions import add_up
from detector.router import side_of
from detector.score import ActorVisit, ObjectVisit, load, others
from detector.stage import Out, Shared, Stage, Taken
from models import counts
from models.profiles import Table
from models.signals import Line

LINES: tuple[Line, ...] = ("main", "slow")


class ActorStage(Stage):
    """What these principals do."""

    name = "actor"

    def __init__(self, config: Config, partition: int, partitions: int, shared: Shared) -> None:
        super().__init__(config, partition, partitions, shared)
        self.visit = ActorVisit(config)

    def quick(self) -> bool:
        """See the base class."""
        return not self.visit.peering.training

    def take(self, data: bytes, offset: int, time: int = 0) -> Taken:
        """See the base class. What goes on waits in the router."""
        packet = self.shared.packet(data)
        outs: list[Out] = []
        if packet.passes:
            self.follow(packet.control)
            outs = [*self.shared.flush(), Out("by_object", self.partition, None, data)]
        elif self._fresh(packet):
            self.rows += len(packet.block)
            self.shared.router.add(packet, self.visit.visit(packet.block), self.partition, offset)
        self.applied = offset + 1
        return Taken(outs, self._full(self.visit), packet.arrived, packet.tick)

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

    @property
    def late(self) -> int:
        """See the base class."""
        return self.visit.late

    @property
    def identities(self) -> int:
        """See the base class."""
        return self.visit.tables["actor"].used

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


class ObjectStage(Stage):
    """What happens to these objects, and the combination of both visits."""

    name = "object"

    def __init__(self, config: Config, partition: int, partitions: int, shared: Shared) -> None:
        super().__init__(config, partition, partitions, shared)
        self.visit = ObjectVisit(config, partitions)
        self._asked = tuple(ActorVisit(config).signals)
        self._latest = np.zeros((partitions, 2))
        self.clocks: dict[Line, int] = dict.fromkeys(LINES, 0)

    def take(self, data: bytes, offset: int, time: int = 0) -> Taken:
        """See the base class."""
        packet = self.shared.packet(data)
        items: list[tuple[Line, list[Item]]] = []
        self.follow(packet.control)
        if packet.tick is not None:
            items = self._tick(packet.tick)
        elif len(packet.block):
            if packet.signals != self._asked:
                raise WireError("the actors' visit runs other signals than this stage's configuration names")
            items = self._judge(packet)
        self.applied = offset + 1
        return Taken(self._sent(items, packet, offset), self._full(self.visit), packet.arrived, packet.tick)

    def _judge(self, packet: Packet) -> list[tuple[Line, list[Item]]]:
        block, side = self._fresh(packet)
        self.rows += len(block)
        items: list[tuple[Line, list[Item]]] = []
        for found in self.visit.visit(block, side):
            told, self.clocks[found.line] = items_of(found, self.clocks[found.line], packet.logs)
            for piece in (item.piece for item in told if item.piece is not None):
                piece.replayed, piece.partition = is_replayed(piece.partition), title(piece.partition)
            items.append((found.line, told))
        return items

    def _fresh(self, packet: Packet) -> tuple[Block, Any]:
        """The rows that were not taken in before, by the marks as they are before this message."""
        source, at = packet.extra["from"], packet.extra["offset"]
        keep = np.ones(len(source), np.bool_)
        for partition in np.unique(source).tolist():
            mine, upstream = source == partition, f"actor-{partition}"
            keep &= ~mine | (at > self.marks.get(upstream, -1))
            self.marks[upstream] = max(self.marks.get(upstream, -1), int(at[mine].max()))
        self.dropped += len(source) - int(np.count_nonzero(keep))
        block, side = packet.block, side_of(packet)
        if not keep.all():
            rows = np.flatnonzero(keep)
            block, side, source = block.take(rows), side.part(rows), source[rows]
        if self.partitions > 1:
            add_up(source, side.counts[counts.ALL_HOURS], side.counts[counts.POPULATION], self._latest)
        return block, side

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
            out.append(Out("evidence", partition, None, msgspec.msgpack.encode(message)))
        return out

    @property
    def late(self) -> int:
        """See the base class."""
        return self.visit.late

    @property
    def identities(self) -> int:
        """See the base class."""
        return self.visit.tables["object"].used

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
        yield "object.stage", msgspec.msgpack.encode({"latest": self._latest.tobytes(), "clocks": self.clocks})

    def load(self, records: dict[str, list[bytes]]) -> None:
        """See the base class."""
        super().load(records)
        load(self.visit, records)
        own = msgspec.msgpack.decode(records["object.stage"][0])
        self._latest[...] = np.frombuffer(own["latest"]).reshape(self._latest.shape)
        self.clocks = own["clocks"]


class FuseStage(Stage):
    """The judges of one partition."""

    name = "fuse"

    def __init__(self, config: Config, partition: int, partitions: int, shared: Shared) -> None:
        super().__init__(config, partition, partitions, shared)
        self.judges = {line: Fusion(config, line, partitions) for line in LINES}

    def take(self, data: bytes, offset: int, time: int = 0) -> Taken:
        """See the base class."""
        message = read_message(data)
        alerts: list[Alert] = []
        handed: dict[int, list[Judged]] = {}
        # Before anything is noted: it may be refused. What was taken in before is no newer than what holds.
        self.follow(message.control)
        self.rows += 1
        if not self._seen(f"{message.stage}-{message.partition}", message.offset):
            for line, threshold in message.threshold.items():
                self.judges[line].state.budget.threshold = threshold
            for line, items in message.items:
                for item in items:
                    alerts += self._take(line, item, handed)
            for judged in message.judged:
                judge = self.judges[judged.line]
                judged.item.clock = self._clock(judge, judged.item.clock)
                alerts += judge.advance(judged.item.clock)
                alerts += judge.fold(judged.blamed, judged.role, judged.item)
        self.applied = offset + 1
        out = [self._hand(partition, judged, offset, message.arrived) for partition, judged in sorted(handed.items())]
        alerts.sort(key=lambda alert: alert.time)
        return Taken(out + list(self._shares(offset)), alerts, message.arrived, message.tick)

    @staticmethod
    def _clock(judge: Fusion, clock: float) -> float:
        """The time of a judge, which does not run back when another log is behind."""
        judge.state.clock = max(judge.state.clock, int(clock))
        return float(judge.state.clock)

    def _take(self, line: Line, item: Item, handed: dict[int, list[Judged]]) -> list[Alert]:
        judge = self.judges[line]
        item.clock = self._clock(judge, item.clock)
        alerts = judge.advance(item.clock)
        if not item.row:
            return alerts
        blamed, role = judge.blame(item)
        home = stable_hash(blamed) % self.partitions
        if home == self.partition:
            return alerts + judge.fold(blamed, role, item)
        handed.setdefault(home, []).append(Judged(line, blamed, role, item))
        return alerts

    def _hand(self, partition: int, judged: list[Judged], offset: int, arrived: int) -> Out:
        message = Message(VERSION, "fuse", self.partition, offset, arrived, judged=judged)
        return Out("evidence", partition, None, msgspec.msgpack.encode(message))

    def _shares(self, offset: int) -> Iterator[Out]:
        """What the budget is to know, when it is due. Alone a judge reckons for itself."""
        for line, judge in self.judges.items():
            if judge.due and self.partitions > 1:
                share = Share(VERSION, self.partition, line, offset, judge.state.budget)
                yield Out("budget", 0, f"{line}-{self.partition}".encode(), msgspec.msgpack.encode(share))
            judge.due = False

    def _configure(self, config: Config) -> None:
        """See the base class."""
        for judge in self.judges.values():
            judge.configure(config)

    def blobs(self) -> Iterator[tuple[str, bytes]]:
        """See the base class."""
        yield from super().blobs()
        for line, judge in self.judges.items():
            yield f"fuse.{line}", msgspec.msgpack.encode(judge.state)

    def load(self, records: dict[str, list[bytes]]) -> None:
        """See the base class."""
        super().load(records)
        for line, judge in self.judges.items():
            judge.state = msgspec.msgpack.decode(records[f"fuse.{line}"][0], type=Fuse)
            # The budget may have been changed since, in the configuration or by the log.
            judge.configure(self.config)
