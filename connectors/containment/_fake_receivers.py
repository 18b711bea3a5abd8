"""Receivers of what we send: of security events (RFC 8935), and of signed webhooks. They check what real ones check, and keep ids."""

from __future__ import annotations

import hmac
from base64 import b64encode
from functools import cache
from typing import Any

import jwt
import msgspec
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from connectors.containment._fake import Answer, Ask, Fake, Rehearsed


class _Made:
    """A key pair that is made when first needed and lives as long as the process."""

    @cache  # noqa: B019 - there is one, for ever
    def private(self) -> rsa.RSAPrivateKey:
        """The private half."""
        return rsa.generate_private_key(public_exponent=65537, key_size=2048)

    @cache  # noqa: B019 - there is one, for ever
    def pem(self) -> str:
        """The private half, in PEM."""
        form = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        return self.private().private_bytes(*form).decode()


REHEARSED_KEY = _Made()


class RehearsedKey(Rehearsed, frozen=True):
    """The secret that holds that key."""

    def read(self) -> str:
        """The key, in PEM."""
        return REHEARSED_KEY.pem()


class FakeReceiver(Fake):
    """Of security events. ``told``: what of each subject is out of the ordinary, by event."""

    def __init__(self, key: _Made, audience: str = "https://idp.test") -> None:
        super().__init__()
        self._key = key
        self._audience = audience
        self.seen: dict[str, dict[str, Any]] = {}
        self.told: dict[str, str] = {}

    def state(self) -> Any:
        """What of whom is out of the ordinary."""
        return dict(self.told)

    def answer(self, ask: Ask) -> Answer:
        """202, or 400 and why."""
        try:
            head = jwt.get_unverified_header(ask.body.decode())
            claims = jwt.decode(
                ask.body.decode(),
                self._key.private().public_key(),
                algorithms=["RS256"],
                audience=self._audience,
                # Whoever sends an event says when it was; it never expires.
                options={"verify_iat": False, "require": ["iss", "aud", "jti", "iat"]},
            )
        except jwt.InvalidAudienceError:
            return Answer(400, {"err": "invalid_audience", "description": "not for us"})
        except jwt.InvalidSignatureError:
            return Answer(400, {"err": "invalid_key", "description": "the signature is not good"})
        except (jwt.InvalidTokenError, UnicodeDecodeError):
            return Answer(400, {"err": "invalid_request", "description": "no SET"})
        odd = head.get("typ") != "secevent+jwt" or {"sub", "exp"} & claims.keys() or len(claims.get("events", {})) != 1
        if odd or ask.headers.get("content-type") != "application/secevent+jwt":
            return Answer(400, {"err": "invalid_request", "description": "not as the profile wants it"})
        if claims["jti"] not in self.seen:
            self.seen[claims["jti"]] = claims
            self._take(claims)
        return Answer(202)

    def _take(self, claims: dict[str, Any]) -> None:
        ((event, about),) = claims["events"].items()
        place = f"{event.rpartition('/')[2]} {msgspec.json.encode(claims['sub_id'], order='sorted').decode()}"
        now = about.get("current_level") or about.get("current_status") or "revoked"
        if now in ("LOW", "compliant"):
            self.told.pop(place, None)
        else:
            self.told[place] = now


class FakeHook(Fake):
    """Of webhooks. ``asked_for``: what is to be contained."""

    def __init__(self, key: bytes) -> None:
        super().__init__()
        self._key = key
        self.seen: dict[str, dict[str, Any]] = {}
        self.asked_for: list[str] = []

    def state(self) -> Any:
        """What is to be contained."""
        return list(self.asked_for)

    def answer(self, ask: Ask) -> Answer:
        """204, or 401 where the signature is not good."""
        identifier, stamp = ask.headers.get("webhook-id", ""), ask.headers.get("webhook-timestamp", "")
        good = hmac.digest(self._key, f"{identifier}.{stamp}.".encode() + ask.body, "sha256")
        if not hmac.compare_digest(ask.headers.get("webhook-signature", ""), f"v1,{b64encode(good).decode()}"):
            return Answer(401, {"error": "bad signature"})
        if identifier not in self.seen:
            said = self.seen[identifier] = ask.json()
            target = said["data"]["target"]
            if said["type"].endswith("requested"):
                self.asked_for.append(target)
            elif target in self.asked_for:
                self.asked_for.remove(target)
        return Answer(204)
