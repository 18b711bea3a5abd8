"""The lab: real changes of state, seen through their effects, and taken back without touching what others changed."""

from __future__ import annotations

import msgspec
import pytest

from connectors.containment import Action
from connectors.containment.lab import Fault, Job, Lab, LabSettings, LabTarget, NetworkPolicy, Pod, State, Token, User

POD = "pod:team-a/trainer-0"


def lab() -> Lab:
    adapter = Lab.rehearsal().adapter
    assert isinstance(adapter, Lab)
    return adapter


def done(adapter: Lab, verb: str, target: str, action: str = "a1") -> Action:
    first = Action(id=action, verb=verb, target=target)
    ready = adapter.prepare(first)
    assert ready.status == "ready", ready
    first = msgspec.structs.replace(first, snapshot=ready.snapshot)
    assert adapter.apply(first).status == "applied"
    return first


def test_t1_isolating_one_of_three_replicas_leaves_its_siblings_traffic() -> None:
    adapter = lab()
    done(adapter, "isolate_pod", POD)
    assert [adapter.target.can_connect(f"pod:team-a/trainer-{i}") for i in range(3)] == [False, True, True]


def test_t2_a_policy_named_like_the_owner_is_untouched_and_ours_has_its_own_name() -> None:
    adapter = lab()
    before = msgspec.to_builtins(adapter.target.state.policies["team-a/trainer"])
    action = done(adapter, "isolate_pod", POD)
    assert set(adapter.target.state.policies) == {"team-a/trainer", "team-a/tocsin-a1"}
    adapter.undo(action)
    assert msgspec.to_builtins(adapter.target.state.policies) == {"team-a/trainer": before}


def test_t2_a_foreign_policy_under_our_very_name_is_refused_not_overwritten() -> None:
    adapter = lab()
    foreign = NetworkPolicy(selector={"app": "other"}, effect="allow", made_by="someone")
    adapter.target.state.policies["team-a/tocsin-a1"] = foreign
    action = Action(id="a1", verb="isolate_pod", target=POD)
    action = msgspec.structs.replace(action, snapshot=adapter.prepare(action).snapshot)
    assert adapter.apply(action).status == "failed"
    adapter.undo(action)
    assert adapter.target.state.policies["team-a/tocsin-a1"] is foreign


def test_t3_an_allow_policy_does_not_open_what_the_quarantine_denies() -> None:
    adapter = lab()
    done(adapter, "isolate_pod", POD)
    adapter.target.state.policies["team-a/open"] = NetworkPolicy(selector={}, effect="allow")
    assert not adapter.target.can_connect(POD)


def test_a_policy_of_one_namespace_does_not_reach_into_another() -> None:
    adapter = lab()
    adapter.target.state.policies["team-b/all"] = NetworkPolicy(selector={}, effect="deny")
    assert adapter.target.can_connect(POD)
    adapter.target.state.policies["team-a/all"] = NetworkPolicy(selector={}, effect="deny")
    assert not adapter.target.can_connect(POD)


def test_a_pod_that_was_replaced_between_look_and_call_is_left_alone() -> None:
    adapter = lab()
    action = Action(id="a1", verb="isolate_pod", target=POD)
    action = msgspec.structs.replace(action, snapshot=adapter.prepare(action).snapshot)
    adapter.target.state.pods[POD] = Pod(uid="another")
    assert adapter.apply(action).status == "failed"
    assert adapter.target.can_connect(POD)


def test_a_pod_replaced_after_isolation_is_not_called_contained() -> None:
    adapter = lab()
    action = done(adapter, "isolate_pod", POD)
    adapter.target.learn(State(pods={POD: Pod(uid="another")}))
    assert adapter.verify(action).status == "unverified"
    del adapter.target.state.pods[POD]
    assert adapter.verify(action).status == "unverified"
    assert adapter.undo(action).status == "undone"
    assert adapter.verify_undone(action).status == "verified"


def test_undo_keeps_the_labels_that_a_user_changed_meanwhile() -> None:
    adapter = lab()
    action = done(adapter, "isolate_pod", POD)
    labels = adapter.target.state.pods[POD].labels
    labels["app"], labels["new"] = "renamed", "1"
    adapter.undo(action)
    assert labels == {"app": "renamed", "new": "1", "pod-template-hash": "7c9"}


def test_revoked_tokens_stop_working_and_others_do_not() -> None:
    adapter = lab()
    action = done(adapter, "revoke_sessions", "user:alice")
    assert [adapter.target.authenticates(f"token:t{i}") for i in range(1, 5)] == [False, False, True, True]
    adapter.target.learn(State(tokens={"token:new": Token(owner="user:alice")}))
    assert adapter.target.authenticates("token:new")
    assert adapter.verify(action).status == "verified"


def test_ending_one_session_stops_its_tokens_only() -> None:
    adapter = lab()
    done(adapter, "revoke_sessions", "session:a1")
    assert [adapter.target.authenticates(f"token:t{i}") for i in (1, 2)] == [False, True]


def test_revoking_a_user_without_sessions_is_already_so_and_of_a_stranger_not_found() -> None:
    adapter = Lab(LabSettings(state=State(users={"user:idle": User()})))
    assert adapter.prepare(Action(id="a1", verb="revoke_sessions", target="user:idle")).status == "already"
    found = adapter.prepare(Action(id="a1", verb="revoke_sessions", target="user:stranger"))
    assert (found.status, found.reason) == ("failed", "not found: user:stranger")


def test_a_disabled_user_can_neither_log_in_nor_use_a_token_until_undone() -> None:
    adapter = lab()
    action = done(adapter, "disable_user", "user:alice")
    assert not adapter.target.can_log_in("user:alice")
    assert not adapter.target.authenticates("token:t1")
    adapter.undo(action)
    assert adapter.target.can_log_in("user:alice")
    assert adapter.target.authenticates("token:t1")


def test_undo_does_not_enable_a_user_whom_an_administrator_disabled_meanwhile() -> None:
    adapter = lab()
    action = done(adapter, "disable_user", "user:alice")
    adapter.target.state.users["user:alice"].disabled_by = "administrator"
    assert adapter.undo(action).status == "already"
    assert not adapter.target.can_log_in("user:alice")
    assert adapter.verify_undone(action).status == "verified"


def test_undo_leaves_a_job_cancelled_that_its_user_cancelled_meanwhile() -> None:
    adapter = lab()
    action = done(adapter, "suspend_job", "job:slurm/1")
    assert not adapter.target.is_running("job:slurm/1")
    adapter.target.state.jobs["job:slurm/1"].state = "CANCELLED"
    assert adapter.undo(action).status == "already"
    assert adapter.target.state.jobs["job:slurm/1"] == Job(user="user:alice", state="CANCELLED")


def test_a_job_that_has_ended_is_already_so() -> None:
    adapter = lab()
    adapter.target.state.jobs["job:slurm/1"].state = "COMPLETED"
    assert adapter.prepare(Action(id="a1", verb="suspend_job", target="job:slurm/1")).status == "already"


def test_the_state_goes_through_plain_data_and_back() -> None:
    adapter = lab()
    done(adapter, "isolate_pod", POD)
    plain = msgspec.json.decode(msgspec.json.encode(adapter.target.dump()))
    again = LabTarget.load(plain)
    assert again.dump() == adapter.target.dump()
    assert not again.can_connect(POD)
    with pytest.raises(msgspec.ValidationError, match="RUNING"):
        LabTarget.load({"jobs": {"job:slurm/1": {"user": "user:a", "state": "RUNING"}}})


def test_learning_the_inventory_again_does_not_lift_a_containment() -> None:
    adapter = lab()
    inventory = LabTarget.load(adapter.target.dump()).state
    done(adapter, "isolate_pod", POD)
    done(adapter, "suspend_job", "job:slurm/1")
    contained = adapter.target.dump()
    adapter.target.learn(inventory)
    assert adapter.target.dump() == contained


@pytest.mark.parametrize("verb", ["revoke_sessions", "disable_user", "isolate_pod", "suspend_job"])
def test_t12_a_target_that_accepts_without_effect_is_found_out(verb: str) -> None:
    adapter = lab()
    adapter.settings.faults.append(Fault(step="apply", how="ignored"))
    action = done(adapter, verb, Lab.rehearsal().targets[verb][0])
    assert adapter.verify(action).status == "not-effective"


def test_bad_weather_befalls_the_named_step_verb_and_target_only() -> None:
    adapter = lab()
    adapter.settings.faults.append(Fault(step="undo", how="refused", verb="isolate_pod", target=POD))
    spared, struck = done(adapter, "isolate_pod", "pod:team-a/trainer-1", "a1"), done(adapter, "isolate_pod", POD, "a2")
    assert adapter.undo(spared).status == "undone"
    assert adapter.undo(struck).status == "failed"
    adapter.settings.faults[:] = [Fault(step="verify", how="blind"), Fault(step="prepare", how="refused", verb="suspend_job")]
    assert adapter.verify(struck).status == "unverified"
    assert adapter.prepare(Action(id="a3", verb="suspend_job", target="job:slurm/1")).status == "failed"
