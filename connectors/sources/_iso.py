"""A column of ISO 8601 times at once: the same answer as ``iso_time`` text by text, at a tenth of its cost where texts look alike."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np

from connectors.event import EARLIEST, LATEST, MINUTE, SECOND
from connectors.sources._records import BadRecord, iso_time

_LAYOUT = re.compile(r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d(?P<fraction>[.,]\d{1,9})?(?P<zone>Z|[+-]\d\d:?\d\d)?", re.ASCII)
_DATE_DIGITS = (0, 1, 2, 3, 5, 6, 8, 9, 11, 12, 14, 15, 17, 18)
_HIGHEST_OFFSET = 23 * 60 + 59
#: Fewer texts of one length than this are read one by one: numpy's fixed cost is then the higher one.
_WORTH_A_MATRIX = 16


def iso_column(texts: Sequence[str], field: str) -> tuple[np.ndarray, dict[int, BadRecord]]:
    """(int64[n] microseconds UTC, what is wrong with which text). A bad text's time is 0."""
    times = np.zeros(len(texts), np.int64)
    left = np.ones(len(texts), np.bool_)
    lengths = np.fromiter(map(len, texts), np.int64, len(texts))
    sizes, counts = np.unique(lengths, return_counts=True)
    for size in sizes[counts >= _WORTH_A_MATRIX].tolist():
        rows = np.flatnonzero(lengths == size)
        _read_alike(texts if len(rows) == len(texts) else [texts[row] for row in rows.tolist()], size, rows, times, left)
    problems = {}
    for row in np.flatnonzero(left).tolist():
        try:
            times[row] = iso_time(texts[row], field)
        except BadRecord as error:
            problems[row] = error
    return times, problems


def _read_alike(texts: Sequence[str], size: int, rows: np.ndarray, times: np.ndarray, left: np.ndarray) -> None:
    """Read those of ``texts`` (all of length ``size``, at ``rows``) that are laid out as the first is; clear them in ``left``.

    Whatever is unusual (another zone, a leap second, a day that does not exist, a year out of range) is left to ``iso_time``.
    """
    layout = _LAYOUT.fullmatch(texts[0])
    joined = "".join(texts)
    if layout is None or not joined.isascii():
        return
    zone = layout["zone"] or "Z"
    offset = 0
    if zone != "Z":
        offset = int(zone[1:3]) * 60 + int(zone[-2:])
        if offset > _HIGHEST_OFFSET:
            return
        offset = offset if zone[0] == "+" else -offset
    start, end = layout.span("fraction") if layout["fraction"] else (19, 19)
    digits = [*_DATE_DIGITS, *range(start + 1, end)]
    fixed = sorted(set(range(size)) - set(digits))
    matrix = np.frombuffer(joined.encode(), np.uint8).reshape(-1, size)
    numbers = matrix - np.uint8(48)  # wraps below "0", so one comparison tells digits
    good = (numbers[:, digits] <= 9).all(axis=1) & (matrix[:, fixed] == matrix[0, fixed]).all(axis=1)
    year, month, day, hour, minute, second = (
        _number(numbers, *span) for span in ((0, 4), (5, 7), (8, 10), (11, 13), (14, 16), (17, 19))
    )
    micro = _number(numbers, start + 1, min(end, start + 7)) * 10 ** max(0, 7 - (end - start)) if end > start else 0
    good &= (year >= 1) & (month >= 1) & (month <= 12) & (day >= 1) & (hour < 24) & (minute < 60) & (second < 60)
    first = ((year - 1970) * 12 + month - 1).astype("datetime64[M]")
    length = (first + 1).astype("datetime64[D]") - first.astype("datetime64[D]")
    good &= day <= length.astype(np.int64)
    days = first.astype("datetime64[D]").astype(np.int64) + day - 1
    found = (((days * 24 + hour) * 60 + minute) * 60 + second) * SECOND + micro - offset * MINUTE
    good &= (found >= EARLIEST) & (found < LATEST)
    times[rows[good]] = found[good]
    left[rows[good]] = False


def _number(digits: np.ndarray, start: int, stop: int) -> np.ndarray:
    value = digits[:, start].astype(np.int64)
    for position in range(start + 1, stop):
        value = value * 10 + digits[:, position]
    return value
