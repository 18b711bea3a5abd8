"""Messages of Kafka into a recording: each event once, under names that stay, and a long replay of them within bounds."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

from connectors.alert import Alert
from connectors.names import Names
from connectors.trace import TraceError
from connectors.wire import Tick, encode_tick
from detector.config import parse
from detector.pipeline import Cores, Pipeline
from detector.router import by_actor
from replay.from_kafka import _same_topics
from replay.pseudonyms import Pseudonyms
from replay.record import Recorder
from replay.recorded import EventTrace
from replay.tape import Tape
from replay.traces import read_manifest
from tests.logs import log
from tests.stage_logs import whole_records


class Message(NamedTuple):
    topic: str
    partition: int
    offset: int
    timestamp: int
    value: bytes
    key: bytes | None = None


def messages(many: int = 600, log_name: str = "raw-0@id") -> list[Message]:
    """A by-actor log of one partition, a millisecond between two blocks."""
    made = [data for part in whole_records(log(many), 50) for _, data in by_actor(part, (log_name,), 0, 1)]
    return [Message("t.by-actor", 0, number, 1_000 + number, data) for number, data in enumerate(made)]


def recorder(folder: Path, **more: Any) -> Recorder:
    return Recorder(folder, sources=None, titles=None, **more)


def recorded(folder: Path, said: list[Message], pseudonyms: Pseudonyms | None = None) -> Tape:
    with recorder(folder, pseudonyms=pseudonyms) as made:
        tape = Tape(made, "by-actor", pseudonyms)
        for message in said:
            tape.put(message)
    return tape


def rows(folder: Path) -> list[int]:
    manifest = read_manifest(folder)
    trace = EventTrace(folder, manifest.logs, manifest.titles, Names())
    return [record for block in trace.blocks() for record in block.record.tolist()]


def test_rows_that_ingest_has_sent_twice_are_recorded_once_as_the_stages_count_them(tmp_path: Path) -> None:
    said = messages()
    again = [each._replace(offset=each.offset + len(said)) for each in said[5:]]
    recorded(tmp_path / "once", said)
    tape = recorded(tmp_path / "twice", said + again)
    assert tape.repeated > 100
    assert rows(tmp_path / "twice") == rows(tmp_path / "once")


def test_a_recording_that_goes_on_knows_what_it_has_of_each_log(tmp_path: Path) -> None:
    said = messages()
    recorded(tmp_path, said[:6])
    # Sent again by an ingest that was killed, after the recording was ended.
    tape = recorded(
        tmp_path, [*(each._replace(offset=each.offset + 6) for each in said[:6]), *(e._replace(offset=e.offset + 6) for e in said[6:])]
    )
    assert tape.repeated > 0
    assert sorted(rows(tmp_path)) == sorted(log(600).record.tolist())
    assert read_manifest(tmp_path).titles == ["raw-0"]


def test_under_pseudonyms_no_log_is_called_by_its_name_and_a_recording_still_goes_on(tmp_path: Path) -> None:
    key, said = Pseudonyms(b"k" * 32), messages(log_name="secret.topic-0@id")
    recorded(tmp_path, said[:6], key)
    recorded(tmp_path, said[6:], key)
    assert read_manifest(tmp_path).titles == ["log-0"]
    assert b"secret" not in b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
    assert len(rows(tmp_path)) == len(log(600))


def test_under_pseudonyms_no_topic_and_no_id_of_one_is_told_and_another_topic_is_still_refused(tmp_path: Path) -> None:
    key = Pseudonyms(b"k" * 32)
    said = [each._replace(topic="acme.by-actor") for each in messages()]

    def go_on(part: list[Message], uuid: str) -> None:
        with recorder(tmp_path, pseudonyms=key) as made:
            tape = Tape(made, "by-actor", key)
            _same_topics(tape, {"acme.by-actor": uuid})
            assert tape.position("acme.by-actor", 0) == (None if not made.manifest.logs else 6)
            for message in part:
                tape.put(message)

    go_on(said[:6], "the-uuid")
    with pytest.raises(TraceError, match=r"acme\.by-actor: not the topic that was recorded here"):
        go_on(said[6:], "another-uuid")
    go_on(said[6:], "the-uuid")
    assert len(rows(tmp_path)) == len(log(600))
    told = b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
    assert b"acme" not in told
    assert b"the-uuid" not in told
    assert not [path for path in tmp_path.rglob("*") if "acme" in path.name]


def test_ticks_are_passed_over_and_what_is_no_block_is_refused_by_place(tmp_path: Path) -> None:
    tick = Message("t.by-actor", 0, 0, 1_000, encode_tick(Names(), Tick(1, 1)))
    assert recorded(tmp_path / "a", [tick]).passed == 1
    with pytest.raises(TraceError, match=r"t\.by-actor 0 at 0: not a block of ours"):
        recorded(tmp_path / "b", [tick._replace(value=b"poison")])


def test_a_long_replay_of_events_lets_go_of_names_and_gives_the_same_alerts(tmp_path: Path) -> None:
    recorded(tmp_path, messages(3_000))
    manifest, given = read_manifest(tmp_path), parse("budget.alerts_per_day = 2000\n")
    told = []
    for limit in (40, 2_000_000):
        names = Names(limit)
        alerts: list[Alert] = []
        pipeline = Pipeline(Cores(given), names=names, on_alert=alerts.append)
        trace = EventTrace(tmp_path, manifest.logs, manifest.titles, names)
        for _ in pipeline.run_resolved(trace.blocks(), manifest.titles):
            assert names.held < limit + 500
        assert (names.epoch > 5) == (limit == 40)
        told.append(alerts)
    assert told[0] == told[1]
    assert len(told[0]) > 3
    assert np.isfinite([alert.score for alert in told[0]]).all()
