"""Recordings read back: raw records of one topic and partition as a log of the detector, event blocks as the by-actor log gave them."""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet

from connectors.event import SCHEMA, SCHEMA_VERSION, Block, Reject
from connectors.names import Names
from connectors.sources import Decoded, available
from connectors.trace import LETTER_BYTES, TraceError
from replay.shards import EVENT_SCHEMA, RAW_SCHEMA
from replay.traces import LogEntry


def _groups(path: Path, schema: pa.Schema) -> Iterator[pa.Table]:
    """The row groups of one of our Parquet files. Raises TraceError naming file and row group."""
    try:
        file = pyarrow.parquet.ParquetFile(path, page_checksum_verification=True)
    except (pa.ArrowException, OSError) as error:
        raise TraceError(f"{path}: no Parquet file that can be read: {error!s:.200}") from None
    with file:
        check(path, file.schema_arrow, schema)
        for group in range(file.metadata.num_row_groups):
            try:
                yield file.read_row_group(group)
            except (pa.ArrowException, OSError) as error:
                raise TraceError(f"{path}: row group {group}: damaged: {error!s:.200}") from None


def raw_tables(path: Path) -> Iterator[pa.Table]:
    """The row groups of a file of raw records, as ``replay.shards.RAW_SCHEMA`` has them. Raises TraceError."""
    return _groups(path, RAW_SCHEMA)


def check(path: Path, found: pa.Schema, wanted: pa.Schema) -> None:
    """Raises TraceError where a file is not of our schema, or of a newer one."""
    (key, ours), *_ = wanted.metadata.items()
    version = (found.metadata or {}).get(key, b"")
    if not version.isdigit():
        raise TraceError(f"{path}: a Parquet file of something else: {key.decode()} is not said")
    if not 1 <= int(version) <= int(ours):
        raise TraceError(f"{path}: {key.decode()} of version {int(version)}; this release reads 1 to {int(ours)}")
    for field in wanted:
        at = found.get_field_index(field.name)
        if at < 0 or found.field(at).type != field.type:
            raise TraceError(f"{path}: column {field.name}: expected {field.type}, got {found.field(at).type if at >= 0 else 'none'}")


class RawLog:
    """The files of one topic and partition as batches of decoded records; record numbers are the topic's offsets."""

    def __init__(self, folder: Path, entries: list[LogEntry], names: Names, batch_records: int) -> None:
        first = entries[0]
        #: What alerts call it, and what it was read as.
        self.path = f"{first.topic}-{first.partition}"
        self.source = first.source
        self.total_bytes = sum(entry.bytes for entry in entries)
        self.bytes_read = 0
        self._files = [(folder / entry.path, entry.bytes) for entry in entries]
        for path, _ in self._files:
            try:
                check(path, pyarrow.parquet.read_schema(path), RAW_SCHEMA)
            except (pa.ArrowException, OSError) as error:
                raise TraceError(f"{path}: no Parquet file that can be read: {error!s:.200}") from None
        self._names = names
        self._batch = batch_records
        self._stamps: list[tuple[np.ndarray, np.ndarray]] = []

    def __iter__(self) -> Iterator[Decoded]:
        source = available()[self.source](self._names)
        self.bytes_read = 0
        self._stamps = []
        for path, size in self._files:
            for table in _groups(path, RAW_SCHEMA):
                for start in range(0, table.num_rows, self._batch):
                    yield self._decoded(source, table.slice(start, self._batch))
            self.bytes_read += size

    def _decoded(self, source: Any, table: pa.Table) -> Decoded:
        offsets = table.column("offset").to_numpy()
        # A tombstone is no record; as empty bytes it is rejected with its reason.
        records = [value or b"" for value in table.column("value").to_pylist()]
        self._stamps.append((offsets, np.maximum.accumulate(table.column("arrival").to_numpy())))
        decoded: Decoded = source.decode(records)
        decoded.block.record = offsets[decoded.block.record]
        decoded.rejects = [
            Reject(int(offsets[each.record]), each.reason, each.message, records[each.record][:LETTER_BYTES])
            for each in decoded.rejects
        ]
        decoded.bindings = [each._replace(record=int(offsets[each.record])) for each in decoded.bindings]
        return decoded

    def arrivals(self, records: np.ndarray) -> np.ndarray:
        """int64[n]: when records arrived, microseconds UTC, never running back. ``records`` ascend, also from call to call."""
        while len(self._stamps) > 1 and len(records) and self._stamps[0][0][-1] < records[0]:
            del self._stamps[0]
        offsets = np.concatenate([each for each, _ in self._stamps])
        stamps: np.ndarray = np.concatenate([each for _, each in self._stamps])
        return stamps[np.searchsorted(offsets, records)]


class EventTrace:
    """Recorded event blocks of all partitions, in order of arrival, ties by partition; each partition keeps its own order."""

    def __init__(self, folder: Path, entries: list[LogEntry], titles: list[str], names: Names) -> None:
        self.path = str(folder)
        self.source = "events"
        self.titles = titles
        self.total_bytes = sum(entry.bytes for entry in entries)
        self.bytes_read = 0
        self._names = names
        self._lanes: dict[tuple[str, int], list[tuple[Path, int]]] = {}
        for entry in entries:
            self._lanes.setdefault((entry.topic, entry.partition), []).append((folder / entry.path, entry.bytes))
        for path, _ in (each for lane in self._lanes.values() for each in lane):
            try:
                check(path, pyarrow.parquet.read_schema(path), EVENT_SCHEMA)
            except (pa.ArrowException, OSError) as error:
                raise TraceError(f"{path}: no Parquet file that can be read: {error!s:.200}") from None

    def blocks(self) -> Iterator[Block]:
        """Every block, coded into the names as it is taken."""
        self.bytes_read = 0
        lanes = [self._lane(number, files) for number, (_, files) in enumerate(sorted(self._lanes.items()))]
        for _, _, _, batch in heapq.merge(*lanes, key=_place):
            yield Block.from_arrow(batch, self._names)
        self.bytes_read = self.total_bytes

    def _lane(self, number: int, files: list[tuple[Path, int]]) -> Iterator[tuple[int, int, int, pa.RecordBatch]]:
        """(arrival, lane, offset, block) of one partition."""
        clock = 0
        for path, size in files:
            for table in _groups(path, EVENT_SCHEMA):
                offsets = table.column("log_offset").to_numpy()
                arrivals = table.column("arrival").to_numpy()
                begins = np.flatnonzero(np.diff(offsets, prepend=-1)).tolist()
                for begin, end in zip(begins, [*begins[1:], len(offsets)], strict=True):
                    clock = max(clock, int(arrivals[begin]))
                    yield clock, number, int(offsets[begin]), _wire(table.slice(begin, end - begin))
            self.bytes_read += size


def _place(item: tuple[int, int, int, pa.RecordBatch]) -> tuple[int, int, int]:
    return item[:3]


def _wire(table: pa.Table) -> pa.RecordBatch:
    """Rows of a file as the block that was on the wire."""
    columns = []
    for field in SCHEMA:
        column = table.column(field.name).combine_chunks()
        columns.append(column.dictionary_encode() if pa.types.is_dictionary(field.type) else column)
    return pa.RecordBatch.from_arrays(columns, schema=SCHEMA.with_metadata({"tocsin.event": str(SCHEMA_VERSION)}))
