"""A realm in memory with the answers of Keycloak 26.7.3, as far as the adapter asks: recorded on the real one, where
the same tests run too."""

from __future__ import annotations

import copy
import itertools
from base64 import urlsafe_b64encode
from typing import Any

import msgspec

from connectors.containment._fake import Answer, Ask, Fake

Fields = dict[str, Any]

_ADMIN = "/admin/realms/ai"
_CLIENT = "client-uuid"
#: Required actions that a fresh realm knows.
_ACTIONS = ("CONFIGURE_TOTP", "UPDATE_PASSWORD", "UPDATE_PROFILE", "VERIFY_EMAIL")
_FIRST_SECOND = 1_800_000_000


class FakeKeycloak(Fake):
    """The realm ``ai``. Tokens are kept as (user, session or none, second issued); whether one lives is told as Keycloak tells it."""

    def __init__(self) -> None:
        super().__init__()
        self._ids = (f"00000000-0000-4000-8000-{number:012d}" for number in itertools.count(1))
        self.now = _FIRST_SECOND
        #: Seconds that go by before a logout and before a token for us; 0: all falls into the same second.
        self.tick = 1
        self.realm: Fields = {"realm": "ai", "id": next(self._ids), "notBefore": 0}
        self.clients: dict[str, Fields] = {_CLIENT: {"id": _CLIENT, "clientId": "trainer", "notBefore": 0}}
        self.users: dict[str, Fields] = {}
        self.groups: dict[str, Fields] = {}
        #: Session id -> (user id, whether it is an offline one).
        self.live: dict[str, tuple[str, bool]] = {}
        self.tokens: dict[str, tuple[str, str, int]] = {}
        for name in ("alice", "bob", "carol", "service-account-trainer", "service-account-evaluator", "service-account-tocsin"):
            self.add(name)
        for name, owner, offline in (("s1", "alice", False), ("s2", "alice", False), ("o1", "bob", True)):
            self.live[name] = (self.named(owner)["id"], offline)
            self.tokens[f"of-{name}"] = (self.named(owner)["id"], name, self.now)
        self.tokens["of-trainer"] = (self.named("service-account-trainer")["id"], "", self.now)

    def add(self, name: str) -> Fields:
        """Another user."""
        user: Fields = {
            "id": next(self._ids),
            "username": name,
            "enabled": True,
            "requiredActions": [],
            "notBefore": 0,
            "email": f"{name}@ai.test",
        }
        self.users[user["id"]] = user
        return user

    def named(self, name: str) -> Fields:
        """The user of that name."""
        return next(user for user in self.users.values() if user["username"] == name)

    def accepted(self, token: str) -> bool:
        """Whether Keycloak takes the token."""
        owner, session, issued = self.tokens[token]
        user = self.users.get(owner)
        limit = max(int(self.realm["notBefore"]), int(user["notBefore"]) if user else 0)
        return user is not None and user["enabled"] and issued >= limit and (not session or session in self.live)

    def state(self) -> Fields:
        """All that can be told from outside. When users were logged out is not: only what tokens it made worthless."""
        users = {user["username"]: {key: value for key, value in user.items() if key != "notBefore"} for user in self.users.values()}
        limits = {"realm": self.realm["notBefore"], **{one["clientId"]: one["notBefore"] for one in self.clients.values()}}
        accepted = {token: self.accepted(token) for token in self.tokens}
        return copy.deepcopy({"users": users, "groups": self.groups, "live": dict(self.live), "accepted": accepted, "limits": limits})

    def answer(self, ask: Ask) -> Answer:
        """The token endpoint and the admin API."""
        if ask.path == "/realms/ai/protocol/openid-connect/token":
            self.now += self.tick
            claims = urlsafe_b64encode(msgspec.json.encode({"iat": self.now})).decode().rstrip("=")
            return Answer(200, {"access_token": f"e30.{claims}.", "expires_in": 300})
        if not ask.path.startswith(_ADMIN):
            return Answer(404, {"error": "Realm not found."})
        parts = ask.path.removeprefix(_ADMIN).strip("/").split("/")
        handle = {
            "users": self._users,
            "sessions": self._sessions,
            "groups": self._groups,
            "group-by-path": self._by_path,
            "clients": self._clients,
        }.get(parts[0], self._realm)
        return handle(ask, parts[1:])

    def _users(self, ask: Ask, parts: list[str]) -> Answer:
        if not parts:
            return Answer(200, [user for user in self.users.values() if user["username"] == ask.query.get("username")])
        user = self.users.get(parts[0])
        if user is None:
            return Answer(404, {"error": "User not found"})
        if parts[1:] == ["logout"]:
            self.now += self.tick
            user["notBefore"] = self.now
            self.live = {name: one for name, one in self.live.items() if one[1] or one[0] != user["id"]}
            return Answer(204)
        mine = [name for name, one in self.live.items() if one == (user["id"], parts[1:2] != ["sessions"])]
        if parts[1:2] in (["sessions"], ["offline-sessions"]):
            return Answer(200, [{"id": name} for name in mine])
        if parts[1:] == ["consents"]:
            grant = {"key": "Offline Token", "client": _CLIENT}
            return Answer(200, [{"clientId": "trainer", "additionalGrants": [grant]}] if mine else [])
        if ask.method == "PUT":
            change = dict(ask.json())
            if "requiredActions" in change:
                change["requiredActions"] = [one for one in change["requiredActions"] if one in _ACTIONS]
            user.update(change)
            return Answer(204)
        return Answer(200, user)

    def _sessions(self, ask: Ask, parts: list[str]) -> Answer:
        offline = ask.query.get("isOffline") == "true"
        if self.live.get(parts[0], ("", not offline))[1] is not offline:
            return Answer(404, {"error": "Sesssion not found"})
        del self.live[parts[0]]
        return Answer(204)

    def _groups(self, ask: Ask, parts: list[str]) -> Answer:
        if ask.method == "DELETE":
            found = next((name for name, group in self.groups.items() if group["id"] == parts[0]), "")
            return Answer(204) if self.groups.pop(found, None) else Answer(404, {"error": "Could not find group by id"})
        name = ask.json()["name"]
        if name in self.groups:
            return Answer(409, {"errorMessage": f"Top level group named '{name}' already exists."})
        self.groups[name] = {"id": f"group-{name}", **ask.json()}
        return Answer(201)

    def _by_path(self, ask: Ask, parts: list[str]) -> Answer:
        group = self.groups.get(parts[0])
        return Answer(200, group) if group else Answer(404, {"error": "Group path does not exist"})

    def _clients(self, ask: Ask, parts: list[str]) -> Answer:
        if not parts:
            return Answer(200, [one for one in self.clients.values() if one["clientId"] == ask.query.get("clientId")])
        if ask.method == "PUT":
            self.clients[parts[0]].update(ask.json())
            return Answer(204)
        return Answer(200, {})

    def _realm(self, ask: Ask, parts: list[str]) -> Answer:
        if ask.method == "PUT":
            self.realm.update(ask.json())
            return Answer(204)
        return Answer(200, self.realm if ask.method == "GET" else {})
