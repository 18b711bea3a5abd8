"""The responder against the lab: real changes of state, every step in the ledger, nothing lost or repeated by a crash."""

from __future__ import annotations

import copy
import sqlite3
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, TypeVar

import pytest

from connectors.containment import Action, Adapter, Applied, Prepared, Trouble, Undone, Verified
from connectors.containment.lab import Fault, Lab, LabSettings, Token
from connectors.event import HOUR, MINUTE, SECOND
from detector.ledger import RESULTS, Entry, Ledger, LedgerFailed
from detector.policy import Match, Measure, Mode, Respond, Rule
from detector.respond import UNDO_AGAIN, Responder, observer
from tests.alerts import T0, made_alert

POD, JOB = "pod:team-a/trainer-0", "job:slurm/1"
TTL = 2 * HOUR


def measures(*verbs: str, mode: Mode = "enforce", **more: Any) -> list[Measure]:
    return [Measure(verb=verb, mode=mode, ttl_seconds=TTL // SECOND, **more) for verb in verbs]


def table(*verbs: str, mode: Mode = "enforce", **more: Any) -> Respond:
    chosen = measures(*(verbs or ("revoke_sessions", "isolate_pod", "suspend_job")))
    return Respond(mode=mode, rules=[Rule(name="r", actions=chosen)], **more)


def lab(*faults: Fault) -> Lab:
    adapter = Lab.rehearsal().adapter
    assert isinstance(adapter, Lab)
    adapter.settings.faults.extend(faults)
    return adapter


def steps(ledger: Ledger, verb: str = "") -> list[tuple[str, str]]:
    return [(entry.step, entry.result) for entry in ledger.entries() if not verb or entry.verb == verb]


def some(counts: dict[str, int]) -> dict[str, int]:
    return {word: number for word, number in counts.items() if number}


def test_an_enforced_policy_really_contains_and_verifies_in_this_order() -> None:
    world, ledger = lab(), Ledger()
    outcomes = Responder(table(), [world], ledger).handle(made_alert())
    assert [(o.verb, o.target, o.result) for o in outcomes] == [
        ("revoke_sessions", "user:alice", "verified"),
        ("revoke_sessions", "token:t1", "verified"),
        ("isolate_pod", POD, "verified"),
        ("suspend_job", JOB, "verified"),
    ]
    assert not world.target.authenticates("token:t2")
    assert not world.target.can_connect(POD)
    assert world.target.can_connect("pod:team-a/trainer-1")
    assert not world.target.is_running(JOB)
    assert steps(ledger, "isolate_pod") == [("decided", "enforced"), ("intent", ""), ("outcome", "carried-out"), ("verify", "verified")]
    assert ledger.verify_chain() is None


def test_by_default_everything_is_observed_and_the_world_stays_as_it_is() -> None:
    world, ledger = lab(), Ledger()
    before = world.target.dump()
    responder = Responder(Respond(), [world], ledger)
    assert {o.result for o in responder.handle(made_alert())} == {"observed"}
    assert responder.expire(T0 + 100 * HOUR) == []
    assert world.target.dump() == before
    assert some(responder.counts()) == {"observed": 4}
    assert list(responder.counts()) == list(RESULTS)


@pytest.mark.parametrize(("mode", "result"), [("observe", "observed"), ("propose", "proposed"), ("approve", "awaiting-approval")])
def test_below_enforce_nothing_is_carried_out(mode: Mode, result: str) -> None:
    world = lab()
    before = world.target.dump()
    outcomes = Responder(table(mode=mode), [world], Ledger()).handle(made_alert())
    assert {o.result for o in outcomes} == {result}
    assert world.target.dump() == before


def test_every_alert_leaves_a_row_also_where_nothing_is_done() -> None:
    ledger = Ledger()
    responder = Responder(table(), [lab()], ledger)
    kinds: list[dict[str, Any]] = [{"severity": 2}, {"principals": [], "targets": []}, {"activity": "close"}, {"signals": []}]
    for i, changes in enumerate(kinds):
        responder.handle(made_alert(uid=f"alert-{i}", **changes))
    assert {entry.alert for entry in ledger.entries()} == {f"alert-{i}" for i in range(4)}
    assert {entry.reason for entry in ledger.entries() if entry.result == "none"} >= {"no rule matches", "the alert is closing"}


def test_the_ledger_keeps_what_stays_open_and_what_is_needed_for_the_way_back() -> None:
    ledger = Ledger()
    Responder(table("isolate_pod"), [lab()], ledger).handle(made_alert())
    intent, outcome = list(ledger.entries())[1:3]
    assert intent.snapshot == {"uid": "u0", "label": None}
    assert "its siblings are untouched" in outcome.reason
    assert outcome.owners == ["user:alice"]


def test_a_containment_ends_when_its_time_is_up_and_the_world_is_as_before() -> None:
    world, ledger = lab(), Ledger()
    before = world.target.dump()
    responder = Responder(table("isolate_pod", "suspend_job"), [world], ledger)
    responder.handle(made_alert())
    assert responder.next_due() == T0 + TTL
    assert responder.expire(T0 + TTL - 1) == []
    assert [o.result for o in responder.expire(T0 + TTL)] == ["undo-verified"] * 2
    assert world.target.dump() == before
    assert responder.next_due() is None
    assert responder.expire(T0 + 2 * TTL) == []
    assert some(responder.counts()) == {"enforced": 2, "carried-out": 2, "verified": 2, "undone": 2, "undo-verified": 2}


def test_the_same_revision_again_does_nothing_and_a_later_one_repeats_nothing() -> None:
    world, ledger = lab(), Ledger()
    responder = Responder(table(), [world], ledger)
    responder.handle(made_alert())
    rows = len(list(ledger.entries()))
    assert responder.handle(made_alert()) == []
    assert len(list(ledger.entries())) == rows
    world.target.state.tokens["token:new"] = Token(owner="user:alice")
    (again,) = responder.handle(made_alert(revision=2, severity=5))
    assert again.result == "unchanged"
    assert world.target.authenticates("token:new")


def test_a_graver_revision_may_add_actions() -> None:
    world = lab()
    respond = table("isolate_pod")
    grave = Rule(name="critical", actions=measures("suspend_job"), match=Match(min_severity="critical"))
    responder = Responder(Respond(mode="enforce", rules=[*respond.rules, grave]), [world], Ledger())
    assert [o.verb for o in responder.handle(made_alert())] == ["isolate_pod"]
    assert world.target.is_running(JOB)
    assert [(o.verb, o.result) for o in responder.handle(made_alert(revision=2, severity=5))] == [("suspend_job", "verified")]
    assert not world.target.is_running(JOB)


def test_a_second_alert_on_what_is_contained_moves_its_end_out() -> None:
    world, ledger = lab(), Ledger()
    responder = Responder(table("isolate_pod"), [world], ledger)
    responder.handle(made_alert())
    (second,) = responder.handle(made_alert(uid="alert-2", time=T0 + HOUR))
    assert second.result == "already-contained"
    assert responder.expire(T0 + TTL) == []
    assert not world.target.can_connect(POD)
    assert [o.result for o in responder.expire(T0 + HOUR + TTL)] == ["undo-verified"]
    assert world.target.can_connect(POD)


def test_what_was_so_before_us_is_success_and_is_not_taken_back() -> None:
    world, ledger = lab(), Ledger()
    world.target.state.users["user:alice"].enabled = False
    responder = Responder(table("disable_user"), [world], ledger)
    (outcome,) = responder.handle(made_alert())
    assert outcome.result == "verified"
    assert steps(ledger) == [("decided", "enforced"), ("outcome", "already-so"), ("verify", "verified")]
    assert responder.expire(T0 + 2 * TTL) == []
    assert not world.target.can_log_in("user:alice")


def test_an_identity_that_does_not_exist_is_a_failure_with_its_reason() -> None:
    responder = Responder(table("isolate_pod"), [Lab(LabSettings())], Ledger())
    (outcome,) = responder.handle(made_alert())
    assert (outcome.result, outcome.reason) == ("failed", f"not found: {POD}")
    assert some(responder.counts()) == {"enforced": 1, "failed": 1}
    assert responder.expire(T0 + TTL) == [], "a failure is an end: nothing is tried again or undone"
    assert [o.result for o in responder.handle(made_alert(uid="alert-2", targets=[]))] == ["none"]


@pytest.mark.parametrize(
    ("fault", "result"),
    [
        (Fault(step="prepare", how="refused"), "failed"),
        (Fault(step="apply", how="refused"), "failed"),
        (Fault(step="apply", how="ignored"), "not-effective"),
        (Fault(step="verify", how="blind"), "unverified"),
    ],
)
def test_t12_only_a_verified_effect_counts_as_verified(fault: Fault, result: str) -> None:
    responder = Responder(table("isolate_pod"), [lab(fault)], Ledger())
    (outcome,) = responder.handle(made_alert())
    assert outcome.result == result
    assert responder.counts()["verified"] == 0


@pytest.mark.parametrize("how", ["refused", "ignored"])
def test_an_undo_that_fails_is_tried_again_until_it_is_gone(how: Any) -> None:
    world, ledger = lab(Fault(step="undo", how=how)), Ledger()
    before = world.target.dump()
    responder = Responder(table("isolate_pod"), [world], ledger)
    responder.handle(made_alert())
    due = T0 + TTL
    assert [o.result for o in responder.expire(due)] == ["undo-failed"]
    assert not world.target.can_connect(POD)
    assert responder.next_due() == due + UNDO_AGAIN
    assert responder.expire(due + UNDO_AGAIN - 1) == []
    world.settings.faults.clear()
    assert [o.result for o in responder.expire(due + UNDO_AGAIN)] == ["undo-verified"]
    assert world.target.dump() == before


def test_an_undo_that_cannot_be_seen_is_not_called_verified() -> None:
    responder = Responder(table("isolate_pod"), [lab(Fault(step="verify_undone", how="blind"))], Ledger())
    responder.handle(made_alert())
    assert [o.result for o in responder.expire(T0 + TTL)] == ["undo-unverified"]


def test_t21_whom_the_policy_protects_by_now_is_released_at_once(tmp_path: Path) -> None:
    world = lab()
    with Ledger.at(tmp_path / "ledger") as ledger:
        Responder(table("isolate_pod"), [world], ledger).handle(made_alert())
    with Ledger.at(tmp_path / "ledger") as ledger:
        (outcome,) = Responder(table("isolate_pod", protected=["user:alice"]), [world], ledger).expire(T0 + MINUTE)
    assert outcome.result == "undo-verified"
    assert world.target.can_connect(POD)


def test_t15_time_that_runs_back_neither_ends_nor_shortens_anything() -> None:
    world, ledger = lab(), Ledger()
    responder = Responder(table("isolate_pod"), [world], ledger)
    responder.handle(made_alert())
    responder.handle(made_alert(uid="late", time=T0 - 30 * 24 * HOUR, targets=["pod:team-a/trainer-1"]))
    assert responder.next_due() == T0 + TTL
    assert responder.expire(T0 - HOUR) == []
    assert [entry.time for entry in ledger.entries()] == [T0] * len(list(ledger.entries()))


def test_an_action_is_not_repeated_after_a_restart(tmp_path: Path) -> None:
    world = lab()
    with Ledger.at(tmp_path / "ledger") as ledger:
        Responder(table(), [world], ledger).handle(made_alert())
    world.target.state.tokens["token:new"] = Token(owner="user:alice")
    contained = world.target.dump()
    with Ledger.at(tmp_path / "ledger") as ledger:
        responder = Responder(table(), [world], ledger)
        assert responder.handle(made_alert()) == []
        assert world.target.dump() == contained
        assert {o.result for o in responder.expire(T0 + TTL)} == {"undo-verified"}


def test_two_adapters_of_one_verb_are_refused() -> None:
    with pytest.raises(ValueError, match="two adapters offer revoke_sessions"):
        Responder(table(), [lab(), lab()], Ledger())


def test_a_rule_whose_verb_nobody_offers_is_refused_at_the_start() -> None:
    with pytest.raises(ValueError, match=r"respond\.rules\[0\]\.actions\[0\]\.verb: expected one of , got 'isolate_pod'"):
        Responder(table("isolate_pod"), [], Ledger())


def test_the_observer_of_traces_records_and_never_acts_whatever_the_policy_says() -> None:
    responder = observer(table())
    assert {o.result for o in responder.handle(made_alert())} == {"observed"}


# The ledger fails closed.


class Untouchable(Lab):
    """Fails the test where anything but a look reaches the target."""

    def apply(self, action: Action) -> Applied:
        raise AssertionError("acted without a ledger row")

    def undo(self, action: Action) -> Undone:
        raise AssertionError("undid without a ledger row")


@pytest.mark.parametrize("refused", ["decided", "intent"])
def test_without_a_row_nothing_is_done(tmp_path: Path, refused: str) -> None:
    path = tmp_path / "ledger"
    world = Untouchable(lab().settings)
    before = world.target.dump()
    with Ledger.at(path) as ledger:
        responder = Responder(table(), [world], ledger)
        database = sqlite3.connect(path, isolation_level=None)
        database.execute(
            f"CREATE TRIGGER no BEFORE INSERT ON ledger WHEN NEW.step = '{refused}' BEGIN SELECT RAISE(ABORT, 'full'); END"
        )
        database.close()
        with pytest.raises(LedgerFailed, match="cannot be written: full"):
            responder.handle(made_alert())
    assert world.target.dump() == before


def test_without_a_row_nothing_is_undone(tmp_path: Path) -> None:
    path = tmp_path / "ledger"
    world = lab()
    with Ledger.at(path) as ledger:
        Responder(table("isolate_pod"), [world], ledger).handle(made_alert())
    with Ledger.at(path, wait_seconds=0.05) as ledger:
        responder = Responder(table("isolate_pod"), [Untouchable(world.settings)], ledger)
        database = sqlite3.connect(path, isolation_level=None)
        database.execute("BEGIN IMMEDIATE")
        with pytest.raises(LedgerFailed, match="locked"):
            responder.expire(T0 + TTL)
        database.close()


# Killed between any two steps.


class Killed(BaseException):
    """What a kill looks like from inside: nothing that anybody catches."""


class Clock:
    """Counts the boundaries passed; at the fatal one the process dies."""

    def __init__(self, fatal: int) -> None:
        self.fatal, self.passed = fatal, 0

    def boundary(self) -> None:
        self.passed += 1
        if self.passed == self.fatal:
            raise Killed


Result = TypeVar("Result")


class MortalLab(Lab):
    """A lab whose calls may be the last thing that happens: just before they arrive, or just after."""

    clock: Clock
    calls: list[str]

    def apply(self, action: Action) -> Applied:
        return self._mortal("apply", lambda: super(MortalLab, self).apply(action))

    def undo(self, action: Action) -> Undone:
        return self._mortal("undo", lambda: super(MortalLab, self).undo(action))

    def prepare(self, action: Action) -> Prepared:
        return self._mortal("prepare", lambda: super(MortalLab, self).prepare(action))

    def verify(self, action: Action) -> Verified:
        return self._mortal("verify", lambda: super(MortalLab, self).verify(action))

    def verify_undone(self, action: Action) -> Verified:
        return self._mortal("verify_undone", lambda: super(MortalLab, self).verify_undone(action))

    def _mortal(self, name: str, call: Callable[[], Result]) -> Result:
        self.clock.boundary()
        before = copy.deepcopy(self.target.dump())
        result = call()
        if self.target.dump() != before:
            self.calls.append(name)
        self.clock.boundary()
        return result


class MortalLedger(Ledger):
    """A ledger whose rows may be the last that is written, or the first that is not."""

    clock: Clock

    def append(self, entries: Iterable[Entry]) -> None:
        self.clock.boundary()
        super().append(entries)
        self.clock.boundary()


def lives(path: Path, world: MortalLab, fatal: int, respond: Respond) -> int:
    """Contain and release, dying at the fatal boundary and starting again from the ledger; the number of boundaries passed."""
    passed = 0
    for clock in (Clock(fatal), Clock(0)):  # 0 is never reached: the second life is whole
        world.clock = clock
        try:
            with MortalLedger.at(path) as ledger:
                ledger.clock = clock
                responder = Responder(respond, [world], ledger)
                responder.handle(made_alert())
                responder.expire(T0 + TTL)
                passed += clock.passed
                break
        except Killed:
            passed += clock.passed
    return passed


def fresh() -> MortalLab:
    world = MortalLab(lab().settings)
    world.calls = []
    return world


def test_t7_killed_at_any_boundary_it_does_everything_once_and_takes_it_back(tmp_path: Path) -> None:
    respond = table()
    world = fresh()
    boundaries = lives(tmp_path / "whole", world, 0, respond)
    expected_calls, expected_state = world.calls, world.target.dump()
    assert expected_calls == ["apply", "apply", "apply", "undo", "undo"]
    assert boundaries > 50
    for fatal in range(1, boundaries + 1):
        world = fresh()
        lives(tmp_path / f"{fatal}", world, fatal, respond)
        assert world.calls == expected_calls, fatal
        assert world.target.dump() == expected_state, fatal
        with Ledger.at(tmp_path / f"{fatal}") as ledger:
            assert ledger.verify_chain() is None
            assert not ledger.history.pending, fatal
            assert not ledger.history.holds, fatal
            counts = ledger.counts()
            assert counts["enforced"] == 4, fatal
            assert counts["carried-out"] + counts["already-so"] == 4, fatal
            assert counts["undone"] + counts["undo-already"] >= 2, fatal


def interrupted(path: Path, world: MortalLab, fatal: int) -> None:
    world.clock = Clock(fatal)
    with MortalLedger.at(path) as ledger:
        ledger.clock = world.clock
        responder = Responder(table("isolate_pod"), [world], ledger)
        with pytest.raises(Killed):
            responder.handle(made_alert())
    world.clock = Clock(0)


#: Boundaries of one action: 1-2 decided rows, 3-4 prepare, 5-6 intent row, 7-8 apply, 9-10 outcome row, 11-12 verify.
@pytest.mark.parametrize("fatal", range(2, 9))
@pytest.mark.parametrize("changed", [{"mode": "observe"}, {"protected": ["pod:team-a/*"]}, {"protected": ["user:alice"]}])
def test_t10_what_was_interrupted_is_not_taken_up_against_a_changed_policy(tmp_path: Path, fatal: int, changed: dict[str, Any]) -> None:
    world, path = fresh(), tmp_path / "ledger"
    interrupted(path, world, fatal)
    arrived = fatal == 8
    with Ledger.at(path) as ledger:
        responder = Responder(table("isolate_pod", **changed), [world], ledger)
        (first, *_) = responder.expire(T0 + MINUTE)
        assert first.result == ("verified" if arrived else "withdrawn")
        responder.expire(T0 + TTL)
        assert world.target.can_connect(POD)
    assert world.calls == (["apply", "undo"] if arrived else [])


def test_a_call_that_may_have_arrived_unseen_is_undone_in_time(tmp_path: Path) -> None:
    world, path = fresh(), tmp_path / "ledger"
    before = world.target.dump()
    interrupted(path, world, 8)
    world.settings.faults.append(Fault(step="verify", how="blind"))
    with Ledger.at(path) as ledger:
        responder = Responder(table("isolate_pod", mode="observe"), [world], ledger)
        assert [o.result for o in responder.expire(T0 + MINUTE)] == ["unverified"]
        assert [o.result for o in responder.expire(T0 + TTL)] == ["undo-verified"]
    assert world.target.dump() == before


def test_an_undo_that_was_interrupted_does_not_pass_for_a_containment(tmp_path: Path) -> None:
    world, path = fresh(), tmp_path / "ledger"
    world.clock = Clock(0)
    with Ledger.at(path) as ledger:
        responder = Responder(table("isolate_pod"), [world], ledger)
        responder.handle(made_alert())
        world.clock = Clock(2)
        with pytest.raises(Killed):
            responder.expire(T0 + TTL)
    world.clock = Clock(0)
    assert world.calls == ["apply", "undo"]
    with Ledger.at(path) as ledger:
        responder = Responder(table("isolate_pod"), [world], ledger)
        outcomes = responder.handle(made_alert(uid="alert-2", time=T0 + TTL))
    assert [o.result for o in outcomes] == ["undo-verified", "verified"]
    assert not world.target.can_connect(POD)


def test_the_lab_keeps_the_contract() -> None:
    assert isinstance(lab(), Adapter)


class DownLab(Lab):
    """Its first call does not arrive."""

    calls = 0

    def apply(self, action: Action) -> Applied:
        self.calls += 1
        return Applied("failed", "no connection", Trouble("down")) if self.calls == 1 else super().apply(action)


def test_a_second_responder_that_takes_up_what_another_has_ended_fails_before_it_acts(tmp_path: Path) -> None:
    world, path = DownLab(lab().settings), tmp_path / "ledger"
    respond = Respond(mode="enforce", rules=[Rule(name="r", actions=[Measure(verb="isolate_pod", mode="enforce", ttl_seconds=60)])])
    with Ledger.at(path) as ours, Ledger.at(path) as theirs:
        first = Responder(respond, [world], ours)
        assert [o.result for o in first.handle(made_alert())] == ["retrying"]
        second = Responder(respond, [Untouchable(world.settings)], theirs)
        assert theirs.history.pending, "it has read the rows by now"
        assert [o.result for o in first.expire(T0 + 10 * SECOND)] == ["verified"]
        assert [o.result for o in first.expire(T0 + 2 * MINUTE)] == ["undo-verified"]
        with pytest.raises(LedgerFailed, match="cannot be written"):
            second.expire(T0 + 3 * MINUTE)
    assert world.target.can_connect(POD)
