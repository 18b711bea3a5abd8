"""The files of a recording: one at a time for each topic and partition, written under another name and renamed when it is whole."""

from __future__ import annotations

import os
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet

from connectors.event import SCHEMA, SCHEMA_VERSION
from replay.traces import Form, LogEntry, digest_of

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

RAW_SCHEMA = pa.schema(
    [
        ("topic", pa.string()),
        ("partition", pa.int32()),
        ("offset", pa.int64()),
        ("arrival", pa.int64()),
        ("key", pa.binary()),
        ("value", pa.binary()),
    ],
    metadata={"tocsin.raw": "1"},
)
#: Event columns with plain texts (Parquet has dictionaries of its own), the offset of the block they came in, and its arrival.
EVENT_SCHEMA = pa.schema(
    [
        *(pa.field(each.name, pa.string() if pa.types.is_dictionary(each.type) else each.type) for each in SCHEMA),
        pa.field("log_offset", pa.int64()),
        pa.field("arrival", pa.int64()),
    ],
    metadata={"tocsin.event": str(SCHEMA_VERSION)},
)


def moment(time: int) -> str:
    """Microseconds UTC as ISO 8601.

    >>> moment(1_772_409_600_000_001)
    '2026-03-02T00:00:00.000001Z'
    """
    return f"{(_EPOCH + timedelta(microseconds=time)).replace(tzinfo=None).isoformat(timespec='microseconds')}Z"


def micros(text: str) -> int:
    """The inverse of ``moment``."""
    return (datetime.fromisoformat(text) - _EPOCH) // timedelta(microseconds=1)


class Shard:
    """The file being written of one topic and partition."""

    def __init__(self, folder: Path, topic: str, partition: int, offset: int, schema: pa.Schema) -> None:
        self.name = f"{topic}/{partition}/{offset:020d}.parquet"
        self.path = folder / self.name
        self.part = self.path.with_suffix(".part")
        self.first = self.last = offset
        self.records = 0
        self.span: tuple[int, int] | None = None
        self.held: list[Any] = []
        self.held_records = self.held_bytes = 0
        self._schema = schema
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._file = self.part.open("wb")
        self._writer = pyarrow.parquet.ParquetWriter(
            self._file, schema, compression="zstd", write_page_checksum=True, write_statistics=False
        )

    def noted(self, offset: int, arrival: int, records: int, size: int) -> None:
        """Something was appended to ``held``: its offset, arrival, how many records it is, and its bytes in memory."""
        self.last = offset
        self.records += records
        self.held_records += records
        self.held_bytes += size
        self.span = (arrival, arrival) if self.span is None else (min(self.span[0], arrival), max(self.span[1], arrival))

    def flush(self, table: Callable[[list[Any]], pa.Table]) -> None:
        """Write what is held as one row group."""
        if self.held:
            self._writer.write_table(table(self.held), row_group_size=max(self.held_records, 1))
            self.held, self.held_records, self.held_bytes = [], 0, 0

    def size(self) -> int:
        """Bytes on the disk so far."""
        return self._file.tell()

    def finish(self, source: str, form: Form, topic: str, partition: int) -> LogEntry:
        """Close the file, give it its name, and describe it. Raises OSError."""
        self._writer.close()
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        self.part.replace(self.path)
        first, last = (None, None) if self.span is None else (moment(self.span[0]), moment(self.span[1]))
        return LogEntry(
            path=self.name,
            source=source,
            records=self.records,
            first=first,
            last=last,
            bytes=self.path.stat().st_size,
            sha256=digest_of(self.path),
            form=form,
            topic=topic,
            partition=partition,
            offsets=(self.first, self.last),
        )

    def abandon(self) -> None:
        """Throw the file away."""
        self._writer.close()
        self._file.close()
        self.part.unlink(missing_ok=True)
