"""Keycloak's user events and admin events, as its REST API and the JSON event listeners give them: one object an event.

============  ==========================================================================================================
time          ``time``, milliseconds since 1970
actor         ``user`` of ``details.username``, else of ``userId``; where Keycloak found no such user the ``ip``: a name that was only
              typed in (it may be a password) is nobody's; an admin event: ``authDetails.userId``
via           ``session:<sessionId>``, else ``token:<details.token_id>``, else the ``ip``
outcome       ok without ``error``; denied: refused for credentials, rights or a blocked account; failed: any other error
============  ==========================================================================================================

Rows, all of stream auth:

* a login: at the ``ip`` (detail: the client) and at ``client:<clientId>``, both action login;
* a token issued: at the client (action issue, detail: how); a logout: at the client (action logout);
* a token shown for userinfo: at the client (action use);
* a change of an account: at ``realm:<realmId>`` (action create, update, delete or admin, detail: which);
* an admin event: at the ``user`` its path names, else the realm (action admin, detail ``user/action``, ``client/update``, ...);
* an impersonator: at the user they act as, who is the actor of the login (action use, detail ``impersonation``);
* and for each but logins where the user was seen: at the ``ip`` (action use, detail ``keycloak``).

Other event types (mails sent, required actions, introspection, which is the act of whoever was shown the token, ...) are skipped and
counted.

Bindings: token -> user, session -> user; and the user's id -> the user's name, because events without a name have the id only.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, ClassVar

import msgspec

from connectors.event import Action, Binding, Outcome, Row, Stream
from connectors.names import Names
from connectors.sources import Decoded
from connectors.sources._acts import Act, Words, decode_acts, milliseconds, one, required

_LOGIN = frozenset({"LOGIN", "CLIENT_LOGIN", "IDENTITY_PROVIDER_LOGIN", "IMPERSONATE"})
_ISSUE = frozenset(
    """CODE_TO_TOKEN REFRESH_TOKEN TOKEN_EXCHANGE OAUTH2_DEVICE_CODE_TO_TOKEN AUTHREQID_TO_TOKEN PERMISSION_TOKEN
    OAUTH2_EXTENSION_GRANT JWT_BEARER IDENTITY_PROVIDER_RETRIEVE_TOKEN""".split()  # noqa: SIM905 - reads better
)
_ACCOUNT = {
    "REGISTER": Action.create,
    **dict.fromkeys(("CLIENT_REGISTER", "CLIENT_UPDATE", "CLIENT_DELETE", "FEDERATED_IDENTITY_LINK"), Action.admin),
    **dict.fromkeys(
        "UPDATE_EMAIL UPDATE_PROFILE UPDATE_PASSWORD UPDATE_TOTP UPDATE_CREDENTIAL RESET_PASSWORD UPDATE_CONSENT GRANT_CONSENT".split(),  # noqa: SIM905
        Action.update,
    ),
    **dict.fromkeys(
        "REMOVE_TOTP REMOVE_CREDENTIAL REMOVE_FEDERATED_IDENTITY FEDERATED_IDENTITY_UNLINK REVOKE_GRANT DELETE_ACCOUNT".split(),  # noqa: SIM905
        Action.delete,
    ),
}
#: Keycloak's other types. Counted by name when skipped; any other name counts as "other", so that a sender cannot make up counters.
_SKIPPED = frozenset(
    """VERIFY_EMAIL VERIFY_PROFILE SEND_VERIFY_EMAIL SEND_RESET_PASSWORD SEND_IDENTITY_PROVIDER_LINK RESTART_AUTHENTICATION
    INVALID_SIGNATURE REGISTER_NODE UNREGISTER_NODE IDENTITY_PROVIDER_LINK_ACCOUNT IDENTITY_PROVIDER_FIRST_LOGIN
    IDENTITY_PROVIDER_POST_LOGIN IDENTITY_PROVIDER_RESPONSE CUSTOM_REQUIRED_ACTION EXECUTE_ACTIONS EXECUTE_ACTION_TOKEN CLIENT_INFO
    CLIENT_INITIATED_ACCOUNT_LINKING OAUTH2_DEVICE_AUTH OAUTH2_DEVICE_VERIFY_USER_CODE PUSHED_AUTHORIZATION_REQUEST
    INTROSPECT_TOKEN VALIDATE_ACCESS_TOKEN USER_DISABLED_BY_PERMANENT_LOCKOUT USER_DISABLED_BY_TEMPORARY_LOCKOUT""".split()  # noqa: SIM905 - reads better
)
_KNOWN = _LOGIN | _ISSUE | _ACCOUNT.keys() | _SKIPPED | {"LOGOUT", "USER_INFO_REQUEST"}
#: Errors that are a refusal. The rest are accidents: expired codes and sessions, mails not sent, malformed requests.
_DENIED = frozenset(
    """invalid_user_credentials user_not_found user_disabled user_temporarily_disabled invalid_client_credentials invalid_client
    client_not_found client_disabled unauthorized_client realm_disabled consent_denied rejected_by_user access_denied not_allowed
    different_user_authenticated invalid_token invalid_token_type invalid_signature invalid_issuer invalid_redirect_uri
    password_rejected registration_disabled illegal_origin invalid_code pkce_verification_failed
    invalid_code_verifier""".split()  # noqa: SIM905 - reads better
)
#: What an administrator can do to what. Other words are a detail "other".
_OPERATIONS = frozenset({"CREATE", "UPDATE", "DELETE", "ACTION"})
_WORD = re.compile(r"[A-Z][A-Z_]{1,40}", re.ASCII)
_USER_PATH = re.compile(r"users/([^/]+)(?:/.*)?", re.ASCII)


class _Details(msgspec.Struct):
    username: str | None = None
    token_id: str | None = None
    impersonator: str | None = None


class _UserEvent(msgspec.Struct, rename="camel"):
    time: float
    type: str
    realm_id: str | None = None
    client_id: str | None = None
    user_id: str | None = None
    session_id: str | None = None
    ip_address: str | None = None
    error: str | None = None
    details: _Details | None = None
    id: str | None = None


class _AuthDetails(msgspec.Struct, rename="camel"):
    user_id: str | None = None
    ip_address: str | None = None


class _AdminEvent(msgspec.Struct, rename="camel"):
    time: float
    operation_type: str
    auth_details: _AuthDetails
    realm_id: str | None = None
    resource_type: str | None = None
    resource_path: str | None = None
    error: str | None = None
    id: str | None = None


class _Kind(msgspec.Struct, rename="camel"):
    operation_type: str | None = None


_kind = msgspec.json.Decoder(_Kind).decode
_user_event = msgspec.json.Decoder(_UserEvent).decode
_admin_event = msgspec.json.Decoder(_AdminEvent).decode


class KeycloakEvents:
    """Keycloak events. See the module."""

    title: ClassVar[str] = "Keycloak user and admin events: logins, tokens, logouts, account changes, administration"
    feeds: ClassVar[frozenset[str]] = frozenset({"who-to-whom", "rate", "outcome", "bindings"})
    limits: ClassVar[str] = (
        "the REST API has only what the realm is set to keep, by default no refreshes; a JSON event listener has them; a logout by an "
        "administrator is an admin event; clients in admin paths have an internal id, not their client id; tokens are issued to the "
        "address of the application's server where that asks for them; behind a proxy ipAddress is what the proxy says; the name of a "
        "login is the one that was typed, so a realm with login by e-mail names one user in two ways"
    )
    times: ClassVar[dict[str, int]] = {"time": 1_000}
    example: ClassVar[str] = (
        '{"id":"00435000","time":1795214848306,"type":"LOGIN","realmId":"tocsin","clientId":"tocsin-lab","userId":"cdf56084-83c7-46fa",'
        '"sessionId":"c3be023a-8e3d","ipAddress":"10.20.0.7","error":null,"details":{"username":"alice","auth_method":"openid-connect",'
        '"token_id":"onrtro:bbe5a8e9"}}'
    )

    def __init__(self, names: Names) -> None:
        self._words = Words(names)

    @classmethod
    def recognises(cls, record: dict[str, Any]) -> bool:
        """Whether this is a user event or an admin event of Keycloak."""
        if "time" not in record:
            return False
        if "operationType" in record and "authDetails" in record:
            return True
        kind = record.get("type")
        return isinstance(kind, str) and "realmId" in record and kind.removesuffix("_ERROR") in _KNOWN

    def decode(self, records: Sequence[bytes]) -> Decoded:
        """Decode a batch. Reasons: ``missing``, ``wrong-type``, ``time-out-of-range`` and ``bad-identity`` with the field,
        ``malformed-json``, ``too-long``, ``empty``, ``unsupported-format``."""
        return decode_acts(self._words.names, "keycloak_events", records, one, self._read)

    def _read(self, index: int, raw: bytes) -> Act | str:
        if _kind(raw).operation_type is not None:
            return self._admin(index, _admin_event(raw))
        event = _user_event(raw)
        kind = event.type.removesuffix("_ERROR")
        if kind not in _KNOWN or kind in _SKIPPED:
            return kind if kind in _SKIPPED else "other"
        details = event.details or _Details()
        words = self._words
        address = words.address(event.ip_address, "ipAddress")
        user = self._user(event, details)
        row = Row(
            record=index,
            time=milliseconds(event.time, "time"),
            stream=Stream.auth,
            outcome=_outcome(event.type, event.error),
            actor=user if user >= 0 else address,
            object=-1,
            uid=event.id or "",
        )
        if row.actor < 0:
            required(None, "userId")
        sessions = [("session", event.session_id, "sessionId"), ("token", details.token_id, "details.token_id")]
        carriers = [words.identity(what, name, field) for what, name, field in sessions if name]
        row.via = carriers[0] if carriers else address if address != row.actor else -1
        rows = self._rows(row, kind, event, user, address)
        if details.impersonator and user >= 0:
            by = words.identity("user", details.impersonator, "details.impersonator")
            if by != user:
                rows.append(words.use(row, by, user, address, "impersonation"))
        return Act(rows, self._bindings(row, event, user, carriers))

    def _user(self, event: _UserEvent, details: _Details) -> int:
        """The user Keycloak knows; -1 where it found none."""
        if event.user_id:
            name = (details.username, "details.username") if details.username else (event.user_id, "userId")
            return self._words.identity("user", *name)
        if details.username and not event.error:
            return self._words.identity("user", details.username, "details.username")
        return -1

    def _rows(self, row: Row, kind: str, event: _UserEvent, user: int, address: int) -> list[Row]:
        words = self._words
        # A client that Keycloak does not know was made up by the sender.
        unknown = event.error == "client_not_found"
        client = words.identity("client", event.client_id, "clientId") if event.client_id and not unknown else -1
        realm = words.identity("realm", event.realm_id or "unknown", "realmId")
        rows = [row]
        row.object = client if client >= 0 else realm
        if kind in _LOGIN:
            row.action = Action.login
            if user >= 0 and address >= 0:
                detail = words.detail(event.client_id if client >= 0 else "other")
                rows.insert(0, msgspec.structs.replace(row, object=address, detail=detail))
            return rows
        if kind in _ACCOUNT:
            row.action, row.object, row.detail = _ACCOUNT[kind], realm, words.detail(kind.lower())
        elif kind == "LOGOUT":
            row.action = Action.logout
        else:
            row.action = Action.issue if kind in _ISSUE else Action.use
            row.detail = words.detail(kind.lower())
        if user >= 0 and address >= 0:
            rows.append(words.use(row, user, address, row.via, "keycloak"))
        return rows

    def _bindings(self, row: Row, event: _UserEvent, user: int, carriers: list[int]) -> list[Binding]:
        """Only what succeeded says who holds what: a failed event may carry somebody else's token."""
        if user < 0 or row.outcome is not Outcome.ok:
            return []
        name = self._words.text(user)
        found = [Binding(row.record, row.time, self._words.text(carrier), name) for carrier in carriers]
        by_id = self._words.text(self._words.identity("user", event.user_id, "userId")) if event.user_id else name
        if by_id != name:
            found.append(Binding(row.record, row.time, by_id, name))
        return found

    def _admin(self, index: int, event: _AdminEvent) -> Act:
        words = self._words
        who = event.auth_details
        address = words.address(who.ip_address, "authDetails.ipAddress")
        user = words.identity("user", who.user_id, "authDetails.userId") if who.user_id else -1
        if user < 0 and address < 0:
            required(None, "authDetails.userId")
        target = _USER_PATH.fullmatch(event.resource_path or "")
        kind, name, field = ("user", target[1], "resourcePath") if target else ("realm", event.realm_id or "unknown", "realmId")
        row = Row(
            record=index,
            time=milliseconds(event.time, "time"),
            stream=Stream.auth,
            action=Action.admin,
            outcome=_outcome("", event.error),
            actor=user if user >= 0 else address,
            object=words.identity(kind, name, field),
            via=address if user >= 0 else -1,
            detail=words.detail(_operation(event)),
            uid=event.id or "",
        )
        rows = [row]
        if user >= 0 and address >= 0:
            rows.append(words.use(row, user, address, row.via, "keycloak"))
        return Act(rows, [])


def _outcome(kind: str, error: str | None) -> Outcome:
    if not error:
        return Outcome.failed if kind.endswith("_ERROR") else Outcome.ok
    return Outcome.denied if error in _DENIED else Outcome.failed


def _operation(event: _AdminEvent) -> str:
    resource = event.resource_type or ""
    word = resource.lower() if _WORD.fullmatch(resource) else "other"
    return f"{word}/{event.operation_type.lower() if event.operation_type in _OPERATIONS else 'other'}"


SOURCE = KeycloakEvents
