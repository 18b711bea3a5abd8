"""An authorization server in memory, with the answers of Keycloak 26.7.3: recorded on the real one, where the same tests run too."""

from __future__ import annotations

from typing import Any
from urllib.parse import parse_qs

from connectors.containment._fake import Answer, Ask, Fake, Rehearsed


class FakeOauth(Fake):
    """``live``: the tokens that are active. ``audience``: whether the asking client is in theirs; else all look inactive to it."""

    def __init__(self) -> None:
        super().__init__()
        self.live = {Rehearsed().read()}
        self.audience = True

    def state(self) -> Any:
        """The live tokens."""
        return sorted(self.live)

    def answer(self, ask: Ask) -> Answer:
        """Revocation and introspection."""
        if not ask.headers.get("authorization", "").startswith("Basic "):
            return Answer(401, {"error": "unauthorized_client"})
        token = parse_qs(ask.body.decode()).get("token", [""])[0]
        if ask.path == "/introspect":
            return Answer(200, {"active": token in self.live and self.audience})
        if token not in self.live:
            return Answer(200, {"error": "invalid_token", "error_description": "Invalid token"})
        self.live.remove(token)
        return Answer(200)
