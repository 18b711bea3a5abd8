"""Scenarios in a recorded trace: its own people and times, its order and its labels kept, everything that does not fit refused."""

from __future__ import annotations

import gzip
from itertools import pairwise
from pathlib import Path

import numpy as np
import orjson
import pytest

from connectors.event import DAY, SECOND
from connectors.names import Names
from connectors.sources import available as sources
from connectors.trace import TraceError
from replay.simulate.background import open_background
from replay.simulate.journal import CONN, FILES, SOURCES
from replay.simulate.labels import LABELS, read_labels
from replay.simulate.scenarios import available
from replay.simulate.splice import splice
from replay.simulating import splice_trace, write_trace
from replay.traces import MANIFEST, read_manifest, verify

ALL = list(available())
START = 1_772_409_600


@pytest.fixture(scope="module")
def trace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("recorded") / "trace"
    write_trace(out, days=2, seed=5, scale=0.05, scenarios=["slow-drip", "stolen-token"])
    return out


@pytest.fixture(scope="module")
def spliced(tmp_path_factory: pytest.TempPathFactory, trace: Path) -> Path:
    out = tmp_path_factory.mktemp("spliced") / "trace"
    splice_trace(out, trace, seed=1, scenarios=ALL)
    return out


def lines(path: Path) -> list[bytes]:
    return path.read_bytes().splitlines()


def test_every_scenario_can_be_spliced_and_the_folder_is_a_trace(spliced: Path) -> None:
    manifest = read_manifest(spliced)
    verify(spliced, manifest)
    labels = read_labels(spliced / LABELS)
    assert [label.scenario for label in labels[:2]] == ["stolen-token", "slow-drip"]
    assert len(labels) == len(ALL) + 2
    assert {label.scenario for label in labels} == set(ALL)
    assert all(label.records for label in labels)


def test_without_what_was_added_the_recording_is_left(trace: Path, spliced: Path) -> None:
    added = read_labels(spliced / LABELS)[2:]
    for name in FILES:
        mine = {number for label in added for number in label.records.get(name, ())}
        assert [line for number, line in enumerate(lines(spliced / name)) if number not in mine] == lines(trace / name)


def test_labels_of_the_recording_point_to_the_same_records(trace: Path, spliced: Path) -> None:
    moved = False
    for before, after in zip(read_labels(trace / LABELS), read_labels(spliced / LABELS), strict=False):
        assert before.scenario == after.scenario
        for name, numbers in before.records.items():
            old, new = lines(trace / name), lines(spliced / name)
            assert [old[number] for number in numbers] == [new[number] for number in after.records[name]]
            moved |= numbers != after.records[name]
    assert moved


def test_event_time_keeps_its_order(spliced: Path) -> None:
    for name, source in SOURCES.items():
        times = sources()[source](Names()).decode(lines(spliced / name)).block.time.tolist()
        # Slurm and the attestation service cut their times to seconds.
        assert all(before <= after + SECOND for before, after in pairwise(times)), name


def test_attackers_are_people_and_pods_of_the_recording(trace: Path, spliced: Path) -> None:
    known: set[str] = set()
    for name, source in SOURCES.items():
        decoded = sources()[source](Names()).decode(lines(trace / name))
        known |= set(decoded.block.names.values) | {binding.target or "" for binding in decoded.bindings}
    for label in read_labels(spliced / LABELS)[2:]:
        strangers = {name for name in label.principals if name not in known and not name.startswith(("ip:192.0.2.", "node:"))}
        assert not strangers, label.scenario


def test_the_same_seed_splices_the_same(tmp_path: Path, trace: Path, spliced: Path) -> None:
    splice_trace(tmp_path / "again", trace, seed=1, scenarios=ALL)
    assert all((tmp_path / "again" / name).read_bytes() == (spliced / name).read_bytes() for name in (*FILES, LABELS, MANIFEST))


def conn(at: int, source: str = "10.0.0.5", target: str = "203.0.113.7") -> bytes:
    record = {"ts": START + at, "uid": f"C{at}", "id.orig_h": source, "id.orig_p": 40000, "id.resp_h": target, "id.resp_p": 443}
    record |= {"proto": "tcp", "duration": 0.5, "orig_bytes": 100, "resp_bytes": 900, "conn_state": "SF"}
    return orjson.dumps(record) + b"\n"


def test_a_short_log_of_flows_alone_gets_what_needs_only_flows(tmp_path: Path) -> None:
    log = tmp_path / "conn.log.gz"
    log.write_bytes(gzip.compress(b"".join(conn(10 * at) for at in range(200))))
    splice_trace(tmp_path / "out", log, seed=1, scenarios=["c2-beacon"])
    (label,) = read_labels(tmp_path / "out" / LABELS)
    assert label.principals == ["ip:10.0.0.5"]
    assert START * SECOND < label.first_us < label.last_us <= (START + 2000) * SECOND
    assert len(label.records[CONN]) >= 15
    block = sources()["zeek_conn"](Names()).decode(lines(tmp_path / "out" / CONN)).block
    assert (np.diff(block.time) >= 0).all()


@pytest.mark.parametrize("name", ["bulk-pull", "gpu-hoarding", "credential-stuffing"])
def test_a_scenario_whose_logs_are_lacking_is_refused_by_name(tmp_path: Path, name: str) -> None:
    (tmp_path / "conn.log").write_bytes(conn(0) + conn(60))
    with pytest.raises(ValueError, match=f"{name}: needs a log of"):
        splice(tmp_path / "out", tmp_path / "conn.log", [name], 1)
    assert not (tmp_path / "out").exists()


def test_a_trace_with_no_room_is_refused(tmp_path: Path) -> None:
    (tmp_path / "conn.log").write_bytes(conn(0))
    with pytest.raises(ValueError, match="finds no place"):
        splice(tmp_path / "out", tmp_path / "conn.log", ["c2-beacon"], 1)


def test_what_is_no_trace_is_refused_with_its_name(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"hello\n")
    for path in (tmp_path / "a.txt", tmp_path, tmp_path / "none"):
        with pytest.raises(TraceError, match=str(path)):
            open_background(path)


def test_a_trace_is_not_spliced_into_itself(trace: Path) -> None:
    with pytest.raises(ValueError, match="give another folder"):
        splice(trace, trace, ["c2-beacon"], 1)


def test_a_folder_of_logs_without_a_manifest_is_taken(tmp_path: Path, trace: Path) -> None:
    bare = tmp_path / "bare"
    bare.mkdir()
    for name in FILES:
        (bare / name).write_bytes((trace / name).read_bytes())
    found = splice(tmp_path / "out", bare, ["stolen-account-mining"], 1)
    assert {log.name for log, *_ in found.logs} == set(FILES)
    (attack,) = found.attacks
    assert attack.last - attack.first < 2 * DAY
