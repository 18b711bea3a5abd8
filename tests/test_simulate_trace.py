"""``tocsin simulate``: a trace folder that replays, the same bytes for the same arguments, bounded memory, clear mistakes."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from connectors.event import MINUTE
from connectors.trace import TraceError
from replay import inputs
from replay.cli import app
from replay.simulate import CONN, Truth, simulate
from replay.simulate.journal import FILES, Journal
from replay.simulate.labels import LABELS, read_labels
from replay.simulating import write_trace
from replay.traces import MANIFEST, read_manifest, verify

RUN = CliRunner()


def digests(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.iterdir())}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("trace") / "factory"


@pytest.fixture(scope="module")
def truth(folder: Path) -> Truth:
    return write_trace(folder, days=1, seed=3, scale=0.05, scenarios=["unattested-node", "c2-beacon"])


def test_the_folder_is_a_trace_with_all_logs_as_its_manifest_says(folder: Path, truth: Truth) -> None:
    manifest = read_manifest(folder)
    verify(folder, manifest)
    assert [entry.path for entry in manifest.logs] == list(FILES)
    assert {entry.path: entry.records for entry in manifest.logs} == truth.records
    assert manifest.labels == LABELS
    assert manifest.made_by["seed"] == 3
    assert all(entry.first is not None and entry.last is not None and entry.first <= entry.last for entry in manifest.logs)


def test_labels_say_what_the_truth_says(folder: Path, truth: Truth) -> None:
    labels = read_labels(folder / LABELS)
    assert [(label.scenario, label.first_us, label.records) for label in labels] == [
        (attack.name, attack.first, attack.records) for attack in truth.attacks
    ]
    assert all(label.first < label.last for label in labels)


def test_the_same_arguments_in_another_process_give_the_same_bytes(tmp_path: Path, folder: Path, truth: Truth) -> None:
    assert truth.attacks
    arguments = ["--days", "1", "--seed", "3", "--scale", "0.05", "--scenario", "c2-beacon", "--scenario", "unattested-node"]
    command = [sys.executable, "-m", "replay.cli", "simulate", "--out", str(tmp_path / "again"), *arguments]
    environment = {**os.environ, "PYTHONHASHSEED": "4711"}
    subprocess.run(command, check=True, capture_output=True, env=environment, cwd=Path(__file__).parents[1])  # noqa: S603 - our own interpreter
    ours, theirs = digests(tmp_path / "again"), digests(folder)
    # The manifest tells the names in the order they were asked for.
    assert {**ours, MANIFEST: ""} == {**theirs, MANIFEST: ""}


def test_what_is_put_aside_on_disk_comes_back_in_the_same_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, folder: Path, truth: Truth
) -> None:
    assert truth.attacks
    small: list[int] = []
    original = Journal.__init__

    def little(self: Journal, out: Path, spill: int = 0) -> None:
        small.append(spill)
        original(self, out, 200_000)

    monkeypatch.setattr(Journal, "__init__", little)
    simulate(tmp_path, days=1, seed=3, scale=0.05, attacks=["unattested-node", "c2-beacon"])
    assert small
    assert all((tmp_path / name).read_bytes() == (folder / name).read_bytes() for name in FILES)
    assert {path.name for path in tmp_path.iterdir()} >= set(FILES)
    assert not [path for path in tmp_path.iterdir() if path.is_dir()]


def test_a_slice_keeps_what_is_later_than_what_is_settled(tmp_path: Path) -> None:
    with Journal(tmp_path, spill=1) as journal:
        journal.extend(CONN, (30, 10, 30), (b"a\n", b"b\n", b"c\n"), "theft")
        journal.settle(20)
        journal.add(CONN, 25, b"d\n")
        journal.add(CONN, 30, b"e\n")
        journal.settle(100 * MINUTE)
    assert (tmp_path / CONN).read_bytes() == b"b\nd\na\nc\ne\n"
    assert journal.marked["theft"].records == {CONN: [0, 2, 3]}
    assert journal.span(CONN) == (10, 30)


def test_the_trace_opens_as_any_recording_and_a_changed_one_does_not(tmp_path: Path, folder: Path, truth: Truth) -> None:
    assert truth.attacks
    from connectors.names import Names

    opened = inputs.open_inputs([folder], None, None, Names(), 4096)
    assert [Path(log.path).name for log in opened.logs] == list(FILES)
    copy = tmp_path / "copy"
    copy.mkdir()
    for path in folder.iterdir():
        (copy / path.name).write_bytes(path.read_bytes())
    (copy / CONN).write_bytes((copy / CONN).read_bytes()[:-1] + b"x")
    with pytest.raises(TraceError, match=CONN):
        inputs.open_inputs([copy], None, None, Names(), 4096)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--scenario", "ransom"], "--scenario: expected some of"),
        (["--scale", "0"], "scale"),
        (["--scale", "nan"], "scale"),
        (["--splice", "nowhere.log"], "--splice: name what to play"),
        (["--splice", "nowhere.log", "--scenario", "c2-beacon"], "nowhere.log"),
    ],
)
def test_a_mistake_is_told_and_nothing_is_written(tmp_path: Path, arguments: list[str], says: str) -> None:
    done = RUN.invoke(app, ["simulate", "--out", str(tmp_path / "out"), *arguments])
    assert done.exit_code in (2, 3)
    assert says in done.stderr
    assert not (tmp_path / "out" / MANIFEST).exists()


def test_no_scenario_is_a_trace_without_labels(tmp_path: Path) -> None:
    done = RUN.invoke(app, ["simulate", "--out", str(tmp_path / "out"), "--days", "1", "--scale", "0.05", "--scenario", "none"])
    assert done.exit_code == 0, done.stderr
    assert read_labels(tmp_path / "out" / LABELS) == []
    assert "conn.log" in done.stdout


@pytest.mark.parametrize(
    ("line", "says"),
    [
        (b"{}", "line 1: no label"),
        (b"nonsense", "line 1: no label"),
        (
            b'{"version":9,"scenario":"a","first":"","last":"","first_us":0,"last_us":0,"records":{}}',
            "version 9; this release reads 1 to 1",
        ),
    ],
)
def test_labels_that_are_none_are_refused_with_their_line(tmp_path: Path, line: bytes, says: str) -> None:
    (tmp_path / LABELS).write_bytes(line + b"\n")
    with pytest.raises(TraceError, match=re_escaped(says)):
        read_labels(tmp_path / LABELS)


def re_escaped(text: str) -> str:
    return text.replace("(", "\\(").replace(")", "\\)")


@pytest.mark.slow
def test_ten_times_the_records_take_no_more_memory(tmp_path: Path) -> None:
    """Each in a process of its own, because what a process took at its peak never falls."""
    peaks: list[list[int]] = []
    for days, scale in ((2, 4.0), (4, 20.0)):
        script = (
            "import sys; from pathlib import Path; from replay.simulate import simulate; from replay.trials import peak_bytes; "
            f"t = simulate(Path(sys.argv[1]), days={days}, scale={scale}); "
            "print(sum(t.records.values()), peak_bytes() // 1024)"
        )
        out = tmp_path / f"{scale}"
        command = [sys.executable, "-c", script, str(out)]
        done = subprocess.run(command, check=True, capture_output=True, text=True, cwd=Path(__file__).parents[1])  # noqa: S603 - ditto
        peaks.append([int(word) for word in done.stdout.split()])
        for path in out.iterdir():
            path.unlink()
    (few, little), (many, more) = peaks
    assert many > 8 * few
    # A byte for each record at most grows with them, besides the records that wait.
    assert more < little + 200_000 + (many - few) / 10
