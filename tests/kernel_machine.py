"""Any sequence of alerts, approvals, crashes, faults and clock jumps, with an oracle that knows the rules by its own reckoning.

The oracle looks at the world's calls, at what people really said and at what was really set; of the product it uses only the ledger's
rows. It shares no code with the kernel.
"""

from __future__ import annotations

from collections.abc import Iterable
from fnmatch import fnmatchcase
from typing import Any, ClassVar

import msgspec
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from connectors.alert import Alert
from connectors.containment import Action, Applied, Prepared, Rehearsal, Trouble, Undone, Verb, Verified
from connectors.decision import made
from connectors.event import HOUR, MINUTE, SECOND
from detector.history import Entry, History
from detector.kernel import Outside
from detector.ledger import Ledger
from detector.policy import Breaker, Measure, Population, Respond, Retry, Rule, Shares
from detector.respond import Responder
from tests.alerts import T0, made_alert

TTL, AGE, COOL = 5_400, 900, 600
PODS = [f"pod:{space}/p{i}" for space in ("a", "b") for i in range(5)] + ["pod:kube-system/dns"]
JOBS = [f"job:j{i}" for i in range(4)]
TOKENS = ["token:t0", "token:t1"]
NODES = [f"node:n{i}" for i in range(4)]
USERS = ["user:eve", "user:admin", "user:mallory"]
PEOPLE = ["user:ann", "user:bob", "user:eve"]

RESPOND = Respond(
    mode="enforce",
    protected=["user:admin"],
    max_per_hour=5,
    max_concurrent=2,
    max_age_seconds=AGE,
    min_signals=2,
    shares=Shares(namespace=20.0, nodes=25.0),
    population=Population(namespaces={"a": 5, "b": 5}, nodes=4),
    breaker=Breaker(wrong=2, window_seconds=3_600),
    retry=Retry(attempts=2, first_seconds=1.0, most_seconds=2.0),
    rules=[
        Rule(
            name="r",
            actions=[
                Measure(verb="isolate_pod", mode="enforce", ttl_seconds=TTL, cooldown_seconds=COOL, max_per_hour=6),
                Measure(verb="revoke_token", mode="enforce", cooldown_seconds=COOL, max_per_hour=3),
                Measure(verb="cancel_job", mode="enforce", cooldown_seconds=COOL),
                Measure(verb="drain_node", mode="approve", ttl_seconds=TTL, cooldown_seconds=COOL),
            ],
        )
    ],
)


#: The same without what would keep the other rules from being reached.
WIDE = msgspec.structs.replace(RESPOND, max_per_hour=4, max_concurrent=50, shares=Shares())


class Crash(BaseException):
    """What a kill looks like from inside."""


class World:
    """An adapter and its target: what is contained by which action. ``weather`` is what goes wrong next."""

    title: ClassVar[str] = "a small world"
    Settings: ClassVar[type[msgspec.Struct]] = msgspec.Struct
    verbs: ClassVar[tuple[Verb, ...]] = (
        Verb(name="isolate_pod", kinds=("pod",), undoable=True, residual="None.", needs=("x",)),
        Verb(name="cancel_job", kinds=("job",), undoable=False, residual="None.", needs=("x",), destructive=True),
        Verb(name="revoke_token", kinds=("token",), undoable=False, residual="None.", needs=("x",)),
        Verb(name="drain_node", kinds=("node",), undoable=True, residual="None.", needs=("x",)),
    )

    def __init__(self) -> None:
        self.contained: dict[tuple[str, str], str] = {}
        self.effects: list[str] = []
        self.calls: list[Action] = []
        self.weather: str = ""
        self.judge: Any = None

    def prepare(self, action: Action) -> Prepared:
        if self.weather == "gone":
            return Prepared("failed", "not found", trouble=Trouble("gone"))
        if self.weather == "down":
            return Prepared("failed", "no connection", trouble=Trouble("down"))
        # It never says "already": the rules alone must see to it that nothing is contained twice.
        return Prepared("ready", "", {"v": 1})

    def apply(self, action: Action) -> Applied:
        self.judge(action)
        if self.weather == "refused":
            return Applied("failed", "no", Trouble("refused"))
        if self.weather == "crash before":
            raise Crash
        if action.id not in self.effects:
            self.effects.append(action.id)
            if action.verb in ("isolate_pod", "drain_node"):
                self.contained[(action.verb, action.target)] = action.id
        if self.weather == "crash after":
            raise Crash
        return Applied("unknown", "half a reply", Trouble("down")) if self.weather == "half" else Applied("applied", "")

    def verify(self, action: Action) -> Verified:
        if self.weather == "blind":
            return Verified("unverified", "cannot be seen")
        there = action.id in self.effects
        return Verified("verified" if there else "not-effective", "")

    def undo(self, action: Action) -> Undone:
        if self.contained.get((action.verb, action.target)) == action.id:
            del self.contained[(action.verb, action.target)]
            return Undone("undone", "")
        return Undone("already", "")

    def verify_undone(self, action: Action) -> Verified:
        return Verified("verified", "")

    def close(self) -> None:
        """Nothing is held open."""

    @classmethod
    def rehearsal(cls) -> Rehearsal:
        raise NotImplementedError


class ListLedger(Ledger):
    """The rows in a list: what the state machine needs of a ledger, a hundred times faster. Its rows survive a crash."""

    def __init__(self, rows: list[Entry]) -> None:
        self.rows = rows
        self.history = history_of(rows)

    def append(self, entries: Iterable[Entry]) -> None:
        for entry in entries:
            self.rows.append(entry)
            self.history.add(entry)


def history_of(rows: list[Entry]) -> History:
    history = History()
    for entry in rows:
        history.add(entry)
    return history


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
        self.alerts: dict[str, Alert] = {}
        self.of: dict[str, str] = {}
        self.born()

    def born(self) -> None:
        """(Again) from the ledger."""
        self.responder = Responder(
            self.respond,
            [self.world],
            ListLedger(self.rows),
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
        aims=st.lists(st.sampled_from(PODS + JOBS + TOKENS * 4 + NODES), min_size=1, max_size=4),
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
        decision = made(action, word, person, max(self.now, self.latest))
        if word == "approve":
            self.said.setdefault(action, set()).add(person)
        self.living(lambda: self.responder.hear(decision, self.now))

    @rule(pause=st.sampled_from([1, 3, 60, COOL, COOL, TTL, 7_200]))
    def time_passes(self, pause: int) -> None:
        self.now = max(self.now, self.latest) + pause * SECOND
        self.living(lambda: self.responder.expire(self.now))

    @rule(back=st.sampled_from([MINUTE, HOUR, 30 * 24 * HOUR]))
    def clock_jumps_back(self, back: int) -> None:
        self.now -= back
        self.living(lambda: self.responder.expire(self.now))

    @rule(weather=st.sampled_from(["", "", "", "", "gone", "down", "refused", "half", "blind", "crash before", "crash after"]))
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
        wanted = {"isolate_pod": 0, "revoke_token": 0, "cancel_job": 2, "drain_node": 1}[action.verb]
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
        ends = {each.action: each.due for each in begun}
        moved: dict[tuple[str, str], int] = {}
        for each in self.rows:
            if each.result == "already-contained":
                moved[(each.verb, each.target)] = max(each.due, moved.get((each.verb, each.target), 0))
        if not self.responder.ledger.history.pending and self.rows and self.rows[-1].step.startswith("undo"):
            late = [key for key, action in self.world.contained.items() if max(ends[action], moved.get(key, 0)) < self.latest]
            assert not late, "contained beyond its time"

    def teardown(self) -> None:
        if hasattr(self, "rows"):
            assert history_of(self.rows) == self.responder.ledger.history, "a restart would remember something else"
