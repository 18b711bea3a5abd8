"""``tocsin accept-topic``: a raw topic that was made anew is read from its beginning, because someone says that this is meant."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Annotated

import msgspec
import typer
from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import KafkaError as BrokerError

from connectors.cluster import topic_ids
from connectors.kafka import Kafka, KafkaError, client, connected
from connectors.topics import Topics
from detector.agreed import Mark
from detector.config import ConfigError, read
from detector.follow import to_the_end

MISTAKE, BROKER = 2, 6


def accept(
    topic: Annotated[str, typer.Argument(help="The raw topic that was made anew.")],
    config: Annotated[Path | None, typer.Option(help="TOML file laid over the default configuration.")] = None,
) -> None:
    """Let ingest read a topic that was made anew from its beginning. Stop ingest first."""
    try:
        kafka = read(config).kafka
    except ConfigError as error:
        typer.echo(f"tocsin: {error}", err=True)
        raise typer.Exit(MISTAKE) from None
    if topic not in {raw.topic for raw in kafka.raw}:
        typer.echo(f"tocsin: kafka.raw names no topic {topic!r}", err=True)
        raise typer.Exit(MISTAKE)
    try:
        many = asyncio.run(_accept(kafka, topic))
    except (KafkaError, BrokerError, OSError) as error:
        typer.echo(f"tocsin: {str(error) or type(error).__name__}; is ingest stopped?", err=True)
        raise typer.Exit(BROKER) from None
    typer.echo(f"{topic}: ingest begins at the beginning of its {many} partitions")


async def _accept(kafka: Kafka, topic: str) -> int:
    await connected(kafka)
    uuid = (await topic_ids(kafka, [topic])).get(topic)
    if uuid is None:
        raise KafkaError(f"{topic}: there is no such topic")
    _, end = await to_the_end(client(kafka), Topics(kafka.prefix).bindings)
    # A group without members may be given offsets from outside; one with members refuses.
    consumer = AIOKafkaConsumer(group_id=f"{kafka.prefix}.ingest", enable_auto_commit=False, **client(kafka))
    await consumer.start()
    try:
        await consumer.topics()
        places = [TopicPartition(topic, each) for each in sorted(consumer.partitions_for_topic(topic) or [])]
        consumer.assign(places)
        first = await consumer.beginning_offsets(places)
        mark = msgspec.json.encode(Mark(bindings=end, uuid=uuid, clean=True)).decode()
        await consumer.commit({place: (first[place], mark) for place in places})
    finally:
        await consumer.stop()
    return len(places)
