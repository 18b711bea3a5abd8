"""Recording: records of raw topics, or event blocks of the by-actor log, into a trace folder. No clock and no network: whoever reads
the log feeds it.

Every topic and partition has files of its own, rolled together. A file is written under another name, to the disk, renamed, and only
then named in the manifest; after a crash the folder holds what the manifest says, and ``positions`` says where to read on.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import pyarrow as pa

from connectors.event import SCHEMA, SECOND
from connectors.sources import available
from connectors.trace import TraceError
from replay.pseudonyms import Pseudonyms
from replay.shards import EVENT_SCHEMA, RAW_SCHEMA, Shard, micros
from replay.traces import MANIFEST, Form, Manifest, read_manifest, verify, write_manifest

#: Records of a row group: large enough to compress well, small enough to be read whole into memory.
GROUP_RECORDS = 50_000
#: Bytes held in memory, over all partitions, before row groups are written.
HELD_BYTES = 32 << 20
#: What Kafka allows a topic to be called; with it a topic is a safe folder name but for these two.
_TOPIC = re.compile(r"[A-Za-z0-9._-]{1,249}")
_NO_FOLDER = (".", "..")
_IDENTITIES = ("actor", "object", "via")


class RawRecord(NamedTuple):
    """A record as a raw topic has it. ``arrival``: microseconds UTC."""

    topic: str
    partition: int
    offset: int
    arrival: int
    key: bytes | None
    value: bytes | None


class BlockRecord(NamedTuple):
    """An event block as the by-actor log has it. ``arrival``: microseconds UTC."""

    topic: str
    partition: int
    offset: int
    arrival: int
    batch: pa.RecordBatch


class Bounds(msgspec.Struct, kw_only=True):
    """When a recording ends (None: never) and when its files are rolled. Seconds are of arrival time, bytes are on the disk."""

    records: int | None = None
    bytes: int | None = None
    seconds: float | None = None
    roll_records: int = 5_000_000
    roll_bytes: int = 256 << 20
    roll_seconds: float | None = 3600.0


class Recorder:
    """Writes one trace folder; use within ``with``. What is not in the manifest when it ends is thrown away, to be read again.

    ``sources``: topic -> source, for raw records; None records event blocks, under ``titles`` for their raw partitions. ``titles``
    None: whoever feeds it adds them to the manifest as they turn up.
    """

    def __init__(
        self,
        folder: Path,
        *,
        sources: dict[str, str] | None,
        bounds: Bounds | None = None,
        titles: Iterable[str] | None = (),
        pseudonyms: Pseudonyms | None = None,
        made_by: dict[str, Any] | None = None,
    ) -> None:
        """Open or go on with a folder. Raises TraceError where it holds another recording or a damaged one, OSError where it cannot
        be written."""
        self.folder = folder
        self.form: Form = "events" if sources is None else "raw"
        self.bounds = bounds or Bounds()
        self.ignored = 0
        #: Why no more is taken; "" while it is.
        self.full = ""
        self._sources = sources or {}
        self._pseudonyms = pseudonyms
        self._shards: dict[tuple[str, int], Shard] = {}
        self._held_bytes = 0
        self._rolled = 0
        self._check()
        mark = {"pseudonym_key": pseudonyms.mark} if pseudonyms is not None else {}
        fresh = Manifest(
            logs=[],
            titles=[f"log-{i}" for i, _ in enumerate(titles or ())] if pseudonyms is not None else list(titles or ()),
            pseudonymised=pseudonyms is not None,
            made_by=(made_by or {}) | mark,
        )
        folder.mkdir(parents=True, exist_ok=True)
        resumes = (folder / MANIFEST).exists()
        self.manifest = self._resumed(fresh, grows=titles is None) if resumes else fresh
        self._tidy(finished=resumes)
        #: Topic and partition -> the offset to read on from.
        self.positions: dict[tuple[str, int], int] = {}
        for entry in self.manifest.logs:
            if entry.offsets is not None:
                self.positions[entry.topic, entry.partition] = entry.offsets[1] + 1
        self.records = sum(entry.records for entry in self.manifest.logs)
        self._disk = sum(entry.bytes for entry in self.manifest.logs)
        try:
            #: Arrival of the first record, microseconds; None before there is one.
            self.began = min((micros(entry.first) for entry in self.manifest.logs if entry.first is not None), default=None)
        except (ValueError, TypeError) as error:
            raise TraceError(f"{folder / MANIFEST}: logs: first: {error}") from None
        self._since: int | None = None

    def __enter__(self) -> Recorder:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            self.roll()
        else:
            for shard in self._shards.values():
                shard.abandon()
            self._shards.clear()

    def _check(self) -> None:
        if self.form == "raw" and self._pseudonyms is not None:
            raise TraceError(f"{self.folder}: raw records cannot be pseudonymised, resolved events can")
        for topic, source in self._sources.items():
            if source not in available() or source == "table":
                names = ", ".join(each for each in available() if each != "table")
                raise TraceError(f"topic {topic[:60]!r}: expected one of {names}; got {source[:60]!r}")

    def _resumed(self, fresh: Manifest, *, grows: bool) -> Manifest:
        """The manifest of the recording that is there. Raises TraceError where this one does not continue it."""
        held = read_manifest(self.folder)
        if {entry.form for entry in held.logs} != {self.form}:
            raise TraceError(f"{self.folder}: holds a trace of another form; name an empty folder")
        if held.pseudonymised != fresh.pseudonymised or (held.titles != fresh.titles and not grows):
            raise TraceError(f"{self.folder}: was recorded from other logs, or pseudonymised otherwise; name an empty folder")
        if held.made_by.get("pseudonym_key") != fresh.made_by.get("pseudonym_key"):
            raise TraceError(f"{self.folder}: was pseudonymised with another key; use that key, or an empty folder")
        verify(self.folder, held)
        return held

    def _tidy(self, *, finished: bool) -> None:
        """Remove what a crash left: files that were never finished and, where the manifest tells them from others, those that were and
        are not in it yet. Raises TraceError where there are finished files and no manifest: that was not us."""
        known = {entry.path for entry in self.manifest.logs}
        done = [path for path in self.folder.glob("*/*/" + "[0-9]" * 20 + ".parquet") if self._name(path) not in known]
        if done and not finished:
            raise TraceError(f"{self.folder}: holds {self._name(done[0])} and no {MANIFEST} that names it; name an empty folder")
        for path in [*self.folder.glob("*/*/*.part"), *done]:
            path.unlink()

    def _name(self, path: Path) -> str:
        return path.relative_to(self.folder).as_posix()

    def feed(self, records: Iterable[RawRecord | BlockRecord]) -> None:
        """Take records until they end or the recording is full. Raises TraceError on a topic nobody named."""
        for record in records:
            if not self.put(record):
                return

    def put(self, record: RawRecord | BlockRecord) -> bool:
        """Take one record. Returns False, taking nothing, once the recording is full. One that is there already is passed over."""
        key = (record.topic, record.partition)
        if record.offset < self.positions.get(key, 0):
            self.ignored += 1
            return True
        if self._is_full(record.arrival):
            return False
        shard = self._shards.get(key) or self._opened(record)
        many = 1 if isinstance(record, RawRecord) else record.batch.num_rows
        size = len(record.value or b"") + len(record.key or b"") + 64 if isinstance(record, RawRecord) else record.batch.nbytes
        shard.held.append(record)
        shard.noted(record.offset, record.arrival, many, size)
        self.positions[key] = record.offset + 1
        self.records += many
        self._rolled += many
        self._held_bytes += size
        if shard.held_records >= GROUP_RECORDS:
            self._held_bytes -= shard.held_bytes
            shard.flush(self._table)
        if self._held_bytes >= HELD_BYTES:
            for each in self._shards.values():
                each.flush(self._table)
            self._held_bytes = 0
        self._roll_if_due(record.arrival)
        return True

    def _opened(self, record: RawRecord | BlockRecord) -> Shard:
        if not _TOPIC.fullmatch(record.topic) or record.topic in _NO_FOLDER or record.partition < 0:
            raise TraceError(f"{self.folder}: no Kafka topic and partition: {record.topic[:60]!r}, {record.partition}")
        if self.form == "raw" and record.topic not in self._sources:
            raise TraceError(f"topic {record.topic!r}: no source is named for it")
        schema = RAW_SCHEMA if self.form == "raw" else EVENT_SCHEMA
        shard = self._shards[record.topic, record.partition] = Shard(self.folder, record.topic, record.partition, record.offset, schema)
        return shard

    def _is_full(self, arrival: int) -> bool:
        bounds = self.bounds
        self.began = arrival if self.began is None else self.began
        self._since = arrival if self._since is None else self._since
        if bounds.records is not None and self.records >= bounds.records:
            self.full = f"{bounds.records:,} records"
        elif bounds.seconds is not None and arrival - self.began >= bounds.seconds * SECOND:
            self.full = f"{bounds.seconds:g} seconds"
        elif bounds.bytes is not None and self._disk + self._open_bytes() >= bounds.bytes:
            self.full = f"{bounds.bytes:,} bytes"
        return bool(self.full)

    def _open_bytes(self) -> int:
        """What the open files hold, at most: what is in memory counted as if it did not compress."""
        return sum(shard.size() for shard in self._shards.values()) + self._held_bytes

    def _roll_if_due(self, arrival: int) -> None:
        bounds = self.bounds
        late = self._since is not None and bounds.roll_seconds is not None and arrival - self._since >= bounds.roll_seconds * SECOND
        if late or self._rolled >= bounds.roll_records or self._open_bytes() >= bounds.roll_bytes:
            self.roll()

    def roll(self) -> None:
        """Finish the open files and name them in the manifest. Raises OSError."""
        for (topic, partition), shard in sorted(self._shards.items()):
            shard.flush(self._table)
            entry = shard.finish(self._sources.get(topic, ""), self.form, topic, partition)
            self.manifest.logs.append(entry)
            self._disk += entry.bytes
        self._shards.clear()
        self._held_bytes = self._rolled = 0
        self._since = None
        if self.manifest.logs:
            write_manifest(self.folder, self.manifest)

    def _table(self, held: list[Any]) -> pa.Table:
        if self.form == "raw":
            return pa.Table.from_arrays(
                [pa.array(column, field.type) for column, field in zip(zip(*held, strict=True), RAW_SCHEMA, strict=True)],
                schema=RAW_SCHEMA,
            )
        return pa.Table.from_batches([self._stored(record) for record in held], schema=EVENT_SCHEMA)

    def _stored(self, record: BlockRecord) -> pa.RecordBatch:
        """A block as rows of the file, its identities replaced where that is asked."""
        batch = record.batch
        columns = []
        for field in SCHEMA:
            column = batch.column(field.name)
            if self._pseudonyms is not None:
                column = _renamed(column, field.name, self._pseudonyms)
            columns.append(column.cast(pa.string()) if pa.types.is_dictionary(column.type) else column)
        many = batch.num_rows
        columns += [pa.array([record.offset] * many, pa.int64()), pa.array([record.arrival] * many, pa.int64())]
        return pa.RecordBatch.from_arrays(columns, schema=EVENT_SCHEMA)


def _renamed(column: Any, name: str, pseudonyms: Pseudonyms) -> Any:
    if name in _IDENTITIES or name == "detail":
        change = pseudonyms.detail if name == "detail" else pseudonyms.identity
        values = [change(value) for value in column.dictionary.to_pylist()]
        return pa.DictionaryArray.from_arrays(column.indices, pa.array(values, pa.string()))
    if name == "uid":
        return pa.array([pseudonyms.uid(value) for value in column.to_pylist()], pa.string())
    return column
