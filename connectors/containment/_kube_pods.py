"""What can be done to one pod, and to the object that service-account tokens are bound to."""

from __future__ import annotations

from time import monotonic
from typing import Any

from connectors.containment import Action, Applied, Prepared, Trouble, Verb, Verified
from connectors.containment._doing import OneWay, gone, kept, mark
from connectors.containment._http import CallFailed
from connectors.containment._kube_api import QUARANTINE, Api, Metadata, Object, Pod, place_of
from connectors.containment._kube_change import Change
from connectors.containment._kube_policies import CiliumEndpoint, CiliumPolicy, NetworkPolicy, openings

#: How soon a pod that is being deleted is looked at again, in seconds: kubelets report every few.
LOOK_AGAIN = 5.0
#: How soon a Cilium agent is asked again, in seconds: it takes a label up within one or two.
AGENT_AGAIN = 2.0
#: Annotation by which the token controller knows a Secret that it fills with a token: nothing else is in such a Secret.
ACCOUNT = "kubernetes.io/service-account.name"


def pods(namespace: str) -> str:
    """The path of a namespace's pods."""
    return f"/api/v1/namespaces/{namespace}/pods"


def find_pod(api: Api, target: str) -> Pod | None:
    """The pod of that name."""
    namespace, name = place_of(target)
    return api.find(f"{pods(namespace)}/{name}", Pod)


class IsolatePod(Change[Pod]):
    """Cut one pod off: a label that only this pod gets (T1), which deny policies select that were installed beforehand (T2, T4)."""

    verb = Verb(
        name="isolate_pod",
        kinds=("pod",),
        undoable=True,
        residual="Its node still reaches the pod, open connections may live on, what another NetworkPolicy allows stays open unless "
        "Cilium denies it, and its siblings are untouched.",
        needs=(
            "pods: get, patch",
            "networkpolicies.networking.k8s.io: list",
            "ciliumclusterwidenetworkpolicies.cilium.io: get",
            "ciliumendpoints.cilium.io: get",
        ),
    )
    what = "pod"

    def __init__(self, api: Api, policy: str, settles: float) -> None:
        super().__init__(api)
        self._policy = policy
        self._settles = settles
        #: Action id -> when its pod's agent was first seen to apply the denial, on the monotonic clock. A restart begins anew.
        self._since: dict[str, float] = {}

    def find(self, target: str) -> Pod | None:
        return find_pod(self.api, target)

    def path(self, thing: Pod) -> str:
        return f"{pods(thing.metadata.namespace)}/{thing.metadata.name}"

    def so(self, thing: Pod) -> str:
        return "it bears the quarantine label" if QUARANTINE in thing.metadata.labels else ""

    def ours(self, thing: Pod, our: str) -> bool:
        return thing.metadata.labels.get(QUARANTINE) == our

    def done(self, thing: Pod, our: str) -> dict[str, Any]:
        return {"metadata": {"labels": {QUARANTINE: our}}}

    def undone(self, thing: Pod, our: str) -> dict[str, Any]:
        return {"metadata": {"labels": {QUARANTINE: None}}}

    def allowed(self, thing: Pod) -> str:
        if thing.spec.host_network:
            raise CallFailed("refused", "the pod uses its node's network: no network policy reaches it")
        labels = {**thing.metadata.labels, QUARANTINE: "prepared"}
        if self._cilium_denies(labels):
            return ""
        policies = self._policies(thing)
        ours = [policy for policy in policies if policy.metadata.name == self._policy]
        if not ours or openings(ours, labels):
            where = f"namespace {thing.metadata.namespace}"
            raise CallFailed(
                "refused", f"no NetworkPolicy {self._policy} in {where} that denies all: see deploy/kubernetes/namespace.yaml"
            )
        left = openings(policies, labels)
        return f"it will be partial: {'; '.join(left)}" if left else ""

    def seen(self, action: Action, thing: Pod) -> Verified:
        labels = thing.metadata.labels
        if self._cilium_denies(labels):
            return self._enforced(action, thing)
        left = openings(self._policies(thing), labels)
        if left:
            return Verified("not-effective", "; ".join(left))
        return Verified("unverified", "denied by NetworkPolicy as written; whether the network enforces it cannot be seen from here")

    def _policies(self, thing: Pod) -> list[NetworkPolicy]:
        path = f"/apis/networking.k8s.io/v1/namespaces/{thing.metadata.namespace}/networkpolicies"
        return self.api.items(path, NetworkPolicy)

    def _cilium_denies(self, labels: dict[str, str]) -> bool:
        found = self.api.find_extra(f"/apis/cilium.io/v2/ciliumclusterwidenetworkpolicies/{self._policy}", CiliumPolicy)
        return found is not None and found.denies(labels)

    def _enforced(self, action: Action, thing: Pod) -> Verified:
        """What the Cilium agent of the pod's node says about it."""
        path = f"/apis/cilium.io/v2/namespaces/{thing.metadata.namespace}/ciliumendpoints/{thing.metadata.name}"
        endpoint = self.api.find_extra(path, CiliumEndpoint)
        if endpoint is None:
            return Verified("unverified", "denied by Cilium as written; it has no endpoint for the pod that would say so")
        seen = endpoint.told(thing.metadata.labels.get(QUARANTINE, ""))
        if seen != "applies":
            self._since.pop(action.id, None)
        if seen == "silent":
            return Verified(
                "unverified", "denied by Cilium as written; its agent does not say what it applies (endpoint-status: policy)"
            )
        if seen == "behind":
            return Verified("not-effective", "its Cilium agent has not taken the denial up both ways", again=AGENT_AGAIN)
        # What the agent says is what it is about to apply: its programs follow within a second or two.
        now = monotonic()
        left = self._since.setdefault(action.id, now) + self._settles - now
        if left > 0:
            return Verified("unverified", "its Cilium agent has taken the denial up, and may not have applied it yet", again=left)
        del self._since[action.id]
        return Verified("verified", f"its Cilium agent has said for {self._settles:g} s that it denies both ways")


class EvictPod(OneWay):
    """Have one pod deleted, as far as disruption budgets allow. Whatever owns it starts another."""

    verb = Verb(
        name="evict_pod",
        kinds=("pod",),
        undoable=False,
        residual="Its owner starts another pod of the same image and account; what was in its memory is lost as evidence.",
        needs=("pods: get", "pods/eviction: create"),
        destructive=True,
    )

    def __init__(self, api: Api) -> None:
        self._api = api

    def prepare(self, action: Action) -> Prepared:
        pod = find_pod(self._api, action.target)
        if pod is None:
            raise gone(action.target)
        if pod.metadata.deletion_timestamp:
            return Prepared("already", "it is being deleted")
        return Prepared("ready", "", {"uid": pod.metadata.uid})

    def apply(self, action: Action) -> Applied:
        namespace, name = place_of(action.target)
        pod = find_pod(self._api, action.target)
        if pod is None or pod.metadata.uid != kept(action).get("uid"):
            return Applied("already", "that pod is gone")
        if pod.metadata.deletion_timestamp:
            return Applied("already", "it is being deleted")
        body = {
            "apiVersion": "policy/v1",
            "kind": "Eviction",
            "metadata": {"name": name, "namespace": namespace, "annotations": {QUARANTINE: mark(action)}},
            "deleteOptions": {"preconditions": {"uid": pod.metadata.uid}},
        }
        try:
            self._api.post(f"{pods(namespace)}/{name}/eviction", body)
        except CallFailed as error:
            return self._not_evicted(action, error)
        return Applied("applied", f"evicted {pod.metadata.uid}")

    def verify(self, action: Action) -> Verified:
        return pod_gone(self._api, action)

    def _not_evicted(self, action: Action, error: CallFailed) -> Applied:
        if error.status == 500 and "PodDisruptionBudget" in error.reason:
            # Two budgets select the pod: the server says 500 and will say so for ever.
            return Applied("failed", error.reason, Trouble("refused"))
        # A uid other than ours is a conflict, the next pod of that name; but not every conflict is that.
        if error.trouble.kind in ("gone", "conflict") and not is_there(find_pod(self._api, action.target), action):
            return Applied("already", "that pod is gone")
        raise error


def is_there(pod: Pod | None, action: Action) -> bool:
    """Whether this is the instance that ``prepare`` saw."""
    return pod is not None and pod.metadata.uid == kept(action).get("uid")


def pod_gone(api: Api, action: Action) -> Verified:
    """Whether the instance that was meant is there no more."""
    pod, uid = find_pod(api, action.target), kept(action).get("uid")
    if pod is None and uid is None:
        return Verified("unverified", f"not found: {action.target}", trouble=Trouble("gone"))
    if pod is None or (uid is not None and pod.metadata.uid != uid):
        return Verified("verified", "that pod is gone")
    if pod.metadata.deletion_timestamp:
        return Verified("not-effective", "it is being deleted and may still run", again=LOOK_AGAIN)
    return Verified("not-effective", "the pod is there")


class RotateBoundObject(OneWay):
    """Invalidate the tokens bound to a pod, or to a service account's token Secret, by deleting the very object they are bound to.

    A pod is made anew by its owner. A Secret is not made anew: the token controller would fill one of its name with the same token,
    for nothing in that says which Secret it was. Its data are never asked for.
    """

    verb = Verb(
        name="rotate_bound_object",
        kinds=("pod", "secret"),
        undoable=False,
        residual="A token just used lives 10 seconds on in the API server's cache; tokens bound to something else or nothing live.",
        needs=("pods: get, delete", "secrets: get, delete"),
        destructive=True,
    )

    def __init__(self, api: Api, cache_seconds: float) -> None:
        self._api = api
        self._cache = cache_seconds
        #: Action id -> when its object was first seen to be gone, on the monotonic clock. After a restart the wait begins anew.
        self._gone: dict[str, float] = {}

    def prepare(self, action: Action) -> Prepared:
        found = self._find(action.target)
        if found is None:
            raise gone(action.target)
        if found.deletion_timestamp:
            return Prepared("already", "it is being deleted")
        if _is_pod(action):
            if not found.owner_references:
                raise CallFailed("refused", "no owner would start the pod again: evict it instead")
            return Prepared("ready", "", {"uid": found.uid})
        if ACCOUNT not in found.annotations:
            raise CallFailed("refused", "not the token Secret of a service account: what is in it would be lost")
        return Prepared("ready", "", {"uid": found.uid})

    def apply(self, action: Action) -> Applied:
        found = self._find(action.target)
        if found is None or found.uid != kept(action).get("uid"):
            return Applied("already", "what its tokens were bound to is gone")
        try:
            self._api.delete(_path(action.target), found.uid)
        except CallFailed as error:
            found = self._find(action.target) if error.trouble.kind in ("gone", "conflict") else found
            if found is not None and found.uid == kept(action).get("uid"):
                raise
            return Applied("already", "what its tokens were bound to is gone")
        return Applied("applied", f"deleted {found.uid}")

    def verify(self, action: Action) -> Verified:
        found, uid = self._find(action.target), kept(action).get("uid")
        if uid is None:
            return Verified("unverified", "no instance of it was meant", trouble=Trouble("gone"))
        if found is not None and found.uid == uid:
            again = LOOK_AGAIN if found.deletion_timestamp else 0.0
            return Verified("not-effective", "the object that its tokens are bound to is there", again=again)
        if found is not None and not _is_pod(action):
            return Verified("not-effective", "a Secret of that name was made anew: its token is the same as before")
        now = monotonic()
        left = self._gone.setdefault(action.id, now) + self._cache - now
        if left > 0:
            return Verified("unverified", "a token just used may live on in the API server's cache", again=left)
        del self._gone[action.id]
        return Verified("verified", "what its tokens were bound to is gone, and so is what the API server remembered of them")

    def _find(self, target: str) -> Metadata | None:
        found = self._api.find_metadata(_path(target), Object)
        return found.metadata if found else None


def _is_pod(action: Action) -> bool:
    return action.target.startswith("pod:")


def _path(target: str) -> str:
    namespace, name = place_of(target)
    return f"/api/v1/namespaces/{namespace}/{'pods' if target.startswith('pod:') else 'secrets'}/{name}"
