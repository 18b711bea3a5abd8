"""A cluster in memory with the answers of kube-apiserver 1.36.3, as far as the adapter asks: recorded on the real one, where the same
tests run too. Cilium's and Kueue's part is what their sources say: neither can run here.
"""

from __future__ import annotations

import copy
from typing import Any

from connectors.containment._fake import Answer, Ask, Fake, Rehearsed
from connectors.containment._kube_api import QUARANTINE

Object = dict[str, Any]

_PODS = "/api/v1/namespaces/team-a/pods"
_JOBS = "/apis/batch/v1/namespaces/team-a/jobs"
_WORKLOADS = "/apis/kueue.x-k8s.io/v1beta2/namespaces/team-a/workloads"
_ENDPOINTS = "/apis/cilium.io/v2/namespaces/team-a/ciliumendpoints"
_POLICY = "/apis/cilium.io/v2/ciliumclusterwidenetworkpolicies/tocsin-quarantine"
_SECRETS = "/api/v1/namespaces/team-a/secrets"


class FakeKubernetes(Fake):
    """Objects by path. ``state`` leaves out the versions: they change with every write and never back."""

    def __init__(self) -> None:
        super().__init__()
        self.token = Rehearsed()
        self.objects: dict[str, Object] = {}
        #: Groups that are served, whether there is an object of them or not.
        self.groups = {"batch", "cilium.io", "kueue.x-k8s.io", "networking.k8s.io"}
        self._last = 0
        for i in range(3):
            self.put(f"{_PODS}/trainer-{i}", spec={"nodeName": "gpu-2"}, owner="replicas", labels={"app": "trainer"})
            self.put(f"{_ENDPOINTS}/trainer-{i}", status={"identity": {"labels": ["k8s:app=trainer"]}})
        self.put("/api/v1/nodes/gpu-1", spec={"taints": [{"key": "nvidia.com/gpu", "effect": "NoSchedule"}]})
        self.put(f"{_SECRETS}/trainer-token", annotations={"kubernetes.io/service-account.name": "trainer"})
        self.put(f"{_JOBS}/train", spec={"suspend": False}, status={"active": 1})
        queued = self.put(
            f"{_JOBS}/queued", spec={"suspend": False}, status={"active": 1}, labels={"kueue.x-k8s.io/queue-name": "gpus"}
        )
        self.put(f"{_WORKLOADS}/job-queued-1", spec={"active": True}, owner=queued["metadata"]["uid"])
        selector = {"matchExpressions": [{"key": QUARANTINE, "operator": "Exists"}]}
        deny = {"ingressDeny": [{"fromEntities": ["all"]}], "egressDeny": [{"toEntities": ["all"]}]}
        self.put(_POLICY, spec={"endpointSelector": selector, **deny})

    def put(
        self,
        path: str,
        *,
        spec: Object | None = None,
        status: Object | None = None,
        owner: str = "",
        labels: dict[str, str] | None = None,
        annotations: dict[str, str] | None = None,
    ) -> Object:
        """Set an object up. Its namespace and name are those of its path."""
        parts = path.split("/")
        metadata: Object = {"name": parts[-1], "uid": f"uid-{self._next()}", "resourceVersion": str(self._next())}
        if "namespaces" in parts:
            metadata["namespace"] = parts[parts.index("namespaces") + 1]
        given = {"labels": labels, "annotations": annotations, "ownerReferences": [{"uid": owner}] if owner else None}
        metadata |= {name: value for name, value in given.items() if value}
        self.objects[path] = {"metadata": metadata, "spec": spec or {}, "status": status or {}}
        return self.objects[path]

    def state(self) -> Any:
        """Every object, without its version."""
        found = copy.deepcopy(self.objects)
        for one in found.values():
            del one["metadata"]["resourceVersion"]
        return found

    def answer(self, ask: Ask) -> Answer:
        """See ``Fake``."""
        if ask.headers.get("authorization") != f"Bearer {self.token.read()}":
            return _status(401, "Unauthorized")
        if ask.method == "GET":
            return self._get(ask)
        if ask.method == "POST":
            return self._evict(ask)
        if ask.path not in self.objects:
            return _status(404, f"{ask.path} not found")
        return self._patch(ask) if ask.method == "PATCH" else self._delete(ask)

    def _next(self) -> int:
        self._last += 1
        return self._last

    def _get(self, ask: Ask) -> Answer:
        if ask.path in self.objects:
            return Answer(200, self.objects[ask.path])
        if ask.path == "/apis":
            return Answer(200, {"kind": "APIGroupList", "apiVersion": "v1", "groups": [{"name": name} for name in sorted(self.groups)]})
        if ask.path.startswith("/apis/") and ask.path.split("/")[2] not in self.groups:
            # What Go's server says of an address it does not know.
            return Answer(404, "404 page not found")
        plural = ask.path.rpartition("/")[2]
        listed = [one for path, one in self.objects.items() if path.rpartition("/")[0] == ask.path]
        if ask.path == "/api/v1/pods":
            node = ask.query.get("fieldSelector", "").removeprefix("spec.nodeName=")
            listed = [one for path, one in self.objects.items() if "/pods/" in path and one["spec"].get("nodeName") == node]
        if listed or plural in ("pods", "networkpolicies", "workloads"):
            return Answer(200, {"items": listed})
        return _status(404, f"{ask.path} not found")

    def _evict(self, ask: Ask) -> Answer:
        path = ask.path.removesuffix("/eviction")
        if path not in self.objects:
            return _status(404, f"{path} not found")
        return self._remove(path, ask.json().get("deleteOptions") or {}, 201)

    def _delete(self, ask: Ask) -> Answer:
        return self._remove(ask.path, ask.json() or {}, 200)

    def _remove(self, path: str, options: Object, status: int) -> Answer:
        metadata = self.objects[path]["metadata"]
        uid = (options.get("preconditions") or {}).get("uid", metadata["uid"])
        if uid != metadata["uid"]:
            return _status(409, f"the UID in the precondition ({uid}) does not match the UID in record ({metadata['uid']})")
        del self.objects[path]
        if "/pods/" in path:
            # The owner starts another, of another name.
            self.put(f"{path}-{self._next()}", spec={"nodeName": "gpu-2"}, owner="replicas", labels={"app": "trainer"})
        return Answer(status, {"kind": "Status", "status": "Success"})

    def _patch(self, ask: Ask) -> Answer:
        if ask.headers.get("content-type") != "application/merge-patch+json":
            return _status(415, "the body of the request was in an unknown format")
        seen, body = self.objects[ask.path], ask.json()
        meta = body.get("metadata", {})
        if meta.get("resourceVersion", seen["metadata"]["resourceVersion"]) != seen["metadata"]["resourceVersion"]:
            return _status(409, "the object has been modified; please apply your changes to the latest version and try again")
        if meta.get("uid", seen["metadata"]["uid"]) != seen["metadata"]["uid"]:
            return _status(422, "metadata.uid: Invalid value: field is immutable")
        changed = _merged(seen, body)
        if changed != seen:
            changed["metadata"]["resourceVersion"] = str(self._next())
            self.objects[ask.path] = changed
            self._follow(ask.path, changed)
        return Answer(200, changed)

    def _follow(self, path: str, changed: Object) -> None:
        """What controllers and agents do about a change."""
        if path.startswith(_JOBS):
            changed["status"] = {} if changed["spec"]["suspend"] else {"active": 1}
        if path.startswith(_WORKLOADS):
            owners = {owner["uid"] for owner in changed["metadata"]["ownerReferences"]}
            where, job = next((path, one) for path, one in self.objects.items() if one["metadata"]["uid"] in owners)
            job["spec"]["suspend"] = not changed["spec"]["active"]
            self._follow(where, job)
        if path.startswith(_PODS):
            labels = [f"k8s:{key}={value}" for key, value in changed["metadata"].get("labels", {}).items()]
            status: Object = {"identity": {"labels": labels}}
            if QUARANTINE in changed["metadata"].get("labels", {}):
                status["policy"] = {way: {"enforcing": True} for way in ("ingress", "egress")}
            self.objects[f"{_ENDPOINTS}/{changed['metadata']['name']}"]["status"] = status


def _merged(old: Any, patch: Any) -> Any:
    """RFC 7386; an object that becomes empty stays away, as the API server leaves it."""
    if not isinstance(patch, dict):
        return copy.deepcopy(patch)
    new = copy.deepcopy(old) if isinstance(old, dict) else {}
    for key, value in patch.items():
        if value is None:
            new.pop(key, None)
            continue
        new[key] = _merged(new.get(key), value)
        if new[key] == {}:
            del new[key]
    return new


def _status(code: int, message: str) -> Answer:
    reason = {"reason": "NotFound"} if code == 404 else {}
    return Answer(code, {"kind": "Status", "apiVersion": "v1", "status": "Failure", "message": message, **reason, "code": code})
