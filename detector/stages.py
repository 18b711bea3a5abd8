"""The cores as stages between logs: one object a partition, a message in, messages out.

A stage is a pure fold of the log it reads. What it sends on carries the partition and the offset it came from, and what it takes in is
compared with the highest offset taken in from there: a row that a stage before it has sent again after a crash is known and dropped.
So every row counts once, although every log may hold it twice. No Kafka here: ``detector.worker`` moves the messages.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal, NamedTuple

import msgspec
import numpy as np

from connectors.alert import Alert
from connectors.event import Block
from connectors.names import Names, stable_hash
from connectors.wire import Control, Packet, Tick, WireError, decode
from detector.checkpoint import meaning
from detector.config import Config, ConfigError, parse
from detector.evidence import Item, items_of
from detector.fuse import Fuse, Fusion
from detector.ingest import restart
from detector.messages import VERSION, Judged, Message, Share, read_message
from detector.notices import Notices
from detector.partitions import add_up
from detector.router import Router, side_of
from detector.score import ActorVisit, ObjectVisit, load, others
from models import counts
from models.profiles import Table
from models.signals import Line

LINES: tuple[Line, ...] = ("main", "slow")


class Out(NamedTuple):
    """A message to send. ``partition`` None: by the key."""

    topic: Literal["by_object", "evidence", "alerts", "budget", "status"]
    partition: int | None
    key: bytes | None
    value: bytes


class Taken(NamedTuple):
    """What came of a message: what is to be sent on, alerts, when the earliest record behind it arrived (microseconds, 0 = unknown),
    and the tick if it was one."""

    outs: list[Out]
    alerts: list[Alert]
    arrived: int = 0
    tick: Tick | None = None


class Shared:
    """What the stages of a process share: the dictionary of texts and the router."""

    def __init__(self, partitions: int, names_limit: int = 2_000_000) -> None:
        self.names = Names(names_limit)
        self.router = Router(self.names, partitions)

    def packet(self, data: bytes) -> Packet:
        """A message as a packet. Raises WireError."""
        if self.names.full:
            restart(self.names, self.router.blocks)
        return decode(data, self.names)

    def flush(self) -> list[Out]:
        """What the router holds, to be sent."""
        return [Out("by_object", partition, None, data) for partition, data in self.router.flush()]


class Stage:
    """What all stages have. ``applied``: the offset of the next message; ``marks``: upstream -> highest offset taken in from there."""

    name: str

    def __init__(self, config: Config, partition: int, partitions: int, shared: Shared) -> None:
        self.config = config
        self.shared = shared
        self.partition = partition
        self.partitions = partitions
        self.applied = 0
        self.marks: dict[str, int] = {}
        #: Since the process began: rows scored, rows known from before, rows that came too late to be learned.
        self.rows = self.dropped = 0
        self.notices = Notices()
        #: The configuration that the log has given last; version 0 = the process's own holds.
        self.control = Control()

    def follow(self, control: Control | None) -> None:
        """Let a configuration of the log hold from here on. Raises WireError where it cannot."""
        if control is None or control.version <= self.control.version:
            return
        try:
            config = parse(control.text)
        except ConfigError as error:
            raise WireError(f"version {control.version} of the configuration cannot be used: {error}") from None
        if meaning(config) != meaning(self.config):
            raise WireError(f"version {control.version} of the configuration changes [signals], [calibration] or [time]")
        self.control, self.config = control, config
        self._configure(config)

    def _configure(self, config: Config) -> None:
        """Take over what may change while a stage runs."""

    def tables(self) -> list[Table]:
        """The tables of profiles."""
        return []

    def blobs(self) -> Iterator[tuple[str, bytes]]:
        """The state outside the tables, by name. Equal states give equal bytes."""
        own = {
            "version": VERSION,
            "marks": dict(sorted(self.marks.items())),
            "told": self.notices.told,
            "control": self.control,
        }
        yield "stage", msgspec.msgpack.encode(own)

    def load(self, records: dict[str, list[bytes]]) -> None:
        """Take over a state. Raises ValueError with a sentence."""
        own = msgspec.msgpack.decode(records["stage"][0])
        if own["version"] != VERSION:
            raise ValueError(f"state of version {own['version']}; this release reads {VERSION}")
        self.marks, self.notices.told = own["marks"], own["told"]
        self.follow(msgspec.convert(own["control"], Control))

    def quick(self) -> bool:
        """Whether a copy of the state can be taken without waiting for anything."""
        return True

    def take(self, data: bytes, offset: int, time: int = 0) -> Taken:
        """Take in the message at ``offset``, in its log since ``time`` (microseconds). Raises WireError, with a sentence, before
        anything has changed."""
        raise NotImplementedError

    @property
    def late(self) -> int:
        """Rows scored, but not learned, since the state began."""
        return 0

    @property
    def identities(self) -> int:
        """Identities with a profile here."""
        return 0

    def _seen(self, upstream: str, offset: int) -> bool:
        """Whether a whole message from there was taken in before; notes it if not."""
        if offset <= self.marks.get(upstream, -1):
            self.dropped += 1
            return True
        self.marks[upstream] = offset
        return False

    def _full(self, visit: ActorVisit | ObjectVisit) -> list[Alert]:
        out = [alert for each in visit.full for alert in self.notices.full(*each)]
        visit.full.clear()
        return out


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
        self._clocks: dict[Line, int] = dict.fromkeys(LINES, 0)

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
        paths = tuple(log.rpartition("@")[0] for log in packet.logs)
        items: list[tuple[Line, list[Item]]] = []
        for found in self.visit.visit(block, side):
            told, self._clocks[found.line] = items_of(found, self._clocks[found.line], paths)
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
        for line in LINES:
            self._clocks[line] = max(self._clocks[line], tick.clock)
            items.append((line, [Item(float(self._clocks[line]))]))
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
        yield "object.stage", msgspec.msgpack.encode({"latest": self._latest.tobytes(), "clocks": self._clocks})

    def load(self, records: dict[str, list[bytes]]) -> None:
        """See the base class."""
        super().load(records)
        load(self.visit, records)
        own = msgspec.msgpack.decode(records["object.stage"][0])
        self._latest[...] = np.frombuffer(own["latest"]).reshape(self._latest.shape)
        self._clocks = own["clocks"]


class FuseStage(Stage):
    """The judges of one partition."""

    name = "fuse"

    def __init__(self, config: Config, partition: int, partitions: int, shared: Shared) -> None:
        super().__init__(config, partition, partitions, shared)
        self.judges = {line: Fusion(config, line, partitions) for line in LINES}

    def take(self, data: bytes, offset: int, time: int = 0) -> Taken:
        """See the base class."""
        message = read_message(data)
        self.rows += 1
        alerts: list[Alert] = []
        handed: dict[int, list[Judged]] = {}
        if not self._seen(f"{message.stage}-{message.partition}", message.offset):
            self.follow(message.control)
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
