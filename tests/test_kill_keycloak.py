"""kill -9 at every boundary of a containment on the real Keycloak, and between the calls that one step is made of."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from connectors import ocsf
from connectors.event import SECOND
from detector.ledger import Ledger
from tests.alerts import made_alert
from tests.fake_target import BOUNDARIES, Lives
from tests.keycloak_stage import SECRET, Realm
from tests.test_kill import QUICK, TTL

pytestmark = pytest.mark.containment

#: Calls that change the realm, in the order they are made; the last two belong to the undo, with a logout before them.
CALLS = [f"http {call}:after" for call in ("POST groups", "PUT users", "POST logout")]
UNDO_CALLS = [f"undo http {call}:after" for call in ("POST logout", "PUT users", "DELETE groups")]
#: Tried now and then: nothing is lost between the target and the ledger there.
SLOW = set(BOUNDARIES) - set(QUICK)


@pytest.fixture(scope="module")
def lives() -> Iterator[Lives]:
    made = Lives("", "tests.keycloak_target")
    yield made
    made.close()


def prepared(realm: Realm, folder: Path, name: str) -> tuple[str, ...]:
    """The command line: a policy that disables for an hour, one alert of just now about the user."""
    now = int(time.time() * SECOND)
    alert = made_alert(uid=f"alert-{name}", time=now, opened=now, first=now, last=now, targets=[f"user:{name}"])
    (folder / "alerts.jsonl").write_bytes(ocsf.encode(alert, "0.1.0"))
    (folder / "secret").write_text(SECRET)
    adapter = f'url = "{realm.server.url}"\nrealm = "{realm.name}"\nclient_id = "tocsin"\n'
    adapter += f'client_secret = {{ file = "{folder / "secret"}" }}\ntimeout_seconds = 60\ndeadline_seconds = 120\n'
    actions = f'[{{ verb = "disable_user", mode = "enforce", ttl_seconds = {TTL} }}]'
    rule = f'[[respond.rules]]\nname = "r"\nactions = {actions}\n'
    (folder / "policy.toml").write_text(f'[respond]\nmode = "enforce"\n[respond.adapters.keycloak]\n{adapter}{rule}')
    return ("respond", str(folder / "alerts.jsonl"), "--config", str(folder / "policy.toml"), "--ledger", str(folder / "ledger"))


@pytest.mark.parametrize(
    "boundary", [pytest.param(each, marks=pytest.mark.slow if each in SLOW else ()) for each in (*BOUNDARIES, *CALLS, *UNDO_CALLS)]
)
def test_t7_killed_at_a_boundary_an_account_is_disabled_once_and_enabled_in_time(
    realm: Realm, lives: Lives, tmp_path: Path, boundary: str
) -> None:
    name = realm.person()
    tokens = realm.login(name)
    identifier = realm.user(name)["id"]
    command = prepared(realm, tmp_path, name)
    undoing = "undo" in boundary
    crash = boundary.removeprefix("undo ") if "http" in boundary else boundary
    assert lives.run(*command, crash="" if undoing else crash) == (0 if undoing else -9)
    assert lives.run(*command) == 0
    assert not realm.user(name)["enabled"], "disabled"
    assert not realm.accepted(tokens["access_token"])
    assert lives.run(*command, later=TTL - 900) == 0
    assert not realm.user(name)["enabled"], "not enabled before its time"
    assert lives.run(*command, crash=crash if undoing else "", later=TTL + 1) == (-9 if undoing else 0)
    assert lives.run(*command, later=TTL + 1) == 0
    assert realm.user(name)["enabled"], "enabled again"
    assert not realm.refreshed(tokens), "and what was stolen stays worthless"
    assert realm.ask("GET", "/groups") == [], "no note is left"
    written = realm.ask("GET", f"/admin-events?operationTypes=UPDATE&resourcePath=users/{identifier}&max=50")
    assert len(written) == 2, "disabled once, enabled once"
    with Ledger.at(tmp_path / "ledger") as ledger:
        assert ledger.verify_chain() is None
        assert (ledger.history.pending, ledger.history.holds) == ({}, {})
