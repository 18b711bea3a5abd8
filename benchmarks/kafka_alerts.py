"""How late alerts are: each names the record that has opened it, and the load knows when that record left."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Iterable, Iterator

from benchmarks.kafka_load import Batch, Sent
from connectors import ocsf
from connectors.alert import Alert


class Left:
    """When the records of a load left, by where they are in the raw topic ``raw``."""

    def __init__(self, raw: str, batches: Iterable[Batch]) -> None:
        self.raw = raw
        self._batches: dict[str, list[Batch]] = {}
        for batch in sorted(batches):
            self._batches.setdefault(f"{raw}-{batch.partition}", []).append(batch)

    def at(self, log: str, offset: int) -> float | None:
        """When the record left, seconds since 1970; None where it is of another load."""
        batches = self._batches.get(log, [])
        place = bisect_right(batches, offset, key=lambda batch: batch.offset) - 1
        if place < 0 or offset >= batches[place].offset + batches[place].many:
            return None
        return batches[place].at


def alerted(raw: str, sent: Sent, heard: Iterable[tuple[float, str]], since: float = -math.inf, until: float = math.inf) -> list[float]:
    """From a record's leaving to the receipt of the alert that it has opened, for records of a load that left in a span: seconds.

    ``heard``: what came out of the alerts' topic, with when. What came twice, after a crash, came when it did so first.
    """
    left = Left(raw, sent.batches)
    first: dict[str, float] = {}
    for came, alert, _ in _openings(heard):
        opener = max((each for each in alert.evidence if each.score == alert.score), key=lambda each: each.time, default=None)
        at = None if opener is None else left.at(opener.partition, opener.offset)
        if at is not None and since <= at < until:
            first.setdefault(alert.uid, came - at)
    return list(first.values())


def opened(heard: Iterable[tuple[float, str]]) -> list[tuple[str, str]]:
    """(id, as written) of each alert that was opened."""
    return [(alert.uid, text) for _, alert, text in _openings(heard)]


def _openings(heard: Iterable[tuple[float, str]]) -> Iterator[tuple[float, Alert, str]]:
    for came, text in heard:
        alert = ocsf.alert_of(text.encode())
        if not alert.notice and alert.activity == "open":
            yield came, alert, text
