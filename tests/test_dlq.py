"""Dead letters: what is written can be read and shown safely, a retry gives back what can be read now, once, and only that."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import uuid
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import pytest

from connectors.deadletter import (
    LETTER_BYTES,
    RETRIED_FROM,
    DeadLetter,
    LetterError,
    Retried,
    decode,
    encode,
    preview,
    retried_from,
)
from connectors.names import Names
from connectors.sources import available
from replay.letters import Choice, Chooser, Entry, Lister, Outcome, Print, SinceError, moment, runs, table, told, verdicts

if TYPE_CHECKING:
    from tests.broker import Broker, Running

HOSTILE = b"\x1b]0;owned\x07\xe2\x80\xae\x00<script>"


ANY = Choice()


def letter(offset: int = 0, **over: object) -> DeadLetter:
    given = {"reason": "not-json", "message": "not JSON", "source": "zeek_conn", "topic": "zeek.conn", "partition": 0, "offset": offset}
    return DeadLetter(**given | over)  # type: ignore[arg-type]


def entries(*said: DeadLetter | Retried) -> list[Entry]:
    return [Entry(1_000_000 * number, each) for number, each in enumerate(said)]


def chosen(all_: list[Entry], choice: Choice = ANY) -> tuple[set[int], Outcome]:
    """(offsets that are tried again, the counts of the others)."""
    chooser, outcome = Chooser(choice), Outcome()
    for entry in all_:
        chooser.add(entry)
    return {offset for prints in chooser.chosen(outcome).values() for offset in prints}, outcome


def test_a_letter_is_read_as_it_was_written_and_holds_the_first_kib() -> None:
    long = letter(raw=b"x" * 5000, arrived=7, retried_from="zeek.conn/0/3")
    assert decode(encode(long)) == msgspec.structs.replace(long, raw=b"x" * LETTER_BYTES)
    assert decode(encode(letter(raw=bytes(range(256))))) == letter(raw=bytes(range(256)))
    note = Retried(place="zeek.conn/0/3", time=9)
    assert decode(encode(note)) == note


@pytest.mark.parametrize(
    "data", [b"", b"{}", b"[1]", b"\xff\xfe", b'{"version":1,"kind":"deadletter"}', b'{"version":1,"kind":"else"}']
)
def test_what_is_no_letter_is_a_sentence(data: bytes) -> None:
    with pytest.raises(LetterError, match="not a dead letter"):
        decode(data)


def test_a_letter_of_a_newer_version_is_refused_and_one_with_a_further_field_is_read() -> None:
    with pytest.raises(LetterError, match="version 2; this release reads 1 to 1"):
        decode(encode(letter()).replace(b'"version":1', b'"version":2'))
    assert decode(encode(letter()).replace(b"{", b'{"later":true,', 1)) == letter()


def test_only_our_header_says_what_a_record_repeats() -> None:
    assert retried_from([("other", b"x"), (RETRIED_FROM, b"zeek.conn/0/3")]) == "zeek.conn/0/3"
    assert retried_from([]) == ""
    assert len(retried_from([(RETRIED_FROM, b"\xff" * 100_000)])) == 300


def test_a_listing_counts_by_reason_and_shows_nothing_that_a_terminal_would_obey() -> None:
    lister = Lister(Choice())
    for entry in entries(*(letter(n, raw=HOSTILE, message="bad \x1b[2J") for n in range(5)), letter(9, reason="too-long")):
        lister.add(entry)
    lister.add(None)
    found = lister.listing()
    assert [(each.reason, each.letters, len(each.examples)) for each in found.reasons] == [("not-json", 5, 3), ("too-long", 1, 1)]
    assert (found.letters, found.unreadable) == (6, 1)
    text = table(found)
    assert all(line.isprintable() for line in text)
    assert "zeek.conn/0/0" in text[1]
    assert text[2].strip() == preview(HOSTILE)


def test_filters_take_reason_kind_topic_and_time() -> None:
    all_ = entries(letter(0), letter(1, reason="wrong-type:orig_bytes"), letter(2, reason="wrong-type:ts", topic="b"), letter(3))
    assert chosen(all_)[0] == {0, 1, 2, 3}
    assert chosen(all_, Choice(reason="wrong-type"))[0] == {1, 2}
    assert chosen(all_, Choice(reason="wrong-type:ts"))[0] == {2}
    assert chosen(all_, Choice(reason="wrong"))[0] == set()
    assert chosen(all_, Choice(topic="zeek.conn"))[0] == {0, 1, 3}
    assert chosen(all_, Choice(since=3_000_000))[0] == {3}


def test_a_record_is_tried_once_however_often_its_letter_was_written() -> None:
    assert chosen(entries(letter(4), letter(4)))[0] == {4}
    offsets, outcome = chosen(entries(letter(4), letter(5), Retried(place="zeek.conn/0/4", time=1)))
    assert (offsets, outcome.retried_before) == ({5}, 1)
    offsets, outcome = chosen(entries(Retried(place="zeek.conn/0/4", time=1), letter(4), letter(8, retried_from="zeek.conn/0/4")))
    assert (offsets, outcome.retried_before, outcome.refused_again) == (set(), 1, 1)


def test_a_record_at_the_same_place_of_a_topic_made_anew_is_not_the_one() -> None:
    whole = b"a" * 3000
    print_ = Print.of(whole[:LETTER_BYTES])
    assert print_.fits(whole)
    assert not print_.fits(b"a" * 1000)
    assert not print_.fits(b"b" + whole)


def test_a_record_is_judged_by_the_source_as_it_is_now() -> None:
    source = available()["zeek_conn"](Names())
    good = source.example.encode()
    assert list(verdicts(source, [good, b"{", good, b"[]"])) == [1, 3]


def test_offsets_close_together_are_read_in_one_go() -> None:
    assert list(runs([5], 10)) == [(5, 5)]
    assert list(runs([5, 15, 26, 30], 10)) == [(5, 15), (26, 30)]


def test_a_span_and_a_time_are_understood_and_all_else_is_a_sentence() -> None:
    now = datetime(2026, 3, 2, tzinfo=UTC)
    assert moment("2026-03-01T22:00Z", now) == moment("2h", now) == moment("120min", now) == moment("2026-03-01T22:00", now)
    for text in ("yesterday", "2w", "-1h", "", "999999d", "2026-13-01"):
        with pytest.raises(SinceError, match="--since: expected a time"):
            moment(text, now)


def test_an_outcome_says_what_is_left_and_why() -> None:
    outcome = Outcome(given_back=3, gone=2, other=1, retried_before=1, refused_again=1, unread={"old.topic": 4})
    outcome.refuse("not-json")
    text = "\n".join(told(outcome))
    for word in (
        "3  given back",
        "1  still refused: not-json",
        "retention",
        "made anew",
        "not again",
        "third time",
        "of old.topic: not among",
    ):
        assert word in text
    assert "could be given back" in told(Outcome(dry_run=True))[0]


class Site:
    """Topics of its own on the shared broker, and the command run against them."""

    def __init__(self, broker: Broker | Running, folder: Path) -> None:
        self.prefix = f"dlq-{uuid.uuid4().hex[:8]}"
        self.raw = f"{self.prefix}.zeek"
        self.letters = f"{self.prefix}.deadletter"
        self.bootstrap = broker.bootstrap
        self.config = folder / "site.toml"
        self.config.write_text(
            f'[kafka]\nbootstrap = ["{broker.bootstrap}"]\nprefix = "{self.prefix}"\n'
            f'raw = [{{ topic = "{self.raw}", source = "zeek_conn" }}]\n'
        )

    def run(self, *words: str, code: int = 0) -> str:
        command = [sys.executable, "-m", "replay.cli", "dlq", *words, "--config", str(self.config)]
        done = subprocess.run(  # noqa: S603 - our own command
            command, capture_output=True, text=True, timeout=120, check=False, env=os.environ | {"COLUMNS": "200"}
        )
        assert "Traceback" not in done.stderr, done.stderr
        assert done.returncode == code, (done.returncode, done.stderr, done.stdout)
        return done.stdout if code == 0 else done.stderr

    def json(self, *words: str) -> dict[str, object]:
        found: dict[str, object] = json.loads(self.run(*words, "--json"))
        return found

    async def create(self, *topics: str) -> None:
        from aiokafka.admin import AIOKafkaAdminClient, NewTopic

        admin = AIOKafkaAdminClient(bootstrap_servers=self.bootstrap)
        await admin.start()
        await admin.create_topics([NewTopic(topic, 2, 1) for topic in topics])
        await admin.close()

    async def produce(self, topic: str, partition: int, *values: bytes) -> None:
        from aiokafka import AIOKafkaProducer

        async with AIOKafkaProducer(bootstrap_servers=self.bootstrap) as producer:
            for value in values:
                await producer.send_and_wait(topic, value, partition=partition, headers=[("x", b"y")])

    async def read(self, topic: str) -> list[tuple[int, bytes, dict[str, bytes]]]:
        """(partition, value, headers) of every committed record."""
        from aiokafka import AIOKafkaConsumer, TopicPartition

        out = []
        async with AIOKafkaConsumer(
            bootstrap_servers=self.bootstrap, isolation_level="read_committed", auto_offset_reset="earliest", enable_auto_commit=False
        ) as consumer:
            lanes = [TopicPartition(topic, number) for number in (0, 1)]
            consumer.assign(lanes)
            await consumer.seek_to_beginning(*lanes)
            ends = await consumer.end_offsets(lanes)
            while any([await consumer.position(lane) < ends[lane] for lane in lanes]):
                for records in (await consumer.getmany(timeout_ms=200)).values():
                    out += [(record.partition, record.value, dict(record.headers)) for record in records]
        return out


@pytest.mark.kafka
def test_a_retry_gives_back_what_can_be_read_now_once_and_counts_the_rest(broker: Broker | Running, tmp_path: Path) -> None:
    site = Site(broker, tmp_path)
    good = available()["zeek_conn"].example.encode()
    long = good + b" " * 3000
    said = [
        letter(0, topic=site.raw, partition=1, raw=long[:LETTER_BYTES], reason="not-yet"),
        letter(0, topic=site.raw, partition=1, raw=long[:LETTER_BYTES], reason="not-yet"),
        letter(1, topic=site.raw, partition=1, raw=b"{", reason="not-json"),
        letter(2, topic=site.raw, partition=1, raw=good[:LETTER_BYTES], reason="not-yet"),
        letter(3, topic=site.raw, partition=1, raw=b"another record", reason="not-yet"),
        letter(99, topic=site.raw, partition=1, raw=good, reason="not-yet"),
        letter(0, topic=site.raw, partition=0, raw=good, reason="not-yet", retried_from="x/0/1"),
        letter(0, topic="nobody.reads", raw=good, reason="not-yet"),
    ]

    async def prepare() -> None:
        await site.create(site.raw, site.letters)
        await site.produce(site.raw, 1, long, b"{", good, good)
        for number, each in enumerate(said):
            await site.produce(site.letters, number % 2, encode(each))
        await site.produce(site.letters, 0, b"not ours")

    asyncio.run(prepare())
    listing = site.json("list")
    assert (listing["letters"], listing["retried"], listing["unreadable"]) == (8, 0, 1)
    assert "not-json" in site.run("list", "--reason", "not-json")

    expected = {
        "given_back": 2,
        "still_refused": {"malformed-json": 1},
        "gone": 1,
        "other": 1,
        "refused_again": 1,
        "unread": {"nobody.reads": 1},
    }
    dry = site.json("retry", "--dry-run")
    assert {key: dry[key] for key in expected} == expected
    assert len(asyncio.run(site.read(site.raw))) == 4

    done = site.json("retry")
    assert {key: done[key] for key in expected} == expected
    back = asyncio.run(site.read(site.raw))[4:]
    assert [(partition, value) for partition, value, _ in back] == [(1, long), (1, good)]
    assert back[0][2] == {"x": b"y", RETRIED_FROM: f"{site.raw}/1/0".encode()}

    again = site.json("retry")
    assert (again["given_back"], again["retried_before"]) == (0, 2)
    assert len(asyncio.run(site.read(site.raw))) == 6
    assert site.json("list")["retried"] == 2


@pytest.mark.kafka
def test_what_cannot_be_done_is_a_sentence(broker: Broker | Running, tmp_path: Path) -> None:
    site = Site(broker, tmp_path)
    assert "create it with: tocsin topics" in site.run("list", code=6)
    site.config.write_text('[kafka]\nbootstrap = ["127.0.0.1:1"]\nconnect_seconds = 1\n')
    assert "nobody listens there" in site.run("retry", code=6)
