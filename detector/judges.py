"""The stage of the judges: evidence of all partitions of objects in, alerts out. See ``detector.stages``."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import msgspec

from connectors.alert import Alert
from connectors.names import stable_hash
from detector.config import Config
from detector.evidence import Item
from detector.fuse import Fuse, Fusion
from detector.messages import VERSION, Judged, Message, Share, read_messages, record_of
from detector.stage import Out, Shared, Stage, Taken
from detector.stages import LINES
from models.signals import Line


class FuseStage(Stage):
    """The judges of one partition."""

    name = "fuse"

    def __init__(self, config: Config, partition: int, partitions: int, shared: Shared) -> None:
        super().__init__(config, partition, partitions, shared)
        self.judges = {line: Fusion(config, line, partitions) for line in LINES}

    def take(self, data: bytes, offset: int, time: int = 0) -> Taken:
        """See the base class; a configuration that is refused leaves what came before it in the record."""
        messages = read_messages(data)
        alerts: list[Alert] = []
        handed: dict[int, list[Judged]] = {}
        arrived, known = {0}, 0
        for message in messages:
            # First: it may be refused. What was taken in before is no newer than what holds.
            self.follow(message.control)
            if self._seen(f"{message.stage}-{message.partition}", message.offset):
                continue
            alerts += self._heard(message, handed)
            many = len(alerts) + sum(map(len, handed.values()))
            if many > known:
                arrived.add(message.arrived)
            known = many
        self.rows, self.applied = self.rows + 1, offset + 1
        since = min(arrived - {0}, default=0)
        # What is handed over is known again by this offset, so that it goes in one piece.
        out = [self._hand(partition, judged, offset, since) for partition, judged in sorted(handed.items())]
        return Taken([*out, *self._shares(offset)], alerts, since, tuple(each.tick for each in messages if each.tick is not None))

    def _heard(self, message: Message, handed: dict[int, list[Judged]]) -> list[Alert]:
        """Take in one message; ``handed``: what is for other partitions."""
        alerts: list[Alert] = []
        for line, threshold in message.threshold.items():
            self.judges[line].state.budget.hear(threshold, message.reckoned)
        for line, items in message.items:
            for item in items:
                alerts += self._take(line, item, handed)
        for judged in message.judged:
            judge = self.judges[judged.line]
            judged.item.clock = self._clock(judge, judged.item.clock)
            alerts += judge.advance(judged.item.clock)
            alerts += judge.fold(judged.blamed, judged.role, judged.item)
        return sorted(alerts, key=lambda alert: alert.time)

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
        return Out("evidence", partition, None, record_of(Message(VERSION, "fuse", self.partition, offset, arrived, judged=judged)))

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
        for name, parts in self.copies():
            yield name, b"".join(parts)

    def copies(self) -> Iterator[tuple[str, Iterable[bytes]]]:
        """See the base class."""
        for name, data in super().blobs():
            yield name, (data,)
        for line, judge in self.judges.items():
            yield f"fuse.{line}", judge.copy()

    def load(self, records: dict[str, list[bytes]]) -> None:
        """See the base class."""
        super().load(records)
        for line, judge in self.judges.items():
            judge.state = msgspec.msgpack.decode(records[f"fuse.{line}"][0], type=Fuse)
            # The budget may have been changed since, in the configuration or by the log.
            judge.configure(self.config)
