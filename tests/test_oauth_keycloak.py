"""RFC 7009 revocation on the real Keycloak."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec.structs import replace

from connectors.containment import Action
from connectors.containment._fake import Rehearsed
from connectors.containment._http import Secret
from connectors.containment.oauth import Oauth, OauthSettings
from tests.keycloak_stage import LAB, SECRET, Realm

pytestmark = pytest.mark.containment


def revoked(realm: Realm, monkeypatch: pytest.MonkeyPatch, token: str, **changes: Any) -> tuple[str, str]:
    """What ``apply`` and ``verify`` say of one token."""
    monkeypatch.setenv("HELD", token)
    root = f"/realms/{realm.name}/protocol/openid-connect"
    given = {"client_id": LAB, "introspection_path": f"{root}/token/introspect", **changes}
    patient: dict[str, Any] = {"timeout_seconds": 60, "deadline_seconds": 120}
    settings = OauthSettings(
        url=realm.server.url,
        client_secret=Rehearsed(),
        revocation_path=f"{root}/revoke",
        tokens={"held": Secret(env="HELD")},
        **patient,
        **given,
    )
    adapter = Oauth(settings)
    try:
        action = Action(id="a1", verb="revoke_oauth_token", target="token:held")
        ready = adapter.prepare(action)
        assert ready.status == "ready", ready
        action = replace(action, snapshot=ready.snapshot)
        return adapter.apply(action).status, adapter.verify(action).status
    finally:
        adapter.close()


def test_a_refresh_token_revoked_takes_its_whole_session_with_it(realm: Realm, monkeypatch: pytest.MonkeyPatch) -> None:
    tokens = realm.login(realm.person())
    assert revoked(realm, monkeypatch, tokens["refresh_token"]) == ("applied", "verified")
    assert not realm.accepted(tokens["access_token"])
    assert not realm.refreshed(tokens)


def test_an_access_token_revoked_leaves_its_refresh_token_alive(realm: Realm, monkeypatch: pytest.MonkeyPatch) -> None:
    tokens = realm.login(realm.person())
    assert revoked(realm, monkeypatch, tokens["access_token"], hint="access_token") == ("applied", "verified")
    assert not realm.accepted(tokens["access_token"])
    assert realm.refreshed(tokens)


def test_a_token_that_never_was_is_answered_200_and_neither_called_revoked_nor_seen_dead(
    realm: Realm, monkeypatch: pytest.MonkeyPatch
) -> None:
    form = {"token": "garbage", "client_id": LAB, "client_secret": SECRET}
    reply = realm.server.client.post(f"/realms/{realm.name}/protocol/openid-connect/revoke", data=form)
    assert (reply.status_code, reply.json()["error"]) == (200, "invalid_token")
    assert revoked(realm, monkeypatch, "garbage") == ("already", "unverified")


def test_a_live_token_of_another_audience_looks_dead_to_us_and_is_not_taken_for_revoked(
    realm: Realm, monkeypatch: pytest.MonkeyPatch
) -> None:
    token = realm.login(realm.person())["access_token"]
    assert revoked(realm, monkeypatch, token, client_id=realm.robot(), hint="access_token")[1] == "unverified"
    assert realm.accepted(token)
