from __future__ import annotations

import copy
import json
from typing import Any

import pytest

from tests.shared import samples
from tests.source_stage import events, fresh, reasons

NAME = "oci_notifications"
DIGEST = "sha256:9bdd2b102a4a49a2f82bece21842c0a0b264afaa85c7ed69193e98591b8bdccb"
EVENT: dict[str, Any] = {
    "id": "e1",
    "timestamp": "2026-11-20T22:47:28.306235198Z",
    "action": "pull",
    "target": {"mediaType": "application/octet-stream", "size": 7000, "digest": DIGEST, "length": 7000, "repository": "models/llama"},
    "request": {"id": "r1", "addr": "10.20.0.7:56800", "host": "Registry.Example:5000", "method": "GET", "useragent": "oras/1.2.0"},
    "actor": {"name": "Svc-Train"},
    "source": {"addr": "vm:5000", "instanceID": "206b"},
}
TIME = 1795214848_306235


def changed(**parts: Any) -> dict[str, Any]:
    """The event with fields replaced; parts of an object are merged into it, None takes a field away."""
    event = copy.deepcopy(EVENT)
    for name, value in parts.items():
        if isinstance(value, dict) and value:
            event[name] = {key: item for key, item in {**event[name], **value}.items() if item is not None}
        else:
            event[name] = value
    return event


def envelope(*found: dict[str, Any] | int) -> dict[str, Any]:
    return {"events": list(found)}


def one(event: dict[str, Any]) -> dict[str, Any]:
    """The row of the act itself."""
    return events(fresh(NAME, envelope(event)))[0]


def test_a_pull_is_read_field_by_field_and_says_where_the_user_was_seen() -> None:
    assert events(fresh(NAME, envelope(EVENT))) == [
        {
            "record": 0,
            "time": TIME,
            "stream": "registry",
            "action": "pull",
            "outcome": "ok",
            "actor": "user:svc-train",
            "object": "model:registry.example:5000/models/llama",
            "via": "ip:10.20.0.7",
            "detail": "blob",
            "bytes_in": 7000.0,
            "bytes_basis": "object",
            "uid": "e1",
        },
        {
            "record": 0,
            "time": TIME,
            "stream": "auth",
            "action": "use",
            "outcome": "ok",
            "actor": "user:svc-train",
            "object": "ip:10.20.0.7",
            "detail": "registry",
            "uid": "e1",
        },
    ]


def test_a_pull_by_head_request_is_not_a_read() -> None:
    row = one(changed(request={"method": "HEAD"}))
    assert (row["action"], row["bytes_in"], row["bytes_basis"]) == ("list", 0.0, "object")


def test_what_a_manifest_refers_to_is_not_counted_as_pulled() -> None:
    references = [{"mediaType": "application/vnd.cncf.model.weight.v1.raw", "size": 70_000, "digest": DIGEST}]
    row = one(changed(target={"mediaType": "application/vnd.oci.image.manifest.v1+json", "size": 470, "references": references}))
    assert (row["detail"], row["bytes_in"]) == ("manifest", 470.0)


def test_a_push_counts_outwards() -> None:
    row = one(changed(action="push", request={"method": "PUT"}))
    assert (row["action"], row["bytes_out"], "bytes_in" in row) == ("push", 7000.0, False)


def test_a_mount_moves_no_bytes_and_reads_the_repository_it_takes_from() -> None:
    push, read, seen = events(fresh(NAME, envelope(changed(action="mount", target={"fromRepository": "models/secret"}))))
    assert (push["action"], push["object"], push["bytes_out"]) == ("push", "model:registry.example:5000/models/llama", 0.0)
    assert (read["action"], read["object"], read["bytes_in"]) == ("read", "model:registry.example:5000/models/secret", 0.0)
    assert push["detail"] == read["detail"] == "mount"
    assert seen["action"] == "use"


def test_a_deletion_has_no_bytes() -> None:
    row = one(changed(action="delete", target={"size": None, "mediaType": None}))
    assert row["action"] == "delete"
    assert not {"bytes_in", "bytes_out", "bytes_basis", "detail"} & row.keys()


def test_nobody_logged_in_is_the_address_and_has_one_row() -> None:
    (row,) = events(fresh(NAME, envelope(changed(actor={}))))
    assert row["actor"] == "ip:10.20.0.7"
    assert "via" not in row


@pytest.mark.parametrize(
    ("addr", "seen"),
    [
        ("[2001:db8::7]:443", "ip:2001:db8::7"),
        ("2001:db8::7", "ip:2001:db8::7"),
        ("010.020.0.7:1", "ip:10.20.0.7"),
        ("::ffff:10.0.0.1", "ip:10.0.0.1"),
    ],
)
def test_an_address_is_the_same_with_and_without_a_port(addr: str, seen: str) -> None:
    assert one(changed(request={"addr": addr}))["via"] == seen


def test_a_unix_socket_is_no_address() -> None:
    (row,) = events(fresh(NAME, envelope(changed(request={"addr": "@"}))))
    assert "via" not in row


def test_neither_user_nor_address_is_a_reject() -> None:
    assert reasons(fresh(NAME, envelope(changed(actor={}, request={"addr": None})))) == [(0, "missing:actor.name")]


def test_a_request_without_a_host_does_not_vanish() -> None:
    assert one(changed(request={"host": None}))["object"] == "model:vm:5000/models/llama"
    assert one(changed(request={"host": None}, source={}))["object"] == "model:registry/models/llama"


def test_a_kubernetes_account_is_a_service_account() -> None:
    assert one(changed(actor={"name": "system:serviceaccount:Team-a:builder"}))["actor"] == "sa:Team-a/builder"


@pytest.mark.parametrize(
    ("media", "detail"),
    [
        ("application/vnd.docker.distribution.manifest.list.v2+json", "index"),
        ("application/vnd.oci.image.index.v1+json", "index"),
        ("application/vnd.docker.distribution.manifest.v2+json", "manifest"),
        ("application/vnd.oci.image.config.v1+json", "config"),
        ("application/vnd.docker.container.image.v1+json", "config"),
        ("application/vnd.made.up.by.a.client", "blob"),
    ],
)
def test_media_types_fall_into_few_classes(media: str, detail: str) -> None:
    assert one(changed(target={"mediaType": media}))["detail"] == detail


def test_an_envelope_keeps_its_good_events_when_others_are_bad() -> None:
    mixed = envelope(
        EVENT, changed(target={"size": -1}), 7, changed(target={"repository": "../etc"}), changed(target={"size": -2}), EVENT
    )
    decoded = fresh(NAME, envelope(EVENT), mixed, envelope(EVENT))
    assert [row["record"] for row in events(decoded) if row["action"] == "pull"] == [0, 1, 1, 2]
    assert reasons(decoded) == [(1, "negative:target.size"), (1, "wrong-type:record"), (1, "bad-identity:target.repository")]


def test_an_event_without_an_envelope_is_read_too() -> None:
    assert events(fresh(NAME, EVENT)) == events(fresh(NAME, envelope(EVENT)))


def test_an_empty_envelope_says_nothing() -> None:
    decoded = fresh(NAME, envelope())
    assert (len(decoded.block), decoded.rejects) == (0, [])


def test_an_action_of_no_known_name_is_skipped_without_making_up_a_counter() -> None:
    decoded = fresh(NAME, envelope(changed(action="teleport"), changed(action="warp")))
    assert decoded.skipped == {"other": 2}


@pytest.mark.parametrize(
    ("event", "reason"),
    [
        (changed(timestamp="yesterday"), "bad-time:timestamp"),
        (changed(timestamp="2101-01-01T00:00:00Z"), "time-out-of-range:timestamp"),
        (changed(target={"size": 1e300}), "out-of-range:target.size"),
        (changed(target={"size": "7000"}), "wrong-type:target.size"),
        (changed(target={"repository": None}), "missing:target.repository"),
        (changed(target={"repository": ""}), "missing:target.repository"),
        (changed(actor={"name": "a\u202eb"}), "bad-identity:actor.name"),
        (changed(actor={"name": "x" * 10_000}), "bad-identity:actor.name"),
        (changed(request={"addr": "registry.example:5000"}), "bad-identity:request.addr"),
    ],
)
def test_what_is_bad_is_named(event: dict[str, Any], reason: str) -> None:
    found = reasons(fresh(NAME, envelope(event)))
    assert found in ([(0, reason)], [(0, reason.replace("target.", ""))])


def test_a_record_of_a_million_bad_events_costs_few_rejects() -> None:
    assert len(fresh(NAME, json.dumps({"events": [1] * 300_000}).encode()).rejects) == 1


def test_every_sample_is_read_field_by_field() -> None:
    lines = (samples() / "oci_distribution_2.8.2_notifications.jsonl").read_bytes().splitlines()
    decoded = fresh(NAME, *lines)
    rows = [row for row in events(decoded) if row["action"] != "use"]
    seen = [row for row in events(decoded) if row["action"] == "use"]
    assert not decoded.rejects
    assert not decoded.skipped
    for row, line in zip(rows, lines, strict=True):
        assert row["uid"] == json.loads(line)["events"][0]["id"]
        assert row["outcome"] == "ok"
        assert (row["actor"], row["object"]) == ("user:svc-train", "model:127.0.0.1:5000/models/llama-ft")
        assert row["via"] == "ip:127.0.0.1"
    assert [row["time"] - 1795214848_000000 for row in rows] == [270267, 282386, 289620, 295247, 298789, 306235, 309898, 314850, 315760]
    assert [(row["action"], row.get("detail"), row.get("bytes_out"), row.get("bytes_in")) for row in rows] == [
        ("push", "blob", 2.0, None),
        ("push", "blob", 7000.0, None),
        ("push", "manifest", 470.0, None),
        ("list", "manifest", None, 0.0),
        ("pull", "manifest", None, 470.0),
        ("pull", "blob", None, 7000.0),
        ("pull", "blob", None, 7000.0),
        ("delete", None, None, None),
        ("delete", "tag", None, None),
    ]
    assert {(row["actor"], row["object"], row["detail"]) for row in seen} == {("user:svc-train", "ip:127.0.0.1", "registry")}
