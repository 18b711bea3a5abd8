"""When the safety kernel is asked, and what follows: an alert comes, people have approved, something interrupted is taken up."""

from __future__ import annotations

import hashlib
from typing import Any

import msgspec
from msgspec.structs import replace

from connectors.alert import Alert
from connectors.event import DAY, MINUTE, SECOND
from connectors.ocsf import confidence
from detector.history import Attempt, Entry, Facts, History, Pending, Waiting
from detector.kernel import INSIDE, Ask, Outside, State, Stop, extends, judge, mode_of
from detector.policy import LONGEST_TTL, Mode
from detector.wishes import Policy, Wish


class Decision(msgspec.Struct, kw_only=True, frozen=True):
    """What is to be done, or why nothing is. ``result`` is one of ``detector.history.RESULTS``."""

    action: str
    verb: str
    target: str
    owners: list[str]
    rule: str
    #: The mode in force: the lower of the rule's and the global one.
    mode: Mode
    result: str
    reason: str
    #: When the containment is to end, microseconds; 0 where it has no end or is not carried out.
    due: int = 0
    facts: Facts | None = None

    @property
    def carried_out(self) -> bool:
        """Whether it is to be carried out."""
        return self.result == "enforced"


def decide(alert: Alert, policy: Policy, history: History, now: int, outside: Outside = INSIDE) -> list[Decision]:
    """What to do about one revision of an alert: at least one decision, or none where this revision was decided before.

    What a person denied or released is not decided again for the same alert. What is in force lasts longer with later revisions where
    it might be begun anew; what has come to its end, or to nothing, may be tried anew, as an action of its own. Other decisions are
    taken again with every revision, and given again only where they come out differently. ``now``: microseconds, never back.
    """
    latest = history.revisions.get(alert.uid)
    if latest is not None and alert.revision <= latest:
        return []
    state = State(policy, _scratch(history), outside, now)
    facts = Facts(
        first=alert.first,
        opened=alert.opened,
        time=alert.time,
        severity=alert.severity,
        confidence=confidence(alert)[2],
        signals=sorted(set(alert.signals)),
        probation=alert.probation,
    )
    made: list[Decision] = []
    for wish in policy.wishes(alert):
        if wish.measure is None or not wish.target:
            decision = _nothing(alert, state, wish.reason, wish)
        else:
            decision = _judged(alert.uid, wish, facts, state)
        before = history.decided.get(decision.action)
        if before == "enforced":
            decision = _longer(decision, state)
        if before in ("denied", decision.result) or (before == "enforced" and not decision.due):
            continue
        made.append(decision)
        if decision.carried_out:
            _begin(state.history, row(decision, alert.uid, alert.revision, now))
    return made or [_nothing(alert, state, f"nothing new since revision {latest}")]


def resume(pending: Pending, policy: Policy, history: History, now: int, outside: Outside = INSIDE) -> str:
    """Why an action that was decided earlier may not be taken up (again) now; "" where it may."""
    entry, state = pending.entry, State(policy, history, outside, now)
    if pending.refused:
        return pending.refused
    measure, verb = policy.measure(entry.rule, entry.verb), policy.verbs.get(entry.verb)
    if measure is None or verb is None:
        return f"the rule {entry.rule!r} no longer asks for {entry.verb}"
    facts = entry.facts or _unknown(pending)
    ask = Ask(entry.action, verb, entry.target, entry.owners, measure, facts, frozenset(facts.people), pending.since)
    stop = judge(ask, state)
    return stop.reason if stop else ""


def approved(waiting: Waiting, policy: Policy, history: History, now: int, outside: Outside = INSIDE) -> Decision:
    """What becomes of a decision that waits, with the people who have approved it so far."""
    entry, state = waiting.entry, State(policy, history, outside, now)
    measure, verb = policy.measure(entry.rule, entry.verb), policy.verbs.get(entry.verb)
    if measure is None or verb is None or entry.facts is None:
        return _again(entry, "observe", Stop("withdrawn", f"the rule {entry.rule!r} no longer asks for {entry.verb}"))
    mode = mode_of(measure, state)
    if now - entry.time > policy.respond.approval_seconds * SECOND:
        return _again(entry, mode, Stop("expired", "not approved in time"))
    ask = Ask(entry.action, verb, entry.target, entry.owners, measure, entry.facts, frozenset(waiting.people))
    stop = judge(ask, state)
    if stop is not None:
        return _again(entry, mode, stop, _moved(ask, state, stop))
    facts = replace(entry.facts, people=sorted(waiting.people))
    decision = _again(entry, mode, Stop("enforced", f"rule {entry.rule}, approved by {', '.join(facts.people)}"), _end(ask, state))
    return replace(decision, facts=facts)


def action_id(alert: str, verb: str, target: str, attempt: int = 0) -> str:
    """The id of an action: the same for the same alert, verb, target and attempt, on every machine."""
    parts = [alert, verb, target, attempt] if attempt else [alert, verb, target]
    return hashlib.blake2b(msgspec.json.encode(parts), digest_size=16).hexdigest()


def _present(alert: str, wish: Wish, history: History) -> str:
    """The id of the attempt that is not at its end."""
    attempt = 0
    while (action := action_id(alert, wish.verb, wish.target, attempt)) in history.ended and history.decided.get(action) != "denied":
        attempt += 1
    return action


def _longer(decision: Decision, state: State) -> Decision:
    """A later revision of an alert whose action is in force: its end is moved out where that is a minute or more."""
    hold = state.history.holds.get((decision.verb, decision.target))
    mine = hold is not None and hold.entry.action == decision.action and not (hold.releasing or hold.released)
    if hold is None or not mine or not decision.carried_out or decision.due < hold.due + MINUTE:
        return replace(decision, result="already-contained", due=0)
    return replace(decision, result="already-contained", reason="contained by this very action; its end is moved out")


def _judged(alert: str, wish: Wish, facts: Facts, state: State) -> Decision:
    assert wish.measure is not None  # noqa: S101  asked only of wishes that have one
    verb = state.policy.verbs[wish.verb]
    ask = Ask(_present(alert, wish, state.history), verb, wish.target, wish.owners, wish.measure, facts)
    stop, anew = judge(ask, state), state.history.decided.get(ask.action) != "enforced"
    return Decision(
        action=ask.action,
        verb=wish.verb,
        target=wish.target,
        owners=wish.owners,
        rule=wish.rule,
        mode=mode_of(wish.measure, state),
        result=stop.result if stop else "enforced",
        reason=stop.reason if stop else f"rule {wish.rule}",
        due=_end(ask, state, anew=anew) if stop is None else _moved(ask, state, stop),
        facts=facts,
    )


def _end(ask: Ask, state: State, *, anew: bool = True) -> int:
    """When the containment is to end: later each time it is done ``anew`` within a day; 0 where it cannot be taken back."""
    if not ask.verb.undoable:
        return 0
    last = state.history.latest.get((ask.verb.name, ask.target))
    times = last[1] - (not anew) if last and state.now - last[0].time < DAY else 0
    # The exponent is bounded before the power is taken: a number too large to be one would be no end at all.
    longer = ask.measure.escalate ** min(times, 30)
    return state.now + int(min(ask.measure.ttl_seconds * longer, LONGEST_TTL)) * SECOND


def _moved(ask: Ask, state: State, stop: Stop) -> int:
    """To when the end of an earlier containment of the target is moved out; 0 where it is not."""
    return _end(ask, state, anew=False) if stop.result == "already-contained" and extends(ask, state) else 0


def _again(entry: Entry, mode: Mode, stop: Stop, due: int = 0) -> Decision:
    """A decision on what was decided before."""
    return Decision(
        action=entry.action,
        verb=entry.verb,
        target=entry.target,
        owners=entry.owners,
        rule=entry.rule,
        mode=mode,
        result=stop.result,
        reason=stop.reason,
        due=due,
        facts=entry.facts,
    )


def _scratch(history: History) -> History:
    """The history, to which the decisions of one alert can be added without changing it: each sees those before it."""
    return replace(history, attempts=list(history.attempts), pending=dict(history.pending))


def _begin(scratch: History, entry: Entry) -> None:
    scratch.attempts.append(Attempt(entry.time, entry.verb, entry.target, entry.action))
    scratch.pending[entry.action] = Pending(entry, entry.time)


def row(decision: Decision, alert: str, revision: int, now: int) -> Entry:
    """The row that says what was decided."""
    fields: dict[str, Any] = {name: getattr(decision, name) for name in Decision.__struct_fields__}
    return Entry(time=now, alert=alert, revision=revision, step="decided", **fields)


def _unknown(pending: Pending) -> Facts:
    """For rows of a release that kept no facts: nothing is known to speak for it."""
    return Facts(first=0, opened=0, time=pending.since, severity=0, confidence=0, signals=[], probation=True)


def _nothing(alert: Alert, state: State, reason: str, wish: Wish | None = None) -> Decision:
    """The decision to do nothing: for a wish that has no target, or (no wish) because there is nothing new."""
    respond = state.policy.respond
    return Decision(
        action=action_id(alert.uid, wish.verb, "") if wish else "",
        verb=wish.verb if wish else "",
        target="",
        owners=[],
        rule=wish.rule if wish else "",
        mode=mode_of(wish.measure, state) if wish and wish.measure else "observe" if state.outside.replay else respond.mode,
        result="none" if wish else "unchanged",
        reason=reason,
    )
