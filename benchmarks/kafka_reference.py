"""What ``benchmarks.kafka`` compares with: programs that do as little as can be done with aiokafka and Faust, each in its own process.

``python -m benchmarks.kafka_reference drain|agent|relay|listen '<settings as JSON>'`` (see ``Reference``).

``drain``   aiokafka's ``getmany``, as ingest calls it, over a whole topic; the records are counted and let go
``agent``   a Faust agent that takes one event at a time and does nothing
``relay``   reads a topic and writes what it reads to another: the first of a chain one message for each partition and poll, as ingest
            does; the others what they get. With ``each`` every record stays a message of its own
``listen``  notes when markers come out of topics, and what comes out of the alerts' one; writes that to a file when it is ended
"""

from __future__ import annotations

import asyncio
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import faust
import msgspec
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition

from benchmarks.kafka_figures import Sample
from benchmarks.kafka_load import MARKER

#: As ``detector.collect`` polls.
POLL, FETCH = 4_000, 4 << 20
#: So often a sample is taken, in records.
EVERY = 2_000


class Reference(msgspec.Struct, kw_only=True):
    """``reads``: topics; ``records``: after so many it ends. ``writes``, ``partitions``, ``each``: of a relay, ``joins`` that it is the
    first. ``out``: the file of a listener; ``alerts``: the topic of which it keeps everything."""

    bootstrap: str
    reads: list[str]
    partitions: int = 1
    records: int = 0
    writes: str = ""
    joins: bool = False
    each: bool = False
    out: str = ""
    alerts: str = ""


class Heard(msgspec.Struct):
    """What a listener has noted, each with when it was first seen, seconds since 1970: markers (topic, number), alerts as written."""

    markers: dict[str, dict[int, float]] = {}
    alerts: list[tuple[float, str]] = []


async def _consumer(given: Reference, *, latest: bool) -> AIOKafkaConsumer:
    consumer = AIOKafkaConsumer(
        bootstrap_servers=given.bootstrap,
        enable_auto_commit=False,
        auto_offset_reset="earliest",
        max_partition_fetch_bytes=FETCH,
        fetch_max_wait_ms=100,
    )
    await consumer.start()
    places = [TopicPartition(topic, each) for topic in given.reads for each in range(given.partitions)]
    consumer.assign(places)
    await (consumer.seek_to_end(*places) if latest else consumer.seek_to_beginning(*places))
    for place in places:
        await consumer.position(place)
    return consumer


def _said(samples: list[Sample]) -> None:
    sys.stdout.write(msgspec.json.encode(samples).decode() + "\n")
    sys.stdout.flush()


async def drain(given: Reference) -> None:
    """See above. Writes its samples."""
    consumer = await _consumer(given, latest=False)
    done, samples = 0, [Sample(time.perf_counter(), time.process_time(), 0)]
    while done < given.records:
        for messages in (await consumer.getmany(timeout_ms=200, max_records=POLL)).values():
            done += len(messages)
        samples.append(Sample(time.perf_counter(), time.process_time(), done))
    _said(samples)
    await consumer.stop()


def agent(given: Reference) -> None:
    """See above. The settings are those of ``detector.engine`` where they matter to speed. Writes its samples."""
    app: Any = faust.App(
        f"{given.reads[0]}.benchmark",
        broker=f"kafka://{given.bootstrap}",
        consumer_auto_offset_reset="earliest",
        store="memory://",
        datadir=tempfile.mkdtemp(),
        stream_wait_empty=False,
        topic_disable_leader=True,
        topic_allow_declare=False,
        web_enabled=False,
        worker_redirect_stdouts=False,
        autodiscover=False,
    )
    app.in_worker = True
    samples: list[Sample] = []
    end = asyncio.Event()

    async def nothing(stream: Any) -> None:
        done = 0
        async for _ in stream:
            done += 1
            if done % EVERY == 0:
                samples.append(Sample(time.perf_counter(), time.process_time(), done))
            if done >= given.records:
                end.set()

    app.agent(app.topic(given.reads[0], value_serializer="raw"), name="benchmark")(nothing)

    async def whole() -> None:
        app.finalize()
        await app.maybe_start()
        await end.wait()
        _said(samples)
        # Its threads would hold up an ordinary end.
        signal.raise_signal(signal.SIGKILL)

    asyncio.run(whole())


async def relay(given: Reference) -> None:
    """See above. Runs until it is ended."""
    consumer = await _consumer(given, latest=True)
    producer = AIOKafkaProducer(bootstrap_servers=given.bootstrap, enable_idempotence=True, acks="all", linger_ms=0)
    await producer.start()
    ends = _on_end()
    while not ends.is_set():
        for place, messages in (await consumer.getmany(timeout_ms=200, max_records=POLL)).items():
            values = [message.value for message in messages]
            if given.joins and not given.each:
                values = [b"\n".join(values)]
            for value in values:
                await producer.send(given.writes, value, partition=place.partition)
    await producer.stop()
    await consumer.stop()


async def listen(given: Reference) -> Heard:
    """See above."""
    consumer = await _consumer(given, latest=True)
    ends = _on_end()
    heard = Heard({topic: {} for topic in given.reads if topic != given.alerts})
    sys.stdout.write("listening\n")
    sys.stdout.flush()
    while not ends.is_set():
        for place, messages in (await consumer.getmany(timeout_ms=200)).items():
            now = time.time()
            if place.topic == given.alerts:
                # They are read when nobody is in a hurry.
                heard.alerts += [(now, message.value.decode()) for message in messages]
                continue
            for message in messages:
                for number in MARKER.findall(message.value):
                    heard.markers[place.topic].setdefault(int(number), now)
    await consumer.stop()
    return heard


def _on_end() -> asyncio.Event:
    event = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, event.set)
    return event


def main() -> None:
    """Run one of them."""
    given = msgspec.json.decode(sys.argv[2], type=Reference)
    if sys.argv[1] == "agent":
        agent(given)
        return
    program: dict[str, Callable[[Reference], Any]] = {"drain": drain, "relay": relay, "listen": listen}
    found = asyncio.run(program[sys.argv[1]](given))
    if given.out:
        Path(given.out).write_bytes(msgspec.json.encode(found))


if __name__ == "__main__":
    main()
