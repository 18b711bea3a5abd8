"""The ledger's anchors in a topic: where the ledger's administrator cannot write, and the responder can only add.

Anchors are sent in order, each until the broker has it; what could not be known to have arrived is sent again, the same bytes. The
producer has one name for the whole installation: whoever starts later ends whatever an earlier one still had under way.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from aiokafka import AIOKafkaProducer
from aiokafka.errors import InvalidProducerEpoch, ProducerFenced
from aiokafka.errors import KafkaError as BrokerError

from connectors.cluster import places
from connectors.kafka import Kafka, KafkaError, client
from connectors.topics import LEDGER_SCHEMA, Topics
from connectors.wire import HEADER
from detector.anchor import AnchorFailed
from detector.follow import to_the_end

#: Pause before an anchor is sent again, in seconds: anchors are minutes apart.
AGAIN_SECONDS = 2.0
#: How long the broker waits for the end of a transaction, in milliseconds: one whose sender has died holds up readers until then.
TRANSACTION_MS = 10_000
#: What letting go may take where the broker is away.
END_SECONDS = 2.0


async def anchors_on(kafka: Kafka) -> list[bytes]:
    """Every anchor on the topic, oldest first. Raises AnchorFailed for a message that is none, KafkaError, BrokerError."""
    topic = Topics(kafka.prefix).ledger
    if not await places(kafka, [topic]):
        # The client would ask for it again and again.
        raise KafkaError(f"the topic {topic} is missing; make it with: tocsin topics")
    messages, _ = await to_the_end(client(kafka), topic, committed=True)
    for message in messages:
        if [value for key, value in message.headers if key == HEADER] != [LEDGER_SCHEMA.encode()] or message.value is None:
            raise AnchorFailed(f"{topic} at {message.offset}: not one of our anchors; nobody but the responder may write there")
    lines = [message.value for message in messages]
    # The same bytes twice in a row: sent again because the first answer was lost.
    return [line for number, line in enumerate(lines) if not number or line != lines[number - 1]]


class Anchorage:
    """Keeps anchors on the topic. ``failed`` is set where it must not go on: another responder has taken over."""

    def __init__(self, kafka: Kafka, say: Callable[[str], object]) -> None:
        self._kafka, self._say = kafka, say
        self.topic = Topics(kafka.prefix).ledger
        self._waiting: deque[bytes] = deque()
        self._more = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        self._producer: AIOKafkaProducer | None = None
        self._task: asyncio.Task[None] | None = None
        self._all_arrived = asyncio.Event()
        self._all_arrived.set()
        self.failed: asyncio.Future[None] = self._loop.create_future()
        #: When the last one was known to have arrived; seconds since 1970, 0 = none yet.
        self.arrived = 0.0

    async def start(self) -> list[bytes]:
        """End what an earlier one had under way; the anchors there are. Raises KafkaError, BrokerError, AnchorFailed."""
        self._producer = await self._connected()
        try:
            found = await anchors_on(self._kafka)
        except BaseException:
            await self._let_go()
            raise
        self._task = asyncio.create_task(self._run(), name="anchors")
        return found

    def keep(self, line: bytes) -> None:
        """Keep an anchor; from any thread. It arrives when the broker is there."""
        self._loop.call_soon_threadsafe(self._put, line)

    @property
    def waiting(self) -> int:
        """Anchors that are not known to have arrived."""
        return len(self._waiting)

    async def settled(self) -> None:
        """Wait until all that was kept before this call has arrived. Raises AnchorFailed."""
        # What ``keep`` was given just now is put first.
        await asyncio.sleep(0)
        arrived = asyncio.create_task(self._all_arrived.wait())
        either: set[asyncio.Future[Any]] = {arrived, self.failed}
        await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
        arrived.cancel()
        if self.failed.done():
            self.failed.result()

    async def stop(self) -> None:
        """Let go, when all have arrived or soon."""
        if self._task is None:
            return
        # What ``keep`` was given just now is put first.
        await asyncio.sleep(0)
        with suppress(TimeoutError):
            if not self.failed.done():
                await asyncio.wait_for(self._all_arrived.wait(), END_SECONDS)
        self._task.cancel()
        await self._let_go()

    def _put(self, line: bytes) -> None:
        self._waiting.append(line)
        self._all_arrived.clear()
        self._more.set()

    async def _run(self) -> None:
        while True:
            await self._more.wait()
            self._more.clear()
            while self._waiting:
                try:
                    await self._send(self._waiting[0])
                except (ProducerFenced, InvalidProducerEpoch):
                    text = "another responder has taken over the ledger's anchors; there is one responder to a ledger"
                    self.failed.set_exception(AnchorFailed(text))
                    return
                except (BrokerError, OSError, TimeoutError) as error:
                    self._say(f"an anchor of the ledger waits for the broker: {str(error) or type(error).__name__}")
                    await self._let_go()
                    await asyncio.sleep(AGAIN_SECONDS)
                else:
                    self._waiting.popleft()
                    self.arrived = time.time()
            self._all_arrived.set()

    async def _send(self, line: bytes) -> None:
        if self._producer is None:
            self._producer = await self._connected()
        async with self._producer.transaction():
            await self._producer.send_and_wait(self.topic, line, partition=0, headers=[(HEADER, LEDGER_SCHEMA.encode())])

    async def _connected(self) -> AIOKafkaProducer:
        settings: dict[str, Any] = client(self._kafka)
        producer = AIOKafkaProducer(
            transactional_id=f"{self._kafka.prefix}.respond", transaction_timeout_ms=TRANSACTION_MS, linger_ms=0, **settings
        )
        try:
            await producer.start()
        except BaseException:
            with suppress(BrokerError, TimeoutError):
                await asyncio.wait_for(producer.stop(), END_SECONDS)
            raise
        return producer

    async def _let_go(self) -> None:
        producer, self._producer = self._producer, None
        if producer is not None:
            with suppress(BrokerError, TimeoutError, OSError):
                await asyncio.wait_for(producer.stop(), END_SECONDS)
