"""``tocsin dlq``: the records that could not be read, and another try for those that can be read now.

A retry reads the *whole* records again, where they lie, and decodes them with the sources as they are now. What decodes goes back to
its raw topic with the header ``tocsin.retried-from``, in one transaction with the note that it did: a retry that is killed, or that is
run twice, gives nothing back twice.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, NoReturn, TypeVar

import msgspec
import typer
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, ConsumerRecord, TopicPartition
from aiokafka.errors import KafkaError as BrokerError
from rich.console import Console

from connectors.cluster import places
from connectors.deadletter import LETTER_SCHEMA, RETRIED_FROM, LetterError, Retried, decode, encode, place, retried_from
from connectors.kafka import Kafka, KafkaError, client, connected
from connectors.names import Names
from connectors.sources import Source, available
from connectors.sources.table import Table, read_mapping
from connectors.topics import Topics
from connectors.wire import HEADER
from detector.config import ConfigError, read
from replay import screen
from replay.letters import Choice, Chooser, Entry, Lister, Listing, Outcome, Print, SinceError, moment, runs, table, told, verdicts

app = typer.Typer(no_args_is_help=True, help="Records that could not be read: list them, try them again.")

MISTAKE, BROKER = 2, 6
#: Records that are given back in one transaction.
CHUNK = 500
#: Wanted records at most so far apart are read in one go: to seek costs a fetch, which brings as many records along.
GAP = 2_000
#: Seconds without a record after which a broker is taken for gone.
PATIENCE = 30.0

#: (topic, partition) -> offset -> how the record begins.
Chosen = dict[tuple[str, int], dict[int, Print]]

_Result = TypeVar("_Result")
_errors = Console(stderr=True, highlight=False, markup=False, soft_wrap=True)

ConfigFile = Annotated[Path | None, typer.Option("--config", help="TOML file laid over the default configuration.")]
ReasonOption = Annotated[str, typer.Option(help="Only this reason: wrong-type:orig_bytes, or wrong-type for all of its kind.")]
TopicOption = Annotated[str, typer.Option(help="Only records of this raw topic.")]
SinceOption = Annotated[str, typer.Option(help="Only what was refused since: 2026-03-01T22:00Z, or 90min, 6h, 2d ago.")]


def _fail(text: str, code: int) -> NoReturn:
    for line in text.splitlines():
        _errors.print(f"tocsin: {screen.printable(line)}")
    raise typer.Exit(code)


def _settings(config: Path | None) -> Kafka:
    try:
        return read(config).kafka
    except ConfigError as error:
        _fail(str(error), MISTAKE)


def _choice(reason: str, topic: str, text: str) -> Choice:
    try:
        return Choice(reason, topic, moment(text, datetime.now(UTC)) if text else 0)
    except SinceError as error:
        _fail(str(error), MISTAKE)


def _done(work: Coroutine[Any, Any, _Result]) -> _Result:
    try:
        return asyncio.run(work)
    except (KafkaError, BrokerError, TimeoutError, OSError) as error:
        _fail(str(error) or type(error).__name__, BROKER)
    except KeyboardInterrupt:
        _fail("interrupted; what was given back is noted, run it again for the rest", 130)


@app.command("list")
def list_(
    config: ConfigFile = None,
    reason: ReasonOption = "",
    topic: TopicOption = "",
    since: SinceOption = "",
    json_: Annotated[bool, typer.Option("--json", help="The listing as one JSON object.")] = False,
) -> None:
    """List the dead letters by reason, with counts and examples."""
    settings, choice = _settings(config), _choice(reason, topic, since)
    found = _done(_list(settings, choice))
    if json_:
        typer.echo(msgspec.json.encode(found))
    else:
        screen.page(table(found))


@app.command()
def retry(
    config: ConfigFile = None,
    reason: ReasonOption = "",
    topic: TopicOption = "",
    since: SinceOption = "",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be given back.")] = False,
    json_: Annotated[bool, typer.Option("--json", help="What came of it, as one JSON object.")] = False,
) -> None:
    """Decode the original records again, and give those that can be read now back to their raw topics."""
    settings, choice = _settings(config), _choice(reason, topic, since)
    outcome = _done(_retry(settings, choice, dry_run))
    if json_:
        typer.echo(msgspec.json.encode(outcome))
    else:
        screen.page(told(outcome))


@asynccontextmanager
async def _consumer(settings: Kafka) -> AsyncIterator[AIOKafkaConsumer]:
    # Committed only: a note of a retry that was broken off must not count, nor a record that was never given back.
    consumer = AIOKafkaConsumer(
        isolation_level="read_committed",
        auto_offset_reset="earliest",
        enable_auto_commit=False,
        max_partition_fetch_bytes=settings.message_bytes,
        **client(settings),
    )
    await consumer.start()
    try:
        yield consumer
    finally:
        await consumer.stop()


async def _list(settings: Kafka, choice: Choice) -> Listing:
    lister = Lister(choice)
    async for entry in _entries(settings):
        lister.add(entry)
    return lister.listing()


async def _entries(settings: Kafka) -> AsyncIterator[Entry | None]:
    """The dead-letter topic from its beginning to where it ends now. Raises KafkaError."""
    await connected(settings, lambda line: _errors.print(f"tocsin: {line}"))
    name = Topics(settings.prefix).deadletter
    async with _consumer(settings) as consumer:
        there = await places(settings, [name])
        if name not in there:
            raise KafkaError(f"{name}: no such topic; create it with: tocsin topics")
        lanes = [TopicPartition(name, number) for number in range(there[name].partitions)]
        for lane, first in (await consumer.beginning_offsets(lanes)).items():
            async for record in _stretch(consumer, lane, first, (await consumer.end_offsets([lane]))[lane] - 1):
                try:
                    yield Entry(record.timestamp * 1000, decode(record.value or b""))
                except LetterError:
                    yield None


async def _stretch(consumer: AIOKafkaConsumer, lane: TopicPartition, first: int, last: int) -> AsyncIterator[ConsumerRecord]:
    """The records of a partition from one offset to another, both included, as far as they are there."""
    if last < first:
        return
    consumer.assign([lane])
    consumer.seek(lane, first)
    heard = time.monotonic()
    while await consumer.position(lane) <= last:
        records = (await consumer.getmany(lane, timeout_ms=200)).get(lane, [])
        for record in records:
            if record.offset <= last:
                yield record
        if records:
            heard = time.monotonic()
        elif time.monotonic() - heard > PATIENCE:
            raise KafkaError(f"{lane.topic} {lane.partition}: no record at {await consumer.position(lane)} for {PATIENCE:g} s")


async def _retry(settings: Kafka, choice: Choice, dry_run: bool) -> Outcome:
    chooser, outcome = Chooser(choice), Outcome(dry_run=dry_run)
    async for entry in _entries(settings):
        chooser.add(entry)
    chosen = chooser.chosen(outcome)
    async with _consumer(settings) as consumer:
        if dry_run:
            async for batch in _readable(consumer, settings, chosen, outcome):
                outcome.given_back += len(batch)
            return outcome
        async with _producer(settings) as producer:
            async for batch in _readable(consumer, settings, chosen, outcome):
                await _give_back(producer, settings, batch)
                outcome.given_back += len(batch)
    return outcome


@asynccontextmanager
async def _producer(settings: Kafka) -> AsyncIterator[AIOKafkaProducer]:
    # One name for all: a second retry at the same time fences the first, so that no record goes back twice.
    name = f"{settings.prefix}.dlq-retry"
    producer = AIOKafkaProducer(transactional_id=name, max_request_size=settings.message_bytes, **client(settings))
    await producer.start()
    try:
        yield producer
    finally:
        await producer.stop()


async def _readable(
    consumer: AIOKafkaConsumer, settings: Kafka, chosen: Chosen, outcome: Outcome
) -> AsyncIterator[list[ConsumerRecord]]:
    """The original records that can be decoded now, in batches of one partition; everything else is counted."""
    sources = {raw.topic: raw.source for raw in settings.raw}
    there = await places(settings, sorted({topic for topic, _ in chosen}))
    for (topic, partition), prints in chosen.items():
        if topic not in sources:
            outcome.unread[topic] = outcome.unread.get(topic, 0) + len(prints)
            continue
        if topic not in there or partition >= there[topic].partitions:
            outcome.gone += len(prints)
            continue
        source = _source(sources[topic])
        batch: list[ConsumerRecord] = []
        async for record in _originals(consumer, TopicPartition(topic, partition), prints, outcome):
            batch.append(record)
            if len(batch) == CHUNK:
                yield _judged(source, batch, outcome)
                batch = []
        if batch:
            yield _judged(source, batch, outcome)


async def _originals(
    consumer: AIOKafkaConsumer, lane: TopicPartition, prints: dict[int, Print], outcome: Outcome
) -> AsyncIterator[ConsumerRecord]:
    """The records that the letters are about, as far as they are still there."""
    begin = (await consumer.beginning_offsets([lane]))[lane]
    end = (await consumer.end_offsets([lane]))[lane]
    there = sorted(offset for offset in prints if begin <= offset < end)
    found = 0
    for first, last in runs(there, GAP) if there else ():
        async for record in _stretch(consumer, lane, first, last):
            known = prints.get(record.offset)
            if known is None:
                continue
            found += 1
            if not known.fits(record.value or b""):
                outcome.other += 1
            elif retried_from(record.headers):
                outcome.refused_again += 1
            else:
                yield record
    outcome.gone += len(prints) - found


def _source(name: str) -> Source:
    return Table(Names(), read_mapping(Path(name))) if name.endswith(".toml") else available()[name](Names())


def _judged(source: Source, batch: list[ConsumerRecord], outcome: Outcome) -> list[ConsumerRecord]:
    bad = verdicts(source, [record.value or b"" for record in batch])
    for reason in bad.values():
        outcome.refuse(reason)
    return [record for index, record in enumerate(batch) if index not in bad]


async def _give_back(producer: AIOKafkaProducer, settings: Kafka, batch: list[ConsumerRecord]) -> None:
    """The records as they were, and the notes that they were given back, all or nothing."""
    letters = Topics(settings.prefix).deadletter
    async with producer.transaction():
        waiting = []
        for record in batch:
            origin = place(record.topic, record.partition, record.offset)
            headers = [*record.headers, (RETRIED_FROM, origin.encode())]
            waiting.append(await producer.send(record.topic, record.value, record.key, partition=record.partition, headers=headers))
            note = encode(Retried(place=origin, time=time.time_ns() // 1000))
            waiting.append(await producer.send(letters, note, origin.encode(), headers=[(HEADER, LETTER_SCHEMA.encode())]))
        await asyncio.gather(*waiting)
