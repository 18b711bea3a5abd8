"""A namespace of the real control plane with what the product ships for it, and the adapter as the responder's own account."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import Any

import pytest
import yaml
from msgspec.structs import replace

from connectors.containment import Action, Prepared
from connectors.containment._http import Secret
from connectors.containment.kubernetes import Kubernetes, KubernetesSettings
from tests.checkout import ROOT
from tests.kube import Kube, until

SHIPPED = ROOT / "deploy" / "kubernetes"
#: Stand-ins for the definitions of Kueue and Cilium, neither of which can run here: any field, no controller.
_CRD = """
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {{name: {plural}.{group}}}
spec:
  group: {group}
  scope: {scope}
  names: {{plural: {plural}, singular: {singular}, kind: {kind}}}
  versions:
  - name: {version}
    served: true
    storage: true
    schema: {{openAPIV3Schema: {{type: object, x-kubernetes-preserve-unknown-fields: true}}}}
"""
_DEFINED = (
    ("kueue.x-k8s.io", "v1beta2", "Workload", "workloads", "Namespaced"),
    ("cilium.io", "v2", "CiliumClusterwideNetworkPolicy", "ciliumclusterwidenetworkpolicies", "Cluster"),
    ("cilium.io", "v2", "CiliumEndpoint", "ciliumendpoints", "Namespaced"),
)
_ids = count(1)


class Stage:
    """One namespace, ``namespace``, that may be acted on; its nodes and pods are made by name."""

    def __init__(self, kube: Kube, folder: Path) -> None:
        self.kube = kube
        self.namespace = f"team-{next(_ids)}"
        self.folder = folder
        self._adapters: list[Kubernetes] = []
        kube.apply(f"{{apiVersion: v1, kind: Namespace, metadata: {{name: {self.namespace}}}}}")
        self.ship("responder.yaml", "namespace.yaml", "nodes.yaml", "tokens.yaml")
        for group, version, kind, plural, scope in _DEFINED:
            text = _CRD.format(group=group, version=version, kind=kind, plural=plural, scope=scope, singular=kind.lower())
            kube.apply(text)
        root = f"/apis/kueue.x-k8s.io/v1beta2/namespaces/{self.namespace}/workloads"
        policies = "/apis/cilium.io/v2/ciliumclusterwidenetworkpolicies"
        until("Kueue's stand-in is served", lambda: kube.call("GET", root).is_success)
        until("Cilium's stand-in is served", lambda: kube.call("GET", policies).is_success)
        token = kube.token("tocsin", "responder")
        # One path of each role: the server learns of a role and of its binding a moment after both are made.
        granted = [self.path("networkpolicies"), self.path("jobs", "none"), self.path("secrets", "none"), "/api/v1/nodes/none"]
        granted.append(f"{policies}/tocsin-quarantine")
        until("the roles are known", lambda: all(kube.call("GET", path, token=token).status_code in (200, 404) for path in granted))
        self.adapter = self.adapted(token)

    def ship(self, *names: str) -> None:
        """Apply files of ``deploy/kubernetes``."""
        for name in names:
            self.kube.apply((SHIPPED / name).read_text(), self.namespace)

    def adapted(self, token: str, **chosen: Any) -> Kubernetes:
        """The adapter with a token."""
        path = self.folder / f"token-{next(_ids)}"
        path.write_text(token)
        # On a busy machine of two cores an answer takes seconds.
        patient: dict[str, Any] = {"timeout_seconds": 60, "deadline_seconds": 120}
        given = {"token_cache_seconds": 0, "cilium_seconds": 0, **patient, **chosen}
        settings = KubernetesSettings(url=self.kube.url, ca_file=str(self.kube.ca), token=Secret(file=str(path)), **given)
        self._adapters.append(Kubernetes(settings))
        return self._adapters[-1]

    def close(self) -> None:
        """Let go of every adapter."""
        for adapter in self._adapters:
            adapter.close()

    def path(self, plural: str, name: str = "") -> str:
        """Of a thing, or a collection, of the namespace."""
        group = {"jobs": "/apis/batch/v1", "networkpolicies": "/apis/networking.k8s.io/v1", "poddisruptionbudgets": "/apis/policy/v1"}
        group |= {"workloads": "/apis/kueue.x-k8s.io/v1beta2", "ciliumendpoints": "/apis/cilium.io/v2", "deployments": "/apis/apps/v1"}
        return f"{group.get(plural, '/api/v1')}/namespaces/{self.namespace}/{plural}{'/' if name else ''}{name}"

    def make(self, plural: str, kind: str, name: str, **fields: Any) -> dict[str, Any]:
        """Create a thing."""
        labels = fields.pop("labels", {})
        metadata = {"name": name, "labels": labels, **fields.pop("metadata", {})}
        root = self.path(plural).removeprefix("/apis/").removeprefix("/api/").partition("/namespaces")[0]
        made: dict[str, Any] = self.kube.ask(
            "POST", self.path(plural), {"apiVersion": root, "kind": kind, "metadata": metadata, **fields}
        )
        return made

    def read(self, plural: str, name: str) -> dict[str, Any]:
        """A thing as it is."""
        found: dict[str, Any] = self.kube.ask("GET", self.path(plural, name))
        return found

    def node(self, name: str, taints: list[dict[str, Any]] | None = None) -> str:
        """A node; its path."""
        self.kube.ask(
            "POST", "/api/v1/nodes", {"apiVersion": "v1", "kind": "Node", "metadata": {"name": name}, "spec": {"taints": taints or []}}
        )
        path = f"/api/v1/nodes/{name}"
        until("the node is ready", lambda: "Ready" in str(self.kube.ask("GET", path).get("status", {}).get("conditions")))
        # What admission put there until then; it would go in the middle of a test.
        until("it is known to be ready", lambda: "not-ready" not in str(self.kube.ask("GET", path)["spec"].get("taints")))
        return path

    def pod(self, name: str, labels: dict[str, str] | None = None, **spec: Any) -> dict[str, Any]:
        """A pod that runs."""
        if self.kube.call("GET", "/api/v1/nodes/gpu").status_code == 404:
            self.node("gpu")
        given = {"nodeName": "gpu", "containers": [{"name": "c", "image": "none"}], **spec}
        self.make("pods", "Pod", name, labels=labels or {}, spec=given)
        until("the pod runs", lambda: self.read("pods", name)["status"].get("phase") == "Running")
        return self.read("pods", name)

    def job(self, name: str, labels: dict[str, str] | None = None) -> dict[str, Any]:
        """A job with one pod that runs."""
        if self.kube.call("GET", "/api/v1/nodes/gpu").status_code == 404:
            self.node("gpu")
        pod = {"nodeName": "gpu", "restartPolicy": "Never", "containers": [{"name": "c", "image": "none"}]}
        self.make("jobs", "Job", name, labels=labels or {}, spec={"template": {"spec": pod}})
        until("the job runs", lambda: self.read("jobs", name)["status"].get("active") == 1)
        return self.read("jobs", name)

    def owned(self, name: str, labels: dict[str, str] | None = None, **spec: Any) -> dict[str, Any]:
        """A pod on no node that belongs to something which is there, so that the garbage collector lets it be."""
        owner = self.make("configmaps", "ConfigMap", f"owner-{next(_ids)}")["metadata"]
        reference = {"apiVersion": "v1", "kind": "ConfigMap", "name": owner["name"], "uid": owner["uid"]}
        given = {"containers": [{"name": "c", "image": "none"}], **spec}
        return self.make("pods", "Pod", name, labels=labels or {}, metadata={"ownerReferences": [reference]}, spec=given)

    def deployment(self, name: str, replicas: int) -> list[str]:
        """A deployment whose pods run; their names."""
        if self.kube.call("GET", "/api/v1/nodes/gpu").status_code == 404:
            self.node("gpu")
        labels = {"app": name}
        pod = {"metadata": {"labels": labels}, "spec": {"nodeName": "gpu", "containers": [{"name": "c", "image": "none"}]}}
        spec = {"replicas": replicas, "selector": {"matchLabels": labels}, "template": pod}
        self.make("deployments", "Deployment", name, spec=spec)
        found: list[str] = until("the replicas are there", lambda: self._replicas(name, replicas))
        return found

    def _replicas(self, app: str, count: int) -> list[str]:
        items = self.kube.ask("GET", f"{self.path('pods')}?labelSelector=app={app}")["items"]
        return sorted(item["metadata"]["name"] for item in items) if len(items) == count else []

    def action(self, verb: str, target: str) -> Action:
        """An action that is prepared."""
        ready = self.adapter.prepare(fresh := self.unprepared(verb, target))
        assert ready.status == "ready", ready
        return self.with_snapshot(fresh, ready)

    def unprepared(self, verb: str, target: str) -> Action:
        """An action of an id of its own."""
        return Action(id=f"a{self.fresh()}", verb=verb, target=target)

    def with_snapshot(self, action: Action, ready: Prepared) -> Action:
        """The action with what was read."""
        return replace(action, snapshot=ready.snapshot)

    def fresh(self) -> int:
        """A number that was not used."""
        return next(_ids)

    def prepared(self, verb: str, target: str) -> Prepared:
        """What preparing it says."""
        return self.adapter.prepare(self.unprepared(verb, target))


def shipped(name: str) -> list[dict[str, Any]]:
    """The objects of a file of ``deploy/kubernetes``."""
    return [one for one in yaml.safe_load_all((SHIPPED / name).read_text()) if one]


@pytest.fixture
def stage(kube: Kube, tmp_path: Path) -> Iterator[Stage]:
    """A namespace of its own for each test."""
    made = Stage(kube, tmp_path)
    yield made
    made.close()
