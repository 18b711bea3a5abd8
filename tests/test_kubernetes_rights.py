"""What is shipped in ``deploy/kubernetes`` on a real API server: the rights are enough, every one of them is needed, and the admission
policy confines the responder, and only it, to the fields it is there for."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import pytest

from connectors.containment.kubernetes import Kubernetes
from tests.kube import ADMIN, until
from tests.kube_stage import Stage, shipped, stage

__all__ = ["stage"]

pytestmark = pytest.mark.containment

#: File -> its role, and the verbs it is for.
ROLES = {
    "tocsin-pods": ("responder.yaml", ("isolate_pod", "evict_pod")),
    "tocsin-jobs": ("responder.yaml", ("suspend_job", "suspend_kueue_workload")),
    "tocsin-policy": ("responder.yaml", ("isolate_pod",)),
    "tocsin-nodes": ("nodes.yaml", ("cordon_node", "taint_node")),
    "tocsin-tokens": ("tokens.yaml", ("rotate_bound_object",)),
}


def role(name: str) -> dict[str, Any]:
    return next(one for one in shipped(ROLES[name][0]) if one["metadata"]["name"] == name and one["kind"].endswith("Role"))


def rights(rules: list[dict[str, Any]]) -> set[tuple[str, str]]:
    """(resource with its group, verb) of each rule."""
    found = set()
    for rule in rules:
        for group in rule["apiGroups"]:
            for resource in rule["resources"]:
                found |= {(f"{resource}.{group}" if group else resource, verb) for verb in rule["verbs"]}
    return found


def declared(verbs: tuple[str, ...]) -> set[tuple[str, str]]:
    """The same, as the adapter's verbs say they need them."""
    needs = [need.split(": ") for verb in Kubernetes.verbs if verb.name in verbs for need in verb.needs]
    return {(resource, verb) for resource, listed in needs for verb in listed.split(", ")}


def test_the_roles_grant_what_the_verbs_declare_and_nothing_else() -> None:
    granted = set().union(*(rights(role(name)["rules"]) for name in ROLES))
    assert granted == declared(tuple(verb.name for verb in Kubernetes.verbs))
    for name, (_, verbs) in ROLES.items():
        assert rights(role(name)["rules"]) <= declared(verbs)


def scene(stage: Stage, name: str) -> Iterator[tuple[str, str]]:
    """(verb, target) of everything that a role is for, set up afresh."""
    space = stage.namespace
    if "isolate_pod" in ROLES[name][1]:
        stage.owned(tag := f"i-{stage.fresh()}")
        yield "isolate_pod", f"pod:{space}/{tag}"
    if "evict_pod" in ROLES[name][1]:
        stage.owned(tag := f"e-{stage.fresh()}")
        yield "evict_pod", f"pod:{space}/{tag}"
    if "suspend_job" in ROLES[name][1]:
        job = stage.job(tag := f"j-{stage.fresh()}")
        yield "suspend_job", f"job:k8s/{space}/{tag}"
        owner = {"apiVersion": "batch/v1", "kind": "Job", "name": tag, "uid": job["metadata"]["uid"]}
        stage.make("workloads", "Workload", tag, metadata={"ownerReferences": [owner]}, spec={"active": True})
        yield "suspend_kueue_workload", f"job:k8s/{space}/{tag}"
    if "cordon_node" in ROLES[name][1]:
        stage.node(tag := f"n-{stage.fresh()}")
        yield from (("cordon_node", f"node:{tag}"), ("taint_node", f"node:{tag}"))
    if "rotate_bound_object" in ROLES[name][1]:
        stage.owned(tag := f"r-{stage.fresh()}")
        yield "rotate_bound_object", f"pod:{space}/{tag}"
        notes = {"annotations": {"kubernetes.io/service-account.name": "default"}}
        stage.make("secrets", "Secret", tag, metadata=notes, type="kubernetes.io/service-account-token")
        yield "rotate_bound_object", f"secret:{space}/{tag}"


def refusals(stage: Stage, name: str) -> list[str]:
    """What the adapter is refused for lack of a right while it does, checks and takes back everything that a role is for."""
    refused = []
    for verb, target in scene(stage, name):
        ready = stage.adapter.prepare(action := stage.unprepared(verb, target))
        results: list[Any] = [ready]
        if ready.status == "ready":
            action = stage.with_snapshot(action, ready)
            results += [stage.adapter.apply(action), stage.adapter.verify(action)]
            results += [stage.adapter.undo(action), stage.adapter.verify_undone(action)]
        refused += [f"{verb}: {one.reason}" for one in results if one.trouble and one.trouble.kind == "unauthorised"]
    return refused


@pytest.mark.parametrize("name", ROLES)
def test_with_its_role_every_verb_can_be_done_seen_and_taken_back(stage: Stage, name: str) -> None:
    assert refusals(stage, name) == []


def path_of(stage: Stage, name: str) -> str:
    root = "/apis/rbac.authorization.k8s.io/v1"
    return f"{root}/namespaces/{stage.namespace}/roles/{name}" if role(name)["kind"] == "Role" else f"{root}/clusterroles/{name}"


LESS = [(name, i, verb) for name in ROLES for i, rule in enumerate(role(name)["rules"]) for verb in rule["verbs"]]


@pytest.mark.parametrize(("name", "rule", "verb"), LESS)
def test_without_any_one_right_something_is_refused(stage: Stage, name: str, rule: int, verb: str) -> None:
    whole = role(name)["rules"]
    less = copy.deepcopy(whole)
    less[rule]["verbs"].remove(verb)
    if not less[rule]["verbs"]:
        del less[rule]
    if name == "tocsin-pods" and whole[rule]["resources"] == ["ciliumendpoints"]:
        stage.ship("cilium.yaml")
    # Two roles may read pods: the other one is not bound in this namespace.
    bound = f"/apis/rbac.authorization.k8s.io/v1/namespaces/{stage.namespace}/rolebindings"
    for other in {"tocsin-pods", "tocsin-tokens"} - {name, *(["tocsin-pods"] if name == "tocsin-policy" else [])}:
        stage.kube.ask("DELETE", f"{bound}/{other}")
    try:
        stage.kube.merge(path_of(stage, name), {"rules": less})
        assert until("a refusal", lambda: refusals(stage, name))
    finally:
        stage.kube.merge(path_of(stage, name), {"rules": whole})
        until("the role is whole", lambda: not refusals(stage, name))
        if stage.kube.call("GET", cilium := "/apis/cilium.io/v2/ciliumclusterwidenetworkpolicies/tocsin-quarantine").is_success:
            stage.kube.ask("DELETE", cilium)


def asked(stage: Stage, token: str, method: str, path: str, body: Any = None) -> int:
    form = "application/merge-patch+json" if method == "PATCH" else "application/json"
    return stage.kube.call(method, path, body, token=token, form=form).status_code


def test_nothing_beyond_is_allowed_and_nothing_outside_the_namespaces_that_were_bound(stage: Stage) -> None:
    token = stage.kube.token("tocsin", "responder")
    space, rbac = stage.path(""), f"/apis/rbac.authorization.k8s.io/v1/namespaces/{stage.namespace}"
    beyond = [
        ("GET", "/api/v1/namespaces/kube-system/secrets"),
        ("GET", "/api/v1/namespaces/default/pods/x"),
        ("PATCH", "/api/v1/namespaces/default/pods/x"),
        ("POST", "/api/v1/namespaces/default/pods/x/eviction"),
        ("GET", f"{space}secrets"),
        ("POST", f"{space}pods"),
        ("PUT", f"{space}pods/x"),
        ("POST", f"{space}pods/x/exec"),
        ("PATCH", f"{space}pods/x/status"),
        ("PATCH", f"{space}pods/x/ephemeralcontainers"),
        ("POST", f"{space}serviceaccounts/default/token"),
        ("POST", stage.path("networkpolicies")),
        ("DELETE", stage.path("networkpolicies", "tocsin-quarantine")),
        ("PATCH", stage.path("networkpolicies", "tocsin-quarantine")),
        ("DELETE", stage.path("jobs", "x")),
        ("PATCH", f"{rbac}/roles/tocsin-tokens"),
        ("POST", f"{rbac}/rolebindings"),
        ("GET", "/apis/cilium.io/v2/ciliumclusterwidenetworkpolicies/another"),
        ("GET", "/api/v1/nodes"),
        ("DELETE", "/api/v1/nodes/gpu"),
    ]
    assert {(method, path): asked(stage, token, method, path, {}) for method, path in beyond} == dict.fromkeys(beyond, 403)


#: Plural, name, patch: what the role's patch right would allow and the responder is not there for.
FORBIDDEN: list[tuple[str, dict[str, Any]]] = [
    ("pods", {"metadata": {"labels": {"app": "other"}}}),
    ("pods", {"metadata": {"labels": {"tocsin.io/else": "x"}}}),
    ("pods", {"metadata": {"labels": {"app": None}}}),
    ("pods", {"metadata": {"annotations": {"team": "other"}}}),
    ("pods", {"metadata": {"ownerReferences": None}}),
    ("pods", {"metadata": {"finalizers": ["a.io/b"]}}),
    ("pods", {"spec": {"activeDeadlineSeconds": 1}}),
    ("jobs", {"spec": {"parallelism": 0}}),
    ("jobs", {"spec": {"suspend": True, "activeDeadlineSeconds": 1}}),
    ("jobs", {"spec": {"ttlSecondsAfterFinished": 1}}),
    ("workloads", {"spec": {"queueName": "other"}}),
    ("workloads", {"spec": {"active": False, "priority": 9}}),
    ("nodes", {"spec": {"taints": [{"key": "tocsin.io/quarantine", "value": "a", "effect": "NoExecute"}]}}),
    ("nodes", {"spec": {"providerID": "x://y"}}),
    ("nodes", {"metadata": {"labels": {"rack": "8"}}}),
]


def test_the_admission_policy_confines_the_responder_to_its_fields_and_nobody_else(stage: Stage) -> None:
    stage.ship("admission.yaml")
    token = stage.kube.token("tocsin", "responder")
    stage.owned(name := f"p-{stage.fresh()}", labels={"app": "trainer"})
    stage.job(name)
    stage.make("workloads", "Workload", name, spec={"queueName": "gpus", "active": True})
    node = stage.node(f"n-{stage.fresh()}", [{"key": "nvidia.com/gpu", "effect": "NoSchedule"}])
    where = {plural: stage.path(plural, name) for plural in ("pods", "jobs", "workloads")} | {"nodes": node}
    try:
        first = {"metadata": {"labels": {"app": "other"}}}
        until("the policy is active", lambda: asked(stage, token, "PATCH", where["pods"] + "?dryRun=All", first) == 422)
        found = [asked(stage, token, "PATCH", where[plural] + "?dryRun=All", patch) for plural, patch in FORBIDDEN]
        assert found == [422] * len(FORBIDDEN)
        others = [asked(stage, ADMIN, "PATCH", where[plural] + "?dryRun=All", patch) for plural, patch in FORBIDDEN]
        assert others == [200] * len(FORBIDDEN)
        for name in ROLES:
            assert refusals(stage, name) == []
        ended = [stage.adapter.apply(stage.action(verb, target)).status for name in ROLES for verb, target in scene(stage, name)]
        assert set(ended) == {"applied"}
    finally:
        for kind in ("validatingadmissionpolicybindings", "validatingadmissionpolicies"):
            stage.kube.ask("DELETE", f"/apis/admissionregistration.k8s.io/v1/{kind}/tocsin-containment")
