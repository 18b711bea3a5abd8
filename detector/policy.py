"""Containment policy: what TOML says, and the one pure function that turns an alert into decisions.

Every safety rule stands here and nowhere else, before any adapter: the mode ladder, protected identities, hourly limits, once per
alert. ``decide`` has no clock, no randomness and no I/O; what has been done so far comes in as a ``History``.
"""

from __future__ import annotations

import hashlib
import unicodedata
from collections.abc import Mapping
from contextlib import suppress
from fnmatch import fnmatchcase
from typing import Annotated, Literal, NamedTuple, get_args

import msgspec

from connectors.alert import Alert
from connectors.containment import Verb, offered
from connectors.event import HOUR, SECOND, Stream
from connectors.names import KINDS, BadName, identity
from detector.ledger import Entry, History

Mode = Literal["observe", "propose", "approve", "enforce"]
#: The mode ladder. Each rung allows what those below it do.
LADDER: tuple[Mode, ...] = get_args(Mode)

Severity = Literal["low", "medium", "high", "critical"]
#: OCSF severity_id of each severity.
SEVERITIES: dict[Severity, int] = {"low": 2, "medium": 3, "high": 4, "critical": 5}

#: Shortest and longest containment, in seconds: below a minute nothing is verified in time; beyond 30 days it is no longer a stop-gap.
Ttl = Annotated[int, msgspec.Meta(ge=60, le=30 * 86_400)]
Limit = Annotated[int, msgspec.Meta(ge=0, le=10_000)]

#: Result of a decision by the mode that stops it short of ``enforce``, with the reason.
_STOPS: dict[Mode, tuple[str, str]] = {
    "observe": ("observed", "mode is observe"),
    "propose": ("proposed", "mode is propose"),
    "approve": ("awaiting-approval", "mode is approve: waits for a person; this release takes no approvals, so nothing is carried out"),
}


class Match(msgspec.Struct, forbid_unknown_fields=True, kw_only=True, frozen=True):
    """Which alerts a rule is for: all of these must hold; an empty list means any."""

    min_severity: Severity = "high"
    #: Any of these streams, any of these signals among the alert's.
    streams: list[str] = []
    signals: list[str] = []
    #: Kinds of the blamed identity.
    blamed: list[str] = []
    #: Distinct signals, and accumulated evidence in nats, at least.
    min_signals: Annotated[int, msgspec.Meta(ge=1, le=100)] = 1
    min_evidence: Annotated[float, msgspec.Meta(ge=0.0)] = 0.0


class Measure(msgspec.Struct, forbid_unknown_fields=True, kw_only=True, frozen=True):
    """One action of a rule: done to every identity in the alert that the verb can act on."""

    verb: str
    mode: Mode = "observe"
    #: After this it is undone; 4 hours give a person of the next shift time to look. Without meaning for what cannot be undone.
    ttl_seconds: Ttl = 14_400
    #: At most so many uses of this verb in any hour.
    max_per_hour: Limit = 5


class Rule(msgspec.Struct, forbid_unknown_fields=True, kw_only=True, frozen=True):
    """Alerts that match -> measures, in order."""

    name: str
    match: Match = Match()
    actions: list[Measure]


def _first_rules() -> list[Rule]:
    """What a new installation observes: two signals agreeing on a grave alert would stop sessions, pods and jobs."""
    verbs = ("revoke_sessions", "isolate_pod", "suspend_job")
    return [Rule(name="grave", match=Match(min_signals=2), actions=[Measure(verb=verb) for verb in verbs])]


class Respond(msgspec.Struct, forbid_unknown_fields=True, kw_only=True, frozen=True):
    """The ``[respond]`` table."""

    #: The highest rung of the ladder that any rule can reach.
    mode: Mode = "observe"
    #: Patterns of identities that are never acted on ("user:admin*", "sa:kube-system/*").
    protected: list[str] = []
    #: At most so many actions of any verb in any hour.
    max_per_hour: Limit = 10
    rules: list[Rule] = msgspec.field(default_factory=_first_rules)


class Decision(msgspec.Struct, kw_only=True, frozen=True):
    """What is to be done, or why nothing is. ``result`` is one of ``detector.ledger.RESULTS``."""

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

    @property
    def carried_out(self) -> bool:
        """Whether it is to be carried out."""
        return self.result == "enforced"


def problems(respond: Respond, verbs: Mapping[str, Verb] | None = None) -> list[str]:
    """What types cannot say, each as ``respond.key: expected ...``. ``verbs``: what is on offer, by default by all adapters."""
    known = offered() if verbs is None else verbs
    mistakes = [f"respond.protected[{i}]: {why}" for i, p in enumerate(respond.protected) if (why := spelled(p)[1])]
    names = [rule.name for rule in respond.rules]
    for i, rule in enumerate(respond.rules):
        key = f"respond.rules[{i}]"
        if not rule.name or names.index(rule.name) != i:
            mistakes.append(f"{key}.name: expected a name of its own, got {rule.name!r}")
        if not rule.actions:
            mistakes.append(f"{key}.actions: expected at least one")
        mistakes += _unknown(f"{key}.match.streams", rule.match.streams, Stream.__members__)
        mistakes += _unknown(f"{key}.match.blamed", rule.match.blamed, KINDS)
        for j, measure in enumerate(rule.actions):
            mistakes += _unknown(f"{key}.actions[{j}].verb", [measure.verb], known)
    return mistakes


def _unknown(key: str, given: list[str], known: Mapping[str, object]) -> list[str]:
    return [f"{key}: expected one of {', '.join(known)}, got {item!r}" for item in given if item not in known]


def spelled(text: str) -> tuple[str, str]:
    """(the pattern in the spelling of identities, "") or ("", what was expected)."""
    kind, _, rest = text.partition(":")
    if kind not in KINDS or not rest:
        return "", f"expected 'kind:pattern', kind one of {', '.join(KINDS)}; got {text!r}"
    if not any(sign in rest for sign in "*?["):
        try:
            return identity(kind, rest), ""
        except BadName as error:
            return "", f"expected an identity: {error}"
    spelled = unicodedata.normalize("NFC", rest)
    return f"{kind}:{spelled.lower() if KINDS[kind] in ('fold', 'ip') else spelled}", ""


class Policy:
    """A ``Respond`` table made ready, with the verbs on offer. Raises ValueError where it has ``problems``."""

    def __init__(self, respond: Respond, verbs: Mapping[str, Verb] | None = None) -> None:
        self.respond = respond
        self.verbs = dict(offered() if verbs is None else verbs)
        mistakes = problems(respond, self.verbs)
        if mistakes:
            raise ValueError("\n".join(mistakes))
        self._protected = [spelled(text)[0] for text in respond.protected]

    def forbids(self, target: str, owners: list[str]) -> str:
        """Why this target is never acted on, as things stand now; "" where it may be."""
        for name in (target, *owners):
            for pattern in self._protected:
                if fnmatchcase(name, pattern):
                    whose = "" if name == target else f", and {target} is its"
                    return f"protected identity: {name} is in {pattern!r}{whose}"
        return ""

    def mode(self, wanted: Mode) -> Mode:
        """The mode in force for a measure that wants ``wanted``: never above the global one."""
        return min(wanted, self.respond.mode, key=LADDER.index)


def action_id(alert: str, verb: str, target: str) -> str:
    """The id of an action: the same for the same alert, verb and target, on every machine."""
    return hashlib.blake2b(msgspec.json.encode([alert, verb, target]), digest_size=16).hexdigest()


def decide(alert: Alert, policy: Policy, history: History, now: int) -> list[Decision]:
    """What to do about one revision of an alert: at least one decision, or none where this revision was decided before.

    An action that was once decided to be carried out is not decided again for the same alert. Other decisions are taken again with
    every revision, and given again only where they come out differently. ``now``: microseconds, never running back.
    """
    latest = history.revisions.get(alert.uid)
    if latest is not None and alert.revision <= latest:
        return []
    fresh: list[Decision] = []
    spent = [verb for time, verb in history.attempts if time > now - HOUR]
    for wish in _wishes(alert, policy):
        before = history.decided.get(action_id(alert.uid, wish.verb, wish.target))
        decision = _judge(alert, wish, policy, history, spent, now)
        if before in ("enforced", decision.result):
            continue
        if decision.carried_out:
            spent.append(decision.verb)
        fresh.append(decision)
    return fresh or [_nothing(alert, policy, f"nothing new since revision {latest}")]


def withdrawn(entry: Entry, policy: Policy) -> str:
    """Why an action that was decided earlier and then interrupted may not be taken up again; "" where it may."""
    if policy.respond.mode != "enforce":
        return f"mode is now {policy.respond.mode}"
    return policy.forbids(entry.target, entry.owners)


class _Wish(NamedTuple):
    """A measure that a rule asks for, and its target; ``target`` and ``verb`` "" where there is none, ``reason`` says why."""

    verb: str
    target: str
    rule: str
    measure: Measure | None
    reason: str = ""


def _wishes(alert: Alert, policy: Policy) -> list[_Wish]:
    """Everything the rules ask for, in their order, each (verb, target) once: the measure that goes furthest up the ladder counts."""
    if alert.activity == "close":
        return [_Wish("", "", "", None, "the alert is closing")]
    wishes: dict[tuple[str, str], _Wish] = {}
    for rule in policy.respond.rules:
        if not _matches(rule.match, alert):
            continue
        for measure in rule.actions:
            for wish in _aimed(alert, policy, rule.name, measure):
                key = (wish.verb, wish.target)
                if key not in wishes or _rung(wish) > _rung(wishes[key]):
                    wishes[key] = wish
    return list(wishes.values()) or [_Wish("", "", "", None, "no rule matches")]


def _rung(wish: _Wish) -> int:
    return LADDER.index(wish.measure.mode) if wish.measure else -1


def _matches(match: Match, alert: Alert) -> bool:
    return (
        alert.severity >= SEVERITIES[match.min_severity]
        and (not match.streams or not set(match.streams).isdisjoint(alert.streams))
        and (not match.signals or not set(match.signals).isdisjoint(alert.signals))
        and (not match.blamed or alert.blamed.partition(":")[0] in match.blamed)
        and len(set(alert.signals)) >= match.min_signals
        and alert.evidence_now >= match.min_evidence
    )


def _aimed(alert: Alert, policy: Policy, rule: str, measure: Measure) -> list[_Wish]:
    """One wish for each identity of the alert that the verb acts on; one without a target where there is none."""
    kinds = policy.verbs[measure.verb].kinds
    targets: dict[str, None] = {}
    for name in (*alert.principals, *alert.targets):
        kind, _, rest = name.partition(":")
        if kind in kinds:
            # An identity is spelled anew, so that no spelling slips past a pattern and no text that is no name reaches an adapter.
            with suppress(BadName, KeyError):
                targets[identity(kind, rest)] = None
    if not targets:
        return [_Wish(measure.verb, "", rule, measure, f"no target of kind {' or '.join(kinds)} in the evidence")]
    return [_Wish(measure.verb, target, rule, measure) for target in targets]


def _owners(alert: Alert, target: str) -> list[str]:
    """Who is behind a target: whom the evidence saw act through it; where that is not known, all principals of the alert."""
    if target in alert.principals:
        return [target]
    return sorted({piece.actor for piece in alert.evidence if piece.via == target} or set(alert.principals))


def _judge(alert: Alert, wish: _Wish, policy: Policy, history: History, spent: list[str], now: int) -> Decision:
    """One decision on one wish. ``spent``: the verbs used in the last hour, this alert's included."""
    measure = wish.measure
    if measure is None or not wish.target:
        return _nothing(alert, policy, wish.reason, wish)
    owners = _owners(alert, wish.target)
    mode = policy.mode(measure.mode)
    due = now + measure.ttl_seconds * SECOND if policy.verbs[wish.verb].undoable else 0
    hold = history.holds.get((wish.verb, wish.target))
    protected = policy.forbids(wish.target, owners)
    if protected:
        result, reason, due = "protected", protected, 0
    elif mode == "enforce" and alert.probation:
        result, reason, due = "proposed", "the alert is on probation: too little history to act on without a person", 0
    elif mode != "enforce":
        (result, reason), due = _STOPS[mode], 0
    elif hold is not None:
        result, reason = "already-contained", f"already contained by action {hold.entry.action}"
    elif len(spent) >= policy.respond.max_per_hour:
        result, reason, due = "limited", f"hourly limit reached: {policy.respond.max_per_hour} actions", 0
    elif spent.count(wish.verb) >= measure.max_per_hour:
        result, reason, due = "limited", f"hourly limit reached: {measure.max_per_hour} of {wish.verb}", 0
    else:
        result, reason = "enforced", f"rule {wish.rule}"
    return Decision(
        action=action_id(alert.uid, wish.verb, wish.target),
        verb=wish.verb,
        target=wish.target,
        owners=owners,
        rule=wish.rule,
        mode=mode,
        result=result,
        reason=reason,
        due=due,
    )


def _nothing(alert: Alert, policy: Policy, reason: str, wish: _Wish | None = None) -> Decision:
    """The decision to do nothing: for a wish that has no target, or (no wish) because there is nothing new."""
    return Decision(
        action=action_id(alert.uid, wish.verb, "") if wish else "",
        verb=wish.verb if wish else "",
        target="",
        owners=[],
        rule=wish.rule if wish else "",
        mode=policy.mode(wish.measure.mode) if wish and wish.measure else policy.respond.mode,
        result="none" if wish else "unchanged",
        reason=reason,
    )
