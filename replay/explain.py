"""An alert in words, for a tired person at three in the morning: who, what, how sure, why, and whom to act on.

At most 40 lines of at most 100 characters. Nothing hostile reaches the terminal: every text passes ``connectors.ocsf.shown``.
"""

from __future__ import annotations

import textwrap
from datetime import UTC, datetime

from connectors.alert import Alert, Evidence, Reason
from connectors.event import EARLIEST, LATEST, SECOND
from connectors.ocsf import confidence, deed, risk, severity, shown, table, techniques, title
from models.signals import amount, number

#: Lines, and characters a line may have.
HEIGHT = 40
WIDTH = 100
#: Reasons shown of the first, second and third piece of evidence; the next row where the texts are so long that it would not fit.
REASONS = ((3, 2, 2), (2, 1, 1), (1, 1, 1))
#: Active hours from which an identity's own base rate is worth a line.
FEWEST_HOURS = 20.0
#: Names in a list before the rest is only counted.
NAMED = 4
#: Where the texts of the labelled lines begin.
INDENT = 10
#: Seen against expected is worth a factor from here on; below, the sentence says it better.
TELLING = 2.0

_NEWS = {"open": "new", "update": "goes on", "close": "closed, quiet for hours"}


def headline(alert: Alert, width: int = 120) -> str:
    """One line for live display, at most ``width`` characters: when, the beginning of its id, how bad, whether new, what, and the
    strongest reason."""
    news = {"open": "", "update": "still: ", "close": "over: "}[alert.activity]
    what = deed(alert.evidence[0]) if alert.evidence else title(alert)
    if alert.notice:
        what = f"{what}: {shown(alert.notice)}"
    why = f": {_sentence(alert.evidence[0].reasons[0])}" if alert.evidence and alert.evidence[0].reasons else ""
    return _cut(f"{_when(alert.time)} {shown(alert.uid)[:8]} {severity(alert)[1].upper():<8} {news}{what}{why}", width)


def explain(alert: Alert) -> str:
    """The whole explanation as plain text, no line feed at the end. The same alert gives the same text."""
    if alert.notice:
        return "\n".join(_notice(alert))
    head, tail = _head(alert), _tail(alert)
    middle = []
    for reasons in REASONS:
        middle = [
            line for place, evidence in enumerate(alert.evidence[: len(reasons)]) for line in _piece(place, evidence, reasons[place])
        ]
        if len(head) + len(middle) + len(tail) <= HEIGHT:
            break
    return "\n".join(head + middle + tail)


def _notice(alert: Alert) -> list[str]:
    """What the detector says of itself: nobody is accused, so there is nothing to weigh."""
    return [
        _cut(f"{severity(alert)[1].upper()}  {title(alert)}", WIDTH),
        *_labelled("When", f"{_when(alert.opened)} UTC", 1),
        *_labelled("What", shown(alert.notice), 8),
        *_labelled("Alert", f"{shown(alert.uid, 60)}, revision {alert.revision} ({_NEWS[alert.activity]})", 1),
    ]


def _head(alert: Alert) -> list[str]:
    return [
        _cut(f"{severity(alert)[1].upper()}  {title(alert)}", WIDTH),
        *_labelled("When", _span(alert), 1),
        *_labelled("How sure", _certainty(alert), 2),
        *_labelled("How much", _extent(alert), 1),
        "",
        'Why, strongest first ("1 in N": so rarely does anything look as strange)',
    ]


def _tail(alert: Alert) -> list[str]:
    more = len(alert.evidence) - len(REASONS[0])
    lines = ["  the alert carries no evidence"] if not alert.evidence else []
    if more > 0:
        lines.append(f"  and {more} more {_plural(more, 'piece')} of evidence in the alert record")
    lines.append("")
    lines += _labelled("Meaning", _meaning(alert), 3)
    lines += _labelled("Act on", _names(alert.principals) or "nobody is accountable for this by name", 2)
    seen_as = [each for each in alert.targets if each not in alert.principals]
    if seen_as:
        lines += _labelled("Seen as", _names(seen_as), 2)
    return lines + _labelled("Alert", f"{shown(alert.uid, 60)}, revision {alert.revision} ({_NEWS[alert.activity]})", 1)


def _span(alert: Alert) -> str:
    first, last = _when(alert.first), _when(alert.last)
    until = "" if first == last else f" to {last[11:] if first[:10] == last[:10] else last}"
    return f"{first}{until} UTC; the alert opened {_when(alert.opened)}"


def _certainty(alert: Alert) -> str:
    _, word, score = confidence(alert)
    text = f"{word.lower()} ({score} of 100): scored {alert.score:.1f}, {alert.threshold:.1f} is where alerts begin"
    if alert.probation:
        text += "; on probation: too little history behind this to be sure, look before you act"
    return text


def _extent(alert: Alert) -> str:
    streams = ", ".join(shown(each, 20) for each in alert.streams[:NAMED]) or "no known stream"
    return (
        f"{alert.events:,} surprising {_plural(alert.events, 'event')} with {alert.partners:,} {_plural(alert.partners, 'partner')}"
        f" in {streams}; risk {risk(alert)} of 100"
    )


def _piece(place: int, evidence: Evidence, reasons: int) -> list[str]:
    """One piece of evidence: what happened, why that is strange, where the record is, why it counts for less."""
    times = f", {evidence.events:,} such this hour" if evidence.events > 1 else ""
    lines = _wrapped(f"{_when(evidence.time)} {deed(evidence)}{times}", f" {place + 1}. ", 2)
    for reason in evidence.reasons[:reasons]:
        # Hard spaces keep the notes together when lines break.
        notes = ", ".join(each for each in (_factor(reason), _rarity(reason.base_rate), _peers(reason)) if each).replace(" ", "\u00a0")
        lines += _wrapped(f"{shown(_sentence(reason), 2 * WIDTH - len(notes) - 30)} [{notes}]", "    - ", 2)
    if place == 0 and evidence.own_hours >= FEWEST_HOURS:
        lines += _wrapped(f"{_own(evidence)}", "    itself ", 1)
    named = f", id {shown(evidence.uid, 40)}" if evidence.uid else ""
    lines += _wrapped(f"{shown(evidence.source, 30)} {shown(evidence.partition, 60)}:{evidence.offset}{named}", "    record ", 2)
    if evidence.lowered:
        # Where room is scarce, one reason and one line.
        many = min(reasons, 2)
        lines += _wrapped(shown("; ".join(evidence.lowered), many * (WIDTH - 20)), "    lowered: ", many)
    return lines


def _sentence(reason: Reason) -> str:
    """The detector's sentence; one made of the numbers where it made none (a plug-in's signal)."""
    if reason.text.strip():
        return shown(reason.text.strip())
    parts = [f"{shown(reason.signal, 40)} finds this strange"]
    named = (("seen", reason.seen), ("expected", reason.expected), ("normal up to", reason.usual))
    parts += [f"{word} {_quantity(value, reason.unit)}" for word, value in named if value is not None]
    return ", ".join(parts)


def _quantity(value: float, unit: str) -> str:
    if unit == "bytes":
        return amount(value)
    return f"{number(value)} {shown(unit, 20)}".strip()


def _factor(reason: Reason) -> str:
    """How many times the expected was seen; "" where that says nothing."""
    if not reason.seen or not reason.expected or reason.expected <= 0 or reason.seen / reason.expected < TELLING:
        return ""
    factor = reason.seen / reason.expected
    return f"{number(factor)}x the expected" if factor < 1e6 else "over a million times the expected"


def _rarity(base_rate: float) -> str:
    """A share as "1 in N", N to two digits.

    >>> _rarity(0.000437), _rarity(0.3), _rarity(0.0)
    ('1 in 2,300', '1 in 3', 'never seen')
    """
    if not base_rate > 0:
        return "never seen"
    if base_rate < 1e-9:
        return "1 in over a billion"
    often = 1 / min(base_rate, 1.0)
    digits = 10 ** max(len(f"{often:.0f}") - 2, 0)
    return f"1 in {round(often / digits) * digits:,}"


def _peers(reason: Reason) -> str:
    """The base rate among the actor's peers; "" where it is not known."""
    return "" if reason.base_rate_peers is None else f"{_rarity(reason.base_rate_peers)} among its peers"


def _own(evidence: Evidence) -> str:
    """The actor's own base rate: how often it has given evidence, this hour included."""
    before = max(evidence.own_strange - 1, 0)
    return f"surprising in {before:,} of the {evidence.own_hours:,.0f} edge-hours it was active before"


def _meaning(alert: Alert) -> str:
    known = table()
    found = []
    for each in techniques(alert):
        entry, matrix = known.techniques[each], known.matrix(each)
        found.append(f"{known.title(each)} ({known.tactics[entry.tactic]}, {matrix.name.split()[1]} {each})")
    if not found:
        return "nothing we have a name for; strange is not yet hostile"
    return "could be " + "; ".join(found)


def _names(identities: list[str]) -> str:
    rest = len(identities) - NAMED
    text = ", ".join(shown(each, 40) for each in identities[:NAMED])
    return f"{text} and {rest} more" if rest > 0 else text


def _when(time: int) -> str:
    """A time to the second; the bare number where it is none (a broken record must not break the explanation)."""
    if not EARLIEST <= time < LATEST:
        return f"{time} µs"
    return datetime.fromtimestamp(time // SECOND, UTC).strftime("%Y-%m-%d %H:%M:%S")


def _plural(count: int, noun: str) -> str:
    return noun if count == 1 else f"{noun}s"


def _labelled(label: str, text: str, most: int) -> list[str]:
    return _wrapped(text, f"{label:<{INDENT}}", most)


def _wrapped(text: str, prefix: str, most: int) -> list[str]:
    """``text`` behind ``prefix``, continued under its own beginning, on at most ``most`` lines."""
    lines = textwrap.wrap(text, WIDTH, initial_indent=prefix, subsequent_indent=" " * len(prefix), max_lines=most, placeholder=" …")
    return [line.replace("\u00a0", " ") for line in lines] or [prefix.rstrip()]


def _cut(text: str, width: int) -> str:
    return text if len(text) <= width else f"{text[: width - 1]}…"
