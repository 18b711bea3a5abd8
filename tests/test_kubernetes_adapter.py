"""The Kubernetes adapter on a real API server: each verb there and back, and each surprise that the server had in store."""

from __future__ import annotations

import signal
import time
from base64 import b64decode
from typing import Any

import pytest
from msgspec.structs import replace

from connectors.containment import Action, Trouble
from connectors.containment._http import CallFailed
from connectors.containment._kube_api import QUARANTINE, STOPPED_BY, Object
from tests.kube import ADMIN, until
from tests.kube_stage import Stage, stage

__all__ = ["stage"]

pytestmark = pytest.mark.containment

DENIED_AS_WRITTEN = "denied by NetworkPolicy as written; whether the network enforces it cannot be seen from here"


def settled(one: dict[str, Any]) -> dict[str, Any]:
    """An object without what every write or controller changes."""
    left = {key: value for key, value in one.items() if key != "status"}
    left["metadata"] = {
        key: value for key, value in one["metadata"].items() if key not in ("resourceVersion", "managedFields", "generation")
    }
    if "taints" in left.get("spec", {}):  # the node controller adds a cordon's own taint when it comes round to it
        kept = [each for each in left["spec"]["taints"] if not each["key"].startswith("node.kubernetes.io/")]
        left["spec"] = {key: value for key, value in left["spec"].items() if key != "taints"} | ({"taints": kept} if kept else {})
    return left


def there_and_back(stage: Stage, verb: str, target: str, plural: str, name: str, seen: str) -> Action:
    """Do it, see it, do it again, take it back: what is left is what was there."""
    before = stage.read(plural, name) if plural else stage.kube.ask("GET", name)
    action = stage.action(verb, target)
    assert stage.adapter.verify(action).status == "not-effective"
    assert stage.adapter.apply(action).status == "applied"
    assert until("the effect", lambda: stage.adapter.verify(action).status == seen)
    contained = stage.read(plural, name) if plural else stage.kube.ask("GET", name)
    assert stage.adapter.apply(action).status == "already"
    after = stage.read(plural, name) if plural else stage.kube.ask("GET", name)
    assert settled(after) == settled(contained) != settled(before)
    assert stage.prepared(verb, target).status == "already"
    assert stage.adapter.verify_undone(action).status == "not-effective"
    assert stage.adapter.undo(action).status == "undone"
    assert stage.adapter.undo(action).status == "already"
    assert stage.adapter.verify_undone(action).status == "verified"
    left = stage.read(plural, name) if plural else stage.kube.ask("GET", name)
    assert settled(left) == settled(before)
    return action


def test_a_pod_is_isolated_and_let_go_and_the_effect_on_traffic_is_not_claimed(stage: Stage) -> None:
    stage.pod("p", {"app": "trainer"})
    action = there_and_back(stage, "isolate_pod", f"pod:{stage.namespace}/p", "pods", "p", "unverified")
    stage.adapter.apply(action)
    assert stage.adapter.verify(action).reason == DENIED_AS_WRITTEN


def test_cilium_is_believed_where_its_agent_says_that_it_enforces(stage: Stage) -> None:
    stage.pod("p")
    stage.ship("cilium.yaml")
    policy = "/apis/cilium.io/v2/ciliumclusterwidenetworkpolicies/tocsin-quarantine"
    try:
        action = stage.action("isolate_pod", f"pod:{stage.namespace}/p")
        assert stage.adapter.apply(action).status == "applied"
        assert stage.adapter.verify(action).status == "unverified"
        enforced = {way: {"enforcing": True, "state": "enforcing"} for way in ("ingress", "egress")}
        stage.make("ciliumendpoints", "CiliumEndpoint", "p", status={"identity": {"labels": ["k8s:app=x"]}, "policy": enforced})
        late = stage.adapter.verify(action)
        assert (late.status, late.again > 0) == ("not-effective", True)
        stage.kube.merge(stage.path("ciliumendpoints", "p"), {"status": {"identity": {"labels": [f"k8s:{QUARANTINE}={action.id}"]}}})
        assert stage.adapter.verify(action).status == "verified"
        stage.kube.merge(policy, {"spec": {"egressDeny": []}})
        assert stage.adapter.verify(action).status == "unverified"
    finally:
        stage.kube.ask("DELETE", policy)


def test_a_node_is_cordoned_and_let_go(stage: Stage) -> None:
    path = stage.node(f"c-{stage.namespace}")
    there_and_back(stage, "cordon_node", f"node:c-{stage.namespace}", "", path, "verified")


def test_a_tainted_node_loses_the_pods_that_do_not_tolerate_it_and_keeps_its_other_taints(stage: Stage) -> None:
    name = f"t-{stage.namespace}"
    path = stage.node(name, [{"key": "nvidia.com/gpu", "value": "h200", "effect": "NoSchedule"}])
    stage.pod("leaves", nodeName=name)
    stage.pod("stays", nodeName=name, tolerations=[{"operator": "Exists"}])
    action = there_and_back(stage, "taint_node", f"node:{name}", "", path, "verified")
    assert stage.kube.call("GET", stage.path("pods", "leaves")).status_code == 404
    assert stage.read("pods", "stays")["status"]["phase"] == "Running"
    assert stage.adapter.verify_undone(action).status == "verified"


def test_a_merge_patch_replaces_the_whole_list_of_taints_so_the_whole_list_is_sent(stage: Stage) -> None:
    path = stage.node(f"t-{stage.namespace}", [{"key": "a", "effect": "NoSchedule"}])
    stage.kube.merge(path, {"spec": {"taints": [{"key": "b", "effect": "NoSchedule"}]}})
    assert [taint["key"] for taint in stage.kube.ask("GET", path)["spec"]["taints"]] == ["b"]
    action = stage.action("taint_node", f"node:t-{stage.namespace}")
    # Somebody adds a taint between prepare and apply, and another before the undo: both stay.
    stage.kube.merge(path, {"spec": {"taints": [{"key": "b", "effect": "NoSchedule"}, {"key": "c", "effect": "NoSchedule"}]}})
    stage.adapter.apply(action)
    taints = stage.kube.ask("GET", path)["spec"]["taints"]
    stage.kube.merge(path, {"spec": {"taints": [*taints, {"key": "d", "effect": "PreferNoSchedule"}]}})
    assert stage.adapter.undo(action).status == "undone"
    assert [taint["key"] for taint in stage.kube.ask("GET", path)["spec"]["taints"]] == ["b", "c", "d"]


def test_a_job_is_suspended_and_resumed(stage: Stage) -> None:
    stage.job("train")
    there_and_back(stage, "suspend_job", f"job:k8s/{stage.namespace}/train", "jobs", "train", "verified")
    until("it runs again", lambda: stage.read("jobs", "train")["status"].get("active") == 1)


def test_a_job_that_kueue_manages_is_suspended_through_its_workload_alone(stage: Stage) -> None:
    job = stage.job("train", {"kueue.x-k8s.io/queue-name": "gpus"})
    owner = {"apiVersion": "batch/v1", "kind": "Job", "name": "train", "uid": job["metadata"]["uid"]}
    spec = {"queueName": "gpus", "active": True}
    stage.make("workloads", "Workload", "job-train-1a2b", metadata={"ownerReferences": [owner]}, spec=spec)
    refused = stage.prepared("suspend_job", f"job:k8s/{stage.namespace}/train")
    assert (refused.status, refused.trouble) == ("failed", Trouble("refused"))
    action = stage.action("suspend_kueue_workload", f"job:k8s/{stage.namespace}/train")
    assert stage.adapter.apply(action).status == "applied"
    # Kueue's own controller, which suspends the job, cannot run here.
    assert stage.adapter.verify(action).status == "not-effective"
    stage.kube.merge(stage.path("jobs", "train"), {"spec": {"suspend": True}})
    until("the job's pods are gone", lambda: stage.adapter.verify(action).status == "verified")
    assert stage.adapter.undo(action).status == "undone"
    workload = stage.read("workloads", "job-train-1a2b")
    assert workload["spec"] == spec
    assert STOPPED_BY not in workload["metadata"].get("annotations", {})


def test_an_evicted_pod_is_gone_and_a_second_eviction_hits_nothing(stage: Stage) -> None:
    stage.pod("p")
    action = stage.action("evict_pod", f"pod:{stage.namespace}/p")
    assert stage.adapter.apply(action).status == "applied"
    until("it is gone", lambda: stage.adapter.verify(action).status == "verified")
    assert stage.adapter.apply(action) == ("already", "that pod is gone", None, "")
    assert stage.kube.call("POST", f"{stage.path('pods', 'p')}/eviction", {"metadata": {"name": "p"}}).status_code in (400, 404)


@pytest.mark.parametrize("verb", ["isolate_pod", "evict_pod", "rotate_bound_object"])
def test_a_retry_cannot_hit_the_pod_that_took_the_name(stage: Stage, verb: str) -> None:
    stage.owned("s-0")
    action = stage.action(verb, f"pod:{stage.namespace}/s-0")
    stage.kube.ask("DELETE", f"{stage.path('pods', 's-0')}?gracePeriodSeconds=0")
    stage.make("pods", "Pod", "s-0", spec={"containers": [{"name": "c", "image": "none"}]})
    next_one = settled(stage.read("pods", "s-0"))
    assert stage.adapter.apply(action).status in ("failed", "already")
    assert stage.adapter.undo(action).status in ("failed", "already")
    assert settled(stage.read("pods", "s-0")) == next_one


def test_the_server_itself_refuses_a_write_that_names_another_uid_and_a_deletion_too(stage: Stage) -> None:
    stage.make("pods", "Pod", "p", spec={"containers": [{"name": "c", "image": "none"}]})
    path, other = stage.path("pods", "p"), "00000000-0000-0000-0000-000000000001"
    merge = "application/merge-patch+json"
    assert stage.kube.call("PATCH", path, {"metadata": {"uid": other, "labels": {"a": "b"}}}, form=merge).status_code == 422
    assert stage.kube.call("DELETE", path, {"preconditions": {"uid": other}}).status_code == 409
    eviction = {
        "apiVersion": "policy/v1",
        "kind": "Eviction",
        "metadata": {"name": "p"},
        "deleteOptions": {"preconditions": {"uid": other}},
    }
    assert stage.kube.call("POST", f"{path}/eviction", eviction).status_code == 409
    assert "labels" not in stage.read("pods", "p")["metadata"]


def test_a_stale_version_is_a_conflict_and_a_lost_race_is_run_again_on_what_is_there_now(stage: Stage) -> None:
    path = stage.node(f"n-{stage.namespace}")
    old = stage.kube.ask("GET", path)["metadata"]["resourceVersion"]
    stage.kube.merge(path, {"metadata": {"labels": {"rack": "7"}}})
    stale = stage.kube.call("PATCH", path, {"metadata": {"resourceVersion": old}}, form="application/merge-patch+json")
    assert stale.status_code == 409
    action = stage.action("cordon_node", f"node:n-{stage.namespace}")
    asked, racing = stage.adapter.http.call, iter(range(2))

    def overtaken(method: str, where: str, **rest: Any) -> Any:
        """Somebody else writes just before our first two writes."""
        if method == "PATCH" and next(racing, None) is not None:
            stage.kube.merge(path, {"metadata": {"labels": {"rack": str(time.monotonic_ns())}}})
        return asked(method, where, **rest)

    stage.adapter.http.call = overtaken  # type: ignore[method-assign, assignment]
    assert stage.adapter.apply(action).status == "applied"
    assert stage.kube.ask("GET", path)["spec"]["unschedulable"] is True


def budget(stage: Stage, name: str, healthy: int) -> None:
    spec = {"minAvailable": healthy, "selector": {"matchLabels": {"app": "serve"}}}
    stage.make("poddisruptionbudgets", "PodDisruptionBudget", name, spec=spec)


def test_an_eviction_that_a_budget_forbids_is_busy_with_the_wait_the_server_names_or_none(stage: Stage) -> None:
    stage.pod("p", {"app": "serve"})
    action = stage.action("evict_pod", f"pod:{stage.namespace}/p")
    manager = stage.kube.processes[2]
    manager.send_signal(signal.SIGSTOP)
    try:
        budget(stage, "one", 1)
        assert stage.adapter.apply(action)[0::2][:2] == ("failed", Trouble("busy", 10.0))
    finally:
        manager.send_signal(signal.SIGCONT)
    until("the budget is known", lambda: stage.read("poddisruptionbudgets", "one")["status"].get("observedGeneration") == 1)
    refused = stage.adapter.apply(action)
    assert (refused.status, refused.trouble) == ("failed", Trouble("busy", 0.0))
    assert stage.adapter.verify(action).status == "not-effective"


def test_two_budgets_on_one_pod_are_a_500_that_trying_again_never_helps(stage: Stage) -> None:
    stage.pod("p", {"app": "serve"})
    budget(stage, "one", 0)
    budget(stage, "two", 0)
    refused = stage.adapter.apply(stage.action("evict_pod", f"pod:{stage.namespace}/p"))
    assert (refused.status, refused.trouble) == ("failed", Trouble("refused"))
    assert "more than one PodDisruptionBudget" in refused.reason


def bound_pod(stage: Stage) -> str:
    """A pod with an owner, and a token bound to it that was not used yet."""
    if stage.kube.call("GET", stage.path("serviceaccounts", "trainer")).status_code == 404:
        stage.make("serviceaccounts", "ServiceAccount", "trainer")
    pod = stage.owned("s-0", serviceAccountName="trainer")
    return stage.kube.token(stage.namespace, "trainer", kind="Pod", name="s-0", uid=pod["metadata"]["uid"])


def lives(stage: Stage, token: str) -> bool:
    """Whether the server still takes a token."""
    return stage.kube.call("GET", "/apis", token=token).status_code != 401


def test_a_token_just_used_outlives_its_pod_by_ten_seconds_and_verify_waits_for_its_end(stage: Stage) -> None:
    token = bound_pod(stage)
    patient = stage.adapted(stage.kube.token("tocsin", "responder"), token_cache_seconds=11)
    action = stage.action("rotate_bound_object", f"pod:{stage.namespace}/s-0")
    # The ten seconds begin here: what is known already does not begin them anew.
    assert lives(stage, token)
    assert patient.apply(action).status == "applied"
    early = patient.verify(action)
    assert early.status == "unverified"
    assert 0 < early.again <= 11
    assert lives(stage, token)
    # As a responder does: look again after the seconds named.
    end = time.monotonic() + 30
    while (seen := patient.verify(action)).status != "verified" and time.monotonic() < end:
        time.sleep(seen.again + 0.05)
    assert seen.status == "verified"
    assert not lives(stage, token)
    patient.close()


def test_a_token_secret_is_deleted_and_one_of_its_name_would_hold_the_same_token_again(stage: Stage) -> None:
    stage.make("serviceaccounts", "ServiceAccount", "trainer")
    notes = {"annotations": {"kubernetes.io/service-account.name": "trainer"}}
    kind, name = "kubernetes.io/service-account-token", "trainer-token"
    stage.make("secrets", "Secret", name, metadata=notes, type=kind)

    def filled() -> str:
        return b64decode(stage.read("secrets", name).get("data", {}).get("token", "")).decode()

    token = until("the token controller fills it", filled)
    action = stage.action("rotate_bound_object", f"secret:{stage.namespace}/{name}")
    assert token not in str(action)
    assert stage.adapter.apply(action).status == "applied"
    assert stage.adapter.verify(action).status == "verified"
    assert stage.adapter.apply(action).status == "already"
    # Not used before, so that no cache knows it, once the server has heard that its Secret is gone.
    until("the token is refused", lambda: not lives(stage, token))
    stage.make("secrets", "Secret", name, metadata=notes, type=kind)
    assert until("the token controller fills the next", filled) == token
    assert stage.adapter.verify(action).status == "not-effective"


def test_what_could_not_be_made_anew_is_not_rotated(stage: Stage) -> None:
    stage.make("secrets", "Secret", "registry", data={"key": "c2VjcmV0"})
    stage.make("pods", "Pod", "bare", spec={"containers": [{"name": "c", "image": "none"}]})
    for target in (f"secret:{stage.namespace}/registry", f"pod:{stage.namespace}/bare"):
        assert stage.prepared("rotate_bound_object", target).trouble == Trouble("refused")


def test_a_pod_on_its_nodes_network_and_a_namespace_without_the_policy_are_refused_beforehand(stage: Stage) -> None:
    stage.make("pods", "Pod", "host", spec={"hostNetwork": True, "containers": [{"name": "c", "image": "none"}]})
    stage.make("pods", "Pod", "p", spec={"containers": [{"name": "c", "image": "none"}]})
    assert stage.prepared("isolate_pod", f"pod:{stage.namespace}/host").trouble == Trouble("refused")
    stage.kube.merge(stage.path("networkpolicies", "tocsin-quarantine"), {"spec": {"egress": [{}]}})
    assert stage.prepared("isolate_pod", f"pod:{stage.namespace}/p").trouble == Trouble("refused")
    stage.kube.ask("DELETE", stage.path("networkpolicies", "tocsin-quarantine"))
    assert stage.prepared("isolate_pod", f"pod:{stage.namespace}/p").trouble == Trouble("refused")


def test_a_404_is_believed_only_where_it_is_the_api_servers_word_on_the_thing_itself(stage: Stage) -> None:
    path = stage.node(f"f-{stage.namespace}")
    action = stage.action("cordon_node", f"node:f-{stage.namespace}")
    assert stage.adapter.apply(action).status == "applied"
    elsewhere = stage.adapted(stage.kube.token("tocsin", "responder"))
    elsewhere.http._endpoint.url += "/nowhere"
    assert (elsewhere.undo(action).status, elsewhere.verify_undone(action).status) == ("failed", "unverified")
    assert elsewhere.undo(action).trouble in (Trouble("down"), Trouble("unauthorised"))
    # Of a group that it does not serve, the server says what any server says; to whom it may not be said, nothing.
    api = stage.adapted(ADMIN)._doings["cordon_node"].api  # type: ignore[attr-defined]
    group = "/apis/nobody.example/v1/namespaces/default/things"
    assert stage.kube.call("GET", f"{group}/x").text == "404 page not found\n"
    with pytest.raises(CallFailed) as told:
        api.find(f"{group}/x", Object)
    assert told.value.trouble == Trouble("down")
    assert (api.find_extra(f"{group}/x", Object), api.items_extra(group, Object)) == (None, [])
    assert stage.kube.ask("GET", path)["spec"]["unschedulable"]
    assert stage.adapter.undo(action).status == "undone"


def test_a_bad_token_and_a_missing_right_are_told_from_a_thing_that_is_not_there(stage: Stage) -> None:
    stage.make("pods", "Pod", "p", spec={"containers": [{"name": "c", "image": "none"}]})
    action = Action(id="a1", verb="isolate_pod", target=f"pod:{stage.namespace}/p")
    assert stage.adapted("nonsense").prepare(action).trouble == Trouble("unauthorised")
    assert stage.adapted(stage.kube.token("default", "default")).prepare(action).trouble == Trouble("unauthorised")
    assert stage.adapter.prepare(replace(action, target=f"pod:{stage.namespace}/none")).trouble == Trouble("gone")
    assert stage.adapter.prepare(replace(action, target=f"pod:{stage.namespace}/../../nodes")).trouble == Trouble("gone")
