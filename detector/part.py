"""One partition of a stage in a process: opened from its checkpoint, if its log still reaches back that far."""

from __future__ import annotations

import asyncio
import itertools
import logging
import time
from collections.abc import Sequence

from aiokafka import AIOKafkaConsumer, TopicPartition

from detector.checkpoint import meaning
from detector.keeper import Keeper
from detector.process import REFUSED, Halt, Process
from detector.singles import STAGES
from detector.snapshot import Refused
from detector.stage import Note, Shared, Stage

log = logging.getLogger("tocsin.worker")


class Part:
    """One partition of a stage, in this process."""

    def __init__(self, stage: Stage, keeper: Keeper) -> None:
        self.stage = stage
        self.keeper = keeper
        self.lock = asyncio.Lock()
        self.closed = False
        #: A message has left the state half changed: it must not be kept.
        self.spoilt = False
        #: Where reading was taken back to, and the furthest message that has come since although it is not its turn; -1 = none.
        self.sought = self.beyond = -1
        self.saved_at = time.monotonic()
        self.taken_bytes = 0
        #: When the message taken in last came to its log, microseconds; before the first one, when the partition was opened: what
        #: waits is at least as old.
        self.log_time = time.time_ns() // 1000
        #: What the last heartbeat knew of rows, repeats, late rows and identities.
        self.told = (0, 0, stage.late, stage.identities)
        self.saving: asyncio.Task[None] | None = None

    def together(self, run: Sequence[Note]) -> int:
        """How many messages, from the first of a run on, can be taken in together: 0 where someone has asked to pass over the first."""
        first, skips = run[0].offset, self.keeper.skips
        if self.keeper.alone(first):
            return int(first not in skips)
        fits = (note.offset == first + number and note.offset not in skips for number, note in enumerate(run))
        return sum(1 for _ in itertools.takewhile(bool, fits))

    def since(self) -> tuple[int, int, int, int]:
        """Rows, repeats, late rows and new identities since this was asked last."""
        stage, told = self.stage, self.told
        now = self.told = (stage.rows, stage.dropped, stage.late, stage.identities)
        return now[0] - told[0], now[1] - told[1], now[2] - told[2], max(now[3] - told[3], 0)


async def opened(process: Process, name: str, partition: int, reads: str, shared: Shared) -> Part:
    """The partition of a stage that reads the topic ``reads``, as its last checkpoint left it; whoever had it is fenced.

    Raises Halt.
    """
    began = time.monotonic()
    config, many = process.config, process.kafka.partitions
    stage = STAGES[name](config, partition, many, shared)
    keeper = Keeper(process.client, process.topics.state(name), f"{process.kafka.prefix}.{name}", stage, meaning(config))
    try:
        records = await keeper.open()
    except Refused as error:
        raise Halt(REFUSED, str(error)) from error
    await still_there(process, TopicPartition(reads, partition), stage.applied)
    seconds = time.monotonic() - began
    log.info(f"{reads} {partition}: open at {stage.applied} after {seconds:.2f} s, {records} records of state")
    return Part(stage, keeper)


async def still_there(process: Process, place: TopicPartition, applied: int) -> None:
    """Raises Halt where the log does not reach back to where the state ends."""
    consumer = AIOKafkaConsumer(enable_auto_commit=False, **process.client)
    await consumer.start()
    try:
        first = (await consumer.beginning_offsets([place]))[place]
        last = (await consumer.end_offsets([place]))[place]
    finally:
        await consumer.stop()
    where = f"{place.topic} {place.partition}"
    if first > applied:
        raise Halt(
            REFUSED,
            f"{where} begins at {first}, but the checkpoint ends at {applied}: what lay between is gone, because the topic keeps its"
            " messages for less time than the worker stood still. Raise kafka.retention_hours, and begin anew under another prefix",
        )
    if last < applied:
        raise Halt(
            REFUSED,
            f"{where} ends at {last}, but the checkpoint was taken at {applied}: the topic was made anew. Begin under another prefix,"
            " or restore the topic",
        )
