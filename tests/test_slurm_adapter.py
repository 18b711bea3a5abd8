"""The Slurm adapter: what stands in an answer's body counts, whatever its status; and nobody else's job, node or limit is touched."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from connectors.containment import Action, Trouble, Verb
from connectors.containment._fake import Answer
from connectors.containment.slurm import Slurm, SlurmSettings
from tests.weather import Fault, Outdoors, outdoors, prepared

VERBS = {verb.name: verb for verb in Slurm.verbs}


def error(number: int, where: str = "errors") -> Fault:
    """An error in the body of an answer of status 200, in each of the forms that Slurm uses."""
    forms: dict[str, list[dict[str, Any]]] = {
        "errors": [{"error_number": number, "error": "e", "description": "told"}],
        "status": [{"error": {"code": number, "string": "told"}, "job_id": "11"}],
        "results": [{"job_id": 11, "error_code": number, "error": "e", "why": "told"}],
    }
    return Fault(Answer(200, {where: forms[where], "warnings": [{"description": "w", "error_number": 1}]}))


@pytest.mark.parametrize("where", ["errors", "status", "results"])
@pytest.mark.parametrize(
    ("number", "kind", "status"),
    [
        (2010, "unauthorised", "failed"),
        (2002, "unauthorised", "failed"),
        (2017, "gone", "failed"),
        (2020, "busy", "failed"),
        (2039, "refused", "failed"),
        (1007, "down", "unknown"),
        (5004, "down", "unknown"),
        (7000, "down", "unknown"),
    ],
)
def test_an_error_under_status_200_is_an_error_wherever_it_stands(where: str, number: int, kind: Any, status: str) -> None:
    with outdoors("slurm") as stage:
        before = stage.state()
        action = prepared(stage, VERBS["hold_job"], "job:slurm/aifac/12")
        stage.weather.every = error(number, where)
        done = stage.adapter.apply(action)
        assert (done.status, done.trouble) == (status, Trouble(kind))
        assert done.reason == f"Slurm error {number}: told"
        assert stage.state() == before


def test_a_job_already_ended_is_cancelled_as_far_as_anybody_can() -> None:
    with outdoors("slurm") as stage:
        action = prepared(stage, VERBS["cancel_job"], "job:slurm/aifac/11")
        stage.weather.every = error(2021)
        assert stage.adapter.apply(action).status == "already"


def test_an_unknown_job_is_gone_although_the_status_is_200() -> None:
    with outdoors("slurm") as stage:
        ready = stage.adapter.prepare(Action(id="a1", verb="cancel_job", target="job:slurm/aifac/99"))
        assert (ready.status, ready.trouble) == ("failed", Trouble("gone"))


def test_a_job_that_names_no_cluster_is_refused_where_we_have_one_and_taken_where_we_have_none() -> None:
    with outdoors("slurm") as stage:
        for verb in ("hold_job", "requeue_hold", "cancel_job"):
            ready = stage.adapter.prepare(Action(id="a1", verb=verb, target="job:slurm/12"))
            assert (ready.status, ready.trouble) == ("failed", Trouble("refused")), verb
            assert "names no cluster" in ready.reason
        assert stage.weather.fake.asked == []
        stage.adapter._doings["hold_job"].slurm.settings.cluster = ""  # type: ignore[attr-defined]
        assert stage.adapter.prepare(Action(id="a1", verb="hold_job", target="job:slurm/12")).status == "ready"


@pytest.mark.parametrize(
    "target", ["job:slurm/other/11", "job:k8s/team-a/11", "job:slurm/aifac/11_2", "job:slurm/aifac/../11", "job:slurm/"]
)
def test_a_job_of_another_cluster_or_scheduler_is_never_this_ones(target: str) -> None:
    with outdoors("slurm") as stage:
        ready = stage.adapter.prepare(Action(id="a1", verb="cancel_job", target=target))
        assert (ready.status, ready.trouble) == ("failed", Trouble("gone"))
        assert stage.weather.fake.asked == []


def test_a_number_that_was_given_to_another_job_meanwhile_is_left_alone() -> None:
    with outdoors("slurm") as stage:
        fake: Any = stage.weather.fake
        hold = prepared(stage, VERBS["hold_job"], "job:slurm/aifac/12")
        cancel = prepared(stage, VERBS["cancel_job"], "job:slurm/aifac/12")
        fake.jobs[12]["submit_time"] = {"set": True, "infinite": False, "number": 1}
        before = stage.state()
        assert stage.adapter.apply(hold).status == "failed"
        assert stage.adapter.apply(cancel).status == "already"
        assert stage.adapter.undo(hold).status == "already"
        assert stage.state() == before


def test_a_node_that_somebody_drained_stays_drained_and_a_reason_with_a_signature_is_still_ours() -> None:
    with outdoors("slurm") as stage:
        fake: Any = stage.weather.fake
        action = prepared(stage, VERBS["drain_node"], "node:gpu-1")
        fake.nodes["gpu-1"].update(state=["IDLE", "DRAIN"], reason="fan broken")
        assert stage.adapter.apply(action).status == "already"
        assert stage.adapter.undo(action).status == "already"
        assert fake.nodes["gpu-1"]["reason"] == "fan broken"
        fake.nodes["gpu-1"].update(state=["IDLE"], reason="")
        assert stage.adapter.apply(action).status == "applied"
        fake.nodes["gpu-1"]["reason"] += " [tocsin@2026-11-21T00:00:00]"
        assert stage.adapter.undo(action).status == "undone"


def limits(stage: Outdoors) -> list[tuple[int | None, str]]:
    found = [(one["max"]["jobs"]["active"], one["comment"]) for one in stage.state()["associations"]]
    return [(limit["number"] if limit["set"] else None, comment) for limit, comment in found]


def test_a_limit_of_one_account_that_was_there_comes_back_and_one_changed_since_stays() -> None:
    with outdoors("slurm") as stage:
        fake: Any = stage.weather.fake
        fake.associations[0]["max"] = {"jobs": {"active": {"set": True, "infinite": False, "number": 8}}}
        fake.associations[0]["comment"] = "grant 7"
        action = prepared(stage, VERBS["limit_user"], "user:alice")
        assert stage.adapter.apply(action).status == "applied"
        assert limits(stage) == [(0, "tocsin:a1"), (0, "tocsin:a1")]
        fake.associations[1]["max"]["jobs"]["active"] = {"set": True, "infinite": False, "number": 2}
        assert stage.adapter.undo(action).status == "undone"
        assert limits(stage) == [(8, "grant 7"), (2, "")]


def test_a_limit_set_under_another_setting_is_taken_back_after_a_restart() -> None:
    with outdoors("slurm") as stage:
        before = stage.state()
        action = prepared(stage, VERBS["limit_user"], "user:alice")
        assert stage.adapter.apply(action).status == "applied"
        # The responder is started anew with ``jobs = 2``.
        stage.adapter._doings["limit_user"]._jobs = 2  # type: ignore[attr-defined]
        assert stage.adapter.verify(action).reason == "no more than 0 jobs of the user may run"
        assert stage.adapter.apply(action).status == "already"
        assert stage.adapter.undo(action).status == "undone"
        assert stage.state() == before


class Forgetful:
    """An accounting database that keeps no comments."""

    def __init__(self, stage: Outdoors) -> None:
        self._answer = stage.weather.fake.answer
        self._fake: Any = stage.weather.fake

    def __call__(self, ask: Any) -> Answer:
        given = self._answer(ask)
        for one in self._fake.associations:
            one["comment"] = ""
        return given


def test_a_limit_whose_mark_is_not_kept_is_taken_back_at_once_and_refused() -> None:
    with outdoors("slurm") as stage:
        action = prepared(stage, VERBS["limit_user"], "user:alice")
        before = stage.state()
        stage.weather.fake.answer = Forgetful(stage)  # type: ignore[method-assign]
        done = stage.adapter.apply(action)
        assert (done.status, done.trouble) == ("failed", Trouble("refused"))
        assert stage.state() == before


def test_a_304_is_not_taken_for_a_change() -> None:
    with outdoors("slurm") as stage:
        action = prepared(stage, VERBS["limit_user"], "user:alice")
        stage.weather.every = Fault(Answer(304))
        assert stage.adapter.apply(action).status == "failed"
        assert stage.adapter.verify(action).status == "not-effective"


def test_a_caller_without_the_rank_is_told_so_and_an_older_slurm_cannot_requeue() -> None:
    stage = Slurm.rehearsal()
    adapter: Any = stage.adapter
    settings = next(iter(adapter._doings.values())).slurm.settings
    assert isinstance(settings, SlurmSettings)
    action = Action(id="a1", verb="drain_node", target="node:gpu-1", snapshot={"reason": ""})
    settings.username = "alice"
    assert adapter.apply(action).trouble == Trouble("unauthorised")
    with pytest.raises(msgspec.ValidationError, match=r"version: expected v0\.0\.<number>"):
        msgspec.convert({"url": "https://s", "username": "u", "token": {"env": "T"}, "version": "latest"}, SlurmSettings)


@pytest.mark.parametrize("verb", VERBS.values(), ids=list(VERBS))
def test_the_job_that_is_acted_on_is_the_only_thing_that_changes(verb: Verb) -> None:
    with outdoors("slurm") as stage:
        target = Slurm.rehearsal().targets[verb.name][0]
        before = stage.state()
        stage.adapter.apply(prepared(stage, verb, target))
        after = stage.state()
        changed = [(table, key) for table in ("jobs", "nodes") for key in before[table] if before[table][key] != after[table][key]]
        assert len(changed) <= 1
