"""``tocsin respond`` on a real broker: what it takes from the topics and refuses, what it keeps there, and what befalls both."""

from __future__ import annotations

import asyncio
import json
import time
import urllib.request
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from connectors.cluster import create
from connectors.decision import encode, made
from connectors.event import MINUTE, SECOND
from connectors.kafka import Kafka
from connectors.signing import Key
from connectors.topics import DECISIONS_SCHEMA, LEDGER_SCHEMA
from connectors.wire import REPLAYED
from detector.inbox import foreign
from replay.cli import app
from tests.broker import Broker, Running, own_broker
from tests.chaos import until
from tests.respond_stage import OURS, TTL, Station, finding

#: Nobody's by convention, and below those that brokers take.
PORT = 14_471


def finding_time(later: int) -> int:
    """The present, so many microseconds later."""
    return int(time.time() * SECOND) + later


def station(broker: Broker | Running, folder: Path, **more: str) -> Station:
    """An installation of its own, with its topics."""
    prefix = f"r{uuid.uuid4().hex[:8]}"
    asyncio.run(create(Kafka(bootstrap=[broker.bootstrap], prefix=prefix, partitions=2)))
    return Station(broker.bootstrap, prefix, folder, **more)


@pytest.fixture
def own(broker: Broker | Running, tmp_path: Path) -> Iterator[Station]:
    with station(broker, tmp_path) as made_here:
        yield made_here


def tocsin(own: Station, *words: str) -> Result:
    return CliRunner().invoke(app, [*words, "--config", str(own.path)])


@pytest.mark.parametrize(
    ("headers", "why"),
    [
        ([OURS], ""),
        ([OURS, (REPLAYED, b"1")], ""),
        ([], "no header"),
        ([("other", b"ocsf-2004/1")], "no header"),
        ([OURS, OURS], "2 headers"),
        ([("tocsin", b"ocsf-2004/2")], "a newer release"),
        ([("tocsin", b"ocsf-2004/0")], "its schema is"),
        ([("tocsin", b"evidence/1")], "its schema is"),
        ([("tocsin", b"\xff\x1b[2J")], "its schema is"),
        ([("tocsin", None)], "its schema is ''"),
    ],
)
def test_only_one_header_of_our_schema_and_version_makes_a_record_ours(headers: list[tuple[str, bytes | None]], why: str) -> None:
    said = foreign(headers, "ocsf-2004/1")
    assert why in said
    assert bool(said) == bool(why)
    assert "\x1b" not in said


@pytest.mark.kafka
def test_what_is_not_ours_is_refused_what_is_replayed_observed_what_is_old_proposed_and_the_rest_contained_once(own: Station) -> None:
    own.start("--listen", f"127.0.0.1:{PORT}")
    value, headers = finding("a0", "replayed")
    own.send(
        (value, []),
        (value, [("tocsin", b"ocsf-2004/2")]),
        (b"{}", [OURS]),
        (value, [*headers, (REPLAYED, b"1")]),
        finding("a1", "old", time=finding_time(-16 * MINUTE)),
        finding("a2", "now"),
        finding("a2", "now"),
    )
    own.until("verified")
    assert {row.target.rpartition("/")[2]: row.result for row in own.rows() if row.step == "decided"} == {
        "replayed": "observed",
        "old": "proposed",
        "now": "enforced",
    }
    assert [change.split()[1] for change in own.changes] == ["team-a-now"]
    assert own.log.count("refused: ") == 3
    until(lambda: _page(PORT, "tocsin_respond_behind_records") == 0, "everything is settled")
    assert _page(PORT, 'tocsin_respond_refused_total{kind="alert"}') == 3
    assert _page(PORT, "tocsin_respond_contained") == 1
    assert _page(PORT, "tocsin_respond_kill_switch") == 0
    (own.folder / "stop").write_text("enough\n")
    assert _page(PORT, "tocsin_respond_kill_switch") == 1
    with urllib.request.urlopen(f"http://127.0.0.1:{PORT}/readyz") as answer:
        assert json.load(answer)["ready"]
    code, seconds = own.stop()
    assert (code, seconds < 20) == (0, True)
    rows = len(own.rows())
    own.start()
    own.send(finding("a3", "later"))
    own.until("stopped")
    assert own.stop()[0] == 0
    assert len([row for row in own.rows()[rows:] if row.step == "decided"]) == 1, "what was settled does not come again"


def _page(port: int, name: str) -> float:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics") as answer:
        lines = answer.read().decode().splitlines()
    return next(float(line.rpartition(" ")[2]) for line in lines if line.startswith(name))


@pytest.mark.kafka
def test_a_signed_decision_on_the_topic_carries_out_what_waits_and_an_unsigned_one_does_not(
    broker: Broker | Running, tmp_path: Path
) -> None:
    with station(broker, tmp_path, rung="approve") as own:
        own.start()
        own.send(finding("a1"))
        own.until("awaiting-approval")
        action = own.rows()[0].action
        plain = encode(made(action, "approve", "user:ann", finding_time(0)))
        signed = encode(made(action, "approve", "user:ann", finding_time(0), "", Key((tmp_path / "ann").read_text().rstrip())))
        headers = [("tocsin", DECISIONS_SCHEMA.encode())]
        own.send((plain, headers), (signed, []), (signed.replace(b"approve", b"deny"), headers), topic=own.topics.decisions)
        until(lambda: own.log.count("refused: ") == 3, "all three are refused")
        assert own.changes == []
        said = tocsin(own, "approvals", "approve", action, "--send", "--key", str(tmp_path / "ann"), "--person", "ann")
        assert said.exit_code == 0, said.output
        own.until("verified")
        assert [row.person for row in own.rows() if row.step == "approval"] == ["user:ann"]
        assert tocsin(own, "approvals", "deny", action, "--send").exit_code == 2, "unsigned"
        assert own.stop()[0] == 0


@pytest.mark.kafka
def test_the_ledgers_head_is_on_the_topic_and_a_lost_tail_shows_against_it(own: Station) -> None:
    own.start()
    own.send(finding("a1"))
    own.until("verified")
    assert own.stop()[0] == 0
    whole = tocsin(own, "ledger", "verify", "--anchor", "kafka")
    assert (whole.exit_code, "0 rows after the last of" in whole.stdout) == (0, True), whole.output
    (own.folder / "ledger").unlink()
    own.start(wait=False)
    assert own.died() == 4
    assert "the ledger does not verify against the topic" in own.log
    assert tocsin(own, "ledger", "verify").exit_code == 4
    assert own.off, "nothing was done by the one that was refused"


@pytest.mark.kafka
def test_an_anchor_that_somebody_else_has_written_is_refused(own: Station) -> None:
    own.send(
        (b'{"version":1,"seq":1,"hash":"x","time":1,"previous":""}', [("tocsin", LEDGER_SCHEMA.encode())]), topic=own.topics.ledger
    )
    own.start(wait=False)
    assert own.died() == 4
    assert "anchor 1 is not signed with this key" in own.log


@pytest.mark.kafka
def test_without_topics_or_without_a_broker_it_ends_with_a_sentence_and_code_6(broker: Broker | Running, tmp_path: Path) -> None:
    with Station(broker.bootstrap, f"r{uuid.uuid4().hex[:8]}", tmp_path) as own:
        own.start(wait=False)
        assert own.died() == 6
        assert "is missing; make it with: tocsin topics" in own.log
        own.path.write_text(
            own.path.read_text().replace(broker.bootstrap, "127.0.0.1:1").replace("connect_seconds = 30", "connect_seconds = 1")
        )
        own.start(wait=False)
        assert own.died() == 6
        assert "gave up after 1 seconds" in own.log


@pytest.mark.kafka
def test_a_later_responder_ends_the_earlier_ones_anchors(own: Station, tmp_path_factory: pytest.TempPathFactory) -> None:
    own.start()
    other = Station(own.bootstrap, own.topics.prefix, tmp_path_factory.mktemp("other"))
    with other:
        other.start()
        own.send(finding("a1"))
        assert own.died() == 4
        assert "another responder has taken over" in own.log
        # The first may be the earlier one's.
        own.send(finding("a2", "trainer-1"))
        other.until("verified")
        assert other.stop()[0] == 0


@pytest.mark.kafka
def test_with_the_broker_gone_what_is_due_ends_and_with_it_back_the_next_alert_is_taken(tmp_path: Path) -> None:
    with own_broker() as broker, station(broker, tmp_path) as own:
        own.start()
        own.send(finding("a1"))
        own.until("verified")
        assert own.stop()[0] == 0
        # It takes the present for some seconds before the containment's end, enough to kill the broker first.
        own.start(later=TTL - 40)
        assert own.off
        broker.kill()
        until(lambda: own.off == {}, "taken back without a broker")
        assert not own.ended()
        broker.start()
        own.send(finding("a2", "trainer-1", time=finding_time((TTL - 40) * SECOND)))
        own.until("verified", 2)
        broker.kill()
        code, seconds = own.stop()
        # The anchor, the consumer and the producer of a broker that is gone may use up the time there is to drain.
        assert (code in (0, 75), seconds < 20) == (True, True)
        broker.start()
        own.start()
        code, _ = own.stop()
        assert code == 0, "what could not be anchored is no mistake"
        assert tocsin(own, "ledger", "verify", "--anchor", "kafka").exit_code == 0
