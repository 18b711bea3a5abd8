"""The 32 traps that others fell into: where each is tested, and those of the responder that have no better place."""

from __future__ import annotations

import re
import socket
from pathlib import Path
from typing import Any

import msgspec
import pytest
from msgspec.structs import replace

from connectors.containment import available
from connectors.containment.lab import Lab
from connectors.event import MINUTE, SECOND
from detector.changes import Suppressions
from detector.config import ConfigError, parse
from detector.decide import decide
from detector.history import History
from detector.ledger import Ledger
from detector.policy import Measure, Respond, Rule
from detector.respond import Responder
from detector.wishes import Policy
from tests.alerts import T0, made_alert
from tests.checkout import ROOT
from tests.test_pipeline import office, run
from tests.test_respond import lab, table

#: Trap -> the tests that cover it. Numbers as in the list of traps.
COVER: dict[int, tuple[str, ...]] = {
    1: (
        "test_lab::test_t1_isolating_one_of_three_replicas_leaves_its_siblings_traffic",
        "test_traps_workload::test_t1_isolating_one_of_three_replicas_leaves_its_siblings_their_traffic",
    ),
    2: (
        "test_lab::test_t2_a_foreign_policy_under_our_very_name_is_refused_not_overwritten",
        "test_traps_workload::test_t2_no_policy_of_anybody_is_made_changed_or_removed",
    ),
    3: ("test_traps_workload::test_t3_what_another_policy_allows_stays_open_and_is_said_to",),
    4: (
        "test_kubernetes_rights::test_with_its_role_every_verb_can_be_done_seen_and_taken_back",
        "test_openbao::test_the_shipped_policy_is_enough_for_every_verb",
        "test_harbor_rights::test_the_shipped_user_of_slurm_has_the_least_rank_that_is_enough",
    ),
    5: ("test_responder::test_t5_a_share_of_a_small_population_lets_one_be_contained_and_says_why_not_two",),
    6: ("test_traps::test_t6_each_setting_changes_only_what_it_is_for",),
    7: ("test_kill::test_t7_killed_at_a_boundary_there_is_one_effect_and_it_ends_in_time",),
    8: (
        "test_traps::test_t8_the_responder_opens_no_door",
        "test_responder::test_t8_a_word_of_which_nobody_knows_who_said_it_does_not_count",
    ),
    9: ("test_traps::test_t9_a_hundred_attackers_under_one_rule_are_all_contained_and_each_ends_by_itself",),
    10: ("test_policy::test_t10_whatever_the_rules_alerts_and_history_no_safety_rule_is_broken",),
    11: ("test_responder::test_t11_a_repeated_containment_lasts_longer_each_time_and_starts_anew_after_a_quiet_day",),
    12: ("test_respond::test_t12_only_a_verified_effect_counts_as_verified",),
    13: ("test_pipeline::test_a_restart_in_the_middle_gives_the_same_alerts_and_state",),
    14: (
        "test_counts::test_a_row_too_late_is_read_and_counted_and_teaches_nothing",
        "test_fuse::test_evidence_that_came_too_late_to_be_learned_says_so",
    ),
    15: ("test_responder::test_t15_no_jump_of_the_wall_clock_moves_the_responders_time",),
    16: ("test_kafka_chaos::test_a_block_at_which_the_core_raises_stops_its_stage_the_third_time_until_it_is_put_aside",),
    17: (
        "test_names::test_a_path_segment_that_goes_up_is_refused",
        "test_names::test_a_name_is_refused_from_one_byte_over_the_limit",
        "test_names::test_control_and_invisible_characters_are_refused",
    ),
    18: (
        "test_score::test_a_restricted_identity_is_never_forgotten",
        "test_watch::test_a_flood_of_new_identities_is_told_and_does_not_become_usual_while_it_lasts",
    ),
    19: ("test_watch::test_lag_that_rises_over_three_heartbeats_above_the_bound_is_told_and_closed_when_it_is_worked_off",),
    20: ("test_traps::test_t20_one_owner_alone_cannot_silence_what_is_restricted",),
    21: ("test_responder::test_t21_a_policy_read_anew_counts_for_what_waits_and_what_is_contained",),
    22: ("test_traps::test_t22_what_stays_within_the_site_is_scored_by_default",),
    23: (
        "test_source_slurm_jobcomp::test_a_job_that_starts_is_seen_at_each_of_its_nodes",
        "test_source_slurm_jobcomp::test_start_and_end_are_read_field_by_field",
    ),
    24: ("test_traps::test_t24_nothing_we_say_claims_that_an_action_prevents_anything",),
    25: ("test_traps_workload::test_t25_no_job_of_slurm_is_suspended_in_place_with_its_gpus_in_its_hands",),
    26: ("test_traps::test_t26_what_stays_open_stands_in_the_ledger_with_every_action",),
    27: ("test_watch::test_an_edited_allow_list_is_told_for_a_day_and_the_first_one_seen_is_not_an_edit",),
    28: ("test_fuse::test_a_revision_that_went_out_does_not_change_any_more",),
    29: ("test_peers::test_two_ways_of_life_are_two_groups",),
    30: ("test_traps::test_t30_no_adapter_has_a_secret_of_its_own_or_a_place_to_write_one",),
    31: ("test_kafka_chaos::test_one_partition_gives_the_alerts_of_a_replay_byte_for_byte_and_one_poison_record_one_dead_letter",),
    32: (
        "test_watch::test_a_process_that_stops_sending_heartbeats_is_told_once_with_what_nobody_reads",
        "test_watch::test_a_source_that_sent_all_the_time_is_silent_after_five_minutes",
        "test_watch::test_a_canary_that_does_not_arrive_is_told_for_its_partition",
    ),
}


def test_every_trap_has_its_place_and_every_named_test_is_there() -> None:
    assert sorted(COVER) == list(range(1, 33))
    for number, place in [(number, place) for number, places in COVER.items() for place in places]:
        file, _, name = place.partition("::")
        text = (ROOT / "tests" / f"{file}.py").read_text(encoding="utf-8")
        assert re.search(rf"^(async )?def {name}\(", text, re.MULTILINE), f"T{number}: {file}::{name}"
        named = re.match(r"test_t(\d+)_", name)
        assert named is None or int(named.group(1)) == number, f"T{number}: {name} is of another trap"


#: A field of the policy, another value, and what it changes of what is decided on one alert; everything else stays as it was.
FIELDS: list[tuple[str, dict[str, Any], dict[str, Any], set[str]]] = [
    ("max_per_hour of all", {"max_per_hour": 0}, {}, {"result", "reason", "due"}),
    ("max_concurrent of all", {"max_concurrent": 0}, {}, {"result", "reason", "due"}),
    ("mode", {"mode": "observe"}, {}, {"mode", "result", "reason", "due"}),
    ("kill switch", {"kill_switch": True}, {}, {"result", "reason", "due"}),
    ("protected", {"protected": ["pod:*"]}, {}, {"result", "reason", "due"}),
    ("min_signals of all", {"min_signals": 9}, {}, {"result", "reason", "due"}),
    ("max_per_hour of the verb", {}, {"max_per_hour": 0}, {"result", "reason", "due"}),
    ("max_concurrent of the verb", {}, {"max_concurrent": 0}, {"result", "reason", "due"}),
    ("min_signals of the verb", {}, {"min_signals": 9}, {"result", "reason", "due"}),
    ("approvals", {}, {"approvals": 2}, {"result", "reason", "due"}),
    ("ttl", {}, {"ttl_seconds": 60}, {"due"}),
    ("escalate", {}, {"escalate": 2.0}, set()),
    ("cooldown", {}, {"cooldown_seconds": 9}, set()),
    ("approval_seconds", {"approval_seconds": 60}, {}, set()),
    ("max_age_seconds", {"max_age_seconds": 60}, {}, set()),
]


@pytest.mark.parametrize(("name", "of_all", "of_one", "changed"), FIELDS, ids=[each[0] for each in FIELDS])
def test_t6_each_setting_changes_only_what_it_is_for(name: str, of_all: Any, of_one: Any, changed: set[str]) -> None:
    def decided(respond: Respond) -> dict[str, Any]:
        (decision,) = decide(made_alert(), Policy(respond), History(), T0)
        plain: dict[str, Any] = msgspec.to_builtins(decision)
        return plain

    measure = Measure(verb="isolate_pod", mode="enforce")
    usual = Respond(mode="enforce", rules=[Rule(name="r", actions=[measure])])
    other = replace(usual, rules=[Rule(name="r", actions=[replace(measure, **of_one)])], **of_all)
    before, after = decided(usual), decided(other)
    assert {key for key in before if before[key] != after[key]} == changed, name


def test_t9_a_hundred_attackers_under_one_rule_are_all_contained_and_each_ends_by_itself() -> None:
    state = lab().target.state
    pod = state.pods["pod:team-a/trainer-0"]
    state.pods = {f"pod:team-a/p{i}": replace(pod, uid=f"u{i}", ip=f"10.1.0.{i}", labels={"pod": f"p{i}"}) for i in range(100)}
    world = Lab.rehearsal().adapter
    assert isinstance(world, Lab)
    world.target.state = state
    measure = Measure(verb="isolate_pod", mode="enforce", ttl_seconds=600, max_per_hour=100, max_concurrent=100)
    respond = Respond(mode="enforce", max_per_hour=100, max_concurrent=100, rules=[Rule(name="r", actions=[measure])])
    with Ledger() as ledger:
        responder = Responder(respond, [world], ledger)
        for i in range(100):
            alert = made_alert(uid=f"a{i}", targets=[f"pod:team-a/p{i}"], time=T0 + i * SECOND)
            assert [each.result for each in responder.handle(alert)] == ["verified"]
        assert not any(world.target.can_connect(name) for name in state.pods)
        for i in range(100):
            ended = responder.expire(T0 + 10 * MINUTE + i * SECOND)
            assert [(each.target, each.result) for each in ended] == [(f"pod:team-a/p{i}", "undo-verified")]


def test_t24_nothing_we_say_claims_that_an_action_prevents_anything() -> None:
    said = [ROOT / "docs" / "containment.md", *sorted((ROOT / "connectors" / "containment").glob("*.py"))]
    for path in said:
        assert not re.search(r"\bprevent(s|ed|ing)?\b", path.read_text(encoding="utf-8"), re.IGNORECASE), path


def test_t26_what_stays_open_stands_in_the_ledger_with_every_action() -> None:
    with Ledger() as ledger:
        Responder(table(), [lab()], ledger).handle(made_alert())
        carried = [entry.reason for entry in ledger.entries() if entry.result == "carried-out"]
    assert len(carried) == 3
    assert all("; left open: " in reason for reason in carried)


def test_t30_no_adapter_has_a_secret_of_its_own_or_a_place_to_write_one() -> None:
    for name, adapter in available().items():
        for field in msgspec.structs.fields(adapter.Settings):
            word = field.encode_name
            if re.search(r"password|secret|token|key\b", word) and not word.endswith(("_file", "_url", "_path")):
                assert field.type is not str, f"{name}.{word} must be a Secret"


def test_t8_the_responder_opens_no_door(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("the responder listens")

    monkeypatch.setattr(socket.socket, "listen", refuse)
    from tests.test_responder import Stage

    assert Stage(table("isolate_pod"), tmp_path).alert() == ["verified"]


def test_t20_one_owner_alone_cannot_silence_what_is_restricted() -> None:
    one = '[[suppressions]]\nreason = "r"\nowner = "soc"\nscope = ["ip:10.9.*", "model:*"]\nuntil = 2027-01-01T00:00:00Z\n'
    restricted = '[identities]\nrestricted = ["model:*llama*"]\n'
    alone, both = (Suppressions(parse(one + second + restricted)) for second in ("", 'second_owner = "model-team"\n'))
    assert [alone.covers(name, T0) for name in ("ip:10.9.9.9", "model:ai/bert", "model:ai/llama")] == [True, True, False]
    assert [both.covers(name, T0) for name in ("ip:10.9.9.9", "model:ai/bert", "model:ai/llama")] == [True, True, True]
    for second in ("soc", "SOC ", "\\u0007"):
        with pytest.raises(ConfigError, match=r"suppressions\[0\]\.second_owner: expected somebody else than the owner"):
            parse(one + f'second_owner = "{second}"\n' + restricted)


def test_t22_what_stays_within_the_site_is_scored_by_default(tmp_path: Path) -> None:
    path = tmp_path / "conn.log"
    within = [line for line in office() if b"203.0.113.9" not in line]
    path.write_bytes(b"\n".join(within) + b"\n")
    summary, alerts = run([path], "")
    assert summary.events == len(within)
    assert "ip:10.0.0.7" in {alert.blamed for alert in alerts}
