"""The safety kernel: what no policy, alert or history can talk it into."""

from __future__ import annotations

import hashlib
from fnmatch import fnmatchcase
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from connectors.alert import Alert
from connectors.containment import Verb, offered
from connectors.event import HOUR, SECOND
from detector.decide import Decision, action_id, decide
from detector.ledger import RESULTS, Entry, History
from detector.policy import LADDER, Match, Measure, Mode, Population, Respond, Rule, Shares, problems
from detector.wishes import Policy
from tests.alerts import T0, made_alert, piece


def rules(*measures: Measure, **match: Any) -> list[Rule]:
    return [Rule(name="r", match=Match(**match), actions=list(measures))]


def isolate(mode: Mode = "enforce", **more: Any) -> Measure:
    return Measure(verb="isolate_pod", mode=mode, **more)


def decided(respond: Respond, alert: Alert | None = None, history: History | None = None, now: int = T0) -> list[Decision]:
    return decide(alert or made_alert(), Policy(respond), history or History(), now)


def remember(history: History, alert: Alert, decisions: list[Decision], now: int) -> None:
    """What the responder writes down, carried out at once."""
    for decision in decisions:
        plain = {name: getattr(decision, name) for name in Decision.__struct_fields__}
        entry = Entry(time=now, alert=alert.uid, revision=alert.revision, step="decided", **plain)
        history.add(entry)
        if decision.carried_out:
            history.add(msgspec.structs.replace(entry, step="outcome", result="carried-out"))
            history.add(msgspec.structs.replace(entry, step="verify", result="verified"))


def test_with_nothing_configured_everything_is_observed_and_nothing_is_done() -> None:
    decisions = decided(Respond())
    assert [(d.verb, d.target, d.result) for d in decisions] == [
        ("revoke_sessions", "user:alice", "observed"),
        ("revoke_sessions", "token:t1", "observed"),
        ("isolate_pod", "pod:team-a/trainer-0", "observed"),
        ("suspend_job", "job:slurm/1", "observed"),
    ]
    assert {d.reason for d in decisions} == {"mode is observe"}


@pytest.mark.parametrize("cap", LADDER)
@pytest.mark.parametrize("mode", LADDER)
def test_the_mode_in_force_is_the_lower_of_the_rules_and_the_global_one(cap: Mode, mode: Mode) -> None:
    (decision,) = decided(Respond(mode=cap, rules=rules(isolate(mode))))
    assert LADDER.index(decision.mode) == min(LADDER.index(cap), LADDER.index(mode))
    assert decision.carried_out == (cap == mode == "enforce")
    assert (
        decision.result
        == {"observe": "observed", "propose": "proposed", "approve": "awaiting-approval", "enforce": "enforced"}[decision.mode]
    )
    assert (decision.due > 0) == decision.carried_out


def test_approval_says_how_many_people_it_waits_for() -> None:
    (decision,) = decided(Respond(mode="enforce", rules=rules(isolate("approve"))))
    assert decision.reason == "mode is approve: waits for 1 more person"


@pytest.mark.parametrize(
    ("match", "expected"),
    [
        ({"min_severity": "critical"}, False),
        ({"min_severity": "high"}, True),
        ({"streams": ["auth"]}, False),
        ({"streams": ["auth", "flow"]}, True),
        ({"signals": ["egress"]}, False),
        ({"signals": ["egress", "bytes_out"]}, True),
        ({"blamed": ["sa"]}, False),
        ({"blamed": ["user"]}, True),
        ({"min_signals": 3}, False),
        ({"min_signals": 2}, True),
        ({"min_evidence": 30.1}, False),
        ({"min_evidence": 30.0}, True),
    ],
)
def test_each_condition_of_a_rule_decides_by_itself(match: dict[str, Any], expected: bool) -> None:
    (decision,) = decided(Respond(mode="enforce", rules=rules(isolate(), **match)))
    assert decision.carried_out == expected
    if not expected:
        assert (decision.result, decision.reason) == ("none", "no rule matches")


def test_a_signal_named_twice_is_one_signal() -> None:
    alert = made_alert(signals=["egress", "egress"])
    (decision,) = decided(Respond(mode="enforce", rules=rules(isolate(), min_signals=2)), alert)
    assert decision.reason == "no rule matches"


def test_without_a_target_of_its_kind_an_action_is_a_row_that_says_so() -> None:
    (decision,) = decided(Respond(mode="enforce", rules=rules(isolate())), made_alert(targets=["ip:10.0.0.9"]))
    assert (decision.result, decision.reason) == ("none", "no target of kind pod in the evidence")


def test_what_was_acted_on_is_contained_only_where_that_is_grave_evidence() -> None:
    seen = [(9.0, "pod:a/struck"), (4.5, "pod:a/grave"), (4.4, "pod:a/daily")]
    alert = made_alert(targets=[])
    alert.evidence = [msgspec.structs.replace(piece("user:alice", ""), score=score, object=name) for score, name in seen]
    found = decided(Respond(mode="enforce", rules=rules(isolate(aim="what"))), alert)
    assert [each.target for each in found] == ["pod:a/struck", "pod:a/grave"]


def test_of_two_rules_on_one_target_the_one_further_up_the_ladder_counts() -> None:
    both = [Rule(name="watch", actions=[isolate("observe")]), Rule(name="act", actions=[isolate("enforce")])]
    for order in (both, both[::-1]):
        (decision,) = decided(Respond(mode="enforce", rules=order))
        assert (decision.rule, decision.result) == ("act", "enforced")


def test_a_closing_alert_starts_nothing() -> None:
    (decision,) = decided(Respond(mode="enforce", rules=rules(isolate())), made_alert(activity="close"))
    assert (decision.result, decision.reason) == ("none", "the alert is closing")


def test_protection_is_spelled_like_identities() -> None:
    measure = Measure(verb="revoke_sessions", mode="enforce")
    for pattern, target in (("user:ALICE", "user:alice"), ("user:Al*", "user:alice"), ("user:alice", "user:Alice")):
        alert = made_alert(principals=[target], targets=[])
        (decision,) = decided(Respond(mode="enforce", protected=[pattern], rules=rules(measure)), alert)
        assert decision.result == "protected", pattern


def test_protecting_a_user_protects_the_pod_the_evidence_saw_them_act_through() -> None:
    respond = Respond(mode="enforce", protected=["user:root"], rules=rules(isolate()))
    mixed = made_alert(principals=["user:alice", "user:root"], targets=["pod:a/hers", "pod:a/roots", "pod:a/whose"])
    mixed.evidence = [piece("user:alice", "pod:a/hers"), piece("user:root", "pod:a/roots")]
    assert {d.target: d.result for d in decided(respond, mixed)} == {
        "pod:a/hers": "enforced",
        "pod:a/roots": "protected",
        "pod:a/whose": "protected",
    }


def test_what_is_no_identity_never_becomes_a_target() -> None:
    hostile = ["pod:../../etc", "pod:a\x00b", "pod:a\u202eb", "pod:" + "x" * 10_000, "pod:", "pod", ""]
    (decision,) = decided(Respond(mode="enforce", rules=rules(isolate())), made_alert(principals=hostile, targets=hostile))
    assert (decision.result, decision.target) == ("none", "")


def test_the_hourly_limits_hold_within_one_alert_and_across_alerts() -> None:
    respond = Respond(mode="enforce", max_per_hour=5, rules=rules(isolate(max_per_hour=3)))
    policy, history = Policy(respond), History()
    alert = made_alert(targets=[f"pod:a/p{i}" for i in range(4)])
    first = decide(alert, policy, history, T0)
    assert [d.result for d in first] == ["enforced"] * 3 + ["limited"]
    assert first[-1].reason == "hourly limit reached: 3 of isolate_pod"
    remember(history, alert, first, T0)
    second = made_alert(uid="alert-2", targets=["pod:a/q"], time=T0 + HOUR)
    assert [d.result for d in decide(second, policy, history, T0 + HOUR - 1)] == ["limited"]
    assert [d.result for d in decide(second, policy, history, T0 + HOUR)] == ["enforced"]


def test_t9_attackers_under_one_rule_have_each_their_own_end() -> None:
    respond = Respond(mode="enforce", max_per_hour=100, max_concurrent=100, rules=rules(isolate(max_per_hour=100, max_concurrent=100)))
    policy, history = Policy(respond), History()
    for i in range(100):
        alert = made_alert(uid=f"alert-{i}", targets=[f"pod:a/p{i}"])
        remember(history, alert, decide(alert, policy, history, T0 + i), T0 + i)
    assert sorted(hold.due for hold in history.holds.values()) == [T0 + i + 14_400 * SECOND for i in range(100)]


def test_what_was_limited_is_decided_again_with_the_next_revision() -> None:
    respond = Respond(mode="enforce", rules=rules(isolate(max_per_hour=1)))
    policy, history = Policy(respond), History()
    alert = made_alert(targets=["pod:a/p", "pod:a/q"])
    remember(history, alert, decide(alert, policy, history, T0), T0)
    later = made_alert(revision=2, targets=alert.targets, time=T0 + HOUR)
    again = decide(later, policy, history, T0 + HOUR)
    assert [(d.target, d.result) for d in again] == [("pod:a/p", "already-contained"), ("pod:a/q", "enforced")]


def test_a_revision_is_decided_once_and_a_later_one_repeats_nothing() -> None:
    policy, history, alert = Policy(Respond(mode="enforce", rules=rules(isolate()))), History(), made_alert()
    remember(history, alert, decide(alert, policy, history, T0), T0)
    assert decide(alert, policy, history, T0) == []
    (again,) = decide(made_alert(revision=2, severity=5), policy, history, T0)
    assert (again.result, again.reason) == ("unchanged", "nothing new since revision 1")


def test_a_graver_revision_adds_what_only_it_calls_for() -> None:
    two = [
        Rule(name="a", actions=[isolate()]),
        Rule(name="b", match=Match(min_severity="critical"), actions=[Measure(verb="suspend_job")]),
    ]
    policy, history, alert = Policy(Respond(mode="enforce", rules=two)), History(), made_alert()
    remember(history, alert, decide(alert, policy, history, T0), T0)
    added = decide(made_alert(revision=2, severity=5), policy, history, T0)
    assert [(d.verb, d.result) for d in added] == [("suspend_job", "observed")]


def test_action_ids_depend_on_alert_verb_and_target_and_on_nothing_else() -> None:
    assert action_id("a", "b", "c") == hashlib.blake2b(b'["a","b","c"]', digest_size=16).hexdigest()
    ids = {action_id(*parts) for parts in (("a", "b", "c"), ("ab", "", "c"), ("a", "bc", ""), ("a", "c", "b"))}
    assert len(ids) == 4


@pytest.mark.parametrize(
    ("respond", "expected"),
    [
        (Respond(protected=["alice"]), "respond.protected[0]: expected 'kind:pattern'"),
        (Respond(protected=["user:a", "person:a"]), "respond.protected[1]: expected 'kind:pattern'"),
        (Respond(protected=["user:"]), "respond.protected[0]: expected 'kind:pattern'"),
        (Respond(protected=["ip:10.0.0.300"]), "respond.protected[0]: expected an identity: not an IP address"),
        (Respond(rules=rules(isolate()) * 2), "respond.rules[1].name: expected a name of its own, got 'r'"),
        (Respond(rules=rules()), "respond.rules[0].actions: expected at least one"),
        (Respond(rules=rules(isolate(), streams=["flows"])), "respond.rules[0].match.streams: expected one of flow, "),
        (Respond(rules=rules(isolate(), blamed=["person"])), "respond.rules[0].match.blamed: expected one of user, "),
        (Respond(rules=rules(isolate(), isolate("approve", aim="what"))), "respond.rules[0].actions[1].verb: expected each verb once"),
        (Respond(rules=rules(Measure(verb="nuke"))), "respond.rules[0].actions[0].verb: expected one of "),
    ],
)
def test_a_mistake_is_named_by_its_key_with_what_was_expected(respond: Respond, expected: str) -> None:
    (mistake,) = problems(respond)
    assert mistake.startswith(expected)
    with pytest.raises(ValueError, match="expected"):
        Policy(respond)


@pytest.mark.parametrize(
    ("table", "expected"),
    [
        ({"mode": "act"}, "Invalid enum value 'act'"),
        ({"rule": []}, "Object contains unknown field `rule`"),
        ({"rules": [{"name": "r", "actions": [{"verb": "isolate_pod", "ttl_seconds": 0}]}]}, "Expected `int` >= 60"),
        ({"rules": [{"name": "r", "actions": [{"verb": "isolate_pod", "max_per_hour": -1}]}]}, "Expected `int` >= 0"),
        ({"rules": [{"name": "r", "match": {"min_signals": 0}, "actions": []}]}, "Expected `int` >= 1"),
    ],
)
def test_a_table_of_wrong_shape_is_refused_on_reading(table: dict[str, Any], expected: str) -> None:
    with pytest.raises(msgspec.ValidationError, match=expected):
        msgspec.convert(table, Respond)


def test_the_default_policy_has_no_problems() -> None:
    assert problems(Respond()) == []


POOL = [
    "user:alice",
    "user:admin",
    "sa:kube-system/dns",
    "pod:kube-system/dns-0",
    "pod:a/p",
    "pod:a/q",
    "job:1",
    "token:t",
    "ip:10.0.0.1",
]
PATTERNS = ["user:admin", "user:*", "sa:kube-system/*", "pod:kube-system/*", "pod:?/q", "token:[st]", "job:1"]
MEASURES = st.builds(
    Measure,
    verb=st.sampled_from(sorted(offered())),
    mode=st.sampled_from(LADDER),
    max_per_hour=st.integers(0, 4),
    ttl_seconds=st.just(3_600),
)
RULES = st.lists(
    st.builds(
        Rule,
        name=st.uuids().map(str),
        match=st.builds(Match, min_severity=st.sampled_from(["low", "high"]), min_signals=st.integers(1, 3)),
        actions=st.lists(MEASURES, min_size=1, max_size=4, unique_by=lambda measure: measure.verb),
    ),
    max_size=3,
)
RESPONDS = st.builds(
    Respond,
    mode=st.sampled_from(LADDER),
    protected=st.lists(st.sampled_from(PATTERNS), max_size=3),
    max_per_hour=st.integers(0, 5),
    rules=RULES,
)
ALERTS = st.builds(
    made_alert,
    uid=st.sampled_from(["a1", "a2", "a3"]),
    revision=st.integers(1, 4),
    activity=st.sampled_from(["open", "update", "close"]),
    severity=st.integers(2, 5),
    principals=st.lists(st.sampled_from(POOL), max_size=3),
    targets=st.lists(st.sampled_from(POOL), max_size=4),
    evidence=st.lists(st.builds(piece, st.sampled_from(POOL), st.sampled_from(POOL)), max_size=3),
)
STEPS = st.lists(st.tuples(ALERTS, st.integers(0, 2 * HOUR // 3)), max_size=12)


@given(RESPONDS, STEPS)
@settings(max_examples=150, deadline=None)
def test_t10_whatever_the_rules_alerts_and_history_no_safety_rule_is_broken(respond: Respond, steps: list[tuple[Alert, int]]) -> None:
    policy, history, now = Policy(respond), History(), T0
    done: list[tuple[int, Decision]] = []
    for alert, pause in steps:
        now += pause
        new = alert.revision > history.revisions.get(alert.uid, 0)
        decisions = decide(alert, policy, history, now)
        assert bool(decisions) == new, "every revision is decided, once"
        assert all(d.result in RESULTS for d in decisions)
        assert all(d.reason for d in decisions)
        remember(history, alert, decisions, now)
        done += [(now, d) for d in decisions if d.carried_out]
    for _, decision in done:
        touched = [decision.target, *decision.owners]
        assert not any(fnmatchcase(name, pattern) for name in touched for pattern in respond.protected)
        assert respond.mode == decision.mode == "enforce"
        assert any(m.verb == decision.verb and m.mode == "enforce" for rule in respond.rules for m in rule.actions)
        assert decision.target.partition(":")[0] in offered()[decision.verb].kinds
    for start, _ in done:
        assert sum(start <= time < start + HOUR for time, _ in done) <= respond.max_per_hour
    ids = [decision.action for _, decision in done]
    assert len(ids) == len(set(ids)), "an action is begun once"


def test_the_control_planes_jobs_are_protected() -> None:
    measure = Measure(verb="suspend_job", mode="enforce")
    (decision,) = decided(Respond(mode="enforce", rules=rules(measure)), made_alert(targets=["job:k8s/kube-system/backup"]))
    assert decision.result == "protected"


@pytest.mark.parametrize(
    ("percent", "users", "targets", "results"),
    [
        (1.0, 100, ["token:a", "token:b"], ["enforced", "limited"]),
        (2.0, 100, ["user:alice", "token:b"], ["enforced", "enforced"]),
        (1.0, 100, ["client:a"], ["enforced"]),
        (1.0, 100, ["session:a", "user:bob"], ["enforced", "limited"]),
        (99.0, 100, ["realm:ai"], ["limited"]),
        (99.0, 0, ["realm:ai"], ["limited"]),
        (100.0, 0, ["realm:ai", "client:b"], ["enforced", "enforced"]),
    ],
)
def test_whatever_stands_for_accounts_counts_among_the_users(
    percent: float, users: int, targets: list[str], results: list[str]
) -> None:
    cut = Verb(name="cut", kinds=("user", "client", "session", "token", "realm"), undoable=True, residual="None.", needs=("x",))
    respond = Respond(
        mode="enforce",
        shares=Shares(users=percent),
        population=Population(users=users),
        rules=rules(Measure(verb="cut", mode="enforce")),
    )
    alert = made_alert(principals=["sensor:s"], targets=targets)
    assert [each.result for each in decide(alert, Policy(respond, {"cut": cut}), History(), T0)] == results
