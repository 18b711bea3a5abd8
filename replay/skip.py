"""``tocsin skip``: put one block aside at which a stage stops again and again, because someone says so; it goes to the dead letters."""

from __future__ import annotations

import asyncio
import os
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import msgspec
import typer
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.errors import KafkaError as BrokerError

from connectors.kafka import Kafka, KafkaError, client, connected
from connectors.topics import Topics
from connectors.wire import HEADER
from detector.follow import to_the_end
from detector.keeper import SKIP
from detector.singles import SINGLE
from detector.snapshot import HEAD, Head
from replay.exits import BROKER, NOTHING, fail
from replay.exits import config as settings


class Stage(StrEnum):
    """What keeps state and reads blocks."""

    actor = "actor"
    object = "object"
    fuse = "fuse"
    budget = "budget"
    watch = "watch"


class SkipError(ValueError):
    """There is nothing to skip there, in one sentence."""


def skip(
    stage: Annotated[Stage, typer.Argument(help="The stage that stopped, as its last line says.")],
    partition: Annotated[int, typer.Argument(min=0, help="The partition of what it reads.")],
    offset: Annotated[int, typer.Argument(min=0, help="The offset of the block.")],
    config: Annotated[Path | None, typer.Option(help="TOML file laid over the default configuration.")] = None,
) -> None:
    """Put exactly one block aside. The stage passes over it when it is started next, and writes it to the dead letters."""
    kafka = settings(config).kafka
    try:
        asyncio.run(_skip(kafka, stage, partition, offset))
    except SkipError as error:
        fail(str(error), NOTHING)
    except (KafkaError, BrokerError, OSError) as error:
        fail(str(error) or type(error).__name__, BROKER)
    typer.echo(f"{stage.value} {partition}: the block at {offset} will be put aside; start the worker again")


async def _skip(kafka: Kafka, stage: Stage, partition: int, offset: int) -> None:
    await connected(kafka)
    topics = Topics(kafka.prefix)
    reads = topics.read_by(stage.value)
    many = 1 if stage.value in SINGLE else kafka.partitions
    if partition >= many:
        raise SkipError(f"partition {partition}: {reads} has the partitions 0 to {many - 1}")
    end = await _end(kafka, reads, partition)
    if offset >= end:
        raise SkipError(f"offset {offset}: {reads} {partition} ends at {end}; what has not come yet cannot be put aside")
    applied = await _applied(kafka, topics.state(stage.value), partition)
    if offset < applied:
        raise SkipError(f"offset {offset}: {stage.value} {partition} is past it, its last checkpoint stands at {applied}")
    producer = AIOKafkaProducer(acks="all", enable_idempotence=True, **client(kafka))
    await producer.start()
    try:
        await producer.send_and_wait(
            topics.state(stage.value),
            msgspec.json.encode({"by": os.environ.get("USER", "")}),
            f"{SKIP}{offset}".encode(),
            partition=partition,
            headers=[(HEADER, b"state/1")],
        )
    finally:
        await producer.stop()


async def _end(kafka: Kafka, topic: str, partition: int) -> int:
    consumer = AIOKafkaConsumer(enable_auto_commit=False, **client(kafka))
    await consumer.start()
    try:
        place = TopicPartition(topic, partition)
        end: int = (await consumer.end_offsets([place]))[place]
        return end
    finally:
        await consumer.stop()


async def _applied(kafka: Kafka, topic: str, partition: int) -> int:
    """Up to where the stage's last checkpoint holds; 0 without one."""
    held, _ = await to_the_end(client(kafka), topic, partition, committed=True)
    heads = [message.value for message in held if message.key == HEAD.encode() and message.value is not None]
    return msgspec.msgpack.decode(heads[-1], type=Head).applied if heads else 0
