"""A copy of a stage's state as of one moment, taken piece by piece while the stage goes on.

What is small is copied at once. Of the tables only the chunks that changed since the last copy are taken, and each only when its turn
comes; a row that changes before that is put aside first. So a million profiles are copied without anyone having to wait for all of
them, and without memory for a second million, unless all may change at once: then the chunks that are still to come are copied whole.
"""

from __future__ import annotations

import hashlib
import weakref
from collections.abc import Callable, Iterable, Iterator

import msgspec
import numpy as np

from detector.stage import Stage
from models.profiles import CHUNK_SLOTS, Chunk, Table, longer

#: Longest record of what is no table, in bytes: well below a broker's limit for a message.
PIECE = 400_000


#: Version of the head's record, and so of everything that it lists.
VERSION = 1


class _Version(msgspec.Struct):
    version: int


class Head(msgspec.Struct):
    """The record that says what a state consists of. Without it, or with one that does not fit, there is no state."""

    version: int
    stage: str
    partitions: int
    #: What gives the state its meaning: see ``detector.checkpoint.meaning``.
    meaning: str
    applied: int
    records: dict[str, int] = {}


#: Key of the head's record.
HEAD = "head"


class _Aside:
    """A table as it was when this was made: its rows as they are now, but for those put aside before they changed. ``waiting``
    bool[chunks]: which chunks are still to be copied."""

    def __init__(self, table: Table, waiting: np.ndarray) -> None:
        self.table = table
        self.numbers = np.flatnonzero(waiting).tolist()
        self._waiting = waiting
        self._used = table.used
        #: For each slot where its row is among those put aside, -1 = it has not changed.
        self._place = np.full(self._used, -1, np.int32)
        self._held = 0
        self._rows = [column[:0] for column in table.rows()]
        self._chunks: dict[int, Chunk] = {}

    def put(self, slots: np.ndarray | None) -> None:
        """Put rows aside that are about to change; None: all there are."""
        if slots is None:
            self._chunks |= {number: self._copied(number) for number in np.flatnonzero(self._waiting).tolist()}
            return
        slots = slots[slots < self._used]
        slots = np.unique(slots[self._waiting[slots // CHUNK_SLOTS] & (self._place[slots] < 0)])
        if len(slots):
            begin, self._held = self._held, self._held + len(slots)
            self._place[slots] = np.arange(begin, self._held)
            if self._held > len(self._rows[0]):
                size = max(2 * len(self._rows[0]), self._held, 1024)
                self._rows = [longer(column, size) for column in self._rows]
            for held, now in zip(self._rows, self.table.rows(), strict=True):
                held[begin : self._held] = now[slots]

    def _copied(self, number: int) -> Chunk:
        chunk = self.table.chunk(number, self._used)
        self._waiting[number] = False
        place = self._place[chunk.start : chunk.start + len(chunk.keys)]
        changed = np.flatnonzero(place >= 0)
        if len(changed):
            for now, before in zip(chunk.rows(), self._rows, strict=True):
                now[changed] = before[place[changed]]
        return chunk

    def take(self, number: int) -> Chunk:
        """A chunk as it was."""
        return self._chunks.pop(number, None) or self._copied(number)


def _weakly(put: Callable[[np.ndarray | None], None]) -> Callable[[np.ndarray | None], None]:
    """The method, for as long as its object is there: a copy that is given up must not keep the table in memory, nor copy on."""
    held = weakref.WeakMethod(put)

    def call(slots: np.ndarray | None) -> None:
        if found := held():
            found(slots)

    return call


class Snapshot:
    """The state of a stage as it is when this is made. ``written``: what the last copy left of each record that is no chunk, by key,
    as hashes, and which tables it has written; it is brought up to date."""

    def __init__(self, stage: Stage, meaning: str, written: dict[str, bytes]) -> None:
        self._written = written
        self._tables: list[_Aside] = []
        counts: dict[str, int] = {}
        for table in stage.tables():
            chunks = table.chunks
            changed = table.changed[:chunks].copy() if table.name in written else np.ones(chunks, np.bool_)
            written[table.name] = b""
            table.changed[:] = False
            aside = _Aside(table, changed)
            table.before_change = _weakly(aside.put)
            self._tables.append(aside)
            counts[table.name] = chunks
        self._blobs = list(stage.copies())
        self.head = Head(VERSION, stage.name, stage.partitions, meaning, stage.applied, counts)

    def records(self) -> Iterator[tuple[str, bytes]]:
        """(key, bytes) of every record that has changed, one at a time, the head last. To be taken to its end."""
        while self._tables:
            # What was put aside of one table goes with it.
            aside = self._tables.pop(0)
            for number in aside.numbers:
                yield f"{aside.table.name}/{number}", aside.take(number).encode()
            aside.table.before_change = None
            del aside
        for name, parts in self._blobs:
            for number, piece in enumerate(_pieces(parts)):
                self.head.records[name] = number + 1
                mark = hashlib.blake2b(piece, digest_size=16).digest()
                key = f"{name}/{number}"
                if self._written.get(key) != mark:
                    self._written[key] = mark
                    yield key, piece
        yield HEAD, msgspec.msgpack.encode(self.head)


def _pieces(parts: Iterable[bytes]) -> Iterator[bytes]:
    """Bytes that come in parts, in pieces of ``PIECE``; the last one is shorter, and may be empty if it is the only one."""
    held = bytearray()
    first = True
    for part in parts:
        held += part
        while len(held) > PIECE:
            yield bytes(held[:PIECE])
            del held[:PIECE]
            first = False
    if held or first:
        yield bytes(held)


class Refused(ValueError):
    """A state that must not be used, in one sentence that says what to do."""


def restore(stage: Stage, records: dict[str, bytes], meaning: str) -> dict[str, bytes]:
    """Fill a stage from all records of its state; none leave it as it is. Returns what a ``Snapshot`` calls ``written``. Raises
    Refused."""
    if not records:
        return {}
    where = f"the state of {stage.name} {stage.partition}"
    try:
        # The version first: a newer head may be of another shape.
        found = msgspec.msgpack.decode(records[HEAD], type=_Version).version
    except (KeyError, msgspec.MsgspecError):
        raise Refused(f"{where} is damaged or foreign: it has no head") from None
    if found != VERSION:
        raise Refused(f"{where} is of version {found}; this release reads {VERSION}. Run the release that wrote it, or a newer one")
    try:
        head = msgspec.msgpack.decode(records[HEAD], type=Head)
    except msgspec.MsgspecError:
        raise Refused(f"{where} is damaged or foreign: its head cannot be read") from None
    if head.stage != stage.name or head.partitions != stage.partitions:
        raise Refused(
            f"{where} was made for {head.partitions} partitions, the topics now have {stage.partitions}: profiles would"
            " be looked for in other partitions than they are in. Use the old number, or begin beside it under another kafka.prefix"
        )
    if head.meaning != meaning:
        raise Refused(
            f"{where} was made with other [signals], [calibration] or [time] settings; use that configuration, or another prefix"
        )
    try:
        held = {name: [records[f"{name}/{number}"] for number in range(many)] for name, many in head.records.items()}
    except KeyError as error:
        raise Refused(f"{where} is damaged: record {error} is missing") from None
    tables = {table.name for table in stage.tables()}
    joined = {name: pieces if name in tables else [b"".join(pieces)] for name, pieces in held.items()}
    try:
        stage.load(joined)
    except (ValueError, KeyError, TypeError, msgspec.MsgspecError) as error:
        raise Refused(f"{where}: {error}") from None
    stage.applied = head.applied
    return dict.fromkeys(tables, b"") | {
        f"{name}/{number}": hashlib.blake2b(piece, digest_size=16).digest()
        for name, pieces in held.items()
        if name not in tables
        for number, piece in enumerate(pieces)
    }


def dump(stage: Stage) -> Iterator[tuple[str, bytes]]:
    """The whole state as records. Equal states give equal bytes."""
    for table in stage.tables():
        for number, data in enumerate(table.dump()):
            yield f"{table.name}/{number}", data
    for name, data in stage.blobs():
        yield name, data
    yield "applied", str(stage.applied).encode()


def digest(stage: Stage) -> str:
    """A hash of the whole state: the same for the same log, however it was cut and wherever it was run."""
    whole = hashlib.blake2b(digest_size=16)
    for key, data in dump(stage):
        whole.update(f"{key} {len(data)}\n".encode())
        whole.update(data)
    return whole.hexdigest()
