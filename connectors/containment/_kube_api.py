"""The Kubernetes API as the adapter uses it: the few fields of the few objects, and calls that name the instance they mean."""

from __future__ import annotations

import re
from typing import Any, TypeVar
from urllib.parse import quote

import msgspec

from connectors.containment import Action, Undone, Verified
from connectors.containment._doing import error_body, gone, kept, shaped
from connectors.containment._http import CallFailed, Http, Reply, Secret

#: The label (on pods), the taint (on nodes) and the prefix of our annotations. The deny policy and the admission policy name them too.
QUARANTINE = "tocsin.io/quarantine"
#: Annotation of what this adapter stopped: the mark of the action.
STOPPED_BY = "tocsin.io/stopped-by"
#: A read and a write between which somebody else wrote are done again at once, at most so often in all (the contract's exception).
ATTEMPTS = 3
#: Names of Kubernetes objects: DNS-1123 subdomains.
_NAME = re.compile(r"[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?")

T = TypeVar("T")


class Camel(msgspec.Struct, rename="camel", kw_only=True, frozen=True):
    """A piece of an object; fields that are not named are left alone, for every write is a patch."""


class Owner(Camel, frozen=True):
    """Who an object belongs to."""

    kind: str = ""
    name: str = ""
    uid: str = ""


class Metadata(Camel, frozen=True):
    """What every object has. ``resourceVersion`` changes with every write, ``uid`` never; the next of the same name has another."""

    name: str
    uid: str
    resource_version: str = ""
    namespace: str = ""
    labels: dict[str, str] = {}
    annotations: dict[str, str] = {}
    deletion_timestamp: str | None = None
    owner_references: list[Owner] = []


class Taint(Camel, omit_defaults=True, frozen=True):
    """A taint as it stands in a node, so that those of others go back as they came."""

    key: str
    effect: str
    value: str | None = None
    time_added: str | None = None


class Toleration(Camel, frozen=True):
    """What a pod bears."""

    key: str = ""
    operator: str = "Equal"
    value: str = ""
    effect: str = ""

    def bears(self, taint: Taint) -> bool:
        """Whether a pod with this stays (for a while at least) on a node with that taint."""
        if self.effect not in ("", taint.effect) or self.key not in ("", taint.key):
            return False
        return self.operator == "Exists" or (bool(self.key) and self.value == (taint.value or ""))


class PodSpec(Camel, frozen=True):
    """Of a pod."""

    node_name: str = ""
    host_network: bool = False
    tolerations: list[Toleration] = []


class Status(Camel, frozen=True):
    """Of a pod or a job."""

    phase: str = ""
    active: int = 0
    terminating: int = 0
    conditions: list[dict[str, Any]] = []

    def is_true(self, condition: str) -> bool:
        """Whether a condition holds."""
        return any(one.get("type") == condition and one.get("status") == "True" for one in self.conditions)


class Pod(Camel, frozen=True):
    """A pod."""

    metadata: Metadata
    spec: PodSpec = PodSpec()
    status: Status = Status()


class NodeSpec(Camel, frozen=True):
    """Of a node."""

    unschedulable: bool = False
    taints: list[Taint] = []


class Node(Camel, frozen=True):
    """A node."""

    metadata: Metadata
    spec: NodeSpec = NodeSpec()


class JobSpec(Camel, frozen=True):
    """Of a job."""

    suspend: bool = False


class Job(Camel, frozen=True):
    """A job."""

    metadata: Metadata
    spec: JobSpec = JobSpec()
    status: Status = Status()


class WorkloadSpec(Camel, frozen=True):
    """Of a Kueue workload."""

    active: bool = True


class Workload(Camel, frozen=True):
    """A Kueue workload."""

    metadata: Metadata
    spec: WorkloadSpec = WorkloadSpec()
    status: Status = Status()


class Object(Camel, frozen=True):
    """Anything of which only the metadata matter."""

    metadata: Metadata


class _Group(Camel, frozen=True):
    """A group of the API."""

    name: str


class _Groups(Camel, frozen=True):
    """Every group that is served."""

    kind: str = ""
    groups: list[_Group] = []


class Api:
    """One API server. Raises CallFailed as ``Http`` does; a thing that is not there is None."""

    def __init__(self, http: Http, token: Secret) -> None:
        self._http = http
        self._token = token

    def find(self, path: str, form: type[T]) -> T | None:
        """One object, None where it is not there."""
        reply = self._call("GET", path, expect=(404,))
        return None if reply.status == 404 else shaped(reply.json(), form)

    def find_extra(self, path: str, form: type[T]) -> T | None:
        """One object of a group that a cluster may lack: where it does, the object is not there."""
        try:
            return self.find(path, form)
        except CallFailed as error:
            if error.status != 404 or self._serves(path):
                raise
            return None

    def find_metadata(self, path: str, form: type[T]) -> T | None:
        """One object without what is in it: the data of a Secret never come here."""
        accept = {"Accept": "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1"}
        reply = self._call("GET", path, headers=accept, expect=(404,))
        return None if reply.status == 404 else shaped(reply.json(), form)

    def items(self, path: str, form: type[T], **query: str) -> list[T]:
        """A list of objects."""
        data = shaped(self._call("GET", path, query=query).json(), dict[str, Any])
        # An empty Go slice may be null.
        return shaped(data.get("items") or [], list[form])  # type: ignore[valid-type]

    def items_extra(self, path: str, form: type[T]) -> list[T]:
        """A list of objects of a group that a cluster may lack."""
        try:
            return self.items(path, form)
        except CallFailed as error:
            if error.status != 404 or self._serves(path):
                raise
            return []

    def patch(self, path: str, seen: Metadata, body: dict[str, Any]) -> None:
        """A merge patch of the very object that was seen, as it was seen. Another uid is refused, a newer version a conflict."""
        ours = body.get("metadata", {})
        body["metadata"] = {"uid": seen.uid, "resourceVersion": seen.resource_version, **ours}
        self._call("PATCH", path, headers={"Content-Type": "application/merge-patch+json"}, json=body)

    def post(self, path: str, body: dict[str, Any]) -> None:
        """Create something."""
        self._call("POST", path, json=body)

    def delete(self, path: str, uid: str) -> None:
        """Delete the instance of that uid. Raises CallFailed: gone (404), or conflict (409) where another has its name."""
        body = {"apiVersion": "v1", "kind": "DeleteOptions", "preconditions": {"uid": uid}}
        self._call("DELETE", path, json=body)

    def _call(self, method: str, path: str, *, headers: dict[str, str] | None = None, **given: Any) -> Reply:
        ours = {"Authorization": f"Bearer {self._token.read()}", "Accept": "application/json"}
        return self._http.call(method, path, headers={**ours, **(headers or {})}, gone=_is_gone, **given)

    def _serves(self, path: str) -> bool:
        """Whether the API server knows the group of a path: of one it does not know it says what any server says of anything."""
        found = shaped(self._call("GET", "/apis").json(), _Groups)
        if found.kind != "APIGroupList":
            raise CallFailed("down", "the answer is no list of API groups", sent=True)
        return path.split("/")[2] in {group.name for group in found.groups}


def name_of(target: str, prefix: str = "") -> str:
    """The name of a cluster-wide thing. Raises CallFailed (gone) on what cannot be one: it is never put into a path."""
    name = target.partition(":")[2]
    if not name.startswith(prefix) or not _NAME.fullmatch(name.removeprefix(prefix)):
        raise gone(target)
    return quote(name.removeprefix(prefix), safe="")


def place_of(target: str, prefix: str = "") -> tuple[str, str]:
    """Namespace and name. Raises CallFailed (gone) as ``name_of``."""
    name = target.partition(":")[2]
    namespace, _, own = name.removeprefix(prefix).partition("/")
    if not name.startswith(prefix) or not _NAME.fullmatch(namespace) or not _NAME.fullmatch(own):
        raise gone(target)
    return quote(namespace, safe=""), quote(own, safe="")


def _is_gone(reply: Reply) -> bool:
    """Whether a 404 is the API server's word on the thing asked for."""
    body = error_body(reply)
    return body.get("kind") == "Status" and body.get("reason") == "NotFound"


def meant(found: Metadata | None, action: Action) -> bool:
    """Whether this is the instance that ``prepare`` saw, or there was no ``prepare``."""
    return found is not None and kept(action).get("uid", found.uid) == found.uid


def once_more(error: CallFailed, attempt: int) -> None:
    """Lets a lost race be run again, and raises anything else."""
    if error.trouble.kind != "conflict" or attempt + 1 >= ATTEMPTS:
        raise error


NOTHING_LEFT = Undone("already", "nothing of ours is left")
NOTHING_TO_SEE = Verified("verified", "nothing of this action is left")
