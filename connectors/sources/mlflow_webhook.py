"""MLflow's model registry webhooks: one row for each change.

Read: the body as MLflow posts it, and the form our receiver writes, ``{"headers": {...}, "body": "<the body as text>"}``. The
signature is the receiver's to check: here a record is taken as it is.

============  ==========================================================================================================
time          ``timestamp``
actor         ``service:mlflow``: the webhook names nobody
object        ``model:mlflow/<name>``, ``resource:mlflow/prompt/<name>`` for prompts; a workspace other than ``default`` comes first
action        created: create, set and updated: update, deleted: delete
detail        the entity (``model_version_alias``)
============  ==========================================================================================================
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import msgspec

from connectors.event import Action, Outcome, Row, Stream
from connectors.names import Names
from connectors.sources import Decoded
from connectors.sources._acts import Act, Words, decode_acts, one, required
from connectors.sources._records import iso_time

_ACTIONS = {"created": Action.create, "set": Action.update, "updated": Action.update, "deleted": Action.delete}
_MODELS = frozenset({"registered_model", "model_version", "model_version_tag", "model_version_alias", "registered_model_tag"})
_PROMPTS = frozenset({"prompt", "prompt_version", "prompt_tag", "prompt_version_tag", "prompt_alias"})
#: The workspace that everything made before workspaces belongs to.
_FIRST_WORKSPACE = "default"


class _Delivery(msgspec.Struct):
    headers: dict[str, Any] | None = None
    body: str | None = None


class _Data(msgspec.Struct):
    name: str | None = None


class _Change(msgspec.Struct):
    entity: str
    action: str
    timestamp: str
    data: _Data
    workspace: str | None = None


_delivery = msgspec.json.Decoder(_Delivery).decode
_change = msgspec.json.Decoder(_Change).decode


class MlflowWebhook:
    """MLflow registry webhooks. See the module."""

    title: ClassVar[str] = "MLflow model registry webhooks: models, versions, tags and aliases created, set and deleted"
    feeds: ClassVar[frozenset[str]] = frozenset({"rate"})
    limits: ClassVar[str] = (
        "no actor, no client address and no reads: who reads a model shows only at an authenticating proxy or the artifact store; no "
        "deletion of models; lost when MLflow restarts; the signature is checked by the receiver, not here"
    )
    times: ClassVar[dict[str, int]] = {"timestamp": 1}
    example: ClassVar[str] = (
        '{"headers":{"X-MLflow-Delivery-Id":"c3ee"},"body":"{\\"entity\\": \\"model_version\\", \\"action\\": \\"created\\", '
        '\\"timestamp\\": \\"2026-11-20T22:52:00.856952+00:00\\", \\"data\\": {\\"name\\": \\"llama-ft\\", \\"version\\": \\"1\\"}}"}'
    )

    def __init__(self, names: Names) -> None:
        self._words = Words(names)

    @classmethod
    def recognises(cls, record: dict[str, Any]) -> bool:
        """Whether this is a body of MLflow's, or a delivery that carries its headers."""
        headers = record.get("headers")
        if isinstance(headers, dict) and isinstance(record.get("body"), str):
            return any(name.lower().startswith("x-mlflow-") for name in headers)
        return isinstance(record.get("entity"), str) and "action" in record and "data" in record and "timestamp" in record

    def decode(self, records: Sequence[bytes]) -> Decoded:
        """Decode a batch. Reasons: ``missing``, ``wrong-type``, ``bad-time``, ``time-out-of-range`` and ``bad-identity`` with the
        field, ``malformed-json``, ``too-long``, ``empty``, ``unsupported-format``."""
        return decode_acts(self._words.names, "mlflow_webhook", records, one, self._read)

    def _read(self, index: int, raw: bytes) -> Act | str:
        delivery = _delivery(raw)
        change = _change(raw if delivery.body is None else delivery.body)
        kind = "model" if change.entity in _MODELS else "resource" if change.entity in _PROMPTS else ""
        if not kind or change.action not in _ACTIONS:
            return "budget_policy" if change.entity == "budget_policy" else "other"
        name = required(change.data.name, "data.name")
        if change.workspace and change.workspace != _FIRST_WORKSPACE:
            name = f"{change.workspace}/{name}"
        row = Row(
            record=index,
            time=iso_time(change.timestamp, "timestamp"),
            stream=Stream.registry,
            action=_ACTIONS[change.action],
            outcome=Outcome.ok,
            actor=self._words.identity("service", "mlflow", "actor"),
            object=self._words.identity(kind, f"mlflow/{'prompt/' if kind == 'resource' else ''}{name}", "data.name"),
            detail=self._words.detail(change.entity),
            uid=_delivery_id(delivery.headers or {}),
        )
        return Act([row], [])


def _delivery_id(headers: dict[str, Any]) -> str:
    found = next((value for name, value in headers.items() if name.lower() == "x-mlflow-delivery-id"), "")
    return found if isinstance(found, str) else ""


SOURCE = MlflowWebhook
