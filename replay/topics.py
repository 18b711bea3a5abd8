"""``tocsin topics``: make the topics, check them, alter what may be altered."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from connectors.cluster import Mismatch, alter, create, mismatches
from connectors.kafka import Kafka, connected
from connectors.topics import Topics

#: What is said to whoever runs the command: a line of progress, and one that is wrong.
Say = Callable[[str], object]


def run_topics(kafka: Kafka, *, check: bool, fix: bool, raw: bool, say: Say, complain: Say) -> bool:
    """Whether the topics are as they must be, after what was asked for. Raises KafkaError.

    ``check``: only look. ``fix``: alter settings that differ. ``raw``: make the raw topics that are missing, too.
    """
    # What the library would write past us to the terminal is said in our own sentences.
    logging.getLogger("aiokafka").addHandler(logging.NullHandler())
    return asyncio.run(_run(kafka, check=check, fix=fix, raw=raw, say=say, complain=complain))


async def _run(kafka: Kafka, *, check: bool, fix: bool, raw: bool, say: Say, complain: Say) -> bool:
    await connected(kafka, complain)
    if not check:
        for name in await create(kafka, raw=raw):
            say(f"{name}: made")
    wrong = await mismatches(kafka)
    if fix:
        for line in await alter(kafka, wrong):
            say(f"{line}: altered")
        wrong = await _settled(kafka, wrong)
    for each in wrong:
        complain(str(each))
    if not wrong:
        ours = len(Topics(kafka.prefix).all())
        say(f"good: {ours} topics of ours, {len(kafka.raw)} of raw records")
    return not wrong


async def _settled(kafka: Kafka, before: list[Mismatch]) -> list[Mismatch]:
    """What is still wrong once the brokers know what was altered, which takes them a moment."""
    wrong = before
    for _ in range(50):
        wrong = await mismatches(kafka)
        if not any(each.alter for each in wrong):
            break
        await asyncio.sleep(0.1)
    return wrong
