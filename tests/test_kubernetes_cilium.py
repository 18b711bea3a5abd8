"""What a Cilium agent says of a pod, and what is made of it: it says what it is about to apply, and by default it says nothing."""

from __future__ import annotations

import re
from typing import Any

import pytest

from connectors.containment import Verb
from connectors.containment._kube_pods import AGENT_AGAIN
from connectors.containment.kubernetes import Kubernetes
from tests.checkout import ROOT
from tests.weather import outdoors, prepared

ISOLATE: Verb = next(verb for verb in Kubernetes.verbs if verb.name == "isolate_pod")
POD = "pod:team-a/trainer-0"
ENDPOINT = "/apis/cilium.io/v2/namespaces/team-a/ciliumendpoints/trainer-0"
OURS = {"labels": ["k8s:app=trainer", "k8s:tocsin.io/quarantine=a1"]}
DISABLED = {"state": "<status disabled>"}
ENFORCING = {"enforcing": True, "state": "enforcing"}
NOT = {"enforcing": False, "state": "non-enforcing"}


@pytest.mark.parametrize(
    ("status", "said"),
    [
        ({"identity": OURS, "state": "ready"}, "unverified"),
        ({"identity": OURS, "state": "ready", "policy": None}, "unverified"),
        ({"identity": OURS, "state": "ready", "policy": {"ingress": DISABLED, "egress": DISABLED}}, "unverified"),
        ({"identity": OURS, "state": "ready", "policy": {"ingress": ENFORCING, "egress": ENFORCING}}, "verified"),
        ({"identity": OURS, "policy": {"ingress": {"enforcing": True}, "egress": {"enforcing": True}}}, "verified"),
        ({"identity": OURS, "state": "ready", "policy": {"ingress": ENFORCING, "egress": NOT}}, "not-effective"),
        ({"identity": OURS, "state": "not-ready", "policy": {"ingress": ENFORCING, "egress": ENFORCING}}, "not-effective"),
        ({"identity": {"labels": ["k8s:app=trainer"]}, "policy": {"ingress": ENFORCING, "egress": ENFORCING}}, "not-effective"),
        (
            {"identity": {"labels": ["k8s:tocsin.io/quarantine=a0"]}, "policy": {"ingress": ENFORCING, "egress": ENFORCING}},
            "not-effective",
        ),
    ],
)
def test_only_what_the_agent_says_is_said(status: dict[str, Any], said: str) -> None:
    with outdoors("kubernetes") as stage:
        action = prepared(stage, ISOLATE, POD)
        assert stage.adapter.apply(action).status == "applied"
        fake: Any = stage.weather.fake
        fake.objects[ENDPOINT]["status"] = status
        seen = stage.adapter.verify(action)
        assert seen.status == said
        # What may still come is looked for again; silence is final.
        assert seen.again == (AGENT_AGAIN if said == "not-effective" else 0.0)


def test_what_the_agent_is_about_to_apply_is_no_effect_until_it_has_said_so_for_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    from connectors.containment import _kube_pods

    now = [100.0]
    monkeypatch.setattr(_kube_pods, "monotonic", lambda: now[0])
    with outdoors("kubernetes") as stage:
        stage.adapter._doings["isolate_pod"]._settles = 5.0  # type: ignore[attr-defined]
        fake: Any = stage.weather.fake
        action = prepared(stage, ISOLATE, POD)
        assert stage.adapter.apply(action).status == "applied"
        early = stage.adapter.verify(action)
        assert (early.status, early.again) == ("unverified", 5.0)
        now[0] += 4
        # It falls behind, and the wait begins anew.
        whole = fake.objects[ENDPOINT]["status"]
        fake.objects[ENDPOINT]["status"] = {"identity": {"labels": []}}
        assert stage.adapter.verify(action).status == "not-effective"
        fake.objects[ENDPOINT]["status"] = whole
        now[0] += 4
        assert stage.adapter.verify(action).again == 5.0
        now[0] += 5
        assert stage.adapter.verify(action).status == "verified"


def test_every_file_that_a_reason_names_is_shipped() -> None:
    said = [path.read_text(encoding="utf-8") for path in sorted((ROOT / "connectors" / "containment").glob("*.py"))]
    named = {match for text in said for match in re.findall(r"deploy/[a-z]+/[\w.-]*\w", text)}
    assert named
    assert [name for name in sorted(named) if not (ROOT / name).exists()] == []
