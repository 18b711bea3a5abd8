"""The workload-side adapters in bad weather: what each says, what is left in the target, and that trying again heals it."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from connectors.containment import Action, Adapter, Trouble, Verb
from connectors.containment._http import Secret
from connectors.containment.harbor import Harbor, HarborSettings
from connectors.containment.kubernetes import Kubernetes, KubernetesSettings
from connectors.containment.mlflow import Mlflow, MlflowSettings
from connectors.containment.slurm import Slurm, SlurmSettings
from tests.weather import ADAPTERS, CASES, Fault, answers, half, hollow, lost, on_the_wire, outdoors, page, prepared, slow

IDS = [f"{name}-{verb.name}-{target}" for name, verb, target in CASES]
each_verb = pytest.mark.parametrize(("name", "verb", "target"), CASES, ids=IDS)

#: What befalls every write -> what ``apply`` says of it, and why.
TOLD: dict[str, tuple[Fault, str, Trouble]] = {
    "401": (answers(401), "failed", Trouble("unauthorised")),
    "403": (answers(403), "failed", Trouble("unauthorised")),
    "404 of another": (answers(404), "unknown", Trouble("down")),
    "409": (answers(409), "failed", Trouble("conflict")),
    "422": (answers(422), "failed", Trouble("refused")),
    "429": (answers(429, Retry_After="7"), "failed", Trouble("busy", 7.0)),
    "503 with a wait": (answers(503, Retry_After="3"), "failed", Trouble("busy", 3.0)),
    "500": (answers(500), "unknown", Trouble("down")),
    "502 of a proxy": (page, "unknown", Trouble("down")),
    "half an answer": (half, "unknown", Trouble("down")),
}


@pytest.mark.parametrize("fault", TOLD)
@each_verb
def test_a_write_that_fails_is_said_to_have_failed_and_why(name: str, verb: Verb, target: str, fault: str) -> None:
    with outdoors(name) as stage:
        before, (stage_fault, status, trouble) = stage.state(), TOLD[fault]
        action = prepared(stage, verb, target)
        stage.weather.every = stage_fault
        done = stage.adapter.apply(action)
        # Where one action is several calls, or may be half written, a definite no to one of them leaves the whole unknown.
        assert done.status in (status, "unknown")
        assert done.trouble == trouble
        assert done.reason
        assert stage.state() == before
        assert stage.adapter.verify(action).status == "not-effective"
        stage.weather.clear()
        assert stage.adapter.apply(action).status == "applied"
        assert stage.adapter.verify(action).status == "verified"


@pytest.mark.parametrize("write", [0, 1, 2])
@pytest.mark.parametrize("fault", [answers(500), half, lost, slow, answers(403)], ids=["500", "half", "lost", "slow", "403"])
@each_verb
def test_whichever_write_fails_trying_again_leaves_one_whole_effect(
    name: str, verb: Verb, target: str, fault: Fault, write: int
) -> None:
    with outdoors(name) as calm:
        before = calm.state()
        calm.adapter.apply(prepared(calm, verb, target))
        contained = calm.state()
        if calm.weather.written <= write:
            return
    with outdoors(name) as stage:
        action = prepared(stage, verb, target)
        stage.weather.writes = {write: fault}
        first = stage.adapter.apply(action)
        assert first.status in ("failed", "unknown")
        if first.status == "failed":
            assert stage.state() == before
        again = stage.adapter.apply(action)
        assert again.status in ("applied", "already")
        assert settled(stage.state()) == settled(contained)
        assert stage.adapter.verify(action).status == "verified"
        if verb.undoable:
            assert stage.adapter.undo(action).status == "undone"
            assert stage.state() == before


def settled(state: Any) -> Any:
    """A state without the numbers that a fake gives to what is made anew."""
    text = msgspec.json.encode(state).decode()
    return sorted("".join(each for each in piece if not each.isdigit()) for piece in text.split(","))


@pytest.mark.parametrize("fault", [answers(500), half, lost, slow, answers(403)], ids=["500", "half", "lost", "slow", "403"])
@pytest.mark.parametrize("write", [0, 1, 2])
@each_verb
def test_an_undo_that_fails_says_so_and_the_next_one_finishes_it(name: str, verb: Verb, target: str, fault: Fault, write: int) -> None:
    if not verb.undoable:
        return
    with outdoors(name) as stage:
        before = stage.state()
        action = prepared(stage, verb, target)
        stage.adapter.apply(action)
        stage.weather.writes = {stage.weather.written + write: fault}
        first = stage.adapter.undo(action)
        if stage.weather.writes.keys() & set(range(stage.weather.written)):
            assert first.status == "failed"
        stage.weather.clear()
        assert stage.adapter.undo(action).status in ("undone", "already")
        assert stage.state() == before
        assert stage.adapter.verify_undone(action).status == "verified"


@each_verb
def test_success_without_effect_is_found_out(name: str, verb: Verb, target: str) -> None:
    with outdoors(name) as stage:
        before = stage.state()
        action = prepared(stage, verb, target)
        stage.weather.every = hollow
        assert stage.adapter.apply(action).status in ("applied", "failed", "unknown")
        assert stage.state() == before
        assert stage.adapter.verify(action).status != "verified"


@pytest.mark.parametrize("fault", [*(answers(status) for status in (401, 403, 404, 409, 429, 500)), half, page, slow])
@each_verb
def test_what_cannot_be_read_is_neither_acted_on_nor_believed(name: str, verb: Verb, target: str, fault: Fault) -> None:
    with outdoors(name) as stage:
        before = stage.state()
        action = prepared(stage, verb, target)
        stage.weather.reads = fault
        ready = stage.adapter.prepare(action)
        assert (ready.status, ready.snapshot) == ("failed", None)
        assert ready.trouble is not None
        assert stage.adapter.apply(action).status in ("failed", "unknown")
        assert stage.adapter.verify(action).status == "unverified"
        assert stage.adapter.undo(action).status == "failed"
        assert stage.adapter.verify_undone(action).status == "unverified"
        assert stage.state() == before


NOBODY = "http://127.0.0.1:1"
SECRET = Secret(env="TOCSIN_TEST_SECRET")
AWAY: list[tuple[Adapter, str, str]] = [
    (Kubernetes(KubernetesSettings(url=NOBODY, token=SECRET)), "cordon_node", "node:gpu-1"),
    (Slurm(SlurmSettings(url=NOBODY, username="tocsin", token=SECRET)), "drain_node", "node:gpu-1"),
    (Mlflow(MlflowSettings(url=NOBODY, password=SECRET)), "deny_model", "user:alice"),
    (Harbor(HarborSettings(url=NOBODY, username="x", password=SECRET)), "disable_robot", "user:robot$scanner"),
]


@pytest.mark.parametrize(("adapter", "verb", "target"), AWAY)
def test_a_target_that_is_down_is_down_and_nothing_was_sent(
    adapter: Adapter, verb: str, target: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    action = Action(id="a1", verb=verb, target=target, snapshot={"uid": "u", "id": 1})
    monkeypatch.delenv("TOCSIN_TEST_SECRET", raising=False)
    assert adapter.prepare(action).trouble == Trouble("unauthorised")
    monkeypatch.setenv("TOCSIN_TEST_SECRET", "hush")
    found: list[Any] = [adapter.prepare(action), adapter.apply(action), adapter.verify(action), adapter.undo(action)]
    assert [one.status for one in found] == ["failed", "failed", "unverified", "failed"]
    assert {one.trouble for one in found} == {Trouble("down")}
    assert "hush" not in str(found)
    adapter.close()


@each_verb
def test_a_thing_that_is_gone_meanwhile_is_gone_and_nothing_of_ours_is_left(name: str, verb: Verb, target: str) -> None:
    with outdoors(name) as stage:
        action = prepared(stage, verb, target)
        fake: Any = stage.weather.fake
        for table in ("objects", "jobs", "nodes", "robots"):
            getattr(fake, table, {}).clear()
        # Ours stays, or nothing can be asked.
        getattr(fake, "grants", {}).pop(target.partition(":")[2], None)
        getattr(fake, "associations", []).clear()
        done = stage.adapter.apply(action)
        assert done.status == "failed" or (done.status in ("already", "applied") and not verb.undoable)
        if verb.undoable:
            assert done.trouble == Trouble("gone")
            assert stage.adapter.undo(action).status == "already"
            assert stage.adapter.verify_undone(action).status == "verified"


@pytest.mark.parametrize("fault", [half, lost, slow], ids=["half", "lost", "slow"])
@pytest.mark.parametrize("name", ADAPTERS)
def test_over_real_http_what_breaks_off_or_is_late_is_unknown_and_trying_again_heals_it(name: str, fault: Fault) -> None:
    _, verb, target = next(case for case in CASES if case[0] == name)
    with on_the_wire(name) as stage:
        before = stage.state()
        action = prepared(stage, verb, target)
        stage.weather.writes = {0: fault}
        first = stage.adapter.apply(action)
        assert (first.status, first.trouble) == ("unknown", Trouble("down"))
        assert stage.adapter.apply(action).status in ("applied", "already")
        assert stage.adapter.verify(action).status == "verified"
        assert stage.adapter.undo(action).status == "undone"
        assert stage.state() == before


def test_a_quiet_retry_in_an_adapter_would_be_noticed() -> None:
    with outdoors("slurm") as stage:
        verb = next(verb for verb in Slurm.verbs if verb.name == "drain_node")
        action = prepared(stage, verb, "node:gpu-1")
        stage.weather.every = answers(503)
        stage.adapter.apply(action)
        assert stage.weather.written == 1
