"""Bad weather at a worker's start: whatever is wrong, it says so in one sentence, and its exit code says whether to try again."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from connectors.deadletter import DeadLetter, decode
from tests.broker import PASSWORD, USERNAME, own_broker
from tests.chaos import Member, Site, until
from tests.refold import exact
from tests.traffic import Feed, flow, flows, pods

pytestmark = [pytest.mark.kafka, pytest.mark.timeout(600)]

Make = Callable[..., Site]


def last(member: Member) -> str:
    """What a process said at last."""
    return str(member.lines()[-1]["message"])


def test_a_broker_that_is_down_is_waited_for_and_said_to_be_down(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as held:
        nowhere = f"127.0.0.1:{held.getsockname()[1]}"
    with Site(nowhere, tmp_path, settings="kafka.connect_seconds = 3", topics=False) as here:
        worker = here.start("all")
        until(lambda: not worker.wanted, "it has given up")
        assert worker.exits == [6]
        assert f"kafka.bootstrap: {nowhere}" in last(worker)
        assert "gave up after 3 seconds" in last(worker)
        assert worker.said("attempt 1: ") == 1


@pytest.mark.slow
def test_wrong_credentials_end_it_at_once_and_right_ones_do_not(tmp_path: Path) -> None:
    with own_broker(secure=True) as broker:
        secure = (
            f'kafka.bootstrap = ["{broker.addresses["sasl_plaintext"]}"]\nkafka.security = "sasl_plaintext"\n'
            'kafka.sasl_mechanism = "SCRAM-SHA-512"'
        )
        environment = {"TOCSIN_KAFKA_USERNAME": USERNAME, "TOCSIN_KAFKA_PASSWORD": "guessed"}
        with Site(broker.bootstrap, tmp_path, partitions=1) as here:
            text = here.path.read_text()
            for line in secure.splitlines():
                key = line.split(" = ")[0]
                text = "".join(kept + "\n" for kept in text.splitlines() if not kept.startswith(key + " ")) + line + "\n"
            here.path.write_text(text)
            here.environment = environment
            worker = here.start("all")
            until(lambda: not worker.wanted, "it has given up")
            assert worker.exits == [6]
            assert "guessed" not in worker.log.read_text()
            environment["TOCSIN_KAFKA_PASSWORD"] = PASSWORD
            worker.again()
            here.ready()
            here.feed(2_000, 2_000).done()
            here.finish()
            exact(here)


def test_records_of_another_format_and_of_a_clock_that_is_ahead_go_to_the_dead_letters(site: Make) -> None:
    here = site(raw={"zeek": ("zeek_conn", 4), "odd": ("zeek_conn", 1)})
    here.start("all")
    here.ready()
    odd = next(topic for topic in here.raw if topic.endswith(".odd"))
    hour_ahead = [flow(time.time() + 3_600, "10.1.0.1", "10.2.0.1", 443, 10, 10, f"A{number}") for number in range(5)]
    feeds = [here.feed(4_000, 2_000), Feed(here.bootstrap, odd, [*pods(200), *hour_ahead, *flows(100, seed=4)], 500, 1)]
    for each in feeds:
        each.done()
    here.finish()
    refold = exact(here)
    letters = [letter for m in refold.letters if isinstance(letter := decode(m.value or b""), DeadLetter)]
    assert {letter.topic for letter in letters} == {odd}
    ahead = {letter.offset for letter in letters if letter.reason == "time-ahead"}
    assert ahead == set(range(200, 205))
    assert {letter.offset for letter in letters} == set(range(205))
