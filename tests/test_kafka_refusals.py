"""What the workers refuse, each with a sentence and an exit code. On a real broker."""

from __future__ import annotations

import signal
from collections.abc import Callable

import numpy as np
import pytest
from aiokafka import TopicPartition
from aiokafka.admin import NewTopic, RecordsToDelete

from connectors.names import Names
from connectors.wire import Tick, encode_tick
from connectors.wire import decode as read_block
from tests.chaos import Member, Site, until
from tests.refold import read_topic
from tests.traffic import Feed, flows

pytestmark = [pytest.mark.kafka, pytest.mark.timeout(600)]

Make = Callable[..., Site]


def fed(here: Site, many: int, seed: int = 0) -> None:
    topic, (_, partitions) = next(iter(here.raw.items()))
    Feed(here.bootstrap, topic, flows(many, seed), 20_000, partitions).done()


def ended(member: Member, code: int) -> str:
    """Wait until a worker has given up for good. Returns why."""
    until(lambda: not member.wanted, "it gives up", 180.0)
    assert member.exits[-1] == code, member.lines()[-1:]
    return member.why(code)


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
    assert [each.exits.count(4) for each in (worker, again)] == [0, 1]
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
        here.send(here.topics.by_actor, 0, encode_tick(names, Tick(clock, 0)))
    place = TopicPartition(here.topics.by_actor, 0)
    end = here.ends(here.topics.by_actor)[here.topics.by_actor, 0]
    here.admin(lambda admin: admin.delete_records({place: RecordsToDelete(end)}))
    said = ended(here.start("late", "actor"), 4)
    assert "what lay between is gone, because the topic keeps its messages for less time than the worker stood still" in said


def test_a_log_that_is_cut_off_before_what_a_running_stage_has_read_ends_it(site: Make) -> None:
    here = site(partitions=1, settings="worker.checkpoint_seconds = 600")
    here.start("ingest", "ingest")
    actor = here.start("actor", "actor")
    here.ready()
    fed(here, 1_000)
    place = TopicPartition(here.topics.by_actor, 0)
    until(lambda: here.ends(here.topics.by_object)[here.topics.by_object, 0] > 0, "the actors' stage is at work", 120.0)
    # It stands still, and the log is cut off in front of it meanwhile.
    actor.signal(signal.SIGSTOP)
    # What was fetched before is one block at most: the next is not.
    for many in (500, 4_000):
        fed(here, many, seed=many)
        until(lambda: here.at_the_end("ingest"), "ingest has read it", 120.0)
    end = here.ends(place.topic)[place.topic, 0]
    here.admin(lambda admin: admin.delete_records({place: RecordsToDelete(end)}))
    here.send(place.topic, 0, encode_tick(Names(), Tick(1, 0)))
    actor.signal(signal.SIGCONT)
    said = ended(actor, 4)
    assert f"{place.topic} 0 begins at {end}" in said
    assert "what lay between is gone" in said


@pytest.mark.parametrize("how", ["configured", "grown"])
def test_topics_that_are_missing_or_spread_otherwise_end_the_worker_with_a_way_out(site: Make, how: str) -> None:
    if how == "configured":
        none = site(topics=False)
        said = ended(none.start("early", "actor"), 7)
        assert "make them with tocsin topics --raw" in said
        assert none.topics.by_actor in said
    here = site(partitions=2)
    if how == "configured":
        here.path.write_text(here.path.read_text().replace("kafka.partitions = 2", "kafka.partitions = 3"))
    else:
        here.grow(here.topics.by_actor, 4)
    said = ended(here.start("other", "actor"), 7)
    assert (
        "has 2 partitions, the configuration says 3" if how == "configured" else "has 4 partitions, the configuration says 2"
    ) in said
    assert "another kafka.prefix" in said
    assert "tocsin topics" in said
