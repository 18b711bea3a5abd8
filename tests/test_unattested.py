"""A key released to a node that did not attest: from the records to the key withheld and the node drained, by two people."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from connectors import ocsf
from connectors.alert import Alert
from connectors.containment import available
from connectors.decision import made
from connectors.event import SECOND
from detector.config import parse
from detector.ledger import Ledger
from detector.respond import Responder
from replay.cli import app
from tests.checkout import code_blocks

MAPPING = """
stream = "attestation"
action = { column = "verb", values = { attest = "attest", release = "release_key" } }
outcome = { column = "state", values = { good = "ok", bad = "denied" } }
time = { column = "t", format = "s" }
actor = { column = "who", kind = "user" }
object = { column = "node", kind = "node" }
detail = { columns = ["key"] }
"""
DAYS, NODES = 8, 12
#: An hour begins. Shortly after it what is done every hour adds a little to the evidence, with keys that are nobody's business.
HOUR = 1_789_002_000

# Days of records through the whole detector.
pytestmark = pytest.mark.slow


def recorded(folder: Path, end: int, *, fails: bool) -> list[Alert]:
    """What is told of nodes that attest every hour and are given their keys, until one fails and is given the model's key too."""
    lines = ["t,verb,state,who,node,key"]
    for hour in range(DAYS * 24):
        for node in range(NODES):
            at = end - (DAYS * 24 - hour) * 3_600 + node * 60
            lines += [f"{at},attest,good,verifier,gpu-{node},", f"{at + 20},release,good,team-{node},gpu-{node},transit/disk-{node}"]
    state = "bad" if fails else "good"
    lines += [f"{end - 40},attest,{state},verifier,gpu-1,", f"{end - 20},release,good,team-1,gpu-1,transit/llama"]
    (folder / "keys.csv").write_text("\n".join(lines) + "\n")
    (folder / "mapping.toml").write_text(MAPPING)
    words = ["replay", "keys.csv", "--mapping", "mapping.toml", "--alerts", "alerts.jsonl"]
    done = CliRunner().invoke(app, [str(folder / word) if "." in word else word for word in words])
    assert done.exit_code == 0, done.output
    return [ocsf.alert_of(line) for line in (folder / "alerts.jsonl").read_bytes().splitlines()]


@pytest.mark.parametrize("end", [HOUR + 1_200, HOUR + 30])
def test_work_on_an_unattested_node_withholds_the_key_and_drains_the_node_when_two_people_have_agreed(tmp_path: Path, end: int) -> None:
    alerts = [alert for alert in recorded(tmp_path, end, fails=True) if "attestation" in alert.signals]
    assert alerts, "the attack is seen"
    text = next(block.text for block in code_blocks("docs/containment.md") if 'name = "unattested"' in block.text)
    policy = parse('[respond]\nmode = "approve"\n' + text).respond
    openbao, slurm = (available()[name].rehearsal().adapter for name in ("openbao", "slurm"))
    with Ledger() as ledger:
        responder = Responder(policy, [openbao, slurm], ledger)
        asked = [outcome for alert in alerts for outcome in responder.handle(alert, end * SECOND)]
        waits = {(each.verb, each.target): each.action for each in asked if each.result == "awaiting-approval"}
        assert set(waits) == {("withhold_key", "secret:transit/llama"), ("drain_node", "node:gpu-1")}, asked
        ends = {}
        for person in ("user:ann", "user:bob"):
            for (verb, _), action in waits.items():
                ends[verb] = responder.hear(made(action, "approve", person, end * SECOND), end * SECOND)[-1].result
        assert ends == {"withhold_key": "verified", "drain_node": "verified"}
        over = responder.expire((end + 86_401) * SECOND)
        assert sorted(each.verb for each in over if each.result == "undo-verified") == ["drain_node", "withhold_key"]
        responder.close()


def test_where_the_node_attested_nothing_is_asked(tmp_path: Path) -> None:
    assert [alert for alert in recorded(tmp_path, HOUR + 1_200, fails=False) if "attestation" in alert.signals] == []
