"""The stages of which there is one: who adds up the alert budget, and who watches that nobody is missing."""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

from connectors.status import StatusError
from connectors.status import decode as decode_status
from connectors.wire import WireError
from detector.checkpoint import StateError
from detector.config import Config
from detector.judges import FuseStage
from detector.messages import VERSION, Message, Share, check_version, record_of
from detector.stage import Out, Shared, Stage, Taken
from detector.stages import ActorStage, ObjectStage
from detector.watch import Watcher
from models.budget import reckon

_share = msgspec.msgpack.Decoder(Share)


class BudgetStage(Stage):
    """Adds up what the judges have granted and spent, and tells all of them the threshold. One partition."""

    name = "budget"

    def __init__(self, config: Config, partition: int, partitions: int, shared: Shared) -> None:
        super().__init__(config, partition, partitions, shared)
        self._shares: dict[str, Share] = {}

    def take(self, data: bytes, offset: int, time: int = 0) -> Taken:
        """See the base class. Every share gives a threshold for every partition of judges."""
        try:
            share = _share.decode(data)
        except msgspec.MsgspecError as error:
            raise WireError(f"not a share of the budget: {error}") from None
        check_version(share.version, "share of the budget")
        self._shares[f"{share.line}-{share.partition}"] = share
        self.applied = offset + 1
        mine = [each.budget for each in self._shares.values() if each.line == share.line]
        reckon(mine)
        now = max(each.now for each in mine)
        message = Message(VERSION, "budget", 0, offset, threshold={share.line: mine[0].threshold}, reckoned=now)
        return Taken([Out("evidence", partition, None, record_of(message)) for partition in range(self.partitions)], [])

    def blobs(self) -> Iterator[tuple[str, bytes]]:
        """See the base class."""
        yield from super().blobs()
        yield "budget.shares", msgspec.msgpack.encode(dict(sorted(self._shares.items())))

    def load(self, records: dict[str, list[bytes]]) -> None:
        """See the base class."""
        super().load(records)
        self._shares = msgspec.msgpack.decode(records["budget.shares"][0], type=dict[str, Share])


class WatchStage(Stage):
    """Watches what the processes say of themselves. Its alerts are about us."""

    name = "watch"

    def __init__(self, config: Config, partition: int, partitions: int, shared: Shared) -> None:
        super().__init__(config, partition, partitions, shared)
        self.watcher = Watcher(config.watch)

    def take(self, data: bytes, offset: int, time: int = 0) -> Taken:
        """See the base class."""
        try:
            message = decode_status(data)
        except StatusError as error:
            raise WireError(str(error)) from None
        alerts = self.watcher.fold(time, message)
        self.applied = offset + 1
        return Taken([], alerts)

    def blobs(self) -> Iterator[tuple[str, bytes]]:
        """See the base class."""
        yield from super().blobs()
        yield "watch", self.watcher.dump()

    def load(self, records: dict[str, list[bytes]]) -> None:
        """See the base class."""
        super().load(records)
        try:
            self.watcher.load(records["watch"][0])
        except StateError as error:
            raise ValueError(str(error)) from None


#: Every stage by its name.
STAGES: dict[str, type[Stage]] = {each.name: each for each in (ActorStage, ObjectStage, FuseStage, BudgetStage, WatchStage)}
#: Those of which there is one, whatever the number of partitions.
SINGLE = frozenset({BudgetStage.name, WatchStage.name})
