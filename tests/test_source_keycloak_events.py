from __future__ import annotations

from typing import Any

import pytest

from connectors.event import Binding
from tests.source_stage import events, fresh, reasons

NAME = "keycloak_events"
TIME = 1795214848_306000
ID = "cdf56084-83c7-46fa"
LOGIN: dict[str, Any] = {
    "id": "00435000",
    "time": 1795214848306,
    "type": "LOGIN",
    "realmId": "tocsin",
    "clientId": "Tocsin-lab",
    "userId": ID,
    "sessionId": "c3be023a",
    "ipAddress": "10.20.0.7",
    "error": None,
    "details": {"username": "Alice", "auth_method": "openid-connect"},
}
REFRESH: dict[str, Any] = {
    **LOGIN,
    "type": "REFRESH_TOKEN",
    "details": {"token_id": "onltrt:bbe5a8e9", "grant_type": "refresh_token", "client_auth_method": "client-secret"},
}
ADMIN: dict[str, Any] = {
    "id": "766d8e4b",
    "time": 1795214848306,
    "realmId": "tocsin",
    "authDetails": {"realmId": "master", "clientId": "38f60965", "userId": ID, "ipAddress": "10.20.0.9"},
    "resourceType": "USER",
    "operationType": "ACTION",
    "resourcePath": "users/ab12/logout",
}
AUTH = {"record": 0, "time": TIME, "stream": "auth"}


def acts(event: dict[str, Any]) -> list[tuple[Any, ...]]:
    """(actor, action, object, outcome, via, detail) of each row."""
    keys = ("actor", "action", "object", "outcome", "via", "detail")
    return [tuple(row.get(key) for key in keys) for row in events(fresh(NAME, event))]


def test_a_login_is_read_field_by_field_at_the_address_and_at_the_client() -> None:
    same = {**AUTH, "action": "login", "outcome": "ok", "actor": "user:alice", "via": "session:c3be023a", "uid": "00435000"}
    decoded = fresh(NAME, LOGIN)
    assert events(decoded) == [{**same, "object": "ip:10.20.0.7", "detail": "Tocsin-lab"}, {**same, "object": "client:Tocsin-lab"}]
    assert decoded.bindings == [
        Binding(0, TIME, "session:c3be023a", "user:alice"),
        Binding(0, TIME, f"user:{ID}", "user:alice"),
    ]


def test_a_token_is_bound_to_its_user_and_the_refresher_seen_where_it_is() -> None:
    decoded = fresh(NAME, REFRESH)
    user = f"user:{ID}"
    assert acts(REFRESH) == [
        (user, "issue", "client:Tocsin-lab", "ok", "session:c3be023a", "refresh_token"),
        (user, "use", "ip:10.20.0.7", "ok", "session:c3be023a", "keycloak"),
    ]
    assert decoded.bindings == [Binding(0, TIME, "session:c3be023a", user), Binding(0, TIME, "token:onltrt:bbe5a8e9", user)]


def test_a_service_account_without_a_session_acts_through_its_token() -> None:
    event = {**LOGIN, "type": "CLIENT_LOGIN", "sessionId": None, "details": {"username": "service-account-x", "token_id": "trrtcc:1"}}
    assert [row[0:2] + row[4:5] for row in acts(event)] == [("user:service-account-x", "login", "token:trrtcc:1")] * 2


def test_without_session_and_token_the_address_carries_the_act() -> None:
    event = {**LOGIN, "sessionId": None}
    assert [row[4] for row in acts(event)] == ["ip:10.20.0.7", "ip:10.20.0.7"]


def test_a_wrong_password_is_a_denied_login_of_that_user_and_binds_nothing() -> None:
    event = {**LOGIN, "type": "LOGIN_ERROR", "error": "invalid_user_credentials", "sessionId": None}
    assert [row[:4] for row in acts(event)] == [
        ("user:alice", "login", "ip:10.20.0.7", "denied"),
        ("user:alice", "login", "client:Tocsin-lab", "denied"),
    ]
    assert fresh(NAME, event).bindings == []


def test_a_name_that_keycloak_does_not_know_becomes_no_identity() -> None:
    event = {**LOGIN, "type": "LOGIN_ERROR", "error": "user_not_found", "userId": None, "details": {"username": "MyPassw0rd!"}}
    decoded = fresh(NAME, event)
    assert acts(event) == [("ip:10.20.0.7", "login", "client:Tocsin-lab", "denied", "session:c3be023a", None)]
    assert not any("passw0rd" in text.lower() for text in decoded.block.names.values)


def test_a_client_that_keycloak_does_not_know_becomes_no_identity() -> None:
    event = {**LOGIN, "type": "LOGIN_ERROR", "error": "client_not_found", "clientId": "made-up", "userId": None, "details": None}
    assert [row[2] for row in acts(event)] == ["realm:tocsin"]


@pytest.mark.parametrize(
    ("error", "outcome"),
    [
        ("user_temporarily_disabled", "denied"),
        ("invalid_client_credentials", "denied"),
        ("expired_code", "failed"),
        ("new_error", "failed"),
    ],
)
def test_a_refusal_is_denied_and_an_accident_failed(error: str, outcome: str) -> None:
    assert {row[3] for row in acts({**LOGIN, "type": "LOGIN_ERROR", "error": error})} == {outcome}
    assert {row[3] for row in acts({**LOGIN, "type": "LOGIN_ERROR", "error": None})} == {"failed"}


def test_a_logout_and_a_change_of_an_account() -> None:
    assert [row[1:3] for row in acts({**LOGIN, "type": "LOGOUT"})] == [("logout", "client:Tocsin-lab"), ("use", "ip:10.20.0.7")]
    assert [(row[1], row[2], row[5]) for row in acts({**LOGIN, "type": "UPDATE_PASSWORD"})] == [
        ("update", "realm:tocsin", "update_password"),
        ("use", "ip:10.20.0.7", "keycloak"),
    ]
    assert acts({**LOGIN, "type": "REMOVE_TOTP"})[0][1] == "delete"


def test_an_impersonator_is_named_beside_whom_they_act_as() -> None:
    event = {**LOGIN, "type": "IMPERSONATE", "details": {"username": "alice", "impersonator": "Root", "impersonator_realm": "master"}}
    assert acts(event)[-1] == ("user:root", "use", "user:alice", "ok", "ip:10.20.0.7", "impersonation")


def test_an_admin_event_is_an_act_on_the_user_its_path_names() -> None:
    same = {**AUTH, "outcome": "ok", "actor": f"user:{ID}", "uid": "766d8e4b"}
    assert events(fresh(NAME, ADMIN)) == [
        {**same, "action": "admin", "object": "user:ab12", "via": "ip:10.20.0.9", "detail": "user/action"},
        {**same, "action": "use", "object": "ip:10.20.0.9", "detail": "keycloak"},
    ]


@pytest.mark.parametrize(
    ("resource", "operation", "path", "target", "detail"),
    [
        ("CLIENT", "UPDATE", "clients/8e5e", "realm:tocsin", "client/update"),
        ("REALM_ROLE_MAPPING", "CREATE", "users/ab12/role-mappings/realm", "user:ab12", "realm_role_mapping/create"),
        ("made up " * 50, "EXPLODE", None, "realm:tocsin", "other/other"),
        (None, "DELETE", "groups/1", "realm:tocsin", "other/delete"),
    ],
)
def test_details_of_admin_events_are_few(resource: str | None, operation: str, path: str | None, target: str, detail: str) -> None:
    event = {**ADMIN, "resourceType": resource, "operationType": operation, "resourcePath": path}
    assert (acts(event)[0][2], acts(event)[0][5]) == (target, detail)


def test_what_is_none_of_our_business_is_skipped_by_type() -> None:
    kinds = ("SEND_VERIFY_EMAIL", "SEND_VERIFY_EMAIL_ERROR", "INTROSPECT_TOKEN", "MADE_UP", "INVENTED")
    assert fresh(NAME, *({**LOGIN, "type": kind} for kind in kinds)).skipped == {
        "SEND_VERIFY_EMAIL": 2,
        "INTROSPECT_TOKEN": 1,
        "other": 2,
    }


@pytest.mark.parametrize(
    ("event", "reason"),
    [
        ({**LOGIN, "time": -1}, "time-out-of-range:time"),
        ({**LOGIN, "time": 1795214848}, "time-out-of-range:time"),
        ({**LOGIN, "time": 1e300}, "time-out-of-range:time"),
        ({**LOGIN, "time": "2026-11-20T22:47:28Z"}, "wrong-type:time"),
        ({"type": "LOGIN", "realmId": "tocsin"}, "missing:time"),
        ({**LOGIN, "details": {"username": "a\u202eb"}}, "bad-identity:details.username"),
        ({**LOGIN, "ipAddress": "somewhere"}, "bad-identity:ipAddress"),
        ({**LOGIN, "sessionId": "a\x00b"}, "bad-identity:sessionId"),
        ({**LOGIN, "userId": None, "ipAddress": None, "details": None}, "missing:userId"),
        ({**ADMIN, "authDetails": None}, "wrong-type:authDetails"),
        ({**ADMIN, "authDetails": {}}, "missing:authDetails.userId"),
    ],
)
def test_what_is_bad_is_named_and_the_rest_goes_on(event: dict[str, Any], reason: str) -> None:
    decoded = fresh(NAME, LOGIN, event, ADMIN)
    assert reasons(decoded) == [(1, reason)]
    assert {row["record"] for row in events(decoded)} == {0, 2}
