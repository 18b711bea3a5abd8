"""Kubernetes audit events as typed records: the fields read of them, and how records hold them."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from connectors.sources._acts import raw_parts

_NOTHING = msgspec.Raw(b"null")
#: Where the API server notes the id of the caller's credential, and the pod a service account's token is bound to.
_CREDENTIAL = "authentication.kubernetes.io/credential-id"
_POD = "authentication.kubernetes.io/pod-name"


class _Envelope(msgspec.Struct):
    items: list[msgspec.Raw] | None = None
    stage: str | None = None
    message: str | None = None
    log: str | None = None


class User(msgspec.Struct):
    """Who is authenticated, or impersonated."""

    username: str | None = None
    extra: dict[str, list[str]] | None = None


class Ref(msgspec.Struct):
    """What a request is about."""

    resource: str
    namespace: str = ""
    name: str = ""
    subresource: str = ""


class _Response(msgspec.Struct):
    code: int = 0


class AuditEvent(
    msgspec.Struct,
    rename={
        "audit_id": "auditID",
        "stage_timestamp": "stageTimestamp",
        "impersonated_user": "impersonatedUser",
        "source_ips": "sourceIPs",
        "object_ref": "objectRef",
        "response_status": "responseStatus",
        "request_uri": "requestURI",
        "request_object": "requestObject",
        "response_object": "responseObject",
    },
):
    """One stage of one request. Objects stay raw: they are read only where they say who is behind an identity."""

    audit_id: str
    stage: str
    stage_timestamp: str
    verb: str
    user: User
    impersonated_user: User | None = None
    source_ips: list[str] | None = None
    object_ref: Ref | None = None
    response_status: _Response | None = None
    request_uri: str = ""
    request_object: msgspec.Raw = _NOTHING
    response_object: msgspec.Raw = _NOTHING
    annotations: dict[str, str] | None = None

    @property
    def code(self) -> int:
        """HTTP status; 0 where there is none."""
        return self.response_status.code if self.response_status is not None else 0

    @property
    def effective(self) -> bool:
        """Whether it changed what it was about, as far as it is a change."""
        return self.code < 400 and self.stage != "Panic" and "dryRun=" not in self.request_uri


_envelope = msgspec.json.Decoder(_Envelope).decode
read_event = msgspec.json.Decoder(AuditEvent).decode


def credential(event: AuditEvent) -> str:
    """The id of the caller's credential (``JTI=`` of a token is left out), or ""."""
    for name in (event.user.extra or {}).get(_CREDENTIAL, ())[:1]:
        return name.removeprefix("JTI=")
    return ""


def bound_pod(event: AuditEvent) -> str:
    """Namespace and name of the pod the caller's token is bound to, or ""."""
    names = (event.user.extra or {}).get(_POD, ())
    namespace, _, account = (event.user.username or "").removeprefix("system:serviceaccount:").partition(":")
    return f"{namespace}/{names[0]}" if names and account else ""


def audit_events(record: bytes) -> Sequence[bytes]:
    """The events in a record: a list's items, or the one it is, unwrapped. Raises what ``explain`` explains."""
    envelope = _envelope(record)
    text = envelope.message or envelope.log
    if text and envelope.stage is None:
        record = text.encode()
        envelope = _envelope(record)
    return (record,) if envelope.items is None else raw_parts(envelope.items)
