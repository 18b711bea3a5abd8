"""What the processes say of themselves on the status topic: typed, versioned records, one kind a question of the watcher's.

Written by every worker at each heartbeat, read by ``detector.watch``. Counts are those *since the same process's last record of that
kind*, so that records of several processes add up and a restart starts nothing anew. Times are microseconds since 1970 UTC.
"""

from __future__ import annotations

import msgspec

#: Version of these records. A reader refuses a newer one.
STATUS_VERSION = 1


class StatusError(ValueError):
    """A status record that cannot be read, in one sentence."""


class Status(msgspec.Struct, kw_only=True, tag_field="kind", tag=str.lower):
    """What all kinds have in common: the version of the form, and the name of the process that writes."""

    version: int = STATUS_VERSION
    #: Stable over restarts (the instance name of static membership), unique among the processes that run at one time.
    process: str


class Lag(msgspec.Struct, kw_only=True):
    """How far one process is behind on one topic, its worst partition."""

    records: int
    #: Age of the oldest record that was not read yet; 0 where all is read.
    seconds: float


class Heartbeat(Status, kw_only=True):
    """The process lives. One a few seconds (``watch.heartbeat_seconds``), and a last one with ``stopping`` at a clean end."""

    #: The stages it runs ("actor", or "actor+object"), the host's label (low cardinality, no address).
    stage: str
    host: str = ""
    #: By its own clock: now, and when it was started.
    time: int
    started: int
    stopping: bool = False
    #: The partitions it has open, "topic/number".
    partitions: list[str] = []
    #: By topic.
    lag: dict[str, Lag] = {}
    #: Events a second by stage, for people.
    rates: dict[str, float] = {}
    #: Rows dropped as seen before, since the last heartbeat.
    repeats: int = 0
    #: Digest of the part of the configuration that says what is let through; "" = this process reads none.
    allowed: str = ""


class SourceStatus(Status, kw_only=True):
    """What one process read of one source on one raw topic; sent at each heartbeat, with zeros where it read nothing."""

    topic: str
    source: str
    #: Records that were decoded, and rejects by reason.
    records: int
    rejects: dict[str, int] = {}
    #: Newest event time, and arrival time of the newest record; 0 = none yet.
    last_event: int = 0
    last_arrival: int = 0


class Canary(Status, kw_only=True):
    """A synthetic event of one partition: sent by ingest (``arrived`` 0), and seen at the far end of the path."""

    partition: int
    sent: int
    arrived: int = 0


class Newcomers(Status, kw_only=True):
    """Identities that a stage met for the first time, and how many it knows."""

    stage: str
    fresh: int
    known: int = 0


class Lost(Status, kw_only=True):
    """Records of a raw log that the broker has deleted before ingest has read them; the log begins at ``begins`` now."""

    topic: str
    partition: int
    records: int
    begins: int = 0


Message = Heartbeat | SourceStatus | Canary | Newcomers | Lost

_ENCODER = msgspec.msgpack.Encoder()
_DECODER: msgspec.msgpack.Decoder[Message] = msgspec.msgpack.Decoder(Message)


class _Version(msgspec.Struct):
    version: int


_VERSIONS = msgspec.msgpack.Decoder(_Version)


def encode(message: Message) -> bytes:
    """One record, as msgpack."""
    return _ENCODER.encode(message)


def decode(data: bytes) -> Message:
    """One record. Raises StatusError for what is none of ours, or is of a newer version."""
    try:
        version = _VERSIONS.decode(data).version
        if not 1 <= version <= STATUS_VERSION:
            raise StatusError(f"status record of version {version}; this release reads 1 to {STATUS_VERSION}")
        return _DECODER.decode(data)
    except msgspec.DecodeError as error:
        raise StatusError(f"not a status record: {error}") from None
