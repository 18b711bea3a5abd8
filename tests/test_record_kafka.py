"""Recording from a real broker: what is replayed from a recording gives the alerts that Kafka gave."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from aiokafka.admin import NewTopic

from connectors import ocsf
from replay.traces import read_manifest
from tests.chaos import STAGES, Site, until
from tests.refold import Refold, read_topic
from tests.traffic import Feed, flows

if TYPE_CHECKING:
    from tests.broker import Broker, Running

pytestmark = pytest.mark.kafka
EVENTS = 12_000


def tocsin(*words: str | Path, code: int = 0) -> str:
    """Run a command to its end. Returns what it said."""
    done = subprocess.run(  # noqa: S603  our own command
        [sys.executable, "-m", "replay.cli", *map(str, words)], capture_output=True, text=True, timeout=240, check=False
    )
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout + done.stderr


def lived(site: Site, many: int = EVENTS, seed: int = 3, rate: int = 4_000) -> set[bytes]:
    """Feed a site and let it come to rest. Returns the alerts it gave."""
    site.start("all", *STAGES)
    site.ready()
    (topic, (_, partitions)), *_ = site.raw.items()
    Feed(site.bootstrap, topic, flows(many, seed), rate, partitions).done()
    site.finish()
    return alerts_of(site)


def alerts_of(site: Site) -> set[bytes]:
    return {m.value for messages in read_topic(site, site.topics.alerts).values() for m in messages if m.value is not None}


def replayed(site: Site, folder: Path, *more: str) -> set[bytes]:
    out = folder.with_suffix(".jsonl")
    tocsin("replay", folder, "--config", site.path, "--alerts", out, *more)
    return {line.rstrip(b"\n") for line in out.read_bytes().splitlines()}


def test_with_one_partition_both_recordings_replay_to_the_very_alerts_that_kafka_gave(broker: Broker | Running, tmp_path: Path) -> None:
    with Site(broker.bootstrap, tmp_path, partitions=1) as site:
        live = {line.rstrip(b"\n") for line in lived(site)}
        raw, blocks = tmp_path / "raw", tmp_path / "blocks"
        said = tocsin("record", "--from", "kafka", "--raw", "--until", "now", "--out", raw, "--config", site.path)
        assert f"{EVENTS:,} records" in said
        tocsin("record", "--from", "kafka", "--by-actor", "--until", "now", "--out", blocks, "--config", site.path)
        assert read_manifest(blocks).titles == [f"{next(iter(site.raw))}-0"]
        assert len(live) > 5
        assert replayed(site, raw) == live
        assert replayed(site, blocks) == live


def test_with_four_partitions_every_stage_is_the_fold_of_its_log_and_the_rest_is_interleaving(
    broker: Broker | Running, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with Site(broker.bootstrap, tmp_path, partitions=4) as site:
        # Slowly: the budget's threshold reaches a judge after all evidence that is in its log by then, and a day passes in six seconds.
        # Where a day passes in one, judges go by their own cells meanwhile, and some eight of ten blamed are the same.
        live = lived(site, 20_000, rate=600)
        assert Refold(site).problems() == []
        blocks = tmp_path / "blocks"
        tocsin("record", "--from", "kafka", "--by-actor", "--until", "now", "--out", blocks, "--config", site.path)
        again = replayed(site, blocks, "--partitions", "4")
        with capsys.disabled():
            sys.stdout.write(f"\n{compared(live, again)}\n")
        opened, opened_again = blamed(live), blamed(again)
        # The log's order within a partition is Kafka's; only which partition was heard first differs.
        assert len(opened & opened_again) >= 0.6 * max(len(opened), len(opened_again)) > 0


def blamed(alerts: set[bytes]) -> set[tuple[str, str]]:
    return {(alert.line, alert.blamed) for alert in map(ocsf.alert_of, alerts)}


def compared(live: set[bytes], again: set[bytes]) -> str:
    """What differs, for people."""
    uids = [{alert.uid for alert in map(ocsf.alert_of, each)} for each in (live, again)]
    who = [blamed(live), blamed(again)]
    return (
        f"four partitions: live {len(uids[0])} alerts, replay --partitions 4 {len(uids[1])}; the same id {len(uids[0] & uids[1])};"
        f" blamed {len(who[0])} and {len(who[1])}, both {len(who[0] & who[1])};"
        f" revisions byte for byte {len({x.strip() for x in live} & {x.strip() for x in again})} of {len(live)}"
    )


def test_a_recording_ends_at_a_signal_with_a_whole_trace_and_goes_on_where_it_was(broker: Broker | Running, tmp_path: Path) -> None:
    with Site(broker.bootstrap, tmp_path, partitions=1) as site:
        (topic, _), *_ = site.raw.items()
        out = tmp_path / "raw"
        words = ["record", "--from", "kafka", "--out", str(out), "--config", str(site.path)]
        Feed(site.bootstrap, topic, flows(3_000), 20_000, 1).done()
        running = subprocess.Popen([sys.executable, "-m", "replay.cli", *words], stdout=subprocess.DEVNULL)  # noqa: S603
        until(lambda: list(out.glob("*/*/*.part")), "it has begun to write")
        time.sleep(1.0)
        running.send_signal(signal.SIGTERM)
        assert running.wait(60) == 0
        # The signal may come before all is recorded.
        many = sum(entry.records for entry in read_manifest(out).logs)
        assert 0 < many <= 3_000
        Feed(site.bootstrap, topic, flows(2_000, 9), 20_000, 1).done()
        assert "5,000 records" in tocsin(*words, "--until", "now")
        assert [entry.offsets for entry in read_manifest(out).logs] == [(0, many - 1), (many, 4_999)]
        assert "4,000" in tocsin("record", "--from", "kafka", "--until", "4000", "--out", tmp_path / "b", "--config", site.path)
        assert "1,500" in tocsin(
            "record", "--from", "kafka", "--max-records", "1500", "--since", "100", "--out", tmp_path / "c", "--config", site.path
        )


def test_a_log_that_was_made_anew_or_lost_its_beginning_is_not_gone_on_with(broker: Broker | Running, tmp_path: Path) -> None:
    with Site(broker.bootstrap, tmp_path, partitions=1) as site:
        (topic, _), *_ = site.raw.items()
        words: list[Any] = ["record", "--from", "kafka", "--until", "now", "--out", tmp_path / "raw", "--config", site.path]
        Feed(site.bootstrap, topic, flows(500), 20_000, 1).done()
        tocsin(*words)
        site.admin(lambda admin: admin.delete_topics([topic]))
        time.sleep(1.0)
        site.admin(lambda admin: admin.create_topics([NewTopic(topic, 1, 1)]))
        assert f"{topic}: not the topic that was recorded here" in " ".join(tocsin(*words, code=3).split())
