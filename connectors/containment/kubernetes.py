"""Kubernetes: one pod cut off, evicted, or made anew without its tokens; a node cordoned or tainted; a job or workload suspended.

Every write names the uid of the instance that was seen, and the version of the object: a retry cannot hit the pod that took its place,
nor overwrite what somebody else wrote. What it must be allowed to do is in ``deploy/kubernetes/``, one file for each circle of rights;
an admission policy there confines the writes to the fields named here.
"""

from __future__ import annotations

from typing import Annotated, ClassVar

import msgspec

from connectors.containment import Rehearsal, Verb
from connectors.containment._doing import ByVerb, Doing
from connectors.containment._fake_kubernetes import FakeKubernetes
from connectors.containment._http import Endpoint, Http, Secret
from connectors.containment._kube_api import Api
from connectors.containment._kube_jobs import SuspendJob, SuspendWorkload
from connectors.containment._kube_nodes import CordonNode, TaintNode
from connectors.containment._kube_pods import EvictPod, IsolatePod, RotateBoundObject

#: Where a pod finds its own service account's token.
_OWN_TOKEN = "/var/run/secrets/kubernetes.io/serviceaccount/token"  # noqa: S105 - a path


class KubernetesSettings(Endpoint, kw_only=True, forbid_unknown_fields=True):
    """One API server. Where the responder runs in the cluster: ``url = "https://kubernetes.default.svc"`` and its own ``ca.crt``."""

    token: Secret = Secret(file=_OWN_TOKEN)
    #: Name of the deny policies that were installed beforehand: NetworkPolicy in each namespace, CiliumClusterwideNetworkPolicy.
    policy: str = "tocsin-quarantine"
    #: Version of Kueue's API: v1beta2 from 0.15 on, v1beta1 before.
    kueue_version: str = "v1beta2"
    #: How long the API server may honour a token whose object is gone, in seconds: its own cache, measured as 10.2.
    token_cache_seconds: Annotated[float, msgspec.Meta(ge=0, le=600)] = 11.0
    #: How long a Cilium agent must have said that it denies before that counts: it says so before its programs do.
    cilium_seconds: Annotated[float, msgspec.Meta(ge=0, le=60)] = 5.0


class Kubernetes(ByVerb):
    """The adapter. See the module."""

    title: ClassVar[str] = "Kubernetes: pods, nodes, jobs and Kueue workloads"
    verbs: ClassVar[tuple[Verb, ...]] = (
        IsolatePod.verb,
        EvictPod.verb,
        RotateBoundObject.verb,
        CordonNode.verb,
        TaintNode.verb,
        SuspendJob.verb,
        SuspendWorkload.verb,
    )
    Settings: ClassVar[type[msgspec.Struct]] = KubernetesSettings

    def __init__(self, settings: KubernetesSettings, http: Http | None = None) -> None:
        """``http``: what stands in for the connection where a cluster is rehearsed."""
        http = http or Http(settings)
        api = Api(http, settings.token)
        doings: list[Doing] = [
            IsolatePod(api, settings.policy, settings.cilium_seconds),
            EvictPod(api),
            RotateBoundObject(api, settings.token_cache_seconds),
            CordonNode(api),
            TaintNode(api),
            SuspendJob(api),
            SuspendWorkload(api, settings.kueue_version),
        ]
        super().__init__(http, doings)

    @classmethod
    def rehearsal(cls) -> Rehearsal:
        """A cluster with three replicas, a job that Kueue manages and one that it does not, and one node."""
        fake = FakeKubernetes()
        settings = KubernetesSettings(url="http://127.0.0.1:0", token=fake.token, token_cache_seconds=0, cilium_seconds=0)
        targets = {
            "isolate_pod": ("pod:team-a/trainer-0",),
            "evict_pod": ("pod:team-a/trainer-1",),
            "rotate_bound_object": ("pod:team-a/trainer-2", "secret:team-a/trainer-token"),
            "cordon_node": ("node:gpu-1",),
            "taint_node": ("node:gpu-1",),
            "suspend_job": ("job:k8s/team-a/train",),
            "suspend_kueue_workload": ("job:k8s/team-a/queued",),
        }
        return Rehearsal(cls(settings, Http(settings, fake.transport())), targets, fake.state)


ADAPTER = Kubernetes
