"""The identity-side adapters over their fakes: bad weather, messages as the standards want them, and what is not taken for success."""

from __future__ import annotations

import hmac
import json
import tomllib
from base64 import b64encode
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from msgspec.structs import replace

from connectors.containment import Action, Adapter, Trouble
from connectors.containment._fake import Answer, Ask, Fake, Rehearsed
from connectors.containment._fake_keycloak import FakeKeycloak
from connectors.containment._fake_oauth import FakeOauth
from connectors.containment._fake_openbao import FakeOpenbao
from connectors.containment._fake_receivers import REHEARSED_KEY, FakeHook, FakeReceiver, RehearsedKey
from connectors.containment._http import Http, Secret
from connectors.containment.caep import Caep, CaepSettings
from connectors.containment.keycloak import Keycloak, KeycloakSettings
from connectors.containment.oauth import Oauth, OauthSettings
from connectors.containment.openbao import Openbao, OpenbaoSettings
from connectors.containment.webhook import Webhook, WebhookSettings
from detector.adapters import mistakes
from tests.checkout import code_blocks

URL = "http://127.0.0.1:0"
HOOK_KEY = "a key that is rehearsed with"


class Text(Secret, frozen=True):
    """A secret that a test makes up."""

    env: str = "NONE"
    text: str = ""

    def read(self) -> str:
        return self.text


def keycloak(transport: httpx.BaseTransport) -> Adapter:
    settings = KeycloakSettings(url=URL, realm="ai", client_id="tocsin", client_secret=Rehearsed())
    return Keycloak(settings, Http(settings, transport))


def openbao(transport: httpx.BaseTransport) -> Adapter:
    settings = OpenbaoSettings(url=URL, token=Rehearsed())
    return Openbao(settings, Http(settings, transport))


def oauth(transport: httpx.BaseTransport, **changes: Any) -> Adapter:
    given = {"introspection_path": "/introspect", "in_audience": True, "tokens": {"pipeline": Rehearsed()}, **changes}
    settings = OauthSettings(url=URL, client_id="tocsin", client_secret=Rehearsed(), revocation_path="/revoke", **given)
    return Oauth(settings, Http(settings, transport))


def caep(transport: httpx.BaseTransport, **changes: Any) -> Adapter:
    given = {"issuer": "https://tocsin.test", "audience": "https://idp.test", "key": RehearsedKey(), "key_id": "k1", **changes}
    settings = CaepSettings(url=URL, subject_issuer="https://idp.test", **given)
    return Caep(settings, Http(settings, transport))


def webhook(transport: httpx.BaseTransport, key: str = HOOK_KEY) -> Adapter:
    settings = WebhookSettings(url=URL, key=Text(text=key))
    return Webhook(settings, Http(settings, transport))


#: What is tried: adapter, its fake, a verb, a target.
CASES: dict[str, tuple[Callable[[httpx.BaseTransport], Adapter], Callable[[], Any], str, str]] = {
    "keycloak sessions": (keycloak, FakeKeycloak, "revoke_sessions", "user:alice"),
    "keycloak offline": (keycloak, FakeKeycloak, "revoke_offline", "user:bob"),
    "keycloak disable": (keycloak, FakeKeycloak, "disable_user", "user:carol"),
    "keycloak step-up": (keycloak, FakeKeycloak, "require_step_up", "user:carol"),
    "keycloak not-before": (keycloak, FakeKeycloak, "push_not_before", "realm:ai"),
    "openbao token": (openbao, FakeOpenbao, "revoke_token", "token:acc-alice"),
    "openbao leases": (openbao, FakeOpenbao, "revoke_leases", "secret:database/creds/trainer"),
    "openbao entity": (openbao, FakeOpenbao, "disable_entity", "user:alice"),
    "openbao key": (openbao, FakeOpenbao, "withhold_key", "secret:transit/llama"),
    "oauth": (oauth, FakeOauth, "revoke_oauth_token", "token:pipeline"),
    "caep": (caep, lambda: FakeReceiver(REHEARSED_KEY), "signal_risk_level", "user:alice"),
    "webhook": (webhook, lambda: FakeHook(HOOK_KEY.encode()), "notify_soar", "user:alice"),
}


def calm(_count: int, _request: httpx.Request) -> None:
    """Good weather."""


class Storm(httpx.BaseTransport):
    """Between an adapter and a fake. ``strike`` says what befalls the n-th request from now on; None lets it through."""

    def __init__(self, fake: Fake) -> None:
        self._calm = fake.transport()
        self.count = 0
        self.strike: Callable[[int, httpx.Request], httpx.Response | Exception | None] = calm
        #: Whether what is struck was done all the same.
        self.done = False

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        request.read()
        fault = self.strike(self.count, request)
        self.count += 1
        if fault is None or self.done:
            given = self._calm.handle_request(request)
            if fault is None:
                return given
        if isinstance(fault, Exception):
            raise fault
        return fault


@pytest.fixture(params=CASES)
def staged(request: pytest.FixtureRequest) -> tuple[Adapter, Storm, Any, Action]:
    """An adapter, the storm, the fake, and an action prepared in good weather."""
    make, fake, verb, target = CASES[request.param]
    world = fake()
    storm = Storm(world)
    adapter = make(storm)
    first = Action(id="a1", verb=verb, target=target, alert="alert-1", time=1_800_000_000_000_000)
    ready = adapter.prepare(first)
    assert ready.status == "ready", ready
    storm.count = 0
    return adapter, storm, world, replace(first, snapshot=ready.snapshot)


TOLD: dict[str, tuple[httpx.Response | Exception, Trouble]] = {
    "401": (httpx.Response(401), Trouble("unauthorised")),
    "403": (httpx.Response(403, json={"error": "no"}), Trouble("unauthorised")),
    # What stands in front of a target says so, too: it is no word of the target's on what was asked for.
    "404": (httpx.Response(404, content=b"404 page not found"), Trouble("down")),
    "404 of a gateway": (httpx.Response(404, json={"status": 404, "error": "Not Found", "path": "/"}), Trouble("down")),
    "409": (httpx.Response(409), Trouble("conflict")),
    "429": (httpx.Response(429, headers={"Retry-After": "7"}), Trouble("busy", 7.0)),
    "500": (httpx.Response(500, content=b"<html>"), Trouble("down")),
    "503": (httpx.Response(503, headers={"Retry-After": "3"}), Trouble("busy", 3.0)),
    "redirect": (httpx.Response(302, headers={"Location": "http://127.0.0.1:1/"}), Trouble("refused")),
    "no connection": (httpx.ConnectError("refused"), Trouble("down")),
    "slow": (httpx.ReadTimeout("timed out"), Trouble("down")),
    "half a reply": (httpx.RemoteProtocolError("closed"), Trouble("down")),
}


@pytest.mark.parametrize("fault", TOLD)
def test_in_a_storm_nothing_is_called_done_and_what_is_wrong_is_told(staged: tuple[Adapter, Storm, Any, Action], fault: str) -> None:
    adapter, storm, world, action = staged
    before, (answer, trouble) = world.state(), TOLD[fault]
    storm.strike = lambda _count, _request: answer
    done = adapter.apply(action)
    assert done.status in ("failed", "unknown")
    assert done.trouble == trouble
    assert world.state() == before
    assert adapter.verify(action).status == "unverified"
    assert adapter.undo(action).status == "failed"
    assert adapter.verify_undone(action).status == "unverified"
    assert Rehearsed().read() not in done.reason
    storm.strike = calm
    assert adapter.apply(action).status == "applied"


@pytest.mark.parametrize("done", [False, True], ids=["not done", "done"])
@pytest.mark.parametrize("fault", ["403", "500", "half a reply"])
def test_whichever_call_fails_trying_again_leaves_one_whole_effect(
    staged: tuple[Adapter, Storm, Any, Action], fault: str, done: bool
) -> None:
    adapter, storm, world, action = staged
    before = world.state()
    assert adapter.apply(action).status == "applied"
    whole, calls = world.state(), storm.count
    for struck in range(calls):
        make, fake, verb, _ = next(case for case in CASES.values() if case[2:] == (action.verb, action.target))
        world = fake()
        storm = Storm(world)
        adapter = make(storm)
        again = replace(action, snapshot=adapter.prepare(replace(action, snapshot=None)).snapshot)
        storm.count, storm.done = 0, done
        storm.strike = lambda count, _request, struck=struck: TOLD[fault][0] if count == struck else None  # type: ignore[misc]
        first = adapter.apply(again)
        if first.status == "failed" and not done:
            assert world.state() == before, f"call {struck}: failed, and something is left"
        storm.strike, storm.done = calm, False
        assert adapter.apply(again).status in ("applied", "already"), struck
        assert comparable(world.state()) == comparable(whole), struck
        if next(one for one in adapter.verbs if one.name == verb).undoable:
            assert adapter.undo(again).status == "undone", struck
            assert world.state() == before, struck


def comparable(state: Any) -> str:
    """A state without the second in which a realm's limit was set."""
    if isinstance(state, dict) and "limits" in state:
        state = {**state, "limits": {name: bool(second) for name, second in state["limits"].items()}}
    return json.dumps(state, sort_keys=True, default=str)


def test_success_without_effect_is_not_verified() -> None:
    for make, fake, verb, target in CASES.values():
        storm = Storm(world := fake())
        adapter = make(storm)
        blind = next(one for one in adapter.verbs if one.name == verb).blind
        action = Action(id="a1", verb=verb, target=target)
        action = replace(action, snapshot=adapter.prepare(action).snapshot)
        before = world.state()

        def hollow(_count: int, request: httpx.Request) -> httpx.Response | None:
            reads = ("token", "lookup-accessor", "introspect")
            read = request.method in ("GET", "LIST") or request.url.path.rpartition("/")[2] in reads
            return None if read else httpx.Response(204)

        storm.strike = hollow
        adapter.apply(action)
        storm.strike = calm
        assert world.state() == before
        assert adapter.verify(action).status == ("unverified" if blind else "not-effective"), verb


def test_introspection_that_says_inactive_is_believed_only_of_a_token_that_was_seen_active() -> None:
    fake = FakeOauth()
    fake.audience = False
    adapter = oauth(fake.transport(), in_audience=False)
    action = Action(id="a1", verb="revoke_oauth_token", target="token:pipeline")
    ready = adapter.prepare(action)
    assert ready.status == "ready", "inactive may mean that we may not ask: it is not taken for done"
    action = replace(action, snapshot=ready.snapshot)
    assert adapter.apply(action).status == "applied"
    assert adapter.verify(action).status == "unverified"
    seen = FakeOauth()
    adapter = oauth(seen.transport(), in_audience=False)
    action = replace(action, snapshot=adapter.prepare(replace(action, snapshot=None)).snapshot)
    assert adapter.apply(action).status == "applied"
    assert adapter.verify(action).status == "verified"


def test_a_token_the_server_does_not_know_is_answered_200_and_not_called_revoked() -> None:
    fake = FakeOauth()
    adapter = oauth(fake.transport(), introspection_path="")
    action = Action(id="a1", verb="revoke_oauth_token", target="token:pipeline")
    action = replace(action, snapshot=adapter.prepare(action).snapshot)
    fake.live.clear()
    assert adapter.apply(action).status == "already"
    assert adapter.verify(action).status == "unverified"


@pytest.mark.parametrize(
    ("err", "kind"),
    [
        ("authentication_failed", "unauthorised"),
        ("access_denied", "unauthorised"),
        ("invalid_key", "unauthorised"),
        ("invalid_issuer", "unauthorised"),
        ("invalid_audience", "refused"),
        ("invalid_request", "refused"),
        ("invalid_state", "refused"),
    ],
)
def test_a_receiver_that_refuses_an_event_says_why(err: str, kind: Any) -> None:
    answer = httpx.MockTransport(lambda _request: httpx.Response(400, json={"err": err, "description": "a\u202eb"}))
    done = caep(answer).apply(Action(id="a1", verb="signal_risk_level", target="user:alice", snapshot={"time": 1}))
    assert (done.status, done.trouble) == ("failed", Trouble(kind))
    assert err in done.reason
    assert done.reason.isprintable()


def test_a_security_event_is_as_the_interoperability_profile_wants_it() -> None:
    receiver = FakeReceiver(REHEARSED_KEY)
    adapter = caep(receiver.transport(), email_domain="ai.test")
    for verb, target in (
        ("signal_session_revoked", "session:s1"),
        ("signal_risk_level", "user:alice"),
        ("signal_device_compliance", "node:gpu-1"),
    ):
        action = Action(
            id=f"a-{verb}", verb=verb, target=target, alert="alert-1", time=1_800_000_000_000_000, snapshot={"time": 1_800_000_000}
        )
        assert adapter.apply(action).status == "applied"
        assert adapter.verify(action).status == "unverified"
    subjects = [event["sub_id"] for event in receiver.seen.values()]
    assert subjects[0] == {"format": "complex", "session": {"format": "opaque", "id": "s1"}}
    assert subjects[1] == {"format": "email", "email": "alice@ai.test"}
    assert subjects[2]["device"] == {"format": "iss_sub", "iss": "https://idp.test", "sub": "gpu-1"}
    for event in receiver.seen.values():
        assert {"sub", "exp"}.isdisjoint(event)
        assert event["txn"] == "alert-1"
        ((name, about),) = event["events"].items()
        assert name.startswith("https://schemas.openid.net/secevent/caep/event-type/")
        assert about["event_timestamp"] == 1_800_000_000
        assert about["reason_admin"]["en"]


def test_an_event_sent_again_is_the_same_to_the_byte_so_that_the_receiver_knows_it() -> None:
    sent: list[bytes] = []
    keep = httpx.MockTransport(lambda request: sent.append(request.read()) or httpx.Response(202))  # type: ignore[func-returns-value]
    adapter = caep(keep)
    action = Action(id="a1", verb="signal_risk_level", target="user:alice", time=5_000_000, snapshot={"time": 5})
    adapter.apply(action)
    adapter.apply(replace(action, time=9_000_000))
    assert sent[0] == sent[1]
    assert jwt.get_unverified_header(sent[0].decode()) == {"alg": "RS256", "typ": "secevent+jwt", "kid": "k1"}


def pem(key: Any) -> str:
    form = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    return str(key.private_bytes(*form).decode())


def test_the_tables_in_the_manual_are_accepted() -> None:
    text = "\n".join(block.text for block in code_blocks("docs/containment-identity.md") if block.language == "toml")
    tables = tomllib.loads(text)["respond"]["adapters"]
    assert set(tables) == {"keycloak", "openbao", "oauth", "caep", "webhook"}
    assert mistakes(tables) == []


def weak_keys() -> Iterator[Any]:
    yield pytest.param("no key", id="text")
    yield pytest.param(pem(rsa.generate_private_key(public_exponent=65537, key_size=1024)), id="short")  # noqa: S505 - that is the point
    yield pytest.param(pem(ec.generate_private_key(ec.SECP256R1())), id="another kind")


@pytest.mark.parametrize("key", [*weak_keys()])
def test_a_weak_key_signs_nothing(key: str) -> None:
    receiver = FakeReceiver(REHEARSED_KEY)
    done = caep(receiver.transport(), key=Text(text=key)).apply(
        Action(id="a1", verb="signal_risk_level", target="user:alice", snapshot={"time": 1})
    )
    assert (done.status, done.trouble) == ("failed", Trouble("unauthorised"))
    assert receiver.asked == []


def test_a_webhook_is_signed_over_id_time_and_body_and_its_release_has_an_id_of_its_own() -> None:
    sent: list[Ask] = []

    class Keeps(FakeHook):
        def answer(self, ask: Ask) -> Answer:
            sent.append(ask)
            return super().answer(ask)

    adapter = webhook(Keeps(HOOK_KEY.encode()).transport())
    action = Action(
        id="a1", verb="notify_soar", target="user:alice", alert="alert-1", time=5_000_000, due=9_000_000, snapshot={"time": 5}
    )
    assert adapter.apply(action).status == "applied"
    assert adapter.undo(action).status == "undone"
    assert [ask.headers["webhook-id"] for ask in sent] == ["a1", "a1-undo"]
    assert sent[0].json() == {
        "type": "tocsin.containment.requested",
        "data": {"action": "a1", "target": "user:alice", "alert": "alert-1", "decided": 5, "due": 9},
    }
    for ask in sent:
        over = f"{ask.headers['webhook-id']}.{ask.headers['webhook-timestamp']}.".encode() + ask.body
        assert ask.headers["webhook-signature"] == f"v1,{b64encode(hmac.digest(HOOK_KEY.encode(), over, 'sha256')).decode()}"


@pytest.mark.parametrize("key", ["short", "whsec_c2hvcnQ=", "whsec_!!!!"])
def test_a_webhook_with_a_weak_key_is_not_sent(key: str) -> None:
    hook = FakeHook(HOOK_KEY.encode())
    done = webhook(hook.transport(), key).apply(Action(id="a1", verb="notify_soar", target="user:alice", snapshot={"time": 5}))
    assert (done.status, done.trouble) == ("failed", Trouble("unauthorised"))
    assert hook.asked == []
