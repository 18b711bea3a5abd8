"""The cells of a table as columns of text, from lines of JSON or CSV."""

from __future__ import annotations

import csv
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.csv

from connectors.event import Reject
from connectors.sources import LONGEST_RECORD
from connectors.sources._records import BadRecord, explain

#: (column -> texts, the records they are of, rejects).
Cells = tuple[dict[str, Any], np.ndarray, list[Reject]]

T = TypeVar("T")
_any = msgspec.json.Decoder().decode


def json_cells(records: Sequence[bytes], columns: Sequence[str]) -> Cells:
    """The named values of JSON records as text, "" where one is absent or null."""
    rows, index, rejects = _each_alone(records, lambda record: _json_row(record, columns))
    texts = zip(*rows, strict=True) if rows else [()] * len(columns)
    return {name: pa.array(column, pa.string()) for name, column in zip(columns, texts, strict=True)}, index, rejects


def csv_cells(records: Sequence[bytes], columns: Sequence[str], header: Sequence[str], delimiter: str) -> Cells:
    """The named cells of CSV lines. Each of ``columns`` is in ``header`` once."""
    places = [header.index(name) for name in columns]
    joined = b"\n".join(records)
    if _plain(joined, records, len(header), delimiter):
        positions = [str(place) for place in range(len(header))]  # a column that is not read may have any name, or another's
        table = pyarrow.csv.read_csv(
            pa.BufferReader(joined),
            read_options=pyarrow.csv.ReadOptions(column_names=positions, use_threads=False, block_size=len(joined) + 1),
            parse_options=pyarrow.csv.ParseOptions(delimiter=delimiter, quote_char=False, ignore_empty_lines=False),
            convert_options=pyarrow.csv.ConvertOptions(
                column_types=dict.fromkeys(positions, pa.string()), include_columns=[str(place) for place in places]
            ),
        )
        return {name: table.column(i).combine_chunks() for i, name in enumerate(columns)}, np.arange(len(records)), []
    rows, index, rejects = _each_alone(records, lambda record: _csv_row(record, len(header), delimiter))
    return (
        {name: pa.array([row[place] for row in rows], pa.string()) for name, place in zip(columns, places, strict=True)},
        index,
        rejects,
    )


def _each_alone(records: Sequence[bytes], read: Callable[[bytes], T]) -> tuple[list[T], np.ndarray, list[Reject]]:
    """(what ``read`` makes of the records, which records these are, rejects of the others)."""
    rows: list[T] = []
    index: list[int] = []
    rejects: list[Reject] = []
    for i, record in enumerate(records):
        try:
            if len(record) > LONGEST_RECORD:
                raise BadRecord("too-long", f"record of {len(record)} bytes, at most {LONGEST_RECORD} are read")
            rows.append(read(record))
            index.append(i)
        except (ValueError, RecursionError) as error:
            rejects.append(explain(i, record, error))
    return rows, np.array(index, np.int64), rejects


def _json_row(record: bytes, columns: Sequence[str]) -> list[str]:
    row = _any(record)
    if not isinstance(row, dict):
        raise BadRecord("wrong-type:record", f"a JSON object is expected, this is a {type(row).__name__}")
    return [_cell(row, name) for name in columns]


def _cell(row: dict[str, Any], name: str) -> str:
    """The text of a JSON value. Raises BadRecord on an object or array."""
    value: Any = row.get(name)
    if value is None and "." in name:
        value = row
        for part in name.split("."):
            value = value.get(part) if isinstance(value, dict) else None
    if value is None:
        return ""
    if isinstance(value, str):
        return value
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return repr(value)
    raise BadRecord(f"wrong-type:{name[:64]}", f"{name[:64]}: text, a number or null is expected, this is a {type(value).__name__}")


def _plain(joined: bytes, records: Sequence[bytes], width: int, delimiter: str) -> bool:
    """Whether the lines can be split without looking at each: UTF-8, no quotes, no stray line breaks, all of ``width`` columns."""
    if b'"' in joined or b"\r" in joined or joined.count(b"\n") != len(records) - 1 or not all(records):
        return False
    mark = delimiter.encode()
    if any(line.count(mark) != width - 1 for line in records) or max(map(len, records)) > LONGEST_RECORD:
        return False
    try:
        joined.decode()
    except UnicodeDecodeError:
        return False
    return True


def _csv_row(record: bytes, width: int, delimiter: str) -> list[str]:
    """The cells of one line. Raises BadRecord."""
    try:
        rows = list(csv.reader([record.decode()], delimiter=delimiter, strict=True))
    except (ValueError, csv.Error) as error:
        raise BadRecord("malformed-csv", f"no CSV line: {error}") from None
    row = rows[0] if rows else []
    if len(row) != width:
        raise BadRecord("wrong-columns", f"{len(row)} columns, the header has {width}")
    return row
