"""Bad weather at a worker's start: whatever is wrong, it says so in one sentence, and its exit code says whether to try again."""

from __future__ import annotations

import re
import socket
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from connectors.deadletter import DeadLetter, decode
from tests.broker import PASSWORD, USERNAME, own_broker
from tests.chaos import Member, Site, until
from tests.refold import Refold, exact
from tests.traffic import Feed, flow, flows, pods

pytestmark = [pytest.mark.kafka, pytest.mark.timeout(600)]

Make = Callable[..., Site]


def last(member: Member) -> str:
    """What a process said at last."""
    return str(member.lines()[-1]["message"])


def test_a_broker_that_is_down_is_waited_for_and_said_to_be_down(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as held:
        nowhere = f"127.0.0.1:{held.getsockname()[1]}"
    with Site(nowhere, tmp_path, settings="kafka.connect_seconds = 10", topics=False) as here:
        worker = here.start("all")
        until(lambda: not worker.wanted, "it has given up")
        assert worker.exits == [6]
        assert f"kafka.bootstrap: {nowhere}" in last(worker)
        assert "gave up after 10 seconds" in last(worker)
        assert worker.said("attempt 1: ") == 1


def rewritten(here: Site, **settings: str) -> None:
    """Give an installation's configuration other settings of ``[kafka]``, in TOML."""
    lines = [line for line in here.path.read_text().splitlines() if line.split(" = ")[0].removeprefix("kafka.") not in settings]
    lines += [f"kafka.{key} = {value}" for key, value in settings.items()]
    here.path.write_text("".join(line + "\n" for line in lines), "utf-8")


@pytest.mark.slow
def test_wrong_credentials_end_it_at_once_and_right_ones_or_a_certificate_do_not(tmp_path: Path) -> None:
    with own_broker(secure=True) as broker, Site(broker.bootstrap, tmp_path, partitions=1) as here:
        rewritten(
            here, bootstrap=f'["{broker.addresses["sasl_plaintext"]}"]', security='"sasl_plaintext"', sasl_mechanism='"SCRAM-SHA-512"'
        )
        here.environment = {"TOCSIN_KAFKA_USERNAME": USERNAME, "TOCSIN_KAFKA_PASSWORD": "guessed"}
        worker = here.start("all")
        until(lambda: not worker.wanted, "it has given up")
        assert worker.exits == [6]
        assert "guessed" not in worker.log.read_text()
        here.environment["TOCSIN_KAFKA_PASSWORD"] = PASSWORD
        worker.again()
        here.ready()
        here.feed(2_000, 2_000).done()
        here.finish()
        # The same over TLS on both sides, with nothing but a certificate.
        broker.authority.issue("worker")
        rewritten(
            here,
            bootstrap=f'["{broker.addresses["mtls"]}"]',
            security='"ssl"',
            ca_file=f'"{broker.authority.ca}"',
            cert_file=f'"{broker.folder / "worker.crt"}"',
            key_file=f'"{broker.folder / "worker.key"}"',
        )
        here.environment = {}
        worker.again()
        until(worker.at_work, "it is at work", 240)
        here.feed(2_000, 2_000, seed=1).done()
        here.finish()
        # asyncio waits half a minute for a TLS peer's goodbye, and to open a partition takes clients that are closed.
        assert all(float(seconds) < 25 for seconds in re.findall(r"open at \d+ after ([\d.]+) s", worker.log.read_text()))
        exact(here)


def test_records_of_another_format_and_of_a_clock_that_is_ahead_go_to_the_dead_letters(site: Make) -> None:
    here = site(raw={"zeek": ("zeek_conn", 4), "odd": ("zeek_conn", 1)}, settings='kafka.compression = "zstd"')
    here.start("all")
    here.ready()
    odd = next(topic for topic in here.raw if topic.endswith(".odd"))
    hour_ahead = [flow(time.time() + 3_600, "10.1.0.1", "10.2.0.1", 443, 10, 10, f"A{number}") for number in range(5)]
    feeds = [here.feed(4_000, 2_000), Feed(here.bootstrap, odd, [*pods(200), *hour_ahead, *flows(100, seed=4)], 500, 1)]
    for each in feeds:
        each.done()
    here.finish()
    refold = Refold(here)
    # The five that are ahead are no rows, though their source can read them; nothing else is missing.
    ours = [each for each in refold.problems() if "5 rows are lost, 0 counted twice; the first at 200 of 305" not in each]
    assert (ours, len(refold.problems())) == ([], 2)
    letters = [letter for m in refold.letters if isinstance(letter := decode(m.value or b""), DeadLetter)]
    assert {letter.topic for letter in letters} == {odd}
    ahead = {letter.offset for letter in letters if letter.reason == "time-ahead"}
    assert ahead == set(range(200, 205))
    assert {letter.offset for letter in letters} == set(range(205))
