from __future__ import annotations

import copy
import json
from typing import Any

import pytest

from tests.shared import samples
from tests.source_stage import events, fresh, reasons

NAME = "harbor"
RESOURCE = {"digest": "sha256:dde8", "tag": "v1", "resource_url": "harbor.example/models/llama:v1"}
DATA = {
    "resources": [RESOURCE],
    "repository": {"date_created": 1677053165, "name": "llama", "namespace": "models", "repo_full_name": "models/llama"},
}
DEFAULT: dict[str, Any] = {"type": "PULL_ARTIFACT", "occur_at": 1795214848, "operator": "Alice", "event_data": DATA}
CLOUD: dict[str, Any] = {
    "specversion": "1.0",
    "id": "4b2f89a6",
    "source": "/projects/1/webhook/policies/3",
    "type": "harbor.artifact.pulled",
    "time": "2026-11-20T22:47:28Z",
    "data": DATA,
    "operator": "Alice",
}
ROW = {
    "record": 0,
    "time": 1795214848_000000,
    "stream": "registry",
    "action": "pull",
    "outcome": "ok",
    "actor": "user:alice",
    "object": "model:harbor.example/models/llama",
    "detail": "manifest",
}


def test_both_formats_say_the_same() -> None:
    assert events(fresh(NAME, DEFAULT)) == [ROW]
    assert events(fresh(NAME, CLOUD)) == [{**ROW, "uid": "4b2f89a6"}]


@pytest.mark.parametrize(
    ("default", "cloud", "action"),
    [
        ("PUSH_ARTIFACT", "harbor.artifact.pushed", "push"),
        ("PULL_ARTIFACT", "harbor.artifact.pulled", "pull"),
        ("DELETE_ARTIFACT", "harbor.artifact.deleted", "delete"),
    ],
)
def test_types_are_actions(default: str, cloud: str, action: str) -> None:
    decoded = fresh(NAME, {**DEFAULT, "type": default}, {**CLOUD, "type": cloud})
    assert [row["action"] for row in events(decoded)] == [action, action]


def test_other_events_are_skipped_by_type_and_a_made_up_type_makes_no_counter() -> None:
    others = ["SCANNING_COMPLETED", "QUOTA_EXCEED", "REPLICATION", "FOO", "BAR"]
    scan = {**CLOUD, "type": "harbor.scan.completed", "data": {"anything": 1}}
    decoded = fresh(NAME, *({"type": other, "occur_at": 1795214848, "event_data": {}} for other in others), scan)
    assert decoded.skipped == {"SCANNING_COMPLETED": 1, "QUOTA_EXCEED": 1, "REPLICATION": 1, "other": 2, "harbor.scan.completed": 1}
    assert not decoded.rejects


def test_a_robot_is_a_user_of_the_name_harbor_gives_it() -> None:
    assert events(fresh(NAME, {**DEFAULT, "operator": "robot$models+puller"}))[0]["actor"] == "user:robot$models+puller"


@pytest.mark.parametrize("operator", ["", None])
def test_nobody_is_anonymous(operator: str | None) -> None:
    assert events(fresh(NAME, {**DEFAULT, "operator": operator}))[0]["actor"] == "user:anonymous"


def test_an_event_of_several_artifacts_is_several_rows_of_one_record() -> None:
    event = copy.deepcopy(DEFAULT)
    event["event_data"]["resources"] = [RESOURCE, {**RESOURCE, "resource_url": "other.example/models/llama@sha256:dde8"}]
    rows = events(fresh(NAME, DEFAULT, event))
    assert [row["record"] for row in rows] == [0, 1, 1]
    assert rows[2]["object"] == "model:other.example/models/llama"


@pytest.mark.parametrize(
    ("url", "model"),
    [
        ("https://Harbor.Example:8443/models/llama:v1", "model:harbor.example:8443/models/llama"),
        ("", "model:harbor/models/llama"),
        (None, "model:harbor/models/llama"),
    ],
)
def test_the_host_is_taken_from_the_url(url: str | None, model: str) -> None:
    event = {**DEFAULT, "event_data": {**DATA, "resources": [{"resource_url": url}]}}
    assert events(fresh(NAME, event))[0]["object"] == model


def test_an_event_without_resources_is_about_its_repository() -> None:
    assert len(events(fresh(NAME, {**DEFAULT, "event_data": {**DATA, "resources": []}}))) == 1


@pytest.mark.parametrize(
    ("event", "reason"),
    [
        ({**DEFAULT, "occur_at": -5}, "time-out-of-range:occur_at"),
        ({**DEFAULT, "occur_at": 1795214848000}, "time-out-of-range:occur_at"),
        ({**DEFAULT, "occur_at": None}, "wrong-type:occur_at"),
        ({**CLOUD, "time": "soon"}, "bad-time:time"),
        ({**DEFAULT, "operator": "a\x00b"}, "bad-identity:operator"),
        ({**DEFAULT, "event_data": {"resources": []}}, "missing:repository"),
        ({"type": "PULL_ARTIFACT", "occur_at": 1795214848}, "missing:event_data"),
        ({**DEFAULT, "event_data": {"repository": {"repo_full_name": "a/../b"}}}, "bad-identity:repository.repo_full_name"),
        ({"type": "PULL_ARTIFACT"}, "missing:occur_at"),
    ],
)
def test_what_is_bad_is_named(event: dict[str, Any], reason: str) -> None:
    found = reasons(fresh(NAME, event, DEFAULT))
    assert found in ([(0, reason)], [(0, reason.replace("missing:", "missing:event_data."))])


def test_the_sample_is_read_field_by_field() -> None:
    lines = (samples() / "misc_real_records.jsonl").read_bytes().splitlines()
    (record,) = (found["record"] for found in map(json.loads, lines) if found["_src"].startswith("Harbor"))
    assert events(fresh(NAME, record)) == [
        {
            **ROW,
            "time": 1678082923_000000,
            "actor": "user:robot$library+scanner-trivy-51fe4548-bbe5-11ed-9217-0242ac14000d",
            "object": "model:harbor.dev/library/busybox",
            "uid": "4b2f89a6-548d-4c12-9993-a1f5790b97d2",
        }
    ]
