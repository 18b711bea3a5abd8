"""``tocsin tune`` and ``tocsin report`` as commands: what they write and never write over, what they refuse before a pass, progress."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from connectors.trace import TraceError
from detector.config import parse
from replay import tune as tuning
from replay.compare import score
from replay.feedback import judged, read_feedback
from replay.outputs import check_outputs, put
from replay.trials import Subject, Trial, run, run_all
from replay.tune import trials_of
from replay.variants import Variant, changed, differences, sweep
from tests.checkout import ROOT
from tests.labelled_office import write_office
from tests.test_tune import A, tocsin, trial


@pytest.fixture(scope="module")
def week(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_office(tmp_path_factory.mktemp("command") / "w")


def test_nothing_is_written_over_or_beside_what_is_read(week: Path, tmp_path: Path) -> None:
    config = tmp_path / "b.toml"
    config.write_text("")
    (tmp_path / "link").symlink_to(week)
    (tmp_path / "log").symlink_to(week / "conn.log")
    for output, said in (
        (week / "conn.log", "lies in"),
        (week / "fresh.html", "lies in"),
        (week / "deep" / ".." / "fresh.html", "lies in"),
        (tmp_path / "link" / "conn.log", "lies in"),
        (tmp_path / "log", "lies in"),
        (config, "is an input already"),
    ):
        with pytest.raises(TraceError, match=said):
            check_outputs({"--out": output}, [week], [config, None])
    with pytest.raises(TraceError, match="is an input already"):
        check_outputs({"--out": tmp_path / "log"}, [week / "conn.log"])
    with pytest.raises(TraceError, match="is what --out writes"):
        check_outputs({"--out": tmp_path / "x", "--write": tmp_path / "." / "x"}, [week])
    with pytest.raises(TraceError, match="named twice"):
        check_outputs({}, [week, tmp_path / "link"])
    check_outputs({"--out": tmp_path / "fresh", "--write": None}, [week], [config])


def test_a_file_that_would_be_lost_under_its_working_name_is_kept(tmp_path: Path) -> None:
    (tmp_path / "r.html.part").write_bytes(b"")
    with pytest.raises(TraceError, match="already"):
        check_outputs({"--out": tmp_path / "r.html"}, [tmp_path / "r.html.part"])


def test_what_cannot_be_written_is_said_beforehand(week: Path, tmp_path: Path) -> None:
    with pytest.raises(IsADirectoryError):
        check_outputs({"--out": tmp_path}, [week])
    with pytest.raises(FileNotFoundError):
        check_outputs({"--out": tmp_path / "none" / "r.html"}, [week])


def test_a_device_is_written_to_and_stays_one(week: Path) -> None:
    check_outputs({"--out": Path(os.devnull), "--write": Path(os.devnull)}, [week])
    put(Path(os.devnull), b"x")
    assert Path(os.devnull).is_char_device()


@pytest.fixture
def _instant(monkeypatch: pytest.MonkeyPatch) -> None:
    def told(subject: Subject, variants: list[Variant], many: int, progress: Any = lambda _: None) -> list[Trial]:
        del subject, many
        progress([0.5] * len(variants))
        progress([1.0] * len(variants))
        return [trial(name=each.name) for each in variants]

    monkeypatch.setattr(tuning, "run_all", told)


@pytest.mark.usefixtures("_instant")
@pytest.mark.parametrize(("terminal", "quiet"), [(True, False), (True, True), (False, False)])
def test_progress_is_drawn_on_a_terminal_alone(terminal: bool, quiet: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("FORCE_COLOR", "TTY_COMPATIBLE", "NO_COLOR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm")
    ours, theirs = pty.openpty()
    with os.fdopen(theirs, "w") if terminal else (tmp_path / "err").open("w") as stream:
        monkeypatch.setattr(sys, "stderr", stream)
        trials_of(Subject(paths=[]), [A, *sweep(A, "budget.alerts_per_day=7")], 1, quiet=quiet)
    drawn = b"" if terminal else (tmp_path / "err").read_bytes()
    try:
        while terminal and (piece := os.read(ours, 1 << 16)):
            drawn += piece
    except OSError:  # the other side is closed
        pass
    finally:
        os.close(ours)
    seen = drawn.decode()
    assert ("budget.alerts_per_day=7" in seen and "%" in seen) == (terminal and not quiet)
    assert terminal or seen == ""


@pytest.mark.slow
def test_a_command_on_a_terminal_draws_its_progress(week: Path, tmp_path: Path) -> None:
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "replay.cli", "report", str(week), "--out", str(tmp_path / "r.html"), "--budgets", "none"]
    environment = {key: value for key, value in os.environ.items() if key not in ("FORCE_COLOR", "NO_COLOR")} | {"TERM": "xterm"}
    with (tmp_path / "out").open("wb") as out:
        running = subprocess.Popen(command, cwd=ROOT, stdin=theirs, stdout=out, stderr=theirs, env=environment)  # noqa: S603
        os.close(theirs)
        seen = b""
        try:
            while piece := os.read(ours, 1 << 16):
                seen += piece
        except OSError:  # the other side is closed
            pass
        finally:
            os.close(ours)
        assert running.wait() == 0
    assert b"100%" in seen
    assert b"%" not in (tmp_path / "out").read_bytes()


@pytest.mark.slow
def test_what_is_written_is_a_configuration_that_gives_what_was_suggested(week: Path, tmp_path: Path) -> None:
    base = Variant(name="A", text="[budget]\nalerts_per_day = 20\n[signals.size]\nweight = 0.4\n")
    (tmp_path / "a.toml").write_text(f"# mine\n{base.text}")
    subject = Subject(paths=[str(week)])
    # Whoever a stricter configuration does not alert on was rejected: the better configuration is rid of some.
    kept = {each.uid for each in run(subject, changed(base, {"budget.alerts_per_day": 2}, "strict")).cases}
    gone = [each.uid for each in run(subject, base).cases if each.uid not in kept]
    feedback, better = tmp_path / "feedback.jsonl", tmp_path / "better.toml"
    feedback.write_text("".join(json.dumps({"uid": uid, "verdict": "false_positive"}) + "\n" for uid in gone))
    done = tocsin(
        *("tune", week, "--a", tmp_path / "a.toml", "--feedback", feedback, "--write", better, "--json"),
        *("--sweep", "fuse.evidence_floor=9.0,12.0", "--sweep", "signals.size.weight=0.1,0.8"),
    )
    found = json.loads(done.stdout.splitlines()[-1])["suggestion"]
    assert found is not None
    differs = differences(parse(base.text), parse(better.read_text()))
    assert {key: new for key, (_, new) in differs.items()} == found["changes"]
    again = run(subject, written := Variant(name="better", text=better.read_text()))
    figures = score(again, written, [], judged(read_feedback(feedback), [run(subject, base), again]))
    assert (figures.alerts, figures.false_kept) == (found["alerts"], found["false_kept"])


@pytest.mark.slow
def test_a_command_refuses_before_it_reads(week: Path, tmp_path: Path) -> None:
    before = (week / "conn.log").read_bytes()
    assert "lies in" in tocsin("report", week, "--out", week / "conn.log", code=3).stderr
    assert "already" in tocsin("report", week / "conn.log", "--out", week / "conn.log", code=3).stderr
    assert "lies in" in tocsin("tune", week, "--write", week / "labels.jsonl", code=3).stderr
    assert "in all" in tocsin("tune", week, *many("budget.alerts_per_day", 1), *many("budget.alerts_per_day", 50), code=2).stderr
    assert (week / "conn.log").read_bytes() == before
    assert not (tmp_path / "r.html").exists()


def many(key: str, begin: int) -> tuple[str, str]:
    return "--sweep", f"{key}={','.join(str(begin + i) for i in range(40))}"


@pytest.mark.slow
def test_the_memory_of_a_trial_is_its_own(week: Path) -> None:
    """A trial after a large one is not said to have held as much: every trial has a process of its own."""
    ballast = b"x" * 600_000_000
    subject = Subject(paths=[str(week)])
    found = run_all(subject, [A, *sweep(A, "budget.alerts_per_day=3")], 1)
    assert len(ballast) == 600_000_000
    assert all(each.peak_bytes < 600_000_000 for each in found)
