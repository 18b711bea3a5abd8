"""Replays at a pace: the same alerts as at full speed, at the times they are due, and no broken clock holds one up."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import msgspec
import orjson
import pytest

from connectors.event import SECOND
from connectors.names import Names
from connectors.shift import Shift
from replay import play as play_module
from replay.inputs import Pace, PacedLog, open_inputs
from replay.to_kafka import Lane, records_of
from replay.traces import described
from tests.test_pipeline import conn, office
from tests.test_record import recorded, records, replayed

START = 1_772_409_600.0
FAR = 4_071_000_000.0


class Clock:
    """A clock that only sleep moves."""

    def __init__(self) -> None:
        self.now = 0.0
        self.slept: list[float] = []

    def pace(self, factor: float) -> Pace:
        return Pace(factor, lambda: self.now, self.sleep)

    def sleep(self, seconds: float) -> None:
        assert seconds > 0
        self.slept.append(seconds)
        self.now += seconds


@pytest.mark.parametrize("form", ["lines", "raw"])
def test_at_sixty_times_the_speed_the_alerts_are_those_of_full_speed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, form: str
) -> None:
    lines = office(2.0)
    trace = tmp_path / "trace"
    if form == "lines":
        trace = tmp_path / "conn.log"
        trace.write_bytes(b"\n".join(lines) + b"\n")
    else:
        recorded(trace, records(lines))
    summary, truth = replayed(trace)
    clock = Clock()
    monkeypatch.setattr(play_module, "Pace", partial(Pace, clock=lambda: clock.now, sleep=clock.sleep))
    paced, alerts = replayed(trace, speed=60.0)
    assert truth
    assert msgspec.to_builtins(alerts) == msgspec.to_builtins(truth)
    assert (paced.events, paced.state_digest) == (summary.events, summary.state_digest)
    span = orjson.loads(lines[-1])["ts"] - orjson.loads(lines[0])["ts"]
    assert sum(clock.slept) == pytest.approx(span / 60)
    assert len(clock.slept) > 50


def slept(tmp_path: Path, times: list[float]) -> tuple[float, int]:
    """Seconds slept over a log of connections at these times, at the recorded speed, and the events that came."""
    path = tmp_path / "conn.log"
    path.write_bytes(b"".join(conn(at, "10.0.0.1", "10.0.1.1") + b"\n" for at in times))
    clock = Clock()
    (log,) = open_inputs([path], None, None, Names(), 64).logs
    many = sum(len(decoded.block) for decoded in PacedLog(log, clock.pace(1.0), 24.0))
    return sum(clock.slept), many


@pytest.mark.parametrize("place", [0, 70, 199])
def test_a_row_of_the_far_future_is_not_waited_for(tmp_path: Path, place: int) -> None:
    times = [START + at for at in range(200)]
    times[place] = FAR
    took, many = slept(tmp_path, times)
    assert took <= 199
    # It still comes, for ingest to refuse it.
    assert many == 200


def test_a_row_of_the_far_past_is_not_waited_from(tmp_path: Path) -> None:
    took, many = slept(tmp_path, [1e9, *(START + at for at in range(200))])
    assert took == pytest.approx(199)
    assert many == 201


def test_a_gap_in_the_log_is_waited_for(tmp_path: Path) -> None:
    took, many = slept(tmp_path, [START + at + (at >= 100) * 4 * 86_400 for at in range(200)])
    assert took == pytest.approx(4 * 86_400 + 199)
    assert many == 200


def test_played_into_kafka_a_row_of_the_far_future_is_due_with_its_neighbours(tmp_path: Path) -> None:
    times = [START + at for at in range(1200)]
    times[600] = FAR
    (tmp_path / "conn.log").write_bytes(b"".join(conn(at, "10.0.0.1", "10.0.1.1") + b"\n" for at in times))
    entry = described(tmp_path, "conn.log", "zeek_conn", 1200, None, None)
    due = [record.time for record in records_of(tmp_path, [Lane([entry], "t", 0, Shift("zeek_conn", 0))])]
    assert len(due) == 1200
    assert due == sorted(due)
    assert due[600] == due[599]
    assert due[-1] == due[0] + 1199 * SECOND
