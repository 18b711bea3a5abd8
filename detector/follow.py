"""Reading topics of one partition that every process knows whole: to their present end, and on from there."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from aiokafka import AIOKafkaConsumer, TopicPartition

#: Bytes asked for at once, of a partition: several records of a state.
LARGEST_FETCH = 8 << 20


async def to_the_end(client: dict[str, Any], topic: str, partition: int = 0, *, committed: bool = False) -> tuple[list[Any], int]:
    """Every message of a partition that is there now, in order, and the offset after the last. ``committed``: only what belongs to no
    transaction that is open or was given up."""
    held: list[Any] = []
    end = await told_to_the_end(client, topic, held.append, partition, committed=committed)
    return held, end


async def told_to_the_end(
    client: dict[str, Any], topic: str, tell: Callable[[Any], object], partition: int = 0, start: int = 0, *, committed: bool = False
) -> int:
    """The same one by one, so that nothing is held but what ``tell`` keeps. ``start``: an offset. Returns the offset after the last."""
    place = TopicPartition(topic, partition)
    consumer = AIOKafkaConsumer(
        enable_auto_commit=False,
        auto_offset_reset="earliest",
        isolation_level="read_committed" if committed else "read_uncommitted",
        max_partition_fetch_bytes=LARGEST_FETCH,
        fetch_max_bytes=4 * LARGEST_FETCH,
        **client,
    )
    await consumer.start()
    try:
        consumer.assign([place])
        end: int = (await consumer.end_offsets([place]))[place]
        if start:
            consumer.seek(place, start)
        else:
            await consumer.seek_to_beginning(place)
        while await consumer.position(place) < end:
            for messages in (await consumer.getmany(timeout_ms=200)).values():
                for message in messages:
                    if message.offset < end:
                        tell(message)
    finally:
        await consumer.stop()
    return end


async def following(client: dict[str, Any], topics: Mapping[str, int]) -> AIOKafkaConsumer:
    """A consumer of these topics' only partitions, each from an offset on."""
    consumer = AIOKafkaConsumer(enable_auto_commit=False, auto_offset_reset="earliest", fetch_max_wait_ms=100, **client)
    await consumer.start()
    consumer.assign([TopicPartition(topic, 0) for topic in topics])
    for topic, offset in topics.items():
        consumer.seek(TopicPartition(topic, 0), offset)
    return consumer
