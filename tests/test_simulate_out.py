"""Where ``tocsin simulate`` writes: a trace that was there is replaced by a whole one or stays as it was."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from replay import simulating
from replay.cli import app
from replay.record import Bounds, RawRecord, Recorder
from replay.simulate.journal import CONN
from replay.simulating import splice_trace, write_trace
from replay.traces import MANIFEST, read_manifest, verify

RUN = CliRunner()
SMALL = ["--days", "1", "--scale", "0.05", "--scenario", "none"]


def content(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.fixture
def trace(tmp_path: Path) -> Path:
    write_trace(tmp_path / "trace", days=1, seed=3, scale=0.05, scenarios=[])
    return tmp_path / "trace"


@pytest.fixture
def recording(tmp_path: Path) -> Path:
    folder = tmp_path / "recording"
    with Recorder(folder, sources={"zeek": "zeek_conn"}, bounds=Bounds(roll_records=5)) as recorder:
        recorder.feed(RawRecord("zeek", 0, number, 1_772_409_600_000_000 + number, None, b"{}") for number in range(20))
    return folder


@pytest.mark.parametrize(
    ("arguments", "code"),
    [(["--scenario", "typo"], 2), (["--scale", "0"], 2), (["--splice", ".", "--scenario", "typo"], 2), (["--days", "0"], 2)],
)
def test_a_mistake_leaves_the_trace_as_it_was(trace: Path, arguments: list[str], code: int) -> None:
    before = content(trace)
    done = RUN.invoke(app, ["simulate", "--out", str(trace), *arguments])
    assert done.exit_code == code, done.output
    assert content(trace) == before


def test_a_trace_spliced_into_itself_is_refused_and_stays(trace: Path) -> None:
    before = content(trace)
    done = RUN.invoke(app, ["simulate", "--splice", str(trace), "--scenario", "c2-beacon", "--out", str(trace)])
    assert done.exit_code == 2
    assert "give another folder" in done.stderr
    assert content(trace) == before


def test_a_recording_is_not_written_over(recording: Path) -> None:
    before = content(recording)
    done = RUN.invoke(app, ["simulate", "--out", str(recording), *SMALL])
    assert done.exit_code == 2
    assert "holds a trace that is not of tocsin simulate; name another folder" in done.stderr
    assert content(recording) == before


def test_logs_of_somebody_else_are_not_written_over(tmp_path: Path) -> None:
    (tmp_path / CONN).write_bytes(b"the only copy\n")
    done = RUN.invoke(app, ["simulate", "--out", str(tmp_path), *SMALL])
    assert done.exit_code == 2
    assert f"holds {CONN} and no trace" in done.stderr
    assert content(tmp_path) == {CONN: b"the only copy\n"}


@pytest.mark.parametrize("error", [ValueError("no place"), OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_a_simulation_that_breaks_off_leaves_the_trace_as_it_was(
    trace: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    before = content(trace)

    def breaks(folder: Path, **_: object) -> None:
        (folder / CONN).write_bytes(b"half a line")
        raise error

    monkeypatch.setattr(simulating, "simulate", breaks)
    done = RUN.invoke(app, ["simulate", "--out", str(trace), *SMALL])
    assert done.exit_code in (2, 3, 130)
    assert content(trace) == before
    fresh = trace.parent / "fresh"
    assert RUN.invoke(app, ["simulate", "--out", str(fresh), *SMALL]).exit_code in (2, 3, 130)
    assert not fresh.exists()


def test_a_trace_of_ours_is_replaced_also_by_a_spliced_one(trace: Path) -> None:
    write_trace(trace, days=1, seed=4, scale=0.05, scenarios=["c2-beacon"])
    assert read_manifest(trace).made_by["seed"] == 4
    verify(trace, read_manifest(trace))
    other = trace.parent / "other"
    write_trace(other, days=1, seed=5, scale=0.05, scenarios=[])
    splice_trace(trace, other, seed=1, scenarios=["c2-beacon"])
    assert read_manifest(trace).made_by["splice"] == "other"
    verify(trace, read_manifest(trace))
    assert not [path.name for path in trace.iterdir() if path.name.startswith(".")]
    assert (trace / MANIFEST).exists()
