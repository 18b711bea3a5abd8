"""The whole way on a real broker: an attack in a raw topic becomes a containment that is verified, accounted for and taken back."""

from __future__ import annotations

import json
import random
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

from detector.ledger import Ledger
from replay.cli import app
from tests.broker import Broker, Running
from tests.chaos import Site, until
from tests.respond_stage import TTL, Station
from tests.traffic import DAY, Feed, flow

pytestmark = [pytest.mark.kafka, pytest.mark.timeout(600)]

#: Days of quiet before the attacks: long enough for profiles of every host.
QUIET_DAYS = 4.0
HOSTS, SERVERS = 60, 12


def quiet(many: int, until_: float) -> Iterator[bytes]:
    """Hosts that keep to their few servers, up to a time (seconds)."""
    draw = random.Random(5)
    for number in range(many):
        at = until_ - QUIET_DAYS * DAY * (1 - number / many)
        who = draw.randrange(HOSTS)
        server, out, back = (who * 7 + draw.randrange(3)) % SERVERS, draw.lognormvariate(8, 1), draw.lognormvariate(9, 1)
        yield flow(at, f"10.1.0.{who}", f"10.2.0.{server}", 443, out, back, f"Q{number}")


def attack(host: str, at: float) -> Iterator[bytes]:
    """A host that scans where it has never been, and carries much away."""
    for number in range(120):
        yield flow(at + number / 100, host, f"10.9.{number % 7}.{number}", 4_000 + number, 5e9, 100.0, f"A{host}x{number}")


@pytest.fixture(scope="module")
def site(broker: Broker | Running, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """All stages, with some days behind them."""
    folder = tmp_path_factory.mktemp("site")
    with Site(broker.bootstrap, folder, partitions=2, raw={"zeek": ("zeek_conn", 1)}, settings="worker.tick_seconds = 1") as made:
        made.start("all", "ingest", "actor", "object", "fuse", "budget")
        made.ready()
        feed(made, quiet(24_000, time.time() - 30), 6_000)
        until(lambda: made.at_the_end("ingest"), "the quiet days are read", 120)
        yield made


def feed(site: Site, records: Iterator[bytes], rate: float) -> None:
    Feed(site.bootstrap, next(iter(site.raw)), records, rate, 1).done()


@pytest.mark.parametrize(("host", "crash"), [("10.1.0.7", ""), ("10.1.0.8", "row decided/enforced:after"), ("10.1.0.9", "apply:after")])
def test_an_attack_is_contained_once_and_for_its_time_whenever_the_responder_is_killed(
    site: Site, tmp_path: Path, host: str, crash: str
) -> None:
    with Station(site.bootstrap, site.prefix, tmp_path) as own:
        # What an earlier one has anchored is of another ledger.
        own.path.write_text(own.path.read_text().replace("anchor_topic = true", f'anchor_file = "{tmp_path}/anchors"'))
        own.start(crash=crash)
        feed(site, attack(host, time.time() - 2), 200)
        target, name = f"ip:{host}", host
        if crash:
            assert own.died() == -signal.SIGKILL, own.log[-2000:]
            own.start()
        until(lambda: name in own.off, f"{host} is stopped; {own.log[-1000:]}")
        until(lambda: any((row.target, row.result) == (target, "verified") for row in own.rows()), "seen to be stopped", every=0.2)
        assert own.stop()[0] == 0
        own.start(later=TTL + 1)
        until(lambda: not own.off, f"{host} is let go, and those of earlier attacks, whose alerts are still young")
        until(lambda: any((row.target, row.result) == (target, "undo-verified") for row in own.rows()), "seen to be let go", every=0.2)
        assert own.stop()[0] == 0
        enforced = {row.target.removeprefix("ip:"): row.action for row in own.rows() if row.result == "enforced"}
        assert name in enforced
        for stopped, action in enforced.items():
            changes = [change for change in own.changes if change.split()[1] == stopped]
            assert changes == [f"off {stopped} {action}", f"on {stopped} {action}"], "one effect, and its end"
        with Ledger.at(tmp_path / "ledger", create=False) as ledger:
            assert ledger.verify_chain() is None
        said = CliRunner().invoke(app, ["kpi", "--json", "--config", str(own.path)])
        assert json.loads(said.stdout)["verified"] >= 1
