"""Recorded traces: files of raw records, read in batches for embedded use. No server, no clock.

Text files (JSON lines, CSV) may be plain, gzip or zstandard, told apart by their first bytes, never by their name; Parquet is read
through a mapping. One line is one record. Everything good around what is bad is kept: a line that is too long, or the end of a
compressed file that was cut short, is one reject. Memory is bounded by a few chunks, whatever the file holds.
"""

from __future__ import annotations

import stat
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet

from connectors.event import Block, Reject
from connectors.lines import Lines
from connectors.names import Names
from connectors.sources import Decoded, Source, available, later
from connectors.sources.table import Mapping, MappingError, Table

#: How far into a file its format is looked for.
_LOOK_RECORDS = 50
_LOOK_BYTES = 16 << 20
_PARQUET = b"PAR1"
_UTF16 = (b"\xff\xfe", b"\xfe\xff")
_any = msgspec.json.Decoder().decode


#: How much of a rejected record goes to the dead letters.
LETTER_BYTES = 1024


class TraceError(ValueError):
    """A file that cannot be read as a trace: the message names it and says what was found."""


class Trace:
    """One file as batches of decoded records, in file order. Each iteration reads it from the beginning.

    Record numbers in the batches count from 0 at the file's first record; in a text file record r is line r + 1 (r + 2 with a CSV
    header), blank lines included.
    """

    def __init__(self, path: Path, source: str, mapping: Mapping | None, names: Names, batch_records: int) -> None:
        self.path = str(path)
        self.source = source
        #: Size of the file as it lies on disk, and how much of it has been read.
        self.total_bytes = path.stat().st_size
        self.bytes_read = 0
        self._file = path
        self._mapping = mapping
        self._names = names
        self._batch_records = batch_records

    def __iter__(self) -> Iterator[Decoded]:
        self.bytes_read = 0
        if self.source == "table":
            table = Table(self._names, self._mapping)
            return self._parquet(table) if _magic(self._file).startswith(_PARQUET) else self._text(table)
        return self._text(available()[self.source](self._names))

    def _text(self, source: Source) -> Iterator[Decoded]:
        with Lines(self._file) as lines:
            header = 0
            for numbers, records, rejects in lines.batches(self._batch_records):
                if isinstance(source, Table) and header == 0 and lines.is_csv:
                    source.read_header(records[0])
                    numbers, records, header = numbers[1:], records[1:], 1
                self.bytes_read = lines.bytes_read
                decoded = source.decode(records)
                decoded.rejects = [reject._replace(raw=records[reject.record][:LETTER_BYTES]) for reject in decoded.rejects]
                yield _numbered(decoded, numbers - header, [reject._replace(record=reject.record - header) for reject in rejects])
        self.bytes_read = self.total_bytes

    def _parquet(self, table: Table) -> Iterator[Decoded]:
        assert self._mapping is not None  # noqa: S101 - open_trace has seen to it
        done = 0
        with pyarrow.parquet.ParquetFile(self._file) as file:
            total = max(file.metadata.num_rows, 1)
            batches = file.iter_batches(self._batch_records, columns=self._mapping.columns())
            while True:
                try:
                    batch = next(batches, None)
                except (pa.ArrowException, OSError) as error:
                    yield _only_reject(
                        self._names, self.source, Reject(done, "corrupt-file", f"Parquet data is damaged: {error!s:.200}")
                    )
                    break
                if batch is None:
                    break
                decoded = table.decode_batch(batch)
                yield _numbered(decoded, np.arange(done, done + batch.num_rows), [])
                done += batch.num_rows
                self.bytes_read = self.total_bytes * done // total
        self.bytes_read = self.total_bytes


def detect(path: Path) -> str:
    """The name of the source that reads this file, by its first records. Raises TraceError."""
    look = _look(path)
    if look.kind == "parquet":
        raise TraceError(f"{path}: a Parquet file: name its columns with --mapping FILE")
    if look.kind == "csv":
        header = look.records[0][:200].decode(errors="replace") if look.records else ""
        raise TraceError(f"{path}: a table that begins {header!r}: name its columns with --mapping FILE")
    return _json_source(path, look.records)


def open_trace(path: Path, source_name: str | None, mapping: Mapping | None, names: Names, batch_records: int = 4096) -> Trace:
    """Open a trace. Without ``source_name`` it is found out; a ``mapping`` says ``table``. Raises TraceError."""
    if source_name is not None and source_name not in available():
        raise TraceError(f"{path}: no source is called {source_name!r}; there are {', '.join(available())}")
    if mapping is not None:
        if source_name not in (None, "table"):
            raise TraceError(f"{path}: a mapping is for the source table, not for {source_name}")
        _check_table(path, mapping, names)
        return Trace(path, "table", mapping, names, batch_records)
    if source_name == "table":
        raise TraceError(f"{path}: the source table needs its columns named: give --mapping FILE")
    if source_name is None:
        return Trace(path, detect(path), None, names, batch_records)
    look = _look(path)
    if look.kind != "json":
        raise TraceError(f"{path}: {source_name} reads one JSON record a line; this is {look.what}")
    return Trace(path, source_name, None, names, batch_records)


def _check_table(path: Path, mapping: Mapping, names: Names) -> None:
    look = _look(path)
    table = Table(names, mapping)
    try:
        if look.kind == "csv":
            table.read_header(look.records[0])
        elif look.kind == "parquet":
            schema = pyarrow.parquet.read_schema(path)
            table.check_columns(schema.names)
            table.decode_batch(pa.RecordBatch.from_arrays([pa.array([], field.type) for field in schema], schema=schema))
    except (MappingError, pa.ArrowException, OSError) as error:
        raise TraceError(f"{path}: {error!s:.1000}") from None


class _Look:
    """The first records of a file and what they are: ``kind`` is json, csv or parquet, ``what`` the words for people."""

    def __init__(self, kind: str, what: str, records: list[bytes]) -> None:
        self.kind = kind
        self.what = what
        self.records = records


def _look(path: Path) -> _Look:
    """Look at the first records of a file. Raises TraceError where there are none."""
    magic = _magic(path)
    if magic.startswith(_PARQUET):
        return _Look("parquet", "a Parquet file", [])
    if magic.startswith(_UTF16):
        raise TraceError(f"{path}: UTF-16 text; UTF-8 is expected")
    records: list[bytes] = []
    with Lines(path) as lines:
        problem = ""
        for _, more, rejects in lines.batches(_LOOK_RECORDS):
            records += more
            problem = problem or next((reject.message for reject in rejects), "")
            if len(records) >= _LOOK_RECORDS or lines.text_read >= _LOOK_BYTES:
                break
        csv = lines.is_csv
    if not records:
        raise TraceError(f"{path}: {problem or 'holds nothing but blank lines' if magic else 'is empty'}")
    first = records[0].lstrip()
    if csv and any(byte < 9 for byte in b"".join(records)[:4096]):  # control characters no text has
        raise TraceError(f"{path}: a binary file (it begins with {magic.hex(' ')}); JSON lines, CSV or Parquet are expected")
    if first.startswith(b"["):
        raise TraceError(f"{path}: a JSON array; one JSON record a line is expected (jq -c '.[]' makes it)")
    return _Look("csv", "a table or some other text", records) if csv else _Look("json", "JSON lines", records)


def _magic(path: Path) -> bytes:
    """The first bytes of a regular file. Raises TraceError."""
    try:
        mode = path.stat().st_mode
        if stat.S_ISDIR(mode):
            raise TraceError(f"{path}: is a directory; give the files in it")
        if not stat.S_ISREG(mode):
            raise TraceError(f"{path}: is no regular file")
        with path.open("rb") as file:
            return file.read(8)
    except (OSError, ValueError) as error:
        if isinstance(error, TraceError):
            raise
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise TraceError(f"{path}: cannot be read: {reason}") from None


def _json_source(path: Path, records: Sequence[bytes]) -> str:
    """The source that recognises one of these records, the first that any does. Raises TraceError."""
    refused = ""
    parsed = 0
    for record in records:
        try:
            value: Any = _any(record)
        except (ValueError, RecursionError):
            continue
        if not isinstance(value, dict):
            continue
        parsed += 1
        if isinstance(value.get("items"), list) and str(value.get("kind", "")).endswith("List"):
            refused = refused or "a Kubernetes list in one document; one record a line is expected (jq -c '.items[]' makes it)"
        for name, source in available().items():
            if source.recognises(value):
                return name
        known = later(value)
        if known is not None and not refused:
            refused = f"{known[1]}: a format this release does not read"
    if not parsed:
        refused = _whole_document(records)
    names = ", ".join(name for name in available() if name != "table")
    raise TraceError(
        f"{path}: {refused or f'JSON records of no known format ({names}); --source NAME or --mapping FILE say what they are'}"
    )


def _whole_document(records: Sequence[bytes]) -> str:
    """What a file is in which no line is a JSON record: one document over many lines, or none."""
    try:
        value = _any(b"\n".join(records))
    except (ValueError, RecursionError):
        # The head of a long document is no JSON by itself; its first key still tells sacct.
        head = b"\n".join(records[:_LOOK_RECORDS])
        value = {"jobs": []} if b'"jobs"' in head and b'"slurm"' in head else {}
    known = later(value) if isinstance(value, dict) else None
    if known is not None:
        return f"{known[1]}: a format this release does not read"
    return "not one JSON record a line"


def _numbered(decoded: Decoded, numbers: np.ndarray, rejects: list[Reject]) -> Decoded:
    """``decoded`` with its batch indices replaced by record numbers, and further rejects."""
    decoded.block.record = numbers[decoded.block.record]
    renumbered = [reject._replace(record=int(numbers[reject.record])) for reject in decoded.rejects]
    decoded.rejects = sorted([*renumbered, *rejects]) if rejects else renumbered
    decoded.bindings = [binding._replace(record=int(numbers[binding.record])) for binding in decoded.bindings]
    return decoded


def _only_reject(names: Names, source: str, reject: Reject) -> Decoded:
    empty = Block(names, source, dict.fromkeys(("time", "stream", "actor", "object", "record"), ()))
    return Decoded(empty, [reject])
