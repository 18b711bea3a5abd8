"""Any table: CSV, Parquet or JSON lines, whose columns a mapping file names.

A mapping is TOML. This one reads a CSV file of flows that counts seconds from 1970:

.. code-block:: toml

    title = "flows of the lab"
    stream = "flow"                              # flow, registry, job, auth, attestation, sensor
    action = "connect"                           # a word, or a table: see outcome
    bytes_out = "sent"                           # columns of numbers: bytes_out, bytes_in, duration (s), count, gpus, gpu_seconds
    bytes_basis = "ip"                           # what bytes count: payload, ip, l2, object
    duration = "seconds"
    uid = "id"                                   # the record's own id
    label = "attack"                             # ground truth; the engine never reads it
    benign = ["-"]                               # cells of label that mean "no attack"
    unknown = ["-1"]                             # cells that mean "not known", as the empty cell does
    integers = ["dport"]                         # columns whose 443.0 is 443

    [time]
    column = "ts"                                # or several: the first that is not empty
    format = "s"                                 # s, ms, us (since 1970), or iso
    epoch = "2025-01-01"                         # numbers count from this day instead
    add_duration = true                          # the event's time is the end: start + duration; or: end = "column"

    [actor]
    column = "src"
    kind = "ip"                                  # any kind of identity (connectors/names.py)

    [object]                                     # also: via
    column = "host"
    kind = "host"
    prefix = "lab/"                              # or, for all rows: constant = "service:gateway"

    [outcome]                                    # or: outcome = "ok"
    column = "state"
    values = { done = "ok", refused = "denied" }
    otherwise = "unknown"

    [detail]                                     # or the name of one column
    columns = ["proto", "dport"]
    join = "/"
    ports = ["dport"]                            # from 32768 up: "ephemeral"

A row in which a named cell is bad is rejected with the column's name; an empty cell is unknown, and a reject only where it is the
time, the actor or the object. In JSON lines a name with dots also reaches into nested objects. A CSV record is one line.
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from connectors.event import EARLIEST, LATEST, SECOND, Action, Basis, Block, Outcome, Reject, Stream
from connectors.names import BadName, Names, clean, identity
from connectors.sources import Decoded
from connectors.sources._cells import csv_cells, json_cells
from connectors.sources._iso import iso_column
from connectors.sources._mapping import Choice, Detail, Mapping, MappingError, Who, parse_mapping, read_mapping
from connectors.sources._records import BadRecord
from connectors.sources._services import EPHEMERAL

__all__ = ["Mapping", "MappingError", "Table", "parse_mapping", "read_mapping"]

_UNITS = {"s": SECOND, "ms": 1000, "us": 1}
_NUMBER = r"^[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?$"
_QUANTITIES = ("bytes_out", "bytes_in", "duration", "count", "gpus", "gpu_seconds")
_LACKING = "no mapping: a table's columns must be named, with --mapping FILE (docs/mappings has examples)"

#: What is wrong, by row; the first finding of a row stands.
Findings = dict[int, BadRecord]


class Table:
    """CSV, Parquet or JSON lines through a mapping. See the module.

    Records are JSON lines, or CSV lines once ``read_header`` was called; Parquet comes in as record batches.
    Without a mapping every record is rejected with ``no-mapping``.
    """

    title: ClassVar[str] = "any CSV, Parquet or JSON-lines table, its columns named by a mapping file"
    feeds: ClassVar[frozenset[str]] = frozenset({"who-to-whom", "rate", "bytes", "outcome", "reads", "gpus", "attestation"})
    limits: ClassVar[str] = "feeds what the mapping names, and no bindings; never detected by its look: give --mapping FILE"
    times: ClassVar[dict[str, int]] = {}
    example: ClassVar[str] = '{"ts":1767225600.5,"src":"10.0.0.1","dst":"10.0.0.2","sent":1200,"state":"done"}'
    #: The mapping ``example`` is read with.
    example_mapping: ClassVar[str] = (
        'stream = "flow"\naction = "connect"\nbytes_out = "sent"\nbytes_basis = "ip"\n'
        'time = { column = "ts", format = "s" }\nactor = { column = "src", kind = "ip" }\nobject = { column = "dst", kind = "ip" }\n'
        'outcome = { column = "state", values = { done = "ok" } }\n'
    )

    def __init__(self, names: Names, mapping: Mapping | None = None) -> None:
        self._names = names
        self._mapping = mapping
        self._columns = mapping.columns() if mapping is not None else []
        self._header: list[str] | None = None

    @classmethod
    def recognises(cls, record: dict[str, Any]) -> bool:  # noqa: ARG003 - the contract's signature
        """Never: what a column means cannot be seen."""
        return False

    def read_header(self, line: bytes) -> None:
        """Take the first line of a CSV file: records are lines of it from here on. Raises MappingError."""
        if self._mapping is None:
            raise MappingError(_LACKING)
        try:
            (self._header,) = csv.reader([line.decode()], delimiter=self._mapping.delimiter, strict=True)
        except (ValueError, csv.Error):
            raise MappingError("the first line is no CSV header") from None
        self.check_columns(self._header)

    def check_columns(self, present: Sequence[str]) -> None:
        """Raise MappingError unless every column the mapping names is in ``present``, once."""
        for name in self._columns:
            if present.count(name) != 1:
                found = ", ".join(repr(column)[:40] for column in present[:20])
                raise MappingError(f"column {name!r} is there {list(present).count(name)} times, expected once; there are: {found}")

    def decode(self, records: Sequence[bytes]) -> Decoded:
        """Decode JSON lines, or CSV lines. Reasons, with the column: ``missing``, ``wrong-type``, ``not-finite``, ``negative``,
        ``bad-time``, ``time-out-of-range``, ``bad-identity``, ``bad-detail``; ``malformed-json``, ``malformed-csv``,
        ``wrong-columns``, ``too-long``, ``no-mapping``."""
        if self._mapping is None:
            rejects = [Reject(i, "no-mapping", _LACKING) for i in range(len(records))]
            return Decoded(Block(self._names, "table", dict.fromkeys(("time", "stream", "actor", "object", "record"), ())), rejects)
        if self._header is None:
            cells, index, rejects = json_cells(records, self._columns)
        else:
            cells, index, rejects = csv_cells(records, self._columns, self._header, self._mapping.delimiter)
        return self._decoded(self._mapping, cells, index, rejects)

    def decode_batch(self, batch: pa.RecordBatch) -> Decoded:
        """Decode a record batch in which every column the mapping names can be cast to text. Raises MappingError."""
        if self._mapping is None:
            raise MappingError(_LACKING)
        cells = {}
        for name in self._columns:
            try:
                cells[name] = pc.cast(batch.column(name), pa.string())
            except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
                kind = batch.schema.field(name).type
                raise MappingError(f"column {name!r} is of type {kind}: text, numbers or times are expected") from None
        return self._decoded(self._mapping, cells, np.arange(batch.num_rows), [])

    def _decoded(self, mapping: Mapping, cells: dict[str, Any], index: np.ndarray, rejects: list[Reject]) -> Decoded:
        """Event columns from text columns, whose rows are the records ``index``."""
        cells = {name: _normal(texts, mapping.unknown, name in mapping.integers) for name, texts in cells.items()}
        n = len(index)
        bad: Findings = {}
        columns: dict[str, Any] = {"stream": Stream[mapping.stream], "bytes_basis": Basis[mapping.bytes_basis], "record": index}
        for name in _QUANTITIES:
            column = getattr(mapping, name)
            if column:
                columns[name] = _quantities(cells[column], column, bad)
        if mapping.count:
            columns["count"] = np.where(np.isnan(columns["count"]), 1.0, columns["count"])
        columns["time"], lasted = _times(mapping, cells, columns.get("duration"), bad)
        if not mapping.duration and lasted is not None:
            columns["duration"] = lasted
        columns["action"] = _choice(mapping.action, Action, cells)
        columns["outcome"] = _choice(mapping.outcome, Outcome, cells)
        columns["actor"] = self._identities(mapping.actor, cells, n, bad, required=True)
        columns["object"] = self._identities(mapping.object, cells, n, bad, required=True)
        if mapping.via is not None:
            columns["via"] = self._identities(mapping.via, cells, n, bad, required=False)
        if mapping.detail:
            columns["detail"] = self._details(mapping.detail, cells, bad)
        uid = cells[mapping.uid].to_pylist() if mapping.uid else None
        block = Block(self._names, "table", {"time": columns.pop("time"), **columns}, uid=uid, label=_labels(mapping, cells))
        if bad:
            rejects += [Reject(int(index[row]), error.reason, str(error)) for row, error in bad.items()]
            keep = np.ones(n, np.bool_)
            keep[list(bad)] = False
            block = block.take(keep)
        rejects.sort()
        return Decoded(block, rejects)

    def _identities(self, who: Who, cells: dict[str, Any], n: int, bad: Findings, *, required: bool) -> np.ndarray:
        """int32[n] codes; -1 for the empty cell."""
        if who.constant:
            kind, _, name = who.constant.partition(":")
            return np.full(n, self._names.passing(identity(kind, name)), np.int32)
        coder = self._names.of(who.kind)
        texts, codes, positions = _coded(cells[who.column], lambda text: coder[who.prefix + text] if text else -1)
        refused = codes < 0
        for row in np.flatnonzero(refused[positions]).tolist() if refused.any() else ():
            text = texts[positions[row]]
            if text:
                _find(bad, row, "bad-identity", who.column, coder.problem(who.prefix + text))
            elif required:
                _find(bad, row, "missing", who.column, "empty")
        return _each(codes, positions)

    def _details(self, detail: str | Detail, cells: dict[str, Any], bad: Findings) -> np.ndarray:
        """int32[n] codes; -1 where all cells are empty."""
        chosen = Detail(columns=[detail]) if isinstance(detail, str) else detail
        parts = [_collapsed(cells[name]) if name in chosen.ports else cells[name] for name in chosen.columns]
        joined = _joined(parts, chosen.join) if len(parts) > 1 else parts[0]

        def code_of(text: str) -> int:
            try:
                return self._names.passing(clean(text)) if text else -1
            except BadName:
                return -2

        texts, codes, positions = _coded(joined, code_of)
        for row in np.flatnonzero((codes == -2)[positions]).tolist():
            try:
                clean(texts[positions[row]])
            except BadName as error:
                _find(bad, row, "bad-detail", chosen.columns[0], str(error))
        return _each(codes, positions)


def _find(bad: Findings, row: int, what: str, column: str, message: str) -> None:
    bad.setdefault(row, BadRecord(f"{what}:{column[:64]}", f"{column[:64]}: {message}"))


def _normal(texts: pa.StringArray, unknown: list[str], whole: bool) -> pa.StringArray:
    """Blanks around cells gone, null and ``unknown`` cells empty, and 190.0 as 190 where ``whole``."""
    texts = pc.utf8_trim_whitespace(texts.fill_null(""))
    if unknown:
        texts = pc.if_else(pc.is_in(texts, pa.array(unknown, pa.string())), "", texts)
    return pc.replace_substring_regex(texts, r"^([+-]?[0-9]+)\.0*$", r"\1") if whole else texts


def _coded(texts: pa.StringArray, code_of: Callable[[str], int]) -> tuple[list[str], np.ndarray, np.ndarray]:
    """(distinct texts, int32 code of each, int64[n] which of them each row has)."""
    coded = texts.dictionary_encode()
    distinct = coded.dictionary.to_pylist()
    codes = np.fromiter(map(code_of, distinct), np.int32, len(distinct))
    return distinct, codes, coded.indices.to_numpy(zero_copy_only=False).astype(np.int64)


def _each(codes: np.ndarray, positions: np.ndarray) -> np.ndarray:
    """The code of each row, from the codes of distinct texts."""
    found: np.ndarray = codes[positions]
    return found


def _joined(parts: list[pa.StringArray], separator: str) -> pa.StringArray:
    """Row by row, the texts that are not empty, joined. (Arrow's own join loses the rows in which all are.)"""
    key = np.zeros(len(parts[0]), np.int64)
    for part in parts:
        coded = part.dictionary_encode()
        key = key * (len(coded.dictionary) + 1) + coded.indices.to_numpy(zero_copy_only=False)
        key = np.unique(key, return_inverse=True)[1]  # dense again, so that no number of columns overflows it
    _, first, place = np.unique(key, return_index=True, return_inverse=True)
    rows = zip(*(part.take(pa.array(first)).to_pylist() for part in parts), strict=True)
    return pa.array([separator.join(filter(None, row)) for row in rows], pa.string()).take(pa.array(place))


def _collapsed(texts: pa.StringArray) -> pa.StringArray:
    """Port numbers, those of the ephemeral range as one word."""
    coded = texts.dictionary_encode()
    words = [
        "ephemeral" if text.isdecimal() and text.isascii() and int(text[:8]) >= EPHEMERAL else text
        for text in coded.dictionary.to_pylist()
    ]
    return pa.array(words, pa.string()).take(coded.indices)


def _choice(choice: str | Choice, words: type[Action] | type[Outcome], cells: dict[str, Any]) -> Any:
    if isinstance(choice, str):
        return words[choice]
    _, codes, positions = _coded(cells[choice.column], lambda text: words[choice.values.get(text, choice.otherwise)])
    return codes[positions]


def _labels(mapping: Mapping, cells: dict[str, Any]) -> list[str] | None:
    if not mapping.label:
        return None
    texts = cells[mapping.label]
    if mapping.benign:
        texts = pc.if_else(pc.is_in(texts, pa.array(mapping.benign, pa.string())), "", texts)
    found: list[str] = texts.to_pylist()
    return found


def _numbers(texts: pa.StringArray) -> tuple[np.ndarray, np.ndarray]:
    """(float64[n], NaN where empty or no number; bool[n] which are no number). The cell ``nan`` is a number here."""
    filled = pc.if_else(pc.equal(texts, ""), pa.scalar(None, pa.string()), texts)
    wrong = np.zeros(len(texts), np.bool_)
    try:
        values = pc.cast(filled, pa.float64())
    except pa.ArrowInvalid:
        suspects = np.flatnonzero(pc.invert(pc.match_substring_regex(filled, _NUMBER)).fill_null(False).to_numpy(zero_copy_only=False))
        wrong[[row for row in suspects.tolist() if not _castable(filled[row])]] = True
        values = pc.cast(pc.if_else(pa.array(wrong), pa.scalar(None, pa.string()), filled), pa.float64())
    return values.to_numpy(zero_copy_only=False), wrong


def _castable(text: pa.StringScalar) -> bool:
    try:
        text.cast(pa.float64())
    except pa.ArrowInvalid:
        return False
    return True


def _quantities(texts: pa.StringArray, column: str, bad: Findings) -> np.ndarray:
    """float64[n], NaN for the empty cell; every other cell must be a finite number from 0 up."""
    values, wrong = _numbers(texts)
    filled = ~wrong & pc.not_equal(texts, "").to_numpy(zero_copy_only=False)
    for what, mask in (("wrong-type", wrong), ("not-finite", filled & ~np.isfinite(values)), ("negative", values < 0)):
        for row in np.flatnonzero(mask).tolist():
            _find(bad, row, what, column, f"expected a finite number, not below 0: {texts[row].as_py()!r:.60}")
    return values


def _times(mapping: Mapping, cells: dict[str, Any], duration: np.ndarray | None, bad: Findings) -> tuple[np.ndarray, np.ndarray | None]:
    """(int64[n] microseconds of the events; float64[n] seconds from start to end, where the mapping names an end)."""
    first, *others = mapping.time_columns()
    texts = cells[first]
    for name in others:
        texts = pc.if_else(pc.equal(texts, ""), cells[name], texts)
    start = _clock(mapping, texts, first, bad, required=True)
    if mapping.time.end:
        end = _clock(mapping, cells[mapping.time.end], mapping.time.end, bad, required=False)
        lasted = np.where(end > 0, (end - start) / SECOND, np.nan)
        for row in np.flatnonzero(lasted < 0).tolist():
            _find(bad, row, "negative", mapping.time.end, "ends before it starts")
        return np.where(end > 0, end, start), lasted
    if mapping.time.add_duration and duration is not None:
        start = start + np.rint(np.nan_to_num(np.clip(duration, 0, (LATEST - EARLIEST) / SECOND)) * SECOND).astype(np.int64)
        for row in np.flatnonzero(start >= LATEST).tolist():
            _find(bad, row, "time-out-of-range", first, "ends after 2100")
    return start, None


def _clock(mapping: Mapping, texts: pa.StringArray, column: str, bad: Findings, *, required: bool) -> np.ndarray:
    """int64[n] microseconds since 1970, 0 for the empty cell and for what is wrong."""
    empty = pc.equal(texts, "").to_numpy(zero_copy_only=False)
    if required:
        for row in np.flatnonzero(empty).tolist():
            _find(bad, row, "missing", column, "empty")
    if mapping.time.format == "iso":
        rows = np.flatnonzero(~empty)
        times = np.zeros(len(texts), np.int64)
        times[rows], problems = iso_column(texts.to_pylist() if len(rows) == len(texts) else texts.take(rows).to_pylist(), column)
        for position, error in problems.items():
            bad.setdefault(int(rows[position]), error)
        return times
    values, wrong = _numbers(texts)
    micro = np.rint(values * _UNITS[mapping.time.format]) + mapping.epoch()
    good = (micro >= EARLIEST) & (micro < LATEST)
    for row in np.flatnonzero(~good & ~empty).tolist():
        what, why = (
            ("bad-time", "not a number") if wrong[row] or np.isnan(values[row]) else ("time-out-of-range", "not between 1990 and 2100")
        )
        _find(bad, row, what, column, f"{why}: {texts[row].as_py()!r:.60}")
    return np.where(good, micro, 0).astype(np.int64)


SOURCE = Table
