"""Any sequence of alerts, approvals, crashes, faults and clock jumps, with an oracle that knows the rules by its own reckoning.

The oracle looks at the world's calls, at what people really said and at what was really set; of the product it uses only the ledger's
rows. It shares no code with the kernel.
"""

from __future__ import annotations

from fnmatch import fnmatchcase
from typing import Any

import msgspec
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from connectors.alert import Alert
from connectors.containment import Action
from connectors.decision import encode, made
from connectors.event import DAY, HOUR, MINUTE, SECOND
from detector.approvals import hear
from detector.history import Entry
from detector.kernel import Outside
from detector.policy import Approver
from detector.respond import Responder
from tests.alerts import T0, made_alert
from tests.kernel_world import (
    AGE,
    CLIENTS,
    COOL,
    IDLE,
    JOBS,
    NODES,
    PEOPLE,
    PODS,
    RESPOND,
    TOKENS,
    TTL,
    UNDO_WAIT,
    UNDOABLE,
    WIDE,
    Crash,
    ListLedger,
    World,
    history_of,
)


class Machine(RuleBasedStateMachine):
    """One responder's life."""

    @initialize(wide=st.booleans())
    def start(self, wide: bool) -> None:
        self.rows: list[Entry] = []
        self.world = World()
        self.world.judge = self.allowed
        self.now, self.latest = T0, T0
        self.stopped = ""
        self.base = self.respond = WIDE if wide else RESPOND
        self.per_hour, self.at_a_time = (4, 50) if wide else (5, 2)
        self.in_a_space, self.of_nodes = (50, 50) if wide else (1, 1)
        self.said: dict[str, set[str]] = {}
        #: (verb, target) -> since when nothing may hold it, and it was known.
        self.wanted: dict[tuple[str, str], int] = {}
        self.alerts: dict[str, Alert] = {}
        self.checked = 0
        self.of: dict[str, str] = {}
        self.born()

    def born(self) -> None:
        """(Again) from the ledger."""
        self.responder = Responder(
            self.respond,
            [self.world],
            ListLedger(self.rows),
            {verb.name: verb for verb in (*self.world.verbs, IDLE)},
            clock=lambda: max(self.now, self.latest),
            outside=lambda: Outside(self.stopped),
            chance=lambda: 0.5,
        )

    def living(self, call: Any) -> None:
        try:
            call()
        except Crash:
            self.world.weather = ""
            self.born()
        self.latest = max([self.latest, self.now, *(entry.time for entry in self.rows[-1:])])
        self.sound()

    @rule(
        number=st.integers(0, 30),
        aims=st.lists(st.sampled_from(PODS + JOBS + TOKENS * 4 + NODES + CLIENTS), min_size=1, max_size=4),
        who=st.sampled_from(["user:mallory"] * 5 + ["user:eve", "user:admin"]),
        signals=st.sampled_from([["egress", "denied_ratio"]] * 5 + [["egress"], ["egress", "bytes_out"]]),
        probation=st.sampled_from([False] * 6 + [True]),
        age=st.sampled_from([0] * 6 + [AGE + 1]),
    )
    def alert(self, number: int, aims: list[str], who: str, signals: list[str], probation: bool, age: int) -> None:
        uid = f"alert-{number}"
        before = self.alerts.get(uid)
        alert = made_alert(
            uid=uid,
            revision=before.revision + 1 if before else 1,
            time=max(self.now, self.latest) - age * SECOND,
            principals=[who],
            targets=aims,
            signals=signals,
            probation=probation,
        )
        self.alerts[uid] = alert
        self.living(lambda: self.responder.handle(alert, self.now))

    @precondition(lambda self: self.alerts)
    @rule(number=st.integers(0, 30))
    def again(self, number: int) -> None:
        alert = self.alerts.get(f"alert-{number}")
        if alert is not None:
            rows = len(self.rows)
            self.living(lambda: self.responder.handle(alert, self.now))
            assert not [each for each in self.rows[rows:] if each.step == "decided" and each.alert == alert.uid], "decided twice"

    @precondition(lambda self: self.responder.ledger.history.waiting)
    @rule(pick=st.integers(0, 5), person=st.sampled_from(PEOPLE), word=st.sampled_from(["approve", "approve", "approve", "deny"]))
    def people_say(self, pick: int, person: str, word: Any) -> None:
        waiting = list(self.responder.ledger.history.waiting)
        action = waiting[pick % len(waiting)]
        self.word(action, word, person)

    @precondition(lambda self: self.responder.ledger.history.holds)
    @rule(pick=st.integers(0, 5), person=st.sampled_from(PEOPLE))
    def released(self, pick: int, person: str) -> None:
        holds = list(self.responder.ledger.history.holds.items())
        key, hold = holds[pick % len(holds)]
        party = person in (key[1], *hold.entry.owners)
        before = self.world.contained.get(key)
        heard = self.word(hold.entry.action, "release", person)
        if party:
            assert not heard, "somebody released what is about them"
            assert self.world.contained.get(key) == before or self.now >= hold.due or self.protected(hold.entry), "it ended for them"
        elif heard:
            self.wanted.setdefault(key, self.latest)

    def word(self, action: str, word: Any, person: str) -> bool:
        """Somebody's word comes as it does in life; whether it counted."""
        present = max(self.now, self.latest)
        record = encode(made(action, word, person, present))
        history = self.responder.ledger.history
        heard = hear(record, person, self.respond, history, present)
        if heard.decision is None:
            return False
        allowed = not self.respond.approvers or person in self.respond.approvers
        assert allowed, "heard somebody who may not"
        decision = heard.decision
        if word == "approve":
            self.said.setdefault(action, set()).add(person)
        self.living(lambda: self.responder.hear(decision, self.now))
        return True

    @rule(names=st.sampled_from([[], [], ["user:ann"], ["user:ann", "user:bob"], ["user:bob", "user:eve"]]))
    def approvers_change(self, names: list[str]) -> None:
        self.base = msgspec.structs.replace(self.base, approvers={name: Approver() for name in names})
        self.respond = msgspec.structs.replace(self.respond, approvers=self.base.approvers)
        self.responder.adopt(self.respond)

    @rule(patterns=st.sampled_from([["user:admin"], ["user:admin", "user:mallory"]]))
    def policy_changes_and_it_is_started_anew(self, patterns: list[str]) -> None:
        self.respond = msgspec.structs.replace(self.base, protected=patterns)
        self.born()
        # What a process does first (``detector.responder``).
        self.living(lambda: self.responder.expire(self.now))
        self.note_protected()
        self.prompt()

    @rule()
    def ticks(self) -> None:
        """Time passes as it does for the process: it acts when it says that something is due."""
        for _ in range(8):
            self.now = max(self.now, self.latest) + MINUTE
            due = self.responder.next_due()
            if due is not None and due <= self.now:
                self.living(lambda: self.responder.expire(self.now))
            self.latest = max(self.latest, self.now)
        self.prompt()

    def note_protected(self) -> None:
        for key, hold in self.responder.ledger.history.holds.items():
            if self.protected(hold.entry):
                self.wanted.setdefault(key, self.latest)

    def protected(self, entry: Entry) -> bool:
        return any(fnmatchcase(name, pattern) for name in (entry.target, *entry.owners) for pattern in self.respond.protected)

    def prompt(self) -> None:
        """What is to end was tried within minutes, since it was known and since it last failed."""
        history = self.responder.ledger.history
        for key, since in list(self.wanted.items()):
            hold = history.holds.get(key)
            if hold is None or not (hold.released or self.protected(hold.entry)):
                del self.wanted[key]
                continue
            tried = [each.time for each in self.rows if (each.verb, each.target) == key and each.step == "undo-intent"]
            last = max([since, *tried])
            assert self.latest - last <= UNDO_WAIT + 2 * MINUTE, "what was to end was left as it was"

    @rule(pause=st.sampled_from([1, 3, 60, COOL, COOL, TTL, 7_200]))
    def time_passes(self, pause: int) -> None:
        self.now = max(self.now, self.latest) + pause * SECOND
        self.living(lambda: self.responder.expire(self.now))

    @rule(back=st.sampled_from([MINUTE, HOUR, 30 * 24 * HOUR]))
    def clock_jumps_back(self, back: int) -> None:
        self.now -= back
        self.living(lambda: self.responder.expire(self.now))

    @rule(forth=st.sampled_from([10 * MINUTE, 2 * HOUR]))
    def clock_jumps_forth(self, forth: int) -> None:
        self.now = max(self.now, self.latest) + forth
        self.living(lambda: self.responder.expire(self.now))

    @rule(weather=st.sampled_from(["", "", "", "", "stuck", "gone", "down", "refused", "half", "blind", "crash before", "crash after"]))
    def weather(self, weather: str) -> None:
        self.world.weather = weather

    @precondition(lambda self: self.rows)
    @rule()
    def killed(self) -> None:
        self.born()

    @rule(reason=st.sampled_from(["", "", "maintenance"]))
    def switch(self, reason: str) -> None:
        self.stopped = reason

    @rule(patterns=st.sampled_from([["user:admin"], ["user:admin", "pod:b/*"]]), mode=st.sampled_from(["enforce"] * 4 + ["propose"]))
    def policy_changes(self, patterns: list[str], mode: Any) -> None:
        self.respond = msgspec.structs.replace(self.base, protected=patterns, mode=mode)
        self.responder.adopt(self.respond)
        self.living(lambda: self.responder.expire(self.now))
        self.note_protected()

    # --- The oracle ------------------------------------------------------------------------------------------------------------

    def allowed(self, action: Action) -> None:
        """Called by the world with every call that arrives, before it takes effect."""
        now = max(self.now, self.latest)
        row = next(each for each in reversed(self.rows) if each.action == action.id and each.result == "enforced")
        last = next(each for each in reversed(self.rows) if each.action == action.id)
        assert last.step == "intent" or last.result == "retrying", "a call without a row before it"
        assert not self.stopped, "acted though the kill switch was on"
        assert self.respond.mode == "enforce", "acted above the mode"
        people = self.said.get(action.id, set()) - {action.target, *row.owners}
        people &= self.respond.approvers.keys() or people
        wanted = {"isolate_pod": 0, "revoke_token": 0, "cancel_job": 2, "drain_node": 1, "limit_user": 0}[action.verb]
        assert len(people) >= wanted, "acted without the people it needs"
        for name in (action.target, *row.owners):
            assert not any(fnmatchcase(name, pattern) for pattern in (*self.respond.protected, "pod:kube-system/*")), "protected"
        others = {key for key in self.world.contained if key != (action.verb, action.target)}
        assert len(others) < self.at_a_time, "too many at a time"
        assert self.world.contained.get((action.verb, action.target), action.id) == action.id, "contained by two actions"
        space = action.target.partition("/")[0]
        near = {target for verb, target in others if verb == "isolate_pod" and target.partition("/")[0] == space}
        assert action.verb != "isolate_pod" or len(near) < self.in_a_space, "too large a share of a namespace"
        assert action.verb != "drain_node" or sum(verb == "drain_node" for verb, _ in others) < self.of_nodes, (
            "too large a share of the nodes"
        )
        taken = {target for _, target in others}
        taken |= {
            each.target for each in self.rows if each.result == "enforced" and each.time > now - HOUR and each.action != action.id
        }
        taken.discard(action.target)
        kinds = [target.partition(":")[0] for target in taken]
        if action.verb in ("drain_node", "cancel_job"):
            gpus = 4 * sum(kind in ("node", "job") for kind in kinds)
            assert gpus + 4 <= 8, "too large a share of the GPUs"
        if action.verb in ("limit_user", "revoke_token"):
            assert sum(kind in ("client", "token", "user") for kind in kinds) + 1 <= 2, "too large a share of the users"
        if not people:
            self.alone(action, row, now)

    def alone(self, action: Action, row: Entry, now: int) -> None:
        """What must hold where nobody was asked."""
        alert = next(each for each in self.alerts.values() if each.uid == row.alert)
        assert now - row.time <= AGE * SECOND, "taken up too late"
        assert row.time - row.facts.time <= AGE * SECOND if row.facts else False, "acted on an old alert"
        assert alert.revision != row.revision or not alert.probation, "acted on probation"
        assert alert.revision != row.revision or set(alert.signals) >= {"egress", "denied_ratio"}, "too few witnesses"
        bad = ("failed", "not-effective", "unverified", "undo-failed")
        wrong = {each.action for each in self.rows if each.result in bad and each.time > now - HOUR}
        assert len(wrong) < 2, "the breaker was open"
        key = (action.verb, action.target)
        last = max((each.time for each in self.rows if self._same(each, key) and each.action != action.id), default=0)
        assert row.time - last >= COOL * SECOND, "no pause since the last time"

    def _same(self, entry: Entry, key: tuple[str, str]) -> bool:
        return entry.step == "decided" and entry.result == "enforced" and (entry.verb, entry.target) == key

    def sound(self) -> None:
        """After every step."""
        begun = [each for each in self.rows if each.step == "decided" and each.result == "enforced"]
        assert len({each.action for each in begun}) == len(begun), "begun twice"
        for each in begun[-1:]:
            recent = [other for other in begun if each.time - HOUR < other.time <= each.time]
            assert len(recent) <= self.per_hour, "too many in an hour"
            assert sum(other.verb == "revoke_token" for other in recent) <= 3, "too many of a verb in an hour"
        assert len(self.world.effects) == len(set(self.world.effects)), "one action, one effect"
        assert not any(each.verb == IDLE.name for each in begun), "begun what nobody can do"
        for each in self.rows[self.checked :]:
            self.lengthened(each)
            self.escalated(each)
        self.checked = len(self.rows)
        ends = {each.action: each.due for each in begun}
        moved: dict[tuple[str, str], int] = {}
        for each in self.rows:
            if each.result == "already-contained":
                moved[(each.verb, each.target)] = max(each.due, moved.get((each.verb, each.target), 0))
        if not self.responder.ledger.history.pending and self.rows and self.rows[-1].step.startswith("undo"):
            late = [key for key, action in self.world.contained.items() if max(ends[action], moved.get(key, 0)) < self.latest]
            failed = {(each.verb, each.target): each.time for each in self.rows if each.result == "undo-failed"}
            late = [key for key in late if self.latest - failed.get(key, 0) >= UNDO_WAIT]
            assert not late, "contained beyond its time"

    def escalated(self, row: Entry) -> None:
        """Each time within a day of the last the time is twice as long; what is only moved out is as long as it was."""
        if row.verb != "limit_user" or row.result not in ("enforced", "already-contained") or not row.due:
            return
        times, last = 0, 0
        for each in self.rows:
            if each is row:
                break
            if self._same(each, ("limit_user", row.target)):
                times, last = (times + 1 if last and each.time - last < DAY else 1), each.time
        times = times if row.time - last < DAY else 0
        times -= row.result == "already-contained"
        assert row.due - row.time == min(TTL * 2**times, 30 * 86_400) * SECOND, "another time than its turn has"

    def lengthened(self, row: Entry) -> None:
        """A row that moves an end out must rest on what could have begun a containment: here without people, on a fresh alert."""
        if row.result != "already-contained" or not row.due:
            return
        assert row.verb in UNDOABLE, "what has no end was moved out"
        assert row.due - row.time <= 30 * 24 * HOUR, "beyond the longest time"
        people = (self.said.get(row.action, set()) - {row.target, *row.owners}) & (self.respond.approvers.keys() or set(PEOPLE))
        if people:
            return
        assert row.verb != "drain_node", "moved out without the person it needs"
        assert row.facts is not None
        assert not row.facts.probation, "moved out on probation"
        assert set(row.facts.signals) >= {"egress", "denied_ratio"}, "moved out with too few witnesses"
        assert row.time - row.facts.time <= AGE * SECOND, "moved out on an old alert"

    def teardown(self) -> None:
        if hasattr(self, "rows"):
            assert history_of(self.rows) == self.responder.ledger.history, "a restart would remember something else"
