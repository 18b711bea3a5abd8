"""The Keycloak adapter on the real server, and what that server does that nobody would expect."""

from __future__ import annotations

import json
import time
from base64 import urlsafe_b64decode
from typing import Any

import pytest
from msgspec.structs import replace

from connectors.containment import Action, Rehearsal, Trouble, Verb
from tests.keycloak_stage import LAB, PASSWORD, SECRET, Realm, applied, new_second, prepared
from tests.servers import Keycloak
from tests.test_containment_battery import CHECKS, Check

pytestmark = pytest.mark.containment


# What the server does.


def test_introspection_calls_a_live_token_inactive_where_the_asking_client_is_not_in_its_audience(realm: Realm) -> None:
    token = realm.login(realm.person())["access_token"]
    assert realm.accepted(token)
    assert not realm.accepted(token, client=realm.robot())


def test_an_offline_session_survives_a_logout_with_tokens_of_the_same_second(realm: Realm) -> None:
    name = realm.person()
    identifier = realm.user(name)["id"]
    end = time.monotonic() + 60
    while time.monotonic() < end:
        new_second()
        tokens = realm.login(name, "openid offline_access")
        realm.ask("POST", f"/users/{identifier}/logout")
        if realm.accepted(tokens["access_token"]):
            break
    else:
        pytest.fail("a token never survived")
    assert realm.refreshed(tokens)


def test_a_new_secret_or_a_client_disabled_and_enabled_leaves_its_own_tokens_alive_and_only_a_logout_kills_them(realm: Realm) -> None:
    client = realm.robot()
    token = realm.own_token(client)
    identifier = realm.ask("GET", f"/clients?clientId={client}")[0]["id"]
    realm.ask("POST", f"/clients/{identifier}/client-secret")
    for enabled in (False, True):
        realm.ask("PUT", f"/clients/{identifier}", {"clientId": client, "enabled": enabled})
    assert realm.accepted(token)
    time.sleep(1.1)
    account = realm.ask("GET", f"/clients/{identifier}/service-account-user")["id"]
    realm.ask("POST", f"/users/{account}/logout")
    assert not realm.accepted(token)


def test_an_account_disabled_and_enabled_has_its_old_tokens_back(realm: Realm) -> None:
    name = realm.person()
    tokens = realm.login(name)
    path = f"/users/{realm.user(name)['id']}"
    realm.ask("PUT", path, {"enabled": False})
    assert not realm.accepted(tokens["access_token"])
    realm.ask("PUT", path, {"enabled": True})
    assert realm.accepted(tokens["access_token"])
    assert realm.refreshed(tokens)


def test_writing_attributes_alone_wipes_the_email_and_the_names(realm: Realm) -> None:
    name = realm.person()
    realm.ask("PUT", f"/users/{realm.user(name)['id']}", {"attributes": {"note": ["x"]}})
    assert not {"email", "firstName", "lastName"} & realm.user(name).keys()


def test_an_unknown_required_action_is_dropped_without_a_word_and_the_others_with_it(realm: Realm) -> None:
    name = realm.person(requiredActions=["UPDATE_PASSWORD"])
    realm.ask("PUT", f"/users/{realm.user(name)['id']}", {"requiredActions": ["NO_SUCH_ACTION"]})
    assert realm.user(name)["requiredActions"] == []


def test_a_session_goes_on_after_a_required_action_was_set(realm: Realm) -> None:
    name = realm.person()
    tokens = realm.login(name)
    realm.ask("PUT", f"/users/{realm.user(name)['id']}", {"requiredActions": ["UPDATE_PASSWORD"]})
    assert realm.accepted(tokens["access_token"])
    assert realm.refreshed(tokens)


def test_a_logout_by_us_is_an_admin_event_and_no_logout_of_the_user(realm: Realm) -> None:
    name = realm.person()
    realm.login(name)
    applied(realm.adapter(), "revoke_sessions", f"user:{name}")
    identifier = realm.user(name)["id"]
    assert f"users/{identifier}/logout" in {event.get("resourcePath") for event in realm.ask("GET", "/admin-events?max=50")}
    assert not realm.ask("GET", f"/events?type=LOGOUT&user={identifier}")


# What the adapter makes of it.


def test_revoking_sessions_ends_offline_sessions_too_although_their_tokens_are_of_the_same_second(realm: Realm) -> None:
    name = realm.person()
    new_second()
    tokens = [realm.login(name), realm.login(name, "openid offline_access")]
    applied(realm.adapter(), "revoke_sessions", f"user:{name}")
    assert [realm.accepted(each["access_token"]) for each in tokens] == [False, False]
    assert [realm.refreshed(each) for each in tokens] == [False, False]
    assert realm.refreshed(realm.login(name)), "the account can log in again: that is what is left open"


def test_a_login_after_the_revocation_is_not_ended_by_a_repeated_call(realm: Realm) -> None:
    name = realm.person()
    realm.login(name)
    action = applied(realm.adapter(), "revoke_sessions", f"user:{name}")
    later = realm.login(name)
    assert realm.adapter().apply(action).status == "already"
    assert realm.refreshed(later)


def test_tokens_of_a_service_account_of_the_very_second_are_killed_by_a_second_call(realm: Realm) -> None:
    client, adapter = realm.robot(), realm.adapter()
    end = time.monotonic() + 60
    while time.monotonic() < end:
        new_second()
        token = realm.own_token(client)
        ready = prepared(adapter, "revoke_sessions", f"client:{client}")
        first = adapter.apply(ready)
        # That it is unknown says that the look and the logout fell into one second: the token may be of the one before.
        claims = json.loads(urlsafe_b64decode(token.split(".")[1] + "=="))
        if first.status == "unknown" and claims["iat"] == (ready.snapshot or {})["now"]:
            break
    else:
        pytest.fail("never within one second")
    assert first.trouble == Trouble("busy", 1.0)
    assert realm.accepted(token), "the logout alone does not reach it"
    assert adapter.verify(ready).status == "not-effective"
    time.sleep(first.trouble.retry_after)
    assert adapter.apply(ready).status == "applied"
    assert adapter.verify(ready).status == "verified"
    assert not realm.accepted(token)


def test_revoking_offline_sessions_leaves_the_others(realm: Realm) -> None:
    name = realm.person()
    person, program = realm.login(name), realm.login(name, "openid offline_access")
    applied(realm.adapter(), "revoke_offline", f"user:{name}")
    assert not realm.refreshed(program)
    assert realm.refreshed(person)


def test_a_disabled_account_is_as_it_was_after_the_undo_but_its_old_tokens_stay_dead(realm: Realm) -> None:
    name, adapter = realm.person(), realm.adapter()
    tokens = [realm.login(name), realm.login(name, "openid offline_access")]
    before = realm.user(name)
    action = applied(adapter, "disable_user", f"user:{name}")
    assert realm.token(grant_type="password", username=name, password=PASSWORD).status_code == 400
    assert adapter.undo(action).status == "undone"
    assert adapter.verify_undone(action).status == "verified"
    after = realm.user(name)
    assert {**after, "notBefore": 0} == {**before, "notBefore": 0}
    assert not any(realm.accepted(each["access_token"]) or realm.refreshed(each) for each in tokens)
    assert realm.refreshed(realm.login(name))


def test_a_service_account_is_disabled_and_back_and_its_old_tokens_stay_dead(realm: Realm) -> None:
    client, adapter = realm.robot(), realm.adapter()
    token = realm.own_token(client)
    action = applied(adapter, "disable_user", f"client:{client}")
    assert realm.token(client_id=client, grant_type="client_credentials").status_code == 401
    time.sleep(1.1)
    assert adapter.undo(action).status == "undone"
    assert not realm.accepted(token)
    assert realm.accepted(realm.own_token(client))


def test_what_somebody_else_disabled_or_enabled_meanwhile_is_not_ours_to_change(realm: Realm) -> None:
    name, adapter = realm.person(), realm.adapter()
    path = f"/users/{realm.user(name)['id']}"
    late = prepared(adapter, "disable_user", f"user:{name}")
    realm.ask("PUT", path, {"enabled": False})
    assert adapter.apply(late).status == "already"
    assert adapter.undo(late).status == "already"
    assert realm.user(name)["enabled"] is False
    realm.ask("PUT", path, {"enabled": True})
    action = applied(adapter, "disable_user", f"user:{name}", "a2")
    realm.ask("PUT", path, {"enabled": True})
    assert adapter.verify(action).status == "not-effective"
    assert adapter.undo(action).status == "already"
    assert adapter.verify_undone(action).status == "verified"


def test_an_account_that_keycloak_will_not_disable_is_logged_out_and_the_action_failed(realm: Realm) -> None:
    name, adapter = realm.person(), realm.adapter()
    tokens = realm.login(name)
    profile = realm.ask("GET", "/users/profile")
    badge: dict[str, Any] = {"name": "badge", "permissions": {"view": ["admin"], "edit": ["admin"]}, "required": {"roles": ["admin"]}}
    realm.ask("PUT", "/users/profile", {**profile, "attributes": [*profile["attributes"], badge]})
    try:
        ready = prepared(adapter, "disable_user", f"user:{name}")
        done = adapter.apply(ready)
    finally:
        realm.ask("PUT", "/users/profile", profile)
    assert (done.status, done.trouble) == ("failed", Trouble("refused"))
    assert "sessions are ended" in done.reason
    assert realm.user(name)["enabled"] is True
    assert not realm.refreshed(tokens)
    assert adapter.verify_undone(ready).status == "verified"


def test_a_step_up_keeps_what_was_asked_for_before_and_ends_the_sessions(realm: Realm) -> None:
    name, adapter = realm.person(requiredActions=["VERIFY_EMAIL"]), realm.adapter(step_up="UPDATE_PASSWORD")
    action = applied(adapter, "require_step_up", f"user:{name}")
    assert sorted(realm.user(name)["requiredActions"]) == ["UPDATE_PASSWORD", "VERIFY_EMAIL"]
    assert realm.token(grant_type="password", username=name, password=PASSWORD).status_code == 400
    assert adapter.undo(action).status == "undone"
    assert realm.user(name)["requiredActions"] == ["VERIFY_EMAIL"]
    other = realm.person()
    tokens = realm.login(other)
    applied(adapter, "require_step_up", f"user:{other}", "a2")
    assert not realm.accepted(tokens["access_token"])
    assert not realm.refreshed(tokens)


def test_a_required_action_that_the_realm_does_not_know_is_refused_and_the_list_is_as_before(realm: Realm) -> None:
    name, adapter = realm.person(requiredActions=["UPDATE_PASSWORD"]), realm.adapter(step_up="NO_SUCH_ACTION")
    ready = prepared(adapter, "require_step_up", f"user:{name}")
    done = adapter.apply(ready)
    assert (done.status, done.trouble) == ("failed", Trouble("refused"))
    assert "NO_SUCH_ACTION" in done.reason
    assert realm.user(name)["requiredActions"] == ["UPDATE_PASSWORD"]
    assert adapter.verify_undone(ready).status == "verified"


def test_a_step_up_of_a_service_account_and_any_act_on_our_own_account_are_refused(realm: Realm) -> None:
    adapter = realm.adapter()
    for verb, target in (
        ("require_step_up", f"user:service-account-{LAB}"),
        ("revoke_sessions", "client:tocsin"),
        ("disable_user", "user:service-account-tocsin"),
    ):
        found = adapter.prepare(Action(id="a1", verb=verb, target=target))
        assert (found.status, found.trouble) == ("failed", Trouble("refused")), verb


def test_a_user_is_found_by_the_id_that_events_give_and_one_deleted_meanwhile_is_gone(realm: Realm) -> None:
    name, adapter = realm.person(), realm.adapter()
    identifier = realm.user(name)["id"]
    action = applied(adapter, "disable_user", f"user:{identifier}")
    realm.ask("DELETE", f"/users/{identifier}")
    assert (adapter.verify(action).status, adapter.verify(action).trouble) == ("unverified", Trouble("gone"))
    assert adapter.undo(action).status == "already"
    assert adapter.verify_undone(action).status == "verified"
    assert adapter.prepare(replace(action, id="a2", snapshot=None)).trouble == Trouble("gone")


@pytest.mark.parametrize("kind", ["realm", "client"])
def test_a_not_before_kills_every_older_token_and_new_logins_are_fine(keycloak: Keycloak, kind: str) -> None:
    realm = Realm(keycloak)
    name, adapter = realm.person(), realm.adapter("tocsin-not-before")
    tokens = realm.login(name)
    ready = prepared(adapter, "push_not_before", f"realm:{realm.name}" if kind == "realm" else f"client:{LAB}")
    assert adapter.verify(ready).status == "not-effective"
    while (done := adapter.apply(ready)).trouble == Trouble("busy", 1.0):
        time.sleep(1)
    assert done.status == "applied", done
    assert adapter.verify(ready).status == "verified"
    assert not realm.accepted(tokens["access_token"])
    assert not realm.refreshed(tokens)
    assert adapter.undo(ready).status == "failed"
    time.sleep(2)
    assert realm.refreshed(realm.login(name))
    realm.close()


@pytest.mark.parametrize("kind", ["realm", "client"])
def test_a_not_before_set_back_to_nothing_brings_old_tokens_to_life_which_is_why_it_is_never_undone(
    keycloak: Keycloak, kind: str
) -> None:
    realm = Realm(keycloak)
    tokens = realm.login(realm.person())
    path, fields = "", {}
    if kind == "client":
        path = f"/clients/{realm.ask('GET', f'/clients?clientId={LAB}')[0]['id']}"
        fields = {"clientId": LAB}
    time.sleep(1.1)
    realm.ask("PUT", path, {**fields, "notBefore": int(time.time())})
    assert not realm.accepted(tokens["access_token"])
    assert not realm.refreshed(tokens)
    realm.ask("PUT", path, {**fields, "notBefore": 0})
    assert realm.accepted(tokens["access_token"])
    assert realm.refreshed(tokens)
    (verb,) = (one for one in realm.adapter("tocsin-not-before").verbs if one.name == "push_not_before")
    assert not verb.undoable
    realm.close()


def test_somebody_who_is_named_like_anothers_id_is_not_taken_for_that_one(realm: Realm) -> None:
    name, adapter = realm.person(), realm.adapter()
    identifier = realm.user(name)["id"]
    realm.ask("POST", "/users", {"username": identifier, "enabled": True})
    action = applied(adapter, "disable_user", f"user:{identifier}")
    assert not realm.user(name)["enabled"]
    assert realm.user(identifier)["enabled"], "the decoy"
    assert adapter.undo(action).status == "undone"


def test_a_404_is_believed_only_where_it_is_keycloaks_word_on_the_thing_itself(realm: Realm) -> None:
    adapter, nobody = realm.adapter(), "00000000-0000-4000-8000-000000000000"
    for verb in ("disable_user", "revoke_sessions"):
        assert adapter.prepare(Action(id="a1", verb=verb, target=f"user:{nobody}")).trouble == Trouble("gone")
    action = applied(adapter, "disable_user", f"user:{realm.person()}", "a404")
    base = realm.server.url
    for changes in ({"realm": "no-such-realm"}, {"url": f"{base}/auth"}, {"url": f"{base}/realms/{realm.name}"}):
        elsewhere = realm.adapter(**changes)
        undone, seen = elsewhere.undo(action), elsewhere.verify_undone(action)
        assert (undone.status, undone.trouble) == ("failed", Trouble("down")), undone
        assert seen.status == "unverified", seen
    # With a token at hand, and only the admin API elsewhere.
    known = realm.adapter()
    assert known.verify(action).status == "verified"
    api = known._doings["disable_user"].api  # type: ignore[attr-defined]
    for path in ("/realms/no-such-realm", f"/nowhere/{realm.name}", f"/realms/{realm.name}/nowhere"):
        api._path = path
        assert (known.undo(action).status, known.verify_undone(action).status) == ("failed", "unverified"), path
    assert adapter.undo(action).status == "undone"


def test_the_shipped_account_may_not_do_more(realm: Realm) -> None:
    adapter = realm.adapter()
    for target in (f"realm:{realm.name}", f"client:{LAB}"):
        found = adapter.prepare(Action(id="a1", verb="push_not_before", target=target))
        assert (found.status, found.trouble) == ("failed", Trouble("unauthorised")), target
    token = realm.token(client_id="tocsin", grant_type="client_credentials").json()["access_token"]
    headers = {"Authorization": f"Bearer {token}"}
    root = f"/admin/realms/{realm.name}"
    for path in ("/events", "/admin-events", "/clients", "/identity-provider/instances", "/authentication/required-actions"):
        assert realm.server.client.get(f"{root}{path}", headers=headers).status_code == 403, path
    assert realm.server.client.put(root, headers=headers, json={"enabled": False}).status_code == 403


def test_without_its_role_the_account_may_do_nothing(realm: Realm) -> None:
    bare = realm.robot()
    found = realm.adapter(bare).prepare(Action(id="a1", verb="revoke_sessions", target=f"user:{realm.person()}"))
    assert (found.status, found.trouble) == ("failed", Trouble("unauthorised"))


def test_a_wrong_secret_a_wrong_realm_and_a_wrong_client_are_told(realm: Realm, monkeypatch: pytest.MonkeyPatch) -> None:
    from connectors.containment._http import Secret

    monkeypatch.setenv("WRONG", f"not-{SECRET}")
    action = Action(id="a1", verb="revoke_sessions", target=f"user:{realm.person()}")
    wrong: list[tuple[dict[str, Any], Trouble]] = [
        ({"client_secret": Secret(env="WRONG")}, Trouble("unauthorised")),
        ({"client_id": "no-such-client"}, Trouble("unauthorised")),
        ({"realm": "no-such-realm"}, Trouble("down")),
    ]
    for changes, trouble in wrong:
        found = realm.adapter(**changes).prepare(action)
        assert (found.status, found.trouble) == ("failed", trouble), changes
        assert SECRET not in found.reason


def test_a_token_of_ours_that_was_killed_is_renewed_within_the_call(realm: Realm) -> None:
    adapter, name = realm.adapter(), realm.person()
    assert adapter.prepare(Action(id="a1", verb="disable_user", target=f"user:{name}")).status == "ready"
    realm.ask("POST", f"/users/{realm.user('service-account-tocsin')['id']}/logout")
    time.sleep(1.1)
    realm.ask("POST", f"/users/{realm.user('service-account-tocsin')['id']}/logout")
    assert adapter.prepare(Action(id="a1", verb="disable_user", target=f"user:{name}")).status == "ready"


def rehearse(realm: Realm, target: str) -> Rehearsal:
    """The same realm again: battery checks read the state of their own user only."""
    name = target.partition(":")[2]

    def state() -> dict[str, Any]:
        user = realm.user(name)
        path = f"/users/{user.pop('id')}"
        # Only a logout changes it, and never back.
        user.pop("notBefore")
        sessions = [one["id"] for one in realm.ask("GET", f"{path}/sessions")]
        groups = [one["name"] for one in realm.ask("GET", "/groups")]
        return {**user, "sessions": sessions, "offline": realm.ask("GET", f"{path}/consents"), "groups": groups}

    return Rehearsal(realm.adapter(), {}, state)


@pytest.mark.parametrize("check", CHECKS)
@pytest.mark.parametrize("verb", ["revoke_sessions", "revoke_offline", "disable_user", "require_step_up"])
def test_the_adapter_passes_every_check_of_the_battery_on_the_real_server(realm: Realm, check: Check, verb: str) -> None:
    name = realm.person()
    if verb.startswith("revoke"):
        realm.login(name, "openid offline_access" if verb == "revoke_offline" else "openid")
    meant: Verb = next(one for one in realm.adapter().verbs if one.name == verb)
    for group in realm.ask("GET", "/groups"):
        realm.ask("DELETE", f"/groups/{group['id']}")
    check(lambda: rehearse(realm, f"user:{name}"), meant, f"user:{name}")
