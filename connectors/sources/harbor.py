"""Harbor's webhooks, in both payload formats (Default and CloudEvents): one row for each artifact of an event.

============  ==========================================================================================================
time          ``occur_at`` (whole seconds), or ``time``
actor         ``user`` of ``operator``; a robot is a user of the name Harbor gives it, ``robot$project+name``, as it is in Harbor's own
              audit log; nobody is ``user:anonymous``, as there
object        ``model:<host>/<repository>``: host of ``resource_url``, ``repository.repo_full_name``
action        pull, push, delete
detail        manifest: Harbor reports artifacts, not their blobs
============  ==========================================================================================================

Other event types (scans, quotas, replication, retention, tags) are skipped and counted.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import msgspec

from connectors.event import Action, Outcome, Row, Stream
from connectors.names import Names
from connectors.sources import Decoded
from connectors.sources._acts import Act, Words, decode_acts, one, required
from connectors.sources._records import epoch_time, iso_time

_ACTIONS = {
    "PULL_ARTIFACT": Action.pull,
    "PUSH_ARTIFACT": Action.push,
    "DELETE_ARTIFACT": Action.delete,
    "harbor.artifact.pulled": Action.pull,
    "harbor.artifact.pushed": Action.push,
    "harbor.artifact.deleted": Action.delete,
}
#: Harbor's other types. Counted by name when skipped; any other name counts as "other", so that a sender cannot make up counters.
_SKIPPED = frozenset(
    """SCANNING_COMPLETED SCANNING_FAILED SCANNING_STOPPED QUOTA_EXCEED QUOTA_WARNING REPLICATION TAG_RETENTION CREATE_TAG DELETE_TAG
    harbor.scan.completed harbor.scan.failed harbor.scan.stopped harbor.quota.exceeded harbor.quota.warned
    harbor.replication.status.changed harbor.tag_retention.finished harbor.tag.created""".split()  # noqa: SIM905 - reads better
)


class _Resource(msgspec.Struct):
    resource_url: str | None = None


class _Repository(msgspec.Struct):
    repo_full_name: str


class _Data(msgspec.Struct):
    repository: _Repository
    resources: list[_Resource] | None = None


class _Type(msgspec.Struct):
    type: str
    #: One of them tells a Harbor event from everything else that has a type.
    occur_at: float | None = None
    specversion: str | None = None


class _Default(msgspec.Struct):
    occur_at: float
    event_data: _Data
    operator: str | None = None


class _CloudEvent(msgspec.Struct):
    time: str
    data: _Data
    operator: str | None = None
    id: str | None = None


_type = msgspec.json.Decoder(_Type).decode
_default = msgspec.json.Decoder(_Default).decode
_cloud_event = msgspec.json.Decoder(_CloudEvent).decode


class Harbor:
    """Harbor webhook events. See the module."""

    title: ClassVar[str] = "Harbor webhooks, Default or CloudEvents format: pulls, pushes and deletions of artifacts"
    feeds: ClassVar[frozenset[str]] = frozenset({"who-to-whom", "rate", "reads"})
    limits: ClassVar[str] = (
        "no client address, no token, no sizes, and only what succeeded; a pull is one event for an artifact, whatever it weighs; "
        "times in whole seconds; whoever posts to the receiver is believed: it checks the auth header"
    )
    times: ClassVar[dict[str, int]] = {"occur_at": 1, "time": 1}
    example: ClassVar[str] = (
        '{"type":"PULL_ARTIFACT","occur_at":1795214848,"operator":"robot$models+puller","event_data":{"resources":[{"digest":"sha256:9bdd",'
        '"tag":"v1","resource_url":"harbor.example/models/llama-ft:v1"}],"repository":{"date_created":1677053165,"name":"llama-ft",'
        '"namespace":"models","repo_full_name":"models/llama-ft","repo_type":"private"}}}'
    )

    def __init__(self, names: Names) -> None:
        self._words = Words(names)

    @classmethod
    def recognises(cls, record: dict[str, Any]) -> bool:
        """Whether this is an event of Harbor of any type, in one of its two formats."""
        kind = record.get("type")
        if not isinstance(kind, str):
            return False
        return ("occur_at" in record and "event_data" in record) or ("specversion" in record and kind.startswith("harbor."))

    def decode(self, records: Sequence[bytes]) -> Decoded:
        """Decode a batch. Reasons: ``missing``, ``wrong-type``, ``bad-time``, ``time-out-of-range`` and ``bad-identity`` with the
        field, ``malformed-json``, ``too-long``, ``empty``, ``unsupported-format``."""
        return decode_acts(self._words.names, "harbor", records, one, self._read)

    def _read(self, index: int, raw: bytes) -> Act | str:
        head = _type(raw)
        if head.occur_at is None and head.specversion is None:
            # The decoder says it in the words that also find out a foreign format.
            _default(raw)
        if head.type not in _ACTIONS:
            return head.type if head.type in _SKIPPED else "other"
        event: _Default | _CloudEvent
        if head.specversion is None:
            event = _default(raw)
            data, time, uid = event.event_data, epoch_time(event.occur_at, "occur_at"), ""
        else:
            event = _cloud_event(raw)
            data, time, uid = event.data, iso_time(event.time, "time"), event.id or ""
        row = Row(
            record=index,
            time=time,
            stream=Stream.registry,
            action=_ACTIONS[head.type],
            outcome=Outcome.ok,
            actor=self._words.identity("user", event.operator or "anonymous", "operator"),
            object=-1,
            detail=self._words.detail("manifest"),
            uid=uid,
        )
        repository = required(data.repository.repo_full_name, "repository.repo_full_name")
        # An event without resources is still about its repository.
        models = [self._model(item.resource_url, repository) for item in data.resources or [_Resource()]]
        return Act([msgspec.structs.replace(row, object=model) for model in models], [])

    def _model(self, url: str | None, repository: str) -> int:
        host, slash, _ = (url or "").partition("://")[2].partition("/") if "://" in (url or "") else (url or "").partition("/")
        name = f"{host.lower() if slash else 'harbor'}/{repository}"
        return self._words.identity("model", name, "repository.repo_full_name")


SOURCE = Harbor
