"""The state of one partition of a stage in a compacted topic: fenced, all or nothing, with the offset of its input in the same step.

Whoever opens a partition first takes its transactional identity, which ends every other process that still believes it owns it; then it
reads the state. A checkpoint is one transaction: the records that changed and the offset up to which they hold.
"""

from __future__ import annotations

import asyncio
import time
from typing import Any

import msgspec
from aiokafka import AIOKafkaProducer, TopicPartition
from aiokafka.errors import InvalidProducerEpoch, ProducerFenced

from connectors.wire import HEADER
from detector.follow import to_the_end
from detector.snapshot import HEAD, Snapshot, restore
from detector.stage import Stage

#: How long the broker waits for the end of a checkpoint before it gives it up, in milliseconds. A million profiles on a busy
#: machine take minutes; whoever takes over need not wait, for it ends the transaction of the owner before. Brokers allow 15 minutes.
TRANSACTION_MS = 600_000
#: Largest request, in bytes: several records of a state in one.
LARGEST_REQUEST = 8 << 20
#: Times as long as a record takes are left to others before the next, at leisure and when that is over, and seconds at most: a message
#: on its way needs many turns of the event loop.
REST, SHORT_REST, LONGEST_REST = 4.0, 1.0, 0.2


#: Keys of records that are no part of the state: where it crashed, and what is to be skipped (followed by the offset).
CRASH, SKIP = "!crash", "!skip/"


class Crash(msgspec.Struct):
    """How often a message has made the stage crash: one from ``offset`` to ``upto`` of those that were taken in together."""

    offset: int = -1
    times: int = 0
    upto: int = -1

    def __post_init__(self) -> None:
        # Records of before it was noted are of one message.
        self.upto = max(self.upto, self.offset)


class Fenced(RuntimeError):
    """Another process has taken this partition over: this one must end without writing anything more."""


class Keeper:
    """Opens, keeps and lets go of one partition of a stage. ``topic``: its state topic; ``group``: the group that reads its input."""

    def __init__(self, client: dict[str, Any], topic: str, group: str, stage: Stage, meaning: str) -> None:
        self._client = client
        self._state = TopicPartition(topic, stage.partition)
        self._group = group
        self._meaning = meaning
        self._producer = AIOKafkaProducer(
            transactional_id=f"{topic}-{stage.partition}",
            transaction_timeout_ms=TRANSACTION_MS,
            max_request_size=LARGEST_REQUEST,
            compression_type="zstd",
            linger_ms=5,
            **client,
        )
        self.stage = stage
        self._written: dict[str, bytes] = {}
        self._keys: set[str] = set()
        self._crash = Crash()
        #: Offsets that are not to be taken in, because someone said so.
        self.skips: set[int] = set()
        #: Offset up to which the last checkpoint holds; how long ago work goes on from it.
        self.saved = 0
        self.bytes = 0
        self._hurried = False

    async def open(self) -> int:
        """Fence every other owner and fill the stage. Returns how many records the state has. Raises Refused."""
        await self._producer.start()
        records = await self._read()
        self.skips = {int(key.removeprefix(SKIP)) for key in records if key.startswith(SKIP)}
        self._crash = msgspec.json.decode(records[CRASH], type=Crash) if CRASH in records else Crash()
        own = {key: data for key, data in records.items() if not key.startswith("!")}
        self._written = restore(self.stage, own, self._meaning)
        self.saved = self.stage.applied
        self._keys = set(own)
        return len(own)

    def alone(self, offset: int) -> bool:
        """Whether the message at ``offset`` is to be taken in by itself: it may be the one that has made the stage crash."""
        return offset <= self._crash.upto

    async def crashed(self, offset: int, upto: int) -> int:
        """Note that one of the messages from ``offset`` to ``upto`` has made the stage crash. Returns how often it has by now."""
        before = self._crash
        known = before.times and before.offset <= upto and offset <= before.upto
        self._crash = Crash(offset, before.times + 1 if known else 1, upto)
        async with self._producer.transaction():
            await (await self._put(CRASH, msgspec.json.encode(self._crash)))
        return self._crash.times

    async def _read(self) -> dict[str, bytes]:
        held, _ = await to_the_end(self._client, self._state.topic, self._state.partition, committed=True)
        records: dict[str, bytes] = {}
        for message in held:
            if message.value is None:
                records.pop(message.key.decode(), None)
            else:
                records[message.key.decode()] = message.value
        return records

    def snapshot(self) -> Snapshot:
        """A copy of the stage as of now."""
        return Snapshot(self.stage, self._meaning, self._written)

    async def save(self, snapshot: Snapshot, source: TopicPartition | None, leisure: float = 0.0) -> int:
        """Write a copy with the offset of ``source`` up to which it holds (None: nobody has read anything). Returns its bytes. Raises
        Fenced.

        Gives way after every record, so that blocks go on being folded; for ``leisure`` seconds it leaves most of the time to them,
        and for as long again half.
        """
        wrote = 0
        at = time.monotonic()
        ends = at + leisure
        try:
            async with self._producer.transaction():
                kept = {HEAD}
                futures = []
                for key, data in snapshot.records():
                    now = time.monotonic()
                    rest = 0.0 if self._hurried or now >= ends + leisure else (REST if now < ends else SHORT_REST) * (now - at)
                    futures.append(await self._put(key, data))
                    wrote += len(data)
                    await asyncio.sleep(min(rest, LONGEST_REST))
                    at = time.monotonic()
                for name, many in snapshot.head.records.items():
                    kept.update(f"{name}/{number}" for number in range(many))
                futures += [await self._put(key, None) for key in sorted(self._keys - kept)]
                await asyncio.gather(*futures)
                if source is not None:
                    await self._producer.send_offsets_to_transaction({source: snapshot.head.applied}, self._group)
        except (ProducerFenced, InvalidProducerEpoch) as error:
            raise Fenced(f"{self._state.topic} {self._state.partition} is owned by another process by now: {error}") from error
        self._keys = kept
        self.saved = snapshot.head.applied
        self.bytes += wrote
        return wrote

    def hurry(self) -> None:
        """Someone waits for the last copy: no leisure from now on, also if its writing has not begun."""
        self._hurried = True

    async def _put(self, key: str, data: bytes | None) -> asyncio.Future[Any]:
        future: asyncio.Future[Any] = await self._producer.send(
            self._state.topic, data, key.encode(), partition=self._state.partition, headers=[(HEADER, b"state/1")]
        )
        return future

    async def close(self) -> None:
        """Let go of the partition."""
        await self._producer.stop()
