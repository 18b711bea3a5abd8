"""kill -9 at every boundary of a containment on a real API server."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from connectors import ocsf
from connectors.containment._kube_api import STOPPED_BY
from connectors.event import SECOND
from detector.ledger import Ledger
from tests.alerts import made_alert
from tests.fake_target import BOUNDARIES, Lives
from tests.kube import Kube
from tests.kube_stage import Stage
from tests.test_kill import QUICK, TTL

pytestmark = pytest.mark.containment


@pytest.fixture(scope="module")
def lives() -> Iterator[Lives]:
    made = Lives("", "tests.kube_target")
    yield made
    made.close()


def prepared(stage: Stage, folder: Path, node: str) -> tuple[str, ...]:
    """The command line: a policy that cordons for an hour, one alert of just now about the node."""
    now = int(time.time() * SECOND)
    alert = made_alert(uid=f"alert-{node}", time=now, opened=now, first=now, last=now, targets=[f"node:{node}"])
    (folder / "alerts.jsonl").write_bytes(ocsf.encode(alert, "0.1.0"))
    (folder / "token").write_text(stage.kube.token("tocsin", "responder"))
    adapter = f'url = "{stage.kube.url}"\nca_file = "{stage.kube.ca}"\ntoken = {{ file = "{folder / "token"}" }}\n'
    adapter += "timeout_seconds = 60\ndeadline_seconds = 120\n"
    actions = f'[{{ verb = "cordon_node", mode = "enforce", ttl_seconds = {TTL} }}]'
    rule = f'[[respond.rules]]\nname = "r"\nactions = {actions}\n'
    (folder / "policy.toml").write_text(f'[respond]\nmode = "enforce"\n[respond.adapters.kubernetes]\n{adapter}{rule}')
    return ("respond", str(folder / "alerts.jsonl"), "--config", str(folder / "policy.toml"), "--ledger", str(folder / "ledger"))


def cordons(kube: Kube, node: str, since: str) -> list[str]:
    """Every change of the node's cordon since a version, with its mark, oldest first: nothing that was written is missed."""
    query = f"watch=1&timeoutSeconds=1&resourceVersion={since}&fieldSelector=metadata.name={node}"
    events = kube.call("GET", f"/api/v1/nodes?{query}").text.splitlines()
    found: list[str] = []
    last: tuple[bool, str] = (False, "")
    for line in events:
        one: dict[str, Any] = json.loads(line)["object"]
        now = (one["spec"].get("unschedulable", False), one["metadata"].get("annotations", {}).get(STOPPED_BY, ""))
        if now != last:
            found.append(f"{'off' if now[0] else 'on'} {now[1]}".strip())
        last = now
    return found


@pytest.mark.parametrize("boundary", [pytest.param(each, marks=() if each in QUICK else pytest.mark.slow) for each in BOUNDARIES])
def test_t7_killed_at_a_boundary_a_node_is_cordoned_once_and_let_go_in_time(
    kube: Kube, lives: Lives, tmp_path: Path, boundary: str
) -> None:
    stage = Stage(kube, tmp_path)
    try:
        stage.node(node := f"n-{stage.namespace}")
        since = kube.ask("GET", f"/api/v1/nodes/{node}")["metadata"]["resourceVersion"]
        command = prepared(stage, tmp_path, node)
        undoing = "undo" in boundary
        assert lives.run(*command, crash="" if undoing else boundary) == (0 if undoing else -9)
        assert lives.run(*command) == 0
        assert len(cordons(kube, node, since)) == 1, "cordoned once"
        assert lives.run(*command, later=TTL - 900) == 0
        assert len(cordons(kube, node, since)) == 1, "not let go before its time"
        assert lives.run(*command, crash=boundary if undoing else "", later=TTL + 1) == (-9 if undoing else 0)
        assert lives.run(*command, later=TTL + 1) == 0
        with Ledger.at(tmp_path / "ledger") as ledger:
            assert ledger.verify_chain() is None
            assert (ledger.history.pending, ledger.history.holds) == ({}, {})
            (action,) = {entry.action for entry in ledger.entries()}
        assert cordons(kube, node, since) == [f"off {action}", "on"]
    finally:
        stage.close()
