"""The benchmarks of latency: which record an alert is laid to, and that the whole of it runs on a real broker."""

# ruff: noqa: S603  what is run here is written here

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from msgspec.structs import replace

from benchmarks.containment import alert
from benchmarks.kafka_alerts import Left, alerted, opened
from benchmarks.kafka_load import Batch, Sent
from connectors import ocsf
from connectors.alert import Alert, Evidence

NOW = 1_704_067_200_000_000
BATCHES = [Batch(0, 100, 10, 5.0), Batch(0, 110, 1, 6.0), Batch(1, 100, 3, 7.0)]
SENT = Sent(14, {}, 0.0, 0.0, 5.0, 7.0, BATCHES)


def evidence(log: str, offset: int, score: float, time: int = NOW) -> Evidence:
    return Evidence(
        time=time,
        stream="flow",
        action="connect",
        outcome="success",
        actor="ip:10.0.0.1",
        object="ip:11.0.0.1",
        via="",
        detail="tcp/443",
        score=score,
        reasons=[],
        source="zeek_conn",
        partition=log,
        offset=offset,
        uid="C1",
        events=1,
        lowered=[],
    )


def told(uid: str, *pieces: Evidence, **more: object) -> str:
    """An alert as it is written; its score is that of the strongest piece."""
    made: Alert = replace(alert(0, "ip:10.0.0.1", uid), evidence=list(pieces), score=max(each.score for each in pieces), **more)
    return ocsf.encode(made, "0").decode()


INSIDE = [("raw-0", 100, 5.0), ("raw-0", 109, 5.0), ("raw-0", 110, 6.0), ("raw-1", 102, 7.0)]
OUTSIDE = [("raw-0", 99), ("raw-0", 111), ("raw-1", 103), ("raw-2", 100), ("other-0", 100)]


@pytest.mark.parametrize(("log", "offset", "at"), [*INSIDE, *((log, offset, None) for log, offset in OUTSIDE)])
def test_a_record_left_with_its_batch_and_others_are_of_no_load(log: str, offset: int, at: float | None) -> None:
    assert Left("raw", reversed(BATCHES)).at(log, offset) == at


def test_an_alert_is_laid_to_the_record_that_opened_it_and_is_late_by_what_it_took_to_come_first() -> None:
    first = told("a", evidence("raw-0", 109, 9.0), evidence("raw-1", 100, 4.0))
    late = told("b", evidence("raw-1", 101, 9.0, NOW - 1), evidence("raw-0", 110, 9.0, NOW))
    heard = [(5.5, first), (6.25, late), (9.0, first)]
    assert alerted("raw", SENT, heard) == [0.5, 0.25]
    assert alerted("raw", SENT, heard, since=5.5) == [0.25]
    assert alerted("raw", SENT, heard, until=6.0) == [0.5]


def test_what_opens_nothing_and_what_other_records_opened_is_not_measured() -> None:
    piece = evidence("raw-0", 100, 9.0)
    heard = [(6.0, told("a", piece, activity="update")), (6.0, told("b", evidence("raw-0", 5, 9.0)))]
    assert alerted("raw", SENT, heard) == []
    assert [uid for uid, _ in opened(heard)] == ["b"]


@pytest.mark.kafka
@pytest.mark.timeout(600)
def test_from_a_record_to_its_alert_and_to_the_call_beside_a_relay(tmp_path: Path) -> None:
    out = tmp_path / "figures.json"
    command = [sys.executable, "-m", "benchmarks.latency", "--quick", "--parts", "steady,action"]
    subprocess.run([*command, "--json", str(out), "--plot", str(tmp_path / "plot.html")], check=True, timeout=540)
    found = json.loads(out.read_text())
    assert found["steady"]["seen"] == len(found["steady"]["delays"]) > 0
    assert found["steady"]["relay"]["seen"] > 0
    assert all(delay > 0 for delay in found["steady"]["delays"] + found["action"]["delays"])
    assert found["action"]["seen"] > 0
    assert "record's production" in (tmp_path / "plot.html").read_text()
