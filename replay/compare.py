"""What a change of configuration does: alerts gained, lost and moved, scenarios caught and how soon, and which small change helps."""

from __future__ import annotations

import statistics
from bisect import bisect_left
from typing import Any, Literal

import msgspec

from connectors.event import HOUR, MINUTE, SECOND
from detector.config import Config
from replay.feedback import NEAR, Judged, kept, near
from replay.simulate.labels import Label
from replay.trials import Case, Trial
from replay.variants import Variant, flat, parse_named

#: An alert that names who is behind a scenario counts up to this long after its last record.
GRACE = 6 * HOUR
#: Less than this is no move: the clock of alerts ticks by the minute.
MOVED = MINUTE


class Pair(msgspec.Struct, kw_only=True):
    """An alert with a configuration A, with B, or with both. ``shift``: seconds by which B opens it later."""

    kind: Literal["same", "moved", "gained", "lost"]
    a: Case | None = None
    b: Case | None = None
    shift: float = 0.0


class Verdict(msgspec.Struct, kw_only=True):
    """What a trial made of one labelled scenario. ``delay_events``: its records, in the log of the evidence that
    caught it, up to that evidence."""

    scenario: str
    instance: int
    benign: bool
    slow: bool
    uid: str = ""
    delay_seconds: float | None = None
    delay_events: int | None = None


class Score(msgspec.Struct, kw_only=True):
    """A trial in figures. Medians are over the scenarios caught that are not slow. ``false_alerts``: None without labels.
    ``dropped``: alerts that are in ``alerts`` and in no other figure."""

    name: str
    changes: dict[str, Any]
    alerts: int
    alerts_per_day: float
    caught: int
    scenarios: int
    median_delay_seconds: float | None
    median_delay_events: float | None
    benign_alerts: int
    false_alerts: int | None
    true_kept: int
    true_known: int
    false_kept: int
    false_known: int
    seconds: float
    events_per_second: float
    peak_bytes: int
    dropped: int = 0


def pairs(a: Trial, b: Trial) -> list[Pair]:
    """The alerts of two trials side by side, in order of time: by id, else by line, identity and nearness in time, nearest first."""
    one, two = {case.uid: case for case in a.cases}, {case.uid: case for case in b.cases}
    found = [Pair(kind="same", a=one[uid], b=two[uid]) for uid in one if uid in two]
    left = [case for case in a.cases if case.uid not in two]
    right: dict[tuple[str, str], list[Case]] = {}
    for case in b.cases:
        if case.uid not in one:
            right.setdefault((case.line, case.blamed), []).append(case)
    near_ones = sorted(
        (abs(other.opened - case.opened), case.opened, case.uid, other.uid, case, other)
        for case in left
        for other in right.get((case.line, case.blamed), ())
        if near(case, (other.opened, other.last))
    )
    taken: set[str] = set()
    for _, _, _, _, case, other in near_ones:
        if case.uid not in taken and other.uid not in taken:
            taken |= {case.uid, other.uid}
            shift = (other.opened - case.opened) / SECOND
            found.append(Pair(kind="moved" if abs(shift) * SECOND >= MOVED else "same", a=case, b=other, shift=shift))
    found += [Pair(kind="lost", a=case) for case in left if case.uid not in taken]
    found += [Pair(kind="gained", b=case) for cases in right.values() for case in cases if case.uid not in taken]
    return sorted(found, key=_when)


def _when(pair: Pair) -> tuple[int, str]:
    case = pair.a or pair.b
    return (0, "") if case is None else (case.opened, case.uid)


def verdicts(trial: Trial, labels: list[Label]) -> list[Verdict]:
    """What became of every labelled scenario, in the order of the labels.

    An alert is about a scenario if it has named who is behind it, and shown a record of it, while it went on or soon after. Where a
    label names no records, that its alert shows none of any other scenario takes their place: people take part in several.
    """
    real = [case for case in trial.cases if not case.notice]
    free = [case for case in real if not any(_held(case, label) for label in labels)]
    return [_verdict(real if label.records else free, label) for label in labels]


def _verdict(cases: list[Case], label: Label) -> Verdict:
    found = Verdict(scenario=label.scenario, instance=label.instance, benign=label.benign, slow=label.slow)
    best = min(((time, case.uid, case) for case in cases if (time := _time(case, label)) is not None), default=None, key=_first)
    if best is None:
        return found
    time, found.uid, case = best
    found.delay_seconds = (time - label.first_us) / SECOND
    found.delay_events = max((rank for rank, told in _held(case, label) if told <= time), default=None)
    return found


def _first(each: tuple[int, str, Case]) -> tuple[int, str]:
    return each[:2]


def _time(case: Case, label: Label) -> int | None:
    """When an alert had told enough to be about a scenario, microseconds UTC; None where it never had, or not in time."""
    named = min((case.named[each] for each in label.principals if each in case.named), default=None)
    shown = min((told for _, told in _held(case, label)), default=None) if label.records else label.first_us
    if named is None or shown is None:
        return None
    since = max(named, shown, label.first_us)
    return next((told for told in case.told if since <= told <= label.last_us + GRACE), None)


def _held(case: Case, label: Label) -> list[tuple[int, int]]:
    """The records of the scenario that an alert shows: (how many it had in that log up to this one, when the alert first showed it)."""
    found = []
    for log, record, told in case.records:
        own = label.records.get(log, [])
        place = bisect_left(own, record)
        if place < len(own) and own[place] == record:
            found.append((place + 1, told))
    return found


def score(trial: Trial, variant: Variant, labels: list[Label], opinions: list[Judged]) -> Score:
    """A trial in figures."""
    found = verdicts(trial, labels)
    attacks = [each for each in found if not each.benign]
    caught = [each for each in attacks if each.uid]
    quick = [each for each in caught if not each.slow]
    true_kept, true_known = kept(opinions, trial, "true_positive")
    false_kept, false_known = kept(opinions, trial, "false_positive")
    return Score(
        name=variant.name,
        changes=variant.changes,
        alerts=trial.alerts,
        alerts_per_day=round(trial.alerts_per_day, 3),
        caught=len(caught),
        scenarios=len(attacks),
        median_delay_seconds=_median([each.delay_seconds for each in quick]),
        median_delay_events=_median([each.delay_events for each in quick]),
        benign_alerts=sum(bool(each.uid) for each in found if each.benign),
        false_alerts=_false(trial, labels) if labels else None,
        true_kept=true_kept,
        true_known=true_known,
        false_kept=false_kept,
        false_known=false_known,
        seconds=round(trial.seconds, 2),
        events_per_second=round(trial.events / trial.seconds) if trial.seconds else 0.0,
        peak_bytes=trial.peak_bytes,
        dropped=trial.dropped,
    )


def _median(values: list[Any]) -> float | None:
    known = [value for value in values if value is not None]
    return float(statistics.median(known)) if known else None


def _false(trial: Trial, labels: list[Label]) -> int:
    """Alerts on behaviour that show no record of any attack, nor name who is behind one without records while it went on."""
    attacks = [label for label in labels if not label.benign]
    return sum(not case.notice and not any(_about(case, label) for label in attacks) for case in trial.cases)


def _about(case: Case, label: Label) -> bool:
    if label.records:
        return bool(_held(case, label))
    named = not case.named.keys().isdisjoint(label.principals)
    return named and case.opened <= label.last_us + GRACE and case.last >= label.first_us - NEAR


def merit(each: Score) -> tuple[int, int, int]:
    """What more is better of: scenarios caught, alerts kept that were confirmed, alerts gone that were not."""
    return each.caught, each.true_kept, -each.false_kept


def suggestion(base: Score, others: list[Score], config: Config) -> Score | None:
    """The smallest change that does better and alerts no more than the budget, or the base, does; None where there is none.

    Fewest keys first, then the smallest relative change of their values, then the fewest alerts. A change of the budget itself is no
    such change.
    """
    granted = max(config.budget.alerts_per_day + config.budget.slow_alerts_per_day, base.alerts_per_day)
    before = flat(config)
    fit = [
        each
        for each in others
        if merit(each) > merit(base) and each.alerts_per_day <= granted and not any(key.startswith("budget.") for key in each.changes)
    ]
    return min(fit, key=lambda each: (len(each.changes), _size(each, before), each.alerts_per_day, each.name), default=None)


def _size(each: Score, before: dict[str, Any]) -> float:
    """How large a change is: the sum of the relative changes of its keys; 1 for what is no number."""
    return sum(_relative(before.get(key), value) for key, value in each.changes.items())


def _relative(old: Any, new: Any) -> float:
    if not isinstance(old, int | float) or not isinstance(new, int | float) or isinstance(old, bool):
        return float(old != new)
    largest = max(abs(old), abs(new))
    return abs(new - old) / largest if largest else 0.0


def cheapest(scores: list[Score], variants: list[Variant]) -> Score | None:
    """Of variants that change the alert budget alone, the smallest budget that catches as much as the largest; None without such."""
    curve = sorted(
        (parse_named(variant).budget.alerts_per_day, each.name, each)
        for each, variant in zip(scores, variants, strict=True)
        if list(variant.changes) == ["budget.alerts_per_day"]
    )
    if len(curve) < 2:
        return None
    best = max(each.caught for _, _, each in curve)
    return next(each for _, _, each in curve if each.caught == best) if best else None
