"""The Harbor and MLflow adapters: what they must not touch, and what others did meanwhile."""

from __future__ import annotations

from typing import Any

import pytest

from connectors.containment import Action, Trouble
from connectors.containment._fake import Answer
from connectors.containment.harbor import Harbor
from connectors.containment.mlflow import Mlflow
from tests.weather import Fault, outdoors, prepared

DISABLE, DENY = Harbor.verbs[0], Mlflow.verbs[0]
ROBOT = "user:robot$models+trainer"


def test_a_robot_goes_back_whole_with_one_field_changed_and_its_neighbour_is_left_alone() -> None:
    with outdoors("harbor") as stage:
        before = stage.state()
        action = prepared(stage, DISABLE, ROBOT)
        stage.adapter.apply(action)
        after = stage.state()
        assert after[1] == {**before[1], "disable": True, "description": "trains models [contained by tocsin a1]"}
        assert (after[2], after[3]) == (before[2], before[3])
        assert stage.adapter.undo(action).status == "undone"
        assert stage.state() == before


def test_a_robot_that_somebody_enabled_again_only_loses_the_mark() -> None:
    with outdoors("harbor") as stage:
        fake: Any = stage.weather.fake
        before = stage.state()
        action = prepared(stage, DISABLE, ROBOT)
        stage.adapter.apply(action)
        fake.robots[1]["disable"] = False
        assert stage.adapter.undo(action).status == "already"
        assert stage.state() == before


def test_a_robot_made_anew_under_the_number_or_of_the_old_kind_is_not_touched() -> None:
    with outdoors("harbor") as stage:
        fake: Any = stage.weather.fake
        action = prepared(stage, DISABLE, ROBOT)
        fake.robots[1]["creation_time"] = "2026-12-01T00:00:00.000Z"
        assert stage.adapter.apply(action).trouble == Trouble("gone")
        assert not fake.robots[1]["disable"]
        fake.robots[2]["editable"] = False
        ready = stage.adapter.prepare(Action(id="a1", verb="disable_robot", target="user:robot$models+trainer-2"))
        assert (ready.status, ready.trouble) == ("failed", Trouble("refused"))


@pytest.mark.parametrize("target", ["user:alice", "user:robot$other+trainer", "user:robot$trainer", "user:robot$models+train"])
def test_what_is_no_robot_of_exactly_that_name_is_not_found(target: str) -> None:
    with outdoors("harbor") as stage:
        ready = stage.adapter.prepare(Action(id="a1", verb="disable_robot", target=target))
        assert (ready.status, ready.trouble) == ("failed", Trouble("gone"))


def test_the_grants_of_a_user_stay_as_they_are_under_the_denial() -> None:
    with outdoors("mlflow") as stage:
        before = stage.state()
        action = prepared(stage, DENY, "user:alice")
        stage.adapter.apply(action)
        assert [grant for grant in stage.state()["alice"] if grant not in before["alice"]] == [
            ["experiment", "*", "DENY"],
            ["registered_model", "*", "DENY"],
            ["registered_model", "tocsin/a1", "DENY"],
        ]
        assert before["alice"][0] in stage.state()["alice"]
        assert stage.state()["bob"] == before["bob"]


def test_the_models_denied_without_the_experiments_are_not_a_containment() -> None:
    with outdoors("mlflow") as stage:
        fake: Any = stage.weather.fake
        action = prepared(stage, DENY, "user:alice")
        fake.grants["alice"][("registered_model", "*")] = "DENY"
        assert stage.adapter.verify(action) == ("not-effective", "not denied: experiment *", 0.0, None)


def test_an_old_mlflow_is_told_from_an_unknown_user() -> None:
    with outdoors("mlflow") as stage:
        stage.weather.reads = Fault(Answer(404, "<!doctype html>Not Found"))
        old = stage.adapter.prepare(Action(id="a1", verb="deny_model", target="user:alice"))
        assert (old.status, old.trouble) == ("failed", Trouble("down"))
        assert "3.17" in old.reason
        stage.weather.reads = Fault(Answer(404))
        assert stage.adapter.prepare(Action(id="a1", verb="deny_model", target="user:alice")).trouble == Trouble("down")


def test_an_mlflow_that_knows_no_denial_refuses_and_nothing_is_left_in_it() -> None:
    with outdoors("mlflow") as stage:
        before = stage.state()
        action = prepared(stage, DENY, "user:alice")
        stage.weather.every = Fault(Answer(400, {"error_code": "INVALID_PARAMETER_VALUE", "message": "Invalid permission 'DENY'"}))
        done = stage.adapter.apply(action)
        assert (done.status, done.trouble) == ("failed", Trouble("refused"))
        assert stage.state() == before


def test_an_administrator_cannot_be_denied() -> None:
    with outdoors("mlflow") as stage:
        admin = stage.adapter.prepare(Action(id="a1", verb="deny_model", target="user:admin"))
        assert (admin.status, admin.trouble) == ("failed", Trouble("refused"))
        nobody = stage.adapter.prepare(Action(id="a1", verb="deny_model", target="user:nobody"))
        assert nobody.trouble == Trouble("gone")


def test_a_denial_that_somebody_lifted_is_not_brought_back_by_the_undo() -> None:
    with outdoors("mlflow") as stage:
        fake: Any = stage.weather.fake
        before = stage.state()
        action = prepared(stage, DENY, "user:alice")
        stage.adapter.apply(action)
        for kind in ("experiment", "registered_model"):
            del fake.grants["alice"][(kind, "*")]
        assert stage.adapter.undo(action).status == "already"
        assert stage.state() == before
