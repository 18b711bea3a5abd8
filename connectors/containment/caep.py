"""CAEP 1.0: signed security events (SETs) pushed to a receiver of the Shared Signals Framework (RFC 8417, RFC 8935).

``signal_risk_level`` and ``signal_device_compliance`` say what we saw; ``signal_session_revoked`` is for whoever owns the sessions, or
has agreed with the receiver that our word ends them. What the receiver does is up to it and cannot be seen: such a verb is ``blind``.
"""

from __future__ import annotations

from typing import Any, ClassVar

import jwt
import msgspec
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from connectors.containment import Action, Rehearsal, TroubleKind, Verb
from connectors.containment._doing import ByVerb, Doing, mark, shaped
from connectors.containment._fake_receivers import REHEARSED_KEY, FakeReceiver, RehearsedKey
from connectors.containment._http import CallFailed, Endpoint, Http, Secret
from connectors.containment._message import Message, decided
from connectors.containment._quote import quote

_EVENTS = "https://schemas.openid.net/secevent/caep/event-type/"
#: Shortest RSA key, in bits: the interoperability profile's.
_SHORTEST_KEY = 2048
#: Codes of RFC 8935 that mean us; the others mean the message.
_OURS = frozenset({"authentication_failed", "access_denied", "invalid_key", "invalid_issuer"})
#: What a subject is called in a risk level, by kind of identity.
_PRINCIPALS = {"user": "USER", "sa": "USER", "session": "SESSION", "node": "DEVICE", "host": "DEVICE"}


class CaepSettings(Endpoint, kw_only=True, forbid_unknown_fields=True):
    """One receiver. ``url``: where it takes events, whole."""

    #: Who we are and who is meant, as agreed with the receiver.
    issuer: str
    audience: str
    #: Our private RSA key, in PEM, and the name of its public half in the key set that the receiver has of us.
    key: Secret
    key_id: str
    #: The bearer token that the receiver has given us, if any.
    token: Secret | None = None
    #: Issuer of the names of users and machines in subjects.
    subject_issuer: str
    #: Where set, users are named by mail: NAME@DOMAIN.
    email_domain: str = ""
    #: Of ``signal_credential_change``: which credential is to be taken as revoked.
    credential_type: str = "password"


class _Refusal(msgspec.Struct):
    err: str = "none"
    description: str = ""


def _verb(name: str, kinds: tuple[str, ...], *, undoable: bool, residual: str) -> Verb:
    return Verb(
        name=name,
        kinds=kinds,
        undoable=undoable,
        residual=residual,
        needs=("caep: a push token of the receiver, our key known to it",),
        blind=True,
    )


_TOLD = "The receiver decides what it does with the event, and when."
RISK = _verb("signal_risk_level", ("user", "sa", "session", "node", "host"), undoable=True, residual=_TOLD)
DEVICE = _verb("signal_device_compliance", ("node", "host"), undoable=True, residual=_TOLD)
SESSION = _verb("signal_session_revoked", ("user", "sa", "session"), undoable=False, residual=_TOLD)
CREDENTIAL = _verb("signal_credential_change", ("user", "sa"), undoable=False, residual=_TOLD)


class Caep(ByVerb):
    """The adapter. See the module."""

    title: ClassVar[str] = "CAEP: security events pushed to a receiver"
    verbs: ClassVar[tuple[Verb, ...]] = (RISK, DEVICE, SESSION, CREDENTIAL)
    Settings: ClassVar[type[msgspec.Struct]] = CaepSettings

    def __init__(self, settings: CaepSettings, http: Http | None = None) -> None:
        """``http``: what stands in for the connection where a receiver is rehearsed."""
        self._settings = settings
        doings: list[Doing] = [Message(verb, self._push) for verb in self.verbs]
        super().__init__(http or Http(settings), doings)

    def _push(self, action: Action, back: bool) -> None:
        """Sign and send one event. Raises CallFailed."""
        headers = {"Content-Type": "application/secevent+jwt", "Accept": "application/json"}
        if self._settings.token is not None:
            headers["Authorization"] = f"Bearer {self._settings.token.read()}"
        reply = self.http.call("POST", "", headers=headers, content=self._signed(action, back).encode(), expect=(400,))
        if reply.status == 400:
            said = shaped(reply.json(), _Refusal)
            kind: TroubleKind = "unauthorised" if said.err in _OURS else "refused"
            raise CallFailed(
                kind, f"the receiver refuses the event: {quote(said.err)[:40]!r} {quote(said.description)[:120]!r}", status=400
            )

    def _signed(self, action: Action, back: bool) -> str:
        when = decided(action) if not back else max(decided(action), action.time // 1_000_000)
        claims = {
            "iss": self._settings.issuer,
            "aud": self._settings.audience,
            "jti": f"{mark(action)}{'-undo' if back else ''}",
            "iat": when,
            "txn": action.alert or action.id,
            "sub_id": self._subject(action),
            "events": {_EVENTS + name: {**claim, **self._about(action, when, back)} for name, claim in [self._event(action, back)]},
        }
        headers = {"typ": "secevent+jwt", "kid": self._settings.key_id}
        return jwt.encode(claims, _rsa(self._settings.key.read()), algorithm="RS256", headers=headers)

    def _about(self, action: Action, when: int, back: bool) -> dict[str, Any]:
        why = f"Tocsin {'ends' if back else 'takes'} action {action.id} on alert {action.alert or 'none'}"
        return {"event_timestamp": when, "initiating_entity": "policy", "reason_admin": {"en": why}}

    def _event(self, action: Action, back: bool) -> tuple[str, dict[str, Any]]:
        """Name and own claims of the event."""
        if action.verb == RISK.name:
            levels = {"current_level": "LOW" if back else "HIGH", "previous_level": "HIGH" if back else "LOW"}
            principal = _PRINCIPALS[action.target.partition(":")[0]]
            return "risk-level-change", {"principal": principal, **levels, "risk_reason": "BEHAVIOURAL_ANOMALY"}
        if action.verb == DEVICE.name:
            now, before = ("compliant", "not-compliant") if back else ("not-compliant", "compliant")
            return "device-compliance-change", {"current_status": now, "previous_status": before}
        if action.verb == SESSION.name:
            return "session-revoked", {}
        return "credential-change", {"credential_type": self._settings.credential_type, "change_type": "revoke"}

    def _subject(self, action: Action) -> dict[str, Any]:
        kind, _, name = action.target.partition(":")
        if kind == "session":
            return {"format": "complex", "session": {"format": "opaque", "id": name}}
        if kind == "user" and self._settings.email_domain:
            return {"format": "email", "email": name if "@" in name else f"{name}@{self._settings.email_domain}"}
        simple = {"format": "iss_sub", "iss": self._settings.subject_issuer, "sub": name}
        return {"format": "complex", "device": simple} if kind in ("node", "host") else simple

    @classmethod
    def rehearsal(cls) -> Rehearsal:
        """A receiver that keeps what it is told."""
        fake = FakeReceiver(REHEARSED_KEY)
        settings = CaepSettings(
            url="http://127.0.0.1:0",
            issuer="https://tocsin.test",
            audience="https://idp.test",
            key=RehearsedKey(),
            key_id="k1",
            subject_issuer="https://idp.test",
        )
        targets = {verb.name: tuple(f"{kind}:one" for kind in verb.kinds) for verb in cls.verbs}
        return Rehearsal(cls(settings, Http(settings, fake.transport())), targets, fake.state)


def _rsa(pem: str) -> RSAPrivateKey:
    """The key. Raises CallFailed (unauthorised) on anything but an RSA key of a fair length."""
    try:
        key = load_pem_private_key(pem.encode(), None)
    except (ValueError, TypeError):
        raise CallFailed("unauthorised", "our key is no private key in PEM without a password") from None
    if not isinstance(key, RSAPrivateKey) or key.key_size < _SHORTEST_KEY:
        raise CallFailed("unauthorised", f"our key is no RSA key of at least {_SHORTEST_KEY} bits")
    return key


ADAPTER = Caep
