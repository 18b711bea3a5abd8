"""The OpenBao adapter over the fake that gives the recorded answers, under the policy that is shipped."""

from __future__ import annotations

import json
from typing import Any

import httpx
import pytest
from msgspec.structs import replace

from connectors.containment import Action, Trouble
from connectors.containment._fake import Ask, Rehearsed
from connectors.containment._fake_openbao import FakeOpenbao
from connectors.containment._http import Http
from connectors.containment.openbao import Openbao, OpenbaoSettings
from tests.checkout import ROOT
from tests.test_containment_battery import cycle

#: verb -> what it is tried on.
TARGETS = dict(Openbao.rehearsal().targets)


def shipped() -> dict[str, list[str]]:
    """The policy in ``deploy``: path -> capabilities."""
    whole = json.loads((ROOT / "deploy" / "openbao" / "tocsin.json").read_text())["path"]
    return {path: rule["capabilities"] for path, rule in whole.items()}


def over(fake: FakeOpenbao, **changes: Any) -> Openbao:
    given = {"model_keys": {"ai/llama": "transit/llama"}, "alias_mounts": {"sa": "auth_kubernetes_1"}, **changes}
    settings = OpenbaoSettings(url="http://127.0.0.1:0", token=Rehearsed(), **given)
    return Openbao(settings, Http(settings, fake.transport()))


def shared(fake: FakeOpenbao) -> str:
    """Two containments that withhold one key, the first ending first; "" where the key came back with the second's end only."""
    adapter = over(fake)
    actions = [Action(id=f"a{number}", verb="withhold_key", target=target) for number, target in enumerate(TARGETS["withhold_key"])]
    for number, action in enumerate(actions):
        ready = adapter.prepare(action)
        if ready.status != "ready":
            return f"prepare: {ready}"
        actions[number] = replace(action, snapshot=ready.snapshot)
        if adapter.apply(actions[number]).status != "applied" or adapter.verify(actions[number]).status != "verified":
            return f"apply: {action}"
    for action, left in zip(actions, (True, False), strict=True):
        if adapter.undo(action).status != "undone" or adapter.verify_undone(action).status != "verified":
            return f"undo: {action}"
        if fake.keys["llama"]["soft_deleted"] is not left:
            return f"after the end of {action.target} the key is {'in use' if left else 'withheld'}"
    return "" if not fake.groups else f"left: {fake.groups}"


def test_a_key_that_two_containments_withhold_comes_back_with_the_end_of_the_last() -> None:
    assert shared(FakeOpenbao(shipped())) == ""
    # Two models of one key.
    fake = FakeOpenbao()
    adapter = over(fake, model_keys={"ai/llama": "transit/llama", "ai/llama-ft": "/transit/llama/"})
    first, second = (Action(id=name, verb="withhold_key", target=f"model:ai/{name}") for name in ("llama", "llama-ft"))
    first = replace(first, snapshot=adapter.prepare(first).snapshot)
    # It is prepared before the first is carried out, and called after.
    second = replace(second, snapshot=adapter.prepare(second).snapshot)
    assert [adapter.apply(each).status for each in (first, second, second)] == ["applied", "applied", "already"]
    # The second ends first, too.
    assert adapter.undo(second).status == "undone"
    assert fake.keys["llama"]["soft_deleted"]
    assert adapter.undo(second).status == "already"
    assert adapter.undo(first).status == "undone"
    assert not fake.keys["llama"]["soft_deleted"]
    assert fake.groups == {}


def test_a_key_that_somebody_else_withholds_is_not_ours_to_keep() -> None:
    fake = FakeOpenbao()
    fake.keys["llama"]["soft_deleted"] = True
    ready = over(fake).prepare(Action(id="a1", verb="withhold_key", target="model:ai/llama"))
    assert (ready.status, ready.snapshot) == ("already", None)


@pytest.mark.parametrize("verb", TARGETS)
def test_the_shipped_policy_is_enough_for_every_verb(verb: str) -> None:
    for target in TARGETS[verb]:
        assert cycle(over(FakeOpenbao(shipped())), verb, target) == ""


def test_the_shipped_policy_holds_nothing_that_no_verb_needs() -> None:
    whole = shipped()
    for path, capabilities in whole.items():
        for capability in capabilities:
            less = {**whole, path: [one for one in capabilities if one != capability]}
            failed = [verb for verb, targets in TARGETS.items() for each in targets if cycle(over(FakeOpenbao(less)), verb, each)]
            failed += [shared(FakeOpenbao(less))] if shared(FakeOpenbao(less)) else []
            assert failed, f"{path}: {capability} is not needed"


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "secret/data/x"),
        ("POST", "transit/decrypt/llama"),
        ("POST", "transit/datakey/plaintext/llama"),
        ("DELETE", "transit/keys/llama"),
        ("POST", "transit/keys/llama/config"),
        ("PUT", "sys/policies/acl/tocsin"),
        ("POST", "identity/group/name/admins"),
        ("DELETE", "identity/entity/id/e1"),
        ("POST", "auth/token/create"),
        ("PUT", "sys/seal"),
        ("LIST", "auth/token/accessors"),
    ],
)
def test_the_shipped_policy_reads_no_secret_uses_no_key_and_makes_nobody_mightier(method: str, path: str) -> None:
    fake = FakeOpenbao(shipped())
    assert fake.meet(Ask(method, f"/v1/{path}", {}, {"x-vault-token": Rehearsed().read()}, b"{}")).status == 403


def test_withholding_an_unknown_key_is_answered_204_and_is_no_success() -> None:
    fake = FakeOpenbao()
    token = {"x-vault-token": Rehearsed().read()}
    assert fake.meet(Ask("DELETE", "/v1/transit/keys/no-such/soft-delete", {}, token, b"")).status == 204
    adapter, action = over(fake), Action(id="a1", verb="withhold_key", target="secret:transit/llama")
    action = replace(action, snapshot=adapter.prepare(action).snapshot)
    # It is removed for good between the look and the call.
    del fake.keys["llama"]
    assert adapter.apply(action).trouble == Trouble("gone")
    assert adapter.verify(action).status == "unverified"
    assert adapter.undo(action).status == "already"
    assert fake.groups == {}


def test_a_key_that_stays_in_use_although_the_server_said_yes_is_no_success() -> None:
    fake = FakeOpenbao()
    whole = fake._key

    def deaf(ask: Ask, name: str, what: str) -> Any:
        return whole(ask._replace(method="GET") if what else ask, name, "")

    fake._key = deaf  # type: ignore[method-assign]
    adapter, action = over(fake), Action(id="a1", verb="withhold_key", target="model:ai/llama")
    action = replace(action, snapshot=adapter.prepare(action).snapshot)
    done = adapter.apply(action)
    assert (done.status, done.trouble) == ("failed", Trouble("refused"))
    assert adapter.verify(action).status == "not-effective"
    assert fake.groups == {}, "no note is left of what was not done"


def test_a_token_revoked_twice_or_never_there_is_answered_200_with_a_warning_and_counts_as_gone() -> None:
    fake = FakeOpenbao()
    adapter, action = over(fake), Action(id="a1", verb="revoke_token", target="token:acc-alice")
    action = replace(action, snapshot=adapter.prepare(action).snapshot)
    assert adapter.apply(action).status == "applied"
    assert adapter.apply(action).status == "already"
    assert adapter.verify(action).status == "verified"
    assert adapter.prepare(replace(action, target="token:no-such")).trouble == Trouble("gone")
    assert set(fake.accessors) == {"acc-bob"}


def test_without_a_right_a_token_is_not_taken_for_gone() -> None:
    found = over(FakeOpenbao({})).prepare(Action(id="a1", verb="revoke_token", target="token:acc-alice"))
    assert (found.status, found.trouble) == ("failed", Trouble("unauthorised"))


def test_a_disabled_entity_keeps_its_metadata_and_its_policies() -> None:
    fake = FakeOpenbao()
    before = fake.state()
    adapter, action = over(fake), Action(id="a1", verb="disable_entity", target="user:alice")
    action = replace(action, snapshot=adapter.prepare(action).snapshot)
    assert adapter.apply(action).status == "applied"
    entity = fake.entities["e1"]
    assert (entity["disabled"], entity["metadata"]["team"], entity["policies"]) == (True, "a", ["models"])
    assert adapter.undo(action).status == "undone"
    assert fake.state() == before


def test_a_prefix_with_a_slash_at_its_end_is_answered_400_and_never_sent() -> None:
    fake = FakeOpenbao()
    token = {"x-vault-token": Rehearsed().read()}
    assert fake.meet(Ask("POST", "/v1/sys/leases/revoke-prefix/database/creds/trainer/", {}, token, b"{}")).status == 400
    assert len(fake.leases) == 3
    assert cycle(over(fake), "revoke_leases", "secret:/database/creds/trainer//") == ""
    assert fake.leases == {"database/creds/other/l3"}
    assert all(not path.endswith("/") for _, path in fake.asked[1:])


def test_leases_given_out_after_the_revocation_are_not_revoked_by_a_repeated_call() -> None:
    fake = FakeOpenbao()
    adapter, action = over(fake), Action(id="a1", verb="revoke_leases", target="secret:database/creds/trainer/")
    action = replace(action, snapshot=adapter.prepare(action).snapshot)
    assert adapter.apply(action).status == "applied"
    fake.leases.add("database/creds/trainer/later")
    assert adapter.apply(action).status == "already"
    assert fake.leases == {"database/creds/trainer/later", "database/creds/other/l3"}


@pytest.mark.parametrize(
    "target", ["secret:../sys/seal", "secret:a/../sys/seal", "secret:transit", "secret:/", "model:unmapped", "secret:transit/a?b#c"]
)
def test_a_name_is_quoted_and_one_that_is_no_place_of_a_key_is_gone(target: str) -> None:
    fake = FakeOpenbao()
    found = over(fake).prepare(Action(id="a1", verb="withhold_key", target=target))
    assert found.trouble == Trouble("refused" if ".." in target else "gone")
    assert all(path.startswith("/v1/") and "/keys/" in path for _, path in fake.asked), fake.asked


def test_the_token_goes_in_the_header_and_never_into_a_reason_or_a_snapshot() -> None:
    seen: list[httpx.Request] = []

    def refuse(request: httpx.Request) -> httpx.Response:
        seen.append(request)
        return httpx.Response(403, json={"errors": ["permission denied"]})

    settings = OpenbaoSettings(url="http://127.0.0.1:0", token=Rehearsed(), namespace="team-a")
    adapter = Openbao(settings, Http(settings, httpx.MockTransport(refuse)))
    found = adapter.prepare(Action(id="a1", verb="disable_entity", target="user:alice"))
    assert (seen[0].headers["x-vault-token"], seen[0].headers["x-vault-namespace"]) == (Rehearsed().read(), "team-a")
    assert Rehearsed().read() not in found.reason
