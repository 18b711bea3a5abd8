"""The accounts that are shipped for Slurm, MLflow and Harbor: enough for every verb, and nothing that no verb needs."""

from __future__ import annotations

import copy
import json
import re
from base64 import b64encode
from typing import Any

import pytest

from connectors.containment._fake import Ask
from connectors.containment._fake_harbor import FakeHarbor
from connectors.containment._fake_mlflow import FakeMlflow
from connectors.containment._fake_slurm import FakeSlurm
from connectors.containment._http import Http
from connectors.containment.harbor import Harbor, HarborSettings
from connectors.containment.mlflow import Mlflow, MlflowSettings
from connectors.containment.slurm import Slurm, SlurmSettings
from tests.checkout import ROOT
from tests.test_containment_battery import cycle

DEPLOY = ROOT / "deploy"


def harbor(permissions: list[dict[str, Any]]) -> Harbor:
    fake = FakeHarbor(permissions)
    settings = HarborSettings(url="http://127.0.0.1:0", username="robot$tocsin", password=fake.password)
    return Harbor(settings, Http(settings, fake.transport()))


ROBOT: dict[str, Any] = json.loads((DEPLOY / "harbor" / "tocsin.json").read_text())


def test_the_shipped_robot_is_enough_for_robots_of_projects_and_of_the_system() -> None:
    assert ROBOT["level"] == "system"
    for target in Harbor.rehearsal().targets["disable_robot"]:
        assert cycle(harbor(ROBOT["permissions"]), "disable_robot", target) == ""


def test_the_shipped_robot_may_do_nothing_that_is_not_needed() -> None:
    assert not {"create", "delete", "push", "pull", "*"} & {each["action"] for one in ROBOT["permissions"] for each in one["access"]}
    for number, one in enumerate(ROBOT["permissions"]):
        for access in one["access"]:
            less = copy.deepcopy(ROBOT["permissions"])
            less[number]["access"].remove(access)
            assert any(cycle(harbor(less), "disable_robot", each) for each in Harbor.rehearsal().targets["disable_robot"]), access


def rank(*names: str) -> str:
    """The rank that the user has after these files of ``deploy/slurm``."""
    text = "".join((DEPLOY / "slurm" / name).read_text() for name in names)
    lines = [line for line in text.splitlines() if re.match(r"sacctmgr .*\buser\b.*\btocsin\b", line)]
    found = [match.group(1) for line in lines for match in [re.search(r"AdminLevel=(\w+)", line)] if match]
    return found[-1] if found else "None"


def slurm(level: str) -> Slurm:
    fake = FakeSlurm()
    fake.ranks = {"tocsin": level}
    settings = SlurmSettings(url="http://127.0.0.1:0", username="tocsin", token=fake.token, cluster="aifac")
    return Slurm(settings, Http(settings, fake.transport()))


@pytest.mark.parametrize("verb", [verb.name for verb in Slurm.verbs])
def test_the_shipped_user_of_slurm_has_the_least_rank_that_is_enough(verb: str) -> None:
    target = Slurm.rehearsal().targets[verb][0]
    usual, nodes = rank("tocsin.sh"), rank("tocsin.sh", "tocsin-nodes.sh")
    assert (usual, nodes) == ("Operator", "Administrator")
    assert cycle(slurm(nodes), verb, target) == ""
    assert (cycle(slurm(usual), verb, target) == "") is (verb != "drain_node")
    assert "unauthorised" in cycle(slurm("None"), verb, target)
    needs = next(one for one in Slurm.verbs if one.name == verb).needs
    assert any(each.endswith("administrator" if verb == "drain_node" else "operator") for each in needs)


def test_the_shipped_user_of_slurm_submits_no_job() -> None:
    assert "MaxSubmitJobs=0" in (DEPLOY / "slurm" / "tocsin.sh").read_text()


def test_the_shipped_calls_make_an_account_of_mlflow_that_is_enough_and_a_lesser_one_is_not() -> None:
    calls: list[dict[str, Any]] = json.loads((DEPLOY / "mlflow" / "tocsin.json").read_text())
    assert all(not call["body"].get("password") for call in calls), "no password is shipped"
    for given in (calls, calls[:1]):
        fake = FakeMlflow()
        admin = {"authorization": f"Basic {b64encode(f'admin:{fake.password.read()}'.encode()).decode()}"}
        for call in given:
            assert fake.meet(Ask(call["method"], call["path"], {}, admin, json.dumps(call["body"]).encode())).status == 200
        settings = MlflowSettings(url="http://127.0.0.1:0", username="tocsin", password=fake.password)
        told = cycle(Mlflow(settings, Http(settings, fake.transport())), "deny_model", "user:alice")
        assert (told == "") is (given is calls)
        assert given is calls or "unauthorised" in told
