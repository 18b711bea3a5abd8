"""Every command of docs/replay-and-tune.md runs, in order, in one folder."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.checkout import ROOT

PAGE = ROOT / "docs" / "replay-and-tune.md"


def commands() -> list[str]:
    blocks = re.findall(r"```console\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    return [line.removeprefix("$ ") for block in blocks for line in block.splitlines()]


def test_the_page_shows_every_command_of_this_part() -> None:
    shown = {command.split()[1] for command in commands() if command.startswith("tocsin ")}
    assert shown == {"simulate", "replay", "record", "tune", "report"}


@pytest.mark.slow
@pytest.mark.timeout(1500)  # a dozen commands, each a process that loads compiled code
def test_every_command_of_the_page_runs(tmp_path: Path) -> None:
    (tmp_path / "bin").mkdir()
    wrapper = tmp_path / "bin" / "tocsin"
    wrapper.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m replay.cli "$@"\n')
    wrapper.chmod(0o755)
    environment = os.environ | {
        "PATH": f"{wrapper.parent}:{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "XDG_STATE_HOME": str(tmp_path),
    }
    for command in commands():
        done = subprocess.run(["/bin/sh", "-ec", command], cwd=tmp_path, capture_output=True, text=True, env=environment, check=False)  # noqa: S603
        assert done.returncode == 0, (command, done.stdout, done.stderr)
    made = {path.name for path in tmp_path.iterdir()}
    assert {"alerts.jsonl", "ab.json", "report.html", "events", "shared"} <= made
    secret = (tmp_path / "key").read_bytes().strip()
    assert all(secret not in path.read_bytes() for path in (tmp_path / "shared").rglob("*") if path.is_file())
