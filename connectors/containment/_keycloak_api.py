"""Keycloak's admin API as the adapter uses it: our own token, users found exactly, their sessions, and notes of what we did."""

from __future__ import annotations

import re
from base64 import urlsafe_b64decode
from time import monotonic
from typing import Any
from urllib.parse import quote

import msgspec

from connectors.containment import Action
from connectors.containment._doing import error_body, gone, mark, shaped
from connectors.containment._http import CallFailed, Http, Reply, Secret
from connectors.containment._marked import unsure

#: How Keycloak names the account of a client that acts for itself.
SERVICE_ACCOUNT = "service-account-"
#: Our token is renewed so many seconds before it ends: longer than any call may last.
RENEW_BEFORE = 20.0
#: Most sessions of one user that are read; beyond them the user is a robot's, and all end anyway by the logout.
MOST_SESSIONS = 500
#: What an error of Keycloak's holds; gateways say "error" too, with a status and a path beside it.
_SAYS = {"error", "error_description", "errorMessage"}
#: How Keycloak begins where not the thing is missing but its realm, or the address.
_ELSEWHERE = ("Realm", "Unable to find matching", "HTTP 404", "RESTEASY", "Could not find resource for")
_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")


class User(msgspec.Struct, rename="camel", kw_only=True):
    """What matters of a user; fields that are not named are left alone, for a write names one field only."""

    id: str
    username: str
    enabled: bool = True
    required_actions: list[str] = []
    #: Seconds since 1970: tokens issued before are refused. Set by a logout; no write reaches it.
    not_before: int = 0

    @property
    def is_robot(self) -> bool:
        """Whether it is a client's own account: no password, no session, no interactive login."""
        return self.username.startswith(SERVICE_ACCOUNT)


class Client(msgspec.Struct, rename="camel", kw_only=True):
    """A client of the realm."""

    id: str
    client_id: str
    not_before: int = 0


class Realm(msgspec.Struct, rename="camel", kw_only=True):
    """The realm. Who may only manage users is not shown the rest."""

    realm: str
    id: str = ""
    not_before: int | None = None


class _Session(msgspec.Struct):
    id: str


class _Grant(msgspec.Struct):
    key: str = ""
    client: str = ""


class _Consent(msgspec.Struct, rename="camel"):
    additional_grants: list[_Grant] = []


class _Token(msgspec.Struct):
    access_token: str
    expires_in: float = 0.0


class _Claims(msgspec.Struct):
    iat: int


class Api:
    """One realm, spoken to as one service account. Every method raises CallFailed."""

    def __init__(self, http: Http, realm: str, client_id: str, client_secret: Secret) -> None:
        self._http = http
        self._path = f"/realms/{quote(realm, safe='')}"
        self.realm = realm
        self.client_id = client_id
        self._secret = client_secret
        self._token = ""
        self._until = 0.0

    def call(
        self, method: str, path: str, *, query: dict[str, str] | None = None, json: Any = msgspec.UNSET, expect: tuple[int, ...] = ()
    ) -> Reply:
        """One call of the admin API of the realm. A token that is refused is renewed once: Keycloak may have been started anew."""
        for known in (bool(self._token), False):
            headers = {"Authorization": f"Bearer {self._bearer()}"}
            try:
                return self._http.call(
                    method, f"/admin{self._path}{path}", headers=headers, query=query, json=json, expect=expect, gone=_is_gone
                )
            except CallFailed as error:
                if error.status != 401 or not known:
                    raise
                self._token = ""
        raise AssertionError("unreachable: the second try returns or raises")

    def _bearer(self) -> str:
        if not self._token or monotonic() > self._until:
            form = {"grant_type": "client_credentials", "client_id": self.client_id, "client_secret": self._secret.read()}
            try:
                reply = self._http.call("POST", f"{self._path}/protocol/openid-connect/token", form=form)
            except CallFailed as error:
                # Nothing was changed by asking for a token; 400 means that the client or its secret is wrong.
                kind = "unauthorised" if error.status == 400 else error.trouble.kind
                raise CallFailed(
                    kind, f"no token for us: {error.reason}", retry_after=error.trouble.retry_after, status=error.status
                ) from None
            given = shaped(reply.json(), _Token)
            self._token, self._until = given.access_token, monotonic() + given.expires_in - RENEW_BEFORE
        return self._token

    def now(self) -> int:
        """Keycloak's clock, in seconds: when it issues us another token. Its answers bear no date, and it refuses by its own clock."""
        self._token = ""
        payload = self._bearer().split(".")
        try:
            return msgspec.json.decode(urlsafe_b64decode(payload[1] + "=="), type=_Claims).iat
        except (IndexError, ValueError):
            raise CallFailed("down", "the token we were given is no JWT") from None

    def user(self, target: str) -> User:
        """The user of an identity; of a client, its own account.

        What looks like an id is one: some events give no more, and whoever may choose a name could choose somebody's id.
        """
        kind, _, name = target.partition(":")
        if kind == "user" and _UUID.fullmatch(name):
            try:
                return self.user_by(name)
            except CallFailed as error:
                if error.trouble.kind != "gone":
                    raise
        wanted = f"{SERVICE_ACCOUNT}{name}".lower() if kind == "client" else name
        found = shaped(self.call("GET", "/users", query={"username": wanted, "exact": "true"}).json(), list[User])
        ours = [one for one in found if one.username.lower() == wanted]
        if len(ours) != 1:
            raise gone(target)
        return ours[0]

    def user_by(self, identifier: str) -> User:
        """The user of that id."""
        return shaped(self.call("GET", f"/users/{quote(identifier, safe='')}").json(), User)

    def sessions(self, user: User) -> list[str]:
        """Ids of the live sessions, offline ones apart."""
        found = self.call("GET", f"/users/{user.id}/sessions").json()
        return sorted(one.id for one in shaped(found, list[_Session]))[:MOST_SESSIONS]

    def offline(self, user: User) -> list[str]:
        """Ids of the offline sessions: which clients have some is told by the list of consents."""
        consents = shaped(self.call("GET", f"/users/{user.id}/consents").json(), list[_Consent])
        clients = {grant.client for one in consents for grant in one.additional_grants if grant.client}
        ids: set[str] = set()
        for client in sorted(clients):
            found = self.call("GET", f"/users/{user.id}/offline-sessions/{quote(client, safe='')}", expect=(404,))
            if found.status < 300:
                ids |= {one.id for one in shaped(found.json(), list[_Session])}
        return sorted(ids)[:MOST_SESSIONS]

    def log_out(self, user: User) -> None:
        """End every session: a logout alone lets offline sessions live on, with tokens issued in the second of the logout."""
        self.call("POST", f"/users/{user.id}/logout")
        try:
            self.end_offline(user)
        except CallFailed as error:
            raise unsure(error) from None

    def end_offline(self, user: User) -> None:
        """End the offline sessions. One that is gone meanwhile is as good. Of very many a part, until the step's time is up."""
        for done, session in enumerate(self.offline(user)):
            try:
                self.call("DELETE", f"/sessions/{quote(session, safe='')}", query={"isOffline": "true"}, expect=(404,))
            except CallFailed as error:
                raise unsure(error) if done else error from None

    def change(self, user: User, **fields: Any) -> None:
        """Write fields of a user, by the names of the API, and no others."""
        self.call("PUT", f"/users/{user.id}", json=fields)

    def noted(self, action: Action) -> str:
        """Id of the group that stands for this action, "" where there is none: groups are what may be made by who manages users."""
        reply = self.call("GET", f"/group-by-path/{_name(action)}", expect=(404,))
        return "" if reply.status == 404 else shaped(reply.json(), _Session).id

    def note(self, action: Action) -> None:
        """Make that group. It has no members and no roles; whoever reads it sees what was done, why, and for how long."""
        about = {"verb": action.verb, "target": action.target, "alert": action.alert, "due": str(action.due)}
        attributes = {f"tocsin.{name}": [value] for name, value in about.items() if value}
        self.call("POST", "/groups", json={"name": _name(action), "attributes": attributes}, expect=(409,))

    def forget(self, action: Action) -> None:
        """Remove that group."""
        group = self.noted(action)
        if group:
            self.call("DELETE", f"/groups/{quote(group, safe='')}", expect=(404,))


def _is_gone(reply: Reply) -> bool:
    """Whether a 404 is Keycloak's word on the thing asked for: not on its realm, and not on an address that it does not know."""
    body = error_body(reply)
    error = body.get("error")
    return body.keys() <= _SAYS and isinstance(error, str) and bool(error) and not error.startswith(_ELSEWHERE)


def _name(action: Action) -> str:
    return f"tocsin-{mark(action)}"
