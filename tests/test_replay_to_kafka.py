"""Playing a trace into raw topics: the records at another time, at a pace, marked to the alert."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from connectors import ocsf
from connectors.kafka import Kafka, KafkaError, Raw
from connectors.shift import Unshiftable
from connectors.trace import TraceError
from connectors.wire import REPLAYED
from replay.record import RawRecord, Recorder
from replay.to_kafka import Pace, lanes_of, pace_of, records_of, shift_of
from replay.traces import Manifest, read_manifest
from tests.chaos import STAGES, Site
from tests.refold import read_topic
from tests.test_record_kafka import tocsin
from tests.traffic import START, flows

if TYPE_CHECKING:
    from tests.broker import Broker, Running

SECOND = 1_000_000
KAFKA = Kafka(raw=[Raw(topic="z", source="zeek_conn"), Raw(topic="other", source="zeek_conn")])


def recording(folder: Path, many: int = 40, topic: str = "z", source: str = "zeek_conn") -> Manifest:
    """Flows of a day over two partitions; each arrives a second after its time."""
    with Recorder(folder, sources={topic: source}) as recorder:
        for number, value in enumerate(flows(many, days=1.0)):
            arrival = START * SECOND + number * 86_400 * SECOND // many + SECOND
            recorder.put(RawRecord(topic, number % 2, number // 2, arrival, b"k", value))
    return read_manifest(folder)


def test_records_of_all_logs_come_by_arrival_each_to_its_own_topic_and_partition(tmp_path: Path) -> None:
    manifest = recording(tmp_path)
    lanes = lanes_of(tmp_path, manifest, KAFKA, {"z": 2, "other": 1}, 0)
    assert [(lane.topic, lane.partition) for lane in lanes] == [("z", 0), ("z", 1)]
    records = list(records_of(tmp_path, lanes))
    assert [record.value for record in records] == list(flows(40, days=1.0))
    assert {record.key for record in records} == {b"k"}


def test_a_topic_that_is_not_configured_goes_to_one_of_its_source_else_it_is_refused(tmp_path: Path) -> None:
    manifest = recording(tmp_path, topic="elsewhere")
    lanes = lanes_of(tmp_path, manifest, KAFKA, {"z": 1, "other": 1}, 0)
    assert {(lane.topic, lane.partition) for lane in lanes} == {("z", 0)}
    with pytest.raises(KafkaError, match="no topic for records of zeek_conn"):
        lanes_of(tmp_path, manifest, Kafka(raw=[Raw(topic="s", source="slurm_jobcomp")]), {"s": 1}, 0)


def test_a_trace_of_resolved_events_and_a_source_without_times_are_refused_before_anything_is_sent(tmp_path: Path) -> None:
    manifest = recording(tmp_path)
    manifest.logs[0].form = "events"
    with pytest.raises(TraceError, match="holds no raw records; record with --raw"):
        lanes_of(tmp_path, manifest, KAFKA, {"z": 1, "other": 1}, 0)
    manifest.logs[0].form = "raw"
    for entry in manifest.logs:
        entry.source = "table"
    tables = Kafka(raw=[Raw(topic="t", source="table")])
    assert lanes_of(tmp_path, manifest, tables, {"t": 1}, 0)
    with pytest.raises(Unshiftable, match=r"^table: "):
        lanes_of(tmp_path, manifest, tables, {"t": 1}, 60)


def test_at_the_recorded_pace_the_first_record_is_now_at_any_other_the_last_is(tmp_path: Path) -> None:
    manifest = recording(tmp_path)
    now = START + 10_000_000.0
    assert shift_of(manifest, Pace("recorded"), "now", now) == 10_000_000 - 1
    assert shift_of(manifest, Pace("max"), "now", now) == 10_000_000 - 1 - 86_400 * 39 // 40
    assert shift_of(manifest, Pace("max"), "none", now) == 0


@pytest.mark.parametrize("text", ["", "fast", "0", "-1", "nan", "inf", "1e9"])
def test_a_pace_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="expected recorded, max or records a second"):
        pace_of(text)


@pytest.mark.kafka
def test_a_recording_played_into_kafka_gives_alerts_that_say_so(broker: Broker | Running, tmp_path: Path) -> None:
    folder = tmp_path / "raw"
    with Recorder(folder, sources={"elsewhere": "zeek_conn"}) as recorder:
        for number, value in enumerate(flows(8_000, 3)):
            recorder.put(RawRecord("elsewhere", 0, number, START * SECOND + number * 6 * 86_400 * SECOND // 8_000, None, value))
    with Site(broker.bootstrap, tmp_path, partitions=1) as site:
        site.start("all", *STAGES)
        site.ready()
        said = tocsin("replay", folder, "--to", "kafka", "--rate", "4000", "--shift", "now", "--config", site.path)
        assert "8,000 records" in said
        site.finish()
        (topic, _), *_ = site.raw.items()
        (sent,) = read_topic(site, topic).values()
        assert all((REPLAYED, b"1") in message.headers for message in sent)
        assert abs(json.loads(sent[-1].value or b"")["ts"] - time.time()) < 300
        told = [m for messages in read_topic(site, site.topics.alerts).values() for m in messages if m.value is not None]
        assert len(told) > 3
        assert all((REPLAYED, b"1") in m.headers and ocsf.alert_of(m.value).replayed for m in told if m.value is not None)
