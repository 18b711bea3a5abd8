"""The distributed engine on a real broker: nothing is lost, doubled or different, whatever befalls its processes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from connectors import ocsf
from connectors.deadletter import DeadLetter, decode
from connectors.names import Names
from connectors.wire import decode as decode_block
from connectors.wire import encode as encode_block
from tests.chaos import Site, say, until
from tests.refold import exact, read_topic
from tests.traffic import Feed, flows

pytestmark = [pytest.mark.kafka, pytest.mark.timeout(600)]

Make = Callable[..., Site]


def test_without_a_fault_everything_counts_once_and_a_fault_in_a_log_would_be_seen(site: Make) -> None:
    here = site()
    here.start("all")
    here.ready()
    fed = here.feed(48_000, 8_000)
    fed.done()
    say(f"fed at {fed.rate_reached:,.0f} records/s; SIGTERM took {here.finish():.1f} s")
    refold = exact(here)
    assert len(refold.alerts) > 20
    whole = dict(refold.topics)
    for topic, what in (("by_actor", "rows are lost"), ("by_object", "is not the fold"), ("evidence", "messages are missing")):
        refold.topics = whole | {topic: {part: messages[:-1] for part, messages in whole[topic].items()}}
        refold.fold()
        assert any(what in problem for problem in refold.problems()), topic


def test_killed_at_random_moments_every_stage_goes_on_where_it_was(site: Make) -> None:
    here = site()
    here.separate()
    fed = here.feed(80_000, 8_000)
    say(f"killed {here.kills(4, seed=7)}")
    fed.done()
    say(f"fed at {fed.rate_reached:,.0f} records/s; SIGTERM took {here.finish():.1f} s")
    exact(here)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_twenty_kills_at_eight_thousand_records_a_second(site: Make) -> None:
    here = site()
    here.separate()
    fed = here.feed(600_000, 8_000)
    killed = here.kills(20, seed=1, seconds=(0.5, 4.0))
    fed.done()
    say(f"fed at {fed.rate_reached:,.0f} records/s; killed {killed}; SIGTERM took {here.finish(400):.1f} s")
    assert sum(killed.values()) == 20
    assert set(killed) == {"ingest", "actor", "object", "judges"}
    exact(here)


def test_one_partition_gives_the_alerts_of_a_replay_byte_for_byte_and_one_poison_record_one_dead_letter(
    site: Make, tmp_path: Path
) -> None:
    here = site(partitions=1)
    here.start("all")
    here.ready()
    records = list(flows(10_000, seed=3))
    records[5_000] = b'{"ts": "poison"'
    topic = next(iter(here.raw))
    Feed(here.bootstrap, topic, records, 4_000, 1).done()
    here.finish()
    refold = exact(here)
    (letter,) = {message.value for message in refold.letters}
    read_letter = decode(letter or b"")
    assert isinstance(read_letter, DeadLetter)
    assert (read_letter.topic, read_letter.partition, read_letter.offset, read_letter.reason) == (topic, 0, 5_000, "malformed-json")
    assert int(refold.counted("object").popitem()[1].sum()) == 9_999
    # A replay calls its logs by the names of their files.
    trace = tmp_path / f"{topic}-0"
    trace.write_bytes(b"\n".join(records) + b"\n")
    assert replayed(trace, here) == {message.value for message in refold.alerts}


def replayed(trace: Path, site: Site) -> set[bytes]:
    """The alerts of the embedded detector."""
    out = trace.with_suffix(".alerts")
    site.command("replay", str(trace), "--source", "zeek_conn", "--alerts", str(out))
    return set(out.read_bytes().splitlines(keepends=True))


def foreign(site: Site, partition: int) -> bytes:
    """A block that was written to ``by_object`` and then spoilt: it can be read, and what the actors' visit found is cut short."""
    packet = decode_block(read_topic(site, site.topics.by_object)[partition][-1].value or b"", Names())
    packet.extra["counts"] = packet.extra["counts"][:, :3].copy()
    return encode_block(packet)


def newer(site: Site, partition: int) -> bytes:
    """A block as a later release might write it."""
    value = read_topic(site, site.topics.by_object)[partition][-1].value or b""
    assert value.count(b'"version":1') == 1
    return value.replace(b'"version":1', b'"version":9')


def test_a_block_at_which_the_core_raises_stops_its_stage_the_third_time_until_it_is_put_aside(site: Make) -> None:
    here = site(partitions=2)
    here.start("rest", "ingest", "actor", "fuse", "budget")
    objects = here.start("object", "object")
    here.ready()
    here.warm()
    at = here.send(here.topics.by_object, 1, foreign(here, 1))
    here.feed(4_000, 4_000).done()
    until(lambda: not objects.wanted, "the stage has stopped for good", 120.0)
    assert objects.exits == [75, 75, 4]
    assert f"tocsin skip object 1 {at}" in objects.why(4)
    # Nobody else is kept from working, and nothing but this block is put aside.
    assert "ends at" in here.command("skip", "object", "1", str(at + 10_000), code=5)
    assert "will be put aside" in here.command("skip", "object", "1", str(at))
    objects.again()
    until(here.at_the_end, "everything is read", 120.0, 0.5)
    unread = here.send(here.topics.by_object, 0, newer(here, 0))
    until(lambda: not objects.wanted, "the stage has stopped for good", 120.0)
    assert objects.exits[-1] == 4
    sentence = objects.why(4)
    assert "block of version 9; this release reads 1 to 1" in sentence
    assert f"tocsin skip object 0 {unread}" in sentence
    assert "will be put aside" in here.command("skip", "object", "0", str(unread))
    objects.again()
    here.feed(2_000, 4_000, seed=5).done()
    here.finish()
    refold = exact(here)
    letters = {decode(message.value or b"") for message in refold.letters}
    assert {(each.reason, each.topic, each.partition, each.offset) for each in letters if isinstance(each, DeadLetter)} == {
        ("skipped", here.topics.by_object, 1, at),
        ("skipped", here.topics.by_object, 0, unread),
    }


def test_a_quiet_partition_hears_what_time_it_is_and_its_alerts_close(site: Make) -> None:
    here = site(settings="fuse.quiet_hours = 0.0005\nworker.tick_seconds = 1")
    here.start("all")
    here.ready()
    here.feed(6_000, 6_000, seed=2).done()

    def closed() -> bool:
        last: dict[str, Any] = {}
        for messages in read_topic(here, here.topics.alerts).values():
            for message in messages:
                alert = ocsf.alert_of(message.value or b"")
                # What the watch says of us has another end, and a slow attack is over after two days of event time.
                if not alert.notice and alert.line == "main":
                    last[alert.uid] = max(last.get(alert.uid, alert), alert, key=lambda each: each.revision)
        return len(last) > 3 and all(alert.activity == "close" for alert in last.values())

    until(closed, "every alert is closed", 120.0, 1.0)
