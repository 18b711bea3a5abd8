"""The traps of other systems, as far as they concern the adapters of identities and keys. The number is the trap's."""

from __future__ import annotations

from msgspec.structs import fields, replace

from connectors.containment import Action, Adapter, available
from connectors.containment._fake import Rehearsed
from connectors.containment._fake_keycloak import FakeKeycloak
from connectors.containment._http import Http
from connectors.containment.keycloak import Keycloak, KeycloakSettings
from tests.test_identity_adapters import CASES, keycloak

#: The adapters that these traps concern.
NAMES = ("caep", "keycloak", "oauth", "openbao", "webhook")


def applied(adapter: Adapter, verb: str, target: str, action: str) -> Action:
    first = Action(id=action, verb=verb, target=target, time=1_800_000_000_000_000)
    ready = replace(first, snapshot=adapter.prepare(first).snapshot)
    assert adapter.apply(ready).status == "applied"
    return ready


def test_t2_a_group_of_somebody_else_with_a_like_name_is_untouched() -> None:
    fake = FakeKeycloak()
    theirs = {"id": "theirs", "name": "tocsin"}
    fake.groups["tocsin"] = theirs
    adapter = keycloak(fake.transport())
    action = applied(adapter, "disable_user", "user:carol", "a1")
    assert set(fake.groups) == {"tocsin", "tocsin-a1"}
    assert adapter.undo(action).status == "undone"
    assert fake.groups == {"tocsin": theirs}


def test_t2_an_account_named_like_anothers_id_is_not_taken_for_that_one() -> None:
    fake = FakeKeycloak()
    alice = fake.named("alice")["id"]
    decoy = fake.add(alice)
    adapter = keycloak(fake.transport())
    applied(adapter, "disable_user", f"user:{alice}", "a1")
    assert (fake.named("alice")["enabled"], decoy["enabled"]) == (False, True)
    # Who only looks like an id is found by the name.
    lonely = fake.add("11111111-1111-4111-8111-111111111111")
    applied(adapter, "disable_user", f"user:{lonely['username']}", "a2")
    assert not lonely["enabled"]


def test_t4_every_verb_that_can_be_taken_back_names_the_rights_for_it() -> None:
    for name in NAMES:
        for verb in available()[name].verbs:
            assert verb.needs, verb.name
            assert verb.residual.endswith("."), verb.name


def test_t8_no_adapter_listens_and_what_is_sent_out_is_signed() -> None:
    for name in ("caep", "webhook"):
        make, fake, verb, target = CASES[name]
        world = fake()
        applied(make(world.transport()), verb, target, "a1")
        assert world.state(), "the receiver checks the signature, and took it"


def test_t9_a_hundred_accounts_disabled_by_one_rule_are_let_go_one_by_one() -> None:
    fake = FakeKeycloak()
    for number in range(100):
        fake.add(f"user{number}")
    adapter = keycloak(fake.transport())
    actions = [applied(adapter, "disable_user", f"user:user{number}", f"a{number}") for number in range(100)]
    assert sum(not user["enabled"] for user in fake.users.values()) == 100
    for number, action in enumerate(actions):
        assert adapter.undo(action).status == "undone"
        assert sum(not user["enabled"] for user in fake.users.values()) == 99 - number
        assert fake.named(f"user{number}")["enabled"]


def test_t12_success_without_effect_is_never_verified() -> None:
    class Deaf(FakeKeycloak):
        """Says yes to every write of a user and does nothing."""

        def _users(self, ask, parts):  # type: ignore[no-untyped-def]
            return super()._users(ask, parts) if ask.method == "GET" else super()._users(ask._replace(method="GET"), parts[:1])

    adapter = keycloak(Deaf().transport())
    for verb, target in (("disable_user", "user:carol"), ("revoke_sessions", "user:alice"), ("require_step_up", "user:carol")):
        action = Action(id="a1", verb=verb, target=target)
        action = replace(action, snapshot=adapter.prepare(action).snapshot)
        done = adapter.apply(action)
        assert done.status == "failed" or adapter.verify(action).status == "not-effective", verb
        assert adapter.verify(action).status != "verified", verb


def test_t26_how_long_issued_tokens_live_on_is_said_in_the_result() -> None:
    fake = FakeKeycloak()
    settings = KeycloakSettings(
        url="http://127.0.0.1:0", realm="ai", client_id="tocsin", client_secret=Rehearsed(), access_token_seconds=240
    )
    adapter = Keycloak(settings, Http(settings, fake.transport()))
    action = Action(id="a1", verb="revoke_sessions", target="user:alice")
    done = adapter.apply(replace(action, snapshot=adapter.prepare(action).snapshot))
    assert "240 s" in done.residual


def test_t30_no_adapter_has_a_credential_of_its_own() -> None:
    for name in NAMES:
        required = {field.name for field in fields(available()[name].Settings) if field.required}
        assert {"url", {"caep": "key", "webhook": "key", "openbao": "token"}.get(name, "client_secret")} <= required, name
