"""Kubernetes audit events (audit.k8s.io/v1), as the API server's log backend writes them, one request a line."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import orjson

from connectors.event import SECOND
from replay.simulate.factory import Account, User, uuid
from replay.simulate.wire import iso

_REASONS = {403: "Forbidden", 404: "NotFound"}


class Caller(NamedTuple):
    """Who asks, and from where."""

    username: str
    groups: tuple[str, ...]
    address: str
    agent: str
    extra: dict[str, list[str]]


def person(user: User, team: str, address: str) -> Caller:
    """A person at kubectl."""
    groups = ("system:masters", "system:authenticated") if user.admin else (f"team-{team}", "system:authenticated")
    return Caller(user.name, groups, address, "kubectl/v1.36.3 (linux/amd64) kubernetes/6a9c0d1", {})


def account(own: Account, address: str, token: str, pod: tuple[str, str] | None = None) -> Caller:
    """A service account. ``token``: its credential's JTI; ``pod``: name and uid of the pod the token is bound to."""
    extra = {"authentication.kubernetes.io/credential-id": [f"JTI={token}"]}
    if pod is not None:
        extra |= {"authentication.kubernetes.io/pod-name": [pod[0]], "authentication.kubernetes.io/pod-uid": [pod[1]]}
    groups = ("system:serviceaccounts", f"system:serviceaccounts:{own.namespace}", "system:authenticated")
    return Caller(own.username, groups, address, "Go-http-client/2.0", extra)


def controller(name: str) -> Caller:
    """A controller of the control plane."""
    return account(Account("kube-system", name), "10.10.1.3", "00000000-0000-4000-8000-000000000000")


def node(name: str, address: str) -> Caller:
    """A node's kubelet."""
    return Caller(f"system:node:{name}", ("system:nodes", "system:authenticated"), address, "kubelet/v1.36.3 (linux/amd64)", {})


class Asked(NamedTuple):
    """What is asked of the API: verb, resource and where. ``group`` "" is the core group, ``namespace`` "" the whole cluster."""

    verb: str
    resource: str
    namespace: str
    name: str = ""
    subresource: str = ""
    group: str = ""

    def uri(self) -> str:
        """The request's path."""
        base = f"/apis/{self.group}/v1" if self.group else "/api/v1"
        place = f"{base}/namespaces/{self.namespace}/{self.resource}" if self.namespace else f"{base}/{self.resource}"
        if (self.name and self.verb != "create") or (self.name and self.subresource):
            place += f"/{self.name}"
        return place + (f"/{self.subresource}" if self.subresource else "") + ("?limit=500" if self.verb == "list" else "")


def event(
    rng: np.random.Generator,
    time: int,
    caller: Caller,
    asked: Asked,
    code: int = 200,
    answer: dict[str, Any] | None = None,
    stage: str = "ResponseComplete",
    id: str | None = None,
) -> bytes:
    """One audit event, written at ``time`` (its ``stageTimestamp``). With ``answer`` its level is RequestResponse."""
    reference = {"resource": asked.resource}
    if asked.namespace:
        reference["namespace"] = asked.namespace
    if asked.name:
        reference["name"] = asked.name
    if asked.group:
        reference["apiGroup"] = asked.group
    reference["apiVersion"] = "v1"
    if asked.subresource:
        reference["subresource"] = asked.subresource
    user: dict[str, Any] = {"username": caller.username, "groups": caller.groups}
    if caller.extra:
        user["extra"] = caller.extra
    status: dict[str, Any] = {"metadata": {}, "code": code}
    if code >= 400:
        status |= {"status": "Failure", "reason": _REASONS[code]}
    record: dict[str, Any] = {
        "kind": "Event",
        "apiVersion": "audit.k8s.io/v1",
        "level": "Metadata" if answer is None else "RequestResponse",
        "auditID": uuid(rng) if id is None else id,
        "stage": stage,
        "requestURI": asked.uri(),
        "verb": asked.verb,
        "user": user,
        "sourceIPs": [caller.address],
        "userAgent": caller.agent,
        "objectRef": reference,
        "responseStatus": status,
    }
    if answer is not None:
        record["responseObject"] = answer
    record["requestReceivedTimestamp"] = f"{iso(time - int(rng.integers(1, 9)) * (SECOND // 1000))}Z"
    record["stageTimestamp"] = f"{iso(time)}Z"
    record["annotations"] = {
        "authorization.k8s.io/decision": "forbid" if code == 403 else "allow",
        "authorization.k8s.io/reason": "",
    }
    return orjson.dumps(record, option=orjson.OPT_APPEND_NEWLINE)


def pod_object(
    named: tuple[str, str, str],
    account: str,
    owner: tuple[str, str],
    created: int,
    phase: str,
    place: tuple[str, str, str] | None,
    image: str = "",
) -> dict[str, Any]:
    """A pod as the API server answers with it. ``named``: namespace, name, uid; ``owner``: kind and name, empty for a pod made by hand;
    ``place``: node, the node's address and its own, None before it runs; ``image``: its account's where none is given."""
    kind, name = owner
    labels = {"app": name if kind and kind != "ReplicaSet" else account}
    if kind == "Job":
        labels["batch.kubernetes.io/job-name"] = name
    elif kind == "ReplicaSet":
        labels["pod-template-hash"] = name.rpartition("-")[2]
    spec: dict[str, Any] = {
        "containers": [{"name": "main", "image": image or f"registry.factory.example/images/{account}:v1"}],
        "serviceAccountName": account,
    }
    status: dict[str, Any] = {"phase": phase}
    if place is not None:
        spec["nodeName"] = place[0]
        status |= {"hostIP": place[1], "podIP": place[2], "podIPs": [{"ip": place[2]}]}
    group = "batch/v1" if kind == "Job" else "apps/v1"
    metadata: dict[str, Any] = {
        "name": named[1],
        "namespace": named[0],
        "uid": named[2],
        "creationTimestamp": f"{iso(created)[:19]}Z",
        "labels": labels,
    }
    if kind:
        metadata["ownerReferences"] = [{"apiVersion": group, "kind": kind, "name": name, "controller": True}]
    return {"kind": "Pod", "apiVersion": "v1", "metadata": metadata, "spec": spec, "status": status}
