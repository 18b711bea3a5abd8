from __future__ import annotations

import json
from typing import Any

import pytest

from connectors.sources import available
from tests.shared import samples
from tests.source_stage import events, fresh, reasons

NAME = "mlflow_webhook"
BODY: dict[str, Any] = {
    "entity": "model_version",
    "action": "created",
    "timestamp": "2026-11-20T22:52:00.856952+00:00",
    "data": {"name": "Llama-ft", "version": "1", "source": "mlflow-artifacts:/1/a", "run_id": "5b25", "tags": {}, "description": None},
}
ROW = {
    "record": 0,
    "time": 1795215120_856952,
    "stream": "registry",
    "action": "create",
    "outcome": "ok",
    "actor": "service:mlflow",
    "object": "model:mlflow/Llama-ft",
    "detail": "model_version",
}


def delivered(body: dict[str, Any], **headers: str) -> dict[str, Any]:
    return {"headers": headers, "body": json.dumps(body)}


def test_a_body_as_posted_is_read_field_by_field() -> None:
    assert events(fresh(NAME, BODY)) == [ROW]


def test_a_delivery_as_our_receiver_writes_it_carries_its_id() -> None:
    assert events(fresh(NAME, delivered(BODY, **{"x-mlflow-delivery-id": "c3ee"}))) == [{**ROW, "uid": "c3ee"}]


@pytest.mark.parametrize(("action", "meaning"), [("created", "create"), ("set", "update"), ("deleted", "delete")])
def test_actions_are_changes(action: str, meaning: str) -> None:
    assert events(fresh(NAME, {**BODY, "entity": "model_version_alias", "action": action}))[0]["action"] == meaning


def test_a_prompt_is_no_model() -> None:
    row = events(fresh(NAME, {**BODY, "entity": "prompt_version"}))[0]
    assert (row["object"], row["detail"]) == ("resource:mlflow/prompt/Llama-ft", "prompt_version")


def test_models_of_two_workspaces_are_two_and_the_first_workspace_keeps_its_names() -> None:
    rows = events(fresh(NAME, {**BODY, "workspace": "team-a"}, {**BODY, "workspace": "default"}))
    assert [row["object"] for row in rows] == ["model:mlflow/team-a/Llama-ft", "model:mlflow/Llama-ft"]


def test_what_is_about_no_model_is_skipped() -> None:
    budget = {**BODY, "entity": "budget_policy", "action": "exceeded", "data": {}}
    decoded = fresh(NAME, budget, {**BODY, "entity": "made_up"}, {**BODY, "action": "made_up"})
    assert decoded.skipped == {"budget_policy": 1, "other": 2}


def test_it_says_that_it_has_no_reads_and_no_actor() -> None:
    source = available()[NAME]
    assert "no actor" in source.limits
    assert "no reads" in source.limits
    assert "signature" in source.limits
    assert not source.feeds & {"reads", "who-to-whom", "bindings"}


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ({**BODY, "timestamp": "2026-11-20"}, "bad-time:timestamp"),
        ({**BODY, "timestamp": "1970-01-01T00:00:00Z"}, "time-out-of-range:timestamp"),
        ({**BODY, "data": {"version": "1"}}, "missing:data.name"),
        ({**BODY, "data": {"name": "a\u202eb"}}, "bad-identity:data.name"),
        ({**BODY, "data": None}, "wrong-type:data"),
        ({"entity": "model_version", "action": "created"}, "missing:timestamp"),
    ],
)
def test_what_is_bad_is_named_in_either_form(body: dict[str, Any], reason: str) -> None:
    assert reasons(fresh(NAME, body, delivered(body))) == [(0, reason), (1, reason)]


def test_a_body_that_is_no_json_is_a_reject() -> None:
    assert reasons(fresh(NAME, {"headers": {}, "body": "{"})) == [(0, "malformed-json")]


def test_every_sample_is_read_field_by_field() -> None:
    decoded = fresh(NAME, *(samples() / "mlflow_3.17.2_webhooks.jsonl").read_bytes().splitlines())
    same = {"stream": "registry", "action": "create", "outcome": "ok", "actor": "service:mlflow", "object": "model:mlflow/llama-ft"}
    assert events(decoded) == [
        {"record": 0, "time": 1795215119_166576, "detail": "registered_model", "uid": "0ab8cfc3-cb1a-4bd6-83c4-b7bed7acd5ed"} | same,
        {"record": 1, "time": 1795215120_856952, "detail": "model_version", "uid": "c3eebdc3-32a0-473a-b322-824e7cbb264d"} | same,
        {"record": 2, "time": 1795215121_420896, "detail": "model_version_alias", "uid": "66c9c162-d12f-4de2-aaf4-e3daa0446a54"} | same,
    ]
