"""kill -9 at every boundary of a containment, in a process of its own against a target in another."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from connectors import ocsf
from connectors.event import SECOND
from detector.ledger import Ledger
from tests.alerts import made_alert
from tests.fake_target import BOUNDARIES, Lives, serve

TTL = 3_600


class Stage(NamedTuple):
    """The process that runs ``tocsin``, and the target: what is off, and every change there was."""

    lives: Lives
    off: dict[str, str]
    changes: list[str]


@pytest.fixture(scope="module")
def stage() -> Iterator[Stage]:
    server, off, changes = serve()
    lives = Lives(f"http://127.0.0.1:{server.server_address[1]}")
    yield Stage(lives, off, changes)
    lives.close()
    server.shutdown()
    server.server_close()


def prepared(folder: Path) -> tuple[str, ...]:
    """The command line: a policy that isolates for an hour, one alert of just now."""
    now = int(time.time() * SECOND)
    alert = made_alert(time=now, opened=now, first=now, last=now)
    (folder / "alerts.jsonl").write_bytes(ocsf.encode(alert, "0.1.0"))
    actions = f'[{{ verb = "isolate_pod", mode = "enforce", ttl_seconds = {TTL} }}]'
    policy = f'[respond]\nmode = "enforce"\n[respond.adapters.lab]\n[[respond.rules]]\nname = "r"\nactions = {actions}\n'
    (folder / "policy.toml").write_text(policy)
    return ("respond", str(folder / "alerts.jsonl"), "--config", str(folder / "policy.toml"), "--ledger", str(folder / "ledger"))


#: Those that are tried on every run: where the target and the ledger know different things.
QUICK = ("row intent/:after", "apply:after", "undo:after")


@pytest.mark.parametrize("boundary", [pytest.param(each, marks=() if each in QUICK else pytest.mark.slow) for each in BOUNDARIES])
def test_t7_killed_at_a_boundary_there_is_one_effect_and_it_ends_in_time(stage: Stage, tmp_path: Path, boundary: str) -> None:
    stage.off.clear()
    stage.changes.clear()
    command = prepared(tmp_path)
    undoing = "undo" in boundary
    assert stage.lives.run(*command, crash="" if undoing else boundary) == (0 if undoing else -9)
    assert stage.lives.run(*command) == 0
    assert len(stage.off) == 1, "contained once"
    assert stage.lives.run(*command, later=TTL - 900) == 0
    assert len(stage.off) == 1, "not before its time"
    assert stage.lives.run(*command, crash=boundary if undoing else "", later=TTL + 1) == (-9 if undoing else 0)
    assert stage.lives.run(*command, later=TTL + 1) == 0
    assert stage.off == {}, "taken back"
    with Ledger.at(tmp_path / "ledger") as ledger:
        assert ledger.verify_chain() is None
        assert (ledger.history.pending, ledger.history.holds) == ({}, {})
        (action,) = {entry.action for entry in ledger.entries()}
        counts = ledger.counts()
    assert (counts["enforced"], counts["carried-out"]) == (1, 1)
    assert stage.changes == [f"off team-a-trainer-0 {action}", f"on team-a-trainer-0 {action}"], "every change of the target"
