"""What every adapter makes of answers that are not its target's, of secrets that come back, and of a target that never ends."""

from __future__ import annotations

import base64
import json
import socket
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import repeat
from threading import Event, Thread
from typing import Any

import httpx
import pytest
from msgspec.structs import replace

from connectors.containment import Action, Adapter, Verb
from connectors.containment._fake import Rehearsed
from connectors.containment._http import CallFailed, Endpoint, Http
from connectors.containment._quote import LONGEST_QUOTE, quote, remember
from connectors.containment.openbao import Openbao, OpenbaoSettings
from tests.test_identity_adapters import CASES as IDENTITY
from tests.test_identity_adapters import Storm, Text, calm
from tests.weather import CASES as WORKLOAD
from tests.weather import outdoors, prepared

#: What stands in front of a target, or in its place, says of an address it does not know.
FOREIGN: dict[str, bytes] = {
    "Go, nginx ingress": b"404 page not found\n",
    "page": b"<html><h1>404 Not Found</h1></html>",
    "Spring gateway": b'{"timestamp":"t","status":404,"error":"Not Found","path":"/x"}',
    "Kong": b'{"message":"no Route matched with those values","request_id":"1"}',
    "empty": b"",
    "empty object": b"{}",
    "API server, another word": b'{"kind":"Status","reason":"Expired","code":404}',
    "a registry": b'{"errors":[{"code":"NAME_UNKNOWN","message":"repository name not known"}]}',
    "Keycloak, no realm": b'{"error":"Realm not found."}',
    "Keycloak, no address": b'{"error":"Unable to find matching target resource method"}',
    "OpenBao, no mount": b'{"errors":["no handler for route \\"transit/keys/x\\". route entry not found."]}',
}


def contained(make: Any, fake: Any, verb: str, target: str) -> tuple[Adapter, Storm, Any, Action]:
    """An identity-side adapter that has carried its action out."""
    world = fake()
    storm = Storm(world)
    adapter: Adapter = make(storm)
    action = Action(id="a1", verb=verb, target=target, time=1_800_000_000_000_000)
    action = replace(action, snapshot=adapter.prepare(action).snapshot)
    assert adapter.apply(action).status == "applied"
    return adapter, storm, world, action


@pytest.mark.parametrize("body", FOREIGN.values(), ids=list(FOREIGN))
@pytest.mark.parametrize(
    "case",
    [
        each
        for each in IDENTITY.values()
        if each[2] in ("disable_user", "require_step_up", "disable_entity", "withhold_key", "notify_soar")
    ],
    ids=lambda each: each[2],
)
def test_an_undo_under_a_foreign_404_has_failed_and_what_is_ours_is_still_there(case: Any, body: bytes) -> None:
    adapter, storm, world, action = contained(*case)
    before = world.state()
    storm.strike = lambda _count, _request: httpx.Response(404, content=body)
    undone, seen = adapter.undo(action), adapter.verify_undone(action)
    assert undone.status == "failed"
    assert undone.trouble is not None
    assert undone.trouble.kind == "down"
    assert seen.status == "unverified"
    assert world.state() == before
    storm.strike = calm
    assert adapter.undo(action).status == "undone"


@pytest.mark.parametrize("body", FOREIGN.values(), ids=list(FOREIGN))
@pytest.mark.parametrize(
    ("name", "verb", "target"), [case for case in WORKLOAD if case[1].undoable], ids=lambda each: getattr(each, "name", str(each))
)
def test_an_undo_of_work_under_a_foreign_404_has_failed(name: str, verb: Verb, target: str, body: bytes) -> None:
    with outdoors(name) as stage:
        action = prepared(stage, verb, target)
        assert stage.adapter.apply(action).status == "applied"
        before = stage.state()
        fine = stage.adapter.http._client  # type: ignore[attr-defined]
        stage.adapter.http._client = httpx.Client(transport=httpx.MockTransport(lambda _: httpx.Response(404, content=body)))  # type: ignore[attr-defined]
        undone, seen = stage.adapter.undo(action), stage.adapter.verify_undone(action)
        assert (undone.status, seen.status) == ("failed", "unverified")
        assert undone.trouble is not None
        assert undone.trouble.kind == "down"
        assert stage.state() == before
        stage.adapter.http._client = fine  # type: ignore[attr-defined]
        assert stage.adapter.undo(action).status == "undone"


@pytest.mark.parametrize(("name", "verb", "target"), [case for case in WORKLOAD if case[1].undoable and case[0] == "slurm"], ids=str)
def test_an_empty_answer_of_status_200_is_not_slurms_and_nothing_is_gone(name: str, verb: Verb, target: str) -> None:
    with outdoors(name) as stage:
        action = prepared(stage, verb, target)
        assert stage.adapter.apply(action).status == "applied"
        stage.adapter.http._client = httpx.Client(transport=httpx.MockTransport(lambda _: httpx.Response(200, json={})))  # type: ignore[attr-defined]
        assert (stage.adapter.undo(action).status, stage.adapter.verify_undone(action).status) == ("failed", "unverified")


def test_a_cluster_without_cilium_is_told_from_one_that_does_not_answer() -> None:
    isolate = next(case for case in WORKLOAD if case[1].name == "isolate_pod")
    with outdoors("kubernetes") as stage:
        fake: Any = stage.weather.fake
        fake.groups -= {"cilium.io"}
        root = "/apis/networking.k8s.io/v1/namespaces/team-a/networkpolicies"
        selector = {"matchExpressions": [{"key": "tocsin.io/quarantine", "operator": "Exists"}]}
        fake.put(f"{root}/tocsin-quarantine", spec={"podSelector": selector, "policyTypes": ["Ingress", "Egress"]})
        fake.objects = {path: one for path, one in fake.objects.items() if "ciliumclusterwide" not in path}
        action = prepared(stage, isolate[1], isolate[2])
        assert stage.adapter.apply(action).status == "applied"
        assert stage.adapter.verify(action).reason.startswith("denied by NetworkPolicy as written")


SECRET = "hvs.SUPER/SECRET+x"  # noqa: S105 - of nobody
BASIC = base64.b64encode(f"tocsin:{SECRET}".encode()).decode()


@pytest.mark.parametrize(
    "echo",
    [
        f"bad token {SECRET}",
        json.dumps({"got": SECRET}),
        "hvs.SUPER%2FSECRET%2Bx",
        "x" * (LONGEST_QUOTE - 20) + SECRET,
        " " * 5000 + SECRET,
    ],
)
def test_a_secret_that_the_target_sends_back_is_not_quoted(echo: str) -> None:
    settings = OpenbaoSettings(url="http://127.0.0.1:0", token=Text(text=SECRET))
    adapter = Openbao(settings, Http(settings, httpx.MockTransport(lambda _: httpx.Response(403, content=echo.encode()))))
    found = adapter.prepare(Action(id="a1", verb="disable_entity", target="user:alice"))
    assert found.status == "failed"
    assert "SUPER" not in found.reason


@pytest.mark.parametrize(
    ("headers", "form"),
    [
        ({"Authorization": f"Bearer {SECRET}"}, None),
        ({"Authorization": f"Basic {BASIC}"}, None),
        ({"X-SLURM-USER-TOKEN": SECRET}, None),
        ({}, {"client_secret": SECRET}),
    ],
)
def test_whatever_is_sent_as_a_credential_is_taken_out_of_an_echo(headers: dict[str, str], form: dict[str, str] | None) -> None:
    echo = httpx.MockTransport(lambda request: httpx.Response(400, content=f"{request.headers} {request.read()!r} {SECRET}".encode()))
    with pytest.raises(CallFailed) as told:
        Http(Endpoint(url="http://127.0.0.1:0"), echo).call("POST", "/x", headers=headers, form=form)
    assert SECRET not in told.value.reason
    assert BASIC not in told.value.reason


@pytest.mark.parametrize("value", ["hvs.SUPERSECRET ", "hvs.\nSUPERSECRET", "hvs.SUPERSECRET\u00e9"])
def test_a_header_that_cannot_be_sent_is_not_quoted_and_nothing_was_sent(value: str) -> None:
    with served(b"") as url:
        http = Http(Endpoint(url=url))
        with pytest.raises(CallFailed) as told:
            http.call("GET", "/x", headers={"X-Vault-Token": value})
        http.close()
    assert (told.value.trouble.kind, told.value.sent) == ("unauthorised", False)
    assert "SUPERSECRET" not in told.value.reason


def test_old_secrets_are_forgotten_and_short_ones_never_looked_for() -> None:
    remember("abc")
    assert quote("abcdef") == "abcdef"
    remember("first-secret")
    for number in range(300):
        remember(f"secret-{number}")
    assert quote("first-secret secret-299") == "first-secret [secret]"


@contextmanager
def served(head: bytes, drip: bytes = b"", every: float = 0.05) -> Iterator[str]:
    """A server that answers each connection with ``head`` and then ``drip``, byte after byte, for ever."""
    done = Event()
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        while not done.is_set():
            try:
                talk, _ = listener.accept()
            except OSError:
                return
            with talk:
                try:
                    talk.recv(65536)
                    talk.sendall(head)
                    while drip and not done.wait(every):
                        talk.sendall(drip)
                except OSError:
                    continue

    thread = Thread(target=serve, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        done.set()
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join(5)


#: Where a target can drip: each byte comes well within the time-out for a pause.
DRIPS = {
    "status line": (b"", b"H"),
    "headers": (b"HTTP/1.1 200 OK\r\nX-A: ", b"a"),
    "length of a chunk": (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1;", b"a"),
    "body": (b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n", b"a"),
}


@pytest.mark.parametrize("where", DRIPS)
def test_a_target_that_drips_holds_a_call_up_no_longer_than_the_deadline(where: str) -> None:
    with served(*DRIPS[where]) as url:
        http = Http(Endpoint(url=url, timeout_seconds=5, deadline_seconds=2))
        start = time.monotonic()
        with pytest.raises(CallFailed) as told:
            http.call("GET", "/x")
        assert time.monotonic() - start < 60
        assert (told.value.trouble.kind, told.value.sent) == ("down", True)
        http.close()


def test_a_step_of_many_calls_is_over_within_the_deadline() -> None:
    with served(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\n", b"[", 0.1) as url:
        http = Http(Endpoint(url=url, timeout_seconds=5, deadline_seconds=3))
        start = time.monotonic()
        with http.step():
            http.call("GET", "/x")
            with pytest.raises(CallFailed) as told:
                deque((http.call("GET", "/x") for _ in repeat(0)), maxlen=0)
        assert time.monotonic() - start < 60
        assert told.value.trouble.kind == "down"
        # The next step has its own time.
        with http.step():
            http.call("GET", "/x")
        http.close()


def test_five_hundred_offline_sessions_on_a_slow_server_are_ended_step_by_step(monkeypatch: pytest.MonkeyPatch) -> None:
    from connectors.containment import _http
    from connectors.containment._fake_keycloak import FakeKeycloak
    from connectors.containment.keycloak import Keycloak, KeycloakSettings

    now = [0.0]

    class Slow(FakeKeycloak):
        """Two tenths of a second an answer, on a clock of its own."""

        def answer(self, ask: Any) -> Any:
            now[0] += 0.2
            return super().answer(ask)

    monkeypatch.setattr(_http, "monotonic", lambda: now[0])
    fake = Slow()
    for number in range(500):
        fake.live[f"of{number}"] = (fake.named("bob")["id"], True)
    settings = KeycloakSettings(url="http://127.0.0.1:0", realm="ai", client_id="tocsin", client_secret=Rehearsed())
    adapter = Keycloak(settings, Http(settings, fake.transport()))
    action = Action(id="a1", verb="revoke_offline", target="user:bob")
    action = replace(action, snapshot=adapter.prepare(action).snapshot)
    steps = 0
    while True:
        start = now[0]
        done = adapter.apply(action)
        assert now[0] - start <= settings.deadline_seconds + 0.2
        steps += 1
        if done.status == "applied":
            break
        assert (done.status, done.trouble and done.trouble.kind) == ("unknown", "down")
    assert 2 <= steps <= 6
    assert adapter.verify(action).status == "verified"
