"""Traps found in other systems (T numbers), as they concern pods, nodes, jobs, models and robots. T7: ``test_kill_kubernetes``."""

from __future__ import annotations

import re
from typing import Any

import msgspec
import pytest

from connectors.containment import Action
from connectors.containment._kube_api import QUARANTINE
from connectors.containment._kube_policies import NetworkPolicy, openings
from tests.checkout import ROOT
from tests.kube import until
from tests.kube_stage import Stage, stage
from tests.weather import ADAPTERS, CASES, answers, hollow, outdoors, prepared

__all__ = ["stage"]


def reach(stage: Stage, pod: str) -> list[str]:
    """What the namespace's policies, as the server has them, leave open to a pod. No plugin runs here: selectors are evaluated."""
    listed = stage.kube.ask("GET", stage.path("networkpolicies"))["items"]
    return openings(msgspec.convert(listed, list[NetworkPolicy]), stage.read("pods", pod)["metadata"].get("labels", {}))


FREE = ["no NetworkPolicy isolates it for ingress", "no NetworkPolicy isolates it for egress"]


@pytest.mark.containment
def test_t1_isolating_one_of_three_replicas_leaves_its_siblings_their_traffic(stage: Stage) -> None:
    one, *others = stage.deployment("trainer", 3)
    assert [reach(stage, pod) for pod in (one, *others)] == [FREE] * 3
    action = stage.action("isolate_pod", f"pod:{stage.namespace}/{one}")
    assert stage.adapter.apply(action).status == "applied"
    assert reach(stage, one) == []
    assert [reach(stage, pod) for pod in others] == [FREE] * 2
    # Nor is it released by its owner, which would start a fourth that nobody looks at.
    assert len(stage.kube.ask("GET", f"{stage.path('pods')}?labelSelector=app=trainer")["items"]) == 3
    assert stage.adapter.undo(action).status == "undone"
    assert reach(stage, one) == FREE


@pytest.mark.containment
def test_t1_the_pod_that_replaces_an_isolated_one_is_not_isolated_by_its_template(stage: Stage) -> None:
    one, *_ = stage.deployment("trainer", 2)
    stage.adapter.apply(stage.action("isolate_pod", f"pod:{stage.namespace}/{one}"))
    stage.kube.ask("DELETE", stage.path("pods", one))

    def labels() -> list[dict[str, str]]:
        found = stage.kube.ask("GET", f"{stage.path('pods')}?labelSelector=app=trainer")["items"]
        names = [item["metadata"]["name"] for item in found]
        return [item["metadata"]["labels"] for item in found] if len(found) == 2 and one not in names else []

    assert all(QUARANTINE not in each for each in until("the next replica", labels))


@pytest.mark.containment
def test_t2_no_policy_of_anybody_is_made_changed_or_removed(stage: Stage) -> None:
    owner, *_ = stage.deployment("trainer", 2)
    # A policy of the owner's name, one of the pod's name.
    for name in ("trainer", owner):
        spec = {"podSelector": {"matchLabels": {"app": "trainer"}}, "ingress": [{}], "policyTypes": ["Ingress"]}
        stage.make("networkpolicies", "NetworkPolicy", name, spec=spec)

    def policies() -> Any:
        return sorted((one["metadata"]["uid"], one["metadata"]["resourceVersion"]) for one in listed())

    def listed() -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = stage.kube.ask("GET", stage.path("networkpolicies"))["items"]
        return found

    before = policies()
    action = stage.action("isolate_pod", f"pod:{stage.namespace}/{owner}")
    stage.adapter.apply(action)
    assert policies() == before
    stage.adapter.undo(action)
    assert policies() == before


@pytest.mark.containment
def test_t3_what_another_policy_allows_stays_open_and_is_said_to(stage: Stage) -> None:
    stage.pod("p", {"app": "trainer"})
    spec = {"podSelector": {"matchLabels": {"app": "trainer"}}, "egress": [{}], "policyTypes": ["Egress"]}
    stage.make("networkpolicies", "NetworkPolicy", "trainer-may-talk", spec=spec)
    target = f"pod:{stage.namespace}/p"
    assert stage.prepared("isolate_pod", target).reason == "it will be partial: NetworkPolicy trainer-may-talk allows egress"
    action = stage.action("isolate_pod", target)
    assert stage.adapter.apply(action).status == "applied"
    assert stage.adapter.verify(action)[:2] == ("not-effective", "NetworkPolicy trainer-may-talk allows egress")
    stage.kube.ask("DELETE", stage.path("networkpolicies", "trainer-may-talk"))
    assert stage.adapter.verify(action).status == "unverified"


def policy(name: str, selector: dict[str, Any], **rules: Any) -> NetworkPolicy:
    spec = {"podSelector": selector, "policyTypes": ["Ingress", "Egress"], **rules}
    return msgspec.convert({"metadata": {"name": name, "uid": "u"}, "spec": spec}, NetworkPolicy)


DENY = policy("deny", {"matchExpressions": [{"key": QUARANTINE, "operator": "Exists"}]})


@pytest.mark.parametrize(
    ("others", "left"),
    [
        ([], []),
        ([policy("a", {"matchLabels": {"app": "trainer"}}, egress=[{}])], ["NetworkPolicy a allows egress"]),
        ([policy("a", {}, ingress=[{"from": []}])], ["NetworkPolicy a allows ingress"]),
        ([policy("a", {"matchLabels": {"app": "other"}}, egress=[{}])], []),
        ([policy("a", {"matchExpressions": [{"key": "app", "operator": "NotIn", "values": ["trainer"]}]}, egress=[{}])], []),
        (
            [policy("a", {"matchExpressions": [{"key": "gone", "operator": "DoesNotExist"}]}, egress=[{}])],
            ["NetworkPolicy a allows egress"],
        ),
        ([policy("a", {"matchExpressions": [{"key": "app", "operator": "In", "values": ["trainer"]}]})], []),
    ],
)
def test_t3_a_denial_by_networkpolicy_is_whole_only_where_no_other_policy_allows(others: list[NetworkPolicy], left: list[str]) -> None:
    assert openings([DENY, *others], {"app": "trainer", QUARANTINE: "a1"}) == left
    assert openings([DENY], {"app": "trainer"}) == FREE


def test_t4_every_verb_says_what_it_needs_and_whether_it_can_be_taken_back() -> None:
    # That the rights are enough for the undo too, and no more, is in test_kubernetes_rights.
    for adapter in ADAPTERS.values():
        for verb in adapter.verbs:
            assert verb.needs
            assert verb.undoable or verb.destructive


@pytest.mark.parametrize(("name", "verb", "target"), CASES)
def test_t9_each_target_has_its_own_containment_and_ends_by_itself(name: str, verb: Any, target: str) -> None:
    others = [case for case in CASES if case[0] == name and case[1].undoable and case[1].name != verb.name]
    with outdoors(name) as stage:
        if not verb.undoable or not others:
            return
        first = prepared(stage, verb, target, "a1")
        assert stage.adapter.apply(first).status == "applied"
        alone = stage.state()
        for i, (_, other, where) in enumerate(others):
            fresh = Action(id=f"b{i}", verb=other.name, target=where)
            ready = stage.adapter.prepare(fresh)
            if ready.status != "ready":
                continue
            second = prepared(stage, other, where, f"b{i}")
            stage.adapter.apply(second)
            assert stage.adapter.verify(first).status == "verified"
            assert stage.adapter.undo(second).status == "undone"
            assert stage.state() == alone
        assert stage.adapter.undo(first).status == "undone"


@pytest.mark.parametrize(("name", "verb", "target"), CASES)
def test_t12_a_call_that_succeeded_is_not_yet_an_effect(name: str, verb: Any, target: str) -> None:
    with outdoors(name) as stage:
        action = prepared(stage, verb, target)
        stage.weather.every = hollow
        stage.adapter.apply(action)
        assert stage.adapter.verify(action).status in ("not-effective", "unverified")


def test_t24_nothing_says_that_containment_prevents() -> None:
    claims = re.compile(r"\bprevents?\b(?! nothing)", re.IGNORECASE)
    found = [verb.name for adapter in ADAPTERS.values() for verb in adapter.verbs if claims.search(verb.residual)]
    assert found == []
    assert not claims.search((ROOT / "docs" / "containment-workload.md").read_text(encoding="utf-8"))


def test_t25_no_job_of_slurm_is_suspended_in_place_with_its_gpus_in_its_hands() -> None:
    with outdoors("slurm") as stage:
        verbs = {verb.name: verb for verb in ADAPTERS["slurm"].verbs}
        assert not {name for name in verbs if "suspend" in name or "stop" in name}
        action = prepared(stage, verbs["requeue_hold"], "job:slurm/aifac/11")
        assert stage.adapter.apply(action).status == "applied"
        job = stage.state()["jobs"][11]
        assert (job["job_state"], job["hold"]) == (["PENDING"], True)
        assert not [path for _, path in stage.weather.fake.asked if "signal" in path]
        assert stage.adapter.undo(action).status == "undone"


def test_t25_where_slurm_cannot_requeue_the_job_that_is_said_before_anything_is_done() -> None:
    with outdoors("slurm") as stage:
        fake: Any = stage.weather.fake
        fake.jobs[11]["requeue"] = False
        ready = stage.adapter.prepare(Action(id="a1", verb="requeue_hold", target="job:slurm/aifac/11"))
        assert (ready.status, ready.reason) == ("failed", "the job cannot be requeued: cancel_job ends it")


def test_t26_what_stays_open_is_a_sentence_for_every_verb_and_names_a_time_where_there_is_one() -> None:
    residual = {verb.name: verb.residual for adapter in ADAPTERS.values() for verb in adapter.verbs}
    assert all(text.endswith(".") for text in residual.values())
    assert "10 seconds" in residual["rotate_bound_object"]
    assert "30 minutes" in residual["disable_robot"]
    assert "auth_cache_ttl_seconds" in residual["deny_model"]


def test_t30_no_credential_has_a_default() -> None:
    for name in ("slurm", "mlflow", "harbor"):
        fields = ADAPTERS[name].Settings.__struct_fields__
        required = len(fields) - len(ADAPTERS[name].Settings.__struct_defaults__)
        assert required >= 1
    with outdoors("kubernetes") as stage:
        stage.weather.reads = answers(401)
        assert stage.adapter.prepare(Action(id="a1", verb="cordon_node", target="node:gpu-1")).status == "failed"
