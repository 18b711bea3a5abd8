"""Where the responder's records come from on Kafka: alerts of the stages, and people's decisions.

It reads every partition of both topics itself: there is one responder on a ledger, so nobody shares them out, and after a crash it goes
on at once. It stands in the group ``<prefix>.respond``: an offset is committed when the rows of everything before it are in the ledger.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import suppress
from functools import partial

from aiokafka import AIOKafkaConsumer, ConsumerRecord, TopicPartition
from aiokafka.errors import KafkaError as BrokerError

from connectors.cluster import places
from connectors.kafka import Kafka, KafkaError, client
from connectors.topics import ALERTS_SCHEMA, DECISIONS_SCHEMA, Topics
from connectors.wire import HEADER, REPLAYED
from detector.feeds import Delivery

#: The broker answers a fetch at least twice a second, with nothing where there is nothing: silent for so long, it is away. In seconds.
SILENT_SECONDS = 15.0
#: Pause before another connection after the broker has refused this one, in seconds: soon enough, and seldom enough for a log.
AGAIN_SECONDS = 5.0
#: What the end may take: a commit, and letting go.
END_SECONDS = 2.0

_SCHEMAS = {"alert": ALERTS_SCHEMA, "decision": DECISIONS_SCHEMA}


def foreign(headers: Sequence[tuple[str, bytes | None]], schema: str) -> str:
    """Why a message is not to be read as one of this schema; "" where it is ours.

    >>> foreign([("tocsin", b"ocsf-2004/2")], "ocsf-2004/1")
    'a newer release has written it (ocsf-2004/2); this one reads ocsf-2004/1'
    """
    said = [value or b"" for key, value in headers if key == HEADER]
    if len(said) != 1:
        return f"it has {len(said) or 'no'} header{'s' * (len(said) > 1)} {HEADER!r}, expected one: {schema}"
    text = said[0][:100].decode("utf-8", "backslashreplace")
    if text == schema:
        return ""
    (name, _, version), (ours, _, known) = text.partition("/"), schema.partition("/")
    if name == ours and version.isascii() and version.isdigit() and int(version) > int(known):
        return f"a newer release has written it ({text}); this one reads {schema}"
    return f"its schema is {text!r}, expected {schema}"


class Inbox:
    """One connection after another. ``say``: called with a sentence when the connection is lost, and when it is back."""

    def __init__(self, kafka: Kafka, say: Callable[[str], object]) -> None:
        self._kafka, self._say = kafka, say
        self._names = Topics(kafka.prefix)
        self._kinds = {self._names.alerts: "alert", self._names.decisions: "decision"}
        self._consumer: AIOKafkaConsumer | None = None
        self._why = "it is connecting to the broker"
        #: The next offset of each partition, as far as everything before it is settled; and those of them that are not committed yet.
        self._settled: dict[TopicPartition, int] = {}
        self._owed: set[TopicPartition] = set()
        self._to_commit = asyncio.Event()
        self._ever = False
        #: Deliveries that were given out and are not settled.
        self._under_way = 0

    async def deliveries(self) -> AsyncIterator[Delivery]:
        """Every message from the last commit on, as long as it is asked for; a lost broker is tried again. Raises KafkaError
        where it cannot begin: a topic is missing."""
        committer = asyncio.create_task(self._commits())
        try:
            while True:
                try:
                    self._consumer = consumer = await self._connected()
                    async for message in consumer:
                        self._under_way += 1
                        yield self._delivery(message)
                except (BrokerError, KafkaError, OSError, TimeoutError) as error:
                    if isinstance(error, KafkaError) and not self._ever:
                        # A mistake in the settings, or a topic that is not there: to try again does not help.
                        raise
                    self._why = f"the broker: {str(error) or type(error).__name__}"
                    self._say(f"{self._why}; again in {AGAIN_SECONDS:g} s")
                finally:
                    await self._let_go()
                await asyncio.sleep(AGAIN_SECONDS)
        finally:
            committer.cancel()

    def away(self) -> str:
        """Why nothing can come; "" while the broker answers."""
        consumer = self._consumer
        if consumer is None or self._why:
            return self._why
        # What was fetched and waits for its turn keeps the next fetch: then silence is ours.
        heard = max((consumer.last_poll_timestamp(each) or 0 for each in consumer.assignment()), default=0)
        silent = time.time() - heard / 1000
        return f"the broker has been silent for {silent:.0f} s" if not self._under_way and heard and silent > SILENT_SECONDS else ""

    def behind(self) -> int:
        """Messages on the brokers that are not settled, as far as they are known."""
        consumer = self._consumer
        if consumer is None:
            return 0
        return sum(max((consumer.highwater(place) or 0) - offset, 0) for place, offset in dict(self._settled).items())

    async def close(self) -> None:
        """Commit what is settled and let go, soon also where the broker is away."""
        with suppress(BrokerError, TimeoutError):
            await asyncio.wait_for(self._commit(), END_SECONDS)
        await self._let_go()

    async def _connected(self) -> AIOKafkaConsumer:
        there = await places(self._kafka, list(self._kinds))
        for topic in self._kinds:
            if topic not in there:
                raise KafkaError(f"the topic {topic} is missing; make it with: tocsin topics")
        consumer = AIOKafkaConsumer(
            group_id=f"{self._kafka.prefix}.respond",
            enable_auto_commit=False,
            # Without an offset yet it begins with the oldest there is: what is too old becomes a proposal, and nothing is passed over.
            auto_offset_reset="earliest",
            isolation_level="read_committed",
            max_partition_fetch_bytes=self._kafka.message_bytes,
            **client(self._kafka),
        )
        await consumer.start()
        consumer.assign([TopicPartition(topic, number) for topic in self._kinds for number in range(there[topic].partitions)])
        for place, offset in self._settled.items():
            # What was settled before the connection was lost need not come again.
            consumer.seek(place, offset)
        self._say(f"reads {' and '.join(self._kinds)}")
        self._why, self._ever = "", True
        return consumer

    async def _let_go(self) -> None:
        consumer, self._consumer = self._consumer, None
        if consumer is not None:
            with suppress(BrokerError, TimeoutError):
                await asyncio.wait_for(consumer.stop(), END_SECONDS)

    def _delivery(self, message: ConsumerRecord) -> Delivery:
        kind = self._kinds[message.topic]
        where = f"{message.topic} {message.partition} at {message.offset}"
        why = foreign(message.headers, _SCHEMAS[kind]) or ("" if message.value else "it is empty")
        place = TopicPartition(message.topic, message.partition)
        return Delivery(
            kind="alert" if kind == "alert" else "decision",
            record=message.value or b"",
            where=where,
            commit=partial(self._settle, place, message.offset + 1),
            foreign=why,
            replay=any(key == REPLAYED for key, _ in message.headers),
        )

    async def _settle(self, place: TopicPartition, offset: int) -> None:
        """Its rows are written. The broker is told when it listens: nothing waits for that."""
        self._under_way -= 1
        self._settled[place] = offset
        self._owed.add(place)
        self._to_commit.set()

    async def _commits(self) -> None:
        while True:
            await self._to_commit.wait()
            self._to_commit.clear()
            try:
                await self._commit()
            except BrokerError as error:
                # What is not committed comes again after a restart, and is decided once all the same.
                self._say(f"offsets could not be committed, they will be with the next: {str(error) or type(error).__name__}")

    async def _commit(self) -> None:
        """Commit what is settled. Raises BrokerError."""
        consumer, owed = self._consumer, {place: self._settled[place] for place in self._owed}
        if consumer is None or not owed:
            return
        await consumer.commit(owed)
        self._owed -= {place for place, offset in owed.items() if self._settled[place] == offset}
