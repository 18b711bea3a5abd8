"""``tocsin respond --follow`` while its policy file changes under it; and ``tocsin kpi --events``."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from typer.testing import CliRunner

from connectors import ocsf
from connectors.event import SECOND
from detector.history import Entry
from detector.ledger import Ledger, LedgerFailed
from replay.cli import app
from tests.alerts import made_alert
from tests.chaos import until
from tests.test_respond_cli import POLICY
from tests.test_source_nvidia_attestation import of_node


def rows(folder: Path) -> list[Entry]:
    try:
        with Ledger.at(folder / "ledger.sqlite", create=False) as ledger:
            return list(ledger.entries())
    except LedgerFailed:
        return []


def test_a_policy_file_is_read_anew_while_it_runs_and_one_with_mistakes_is_told_and_not_adopted(tmp_path: Path) -> None:
    now = int(time.time() * SECOND)
    path, policy = tmp_path / "policy.toml", POLICY.format(folder=tmp_path)
    path.write_text(policy)
    (tmp_path / "key").write_text("a key of more than thirty-two bytes, shared\n")
    (tmp_path / "decisions").mkdir()
    (tmp_path / "alerts.jsonl").touch()
    command = [sys.executable, "-m", "replay.cli", "respond", str(tmp_path / "alerts.jsonl"), "--follow", "--config", str(path)]
    with (tmp_path / "said").open("wb") as said:
        process = subprocess.Popen(command, stdout=said, stderr=said, env=os.environ, stdin=subprocess.DEVNULL)  # noqa: S603
    try:
        until((tmp_path / "anchors").exists, "it has begun")
        # It notes the file as it was when it began: a second later it is another.
        time.sleep(1)
        path.write_text(policy.replace('"approve" }', '"guess" }'))
        until(lambda: "policy not adopted: " in (tmp_path / "said").read_text(), "the mistake is told")
        path.write_text(policy.replace('mode = "enforce"', 'mode = "enforce"\nprotected = ["user:alice"]'))
        until(lambda: any(row.reason.startswith("policy read anew") for row in rows(tmp_path)), "it is adopted", every=0.2)
        with (tmp_path / "alerts.jsonl").open("ab") as file:
            file.write(ocsf.encode(made_alert(time=now, opened=now, first=now, last=now), "0.1.0").rstrip() + b"\n")
        until(lambda: any(row.step == "decided" for row in rows(tmp_path)), "the alert is decided", every=0.2)
        assert [row.result for row in rows(tmp_path) if row.step == "decided"] == ["protected"]
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0
    finally:
        process.kill()
        process.wait()


def test_attestations_in_recorded_events_are_among_the_key_figures(tmp_path: Path) -> None:
    lines = [of_node(), of_node(iat=1795214900), of_node(**{"x-nvidia-overall-att-result": False, "iat": 1795215000})]
    (tmp_path / "attestation.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    with Ledger.at(tmp_path / "ledger"):
        pass
    words = ["kpi", "--ledger", str(tmp_path / "ledger"), "--events", str(tmp_path / "attestation.jsonl"), "--json"]
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 0, done.output
    figures = json.loads(done.stdout)
    assert (figures["attestations"], figures["attestation_pass_rate"]) == (3, 0.6667)
