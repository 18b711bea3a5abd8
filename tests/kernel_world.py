"""A small world for the safety kernel: what is in it, its policies, its adapter, a ledger in a list."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, ClassVar

import msgspec

from connectors.containment import Action, Applied, Prepared, Rehearsal, Trouble, Undone, Verb, Verified
from connectors.event import MINUTE
from detector.history import Entry, History
from detector.ledger import Ledger
from detector.policy import Breaker, Measure, Population, Respond, Retry, Rule, Shares

TTL, AGE, COOL = 5_400, 900, 600
PODS = [f"pod:{space}/p{i}" for space in ("a", "b") for i in range(5)] + ["pod:kube-system/dns"]
JOBS = [f"job:j{i}" for i in range(4)]
TOKENS = ["token:t0", "token:t1"]
NODES = [f"node:n{i}" for i in range(4)]
CLIENTS = [f"client:c{i}" for i in range(3)]
USERS = ["user:eve", "user:admin", "user:mallory"]
#: Eve and mallory are whom alerts are about.
PEOPLE = ["user:ann", "user:bob", "user:eve", "user:mallory"]
#: How long an undo that failed may wait.
UNDO_WAIT = 5 * MINUTE

RESPOND = Respond(
    mode="enforce",
    protected=["user:admin"],
    max_per_hour=5,
    max_concurrent=2,
    max_age_seconds=AGE,
    min_signals=2,
    shares=Shares(namespace=20.0, nodes=25.0, gpus=50.0, users=10.0),
    population=Population(namespaces={"a": 5, "b": 5}, nodes=4, gpus=16, users=20, gpus_of={"node:n*": 4, "job:*": 4}),
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
                # Nobody is set up to do it.
                Measure(verb="disable_user", mode="enforce"),
                Measure(verb="limit_user", mode="enforce", ttl_seconds=TTL, cooldown_seconds=COOL, escalate=2.0),
            ],
        )
    ],
)


#: The same without what would keep the other rules from being reached.
WIDE = msgspec.structs.replace(RESPOND, max_per_hour=4, max_concurrent=50, shares=Shares(gpus=50.0, users=10.0))


class Crash(BaseException):
    """What a kill looks like from inside."""


#: Known, and no adapter does it.
IDLE = Verb(name="disable_user", kinds=("user",), undoable=True, residual="None.", needs=("x",))
UNDOABLE = ("isolate_pod", "drain_node", "limit_user")


class World:
    """An adapter and its target: what is contained by which action. ``weather`` is what goes wrong next."""

    title: ClassVar[str] = "a small world"
    Settings: ClassVar[type[msgspec.Struct]] = msgspec.Struct
    verbs: ClassVar[tuple[Verb, ...]] = (
        Verb(name="isolate_pod", kinds=("pod",), undoable=True, residual="None.", needs=("x",)),
        Verb(name="cancel_job", kinds=("job",), undoable=False, residual="None.", needs=("x",), destructive=True),
        Verb(name="revoke_token", kinds=("token",), undoable=False, residual="None.", needs=("x",)),
        Verb(name="drain_node", kinds=("node",), undoable=True, residual="None.", needs=("x",)),
        Verb(name="limit_user", kinds=("client",), undoable=True, residual="None.", needs=("x",)),
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
            if action.verb in UNDOABLE:
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
        if self.weather == "stuck":
            return Undone("failed", "not now")
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
