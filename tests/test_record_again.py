"""A recording that goes on: only with the logs and settings it was made with, row by row, with the labels of what it holds."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet
import pytest
from typer.testing import CliRunner, Result

from connectors.trace import TraceError
from replay.cli import app
from replay.inputs import open_inputs
from replay.pseudonyms import Pseudonyms
from replay.record import Bounds, RawRecord, Recorder
from replay.shards import micros
from replay.simulate.labels import LABELS, read_labels
from replay.simulating import write_trace
from replay.traces import MANIFEST, read_manifest
from tests.test_pipeline import office

RUN = CliRunner()
KEY = b"0123456789abcdef"


def written(path: Path, lines: list[bytes]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"".join(line + b"\n" for line in lines))
    return path


def record(out: Path, *words: str | Path) -> Result:
    return RUN.invoke(app, ["record", *map(str, words), "--out", str(out)])


def rows(folder: Path) -> list[tuple[int, int, str]]:
    """(log, record, actor) of every event, in order."""
    tables = [pyarrow.parquet.read_table(folder / entry.path) for entry in read_manifest(folder).logs]
    whole = pa.concat_tables(tables)
    return list(zip(*(whole.column(name).to_pylist() for name in ("partition", "record", "actor")), strict=True))


def said(done: Result) -> str:
    return " ".join(done.stderr.split())


def test_another_log_of_the_same_name_is_refused(tmp_path: Path) -> None:
    lines = office(2.0)
    monday, tuesday = written(tmp_path / "mon/conn.log", lines[:3000]), written(tmp_path / "tue/conn.log", lines[3000:])
    assert record(tmp_path / "t", monday).exit_code == 0
    before = rows(tmp_path / "t")
    done = record(tmp_path / "t", tuesday)
    assert done.exit_code == 3
    assert "was not recorded from" in said(done)
    assert "name an empty folder" in said(done)
    assert rows(tmp_path / "t") == before


def test_a_log_that_was_cut_is_refused(tmp_path: Path) -> None:
    # Longer than what is compared of it.
    lines = office(2.0)
    log = written(tmp_path / "conn.log", lines)
    assert log.stat().st_size > 1 << 20
    assert record(tmp_path / "t", log).exit_code == 0
    written(log, lines[:-10])
    done = record(tmp_path / "t", log)
    assert done.exit_code == 3
    assert "was changed since" in said(done)


@pytest.mark.parametrize("key", [None, KEY], ids=["plain", "pseudonyms"])
def test_a_log_that_has_grown_goes_on_without_a_hole(tmp_path: Path, key: bytes | None) -> None:
    words: list[str | Path] = []
    if key is not None:
        (tmp_path / "key").write_bytes(key)
        words = ["--key", tmp_path / "key"]
    lines = office(4.0)
    log = written(tmp_path / "conn.log", lines[:5000])
    assert record(tmp_path / "t", log, *words).exit_code == 0
    for many in (5003, 9800, len(lines)):
        written(log, lines[:many])
        assert record(tmp_path / "t", log, *words).exit_code == 0
        assert len(rows(tmp_path / "t")) == many
    assert record(tmp_path / "whole", log, *words).exit_code == 0
    assert rows(tmp_path / "t") == rows(tmp_path / "whole")


def test_several_logs_that_have_grown_go_on_without_a_hole(tmp_path: Path) -> None:
    lines = office(3.0)
    halves = lines[::2], lines[1::2]
    logs = [written(tmp_path / f"{name}.log", half[:many]) for name, half, many in zip("ab", halves, (3000, 2500), strict=True)]
    assert record(tmp_path / "t", *logs).exit_code == 0
    for log, half in zip(logs, halves, strict=True):
        written(log, half)
    assert record(tmp_path / "t", *logs).exit_code == 0
    assert record(tmp_path / "whole", *logs).exit_code == 0
    assert sorted(rows(tmp_path / "t")) == sorted(rows(tmp_path / "whole"))


def test_other_settings_are_refused_by_name(tmp_path: Path) -> None:
    log = written(tmp_path / "conn.log", office(1.0))
    (tmp_path / "c.toml").write_text("[time]\nahead_hours = 2\n")
    (tmp_path / "d.toml").write_text("[budget]\nalerts_per_day = 2\n")
    assert record(tmp_path / "t", log).exit_code == 0
    done = record(tmp_path / "t", log, "--config", tmp_path / "c.toml")
    assert done.exit_code == 3
    assert "was recorded with another time.ahead_hours" in said(done)
    # What changes no event may change.
    assert record(tmp_path / "t", log, "--config", tmp_path / "d.toml").exit_code == 0


def test_a_recording_that_does_not_say_what_it_is_of_is_not_gone_on_with(tmp_path: Path) -> None:
    log = written(tmp_path / "conn.log", office(1.0))
    assert record(tmp_path / "t", log).exit_code == 0
    path = tmp_path / "t" / MANIFEST
    manifest = json.loads(path.read_bytes())
    for wrong, text in ((None, "does not say which logs"), ("x", "made_by.inputs")):
        manifest["made_by"].pop("inputs", None)
        if wrong is not None:
            manifest["made_by"]["inputs"] = wrong
        path.write_text(json.dumps(manifest))
        done = record(tmp_path / "t", log)
        assert done.exit_code == 3
        assert text in said(done)


def raw(many: int, size: int = 10) -> list[RawRecord]:
    return [RawRecord("zeek", 0, number, 1_772_409_600_000_000 + number, None, b"x" * size) for number in range(many)]


def test_files_that_no_manifest_names_are_left_alone(tmp_path: Path) -> None:
    with Recorder(tmp_path, sources={"zeek": "zeek_conn"}, bounds=Bounds(roll_records=5)) as recorder:
        recorder.feed(raw(20))
    (tmp_path / MANIFEST).unlink()
    (tmp_path / "zeek/0/00000000000000000099.part").touch()
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    assert len(before) == 5
    with pytest.raises(TraceError, match=r"no manifest\.json that names it; name an empty folder"):
        Recorder(tmp_path, sources={"zeek": "zeek_conn"})
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def test_bytes_that_were_written_do_not_count_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("replay.record.GROUP_RECORDS", 100)
    # Some 100 bytes each in memory, hardly any on the disk, so that no bound of 60 kB is reached.
    with Recorder(tmp_path, sources={"zeek": "zeek_conn"}, bounds=Bounds(bytes=60_000, roll_seconds=None)) as recorder:
        recorder.feed(raw(900, 40))
    assert recorder.full == ""
    assert recorder.records == 900
    assert sum(entry.bytes for entry in recorder.manifest.logs) < 30_000


@pytest.fixture(scope="module")
def trace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("labelled") / "trace"
    write_trace(out, days=1, seed=3, scale=0.05, scenarios=["slow-drip", "stolen-token"])
    return out


def test_the_labels_of_a_trace_are_those_of_its_recording(tmp_path: Path, trace: Path) -> None:
    assert record(tmp_path / "t", trace).exit_code == 0
    assert read_manifest(tmp_path / "t").labels == LABELS
    assert read_labels(tmp_path / "t" / LABELS) == read_labels(trace / LABELS)


def test_labels_of_a_recording_under_pseudonyms_name_its_identities(tmp_path: Path, trace: Path) -> None:
    (tmp_path / "key").write_bytes(KEY)
    assert record(tmp_path / "t", trace, "--key", tmp_path / "key").exit_code == 0
    names = Pseudonyms(KEY)
    titles = read_manifest(tmp_path / "t").titles
    logs = [entry.path for entry in read_manifest(trace).logs]
    for before, after in zip(read_labels(trace / LABELS), read_labels(tmp_path / "t" / LABELS), strict=True):
        assert after.principals == [names.identity(each) for each in before.principals]
        assert after.records == {titles[logs.index(name)]: numbers for name, numbers in before.records.items()}
        assert after.summary == ""
        here = {(log, number) for log, name in enumerate(titles) for number in after.records.get(name, [])}
        actors = {actor for log, number, actor in rows(tmp_path / "t") if (log, number) in here}
        assert set(after.principals) & actors or set(after.via) & actors
    told = (tmp_path / "t" / LABELS).read_bytes()
    hidden = {name for label in read_labels(trace / LABELS) for name in (*label.principals, *label.via)}
    assert not [name for name in hidden if name.encode() in told]


def test_labels_of_what_is_not_recorded_are_left_out(tmp_path: Path, trace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Small blocks, for a recording ends with a whole one.
    monkeypatch.setattr("replay.capture.open_inputs", lambda paths, a, b, names, _: open_inputs(paths, a, b, names, 16))
    early, late = sorted(read_labels(trace / LABELS), key=lambda label: label.first_us)
    begins = min(micros(entry.first) for entry in read_manifest(trace).logs if entry.first is not None)
    assert record(tmp_path / "t", trace, "--max-seconds", str((late.first_us - begins) // 1_000_000 - 600)).exit_code == 0
    (label,) = read_labels(tmp_path / "t" / LABELS)
    assert label.scenario == early.scenario
    assert early.first_us < label.last_us <= min(early.last_us, late.first_us)
    ends = {log: number for log, number, _ in sorted(rows(tmp_path / "t"))}
    titles = read_manifest(tmp_path / "t").titles
    assert all(max(numbers) <= ends[titles.index(name)] for name, numbers in label.records.items())
