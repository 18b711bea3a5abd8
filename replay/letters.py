"""Dead letters as people look at them, and which of them are worth another try. No Kafka, no clock."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import NamedTuple

import msgspec

from connectors.deadletter import DeadLetter, Retried, place, preview
from connectors.sources import Source
from replay.screen import printable

#: Letters of each reason that are shown.
EXAMPLES = 3
_UNITS = {"s": "seconds", "min": "minutes", "h": "hours", "d": "days"}


class SinceError(ValueError):
    """A ``--since`` that says no time, in one sentence."""


class Entry(NamedTuple):
    """A record of the dead-letter topic with the time at which it was written, microseconds UTC."""

    time: int
    said: DeadLetter | Retried


class Choice(msgspec.Struct, frozen=True):
    """Which letters are meant; "" and 0 mean any. ``since``: written at or after, microseconds UTC."""

    reason: str = ""
    topic: str = ""
    since: int = 0

    def takes(self, time: int, letter: DeadLetter) -> bool:
        """Whether this letter is meant. A reason may be given without what follows its colon."""
        reason = not self.reason or letter.reason == self.reason or letter.reason.partition(":")[0] == self.reason
        return reason and self.topic in ("", letter.topic) and time >= self.since


def moment(text: str, now: datetime) -> int:
    """A time (``2026-03-01T22:00Z``) or a span before ``now`` (``90min``, ``6h``, ``2d``) as microseconds UTC. Raises SinceError.

    >>> moment("1h", datetime(1970, 1, 1, 3, tzinfo=UTC))
    7200000000
    """
    span = re.fullmatch(r"(\d{1,6})(s|min|h|d)", text)
    try:
        time = now - timedelta(**{_UNITS[span[2]]: int(span[1])}) if span else datetime.fromisoformat(text)
    except (ValueError, OverflowError):
        raise SinceError(f"--since: expected a time (2026-03-01T22:00Z) or a span (90min, 6h, 2d), got {printable(text)!r}") from None
    return int((time if time.tzinfo else time.replace(tzinfo=UTC)).timestamp() * 1e6)


class Reason(msgspec.Struct, kw_only=True):
    """All letters of one reason: how many, in which topics, when, and some of them."""

    reason: str
    letters: int = 0
    topics: dict[str, int] = {}
    first: int = 0
    last: int = 0
    examples: list[dict[str, str]] = []


class Listing(msgspec.Struct, kw_only=True):
    """What ``list`` found. ``retried``: given back so far; ``unreadable``: records of the topic that are none of ours."""

    letters: int = 0
    retried: int = 0
    unreadable: int = 0
    reasons: list[Reason] = []


class Lister:
    """Counts letters by reason, one record of the topic at a time."""

    def __init__(self, choice: Choice) -> None:
        self._choice = choice
        self._found = Listing()
        self._reasons: dict[str, Reason] = {}

    def add(self, entry: Entry | None) -> None:
        """The topic's next record; ``None`` stands for one that cannot be read."""
        if entry is None:
            self._found.unreadable += 1
        elif isinstance(entry.said, Retried):
            self._found.retried += 1
        elif self._choice.takes(entry.time, entry.said):
            letter = entry.said
            held = self._reasons.setdefault(letter.reason, Reason(reason=letter.reason, first=entry.time))
            held.letters += 1
            held.topics[letter.topic] = held.topics.get(letter.topic, 0) + 1
            held.first, held.last = min(held.first, entry.time), max(held.last, entry.time)
            if len(held.examples) < EXAMPLES:
                held.examples.append({"place": letter.place, "message": letter.message, "begins": preview(letter.raw)})

    def listing(self) -> Listing:
        """What was found, most frequent reason first."""
        self._found.reasons = sorted(self._reasons.values(), key=lambda each: (-each.letters, each.reason))
        self._found.letters = sum(each.letters for each in self._found.reasons)
        return self._found


def table(found: Listing) -> list[str]:
    """A listing as lines for people. Nothing in them that a terminal would obey."""
    lines = []
    for each in found.reasons:
        topics = ", ".join(f"{topic} {many:,}" for topic, many in sorted(each.topics.items()))
        lines.append(f"{each.letters:>9,}  {each.reason}  ({topics}; {_when(each.first)} to {_when(each.last)})")
        for example in each.examples:
            lines.append(f"{'':11}{example['place']}: {example['message']}")
            lines.append(f"{'':11}{example['begins']}")
    lines.append(f"{found.letters:,} dead letters, {len(found.reasons)} reasons; {found.retried:,} given back so far")
    if found.unreadable:
        lines.append(f"{found.unreadable:,} records of the dead-letter topic are none of ours, or newer than this release")
    return [printable(line) for line in lines]


class Print(NamedTuple):
    """How the record begins that a letter is about: enough to know it again, a tenth of the letter."""

    length: int
    digest: bytes

    @classmethod
    def of(cls, begins: bytes) -> Print:
        """Of the beginning that a letter holds."""
        return cls(len(begins), hashlib.blake2b(begins, digest_size=16).digest())

    def fits(self, record: bytes) -> bool:
        """Whether this is still the record: a topic made anew has others at the same places."""
        return Print.of(record[: self.length]) == self


class Chooser:
    """Finds the letters that are worth another try, one record of the topic at a time. A letter written twice is one."""

    def __init__(self, choice: Choice) -> None:
        self._choice = choice
        self._wanted: dict[tuple[str, int], dict[int, Print]] = {}
        self._done: set[str] = set()
        self._repeats: set[str] = set()

    def add(self, entry: Entry | None) -> None:
        """The topic's next record; ``None`` stands for one that cannot be read."""
        if entry is None:
            return
        if isinstance(entry.said, Retried):
            self._done.add(entry.said.place)
        elif self._choice.takes(entry.time, entry.said):
            letter = entry.said
            if letter.retried_from:
                self._repeats.add(letter.place)
            else:
                self._wanted.setdefault((letter.topic, letter.partition), {}).setdefault(letter.offset, Print.of(letter.raw))

    def chosen(self, outcome: Outcome) -> dict[tuple[str, int], dict[int, Print]]:
        """(topic, partition) -> offset -> its print, of all that were not given back yet. Counts the others into ``outcome``."""
        left = {}
        for (topic, partition), offsets in sorted(self._wanted.items()):
            open_ = {offset: found for offset, found in offsets.items() if place(topic, partition, offset) not in self._done}
            outcome.retried_before += len(offsets) - len(open_)
            if open_:
                left[topic, partition] = open_
        outcome.refused_again += len(self._repeats)
        return left


def runs(offsets: Sequence[int], gap: int) -> Iterator[tuple[int, int]]:
    """Offsets (ascending) as (first, last) of stretches that are read in one go: nothing wanted is more than ``gap`` apart in them.

    >>> list(runs([1, 2, 9, 500], 100))
    [(1, 9), (500, 500)]
    """
    first = last = offsets[0]
    for offset in offsets[1:]:
        if offset - last > gap:
            yield first, last
            first = offset
        last = offset
    yield first, last


def verdicts(source: Source, records: Sequence[bytes]) -> dict[int, str]:
    """Index of each record that cannot be decoded now -> its reason."""
    return {reject.record: reject.reason for reject in source.decode(records).rejects}


class Outcome(msgspec.Struct, kw_only=True):
    """What came of a retry. ``gone``: no longer in the topic; ``other``: the topic was made anew; ``unread``: nobody reads it now."""

    given_back: int = 0
    still_refused: dict[str, int] = {}
    gone: int = 0
    other: int = 0
    unread: dict[str, int] = {}
    retried_before: int = 0
    refused_again: int = 0
    dry_run: bool = False

    def refuse(self, reason: str) -> None:
        """One more that cannot be decoded now either."""
        self.still_refused[reason] = self.still_refused.get(reason, 0) + 1


def told(outcome: Outcome) -> list[str]:
    """An outcome as lines for people."""
    verb = "could be given back" if outcome.dry_run else "given back"
    lines = [f"{outcome.given_back:>9,}  {verb} to their topics"]
    for reason, many in sorted(outcome.still_refused.items(), key=lambda item: (-item[1], item[0])):
        lines.append(f"{many:>9,}  still refused: {reason}")
    rest = [
        (outcome.gone, "gone: their topic no longer keeps them (retention)"),
        (outcome.other, "not what they were: another record lies at their place (the topic was made anew)"),
        (outcome.retried_before, "given back before, and not again"),
        (outcome.refused_again, "refused again after they were given back: not tried a third time"),
    ]
    lines += [f"{many:>9,}  {text}" for many, text in rest if many]
    lines += [f"{many:>9,}  of {topic}: not among kafka.raw" for topic, many in sorted(outcome.unread.items())]
    return [printable(line) for line in lines]


def _when(time: int) -> str:
    return datetime.fromtimestamp(time / 1e6, UTC).strftime("%Y-%m-%d %H:%MZ")
