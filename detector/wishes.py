"""Which measures the policy wishes for an alert: rules matched, targets found. Whether a wish comes true is ``detector.kernel``'s."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from contextlib import suppress
from fnmatch import fnmatchcase
from typing import NamedTuple

from connectors.alert import Alert, Evidence
from connectors.containment import Verb, offered
from connectors.names import BadName, identity
from connectors.ocsf import confidence
from detector.policy import LADDER, SEVERITIES, SYSTEM, Match, Measure, Respond, problems, spelled

#: Share of its strongest evidence that a piece of an alert must reach for what it was about to be acted upon: what adds but little is
#: shown as well, and may be what the same people do every day.
GRAVE = 0.5


class Wish(NamedTuple):
    """A measure that a rule asks for, and its target; ``target`` and ``verb`` "" where there is none, ``reason`` says why."""

    verb: str
    target: str
    rule: str
    measure: Measure | None
    owners: list[str]
    reason: str = ""


class Policy:
    """A ``Respond`` table made ready, with the verbs on offer. Raises ValueError where it has ``problems``."""

    def __init__(self, respond: Respond, verbs: Mapping[str, Verb] | None = None, able: Collection[str] | None = None) -> None:
        """``able``: the verbs that something is set up for; None: all."""
        self.respond = respond
        self.able = able
        self.verbs = dict(offered() if verbs is None else verbs)
        mistakes = problems(respond, self.verbs)
        if mistakes:
            raise ValueError("\n".join(mistakes))
        self.protected = [spelled(text)[0] for text in respond.protected] + list(SYSTEM if respond.protect_system else ())
        self._assets = [(spelled(pattern)[0], asset) for asset in respond.assets for pattern in asset.patterns]
        self._gpus = [(spelled(pattern)[0], count) for pattern, count in respond.population.gpus_of.items()]
        self._family = {signal: family for family, signals in respond.families.items() for signal in signals}

    def measure(self, rule: str, verb: str) -> Measure | None:
        """The measure of a rule that uses a verb, as the policy stands now; of several the one furthest up the ladder."""
        found = [each for one in self.respond.rules if one.name == rule for each in one.actions if each.verb == verb]
        return max(found, key=lambda each: LADDER.index(each.mode), default=None)

    def independent(self, signals: list[str]) -> int:
        """How many witnesses these signals are."""
        return len({self._family.get(signal, signal) for signal in signals})

    def gpus(self, target: str) -> int:
        """GPUs that an action on ``target`` takes out of use."""
        return next((count for pattern, count in self._gpus if fnmatchcase(target, pattern)), 0)

    def wishes(self, alert: Alert) -> list[Wish]:
        """Everything the rules ask for, in their order, each (verb, target) once: the measure furthest up the ladder counts."""
        if alert.activity == "close":
            return [Wish("", "", "", None, [], "the alert is closing")]
        found: dict[tuple[str, str], Wish] = {}
        for rule in self.respond.rules:
            if not self._matches(rule.match, alert):
                continue
            for measure in rule.actions:
                for wish in self._aimed(alert, rule.name, measure):
                    key = (wish.verb, wish.target)
                    if key not in found or _rung(wish) > _rung(found[key]):
                        found[key] = wish
        return list(found.values()) or [Wish("", "", "", None, [], "no rule matches")]

    def _matches(self, match: Match, alert: Alert) -> bool:
        return (
            alert.severity >= SEVERITIES[match.min_severity]
            and (not match.streams or not set(match.streams).isdisjoint(alert.streams))
            and (not match.signals or not set(match.signals).isdisjoint(alert.signals))
            and (not match.blamed or alert.blamed.partition(":")[0] in match.blamed)
            and len(set(alert.signals)) >= match.min_signals
            and alert.evidence_now >= match.min_evidence
            and (not match.min_confidence or confidence(alert)[2] >= match.min_confidence)
            and (not (match.labels or match.classes) or self._known_as(match, alert))
        )

    def _known_as(self, match: Match, alert: Alert) -> bool:
        """Whether the inventory gives the alert's identities the labels and the classes asked for."""
        names = {alert.blamed, *alert.principals, *alert.targets, *(piece.object for piece in alert.evidence)}
        assets = [asset for pattern, asset in self._assets if any(fnmatchcase(name, pattern) for name in names)]
        return (not match.labels or any(set(match.labels) & set(asset.labels) for asset in assets)) and (
            not match.classes or any(asset.class_ in match.classes for asset in assets)
        )

    def _aimed(self, alert: Alert, rule: str, measure: Measure) -> list[Wish]:
        """One wish for each identity of the alert that the verb acts on; one without a target where there is none."""
        kinds = self.verbs[measure.verb].kinds
        targets: dict[str, None] = {}
        for name in _candidates(alert, measure.aim):
            kind, _, rest = name.partition(":")
            if kind in kinds:
                # An identity is spelled anew, so that no spelling slips past a pattern and no text that is no name reaches an adapter.
                with suppress(BadName, KeyError):
                    targets[identity(kind, rest)] = None
        if not targets:
            return [Wish(measure.verb, "", rule, measure, [], f"no target of kind {' or '.join(kinds)} in the evidence")]
        return [Wish(measure.verb, target, rule, measure, _owners(alert, target, measure.aim)) for target in targets]


def _candidates(alert: Alert, aim: str) -> Iterator[str]:
    if aim == "who":
        yield from (*alert.principals, *alert.targets)
    elif aim == "what":
        yield from (*([alert.blamed] if alert.role == "object" else []), *(piece.object for piece in _grave(alert)))
    else:
        yield from (f"secret:{piece.detail}" for piece in _grave(alert) if piece.action == "release_key")


def _grave(alert: Alert) -> list[Evidence]:
    most = max((piece.score for piece in alert.evidence), default=0.0)
    return [piece for piece in alert.evidence if piece.score >= GRAVE * most]


def _owners(alert: Alert, target: str, aim: str) -> list[str]:
    """Who is behind a target: whom the evidence saw act through it; where that is not known, all principals of the alert."""
    if target in alert.principals or aim != "who":
        return [target]
    return sorted({piece.actor for piece in alert.evidence if piece.via == target} or set(alert.principals))


def _rung(wish: Wish) -> int:
    return LADDER.index(wish.measure.mode) if wish.measure else -1
