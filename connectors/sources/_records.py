"""What every JSON source does the same way: decode records one by one, name what is wrong with a bad one, read times."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec

from connectors.event import EARLIEST, LATEST, SECOND, Reject
from connectors.sources import LONGEST_RECORD, later

_PATH = re.compile(r" - at `\$\.?([^`]*)`$")
_MISSING = re.compile(r"missing required field `([^`]*)`")
_any = msgspec.json.Decoder()


class BadRecord(ValueError):
    """A record that cannot become an event: ``reason`` is the countable word, the text the sentence."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


def explain(index: int, record: bytes, error: Exception) -> Reject:
    """The reject for a record that failed to decode with ``error``: what is wrong and in which field."""
    if isinstance(error, BadRecord):
        return Reject(index, error.reason, str(error))
    if len(record) > LONGEST_RECORD:
        return Reject(index, "too-long", f"record of {len(record)} bytes, at most {LONGEST_RECORD} are read")
    if not record.strip():
        return Reject(index, "empty", "empty record")
    if isinstance(error, RecursionError):
        return Reject(index, "malformed-json", "nested too deeply")
    text = str(error)
    if isinstance(error, msgspec.ValidationError):
        foreign = _foreign(record)
        if foreign is not None:
            return Reject(index, f"unsupported-format:{foreign[0]}", f"{foreign[1]}: not a format this release reads")
        missing = _MISSING.search(text)
        path = _PATH.search(text)
        field = missing.group(1) if missing else (path.group(1) if path else "")
        what = "missing" if missing else "wrong-type"
        # Array positions vary from record to record; a reason must not.
        field = re.sub(r"\[\d*\.*\]", "[]", field)[:64] or "record"
        return Reject(index, f"{what}:{field}", text)
    return Reject(index, "malformed-json", text)


def _foreign(record: bytes) -> tuple[str, str] | None:
    try:
        parsed: Any = _any.decode(record)
    except (ValueError, RecursionError):
        return None
    return later(parsed) if isinstance(parsed, dict) else None


_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_ISO = re.compile(r"(\d{4})-(\d\d)-(\d\d)[T ](\d\d):(\d\d)(?::(\d\d)(?:[.,](\d{1,9})\d*)?)?\s?(Z|[+-]\d\d:?\d\d)?", re.ASCII)


def iso_time(text: str, field: str) -> int:
    """Microseconds UTC of an ISO 8601 / RFC 3339 time: ``T`` or blank, up to nanoseconds (cut), ``Z``, ``+00:00``, ``+0000`` or
    nothing (taken as UTC). Raises BadRecord naming ``field``.

    >>> iso_time("2026-11-20T22:50:00.010000+0000", "timestamp") == iso_time("2026-11-20T23:50:00.01+01:00", "timestamp")
    True
    """
    match = _ISO.fullmatch(text)
    if match is None:
        raise BadRecord(f"bad-time:{field}", f"{field}: not an ISO 8601 time: {text[:60]!r}")
    year, month, day, hour, minute, second, fraction, zone = match.groups()
    leap = second == "60"
    try:
        moment = datetime(int(year), int(month), int(day), int(hour), int(minute), 59 if leap else int(second or 0), tzinfo=UTC)
        if zone and zone != "Z":
            offset = timedelta(hours=int(zone[1:3]), minutes=int(zone[-2:]))
            moment = moment - offset if zone[0] == "+" else moment + offset
    except (ValueError, OverflowError) as error:
        raise BadRecord(f"bad-time:{field}", f"{field}: {error}: {text[:60]!r}") from None
    delta = moment - _EPOCH
    micro = (delta.days * 86_400 + delta.seconds + leap) * SECOND + int((fraction or "").ljust(6, "0")[:6] or 0)
    return checked_time(micro, field)


def epoch_time(value: float, field: str) -> int:
    """Microseconds UTC of seconds since 1970. Raises BadRecord naming ``field``."""
    if not EARLIEST / SECOND <= value < LATEST / SECOND:  # also false for NaN
        raise BadRecord(f"time-out-of-range:{field}", f"{field}: {value!r} s is not between 1990 and 2100")
    return round(value * SECOND)


def checked_time(micro: int, field: str) -> int:
    """``micro`` itself if it lies between 1990 and 2100. Raises BadRecord naming ``field``."""
    if not EARLIEST <= micro < LATEST:
        raise BadRecord(f"time-out-of-range:{field}", f"{field}: {micro / SECOND:.0f} s is not between 1990 and 2100")
    return micro
