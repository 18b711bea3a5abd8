"""Splicing into recordings as they are found: of several sources, with broken clocks and broken records, with names without end."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import orjson
import pytest

from connectors.event import DAY, HOUR, SECOND
from connectors.names import Names
from connectors.sources import available as sources
from connectors.sources.slurm_jobcomp import SlurmJobcomp
from connectors.sources.suricata_flow import SuricataFlow
from replay.inputs import open_inputs
from replay.record import Bounds, RawRecord, Recorder
from replay.simulate import found as found_module
from replay.simulate.background import each_record, open_background
from replay.simulate.found import Finder
from replay.simulate.labels import LABELS, read_labels
from replay.simulate.splice import splice
from replay.simulate.world import randomness
from replay.simulating import splice_trace
from replay.timed import timed
from replay.traces import read_manifest, verify
from tests.test_simulate_splice import START, conn


def eve(at: int) -> bytes:
    record = orjson.loads(SuricataFlow.example)
    record["flow_id"] = at
    moment = str(np.datetime64((START + at) * SECOND, "us")) + "+0000"
    record["timestamp"] = moment
    record["flow"] |= {"start": moment, "end": moment}
    return orjson.dumps(record)


def test_a_recording_of_raw_topics_is_written_out_whole_whatever_its_sources_are(tmp_path: Path) -> None:
    topics = {"zeek": "zeek_conn", "suri": "suricata_flow"}
    with Recorder(tmp_path / "raw", sources=topics, bounds=Bounds(roll_records=100, roll_seconds=None)) as recorder:
        for at in range(0, 4000, 10):
            arrival = (START + at + 1) * SECOND
            recorder.put(RawRecord("zeek", 0, at // 10, arrival, None, conn(at).rstrip()))
            # As a shipper may have it: over several lines.
            recorder.put(RawRecord("suri", 0, at // 10, arrival, None, eve(at).replace(b',"src_ip"', b',\n"src_ip"')))
    assert len(read_manifest(tmp_path / "raw").logs) > 4
    splice_trace(tmp_path / "out", tmp_path / "raw", seed=1, scenarios=["c2-beacon"])
    manifest = read_manifest(tmp_path / "out")
    verify(tmp_path / "out", manifest)
    (suri,) = (entry for entry in manifest.logs if entry.source == "suricata_flow")
    assert (suri.form, suri.records) == ("lines", 400)
    assert suri.first is not None
    assert suri.first < (suri.last or "")
    whole = {Path(log.path).name: list(log) for log in open_inputs([tmp_path / "out"], None, None, Names(), 100).logs}
    assert sum(len(decoded.block) for decoded in whole[suri.path]) == 400
    assert not [reject for log in whole.values() for decoded in log for reject in decoded.rejects]


def test_a_log_of_another_source_in_a_folder_without_a_manifest_is_counted(tmp_path: Path) -> None:
    bare = tmp_path / "bare"
    bare.mkdir()
    (bare / "conn.log").write_bytes(b"".join(conn(10 * at) for at in range(200)))
    (bare / "eve.json").write_bytes(b"".join(eve(10 * at) + b"\n" for at in range(50)))
    splice_trace(tmp_path / "out", bare, seed=1, scenarios=["c2-beacon"])
    assert {entry.path: entry.records for entry in read_manifest(tmp_path / "out").logs}["eve.json"] == 50
    assert (tmp_path / "out" / "eve.json").read_bytes() == (bare / "eve.json").read_bytes()


@pytest.mark.parametrize("place", [0, 77, 199], ids=["first", "among", "last"])
def test_one_broken_clock_moves_no_attack(tmp_path: Path, place: int) -> None:
    far = (4_071_000_000 - START) // 10  # in 2099
    for name, times in (("good", range(200)), ("bad", [far if at == place else at for at in range(200)])):
        log = tmp_path / name / "conn.log"
        log.parent.mkdir()
        log.write_bytes(b"".join(conn(10 * at) for at in times))
        splice_trace(tmp_path / f"{name}-out", log, seed=1, scenarios=["c2-beacon"])
    good, bad = (read_labels(tmp_path / f"{name}-out" / LABELS)[0] for name in ("good", "bad"))
    assert START * SECOND < bad.first_us < bad.last_us <= (START + 2000) * SECOND
    # Among the records of its time, not before or after all of them.
    assert abs(len(bad.records["conn.log"]) - len(good.records["conn.log"])) <= 2
    assert np.diff(bad.records["conn.log"]).max() < 30


def test_a_gap_in_a_log_is_no_broken_clock() -> None:
    lines = [conn(at).rstrip() for at in (*range(100), *range(10 * 86_400, 10 * 86_400 + 100))]
    for size in (1, 7, 64, 1000):
        batches = [lines[at : at + size] for at in range(0, len(lines), size)]
        parts = list(timed(sources()["zeek_conn"](Names()), batches, 24.0))
        assert [line for part in parts for line in part.lines] == lines
        times = np.concatenate([part.times for part in parts])
        assert times[99] - times[0] < HOUR
        assert times[100] - times[99] > 9 * DAY
        assert sum(len(part.block) for part in parts) == 200
        assert all(part.block.record.min() >= 0 and part.block.record.max() < len(part.lines) for part in parts if len(part.block))


def audit(at: int, **pod: object) -> bytes:
    record = {
        "kind": "Event",
        "apiVersion": "audit.k8s.io/v1",
        "auditID": f"a{at}",
        "stage": "ResponseComplete",
        "verb": "create",
        "user": {"username": "ada"},
        "sourceIPs": ["10.0.0.5"],
        "objectRef": {"resource": "pods", "namespace": "team", "name": f"p{at}"},
        "responseStatus": {"code": 201},
        "stageTimestamp": str(np.datetime64((START + at) * SECOND, "us")) + "Z",
        "responseObject": {"kind": "Pod", **pod},
    }
    return orjson.dumps(record) + b"\n"


def finder(path: Path) -> Finder:
    made = Finder(randomness(1, "found"))
    made.read(open_background(path))
    return made


def test_a_pod_without_a_namespace_or_name_is_passed_over(tmp_path: Path) -> None:
    pod = {"spec": {"serviceAccountName": "x", "nodeName": "n"}, "status": {"podIP": "10.42.0.1", "hostIP": "10.16.0.1"}}
    named = [{}, {"name": "a"}, {"namespace": "team"}, {"name": "a", "namespace": "team"}]
    (tmp_path / "audit.jsonl").write_bytes(b"".join(audit(at, metadata=each, **pod) for at, each in enumerate(named)))
    pods = finder(tmp_path / "audit.jsonl").pods().pods
    assert [pod.identity for pod in pods] == ["pod:team/a"]


def test_a_line_that_is_no_record_shifts_no_other_ones_time(tmp_path: Path) -> None:
    lines = [audit(0), b"broken\n", b"[]\n", audit(7200), audit(7260)]
    (tmp_path / "audit.jsonl").write_bytes(b"".join(lines))
    (log,) = open_background(tmp_path / "audit.jsonl").logs
    times = [time for batch in log.batches() for _, time in each_record(batch)]
    assert times == [(START + at) * SECOND for at in (0, 7200, 7260)]


def pulled(at: int, name: str, repository: str, *, manifest: bool = False) -> bytes:
    target = {"repository": repository, "digest": f"sha256:{at:064x}", "size": 5000, "mediaType": "application/octet-stream"}
    if manifest:
        target |= {"references": [{"digest": "sha256:0"}]}
    event = {
        "id": f"e{at}",
        "timestamp": str(np.datetime64((START + at) * SECOND, "us")) + "Z",
        "action": "pull",
        "target": target,
        "request": {
            "id": f"r{at}",
            "addr": f"10.{at // 65536}.{at // 256 % 256}.{at % 256}:40000",
            "host": "r.example",
            "method": "GET",
        },
        "actor": {"name": name},
    }
    return orjson.dumps({"events": [event]}) + b"\n"


def test_somebody_who_only_asked_for_manifests_is_found(tmp_path: Path) -> None:
    (tmp_path / "r.jsonl").write_bytes(pulled(0, "ada", "team/a", manifest=True) + pulled(9, "ada", "team/b"))
    factory = finder(tmp_path / "r.jsonl").factory()
    assert [model.repository for model in factory.models] == ["team/b"]
    assert factory.users[0].models == (0,)


def test_a_trace_with_names_without_end_is_taken_in_within_bounds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(found_module, "_NAMES", 50)
    monkeypatch.setattr(found_module, "_OF_ONE", 20)
    many = [pulled(at, f"user{at}", f"team/m{at}") for at in range(300)]
    one = [pulled(300 + at, "user0", f"team/m{at % 100}") for at in range(300)]
    blobs = [pulled(600 + at, "user1", "team/m0") for at in range(300)]
    (tmp_path / "r.jsonl").write_bytes(b"".join(many + one + blobs))
    made = finder(tmp_path / "r.jsonl")
    for held in (made._hours, made._places, made._used, made._blobs, made._people, made._manifests, made._registries):
        assert len(held) <= 50
    assert max(len(of) for kind in (made._places, made._used, made._blobs) for of in kind.values()) <= 20
    assert len(made.factory().users) == 50


def job(at: int) -> bytes:
    record = orjson.loads(SlurmJobcomp.example)
    return orjson.dumps(record | {"jobid": at, "username": f"u{at}", "account": f"a{at}", "nodes": f"n{at}"}) + b"\n"


def test_people_accounts_and_nodes_of_jobs_are_bounded_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(found_module, "_NAMES", 5)
    (tmp_path / "jobs.jsonl").write_bytes(b"".join(job(at) for at in range(50)))
    made = finder(tmp_path / "jobs.jsonl")
    assert [len(held) for held in (made._nodes, made._accounts, made._people, made._hours)] == [5] * 4


def test_nothing_is_found_where_a_scenario_lacks_its_log(tmp_path: Path) -> None:
    (tmp_path / "eve.json").write_bytes(b"".join(eve(at) + b"\n" for at in range(50)))
    with pytest.raises(ValueError, match="nothing to splice into"):
        splice(tmp_path / "out", tmp_path / "eve.json", ["c2-beacon"], 1)
