"""``tocsin respond`` and the commands around it, as a user runs them: what they say and how they end."""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from connectors import ocsf
from connectors.event import SECOND
from detector.ledger import Ledger
from replay.cli import app
from tests.alerts import made_alert

Tocsin = Callable[..., Result]

POLICY = """
[respond]
mode = "enforce"
decisions = "{folder}/decisions"
kill_switch_file = "{folder}/stop"
[respond.ledger]
url = "sqlite:///{folder}/ledger.sqlite"
anchor_file = "{folder}/anchors"
anchor_key = {{ file = "{folder}/key" }}
[respond.adapters.lab.state.pods."pod:team-a/trainer-0"]
uid = "u0"
ip = "10.0.0.9"
owner = "workload:team-a/trainer"
labels = {{ app = "trainer" }}
[[respond.rules]]
name = "r"
actions = [{{ verb = "isolate_pod", mode = "approve" }}]
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """An alert of now, a policy that asks, a key and an empty folder for decisions."""
    now = int(time.time() * SECOND)
    (tmp_path / "alerts.jsonl").write_bytes(ocsf.encode(made_alert(time=now, opened=now, first=now, last=now), "0.1.0"))
    (tmp_path / "policy.toml").write_text(POLICY.format(folder=tmp_path))
    (tmp_path / "key").write_text("a key of more than thirty-two bytes, shared\n")
    (tmp_path / "decisions").mkdir()
    return tmp_path


@pytest.fixture
def tocsin(folder: Path) -> Tocsin:
    """Runs the command with the policy."""

    def run(*words: str) -> Result:
        return CliRunner().invoke(app, [*words, "--config", str(folder / "policy.toml")])

    return run


def test_from_an_alert_to_a_containment_that_a_person_approved_and_another_command_accounts_for(tocsin: Tocsin, folder: Path) -> None:
    alerts = str(folder / "alerts.jsonl")
    assert "awaiting-approval" in tocsin("respond", alerts).stdout
    listed = json.loads(tocsin("approvals", "list", "--json").stdout)
    assert tocsin("approvals", "approve", listed["action"][:8], "--reason", "looks real").exit_code == 0
    assert "isolate_pod pod:team-a/trainer-0: verified" in tocsin("respond", alerts).stdout
    assert tocsin("approvals", "list").exit_code == 5, "nothing waits any more"
    assert listed["action"] in tocsin("approvals", "list", "--held").stdout
    assert "the ledger is whole" in tocsin("ledger", "verify").stdout
    rows = [json.loads(line) for line in tocsin("ledger", "export").stdout.splitlines()]
    assert {row["class_uid"] for row in rows} == {7001}
    figures = json.loads(tocsin("kpi", "--json").stdout)
    assert (figures["actions"], figures["verified"]) == (1, 1)


def test_the_policy_can_be_tried_out_without_doing_anything(tocsin: Tocsin, folder: Path) -> None:
    said = tocsin("policy", "test", str(folder / "alerts.jsonl"))
    assert "isolate_pod pod:team-a/trainer-0: awaiting-approval (mode is approve: waits for 1 more person)" in said.stdout
    assert "in all: 1 awaiting-approval" in said.stdout
    assert "observed" in tocsin("policy", "test", str(folder / "alerts.jsonl"), "--mode", "observe").stdout
    assert not (folder / "ledger.sqlite").exists()


def test_the_kill_switch_is_turned_by_command(tocsin: Tocsin, folder: Path) -> None:
    assert tocsin("kill-switch", "on", "--reason", "maintenance").stdout == "the kill switch is on: maintenance\n"
    assert "stopped (the kill switch is on: maintenance)" in tocsin("respond", str(folder / "alerts.jsonl")).stdout
    assert tocsin("kill-switch", "off").stdout == tocsin("kill-switch", "status").stdout == "the kill switch is off\n"


def test_a_ledger_that_does_not_fit_its_anchors_is_refused_before_anything_is_done(tocsin: Tocsin, folder: Path) -> None:
    tocsin("respond", str(folder / "alerts.jsonl"))
    (folder / "ledger.sqlite").unlink()
    for command in (("respond", str(folder / "alerts.jsonl")), ("ledger", "verify")):
        result = tocsin(*command)
        assert result.exit_code == 4, result.output
        assert "Traceback" not in result.output


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (("respond", "no-such-file"), 3),
        (("ledger", "verify"), 4),
        (("kpi",), 4),
        (("approvals", "list"), 4),
        (("kill-switch", "maybe"), 2),
        (("policy", "test", "no-such-file"), 3),
    ],
)
def test_every_mistake_ends_with_its_code_and_a_sentence(tocsin: Tocsin, words: tuple[str, ...], code: int) -> None:
    result = tocsin(*words)
    assert result.exit_code == code, result.output
    assert result.output.startswith("tocsin: ")


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("[respond.adapters.nosuch]", "respond.adapters.nosuch: expected one of "),
        ("[respond.adapters.lab]\nnosuch = 1", "respond.adapters.lab"),
        ("[respond.ledger]\npassword = 'x'", "respond.ledger.password"),
        ("[respond.shares]\nusers = 101", "respond.shares.users"),
        ("[[respond.rules]]\nname = 'r'\nactions = [{ verb = 'isolate_pod', escalate = 0.5 }]", "escalate"),
    ],
)
def test_a_mistake_in_the_policy_names_its_key(tmp_path: Path, line: str, said: str) -> None:
    (tmp_path / "c.toml").write_text(line)
    result = CliRunner().invoke(app, ["check", str(tmp_path / "c.toml")])
    assert result.exit_code == 2
    assert said in result.output


def test_a_second_responder_and_a_locked_ledger_are_to_be_started_again(tocsin: Tocsin, folder: Path) -> None:
    alerts = str(folder / "alerts.jsonl")
    tocsin("respond", alerts)
    with Ledger.at(folder / "ledger.sqlite") as other:
        other.claim()
        second = tocsin("respond", alerts)
    assert (second.exit_code, "another responder uses this ledger" in second.output) == (75, True)
    database = sqlite3.connect(folder / "ledger.sqlite", isolation_level=None)
    database.execute("PRAGMA journal_mode = DELETE")
    database.execute("BEGIN EXCLUSIVE")
    locked = tocsin("respond", alerts)
    database.close()
    assert (locked.exit_code, "locked" in locked.output) == (75, True)
    assert tocsin("respond", alerts).exit_code == 0


def test_a_ledger_in_memory_is_refused(tocsin: Tocsin, folder: Path) -> None:
    path = folder / "policy.toml"
    path.write_text(path.read_text().replace(f"sqlite:///{folder}/ledger.sqlite", "sqlite://"))
    refused = tocsin("respond", str(folder / "alerts.jsonl"))
    assert (refused.exit_code, "outlives the process" in refused.output) == (2, True)


def test_rows_without_any_anchor_where_they_are_anchored_are_no_whole_ledger(tocsin: Tocsin, folder: Path) -> None:
    tocsin("respond", str(folder / "alerts.jsonl"))
    (folder / "anchors").write_bytes(b"")
    result = tocsin("ledger", "verify")
    assert (result.exit_code, "there is no anchor of it" in result.output) == (4, True)


def test_who_cannot_read_the_ledger_decides_with_the_whole_id(tocsin: Tocsin, folder: Path) -> None:
    assert tocsin("approvals", "approve", "0" * 8).exit_code == 4
    assert tocsin("approvals", "approve", "0" * 32).exit_code == 0
    assert len(list((folder / "decisions").iterdir())) == 1
