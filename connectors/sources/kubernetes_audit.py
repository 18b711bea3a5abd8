"""Kubernetes audit (``audit.k8s.io/v1``): one act a finished request.

Read: a line of the log backend, a line wrapped as text by a shipper (Filebeat's ``message``, Fluent Bit's ``log``), and the webhook
backend's ``EventList``. A request shows up to four times; it counts when it is over (``ResponseComplete``, or ``Panic``). A failed
authentication never gets that far: it counts at ``ResponseStarted``, where it has code 401 and no user. Other stages are skipped.

============  ==========================================================================================================
time          ``stageTimestamp``
actor         the user, or whom they act as (``impersonatedUser``): ``sa``, ``node`` or ``user``; without one, or anonymous, the ``ip``
object        what it is about, see ``_OBJECTS``; ``ns:<namespace>`` or ``ns:*`` for a request without a name (list, watch, create
              with generated name); ``resource:/<first segment>`` for paths that are no resource
via           who impersonates; else the credential (``token:<JTI>``); else the pod the token is bound to; else the peer's ``ip``
action        see ``_action``
outcome       by the code: below 400 ok, 401 and 403 denied, others failed
detail        ``<resource>[/<subresource>]``, ``nonresource``
gpus          asked for by a pod or job that is created, where the audit level has the request
============  ==========================================================================================================

Further rows of the same record: the impersonator at whom they impersonate (action use, detail ``impersonation``), and where the
authenticated user was seen (action use, detail ``kubernetes``): the last of ``sourceIPs``, which is the peer and cannot be forged, and
the first where it is another, which is the client if the proxies are honest.

Where a pod is created and the answer has it: whom the pod works as at each of its images (object ``resource:image/<repository>``
without its tag, action start, stream job, detail ``image``, via the pod).

Bindings: ip -> pod -> service account or workload, from pods written (level RequestResponse); pod -> service account from bound tokens;
job -> who made it; token -> service account from token requests.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import msgspec

from connectors.event import Action, Binding, Outcome, Row, Stream
from connectors.names import Names
from connectors.sources import Decoded
from connectors.sources._acts import Act, Words, decode_acts
from connectors.sources._audit import AuditEvent, Ref, User, audit_events, bound_pod, credential, read_event
from connectors.sources._pods import Written, links, requested_gpus, runs_as, starts_pods, written_in
from connectors.sources._records import BadRecord, iso_time

_GROUP = "audit.k8s.io/"
#: Stages of a request before its end. Counted by name when skipped.
_STAGES = frozenset({"RequestReceived", "ResponseStarted"})
#: First segments of the paths an API server serves beside its resources; any other is "other", so that nobody makes up objects.
_PATHS = frozenset("api apis healthz livez readyz metrics version openapi logs debug flagz statusz configz .well-known".split())  # noqa: SIM905
#: Resources with an identity of their own kind: (kind, form of the name). Others are ``resource:<resource>/[<namespace>/]<name>``.
_OBJECTS = {
    "pods": ("pod", "{path}"),
    "secrets": ("secret", "{path}"),
    "serviceaccounts": ("sa", "{path}"),
    "jobs": ("job", "k8s/{path}"),
    "nodes": ("node", "{name}"),
    "namespaces": ("ns", "{name}"),
    **dict.fromkeys(("roles", "rolebindings", "clusterroles", "clusterrolebindings"), ("role", "{path}")),
}
_RBAC = frozenset({"roles", "rolebindings", "clusterroles", "clusterrolebindings"})
_VERBS = {
    "get": Action.read,
    "list": Action.list,
    "watch": Action.list,
    "create": Action.create,
    "update": Action.update,
    "patch": Action.update,
    "delete": Action.delete,
    "deletecollection": Action.delete,
}
_JOBS = frozenset({"jobs", "cronjobs"})
#: Requests that mean something else than their verb says: exec comes as get (WebSocket) or create (SPDY).
_SPECIAL = {
    ("pods", "exec"): Action.exec,
    ("pods", "attach"): Action.exec,
    ("pods", "portforward"): Action.connect,
    ("pods", "proxy"): Action.connect,
    ("services", "proxy"): Action.connect,
    ("nodes", "proxy"): Action.connect,
    ("pods", "eviction"): Action.delete,
    ("serviceaccounts", "token"): Action.issue,
    ("certificatesigningrequests", "approval"): Action.admin,
}
#: Verbs of requests for paths are the methods of HTTP.
_PATH_VERBS = {"get": Action.read, "head": Action.read, "post": Action.create, "put": Action.update}
_ANONYMOUS = "system:anonymous"


_any = msgspec.json.Decoder().decode


class KubernetesAudit:
    """Kubernetes audit events. See the module."""

    title: ClassVar[str] = "Kubernetes audit log: lines, lines wrapped by a shipper, or the webhook's EventList"
    feeds: ClassVar[frozenset[str]] = frozenset({"who-to-whom", "rate", "outcome", "reads", "gpus", "bindings"})
    limits: ClassVar[str] = (
        "exec, attach and watch are reported when they end; who is behind a pod's address is known only where the audit policy records "
        "pods and pods/status at level RequestResponse, as are the pod's images; GPUs from level Request; no bytes; an EventList of "
        "over 1 MiB is refused: lower the webhook's batch size; the first of several sourceIPs is the client's word"
    )
    times: ClassVar[dict[str, int]] = {
        "stageTimestamp": 1,
        "requestReceivedTimestamp": 1,
        "items.stageTimestamp": 1,
        "items.requestReceivedTimestamp": 1,
    }
    example: ClassVar[str] = (
        '{"kind":"Event","apiVersion":"audit.k8s.io/v1","level":"Metadata","auditID":"f6217498","stage":"ResponseComplete","requestURI":'
        '"/api/v1/namespaces/team-a/secrets/model-registry-cred","verb":"get","user":{"username":"system:serviceaccount:team-a:trainer",'
        '"extra":{"authentication.kubernetes.io/credential-id":["JTI=b176310c"]}},"sourceIPs":["10.20.0.7"],"objectRef":{"resource":"secrets",'
        '"namespace":"team-a","name":"model-registry-cred","apiVersion":"v1"},"responseStatus":{"metadata":{},"code":200},'
        '"requestReceivedTimestamp":"2026-11-21T02:18:02.831321Z","stageTimestamp":"2026-11-21T02:18:02.833139Z"}'
    )

    def __init__(self, names: Names) -> None:
        self._words = Words(names)

    @classmethod
    def recognises(cls, record: dict[str, Any]) -> bool:
        """Whether this is an audit event or a list of them, plain or wrapped as text."""
        text = record.get("message", record.get("log"))
        if isinstance(text, str) and "auditID" not in record:
            try:
                record = _any(text)
            except (ValueError, RecursionError):
                return False
        if not isinstance(record, dict):
            return False
        items = record.get("items")
        if isinstance(items, list) and record.get("kind") == "EventList":
            return str(record.get("apiVersion")).startswith(_GROUP)
        return "auditID" in record and "stage" in record

    def decode(self, records: Sequence[bytes]) -> Decoded:
        """Decode a batch. Reasons: ``missing``, ``wrong-type``, ``bad-time``, ``time-out-of-range`` and ``bad-identity`` with the
        field, ``malformed-json``, ``too-long``, ``empty``, ``unsupported-format``."""
        return decode_acts(self._words.names, "kubernetes_audit", records, audit_events, self._read)

    def _read(self, index: int, raw: bytes) -> Act | str:
        event = read_event(raw)
        # A failed authentication has no later stage; a long-running request that a backend answers with 401 has a user, and ends.
        if event.stage in _STAGES and not (event.stage == "ResponseStarted" and event.code == 401 and not event.user.username):
            return event.stage
        if event.stage not in _STAGES and event.stage not in ("ResponseComplete", "Panic"):
            return "other"
        seen_at = event.source_ips or []
        addresses = dict.fromkeys(self._words.address(text, "sourceIPs") for text in seen_at[-1:] + seen_at[:1])
        return self._act(index, event, [address for address in addresses if address >= 0])

    def _act(self, index: int, event: AuditEvent, addresses: list[int]) -> Act:
        """``addresses``: codes, the peer first."""
        words = self._words
        peer = addresses[0] if addresses else -1
        user = self._account(event.user, "user.username")
        acts_as = self._account(event.impersonated_user, "impersonatedUser.username")
        impersonates = user >= 0 and acts_as >= 0
        actor = next((code for code in (acts_as, user, peer) if code >= 0), -1)
        written = written_in(event)
        kind, name = _object(event, written)
        row = Row(
            record=index,
            time=iso_time(event.stage_timestamp, "stageTimestamp"),
            stream=Stream.auth,
            action=_action(event.object_ref, event.verb),
            outcome=_outcome(event.code),
            actor=actor if actor >= 0 else words.identity("user", _ANONYMOUS, "user.username"),
            object=words.identity(kind, name, "objectRef"),
            detail=words.detail(_detail(event.object_ref)),
            gpus=requested_gpus(event.request_object) if starts_pods(event) else float("nan"),
            uid=event.audit_id,
        )
        carrier = self._via(event, peer if peer != actor else -1)
        row.via = user if impersonates else carrier
        rows = [row]
        if impersonates:
            rows.append(words.use(row, user, acts_as, carrier, "impersonation"))
        if user >= 0:
            rows += [words.use(row, user, address, carrier, "kubernetes") for address in addresses]
        if written is not None and written.kind == "Pod" and starts_pods(event):
            rows += self._images(row, written)
        return Act(rows, self._bindings(index, row, event, written))

    def _images(self, row: Row, pod: Written) -> list[Row]:
        """Whom a new pod works as, at each of its images."""
        words = self._words
        kind, name = runs_as(pod, words.text(row.actor))
        return [
            Row(
                record=row.record,
                time=row.time,
                stream=Stream.job,
                action=Action.start,
                outcome=row.outcome,
                actor=words.identity(kind, name, "responseObject"),
                object=self._image(image),
                via=words.identity("pod", pod.path, "responseObject"),
                detail=words.detail("image"),
                uid=row.uid,
            )
            for image in pod.images
        ]

    def _image(self, image: str) -> int:
        """The code of an image; of one whose name is no name, a common one, so that it cannot hide the pod it is in."""
        try:
            return self._words.identity("resource", f"image/{image}", "responseObject.spec")
        except BadRecord:
            return self._words.identity("resource", "image/other", "responseObject.spec")

    def _account(self, user: User | None, field: str) -> int:
        """The code of an authenticated user; -1 for nobody."""
        if user is None or not user.username or user.username == _ANONYMOUS:
            return -1
        return self._words.account(user.username, field)

    def _via(self, event: AuditEvent, peer: int) -> int:
        """The credential that carried a request, else the pod it is bound to, else the address."""
        token, pod = credential(event), bound_pod(event)
        if token:
            return self._words.identity("token", token, "user.extra")
        return self._words.identity("pod", pod, "user.extra") if pod else peer

    def _bindings(self, index: int, row: Row, event: AuditEvent, written: Written | None) -> list[Binding]:
        def identity(kind: str, name: str) -> str:
            return self._words.text(self._words.identity(kind, name, "responseObject"))

        said = links(event, written, self._words.text(row.actor))
        return [
            Binding(index, row.time, identity(kind, name), identity(to_kind, to_name) if to_kind else None)
            for kind, name, to_kind, to_name in said
        ]


def _action(ref: Ref | None, verb: str) -> Action:
    """What a request does: by its subresource, then by its resource, then by its verb."""
    plain = _VERBS.get(verb, Action.unknown)
    if ref is None:
        return _PATH_VERBS.get(verb, plain)
    if (ref.resource, ref.subresource) in _SPECIAL:
        return _SPECIAL[ref.resource, ref.subresource]
    if plain in (Action.read, Action.list):
        return plain
    if ref.resource in _RBAC:
        return Action.admin
    if plain is Action.create and ref.subresource:
        return Action.update
    return Action.submit if plain is Action.create and ref.resource in _JOBS else plain


def _outcome(code: int) -> Outcome:
    if code in (401, 403):
        return Outcome.denied
    if code == 0:
        return Outcome.unknown
    return Outcome.ok if code < 400 else Outcome.failed


def _detail(ref: Ref | None) -> str:
    if ref is None:
        return "nonresource"
    return f"{ref.resource}/{ref.subresource}" if ref.subresource else ref.resource


def _object(event: AuditEvent, written: Written | None) -> tuple[str, str]:
    """(kind, name) of what a request is about."""
    ref = event.object_ref
    if ref is None:
        segment = event.request_uri.partition("?")[0].strip("/").partition("/")[0]
        return "resource", f"/{segment if segment in _PATHS or not segment else 'other'}"
    name = ref.name or (written.metadata.name if written is not None else "")
    if not name:
        return "ns", ref.namespace or "*"
    path = f"{ref.namespace}/{name}" if ref.namespace else name
    kind, form = _OBJECTS.get(ref.resource, ("resource", "{resource}/{path}"))
    return kind, form.format(path=path, name=name, resource=ref.resource)


SOURCE = KubernetesAudit
