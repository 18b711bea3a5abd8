from __future__ import annotations

import copy
import json
from typing import Any

import pytest

from connectors.event import Binding
from connectors.sources import available
from tests.shared import samples
from tests.source_stage import events, fresh, reasons

NAME = "kubernetes_audit"
TIME = 1795227482_833139
CREDENTIAL = "authentication.kubernetes.io/credential-id"
BOUND = "authentication.kubernetes.io/pod-name"
EVENT: dict[str, Any] = {
    "kind": "Event",
    "apiVersion": "audit.k8s.io/v1",
    "level": "Metadata",
    "auditID": "f6217498",
    "stage": "ResponseComplete",
    "requestURI": "/api/v1/namespaces/team-a/secrets/cred",
    "verb": "get",
    "user": {"username": "Alice", "groups": ["system:authenticated"]},
    "sourceIPs": ["10.20.0.7"],
    "objectRef": {"resource": "secrets", "namespace": "team-a", "name": "cred", "apiVersion": "v1"},
    "responseStatus": {"metadata": {}, "code": 200},
    "requestReceivedTimestamp": "2026-11-21T02:18:02.831321Z",
    "stageTimestamp": "2026-11-21T02:18:02.833139Z",
}
POD: dict[str, Any] = {
    "kind": "Pod",
    "metadata": {"name": "web-5d9c7-x2x", "namespace": "team-a", "labels": {"pod-template-hash": "5d9c7"}},
    "spec": {"serviceAccountName": "default"},
    "status": {"phase": "Running", "hostIP": "10.0.0.1", "podIP": "10.9.0.5", "podIPs": [{"ip": "10.9.0.5"}, {"ip": "fd00::5"}]},
}
KUBELET = {"username": "system:node:GPU-01"}


def request(verb: str, resource: str, name: str = "", **more: Any) -> dict[str, Any]:
    """A request of alice in team-a for ``resource[/subresource]``; ``more`` replaces fields of the event."""
    main, _, sub = resource.partition("/")
    ref = {"resource": main, "namespace": "team-a", "name": name, "subresource": sub}
    return {**EVENT, "verb": verb, "objectRef": {key: value for key, value in ref.items() if value}, **more}


def written(pod: dict[str, Any], resource: str = "pods/status", verb: str = "patch", **more: Any) -> dict[str, Any]:
    return request(verb, resource, pod["metadata"]["name"], **{"user": KUBELET, "responseObject": pod, **more})


def pod(**changes: Any) -> dict[str, Any]:
    """The pod with parts of its metadata, spec and status replaced."""
    made = copy.deepcopy(POD)
    for part, fields in changes.items():
        made[part] = {key: value for key, value in {**made[part], **fields}.items() if value is not None}
    return made


def owned(kind: str, name: str) -> dict[str, Any]:
    return {"ownerReferences": [{"kind": "Other", "name": "x"}, {"kind": kind, "name": name, "controller": True}]}


def one(event: dict[str, Any]) -> dict[str, Any]:
    return events(fresh(NAME, event))[0]


def bound(event: dict[str, Any]) -> list[tuple[str, str | None]]:
    decoded = fresh(NAME, event)
    assert not decoded.rejects
    return [(binding.subject, binding.target) for binding in decoded.bindings]


def test_a_request_is_read_field_by_field_and_says_where_the_user_was_seen() -> None:
    same = {"record": 0, "time": TIME, "stream": "auth", "outcome": "ok", "actor": "user:alice", "uid": "f6217498"}
    assert events(fresh(NAME, EVENT)) == [
        {**same, "action": "read", "object": "secret:team-a/cred", "via": "ip:10.20.0.7", "detail": "secrets"},
        {**same, "action": "use", "object": "ip:10.20.0.7", "detail": "kubernetes"},
    ]


@pytest.mark.parametrize(
    ("username", "actor"),
    [
        ("system:serviceaccount:Team-a:trainer", "sa:Team-a/trainer"),
        ("system:node:GPU-07", "node:gpu-07"),
        ("system:kube-scheduler", "user:system:kube-scheduler"),
        ("oidc:alice@example.org", "user:oidc:alice@example.org"),
    ],
)
def test_accounts_of_kubernetes_have_their_kinds(username: str, actor: str) -> None:
    assert one({**EVENT, "user": {"username": username}})["actor"] == actor


@pytest.mark.parametrize("user", [{}, {"username": "system:anonymous"}])
def test_nobody_is_the_address(user: dict[str, Any]) -> None:
    (row,) = events(fresh(NAME, {**EVENT, "user": user}))
    assert row["actor"] == "ip:10.20.0.7"
    assert one({**EVENT, "user": user, "sourceIPs": None})["actor"] == "user:system:anonymous"


@pytest.mark.parametrize(
    ("verb", "resource", "name", "action", "target"),
    [
        ("get", "pods/exec", "train-0", "exec", "pod:team-a/train-0"),
        ("create", "pods/exec", "train-0", "exec", "pod:team-a/train-0"),
        ("create", "pods/attach", "train-0", "exec", "pod:team-a/train-0"),
        ("create", "pods/portforward", "train-0", "connect", "pod:team-a/train-0"),
        ("create", "pods/eviction", "train-0", "delete", "pod:team-a/train-0"),
        ("create", "pods", "train-0", "create", "pod:team-a/train-0"),
        ("create", "pods", "", "create", "ns:team-a"),
        ("get", "pods/log", "train-0", "read", "pod:team-a/train-0"),
        ("create", "jobs", "train", "submit", "job:k8s/team-a/train"),
        ("patch", "jobs", "train", "update", "job:k8s/team-a/train"),
        ("create", "serviceaccounts/token", "trainer", "issue", "sa:team-a/trainer"),
        ("list", "secrets", "", "list", "ns:team-a"),
        ("watch", "pods", "", "list", "ns:team-a"),
        ("create", "rolebindings", "dev", "admin", "role:team-a/dev"),
        ("get", "rolebindings", "dev", "read", "role:team-a/dev"),
        ("deletecollection", "configmaps", "", "delete", "ns:team-a"),
        ("update", "deployments", "web", "update", "resource:deployments/team-a/web"),
        ("update", "deployments/scale", "web", "update", "resource:deployments/team-a/web"),
        ("teleport", "pods", "train-0", "unknown", "pod:team-a/train-0"),
    ],
)
def test_verbs_and_resources_become_actions_and_objects(verb: str, resource: str, name: str, action: str, target: str) -> None:
    row = one(request(verb, resource, name))
    assert (row["action"], row["object"], row["detail"]) == (action, target, resource)


@pytest.mark.parametrize(
    ("ref", "target"),
    [
        ({"resource": "nodes", "name": "GPU-07"}, "node:gpu-07"),
        ({"resource": "clusterroles", "name": "admin"}, "role:admin"),
        ({"resource": "namespaces", "namespace": "team-a", "name": "team-a"}, "ns:team-a"),
        ({"resource": "secrets"}, "ns:*"),
        ({"resource": "storageclasses", "name": "fast"}, "resource:storageclasses/fast"),
    ],
)
def test_what_is_of_the_cluster_has_no_namespace(ref: dict[str, Any], target: str) -> None:
    assert one({**EVENT, "objectRef": ref})["object"] == target


@pytest.mark.parametrize(
    ("uri", "target"), [("/healthz?verbose", "/healthz"), ("/apis/x/v1", "/apis"), ("/", "/"), ("/made-up/1", "/other")]
)
def test_paths_that_are_no_resource_are_few_objects(uri: str, target: str) -> None:
    row = one({key: value for key, value in EVENT.items() if key != "objectRef"} | {"requestURI": uri})
    assert (row["object"], row["detail"], row["action"]) == (f"resource:{target}", "nonresource", "read")


@pytest.mark.parametrize(
    ("code", "outcome"),
    [(200, "ok"), (101, "ok"), (304, "ok"), (401, "denied"), (403, "denied"), (404, "failed"), (429, "failed"), (500, "failed")],
)
def test_outcomes_follow_the_code(code: int, outcome: str) -> None:
    assert {row["outcome"] for row in events(fresh(NAME, {**EVENT, "responseStatus": {"code": code}}))} == {outcome}


def test_a_request_without_a_code_has_no_outcome() -> None:
    assert one({**EVENT, "responseStatus": None})["outcome"] == "unknown"


def test_a_request_counts_once_when_it_is_over() -> None:
    stages = [{**EVENT, "stage": stage} for stage in ("RequestReceived", "ResponseStarted", "ResponseComplete", "Panic", "Encore")]
    decoded = fresh(NAME, *stages)
    assert decoded.skipped == {"RequestReceived": 1, "ResponseStarted": 1, "other": 1}
    assert {row["record"] for row in events(decoded)} == {2, 3}


def test_a_failed_authentication_counts_though_it_never_completes() -> None:
    failed = {**EVENT, "stage": "ResponseStarted", "user": {}, "responseStatus": {"code": 401}}
    assert one(failed)["outcome"] == "denied"


def test_a_backend_that_answers_401_to_a_known_user_is_not_counted_twice() -> None:
    proxied = [{**EVENT, "stage": stage, "responseStatus": {"code": 401}} for stage in ("ResponseStarted", "ResponseComplete")]
    decoded = fresh(NAME, *proxied)
    assert {row["record"] for row in events(decoded)} == {1}


def test_whom_one_acts_as_is_the_actor_and_who_does_is_named_thrice() -> None:
    event = {**EVENT, "user": {"username": "admin", "extra": {CREDENTIAL: ["JTI=b176"]}}, "impersonatedUser": {"username": "bob"}}
    rows = [(row["actor"], row["action"], row["object"], row["via"], row["detail"]) for row in events(fresh(NAME, event))]
    assert rows == [
        ("user:bob", "read", "secret:team-a/cred", "user:admin", "secrets"),
        ("user:admin", "use", "user:bob", "token:b176", "impersonation"),
        ("user:admin", "use", "ip:10.20.0.7", "token:b176", "kubernetes"),
    ]


def test_the_credential_carries_an_act_then_the_pod_then_the_address() -> None:
    account = "system:serviceaccount:team-a:trainer"
    both = {"username": account, "extra": {CREDENTIAL: ["JTI=b176"], BOUND: ["train-0"]}}
    assert one({**EVENT, "user": both})["via"] == "token:b176"
    assert one({**EVENT, "user": {"username": account, "extra": {BOUND: ["train-0"]}}})["via"] == "pod:team-a/train-0"
    assert one({**EVENT, "user": {"username": account}})["via"] == "ip:10.20.0.7"


def test_a_client_cannot_hide_its_address_behind_one_it_claims() -> None:
    rows = events(fresh(NAME, {**EVENT, "sourceIPs": ["10.0.0.99", "198.51.100.1", "203.0.113.9"]}))
    assert [row["object"] for row in rows[1:]] == ["ip:203.0.113.9", "ip:10.0.0.99"]
    assert rows[0]["via"] == "ip:203.0.113.9"


def test_a_pod_written_binds_its_addresses_to_it_and_it_to_its_account() -> None:
    event = written(pod(spec={"serviceAccountName": "trainer"}))
    assert bound(event) == [
        ("ip:10.9.0.5", "pod:team-a/web-5d9c7-x2x"),
        ("ip:fd00::5", "pod:team-a/web-5d9c7-x2x"),
        ("pod:team-a/web-5d9c7-x2x", "sa:team-a/trainer"),
    ]
    assert {binding.time for binding in fresh(NAME, event).bindings} == {TIME}


@pytest.mark.parametrize(
    ("metadata", "target"),
    [
        (owned("ReplicaSet", "web-5d9c7"), "workload:team-a/Deployment/web"),
        (owned("ReplicaSet", "web-1"), "workload:team-a/ReplicaSet/web-1"),
        (owned("StatefulSet", "db"), "workload:team-a/StatefulSet/db"),
        (owned("Job", "train"), "job:k8s/team-a/train"),
    ],
)
def test_a_pod_of_the_default_account_is_its_workloads(metadata: dict[str, Any], target: str) -> None:
    assert bound(written(pod(metadata=metadata)))[-1] == ("pod:team-a/web-5d9c7-x2x", target)


def test_a_pod_made_by_hand_is_its_makers_and_stays_it() -> None:
    assert bound(written(pod(status={"podIP": None, "podIPs": None}), "pods", "create", user={"username": "alice"})) == [
        ("pod:team-a/web-5d9c7-x2x", "user:alice")
    ]
    assert ("pod:team-a/web-5d9c7-x2x", "user:bob") not in bound(written(POD, "pods", "patch", user={"username": "bob"}))


@pytest.mark.parametrize("change", [{"spec": {"hostNetwork": True}}, {"status": {"hostIP": "10.9.0.5", "podIPs": None}}])
def test_the_address_of_a_node_is_no_pods(change: dict[str, Any]) -> None:
    assert not [subject for subject, _ in bound(written(pod(**change))) if subject.startswith("ip:10.")]


def test_a_pod_that_ended_gives_its_address_back_once() -> None:
    ended = pod(status={"phase": "Succeeded"})
    assert bound(written(ended))[:2] == [("ip:10.9.0.5", None), ("ip:fd00::5", None)]
    assert bound(written(ended, "pods", "patch")) == []


def test_a_deleted_pod_ends_when_its_grace_period_is_over() -> None:
    waiting = pod(metadata={"deletionGracePeriodSeconds": 30})
    assert bound(written(waiting, "pods", "delete", user={"username": "alice"})) == []
    gone = pod(metadata={"deletionGracePeriodSeconds": 0})
    assert bound(written(gone, "pods", "delete")) == [("ip:10.9.0.5", None), ("ip:fd00::5", None), ("pod:team-a/web-5d9c7-x2x", None)]


def test_the_late_deletion_of_an_ended_pod_does_not_take_the_address_from_the_next() -> None:
    gone = pod(status={"phase": "Failed"})
    assert bound(written(gone, "pods", "delete")) == [("pod:team-a/web-5d9c7-x2x", None)]


def test_without_objects_only_the_kubelets_deletion_ends_a_pod() -> None:
    assert bound(request("delete", "pods", "train-0", user=KUBELET)) == [("pod:team-a/train-0", None)]
    assert bound(request("delete", "pods", "train-0")) == []


@pytest.mark.parametrize(
    "change", [{"responseStatus": {"code": 403}}, {"requestURI": "/api/v1/namespaces/team-a/pods?dryRun=All"}, {"stage": "Panic"}]
)
def test_what_did_not_happen_binds_nothing(change: dict[str, Any]) -> None:
    assert bound(written(POD, **change)) == []
    assert bound(request("create", "jobs", "train", **change)) == []


def test_a_job_is_its_creators_or_its_cronjobs() -> None:
    assert bound(request("create", "jobs", "train")) == [("job:k8s/team-a/train", "user:alice")]
    controller = {"username": "system:serviceaccount:kube-system:cronjob-controller"}
    assert bound(request("create", "jobs", "nightly-1", user=controller)) == []
    job = {"kind": "Job", "metadata": {"name": "nightly-1", "namespace": "team-a", **owned("CronJob", "nightly")}}
    assert bound(request("create", "jobs", "nightly-1", user=controller, responseObject=job)) == [
        ("job:k8s/team-a/nightly-1", "workload:team-a/CronJob/nightly")
    ]


def test_a_token_issued_is_bound_to_its_account() -> None:
    event = request(
        "create", "serviceaccounts/token", "trainer", annotations={"authentication.kubernetes.io/issued-credential-id": "JTI=53c1"}
    )
    assert bound(event) == [("token:53c1", "sa:team-a/trainer")]


def test_a_bound_token_says_whose_pod_it_is() -> None:
    extra = {BOUND: ["train-0"]}
    assert bound({**EVENT, "user": {"username": "system:serviceaccount:team-a:trainer", "extra": extra}}) == [
        ("pod:team-a/train-0", "sa:team-a/trainer")
    ]
    assert bound({**EVENT, "user": {"username": "system:serviceaccount:team-a:default", "extra": extra}}) == []


def test_a_generated_name_is_taken_from_the_answer() -> None:
    assert one(request("create", "pods", responseObject=POD))["object"] == "pod:team-a/web-5d9c7-x2x"


def images(containers: list[Any], **spec: Any) -> list[tuple[str, str]]:
    decoded = fresh(NAME, request("create", "pods", responseObject=pod(spec={"containers": containers, **spec})))
    assert decoded.rejects == []
    return [(row["actor"], row["object"]) for row in events(decoded) if row.get("detail") == "image"]


def test_whoever_a_new_pod_works_as_is_seen_at_its_images() -> None:
    containers = [{"image": "r.example:5000/a/b:v1"}, {"image": "busybox@sha256:9b"}, {"image": "r.example:5000/a/b:v2"}]
    found = [("sa:team-a/web", "resource:image/r.example:5000/a/b"), ("sa:team-a/web", "resource:image/busybox")]
    assert images(containers, serviceAccountName="web") == found
    assert images([{"image": "b"}], serviceAccountName="default") == [("user:alice", "resource:image/b")]
    assert images([{"image": "b"}], initContainers=[{"image": "a"}])[0][1] == "resource:image/a"


def test_a_row_about_an_image_says_what_it_is() -> None:
    made = pod(spec={"containers": [{"image": "a/b:v1"}], "serviceAccountName": "web"})
    row = events(fresh(NAME, request("create", "pods", responseObject=made)))[-1]
    assert (row["stream"], row["action"], row["outcome"], row["via"]) == ("job", "start", "ok", "pod:team-a/web-5d9c7-x2x")


def test_an_image_with_an_odd_name_hides_nothing() -> None:
    assert images([{"image": "a\u202eb"}, {"image": ""}, {}]) == [("user:alice", "resource:image/other")]
    assert images([{"image": "x" * 600}]) == [("user:alice", "resource:image/other")]


def test_only_the_creation_of_a_pod_tells_its_images() -> None:
    made = pod(spec={"containers": [{"image": "a/b:v1"}]})
    decoded = fresh(NAME, written(made), request("create", "pods", responseObject=made, responseStatus={"code": 403}))
    assert [row for row in events(decoded) if row.get("detail") == "image"] == []


def test_gpus_asked_for_are_counted_where_the_request_is_recorded() -> None:
    containers = [{"name": "a", "resources": {"limits": {"nvidia.com/gpu": "4", "memory": "1Gi"}}}, {"name": "b"}]
    job = {"spec": {"parallelism": 2, "template": {"spec": {"containers": containers}}}}
    assert one(request("create", "jobs", "train", requestObject=job))["gpus"] == 8.0
    assert one(request("create", "pods", "train", requestObject={"spec": {"containers": containers}}))["gpus"] == 4.0
    fraction = {"spec": {"containers": [{"resources": {"limits": {"nvidia.com/gpu": "0.5"}}}]}}
    assert "gpus" not in one(request("create", "pods", "train", requestObject=fraction))
    assert "gpus" not in one(request("create", "pods", "train"))


def test_an_event_list_is_several_acts_of_one_record_and_keeps_the_good_ones() -> None:
    item = {key: value for key, value in EVENT.items() if key not in ("kind", "apiVersion")}
    many = {"kind": "EventList", "apiVersion": "audit.k8s.io/v1", "items": [item, {**item, "sourceIPs": ["nowhere"]}, 3, item]}
    decoded = fresh(NAME, EVENT, many)
    assert available()[NAME].recognises(many)
    assert [row["record"] for row in events(decoded) if row["action"] == "read"] == [0, 1, 1]
    assert reasons(decoded) == [(1, "bad-identity:sourceIPs"), (1, "wrong-type:record")]


@pytest.mark.parametrize("key", ["message", "log"])
def test_a_line_wrapped_by_a_shipper_is_the_line(key: str) -> None:
    wrapped = {"@timestamp": "2026-11-21T02:18:03Z", key: json.dumps(EVENT) + "\n"}
    assert available()[NAME].recognises(wrapped)
    assert events(fresh(NAME, wrapped)) == events(fresh(NAME, EVENT))


def test_an_event_of_the_cluster_is_no_audit_event() -> None:
    core = {"kind": "Event", "apiVersion": "v1", "metadata": {"name": "x"}, "reason": "Scheduled", "type": "Normal"}
    assert not available()[NAME].recognises(core)
    assert not available()[NAME].recognises({"kind": "EventList", "apiVersion": "v1", "items": [core]})
    assert reasons(fresh(NAME, core)) == [(0, "missing:auditID")]


@pytest.mark.parametrize(
    ("event", "reason"),
    [
        ({**EVENT, "stageTimestamp": "now"}, "bad-time:stageTimestamp"),
        ({**EVENT, "stageTimestamp": "2100-01-01T00:00:00Z"}, "time-out-of-range:stageTimestamp"),
        ({**EVENT, "user": {"username": "a\x00b"}}, "bad-identity:user.username"),
        (request("get", "secrets", "../x"), "bad-identity:objectRef"),
        ({**EVENT, "responseStatus": {"code": "200"}}, "wrong-type:responseStatus.code"),
        (written(pod(status={"podIP": "10.9.0.5.6"})), "bad-identity:responseObject"),
        ({key: value for key, value in EVENT.items() if key != "verb"}, "missing:verb"),
    ],
)
def test_what_is_bad_is_named_and_the_rest_goes_on(event: dict[str, Any], reason: str) -> None:
    decoded = fresh(NAME, EVENT, event, EVENT)
    assert reasons(decoded) == [(1, reason)]
    assert {row["record"] for row in events(decoded)} == {0, 2}


def test_every_sample_is_read_field_by_field() -> None:
    lines = (samples() / "kube_audit_real.jsonl").read_bytes().splitlines()
    decoded = fresh(NAME, *lines)
    assert not decoded.rejects
    assert decoded.skipped == {"ResponseStarted": 1}
    rows = [row for row in events(decoded) if row["action"] != "use"]
    for row in rows:
        record = json.loads(lines[row["record"]])
        assert row["uid"] == record["auditID"]
        assert str(row["time"]).endswith(record["stageTimestamp"][-7:-1])
        assert row["stream"] == "auth"
    token, peer = "token:b176310c-1fd5-4d6b-89a8-b351252480fe", "ip:127.0.0.1"
    alice, tocsin = "user:alice", "sa:team-a/tocsin"
    keys = ("record", "actor", "action", "object", "outcome", "via", "detail")
    assert [tuple(row.get(key) for key in keys) for row in rows] == [
        (1, alice, "exec", "pod:team-a/train-0", "ok", peer, "pods/exec"),
        (2, alice, "read", "secret:team-a/model-registry-cred", "ok", peer, "secrets"),
        (3, alice, "list", "ns:team-a", "ok", peer, "secrets"),
        (4, alice, "list", "ns:*", "denied", peer, "secrets"),
        (5, alice, "issue", "sa:team-a/default", "ok", peer, "serviceaccounts/token"),
        (6, "user:admin", "admin", "role:pwn", "ok", peer, "clusterrolebindings"),
        (7, "user:bob", "list", "ns:team-a", "denied", "user:admin", "pods"),
        (8, peer, "list", "ns:default", "denied", None, "pods"),
        (9, peer, "list", "ns:*", "denied", None, "namespaces"),
        (10, tocsin, "update", "pod:team-a/train-1", "ok", token, "pods"),
        (11, tocsin, "delete", "pod:team-a/train-1", "failed", token, "pods/eviction"),
        (12, tocsin, "read", "secret:team-a/model-registry-cred", "denied", token, "secrets"),
    ]
    seen = [(row["record"], row["actor"], row["object"]) for row in events(decoded) if row["action"] == "use"]
    users = {**dict.fromkeys(range(1, 6), alice), 6: "user:admin", **dict.fromkeys(range(10, 13), tocsin)}
    assert seen == sorted(
        [*((i, user, peer) for i, user in users.items()), (7, "user:admin", peer), (7, "user:admin", "user:bob")], key=_place
    )
    assert decoded.bindings == [
        Binding(5, 1795227483_169377, "token:53c12a12-1430-4510-960d-d5d97703bf5c", "sa:team-a/default"),
        Binding(10, 1795227529_311179, "ip:10.0.0.3", "pod:team-a/train-1"),
    ]


def _place(row: tuple[int, str, str]) -> tuple[int, bool]:
    """Of one record, the impersonation comes before the address."""
    return row[0], row[2].startswith("ip:")


def test_the_first_stage_of_a_request_is_skipped_in_the_sample() -> None:
    records = [json.loads(line) for line in (samples() / "misc_real_records.jsonl").read_bytes().splitlines()]
    (record,) = (found["record"] for found in records if found["_src"].startswith("k8s audit"))
    assert available()[NAME].recognises(record)
    assert fresh(NAME, record).skipped == {"RequestReceived": 1}
