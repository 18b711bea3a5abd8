"""Signatures over our own records: by a shared key, or by a pair of which only one half can sign.

The key is a text of at least 32 bytes (HMAC-SHA256, the same to sign and to check) or an Ed25519 key in PEM (private to sign, public to
check: whoever checks cannot sign).
"""

from __future__ import annotations

import base64
import hmac

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key, load_pem_public_key

#: Shortest shared key, in bytes: as long as the hash.
SHORTEST_KEY = 32


class BadKey(ValueError):
    """A key that cannot be used; the text says why, and holds nothing of the key."""


class Key:
    """Signs and checks, or only checks. Raises BadKey where the text is no key."""

    def __init__(self, text: str) -> None:
        self._shared = b""
        self._private: Ed25519PrivateKey | None = None
        self._public: Ed25519PublicKey | None = None
        if "-----BEGIN" not in text:
            if len(text.encode()) < SHORTEST_KEY:
                raise BadKey(f"a key of {len(text.encode())} bytes; at least {SHORTEST_KEY} are needed")
            self._shared = text.encode()
            return
        try:
            if "PRIVATE" in text:
                private = load_pem_private_key(text.encode(), None)
                self._private = private if isinstance(private, Ed25519PrivateKey) else None
                self._public = self._private.public_key() if self._private else None
            else:
                public = load_pem_public_key(text.encode())
                self._public = public if isinstance(public, Ed25519PublicKey) else None
        except (ValueError, TypeError, UnsupportedAlgorithm):
            self._public = None
        if self._public is None:
            raise BadKey("a key in PEM that is no plain Ed25519 key")

    def sign(self, content: bytes) -> str:
        """The signature, in base64. Raises BadKey where this key only checks."""
        if self._shared:
            return base64.b64encode(hmac.digest(self._shared, content, "sha256")).decode()
        if self._private is None:
            raise BadKey("a public key checks; to sign, the private one is needed")
        return base64.b64encode(self._private.sign(content)).decode()

    def signed(self, content: bytes, signature: str) -> bool:
        """Whether this key, or its other half, made the signature."""
        try:
            given = base64.b64decode(signature, validate=True)
        except ValueError:
            return False
        if self._public is None:
            return hmac.compare_digest(hmac.digest(self._shared, content, "sha256"), given)
        try:
            self._public.verify(given, content)
        except InvalidSignature:
            return False
        return True
