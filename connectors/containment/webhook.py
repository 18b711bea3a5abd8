"""A signed webhook, for the system that runs playbooks (SOAR): what is to be contained, and later, that it may be let go.

The headers are those of Standard Webhooks: ``webhook-id`` (of the action's id, the same when sent again), ``webhook-timestamp`` and
``webhook-signature``: ``v1,`` and the base64 of HMAC-SHA256 over ``ID.TIMESTAMP.BODY``. A receiver refuses what is older than five
minutes, and what it has had.
"""

from __future__ import annotations

import hmac
import time
from base64 import b64decode, b64encode
from binascii import Error
from typing import Any, ClassVar

import msgspec

from connectors.containment import Action, Rehearsal, Verb
from connectors.containment._doing import ByVerb, mark
from connectors.containment._fake import Rehearsed
from connectors.containment._fake_receivers import FakeHook
from connectors.containment._http import CallFailed, Endpoint, Http, Secret
from connectors.containment._message import Message, decided

#: How a secret of Standard Webhooks begins: what follows is base64.
_PREFIX = "whsec_"
#: Shortest key, in bytes: the standard's.
_SHORTEST_KEY = 24


class WebhookSettings(Endpoint, kw_only=True, forbid_unknown_fields=True):
    """One receiver. ``url``: where it takes calls, whole."""

    #: The shared key: ``whsec_`` and base64, or any text; at least 24 bytes.
    key: Secret


class Webhook(ByVerb):
    """The adapter. See the module."""

    title: ClassVar[str] = "webhook: signed calls to a SOAR system"
    verbs: ClassVar[tuple[Verb, ...]] = (
        Verb(
            name="notify_soar",
            kinds=(
                "user",
                "sa",
                "workload",
                "pod",
                "ns",
                "ip",
                "host",
                "node",
                "job",
                "token",
                "session",
                "client",
                "model",
                "secret",
                "service",
            ),
            undoable=True,
            residual="The receiver decides what it does, and when.",
            needs=("webhook: the shared key",),
            blind=True,
        ),
    )
    Settings: ClassVar[type[msgspec.Struct]] = WebhookSettings

    def __init__(self, settings: WebhookSettings, http: Http | None = None) -> None:
        """``http``: what stands in for the connection where a receiver is rehearsed."""
        self._settings = settings
        super().__init__(http or Http(settings), [Message(self.verbs[0], self._send)])

    def _send(self, action: Action, back: bool) -> None:
        """Sign and send one call. Raises CallFailed."""
        identifier, stamp = f"{mark(action)}{'-undo' if back else ''}", str(int(time.time()))
        body = msgspec.json.encode(_content(action, back))
        signature = hmac.digest(_key(self._settings.key.read()), f"{identifier}.{stamp}.".encode() + body, "sha256")
        headers = {
            "Content-Type": "application/json",
            "Idempotency-Key": identifier,
            "webhook-id": identifier,
            "webhook-timestamp": stamp,
            "webhook-signature": f"v1,{b64encode(signature).decode()}",
        }
        self.http.call("POST", "", headers=headers, content=body)

    @classmethod
    def rehearsal(cls) -> Rehearsal:
        """A receiver that checks the signature and keeps what it is told."""
        fake = FakeHook(_KEY)
        settings = WebhookSettings(url="http://127.0.0.1:0", key=_RehearsedHookKey())
        return Rehearsal(cls(settings, Http(settings, fake.transport())), {"notify_soar": ("user:alice", "model:ai/llama")}, fake.state)


_KEY = b"a key that is rehearsed with"


class _RehearsedHookKey(Rehearsed, frozen=True):
    def read(self) -> str:
        return _KEY.decode()


def _content(action: Action, back: bool) -> dict[str, Any]:
    """What the receiver is told. Times are in seconds since 1970; ``due`` 0: never."""
    about = {
        "action": action.id,
        "target": action.target,
        "alert": action.alert,
        "decided": decided(action),
        "due": action.due // 1_000_000,
    }
    return {"type": f"tocsin.containment.{'released' if back else 'requested'}", "data": about}


def _key(text: str) -> bytes:
    """The bytes to sign with. Raises CallFailed (unauthorised) where they are too few."""
    try:
        key = b64decode(text.removeprefix(_PREFIX), validate=True) if text.startswith(_PREFIX) else text.encode()
    except Error:
        raise CallFailed("unauthorised", f"the key after {_PREFIX} is not base64") from None
    if len(key) < _SHORTEST_KEY:
        raise CallFailed("unauthorised", f"a key of {len(key)} bytes; at least {_SHORTEST_KEY} are needed")
    return key


ADAPTER = Webhook
