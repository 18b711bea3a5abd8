"""``tocsin accept-topic``: a raw topic that was made anew is read from its beginning, because someone says that this is meant."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Annotated

import typer
from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError as BrokerError

from connectors.cluster import places, topic_ids
from connectors.kafka import Kafka, KafkaError, client, connected
from connectors.topics import Topics
from detector.config import ConfigError, read

MISTAKE, BROKER = 2, 6


def accept(
    topic: Annotated[str, typer.Argument(help="The raw topic that was made anew.")],
    config: Annotated[Path | None, typer.Option(help="TOML file laid over the default configuration.")] = None,
) -> None:
    """Let ingest read a topic that was made anew from its beginning."""
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
        typer.echo(f"tocsin: {str(error) or type(error).__name__}", err=True)
        raise typer.Exit(BROKER) from None
    typer.echo(f"{topic}: ingest begins at the beginning of its {many} partitions")


async def _accept(kafka: Kafka, topic: str) -> int:
    # Ingest's modules take a while to import, and only this command needs them here.
    from connectors.wire import HEADER
    from detector.takeover import KNOWN, KNOWN_SCHEMA

    await connected(kafka)
    uuid = (await topic_ids(kafka, [topic])).get(topic)
    if uuid is None:
        raise KafkaError(f"{topic}: there is no such topic")
    there = (await places(kafka, [topic]))[topic].partitions
    producer = AIOKafkaProducer(acks="all", enable_idempotence=True, **client(kafka))
    await producer.start()
    try:
        headers = [(HEADER, KNOWN_SCHEMA.encode())]
        key = KNOWN + topic.encode()
        await producer.send_and_wait(Topics(kafka.prefix).control, uuid.encode(), key, partition=0, headers=headers)
    finally:
        await producer.stop()
    return there
