"""What the workers refuse, each with a sentence and an exit code, and what they take in their stride. On a real broker."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from aiokafka import AIOKafkaProducer, TopicPartition
from aiokafka.admin import NewTopic, RecordsToDelete

from connectors import ocsf
from connectors.deadletter import DeadLetter, decode
from connectors.event import block_of
from connectors.names import Names
from connectors.wire import Packet, Tick, encode, encode_tick
from connectors.wire import decode as read_block
from tests.chaos import Member, Site, until
from tests.logs import START, row
from tests.refold import Refold, read_topic
from tests.traffic import Feed, flow, flows

if TYPE_CHECKING:
    from tests.broker import Broker, Running

pytestmark = [pytest.mark.kafka, pytest.mark.timeout(600)]

Make = Callable[..., Site]


@pytest.fixture
def site(broker: Broker | Running, tmp_path: Path) -> Iterator[Make]:
    """Makes the test's installation on the shared broker."""
    made: list[Site] = []

    def make(**given: Any) -> Site:
        made.append(Site(broker.bootstrap, tmp_path, **given))
        return made[-1]

    yield make
    for each in made:
        each.close()


def send(here: Site, topic: str, partition: int, value: bytes) -> None:
    async def sent() -> None:
        producer = AIOKafkaProducer(bootstrap_servers=here.bootstrap)
        await producer.start()
        try:
            await producer.send_and_wait(topic, value, partition=partition)
        finally:
            await producer.stop()

    here.run(sent())


def fed(here: Site, many: int, seed: int = 0) -> None:
    topic, (_, partitions) = next(iter(here.raw.items()))
    Feed(here.bootstrap, topic, flows(many, seed), 20_000, partitions).done()


def ended(member: Member, code: int) -> str:
    """Wait until a worker has given up for good. Returns its last sentence."""
    until(lambda: not member.wanted, "it gives up", 180.0)
    assert member.exits[-1] == code, member.lines()[-1:]
    return str(member.lines()[-1]["message"])


def test_a_block_that_makes_the_core_raise_is_tried_three_times_then_waits_for_someone_who_skips_it(site: Make) -> None:
    here = site(partitions=1)
    worker = here.start("all")
    here.ready()
    fed(here, 2_000)
    until(lambda: here.at_the_end(), "all is read", 120.0, 0.5)
    names = Names()
    broken = Packet(
        block_of(names, "made_up", [row(names, 1, START, "user:ann", "host:h")]),
        ("raw-0@id",),
        extra={
            "counts": np.zeros((1, 3)),
            "peer": np.zeros(1, np.int32),
            "surprises": np.zeros((1, 4)),
            "from": np.zeros(1, np.int32),
            "offset": np.full(1, 1 << 40),
        },
        signals=tuple(name for name, signal in here.config.learners().items() if signal.visit == "actor"),
    )
    at = here.ends(here.topics.by_object)[here.topics.by_object, 0]
    send(here, here.topics.by_object, 0, encode(broken))
    said = ended(worker, 4)
    assert "has made the core raise 3 times" in said
    assert f"tocsin skip object 0 {at}" in said
    assert worker.exits == [75, 75, 4]
    fed(here, 1_000, seed=1)
    here.command("skip", "object", "0", str(at))
    here.start("again")
    here.finish()
    refold = Refold(here)
    assert refold.problems() == []
    (letter,) = [decode(message.value or b"") for message in refold.letters]
    assert isinstance(letter, DeadLetter)
    assert (letter.topic, letter.partition, letter.offset) == (here.topics.by_object, 0, at)


def test_a_block_of_a_newer_release_stops_the_worker_and_is_still_there_for_one_that_can_read_it(site: Make) -> None:
    here = site(partitions=1)
    worker = here.start("all")
    here.ready()
    fed(here, 500)
    until(lambda: here.at_the_end(), "all is read", 120.0, 0.5)
    newer = encode_tick(Names(), Tick(0, 0)).replace(b'"version":1', b'"version":9')
    send(here, here.topics.by_actor, 0, newer)
    said = ended(worker, 4)
    assert "block of version 9; this release reads 1 to 1" in said
    assert "Nothing is lost" in said
    # Its place in the log is where a newer release would begin.
    assert here.committed("actor")[here.topics.by_actor, 0] <= here.ends(here.topics.by_actor)[here.topics.by_actor, 0] - 1


def test_a_raw_topic_that_was_made_anew_is_refused_until_someone_says_that_it_is_meant(site: Make) -> None:
    here = site(partitions=1)
    worker = here.start("all")
    here.ready()
    fed(here, 1_000)
    here.finish()
    (topic,) = here.raw
    here.admin(lambda admin: admin.delete_topics([topic]))
    until(lambda: topic not in here.run(_topics(here)), "the topic is gone")
    here.admin(lambda admin: admin.create_topics([NewTopic(topic, 1, 1)]))
    fed(here, 700, seed=2)
    again = here.start("again")
    said = ended(again, 4)
    assert f"the topic {topic} was made anew since we first read it" in said
    assert f"tocsin accept-topic {topic}" in said
    here.command("accept-topic", topic)
    here.start("third")
    until(lambda: here.at_the_end("ingest"), "the new topic is read", 120.0, 0.5)
    here.finish()
    assert sum(worker.lives for worker in (worker, again)) == 2
    # Offsets that are known from before are no repeats: the log is another one, and has another name in the marks.
    rows: dict[str, int] = {}
    for message in read_topic(here, here.topics.by_object)[0]:
        packet = read_block(message.value or b"", Names())
        for number, log in enumerate(packet.logs):
            rows[log] = rows.get(log, 0) + int(np.count_nonzero(packet.block.partition == number))
    assert sorted(rows.values()) == [700, 1_000]
    assert {log.partition("@")[0] for log in rows} == {f"{topic}-0"}


async def _topics(here: Site) -> set[str]:
    from connectors.cluster import topic_ids

    return set(await topic_ids(here.config.kafka, list(here.raw)))


def test_a_log_that_no_longer_reaches_back_to_the_checkpoint_is_refused_at_the_start(site: Make) -> None:
    here = site(partitions=1)
    here.start("all")
    here.ready()
    fed(here, 1_000)
    here.finish()
    names = Names()
    for clock in range(5):
        send(here, here.topics.by_actor, 0, encode_tick(names, Tick(clock, 0)))
    place = TopicPartition(here.topics.by_actor, 0)
    end = here.ends(here.topics.by_actor)[here.topics.by_actor, 0]
    here.admin(lambda admin: admin.delete_records({place: RecordsToDelete(end)}))
    said = ended(here.start("late", "actor"), 4)
    assert "what lay between is gone, because the topic keeps its messages for less time than the worker stood still" in said


def test_topics_that_are_missing_or_spread_otherwise_end_the_worker_with_a_way_out(site: Make) -> None:
    none = site(topics=False)
    assert "make them with tocsin topics --raw" in ended(none.start("early", "actor"), 7)
    here = site(partitions=2)
    here.path.write_text(here.path.read_text().replace("kafka.partitions = 2", "kafka.partitions = 3"))
    said = ended(here.start("other", "actor"), 7)
    assert "has 2 partitions, the configuration says 3" in said


def test_a_topic_of_another_format_a_clock_an_hour_ahead_and_poison_are_dead_letters_and_nothing_else(site: Make) -> None:
    here = site(partitions=1)
    worker = here.start("all")
    here.ready()
    (topic,) = here.raw
    ahead = flow(time.time() + 3_600, "10.0.0.1", "10.1.0.1", 443, 10.0, 10.0, "C1")
    good = flow(time.time() - 60, "10.0.0.1", "10.1.0.1", 443, 10.0, 10.0, "C2")
    for record in (b'{"kind":"Event","apiVersion":"audit.k8s.io/v1"}', ahead, b"\xff\xfe\x00", good):
        send(here, topic, 0, record)
    until(lambda: here.at_the_end("ingest"), "ingest has read it", 120.0, 0.5)
    here.finish()
    letters = [decode(message.value or b"") for part in read_topic(here, here.topics.deadletter).values() for message in part]
    found = {letter.offset: letter.reason for letter in letters if isinstance(letter, DeadLetter)}
    assert found[1] == "time-ahead"
    assert 2 in found
    assert 3 not in found
    assert int(Refold(here).counted("object").popitem()[1].sum()) == 1
    assert worker.lives == 1


def test_a_quiet_partition_is_told_the_time_so_that_its_alerts_close(site: Make) -> None:
    here = site(partitions=2, settings="worker.tick_seconds = 1\nfuse.quiet_hours = 0.001\nbudget.alerts_per_day = 400")
    here.start("all")
    here.ready()
    fed(here, 6_000)

    def standing() -> tuple[int, int]:
        told = [ocsf.alert_of(m.value or b"") for part in read_topic(here, here.topics.alerts).values() for m in part]
        return len({each.uid for each in told}), len({each.uid for each in told if each.activity == "close"})

    until(lambda: standing()[0] > 0, "there are alerts", 120.0, 1.0)
    until(lambda: standing()[0] == standing()[1], "every alert is closed although nothing more comes", 120.0, 1.0)
