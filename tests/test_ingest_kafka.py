"""Ingest on a real broker: transactions, records deleted before they were read, large records, canaries of busy partitions."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable

import pytest
from aiokafka import AIOKafkaProducer, TopicPartition
from aiokafka.admin.records_to_delete import RecordsToDelete

from connectors.names import Names
from connectors.status import Canary, Lost, decode
from connectors.wire import decode as packet_of
from tests.chaos import Site, say, until
from tests.refold import exact, read_topic
from tests.test_ingest_blocks import events
from tests.traffic import flows

pytestmark = [pytest.mark.kafka, pytest.mark.slow, pytest.mark.timeout(600)]

Make = Callable[..., Site]


async def _in_transactions(site: Site, topic: str, records: list[bytes]) -> None:
    producer = AIOKafkaProducer(bootstrap_servers=site.bootstrap, transactional_id=f"{site.prefix}-raw")
    await producer.start()
    try:
        for number, each in enumerate(records):
            await producer.begin_transaction()
            await producer.send_and_wait(topic, each, partition=0)
            await (producer.abort_transaction() if number % 5 == 4 else producer.commit_transaction())
    finally:
        await producer.stop()


def test_a_quiet_log_of_transactions_has_no_lag_and_what_was_deleted_unread_is_told(site: Make) -> None:
    here = site(partitions=1)
    ingest = here.start("ingest", "ingest")
    here.ready()
    (topic,) = here.raw
    asyncio.run(_in_transactions(here, topic, list(flows(10, 0))))
    # The last two offsets are a record given up and its marker.
    until(lambda: here.at_the_end("ingest"), "ingest stands behind the last marker")
    assert here.committed("ingest") == {(topic, 0): 20}
    here.end(ingest)
    here.feed(50, 1_000).done()
    here.admin(lambda admin: admin.delete_records({TopicPartition(topic, 0): RecordsToDelete(before_offset=50)}))
    ingest.again()
    until(lambda: here.at_the_end("ingest"), "the rest is read")
    said = [decode(message.value or b"") for message in read_topic(here, here.topics.status)[0]]
    assert [(each.topic, each.partition, each.records, each.begins) for each in said if isinstance(each, Lost)] == [(topic, 0, 30, 50)]
    assert ingest.said(f"{topic} 0: 30 records are lost") == 1
    here.end(ingest)


def test_a_topic_made_anew_under_a_running_ingest_ends_it(site: Make) -> None:
    here = site(partitions=1)
    ingest = here.start("ingest", "ingest")
    here.ready()
    (topic,) = here.raw
    here.feed(500, 5_000).done()
    until(lambda: here.at_the_end("ingest"), "everything is read")
    # It never finds that there is no topic at all, which is another fault.
    ingest.signal(signal.SIGSTOP)
    here.admin(lambda admin: admin.delete_topics([topic]))
    until(lambda: not here.there(topic), "the topic is gone")
    here.make_raw()
    ingest.signal(signal.SIGCONT)
    here.feed(50, 1_000, seed=1).done()
    until(lambda: not ingest.wanted, "it is refused")
    assert ingest.exits[-1] == 4
    assert f"tocsin accept-topic {topic}" in ingest.why(4)


def test_large_lists_of_events_go_all_the_way_and_every_row_counts_once(site: Make) -> None:
    here = site(
        partitions=2, raw={"audit": ("kubernetes_audit", 1), "zeek": ("zeek_conn", 1)}, settings=f"kafka.message_bytes = {1 << 20}"
    )
    ingest = here.start("ingest", "ingest")
    here.start("rest", "actor", "object", "fuse", "budget")
    here.ready()
    here.end(ingest)
    audit = next(topic for topic in here.raw if topic.endswith("audit"))

    async def send() -> None:
        producer = AIOKafkaProducer(bootstrap_servers=here.bootstrap, compression_type="gzip")
        await producer.start()
        for number in range(60):
            await producer.send(audit, events(400, number), partition=0)
        await producer.stop()

    asyncio.run(send())
    here.feed(500, 5_000).done()
    ingest.again()
    here.finish()
    refold = exact(here)
    largest = max(len(m.value or b"") for name in ("by_actor", "by_object") for log in refold.topics[name].values() for m in log)
    say(f"largest message {largest}")
    assert largest < 1 << 20
    rows = {name: int(counted.sum()) for name, counted in refold.counted("object").items()}
    assert sum(rows.values()) >= 60 * 400 + 500


def test_a_busy_partition_s_canary_arrives_at_the_end_of_the_path(site: Make) -> None:
    here = site(partitions=2, settings="worker.tick_seconds = 1")
    here.start("ingest", "ingest")
    here.start("rest", "actor", "object", "fuse", "budget")
    here.ready()
    here.feed(15_000, 1_000).done()
    here.finish()
    exact(here)
    said = [decode(message.value or b"") for message in read_topic(here, here.topics.status)[0]]
    arrived = {(each.partition, each.sent) for each in said if isinstance(each, Canary) and each.arrived}
    for partition, messages in read_topic(here, here.topics.by_actor).items():
        packets = [packet_of(message.value or b"", Names()) for message in messages]
        busy = [place for place, each in enumerate(packets) if each.tick is not None and each.tick.clock == 0]
        # Rows before it and rows after it, within less than a partition has to be quiet for to be told the time.
        amid = [
            place for place in busy if 0 < place < len(packets) - 1 and len(packets[place - 1].block) and len(packets[place + 1].block)
        ]
        assert len(amid) >= 1
        assert {(partition, packets[place].tick.sent) for place in busy} <= arrived  # type: ignore[union-attr]
