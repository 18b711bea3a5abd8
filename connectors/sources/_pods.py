"""What Kubernetes objects in audit records say about who is behind an address, a pod or a job.

An identity has one target at a time: an address its pod; a pod its service account, or where that is ``default``, which says
nothing, the workload that made it; a job the workload or the account that made it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import msgspec

from connectors.sources._audit import AuditEvent, bound_pod

#: Phases of a pod that no longer runs. Its address may be another pod's by then, though the object still holds it.
_ENDED = frozenset({"Succeeded", "Failed"})

#: Where the API server notes the id of a token it issued: the caller's credential id, later.
_ISSUED = "authentication.kubernetes.io/issued-credential-id"
_CHANGES = frozenset({"create", "update", "patch", "delete"})
#: Names under which pods ask for whole GPUs.
_GPUS = ("nvidia.com/gpu", "amd.com/gpu")

#: Images of one pod that are looked at: more containers than any pod of use has.
_MOST_IMAGES = 16

#: (kind of the subject, its name, kind of the target, its name); target "" ends what held.
Link = tuple[str, str, str, str]


class _Owner(msgspec.Struct):
    kind: str = ""
    name: str = ""
    controller: bool | None = None


class _Metadata(msgspec.Struct, rename="camel"):
    name: str = ""
    namespace: str = ""
    labels: dict[str, str] | None = None
    owner_references: list[_Owner] | None = None
    deletion_grace_period_seconds: float | None = None


class _Image(msgspec.Struct):
    image: str = ""


class _Spec(msgspec.Struct, rename="camel"):
    service_account_name: str | None = None
    containers: list[_Image] | None = None
    init_containers: list[_Image] | None = None
    host_network: bool | None = None


class _Ip(msgspec.Struct):
    ip: str = ""


class _Status(msgspec.Struct, rename={"host_ip": "hostIP", "pod_ip": "podIP", "pod_ips": "podIPs"}):
    phase: str | None = None
    host_ip: str | None = None
    pod_ip: str | None = None
    pod_ips: list[_Ip] | None = None


class Written(msgspec.Struct):
    """A pod or job as the API server answered with it."""

    kind: str = ""
    metadata: _Metadata = msgspec.field(default_factory=_Metadata)
    spec: _Spec = msgspec.field(default_factory=_Spec)
    status: _Status = msgspec.field(default_factory=_Status)

    @property
    def path(self) -> str:
        """Namespace and name."""
        return f"{self.metadata.namespace}/{self.metadata.name}"

    @property
    def images(self) -> list[str]:
        """Repositories of its containers' images, each once, without tag and digest: a new version is no new image."""
        spec = self.spec
        named = [_repository(each.image) for each in (*(spec.init_containers or ()), *(spec.containers or ()))]
        return list(dict.fromkeys(name for name in named if name))[:_MOST_IMAGES]


class _Resources(msgspec.Struct):
    limits: dict[str, str | int | float] | None = None


class _Container(msgspec.Struct):
    resources: _Resources | None = None


class _Template(msgspec.Struct):
    spec: _Wanted | None = None


class _Wanted(msgspec.Struct):
    """The spec of a pod or of a job."""

    containers: list[_Container] | None = None
    template: _Template | None = None
    parallelism: float | None = None


class _Request(msgspec.Struct):
    spec: _Wanted | None = None


_request = msgspec.json.Decoder(_Request).decode
read_written = msgspec.json.Decoder(Written).decode


def pod_links(pod: Written, subresource: str, creator: tuple[str, str] | None) -> Iterator[Link]:
    """What a written pod says. ``creator``: (kind, name) of a person who created it by hand, None for everybody else."""
    if pod.status.phase not in _ENDED:
        for address in _addresses(pod):
            yield "ip", address, "pod", pod.path
    elif subresource == "status":
        # The kubelet says that the pod has ended when it has; whoever writes later writes about an address long passed on.
        for address in _addresses(pod):
            yield "ip", address, "", ""
    account = pod.spec.service_account_name
    owner = _controller(pod.metadata)
    if account and account != "default":
        yield "pod", pod.path, "sa", f"{pod.metadata.namespace}/{account}"
    elif owner is not None:
        yield "pod", pod.path, *owner
    elif creator is not None:
        yield "pod", pod.path, *creator


def deleted_pod_links(pod: Written) -> Iterator[Link]:
    """What the answer to a pod's deletion says: nothing while its grace period runs."""
    if pod.metadata.deletion_grace_period_seconds:
        return
    if pod.status.phase not in _ENDED:
        for address in _addresses(pod):
            yield "ip", address, "", ""
    yield "pod", pod.path, "", ""


def job_link(job: Written | None, path: str, creator: tuple[str, str] | None) -> Iterator[Link]:
    """Who is behind a job just created: the CronJob or other workload that controls it, else who created it."""
    owner = _controller(job.metadata) if job is not None else None
    target = owner or creator
    if target is not None:
        yield "job", f"k8s/{path}", *target


def requested_gpus(request: bytes) -> float:
    """GPUs that a pod or job to be created asks for; NaN where the record does not have the request, or not in a readable form.

    >>> requested_gpus(b'{"spec":{"parallelism":2,"template":{"spec":{"containers":[{"resources":{"limits":{"amd.com/gpu":4}}}]}}}}')
    8.0
    """
    try:
        spec = _request(request).spec
    except (ValueError, RecursionError):
        return float("nan")
    times = 1.0
    if spec is not None and spec.template is not None:
        times = 1.0 if spec.parallelism is None else spec.parallelism
        spec = spec.template.spec
    if spec is None:
        return float("nan")
    limits = [container.resources.limits for container in spec.containers or () if container.resources and container.resources.limits]
    wanted = [str(limit[name]) for limit in limits for name in _GPUS if name in limit]
    # GPUs are asked for in whole numbers; a request in any other form is refused by the API server.
    if not all(amount.isascii() and amount.isdigit() and len(amount) <= 6 for amount in wanted) or not 0 <= times < 1e6:
        return float("nan")
    return times * sum(map(float, wanted))


def _repository(image: str) -> str:
    """An image's repository.

    >>> [_repository(image) for image in ("r.example:5000/a/b:v1", "r.example:5000/a/b@sha256:9b", "busybox", "a/b:v1@sha256:9b")]
    ['r.example:5000/a/b', 'r.example:5000/a/b', 'busybox', 'a/b']
    """
    place, slash, name = image.partition("@")[0].rpartition("/")
    return f"{place}{slash}{name.partition(':')[0]}"


def runs_as(pod: Written, actor: str) -> tuple[str, str]:
    """(kind, name) of whom a pod's work is done as: its service account, else its controller, else who created it."""
    account = pod.spec.service_account_name
    if account and account != "default":
        return "sa", f"{pod.metadata.namespace}/{account}"
    kind, _, name = actor.partition(":")
    return _controller(pod.metadata) or (kind, name)


def _addresses(pod: Written) -> list[str]:
    """The pod's own addresses: none where it uses its node's."""
    status = pod.status
    if pod.spec.host_network:
        return []
    found = [status.pod_ip or "", *(item.ip for item in status.pod_ips or ())]
    return [address for address in dict.fromkeys(found) if address and address != status.host_ip]


def _controller(metadata: _Metadata) -> tuple[str, str] | None:
    """(kind, name) of the identity of the controller; a ReplicaSet of a Deployment is the Deployment, which outlives it."""
    for owner in metadata.owner_references or ():
        if not (owner.controller and owner.kind and owner.name):
            continue
        if owner.kind == "Job":
            return "job", f"k8s/{metadata.namespace}/{owner.name}"
        revision = (metadata.labels or {}).get("pod-template-hash")
        if owner.kind == "ReplicaSet" and revision and owner.name.endswith(f"-{revision}"):
            return "workload", f"{metadata.namespace}/Deployment/{owner.name.removesuffix(f'-{revision}')}"
        return "workload", f"{metadata.namespace}/{owner.kind}/{owner.name}"
    return None


def starts_pods(event: AuditEvent) -> bool:
    """Whether a pod or job is to be created."""
    ref = event.object_ref
    return ref is not None and event.verb == "create" and not ref.subresource and ref.resource in ("pods", "jobs")


def written_in(event: AuditEvent) -> Written | None:
    """The pod or job a change was answered with, where the audit level has it."""
    ref = event.object_ref
    if ref is None or ref.resource not in ("pods", "jobs") or event.verb not in _CHANGES or not event.effective:
        return None
    if bytes(event.response_object)[:1] != b"{":
        return None
    written = read_written(event.response_object)
    # An eviction is answered with a Status, and names can be missing only in an answer that is no object.
    return written if written.kind in ("Pod", "Job") and written.metadata.name and written.metadata.namespace else None


def links(event: AuditEvent, written: Written | None, actor: str) -> Iterable[Link]:
    """What a request says about who is behind an identity."""
    pod = bound_pod(event)
    account = (event.user.username or "").rpartition(":")[2]
    if pod and account != "default":
        yield "pod", pod, "sa", f"{pod.partition('/')[0]}/{account}"
    ref = event.object_ref
    if ref is None or not event.effective:
        return
    path = f"{ref.namespace}/{ref.name}"
    issued = (event.annotations or {}).get(_ISSUED)
    if issued and (ref.resource, ref.subresource) == ("serviceaccounts", "token"):
        yield "token", issued.removeprefix("JTI="), "sa", path
    creator = _person(actor) if event.verb == "create" and not ref.subresource else None
    if ref.resource == "pods" and event.verb == "delete":
        if written is not None:
            yield from deleted_pod_links(written)
        elif actor.startswith("node:") and ref.name:
            yield "pod", path, "", ""  # the kubelet deletes a pod when it is gone
    elif ref.resource == "pods" and written is not None:
        yield from pod_links(written, ref.subresource, creator)
    elif ref.resource == "jobs" and event.verb == "create" and not ref.subresource and (written is not None or ref.name):
        yield from job_link(written, written.path if written is not None else path, creator)


def _person(actor: str) -> tuple[str, str] | None:
    """(kind, name) of an actor who makes pods and jobs in their own name: no part of Kubernetes itself, no bare address."""
    kind, _, name = actor.partition(":")
    if (kind == "user" and not name.startswith("system:")) or (kind == "sa" and not name.startswith("kube-system/")):
        return kind, name
    return None
