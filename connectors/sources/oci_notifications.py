"""Notifications of an OCI registry (CNCF Distribution 2.8 and 3): one act for each event of the envelope ``{"events": [...]}``.

============  ==========================================================================================================
time          ``timestamp``
actor         ``user`` of ``actor.name`` (a Kubernetes account is an ``sa``), or the client's ``ip`` where nobody logged in
object        ``model:<request.host>/<target.repository>``
via           the client's ``ip``
action        pull, push, delete; a ``pull`` by HEAD is a look, not a read: list; a mount is a push into one repository and a read of
              the other
bytes         pull: ``bytes_in`` = size of the object, push: ``bytes_out``; HEAD and mount move none: 0. Sizes of what a manifest
              refers to are not added: those blobs are pulled on their own
detail        manifest, index, config, blob, tag or mount
============  ==========================================================================================================

Where both user and address are known a second row says that the user was seen there (stream auth, action use, detail ``registry``).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import msgspec

from connectors.event import Action, Basis, Outcome, Row, Stream
from connectors.names import Names
from connectors.sources import Decoded
from connectors.sources._acts import Act, Words, decode_acts, quantity, raw_parts, required
from connectors.sources._records import iso_time

_ACTIONS = {"pull": Action.pull, "push": Action.push, "mount": Action.push, "delete": Action.delete}


class _Envelope(msgspec.Struct):
    events: list[msgspec.Raw] | None = None


class _Target(msgspec.Struct, rename="camel"):
    repository: str
    media_type: str | None = None
    size: float | None = None
    url: str | None = None
    digest: str | None = None
    tag: str | None = None
    from_repository: str | None = None


class _Request(msgspec.Struct):
    addr: str | None = None
    host: str | None = None
    method: str | None = None


class _Actor(msgspec.Struct):
    name: str | None = None


class _Source(msgspec.Struct):
    addr: str | None = None


class _Event(msgspec.Struct):
    timestamp: str
    action: str
    target: _Target
    id: str | None = None
    request: _Request | None = None
    actor: _Actor | None = None
    source: _Source | None = None


_envelope = msgspec.json.Decoder(_Envelope).decode
_event = msgspec.json.Decoder(_Event).decode


class OciNotifications:
    """Registry notifications. See the module."""

    title: ClassVar[str] = "OCI registry notifications (CNCF Distribution): pulls, pushes, mounts and deletions of models and images"
    feeds: ClassVar[frozenset[str]] = frozenset({"who-to-whom", "rate", "bytes", "reads"})
    limits: ClassVar[str] = (
        "only what succeeded is notified, so no outcome; a ranged GET reports the whole size each time, a cached one (304) nothing; "
        "deleting a manifest with a tag gives two events; order is not kept; request.host and a forwarded request.addr are the "
        "client's word, and behind a proxy the address is the proxy's; no token is named"
    )
    times: ClassVar[dict[str, int]] = {"timestamp": 1, "events.timestamp": 1}
    example: ClassVar[str] = (
        '{"events":[{"id":"b1","timestamp":"2026-11-20T22:47:28.306235198Z","action":"pull","target":{"mediaType":"application/octet-stream",'
        '"size":7000,"digest":"sha256:9bdd","length":7000,"repository":"models/llama-ft","url":"http://registry.example/v2/models/llama-ft/'
        'blobs/sha256:9bdd"},"request":{"id":"r1","addr":"10.20.0.7:56800","host":"registry.example","method":"GET","useragent":"oras/1.2.0"},'
        '"actor":{"name":"svc-train"},"source":{"addr":"vm:5000","instanceID":"206b"}}]}'
    )

    def __init__(self, names: Names) -> None:
        self._words = Words(names)

    @classmethod
    def recognises(cls, record: dict[str, Any]) -> bool:
        """Whether this is an envelope of registry events, or one such event."""
        events = record.get("events")
        event = events[0] if isinstance(events, list) and events else record
        target = event.get("target") if isinstance(event, dict) else None
        return isinstance(target, dict) and "repository" in target and "action" in event

    def decode(self, records: Sequence[bytes]) -> Decoded:
        """Decode a batch. Reasons: ``missing``, ``wrong-type``, ``bad-time``, ``time-out-of-range``, ``bad-identity``, ``negative``
        and ``out-of-range`` with the field, ``malformed-json``, ``too-long``, ``empty``, ``unsupported-format``."""
        return decode_acts(self._words.names, "oci_notifications", records, _events, self._read)

    def _read(self, index: int, raw: bytes) -> Act | str:
        event = _event(raw)
        if event.action not in _ACTIONS:
            return "other"
        request = event.request or _Request()
        target = event.target
        address = self._words.address(request.addr, "request.addr")
        actor = self._words.account(event.actor.name, "actor.name") if event.actor and event.actor.name else address
        if actor < 0:
            required(None, "actor.name")
        row = Row(
            record=index,
            time=iso_time(event.timestamp, "timestamp"),
            stream=Stream.registry,
            action=_ACTIONS[event.action],
            outcome=Outcome.ok,
            actor=actor,
            object=self._model(event, target.repository, "target.repository"),
            via=address if address != actor else -1,
            detail=self._words.detail(_media_class(event)),
            uid=event.id or "",
        )
        _count_bytes(row, event.action, request.method, quantity(target.size, "target.size"))
        rows = [row]
        if event.action == "mount" and target.from_repository:
            other = self._model(event, target.from_repository, "target.fromRepository")
            rows.append(msgspec.structs.replace(row, action=Action.read, object=other, bytes_in=0.0, bytes_out=float("nan")))
        if actor != address and address >= 0:
            rows.append(self._words.use(row, actor, address, -1, "registry"))
        return Act(rows, [])

    def _model(self, event: _Event, repository: str, field: str) -> int:
        # A request may lack a host (HTTP 1.0 allows it); it must not make the event vanish.
        host = (event.request and event.request.host) or (event.source and event.source.addr) or "registry"
        return self._words.identity("model", f"{host.lower()}/{required(repository, field)}", field)


def _events(record: bytes) -> Sequence[bytes]:
    events = _envelope(record).events
    return (record,) if events is None else raw_parts(events)


def _count_bytes(row: Row, action: str, method: str | None, size: float) -> None:
    """Set action and bytes of a row by what was moved."""
    if action == "delete":
        return
    row.bytes_basis = Basis.object
    if action == "pull" and method == "HEAD":
        row.action = Action.list
        row.bytes_in = 0.0
    elif action == "pull":
        row.bytes_in = size
    else:
        row.bytes_out = size if action == "push" else 0.0


def _media_class(event: _Event) -> str:
    """What kind of thing it is about; "" where a deletion does not say."""
    target = event.target
    media = target.media_type or ""
    if event.action == "mount":
        return "mount"
    if "manifest.list" in media or "image.index" in media:
        return "index"
    if "manifest" in media:
        return "manifest"
    if "config" in media or "container.image.v1" in media:
        return "config"
    if media or (target.url and "/blobs/" in target.url):
        return "blob"
    return "tag" if target.tag and not target.digest else ""


SOURCE = OciNotifications
