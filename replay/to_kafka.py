"""``tocsin replay DIR --to kafka``: a trace of raw records into the configured raw topics, at a pace, at other times if asked.

Every record carries the header ``tocsin.replay``; what ingest makes of it keeps that mark up to the alert, which is never acted upon.
The profiles do learn from such records, so play into an installation of its own (another ``kafka.prefix``, other raw topics).
"""

from __future__ import annotations

import asyncio
import heapq
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal, NamedTuple

import msgspec
import numpy as np
from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError as BrokerError

from connectors.cluster import places
from connectors.event import SECOND
from connectors.kafka import Kafka, KafkaError, client, connected
from connectors.lines import Lines
from connectors.names import Names
from connectors.shift import Shift, Unshiftable
from connectors.sources import available
from connectors.trace import TraceError
from connectors.wire import REPLAYED
from detector.config import Config
from replay import screen
from replay.exits import BROKER, INTERRUPTED, MISTAKE, UNREADABLE, complain, fail
from replay.recorded import raw_tables
from replay.shards import micros
from replay.timed import timed
from replay.traces import LogEntry, Manifest, inside, read_manifest, verify

#: Records decoded at a time for their times, and sent between two looks at the clock.
BATCH = 500
#: Milliseconds that the producer waits for more to leave together.
LINGER_MS = 5
#: What whoever plays a trace should know.
NOTE = "they carry the header tocsin.replay: alerts from them are never acted upon"
#: Hours by which a record may be ahead of its neighbours, where no configuration says otherwise.
AHEAD_HOURS = 24.0
#: Records between two lines on the screen.
TOLD = 100_000


class Pace(NamedTuple):
    """``recorded``: as the records came. ``rate``: so many a second. ``max``: as fast as the broker takes them."""

    kind: Literal["recorded", "rate", "max"]
    rate: float = 0.0


def pace_of(text: str) -> Pace:
    """``recorded``, ``max`` or records a second. Raises ValueError.

    >>> pace_of("recorded").kind, pace_of("500").rate
    ('recorded', 500.0)
    """
    if text in ("recorded", "max"):
        return Pace("recorded" if text == "recorded" else "max")
    try:
        rate = float(text)
    except ValueError:
        rate = 0.0
    if not 0.0 < rate < 1e9:
        raise ValueError(f"expected recorded, max or records a second, got {text[:60]!r}")
    return Pace("rate", rate)


class Record(NamedTuple):
    """A raw record with its time, microseconds: its arrival where that was recorded, else the latest event time so far."""

    time: int
    lane: int
    key: bytes | None
    value: bytes | None


class Lane(NamedTuple):
    """A raw log of the trace and where it goes."""

    entries: list[LogEntry]
    topic: str
    partition: int
    shift: Shift


class Played(msgspec.Struct, kw_only=True):
    """What was played. ``shifted``: seconds that were added; ``kept``: records without a time that could be."""

    records: int = 0
    shifted: int = 0
    kept: int = 0
    seconds: float = 0.0
    topics: list[str] = []


def lanes_of(folder: Path, manifest: Manifest, kafka: Kafka, partitions: dict[str, int], seconds: int) -> list[Lane]:
    """Which log of a trace goes where: to the topic it was recorded from, else to the first topic of its source. Raises TraceError,
    KafkaError, Unshiftable."""
    if manifest.logs[0].form == "events":
        raise TraceError(f"{folder}: a trace of resolved events holds no raw records; record with --raw")
    raw: dict[tuple[str, int], list[LogEntry]] = {}
    for number, entry in enumerate(manifest.logs):
        if entry.form == "raw":
            raw.setdefault((entry.topic, entry.partition), []).append(entry)
        elif entry.bytes:
            raw["", number] = [entry]
    by_topic = {each.topic: each.source for each in kafka.raw}
    lanes = []
    for (topic, partition), entries in raw.items():
        source = entries[0].source
        fitting = [name for name, of in by_topic.items() if of == source]
        if not fitting:
            raise KafkaError(f"kafka.raw: no topic for records of {source}, which {folder} holds")
        to = topic if topic in fitting else fitting[0]
        lanes.append(Lane(entries, to, partition % partitions[to], Shift(source, seconds)))
    return lanes


def records_of(folder: Path, lanes: list[Lane], ahead_hours: float = AHEAD_HOURS) -> Iterator[Record]:
    """Every record of a trace in order of its time, each log in its own order. A time more than ``ahead_hours`` ahead of the records
    around it is nobody's time: such a record goes with the one before it."""
    yield from heapq.merge(*(_lane(folder, number, lane, ahead_hours) for number, lane in enumerate(lanes)), key=lambda each: each[:2])


def _lane(folder: Path, number: int, lane: Lane, ahead_hours: float) -> Iterator[Record]:
    clock = 0
    for entry in lane.entries:
        path = inside(folder, entry.path, str(folder))
        if entry.form == "raw":
            for table in raw_tables(path):
                columns = (table.column(name).to_pylist() for name in ("arrival", "key", "value"))
                for arrival, key, value in zip(*columns, strict=True):
                    clock = max(clock, arrival)
                    yield Record(clock, number, key, value)
            continue
        with Lines(path) as lines:
            source = available()[entry.source](Names())
            for part in timed(source, (batch for _, batch, _ in lines.batches(BATCH)), ahead_hours):
                for due, value in zip(np.maximum(part.times, clock).tolist(), part.lines, strict=True):
                    yield Record(due, number, None, value)
                clock = max(clock, int(part.times[-1]))


def span_of(manifest: Manifest) -> tuple[int, int]:
    """First and last time of a trace, microseconds. Raises TraceError where it says none."""
    firsts = [micros(entry.first) for entry in manifest.logs if entry.first is not None]
    lasts = [micros(entry.last) for entry in manifest.logs if entry.last is not None]
    if not firsts or not lasts:
        raise TraceError("the manifest says no times, so there is nothing to shift by; --shift none")
    return min(firsts), max(lasts)


def shift_of(manifest: Manifest, pace: Pace, shift: str, now: float) -> int:
    """Whole seconds to add: at the recorded pace the first record happens now, at any other the last one does, because what is ahead of
    its arrival is refused. Raises TraceError."""
    if shift == "none":
        return 0
    first, last = span_of(manifest)
    return int(now) - (first if pace.kind == "recorded" else last) // SECOND


async def play_to(
    kafka: Kafka,
    folder: Path,
    pace: Pace,
    shift: str,
    say: Callable[[str], object],
    limit: int | None = None,
    ahead_hours: float = AHEAD_HOURS,
) -> Played:
    """Play a trace. ``shift``: ``now`` or ``none``. Raises KafkaError, TraceError, Unshiftable, before the first record is sent."""
    manifest = read_manifest(folder)
    verify(folder, manifest)
    seconds = shift_of(manifest, pace, shift, time.time())
    await connected(kafka, say)
    there = await places(kafka, [raw.topic for raw in kafka.raw])
    missing = [raw.topic for raw in kafka.raw if raw.topic not in there]
    if missing:
        raise KafkaError(f"{', '.join(missing)}: no such topic; create it with: tocsin topics --raw")
    lanes = lanes_of(folder, manifest, kafka, {name: place.partitions for name, place in there.items()}, seconds)
    producer = AIOKafkaProducer(
        enable_idempotence=True, acks="all", linger_ms=LINGER_MS, max_request_size=kafka.message_bytes, **client(kafka)
    )
    await producer.start()
    try:
        played = await _send(producer, records_of(folder, lanes, ahead_hours), lanes, pace, limit, say)
    finally:
        await producer.stop()
    played.shifted = seconds
    played.kept = sum(lane.shift.kept for lane in lanes)
    played.topics = sorted({lane.topic for lane in lanes})
    return played


async def _send(
    producer: Any, records: Iterator[Record], lanes: list[Lane], pace: Pace, limit: int | None, say: Callable[[str], object]
) -> Played:
    played, began, first = Played(), time.monotonic(), None
    waiting: list[Any] = []
    for record in records:
        if limit is not None and played.records >= limit:
            break
        first = record.time if first is None else first
        due = {"recorded": (record.time - first) / SECOND, "rate": played.records / max(pace.rate, 1e-9), "max": 0.0}[pace.kind]
        left = began + due - time.monotonic()
        if left > 0:
            await asyncio.sleep(left)
        lane = lanes[record.lane]
        value = record.value if record.value is None else lane.shift(record.value)
        waiting.append(await producer.send(lane.topic, value, record.key, partition=lane.partition, headers=[(REPLAYED, b"1")]))
        played.records += 1
        if len(waiting) >= BATCH:
            await asyncio.gather(*waiting)
            waiting = []
        if played.records % TOLD == 0:
            say(f"{played.records:,} records sent")
    await asyncio.gather(*waiting)
    played.seconds = time.monotonic() - began
    return played


def run(paths: list[Path], given: Config, rate: str, shift: str, limit: int | None) -> None:
    """Play one trace folder and say what came of it; ends with a sentence and an exit code where it cannot."""
    if len(paths) != 1 or not paths[0].is_dir():
        fail("--to kafka: plays one trace folder", MISTAKE)
    if shift not in ("now", "none"):
        fail(f"--shift: expected now or none, got {shift!r}", MISTAKE)
    try:
        pace = pace_of(rate)
    except ValueError as error:
        fail(f"--rate: {error}", MISTAKE)
    try:
        played = asyncio.run(play_to(given.kafka, paths[0], pace, shift, complain, limit, given.time.ahead_hours))
    except TraceError as error:
        fail(str(error), UNREADABLE)
    except Unshiftable as error:
        fail(f"--shift: {error}; --shift none plays them at their own times", MISTAKE)
    except (KafkaError, BrokerError, OSError) as error:
        fail(str(error) or type(error).__name__, BROKER)
    except KeyboardInterrupt:
        fail("interrupted; what was sent stays", INTERRUPTED)
    moved = f", {played.shifted:+,} s" if played.shifted else ""
    kept = f"; {played.kept:,} without a time stay as they are" if played.kept else ""
    each = played.records / played.seconds if played.seconds else 0.0
    screen.page([f"{paths[0]}: {played.records:,} records to {', '.join(played.topics)}{moved}, {each:,.0f} a second{kept}", NOTE])
