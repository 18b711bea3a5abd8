"""Bad weather between an adapter and a fake of its target: what happens to a request, as data."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Event
from typing import Any, NamedTuple
from urllib.parse import unquote

import httpx
import msgspec

from connectors.containment import Action, Adapter, Verb
from connectors.containment._fake import Answer, Ask, Fake
from connectors.containment._fake_harbor import FakeHarbor
from connectors.containment._fake_kubernetes import FakeKubernetes
from connectors.containment._fake_mlflow import FakeMlflow
from connectors.containment._fake_slurm import FakeSlurm
from connectors.containment._http import Http
from connectors.containment.harbor import Harbor, HarborSettings
from connectors.containment.kubernetes import Kubernetes, KubernetesSettings
from connectors.containment.mlflow import Mlflow, MlflowSettings
from connectors.containment.slurm import Slurm, SlurmSettings

#: Longest pause that the adapters under test bear, in seconds: the slow target pauses three times as long.
PATIENCE = 2

#: Headers of an answer that breaks off: more is announced than comes.
_BROKEN = {"Content-Length": "1000", "Connection": "close"}


class Fault(NamedTuple):
    """What befalls a request. ``done``: the target does what was asked. ``answer``: what comes instead of its answer."""

    answer: Answer | None = None
    done: bool = False
    broken: bool = False
    late: bool = False


def answers(status: int, **headers: str) -> Fault:
    """The target answers so and does nothing."""
    return Fault(Answer(status, {"message": "bad weather"}, {name.replace("_", "-"): value for name, value in headers.items()}))


#: Nothing is done, and the answer breaks off.
half = Fault(Answer(200, {"kind": "Status"}, _BROKEN), broken=True)
#: It is done, and the answer breaks off.
lost = Fault(Answer(200, {}, _BROKEN), done=True, broken=True)
#: Something in between answers with a page of its own.
page = Fault(Answer(502, "<html>Bad Gateway</html>"))
#: It is done, but the answer comes after the adapter's patience.
slow = Fault(done=True, late=True)
#: Success is reported and nothing is done.
hollow = Fault()


class Weather(Fake):
    """A target behind bad weather. ``writes``: fault of the n-th write, counted from 0; ``every``: of the others; ``reads``."""

    def __init__(self, fake: Fake) -> None:
        super().__init__()
        self.fake = fake
        self.writes: dict[int, Fault] = {}
        self.every: Fault | None = None
        self.reads: Fault | None = None
        self.written = 0
        #: Nobody waits any more for an answer that is late.
        self.over = Event()

    def clear(self) -> None:
        """Good weather from now on."""
        self.writes, self.every, self.reads = {}, None, None

    def meet(self, ask: Ask) -> Answer:
        """As a server: a late answer comes late, and holds up no other."""
        given, fault = self._struck(ask)
        if fault.late:
            self.over.wait(3 * PATIENCE)
        return given

    def transport(self) -> httpx.MockTransport:
        """In this process: what is late or breaks off is the exception that a connection gives."""

        def handle(request: httpx.Request) -> httpx.Response:
            headers = {name.lower(): value for name, value in request.headers.items()}
            ask = Ask(request.method, unquote(request.url.path), dict(request.url.params), headers, request.read())
            given, fault = self._struck(ask)
            if fault.late:
                raise httpx.ReadTimeout("timed out")
            if fault.broken:
                raise httpx.RemoteProtocolError("peer closed connection without sending complete message body")
            return httpx.Response(
                given.status, headers=given.headers, content=b"" if given.body is None else msgspec.json.encode(given.body)
            )

        return httpx.MockTransport(handle)

    def _struck(self, ask: Ask) -> tuple[Answer, Fault]:
        """What is answered, and what befell the request."""
        reads = ask.method == "GET" and not ask.path.endswith("/requeue")
        fault = self.reads if reads else self.writes.get(self.written) or self.every
        self.written += not reads
        if fault is None:
            return self.fake.meet(ask), Fault(done=True)
        if fault.done or reads:
            given = self.fake.meet(ask)
        else:
            # A write that is not done still gets an answer that looks like one: the thing as it is.
            found = self.fake.meet(Ask("GET", ask.path.removesuffix("/requeue"), ask.query, ask.headers, b""))
            given = Answer(200, found.body if isinstance(found.body, dict) and found.status == 200 else {})
        return fault.answer or given, fault


class Outdoors(NamedTuple):
    """An adapter and its target behind the weather. ``state``: the target's."""

    adapter: Adapter
    weather: Weather
    state: Callable[[], Any]


def _made(name: str) -> tuple[Any, Any, Any]:
    """The fake, the adapter's class and its settings."""
    given = {"url": "http://127.0.0.1:1", "timeout_seconds": PATIENCE}
    if name == "kubernetes":
        at_once: dict[str, Any] = {"token_cache_seconds": 0, "cilium_seconds": 0, **given}
        return (fake := FakeKubernetes()), Kubernetes, KubernetesSettings(token=fake.token, **at_once)
    if name == "slurm":
        return (slurm := FakeSlurm()), Slurm, SlurmSettings(username="tocsin", token=slurm.token, cluster="aifac", **given)  # type: ignore[arg-type]
    if name == "mlflow":
        return (mlflow := FakeMlflow()), Mlflow, MlflowSettings(password=mlflow.password, **given)  # type: ignore[arg-type]
    return (harbor := FakeHarbor()), Harbor, HarborSettings(username="robot$tocsin", password=harbor.password, **given)  # type: ignore[arg-type]


ADAPTERS: dict[str, Any] = {"kubernetes": Kubernetes, "slurm": Slurm, "mlflow": Mlflow, "harbor": Harbor}


@contextmanager
def outdoors(name: str) -> Iterator[Outdoors]:
    """The adapter of that name and its fake, in this process."""
    fake, adapter, settings = _made(name)
    weather = Weather(fake)
    yield Outdoors(adapter(settings, Http(settings, weather.transport())), weather, fake.state)


@contextmanager
def on_the_wire(name: str) -> Iterator[Outdoors]:
    """The same over real HTTP."""
    fake, adapter, settings = _made(name)
    weather = Weather(fake)
    with weather.serve() as url:
        made = adapter(msgspec.structs.replace(settings, url=url))
        try:
            yield Outdoors(made, weather, fake.state)
        finally:
            made.close()
            weather.over.set()


#: Adapter, verb and target of everything that is rehearsed.
CASES: list[tuple[str, Verb, str]] = [
    (name, verb, target)
    for name, adapter in ADAPTERS.items()
    for verb in adapter.verbs
    for target in adapter.rehearsal().targets[verb.name]
]


def prepared(stage: Outdoors, verb: Verb, target: str, id: str = "a1") -> Action:
    """An action that is prepared in good weather."""
    first = Action(id=id, verb=verb.name, target=target)
    ready = stage.adapter.prepare(first)
    assert ready.status == "ready", ready
    return msgspec.structs.replace(first, snapshot=ready.snapshot)
