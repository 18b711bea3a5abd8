"""Raw records that are gone before they were read are counted and told; a log that runs back ends the process; markers are no lag."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest
from aiokafka import TopicPartition

from connectors.event import DAY, MINUTE, SECOND
from connectors.status import Heartbeat, Lag, Lost, decode, encode
from detector import takeover
from detector.agreed import Agreed, Mark, Sight
from detector.blindspots import Watch
from detector.collect import Collector
from detector.lane import Lane
from detector.process import REFUSED, Halt
from detector.watch import Watcher

TP = TopicPartition("zeek", 0)


class Broker:
    """A consumer of one log that begins and ends somewhere. ``at``: where the consumer stands."""

    def __init__(self, begin: int = 0, end: int = 0, at: int = 0) -> None:
        self.begin, self.end, self.at = begin, end, at
        self.asked = 0

    async def beginning_offsets(self, _: Any) -> dict[TopicPartition, int]:
        self.asked += 1
        return {TP: self.begin}

    def highwater(self, _: Any) -> int:
        return self.end

    async def position(self, _: Any) -> int:
        return self.at


def collector(broker: Broker, uuid: str = "u") -> tuple[Collector, Lane, list[Any]]:
    """A collector that reads one log, and what it says to the status topic."""
    each = Collector.__new__(Collector)
    said: list[Any] = []

    async def uuids(_: list[str]) -> dict[str, str]:
        return {"zeek": uuid}

    process = SimpleNamespace(name="ingest-0", say=said.append, uuids=uuids, metrics=SimpleNamespace(reject=lambda *_: None))
    each.process, each._consumer = process, broker  # type: ignore[assignment]
    lane = Lane("zeek", 0, "u", "zeek_conn", None, Sight("zeek-0@u", Agreed(10), []), begun=True)  # type: ignore[arg-type]
    each.lanes = {TP: lane}
    return each, lane, said


def messages(*offsets: int) -> dict[TopicPartition, list[Any]]:
    return {TP: [SimpleNamespace(offset=offset) for offset in offsets]}


def look(each: Collector, *offsets: int, same: bool = True) -> None:
    asyncio.run(each._look_back(messages(*offsets), same=same))


def test_records_that_the_broker_deleted_before_they_were_read_are_counted_and_told(caplog: pytest.LogCaptureFixture) -> None:
    each, lane, said = collector(Broker(begin=500, end=900))
    lane.position = 100
    look(each, 500, 501)
    (lost,) = said
    assert (lost.topic, lost.partition, lost.records, lost.begins) == ("zeek", 0, 400, 500)
    assert "zeek 0: 400 records are lost" in caplog.text
    assert decode(encode(lost)) == lost


def test_what_transactions_leave_out_is_no_loss_and_a_marker_costs_no_question() -> None:
    broker = Broker(begin=0, end=900)
    each, lane, said = collector(broker)
    lane.position = 100
    look(each, 101, 102)
    assert broker.asked == 0
    lane.position = 103
    look(each, 200, 201)
    assert broker.asked == 1
    assert said == []


@pytest.mark.parametrize(("uuid", "why"), [("u", "its newest records were lost"), ("u2", "was made anew since")])
def test_a_log_that_runs_back_under_a_running_ingest_is_refused(uuid: str, why: str) -> None:
    each, lane, _ = collector(Broker(end=40), uuid)
    lane.position = 100
    look(each, 100, 101)
    lane.position = 102
    with pytest.raises(Halt, match=why) as halt:
        look(each, 0, 1)
    assert halt.value.code == REFUSED
    assert "tocsin accept-topic zeek" in str(halt.value)


def test_what_is_polled_again_after_logs_were_given_anew_is_no_running_back() -> None:
    each, lane, _ = collector(Broker(end=300))
    lane.position = 100
    # Polled before, taken up after the log was taken away and given back; then read again from what was committed.
    look(each, 100, 150, same=False)
    lane.position = 151
    look(each, 100, 150)
    look(each, 151, 160)


def test_markers_of_transactions_are_passed_over_so_that_a_quiet_log_has_no_lag() -> None:
    each, lane, _ = collector(Broker(end=101, at=101))
    lane.position, lane.hold, lane.last_arrival = 100, 101, 1
    assert each._lag(TP, lane).records == 1
    asyncio.run(each._pass_over())
    assert lane.position == lane.hold == 101
    assert each._lag(TP, lane) == Lag(records=0, seconds=0.0)


def _taken(monkeypatch: pytest.MonkeyPatch, span: tuple[int, int], offset: int, *, clean: bool = False) -> Lane:
    async def kept(_: Any) -> Any:
        return {TP: (offset, Mark(clean=clean))}

    async def nothing(*_: Any, **__: Any) -> int:
        return 0

    async def uuids(_: list[str]) -> dict[str, str]:
        return {"zeek": "u"}

    monkeypatch.setattr(takeover, "_kept", kept)
    monkeypatch.setattr(takeover, "told_to_the_end", nothing)
    topics = SimpleNamespace(control="control", bindings="bindings")
    process: Any = SimpleNamespace(uuids=uuids, out=SimpleNamespace(put=lambda _: None), topics=topics, client={})
    sources: Any = {"zeek": ("zeek_conn", None)}
    return asyncio.run(takeover.taken_over(process, sources, {TP: span}, Agreed(10), {}))[TP][0]


def test_a_log_that_begins_after_what_was_committed_says_how_many_are_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    lane = _taken(monkeypatch, (500, 900), 100)
    assert (lane.committed, lane.position, lane.lost, lane.hold) == (100, 500, 400, 900)
    lane = _taken(monkeypatch, (50, 900), 100)
    assert (lane.position, lane.lost) == (100, 0)


def test_a_log_that_ends_before_what_was_committed_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(Halt, match="was read up to 100, and the broker has it at 40"):
        _taken(monkeypatch, (0, 40), 100)


def test_lost_records_are_a_blind_spot_for_a_day() -> None:
    watcher = Watcher(Watch())
    lost = Lost(process="ingest-0", topic="zeek", partition=3, records=12_000, begins=500)
    (alert,) = watcher.fold(0, lost)
    assert (alert.activity, alert.blamed, alert.severity) == ("open", "service:tocsin/lost/zeek/3", 4)
    assert "12,000 records of zeek 3" in alert.notice
    beat = Heartbeat(process="fuse-0", stage="fuse", time=0, started=0)
    later = [each for at in range(0, DAY + MINUTE, 10 * SECOND) for each in watcher.fold(at, beat)]
    assert [(each.activity, each.blamed, each.revision) for each in later] == [("close", "service:tocsin/lost/zeek/3", 1)]
