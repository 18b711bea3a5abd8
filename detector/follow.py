"""Reading topics of one partition that every process knows whole: to their present end, and on from there."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from aiokafka import AIOKafkaConsumer, TopicPartition


async def to_the_end(client: dict[str, Any], topic: str) -> tuple[list[Any], int]:
    """Every message of a topic's only partition that is there now, in order, and the offset after the last."""
    place = TopicPartition(topic, 0)
    consumer = AIOKafkaConsumer(enable_auto_commit=False, auto_offset_reset="earliest", **client)
    await consumer.start()
    try:
        consumer.assign([place])
        await consumer.seek_to_beginning(place)
        end: int = (await consumer.end_offsets([place]))[place]
        held: list[Any] = []
        while await consumer.position(place) < end:
            for messages in (await consumer.getmany(timeout_ms=200)).values():
                held += messages
    finally:
        await consumer.stop()
    return [message for message in held if message.offset < end], end


async def following(client: dict[str, Any], topics: Mapping[str, int]) -> AIOKafkaConsumer:
    """A consumer of these topics' only partitions, each from an offset on."""
    consumer = AIOKafkaConsumer(enable_auto_commit=False, auto_offset_reset="earliest", fetch_max_wait_ms=100, **client)
    await consumer.start()
    consumer.assign([TopicPartition(topic, 0) for topic in topics])
    for topic, offset in topics.items():
        consumer.seek(TopicPartition(topic, 0), offset)
    return consumer
