"""Recording from Kafka: raw topics, or the by-actor log, into a trace folder, for as long as is asked.

No consumer group: what a recording has read is in its own manifest, and nobody else's place in a log moves. A log that no longer
reaches back to where the recording ends, or is another one under the same name, is refused: a trace has no holes.
"""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

import msgspec
from aiokafka import AIOKafkaConsumer, ConsumerRecord, TopicPartition

from connectors.cluster import places
from connectors.event import SECOND
from connectors.kafka import Kafka, KafkaError, client, connected
from connectors.topics import Topics
from connectors.trace import TraceError
from replay.exits import complain
from replay.letters import moment
from replay.pseudonyms import Pseudonyms
from replay.record import Bounds, Recorder
from replay.tape import Form, Tape

#: Records of one poll: it is this many that an end by signal waits for.
POLL = 2_000
#: Seconds that a record which is there may take to come.
PEEK_SECONDS = 10.0


class Stretch(msgspec.Struct, frozen=True, kw_only=True):
    """Which part of each log: from ``since`` up to and without ``until``. A text of digits is an offset; ``earliest`` and ``now`` are
    the log's ends as they are at the start; else a time or a span as ``replay.letters.moment`` reads it, of arrival. "" = no bound."""

    since: str = ""
    until: str = ""


def run(kafka: Kafka, folder: Path, bounds: Bounds, pseudonyms: Pseudonyms | None, form: Form, *, since: str, until: str) -> list[str]:
    """Record into a folder until a bound, the end of the stretch or a signal. Returns what came of it, in lines.

    Raises KafkaError, BrokerError, TraceError, SinceError, OSError; a folder keeps what was finished.
    """
    sources = {raw.topic: raw.source for raw in kafka.raw} if form == "raw" else None
    if pseudonyms is not None and form == "raw":
        raise TraceError(f"{folder}: raw records cannot be pseudonymised; record --by-actor")
    stretch = Stretch(since=since, until=until)
    for text in (since, until):
        if text not in ("", "earliest", "now") and not text.isdigit():
            moment(text, datetime.now(UTC))
    recorder = Recorder(
        folder,
        sources=sources,
        # Logs are read one after the other at first, so that time is for the reader to bound, log by log.
        bounds=msgspec.structs.replace(bounds, seconds=None, roll_seconds=Bounds().roll_seconds),
        titles=None,
        pseudonyms=pseudonyms,
        made_by={"program": "tocsin record --from kafka", "version": metadata.version("tocsin")},
    )
    with recorder:
        tape = Tape(recorder, form, pseudonyms)
        hours = None if bounds.seconds is None else bounds.seconds / 3600
        why = asyncio.run(_until_signal(kafka, tape, form, stretch, hours))
    what = "records" if form == "raw" else "events"
    more = f"; {tape.repeated:,} sent twice were left out" if tape.repeated else ""
    return [f"{folder}: {recorder.records:,} {what} in {len(recorder.manifest.logs)} files; ended at {why or 'a signal'}{more}"]


async def _until_signal(kafka: Kafka, tape: Tape, form: Form, stretch: Stretch, hours: float | None) -> str:
    ended = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, ended.set)
    return await intake(kafka, tape, form, stretch, hours, ended, complain)


async def intake(
    kafka: Kafka, tape: Tape, form: Form, stretch: Stretch, hours: float | None, ended: asyncio.Event, say: Callable[[str], object]
) -> str:
    """Read until the stretch or a bound ends, or ``ended`` is set. ``hours``: of arrival, from the first record on.

    Returns why it ended. Raises KafkaError, TraceError.
    """
    await connected(kafka, say)
    topics = [Topics(kafka.prefix).by_actor] if form == "by-actor" else [raw.topic for raw in kafka.raw]
    if not topics:
        raise KafkaError("kafka.raw: names no topic, so there is nothing to record")
    there = await places(kafka, topics)
    missing = [topic for topic in topics if topic not in there]
    if missing:
        raise KafkaError(f"{', '.join(missing)}: no such topic; create it with: tocsin topics{' --raw' if form == 'raw' else ''}")
    _same_topics(tape, {topic: there[topic].uuid for topic in topics})
    logs = [TopicPartition(topic, number) for topic in topics for number in range(there[topic].partitions)]
    async with _consumer(kafka) as consumer:
        consumer.assign(logs)
        reader = _Reader(consumer, tape, logs)
        await reader.begin(stretch, hours)
        return await reader.run(ended)


def _same_topics(tape: Tape, uuids: dict[str, str]) -> None:
    """Raises TraceError where a recording would go on with a topic that was made anew, or with other topics."""
    recorder, shown = tape.recorder, {tape.topic(topic): topic for topic in uuids}
    named = {tape.topic(topic): tape.topic(uuid) for topic, uuid in uuids.items()}
    held = recorder.manifest.made_by.setdefault("topics", {} if recorder.manifest.logs else named)
    if held != named:
        other = sorted(shown.get(topic, topic) for topic in {*held, *named} if held.get(topic) != named.get(topic))
        raise TraceError(f"{recorder.folder}: {', '.join(other)}: not the topic that was recorded here; record into an empty folder")


@asynccontextmanager
async def _consumer(kafka: Kafka) -> AsyncIterator[AIOKafkaConsumer]:
    consumer = AIOKafkaConsumer(
        enable_auto_commit=False,
        auto_offset_reset="none",
        isolation_level="read_committed",
        max_partition_fetch_bytes=kafka.message_bytes,
        fetch_max_wait_ms=100,
        **client(kafka),
    )
    await consumer.start()
    try:
        yield consumer
    finally:
        await consumer.stop()


class _Reader:
    """Reads each log from its place to its end."""

    def __init__(self, consumer: AIOKafkaConsumer, tape: Tape, logs: list[TopicPartition]) -> None:
        self._consumer = consumer
        self._tape = tape
        self._logs = logs
        self._open = set(logs)
        #: The first offset that is not wanted any more; and the first such arrival, microseconds.
        self._stops: dict[TopicPartition, int] = {}
        self._until: int | None = None

    async def begin(self, stretch: Stretch, hours: float | None) -> None:
        """Go to where each log is to be read from. Raises TraceError where a recording could only go on with a hole."""
        first = await self._consumer.beginning_offsets(self._logs)
        last = await self._consumer.end_offsets(self._logs)
        starts = await self._offsets(stretch.since or "earliest", first, last)
        for log in self._logs:
            held = self._tape.position(log.topic, log.partition)
            if held is not None and held < first[log]:
                where = f"{self._tape.recorder.folder}: {log.topic} {log.partition}"
                raise TraceError(
                    f"{where}: the recording ends at {held}, the log begins at {first[log]} by now: what lay between is gone;"
                    " record into an empty folder"
                )
            starts[log] = max(starts[log], first[log]) if held is None else held
            self._consumer.seek(log, starts[log])
        if stretch.until:
            self._stops = await self._offsets(stretch.until, first, last)
            if not (stretch.until == "now" or stretch.until.isdigit()):
                self._until = moment(stretch.until, datetime.now(UTC))
                # What has not arrived yet is told by its time when it does.
                self._stops = {}
        if hours is not None:
            began = await self._first_arrival(starts, last)
            bound = began + round(hours * 3600 * SECOND)
            self._until = bound if self._until is None else min(self._until, bound)
        for log in self._logs:
            self._close_if_done(log, starts[log])

    async def _offsets(self, text: str, first: dict[Any, int], last: dict[Any, int]) -> dict[TopicPartition, int]:
        if text in ("earliest", "now"):
            return dict(first if text == "earliest" else last)
        if text.isdigit():
            return dict.fromkeys(self._logs, int(text))
        time_ms = moment(text, datetime.now(UTC)) // 1000
        found = await self._consumer.offsets_for_times(dict.fromkeys(self._logs, time_ms))
        return {log: found[log].offset if found.get(log) is not None else last[log] for log in self._logs}

    async def _first_arrival(self, starts: dict[TopicPartition, int], last: dict[TopicPartition, int]) -> int:
        """When the first record of this recording came, microseconds; now, if none has."""
        if self._tape.recorder.began is not None:
            return self._tape.recorder.began
        times = []
        for log in self._logs:
            if starts[log] < last[log]:
                with suppress(TimeoutError):  # what lies there may be no record but the mark of a transaction
                    times.append((await asyncio.wait_for(self._consumer.getone(log), PEEK_SECONDS)).timestamp * 1000)
                self._consumer.seek(log, starts[log])
        return min(times, default=time.time_ns() // 1000)

    def _close_if_done(self, log: TopicPartition, position: int) -> None:
        if log in self._open and position >= self._stops.get(log, position + 1):
            self._close(log)

    def _close(self, log: TopicPartition) -> None:
        self._open.discard(log)
        self._consumer.pause(log)

    async def run(self, ended: asyncio.Event) -> str:
        """Read on. Returns why it ended."""
        while self._open and not ended.is_set():
            polled = await self._consumer.getmany(timeout_ms=200, max_records=POLL)
            for log, messages in polled.items():
                if log in self._open and not self._take(log, messages):
                    return self._tape.recorder.full
            for log in list(self._open):
                self._close_if_done(log, await self._consumer.position(log))
            if self._until is not None and time.time_ns() // 1000 >= self._until:
                await self._close_the_idle()
        return "" if self._open else "the end of the stretch"

    def _take(self, log: TopicPartition, messages: Iterable[ConsumerRecord]) -> bool:
        for message in messages:
            if message.offset >= self._stops.get(log, message.offset + 1):
                self._close(log)
                return True
            if self._until is not None and message.timestamp * 1000 >= self._until:
                self._close(log)
                return True
            if not self._tape.put(message):
                return False
        return True

    async def _close_the_idle(self) -> None:
        """The time is over: what is still to be read lies in the logs already."""
        ends = await self._consumer.end_offsets(list(self._open)) if self._open else {}
        for log, end in ends.items():
            if await self._consumer.position(log) >= end:
                self._close(log)
