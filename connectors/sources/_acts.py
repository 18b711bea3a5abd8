"""What the sources of few records a second share: records into acts one by one, a bad act told from the good ones around it.

A record may be an envelope of several acts. What is wrong with one of them is a reject of the record; the others still give rows.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import msgspec

from connectors.event import Action, Binding, Reject, Row, Stream, block_of
from connectors.names import LONGEST, BadName, Names, clean
from connectors.sources import LONGEST_RECORD, Decoded
from connectors.sources._records import BadRecord, epoch_time, explain

#: Longest word taken as a detail, in bytes: Kubernetes' longest resource with its subresource has 60.
_LONGEST_DETAIL = 64
#: No object has more bytes and no machine more of anything: the largest int64.
_MOST = 2.0**63

#: What a record holds: the raw JSON of each of its acts.
Parts = Callable[[bytes], Sequence[bytes]]


class Act(NamedTuple):
    """What one act gives."""

    rows: list[Row]
    bindings: list[Binding]


#: (index of the record, raw JSON of an act) -> the act, or the name under which it is skipped. Raises what ``explain`` explains.
Read = Callable[[int, bytes], Act | str]


def one(record: bytes) -> Sequence[bytes]:
    """The parts of a record that is no envelope."""
    return (record,)


def decode_acts(names: Names, source: str, records: Sequence[bytes], parts: Parts, read: Read) -> Decoded:
    """Rows, rejects (one a record and reason), skips and bindings of a batch, in order of its records. Never raises."""
    rows: list[Row] = []
    bindings: list[Binding] = []
    rejects: list[Reject] = []
    skipped: dict[str, int] = {}
    for i, record in enumerate(records):
        # An envelope of a million bad acts has few reasons, so it costs few rejects.
        problems: dict[str, Reject] = {}
        for part in _split(i, record, parts, problems):
            try:
                act = read(i, part)
            except (ValueError, RecursionError) as error:
                reject = explain(i, part, error)
                problems.setdefault(reject.reason, reject)
                continue
            if isinstance(act, str):
                skipped[act] = skipped.get(act, 0) + 1
            else:
                rows += act.rows
                bindings += act.bindings
        rejects += problems.values()
    return Decoded(block_of(names, source, rows), rejects, skipped, bindings)


def _split(index: int, record: bytes, parts: Parts, problems: dict[str, Reject]) -> Sequence[bytes]:
    try:
        if len(record) > LONGEST_RECORD:
            raise BadRecord("too-long", f"record of {len(record)} bytes, at most {LONGEST_RECORD} are read")
        return parts(record)
    except (ValueError, RecursionError) as error:
        reject = explain(index, record, error)
        problems[reject.reason] = reject
        return ()


class Words:
    """Texts of records as codes of ``names``."""

    def __init__(self, names: Names) -> None:
        self.names = names

    def identity(self, kind: str, name: str, field: str) -> int:
        """The code of ``kind:name``. Raises BadRecord naming ``field``."""
        coder = self.names.of(kind)
        # Looked at first, because the coder remembers every text it was asked for.
        code = coder[name] if len(name) <= LONGEST else -1
        if code < 0:
            raise BadRecord(f"bad-identity:{field}", f"{field}: {coder.problem(name)}")
        return code

    def text(self, code: int) -> str:
        """The identity behind a code."""
        return self.names.values[code]

    def detail(self, word: str | None) -> int:
        """The code of a word of low cardinality: -1 for none, "other" for a text that is no word."""
        if not word:
            return -1
        try:
            plain = clean(word) if len(word) <= _LONGEST_DETAIL else "other"
        except BadName:
            plain = "other"
        return self.names.passing(plain)

    def address(self, text: str | None, field: str) -> int:
        """The code of an address with or without a port; -1 for none. Raises BadRecord naming ``field``."""
        if not text or text == "@":  # how Go writes the peer of a Unix socket
            return -1
        return self.identity("ip", without_port(text), field)

    def account(self, name: str, field: str) -> int:
        """The code of a user as Kubernetes names it: service accounts and nodes are kinds of their own. Raises BadRecord."""
        if name.startswith("system:serviceaccount:"):
            namespace, _, account = name.removeprefix("system:serviceaccount:").partition(":")
            if namespace and account:
                return self.identity("sa", f"{namespace}/{account}", field)
        if name.startswith("system:node:") and len(name) > len("system:node:"):
            return self.identity("node", name.removeprefix("system:node:"), field)
        return self.identity("user", name, field)

    def use(self, row: Row, actor: int, behind: int, via: int, system: str) -> Row:
        """The row that says: in the course of ``row``, ``actor`` was seen behind an address or another identity by ``system``.

        A token used where it never was shows here, whatever it is used for.
        """
        return Row(
            record=row.record,
            time=row.time,
            stream=Stream.auth,
            action=Action.use,
            outcome=row.outcome,
            actor=actor,
            object=behind,
            via=via if via != behind else -1,
            detail=self.names.passing(system),
            uid=row.uid,
        )


def without_port(text: str) -> str:
    """The host of ``host``, ``host:port``, ``[v6]:port`` or a bare IPv6 address.

    >>> [without_port(text) for text in ("10.0.0.7:5000", "[2001:db8::7]:5000", "2001:db8::7", "10.0.0.7")]
    ['10.0.0.7', '2001:db8::7', '2001:db8::7', '10.0.0.7']
    """
    if text.startswith("["):
        return text[1:].partition("]")[0]
    return text.partition(":")[0] if text.count(":") == 1 else text


def quantity(value: float | None, field: str) -> float:
    """A number that cannot be negative; NaN for None. Raises BadRecord naming ``field``."""
    if value is None:
        return float("nan")
    if value < 0:
        raise BadRecord(f"negative:{field}", f"{field}: {value!r} is negative")
    if not value < _MOST:  # also true for NaN
        raise BadRecord(f"out-of-range:{field}", f"{field}: {value!r} is not below 2**63")
    return value


def milliseconds(value: float, field: str) -> int:
    """Microseconds UTC of milliseconds since 1970. Raises BadRecord naming ``field``."""
    return epoch_time(value / 1000, field)


def required(value: str | None, field: str) -> str:
    """``value``. Raises BadRecord where it is absent, null or empty."""
    if not value:
        raise BadRecord(f"missing:{field}", f"{field}: is empty")
    return value


def raw_parts(parts: Sequence[msgspec.Raw]) -> Sequence[bytes]:
    """Pieces of a decoded envelope as records of their own."""
    return [bytes(part) for part in parts]
