"""A realm of the real Keycloak with our own accounts as they are shipped, and people and robots to act on."""

from __future__ import annotations

import itertools
import json
import time
import uuid
from typing import Any

import httpx
from msgspec.structs import replace

from connectors.containment import Action
from connectors.containment._fake import Rehearsed
from connectors.containment.keycloak import Keycloak as Adapter
from connectors.containment.keycloak import KeycloakSettings
from tests.checkout import ROOT
from tests.kube import until
from tests.servers import Keycloak

#: The secret of every client here: what the shipped stand-in for a secret reads.
SECRET = Rehearsed().read()
PASSWORD = "pw"  # noqa: S105 - of people who are made up
#: The client people log in at: among its own tokens' audience, so that it can ask about them.
LAB = "lab"
_AUDIENCE = {
    "name": "aud-self",
    "protocol": "openid-connect",
    "protocolMapper": "oidc-audience-mapper",
    "config": {"included.client.audience": LAB, "access.token.claim": "true"},
}


def shipped(name: str) -> dict[str, Any]:
    """The objects of a file in ``deploy/keycloak``, with a secret."""
    found: dict[str, Any] = json.loads((ROOT / "deploy" / "keycloak" / name).read_text())
    for client in found["clients"]:
        client["secret"] = SECRET
    return found


class Realm:
    """A fresh realm, removed by ``close``. Every name given out is new."""

    def __init__(self, server: Keycloak) -> None:
        self.server = server
        self.name = f"r{uuid.uuid4().hex[:12]}"
        self._numbers = itertools.count(1)
        self._adapters: list[Adapter] = []
        ours = [shipped("tocsin.json"), shipped("tocsin-not-before.json")]
        lab = {
            "clientId": LAB,
            "secret": SECRET,
            "serviceAccountsEnabled": True,
            "directAccessGrantsEnabled": True,
            "protocolMappers": [_AUDIENCE],
        }
        made = {
            "realm": self.name,
            "enabled": True,
            "eventsEnabled": True,
            "adminEventsEnabled": True,
            "accessTokenLifespan": 600,
            # A login takes as long as its password's hash: a second on a busy machine, with the default.
            "passwordPolicy": "hashAlgorithm(pbkdf2-sha256) and hashIterations(1)",
            "clients": [lab, *(client for one in ours for client in one["clients"])],
            "users": [user for one in ours for user in one["users"]],
        }
        server.ask("POST", "", made)

    def adapter(self, client: str = "tocsin", **changes: Any) -> Adapter:
        """Our adapter, as one of our accounts."""
        # On a busy machine of two cores an answer has taken seven seconds.
        patient: dict[str, Any] = {"timeout_seconds": 60, "deadline_seconds": 120}
        given = {"url": self.server.url, "realm": self.name, "client_id": client, "client_secret": Rehearsed(), **patient, **changes}
        made = Adapter(KeycloakSettings(**given))
        self._adapters.append(made)
        return made

    def close(self) -> None:
        """Let the adapters go, and remove the realm."""
        for adapter in self._adapters:
            adapter.close()
        self.ask("DELETE", "")

    def person(self, **fields: Any) -> str:
        """A new user who can log in; its name."""
        name = f"user{next(self._numbers)}"
        whole = {"email": f"{name}@ai.test", "emailVerified": True, "firstName": "A", "lastName": "L", "enabled": True}
        credentials = [{"type": "password", "value": PASSWORD}]
        self.ask("POST", "/users", {"username": name, **whole, "credentials": credentials, **fields})
        return name

    def robot(self) -> str:
        """A new client with an account of its own; its name."""
        name = f"robot{next(self._numbers)}"
        self.ask(
            "POST", "/clients", {"clientId": name, "secret": SECRET, "serviceAccountsEnabled": True, "protocolMappers": [_AUDIENCE]}
        )
        return name

    def ask(self, method: str, path: str, body: Any = None) -> Any:
        """The admin API of the realm, as its administrator."""
        return self.server.ask(method, f"/{self.name}{path}", body)

    def user(self, name: str) -> dict[str, Any]:
        """Everything about a user."""
        found = self.ask("GET", f"/users?username={name}&exact=true")
        one: dict[str, Any] = self.ask("GET", f"/users/{found[0]['id']}")
        return one

    def token(self, **form: str) -> httpx.Response:
        """The token endpoint."""
        return self.server.token(self.name, client_secret=SECRET, **{"client_id": LAB, **form})

    def login(self, name: str, scope: str = "openid") -> dict[str, str]:
        """Tokens of a new login."""
        reply = self.token(grant_type="password", username=name, password=PASSWORD, scope=scope)
        assert reply.status_code == 200, reply.text
        given: dict[str, str] = reply.json()
        return given

    def own_token(self, client: str) -> str:
        """A token of a client for itself."""
        reply = self.token(client_id=client, grant_type="client_credentials")
        assert reply.status_code == 200, reply.text
        return str(reply.json()["access_token"])

    def accepted(self, token: str, client: str = LAB) -> bool:
        """Whether Keycloak says that a token is good, when that client asks."""
        form = {"token": token, "client_id": client, "client_secret": SECRET}
        reply = self.server.client.post(f"/realms/{self.name}/protocol/openid-connect/token/introspect", data=form)
        assert reply.status_code == 200, reply.text
        return bool(reply.json()["active"])

    def refreshed(self, tokens: dict[str, str]) -> bool:
        """Whether new tokens are given for the refresh token."""
        return self.token(grant_type="refresh_token", refresh_token=tokens["refresh_token"]).status_code == 200


def prepared(adapter: Adapter, verb: str, target: str, action: str = "a1") -> Action:
    """The action, prepared."""
    first = Action(id=action, verb=verb, target=target, alert="alert-1", time=time.time_ns() // 1000)
    ready = adapter.prepare(first)
    assert ready.status == "ready", ready
    return replace(first, snapshot=ready.snapshot)


def applied(adapter: Adapter, verb: str, target: str, action: str = "a1") -> Action:
    """The action, carried out and seen in effect."""
    ready = prepared(adapter, verb, target, action)
    done = adapter.apply(ready)
    assert done.status == "applied", done
    seen = adapter.verify(ready)
    assert seen.status == "verified", seen
    return ready


def new_second() -> None:
    """Wait until a second has just begun, so that what follows falls into it."""
    until("a second begins", lambda: time.time() % 1 < 0.1)
