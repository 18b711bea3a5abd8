"""The safety kernel: the one place where it is decided whether anything is done to anybody.

``judge`` is a pure function of what is asked, the policy, the history (the ledger's rows), what is set from outside, and the time. It
is asked once before any adapter, again before every retry, again when people have approved, and again when something interrupted is
taken up. Every rule is one function in ``CHECKS``; no rule stands anywhere else.

The checks come in an order that gives the most telling reason. Those of ``WITHOUT_A_PERSON`` hold back what is automatic, and are
satisfied by the people that the action needs, at least one; the others hold whoever approves. What brings a containment to its end
(``expire``, a person's release) is never held back: it only makes the reach smaller.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from fnmatch import fnmatchcase
from typing import NamedTuple

from connectors.containment import Verb
from connectors.event import HOUR, SECOND
from detector.history import Attempt, Facts, History
from detector.policy import LADDER, Measure, Mode
from detector.wishes import Policy

#: Kinds of identity that stand for accounts: a share of the users is a share of all of them.
ACCOUNTS = frozenset({"user", "sa", "client", "session", "token", "realm"})


class Outside(NamedTuple):
    """What is set from outside while it runs. ``stopped``: why the kill switch is on, "" where it is off. ``replay``: old alerts."""

    stopped: str = ""
    replay: bool = False


#: Nothing is set: what is decided inside the process, with no one to set anything.
INSIDE = Outside()


class Ask(NamedTuple):
    """What is to be judged: one action. ``people``: who has approved it."""

    action: str
    verb: Verb
    target: str
    owners: list[str]
    measure: Measure
    facts: Facts
    people: frozenset[str] = frozenset()
    #: When it was decided first; the present where it is being decided.
    since: int = 0


class Stop(NamedTuple):
    """Why not: one of ``detector.history.RESULTS``, and a sentence."""

    result: str
    reason: str


class State(NamedTuple):
    """What a check may look at besides what is asked."""

    policy: Policy
    history: History
    outside: Outside
    now: int


# --- The rules -----------------------------------------------------------------------------------------------------------------


def protected(ask: Ask, state: State) -> Stop | None:
    """Neither the target nor anybody it belongs to is one that the policy protects."""
    reason = forbids(state.policy, ask.target, ask.owners)
    return Stop("protected", reason) if reason else None


def ladder(ask: Ask, state: State) -> Stop | None:
    """The lower of the rule's and the global mode reaches up to approve."""
    mode = mode_of(ask.measure, state)
    if mode == "observe":
        return Stop("observed", "alerts of a replay are only observed" if state.outside.replay else "mode is observe")
    return Stop("proposed", "mode is propose") if mode == "propose" else None


def set_up(ask: Ask, state: State) -> Stop | None:
    """Something is set up that can do it."""
    able = state.policy.able
    return Stop("none", f"no adapter for {ask.verb.name} is set up") if able is not None and ask.verb.name not in able else None


def kill_switch(_: Ask, state: State) -> Stop | None:
    """The kill switch is off."""
    if state.outside.stopped or state.policy.respond.kill_switch:
        return Stop("stopped", f"the kill switch is on: {state.outside.stopped or 'respond.kill_switch'}")
    return None


def one_at_a_time(ask: Ask, state: State) -> Stop | None:
    """No other action holds the target, or is about to."""
    hold = state.history.holds.get((ask.verb.name, ask.target))
    if hold is not None and hold.entry.action != ask.action:
        return Stop("already-contained", f"already contained by action {hold.entry.action}")
    for pending in state.history.pending.values():
        entry = pending.entry
        if (entry.verb, entry.target) == (ask.verb.name, ask.target) and entry.action != ask.action:
            return Stop("already-contained", f"action {entry.action} is about to")
    return None


def hourly(ask: Ask, state: State) -> Stop | None:
    """Fewer actions than the limit in the last hour, of all verbs and of this one."""
    spent = [each.verb for each in state.history.attempts if each.time > state.now - HOUR and each.action != ask.action]
    if len(spent) >= state.policy.respond.max_per_hour:
        return Stop("limited", f"hourly limit reached: {state.policy.respond.max_per_hour} actions")
    if spent.count(ask.verb.name) >= ask.measure.max_per_hour:
        return Stop("limited", f"hourly limit reached: {ask.measure.max_per_hour} of {ask.verb.name}")
    return None


def concurrent(ask: Ask, state: State) -> Stop | None:
    """Fewer containments than the limit at this time, of all verbs and of this one; what is about to begin counts."""
    others = _others(ask, state.history)
    if len(others) >= state.policy.respond.max_concurrent:
        return Stop("limited", f"limit reached: {state.policy.respond.max_concurrent} containments at a time")
    if sum(verb == ask.verb.name for verb, _ in others) >= ask.measure.max_concurrent:
        return Stop("limited", f"limit reached: {ask.measure.max_concurrent} of {ask.verb.name} at a time")
    return None


def shares(ask: Ask, state: State) -> Stop | None:
    """A bounded share of a namespace's pods, of the nodes, of the GPUs, of the users; where the number is unknown, none."""
    respond, kind = state.policy.respond, ask.target.partition(":")[0]
    people, nodes = respond.population, respond.shares.nodes
    out = {target for _, target in _others(ask, state.history)}
    # What cannot be taken back holds nothing, and is as gone: within the hour it counts.
    out |= {each.target for each in state.history.attempts if each.time > state.now - HOUR and each.action != ask.action}
    out.discard(ask.target)
    alike = {target for target in out if target.partition(":")[0] == kind}
    if kind in ("pod", "workload"):
        space = _namespace(ask.target)
        near = sum(_namespace(target) == space for target in alike)
        return _share(f"namespace {space}", near, 1, people.namespaces.get(space, 0), respond.shares.namespace)
    if kind in ACCOUNTS:
        gone = sum(_accounts(target, people.users) for target in out)
        more = _accounts(ask.target, people.users)
        return _share("the users", gone, more, people.users, respond.shares.users, first=kind != "realm")
    stop = _share("the nodes", len(alike), 1, people.nodes, nodes) if kind == "node" else None
    if stop is None and kind in ("node", "job"):
        taken, takes = sum(map(state.policy.gpus, out)), state.policy.gpus(ask.target)
        return _share("the GPUs", taken, takes, people.gpus, respond.shares.gpus)
    return stop


def fresh(ask: Ask, state: State) -> Stop | None:
    """The alert is young, and so is a decision that was interrupted."""
    most = state.policy.respond.max_age_seconds
    if ask.facts.time - state.now > most * SECOND:
        return Stop("proposed", "the alert is from the future")
    # What was interrupted counts from its decision: an alert that was fresh then does not age by being retried.
    since, what = (ask.since, "decided") if ask.since else (ask.facts.time, "the alert is from")
    if state.now - since > most * SECOND:
        return Stop("proposed", f"{what} {(state.now - since) // SECOND} seconds ago; after more than {most} a person is asked")
    return None


def grown_up(ask: Ask, _: State) -> Stop | None:
    """The detector knows enough of the identity."""
    if ask.facts.probation:
        return Stop("proposed", "the alert is on probation: too little history to act on without a person")
    return None


def witnesses(ask: Ask, state: State) -> Stop | None:
    """Enough independent signals agree."""
    found = state.policy.independent(ask.facts.signals)
    wanted = max(state.policy.respond.min_signals, ask.measure.min_signals)
    return Stop("proposed", f"{found} independent signals; {wanted} are asked for") if found < wanted else None


def breaker(_: Ask, state: State) -> Stop | None:
    """Few enough actions have gone wrong lately."""
    limit = state.policy.respond.breaker
    since = state.now - limit.window_seconds * SECOND
    wrong = {each.action for each in state.history.wrong if each.time > since and not _usual(state.policy, each)}
    if len(wrong) >= limit.wrong:
        return Stop("breaker-open", f"{len(wrong)} actions have gone wrong in the last {limit.window_seconds} seconds")
    return None


def cooldown(ask: Ask, state: State) -> Stop | None:
    """The same was not done to the same target a moment ago."""
    last = state.history.latest.get((ask.verb.name, ask.target))
    if last is None or last[0].action == ask.action or state.now - last[0].time >= ask.measure.cooldown_seconds * SECOND:
        return None
    return Stop("cooling-down", f"done to the same target {(state.now - last[0].time) // SECOND} seconds ago")


def enough_people(ask: Ask, state: State) -> Stop | None:
    """Everybody who must approve has: nobody in mode enforce, one in mode approve, two different ones for what is destructive."""
    wanted, got = people_needed(ask.measure, ask.verb, state), len(_people(ask, state))
    if got >= wanted:
        return None
    why = "it is destructive" if ask.verb.destructive else f"mode is {mode_of(ask.measure, state)}"
    return Stop("awaiting-approval", f"{why}: waits for {wanted - got} more {'person' if wanted - got == 1 else 'people'}")


Check = Callable[[Ask, State], Stop | None]
#: Every rule, in the order they are asked.
CHECKS: tuple[Check, ...] = (
    protected,
    ladder,
    set_up,
    kill_switch,
    one_at_a_time,
    hourly,
    concurrent,
    shares,
    fresh,
    grown_up,
    witnesses,
    breaker,
    cooldown,
    enough_people,
)
#: Those that hold back only what no person has approved.
WITHOUT_A_PERSON: frozenset[Check] = frozenset({fresh, grown_up, witnesses, breaker, cooldown})


def judge(ask: Ask, state: State, *, but: frozenset[Check] = frozenset()) -> Stop | None:
    """The first rule, ``but`` for these, that speaks against it; None where it may be done."""
    vouched = len(_people(ask, state)) >= max(1, people_needed(ask.measure, ask.verb, state))
    for check in CHECKS:
        if check in but or (vouched and check in WITHOUT_A_PERSON):
            continue
        stop = check(ask, state)
        if stop is not None:
            return stop
    return None


def extends(ask: Ask, state: State) -> bool:
    """Whether the end of what is contained may be moved out for this: where it might be begun if nothing were contained."""
    return judge(ask, state, but=frozenset({one_at_a_time})) is None


# --- What they ask ---------------------------------------------------------------------------------------------------------------


def forbids(policy: Policy, target: str, owners: list[str]) -> str:
    """Why this target is never acted on, as the policy stands now; "" where it may be."""
    for name in (target, *owners):
        for pattern in policy.protected:
            if fnmatchcase(name, pattern):
                whose = "" if name == target else f", and {target} is its"
                return f"protected identity: {name} is in {pattern!r}{whose}"
    return ""


def mode_of(measure: Measure, state: State) -> Mode:
    """The mode in force for a measure: never above the global one."""
    return "observe" if state.outside.replay else min(measure.mode, state.policy.respond.mode, key=LADDER.index)


def people_needed(measure: Measure, verb: Verb, state: State) -> int:
    """How many different people must approve it."""
    return max(measure.approvals, mode_of(measure, state) == "approve", 2 * verb.destructive)


def _people(ask: Ask, state: State) -> frozenset[str]:
    """Who has approved it, may do so by the policy as it stands now, and is not a party to it."""
    people, may = ask.people - {ask.target, *ask.owners}, state.policy.respond.approvers
    return people & may.keys() if may else people


def _others(ask: Ask, history: History) -> set[tuple[str, str]]:
    """(verb, target) of every containment in force or about to be, but for this one."""
    pending = {(each.entry.verb, each.entry.target) for each in history.pending.values() if each.entry.action != ask.action}
    return (pending | history.holds.keys()) - {(ask.verb.name, ask.target)}


def _accounts(target: str, users: int) -> int:
    """How many accounts lose their access with a target: all of them with a realm."""
    kind = target.partition(":")[0]
    return max(users, 1) if kind == "realm" else int(kind in ACCOUNTS)


def _share(of: str, out: int, more: int, population: int, percent: float, *, first: bool = True) -> Stop | None:
    """Whether ``more`` beside ``out`` stay within ``percent`` of a population; the ``first`` one does wherever the share is above 0."""
    if percent >= 100.0:
        return None
    if not population:
        return Stop("limited", f"how many there are of {of} is unknown, and their share is limited to {percent:g} percent")
    most = max(math.floor(population * percent / 100.0 + 1e-9), 1 if percent > 0 else 0)
    if out + more <= most or (first and percent > 0 and not out):
        return None
    return Stop("limited", f"limit reached: {percent:g} percent of {of} ({population}) are {most}; {out} are contained")


def _namespace(target: str) -> str:
    return target.partition(":")[2].partition("/")[0]


def _usual(policy: Policy, wrong: Attempt) -> bool:
    """Whether this is how its verb ends in the ordinary course: unverified, where the effect can never be seen."""
    return wrong.result == "unverified" and wrong.verb in policy.verbs and policy.verbs[wrong.verb].blind
