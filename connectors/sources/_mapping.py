"""The mapping file of ``table``: which column means what, in TOML, checked before a row is read."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterable
from enum import IntEnum
from pathlib import Path

import msgspec

from connectors.event import Action, Basis, Outcome, Stream
from connectors.names import KINDS, BadName, identity
from connectors.sources._records import BadRecord, iso_time

#: What the numbers of a time column count.
TIME_FORMATS = ("s", "ms", "us", "iso")


class MappingError(ValueError):
    """A mapping that cannot be used; the message names the file, the key and what was expected."""


class Time(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """When. ``column``: one, or several of which the first that is not empty counts."""

    column: str | list[str]
    #: One of ``TIME_FORMATS``.
    format: str
    #: Numbers count from this day (ISO, UTC) and not from 1970.
    epoch: str = ""
    #: Column, in the same format, of the end of what lasts: the event's time is then the end, where there is one.
    end: str = ""
    #: The event's time is ``column`` plus the ``duration``.
    add_duration: bool = False


class Who(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """An identity: ``kind`` and the cell of ``column`` after ``prefix``; or ``constant``, whole (``service:gateway``)."""

    column: str = ""
    kind: str = ""
    prefix: str = ""
    constant: str = ""


class Choice(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """A word looked up in ``values`` by the cell of ``column``; ``otherwise`` for cells that are not there."""

    column: str
    values: dict[str, str]
    otherwise: str = "unknown"


class Detail(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """The cells of ``columns`` that are not empty, joined. Ports from 32768 up in ``ports`` become ``ephemeral``."""

    columns: list[str]
    join: str = "/"
    ports: list[str] = []


class Mapping(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """A whole mapping file. Names of columns where nothing else is said; "" = there is none."""

    title: str = ""
    stream: str
    time: Time
    actor: Who
    object: Who
    via: Who | None = None
    action: str | Choice
    outcome: str | Choice = "unknown"
    detail: str | Detail = ""
    bytes_out: str = ""
    bytes_in: str = ""
    bytes_basis: str = "none"
    duration: str = ""
    count: str = ""
    gpus: str = ""
    gpu_seconds: str = ""
    uid: str = ""
    label: str = ""
    #: Cells of ``label`` that mean "no attack".
    benign: list[str] = []
    #: Cells, in any column, that mean "not known"; the empty cell always does.
    unknown: list[str] = []
    #: Columns of whole numbers that some tool wrote as 190.0: read as 190.
    integers: list[str] = []
    #: What separates the columns of a CSV file.
    delimiter: str = ","

    def columns(self) -> list[str]:
        """Every column named, once, in order of first mention."""
        named: list[str] = [*self.time_columns(), self.time.end]
        named += [who.column for who in (self.actor, self.object, self.via) if who is not None]
        named += [choice.column for choice in (self.action, self.outcome) if isinstance(choice, Choice)]
        named += self.detail.columns if isinstance(self.detail, Detail) else [self.detail]
        named += [self.bytes_out, self.bytes_in, self.duration, self.count, self.gpus, self.gpu_seconds, self.uid, self.label]
        return [name for name in dict.fromkeys(named) if name]

    def time_columns(self) -> list[str]:
        """The columns the time is taken from, the preferred first."""
        return [self.time.column] if isinstance(self.time.column, str) else self.time.column

    def epoch(self) -> int:
        """Where the numbers of the time column count from, in microseconds since 1970."""
        return _epoch(self.time.epoch)


def read_mapping(path: Path) -> Mapping:
    """Read a mapping file. Raises MappingError."""
    try:
        text = path.read_bytes().decode()
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8 text"
        raise MappingError(f"{path}: cannot be read: {reason}") from None
    return parse_mapping(text, str(path))


def parse_mapping(text: str, origin: str) -> Mapping:
    """Read the text of a mapping file; ``origin`` names it in errors. Raises MappingError."""
    try:
        mapping = msgspec.convert(tomllib.loads(text), Mapping)
    except tomllib.TOMLDecodeError as error:
        raise MappingError(f"{origin}: not TOML: {error}") from None
    except msgspec.ValidationError as error:
        what, _, where = str(error).partition(" - at `$")
        named = re.search(r"field `([^`]*)`", what)
        key = ".".join(part for part in (where.strip("`."), named.group(1) if named else "") if part)
        raise MappingError(f"{origin}: {key or 'file'}: {what}") from None
    for key, problem in _problems(mapping):
        raise MappingError(f"{origin}: {key}: {problem}")
    return mapping


def _epoch(text: str) -> int:
    """Microseconds since 1970 of a day or time in ISO form, 0 for "". Raises BadRecord."""
    return iso_time(text if len(text) > len("2025-01-01") else f"{text}T00:00:00Z", "epoch") if text else 0


def _problems(mapping: Mapping) -> Iterable[tuple[str, str]]:
    """(key, what is wrong and what was expected), lazily."""
    yield from _not_one_of("stream", mapping.stream, Stream)
    yield from _not_one_of("bytes_basis", mapping.bytes_basis, Basis)
    yield from _choice_problems("action", mapping.action, Action)
    yield from _choice_problems("outcome", mapping.outcome, Outcome)
    for key in ("actor", "object", "via"):
        who = getattr(mapping, key)
        if who is not None:
            yield from _who_problems(key, who)
    yield from _time_problems(mapping)
    if len(mapping.delimiter) != 1 or not mapping.delimiter.isascii() or mapping.delimiter in '"\r\n':
        yield "delimiter", f"expected one ASCII character other than a quote or a line break, got {mapping.delimiter!r:.40}"
    if isinstance(mapping.detail, Detail):
        if not mapping.detail.columns:
            yield "detail.columns", "expected at least one column"
        strange = sorted(set(mapping.detail.ports) - set(mapping.detail.columns))
        if strange:
            yield "detail.ports", f"expected some of detail.columns, got {strange[0]!r:.60}"
    strange = sorted(set(mapping.integers) - set(mapping.columns()))
    if strange:
        yield "integers", f"expected columns this mapping reads, got {strange[0]!r:.60}"
    if mapping.benign and not mapping.label:
        yield "benign", "has no meaning without label"
    if (mapping.bytes_out or mapping.bytes_in) and mapping.bytes_basis == "none":
        yield "bytes_basis", "expected payload, ip, l2 or object, as there are bytes"


def _time_problems(mapping: Mapping) -> Iterable[tuple[str, str]]:
    time = mapping.time
    if time.format not in TIME_FORMATS:
        yield "time.format", f"expected one of {', '.join(TIME_FORMATS)}, got {time.format!r:.60}"
    if not mapping.time_columns() or "" in mapping.time_columns():
        yield "time.column", "expected the name of a column, or several"
    if time.epoch:
        if time.format == "iso":
            yield "time.epoch", "expected only where numbers count from it: ISO times name their day"
        try:
            mapping.epoch()
        except BadRecord as error:
            yield "time.epoch", f"expected a day as 2025-01-01: {error}"
    if time.end and time.add_duration:
        yield "time.add_duration", "expected either this or time.end"
    if time.add_duration and not mapping.duration:
        yield "time.add_duration", "has no meaning without duration"


def _who_problems(key: str, who: Who) -> Iterable[tuple[str, str]]:
    if bool(who.column) == bool(who.constant):
        yield key, "expected either column (with kind) or constant"
    elif who.column:
        yield from _not_one_of(f"{key}.kind", who.kind, KINDS)
    else:
        kind, _, name = who.constant.partition(":")
        try:
            identity(kind, name)
        except (BadName, KeyError) as error:
            yield f"{key}.constant", f"expected an identity as service:gateway: {error}"
        if who.kind or who.prefix:
            yield key, "expected nothing beside constant"


def _choice_problems(key: str, choice: str | Choice, words: type[IntEnum]) -> Iterable[tuple[str, str]]:
    if isinstance(choice, str):
        yield from _not_one_of(key, choice, words)
        return
    yield from _not_one_of(f"{key}.otherwise", choice.otherwise, words)
    for cell, word in choice.values.items():
        yield from _not_one_of(f"{key}.values.{cell!r:.40}", word, words)


def _not_one_of(key: str, word: str, words: type[IntEnum] | dict[str, str]) -> Iterable[tuple[str, str]]:
    allowed = list(words) if isinstance(words, dict) else [member.name for member in words]
    if word not in allowed:
        yield key, f"expected one of {', '.join(allowed)}, got {word!r:.60}"
