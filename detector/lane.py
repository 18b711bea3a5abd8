"""One raw log as ingest reads it: records in, resolved events, dead letters and bindings out. No Kafka, no clock."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from connectors.deadletter import LETTER_BYTES, DeadLetter, retried_from
from connectors.event import MINUTE, Block, Reject
from connectors.sources import Source
from connectors.wire import REPLAYED, log_name
from detector.agreed import VERSION, Said, Sight


class Taken(NamedTuple):
    """What came of a batch of records. ``arrived``: when the first of them did, microseconds. ``replayed``: offsets of those that were
    played back from a recording."""

    block: Block
    letters: list[DeadLetter]
    said: list[Said]
    skipped: dict[str, int]
    arrived: int
    good: int
    replayed: list[int]


@dataclass
class Counted:
    """What a log has brought since the last heartbeat."""

    events: int = 0
    records: int = 0
    rejects: dict[str, int] = field(default_factory=dict)


class Lane:
    """Where one raw log stands. ``position``: the next offset; ``hold``: up to which offset the last owner may have sent rows."""

    def __init__(self, topic: str, partition: int, uuid: str, source_name: str, source: Source, sight: Sight, *, begun: bool) -> None:
        self.topic = topic
        self.partition = partition
        self.uuid = uuid
        self.name = log_name(topic, partition, uuid)
        self.source_name = source_name
        self.source = source
        self.sight = sight
        self.begun = begun
        self.position = self.committed = self.hold = 0
        #: The offset after the last record that the consumer has given out since it has the log, None = none yet.
        self.given: int | None = None
        #: Records that the broker has deleted before they were read.
        self.lost = 0
        self.counted = Counted()
        #: Newest event time, and when the newest record arrived, microseconds; 0 = none yet.
        self.last_event = self.last_arrival = 0


def decoded(lane: Lane, messages: list[Any], ahead_minutes: float) -> Taken:
    """Decode and resolve a batch of a log's messages (``value``, ``offset``, ``headers``, ``timestamp`` in ms, -1 = unknown)."""
    records = [message.value if message.value is not None else b"" for message in messages]
    offsets = np.array([message.offset for message in messages], np.int64)
    arrivals = np.array([message.timestamp for message in messages], np.int64) * 1000
    whole = lane.source.decode(records)
    block = whole.block
    rejects = list(whole.rejects)
    bindings = whole.bindings
    early = _ahead(block, arrivals, ahead_minutes)
    if early:
        rejects += [Reject(record, "time-ahead", sentence) for record, sentence in early.items()]
        block = block.take(~np.isin(block.record, list(early)))
        bindings = [binding for binding in bindings if binding.record not in early]
    # A binding holds for the rows of later records.
    upcoming = [(int(np.searchsorted(block.record, binding.record, side="right")), binding) for binding in bindings]
    fresh = lane.sight.view.resolve(block, upcoming)
    said = [Said(VERSION, binding.time, binding.subject, binding.target, lane.name, int(offsets[binding.record])) for binding in fresh]
    block.record = offsets[block.record]
    letters = [_letter(lane, messages[reject.record], reject.reason, reject.message) for reject in rejects]
    lane.last_arrival = int(arrivals[-1])
    if len(block):
        lane.last_event = max(lane.last_event, int(block.time.max()))
    played = [message.offset for message in messages if message.headers and any(name == REPLAYED for name, _ in message.headers)]
    return Taken(block, letters, said, whole.skipped, int(arrivals.min()), len(records) - len(letters), played)


def too_large(lane: Lane, message: Any, limit: int) -> DeadLetter:
    """A record that gives rise to more than a message may hold."""
    return _letter(lane, message, "too-large", f"what comes of this record needs more than {limit:,} bytes (kafka.message_bytes)")


def _letter(lane: Lane, message: Any, reason: str, sentence: str) -> DeadLetter:
    return DeadLetter(
        reason=reason,
        message=sentence,
        source=lane.source_name,
        topic=lane.topic,
        partition=lane.partition,
        offset=message.offset,
        arrived=message.timestamp * 1000,
        raw=(message.value or b"")[:LETTER_BYTES],
        retried_from=retried_from(message.headers),
    )


def _ahead(block: Block, arrivals: np.ndarray, minutes: float) -> dict[int, str]:
    """Records whose time is too far ahead of their arrival, with the sentence that says so."""
    arrived = arrivals[block.record]
    early = np.flatnonzero((block.time > arrived + minutes * MINUTE) & (arrived > 0))
    out = {}
    for row in early.tolist():
        when, came = np.datetime64(int(block.time[row]), "us"), np.datetime64(int(arrived[row]), "us")
        out[int(block.record[row])] = f"time {when}Z is more than {minutes:g} minutes ahead of its arrival at {came}Z"
    return out
