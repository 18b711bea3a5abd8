"""Trace folders: a manifest, the logs it names, and, where there is ground truth, labels.

The manifest is written last, so a folder without one is an unfinished recording or none at all. Nothing is replayed from a folder
before every log has the size and the digest that the manifest gives.
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path, PurePosixPath
from typing import Any, Literal

import msgspec
import pyarrow as pa
import pyarrow.parquet

from connectors.event import SCHEMA_VERSION
from connectors.sources import available
from connectors.trace import TraceError

#: Version of the manifest. A reader refuses a newer one.
VERSION = 1
KIND = "tocsin-trace"
MANIFEST = "manifest.json"
LABELS = "labels.jsonl"
#: Longest manifest that is read: some 100,000 logs. A larger file is none of ours.
LARGEST = 64 << 20
#: Bytes hashed at a time: large against a system call, small against memory.
_CHUNK = 1 << 20

#: ``lines``: text as ``connectors.trace`` reads it. ``raw``: Parquet of raw records. ``events``: Parquet of resolved event blocks.
Form = Literal["lines", "raw", "events"]


class LogEntry(msgspec.Struct, kw_only=True, omit_defaults=True):
    """One file of a trace.

    ``path``: relative to the folder. ``source``: a name of ``connectors.sources``; "" where ``form`` is ``events``. ``records``: lines,
    raw records or events. ``first`` and ``last``: ISO 8601 UTC, by arrival where it was recorded, else by the records' own time; None
    without records. ``bytes``, ``sha256``: of the file as it lies on disk. ``topic``, ``partition``, ``offsets`` (first and last):
    where a recording comes from. Several files of one topic and partition follow each other by offset.
    """

    path: str
    source: str
    records: int
    first: str | None
    last: str | None
    bytes: int
    sha256: str
    mapping: str | None = None
    form: Form = "lines"
    topic: str = ""
    partition: int = 0
    offsets: tuple[int, int] | None = None


class Manifest(msgspec.Struct, kw_only=True):
    """What a trace folder holds. The order of ``logs`` is the order of the detector's inputs.

    ``schema``: version of the event columns. ``titles``: in a trace of events, what the blocks' raw partitions are called.
    ``pseudonymised``: identities stand for others. ``made_by``: program, version and its arguments; free.
    """

    logs: list[LogEntry]
    version: int = VERSION
    kind: str = KIND
    schema: int = SCHEMA_VERSION
    labels: str | None = None
    titles: list[str] = []
    pseudonymised: bool = False
    made_by: dict[str, Any] = {}


class _Head(msgspec.Struct):
    kind: str
    version: int


def is_folder(path: Path) -> bool:
    """Whether a path is to be read as a trace folder."""
    return path.is_dir()


def read_manifest(folder: Path) -> Manifest:
    """The manifest of a folder. Raises TraceError where there is none, or it is damaged, foreign, newer, or leads out of the folder."""
    path = folder / MANIFEST
    try:
        with path.open("rb") as file:
            data = file.read(LARGEST + 1)
    except FileNotFoundError:
        raise TraceError(f"{folder}: is a directory without {MANIFEST}: no trace folder, or one that was never finished") from None
    except OSError as error:
        raise TraceError(f"{path}: cannot be read: {error.strerror}") from None
    try:
        if len(data) > LARGEST:
            raise TraceError(f"{path}: larger than {LARGEST} bytes: no manifest of ours")
        head = msgspec.json.decode(data, type=_Head)
        if head.kind != KIND:
            raise TraceError(f"{path}: the manifest of something else: kind is {head.kind[:60]!r}, {KIND!r} is expected")
        if not 1 <= head.version <= VERSION:
            raise TraceError(f"{path}: manifest of version {head.version}; this release reads 1 to {VERSION}")
        manifest = msgspec.json.decode(data, type=Manifest)
    except TraceError:
        raise
    except (ValueError, RecursionError) as error:
        raise TraceError(f"{path}: no manifest we can read: {str(error)[:200]}") from None
    _check(folder, manifest)
    return manifest


def _check(folder: Path, manifest: Manifest) -> None:
    """Raises TraceError on what types cannot say."""
    where = folder / MANIFEST
    if not 1 <= manifest.schema <= SCHEMA_VERSION:
        raise TraceError(f"{where}: event schema of version {manifest.schema}; this release reads 1 to {SCHEMA_VERSION}")
    if not manifest.logs:
        raise TraceError(f"{where}: logs: names no log")
    seen: set[str] = set()
    for number, entry in enumerate(manifest.logs):
        at = f"{where}: logs[{number}]"
        inside(folder, entry.path, f"{at}.path")
        if entry.path in seen:
            raise TraceError(f"{at}.path: {entry.path[:200]!r} is named twice")
        seen.add(entry.path)
        if entry.form != "events" and entry.source not in available():
            raise TraceError(f"{at}.source: no source is called {entry.source[:60]!r}; there are {', '.join(available())}")
        if (entry.mapping is None) == (entry.source == "table"):
            raise TraceError(f"{at}.mapping: a file that names the columns goes with the source table, and with no other")
        if entry.mapping is not None:
            inside(folder, entry.mapping, f"{at}.mapping")
    if manifest.labels is not None:
        inside(folder, manifest.labels, f"{where}: labels")
    forms = {entry.form for entry in manifest.logs}
    if len(forms) > 1 and "events" in forms:
        raise TraceError(f"{where}: logs: raw records and resolved events do not go together in one trace")


def inside(folder: Path, name: str, at: str) -> Path:
    """The file of that relative name. Raises TraceError, prefixed with ``at``, where it would lie outside the folder."""
    parts = PurePosixPath(name).parts
    if not parts or not name.isprintable() or "\\" in name or PurePosixPath(name).is_absolute() or ".." in parts:
        raise TraceError(f"{at}: expected a relative path inside the folder, got {name[:200]!r}")
    path = folder.joinpath(*parts)
    if not path.resolve().is_relative_to(folder.resolve()):
        raise TraceError(f"{at}: {name[:200]!r} leads out of the folder")
    return path


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Write the manifest, all or nothing. Raises OSError."""
    data = msgspec.json.format(msgspec.json.encode(manifest), indent=1) + b"\n"
    replace(folder / MANIFEST, data)


def replace(path: Path, data: bytes) -> None:
    """Write a file all or nothing: under another name, to the disk, then renamed."""
    part = path.with_name(f"{path.name}.part")
    with part.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    part.replace(path)


def described(folder: Path, name: str, source: str, records: int, first: str | None, last: str | None) -> LogEntry:
    """The entry of a finished log of lines: its size and digest are taken from the file. Raises OSError."""
    path = folder / name
    return LogEntry(
        path=name, source=source, records=records, first=first, last=last, bytes=path.stat().st_size, sha256=digest_of(path)
    )


def digest_of(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal. Raises OSError."""
    whole = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            whole.update(chunk)
    return whole.hexdigest()


def verify(folder: Path, manifest: Manifest) -> None:
    """Compare every log with the manifest. Raises TraceError naming the file, and in Parquet the row group, that is not as written."""
    for entry in manifest.logs:
        path = inside(folder, entry.path, str(folder / MANIFEST))
        try:
            size = path.stat().st_size
            if size != entry.bytes:
                what = "truncated" if size < entry.bytes else "longer than recorded"
                raise TraceError(f"{path}: {what}: {size:,} bytes, the manifest says {entry.bytes:,}{_where(path, entry)}")
            if digest_of(path) != entry.sha256:
                raise TraceError(f"{path}: corrupt: its SHA-256 is not the manifest's{_where(path, entry)}")
        except FileNotFoundError:
            raise TraceError(f"{path}: is missing; the manifest names it") from None
        except OSError as error:
            raise TraceError(f"{path}: cannot be read: {error.strerror or error}") from None


def _where(path: Path, entry: LogEntry) -> str:
    """Where in a Parquet file the damage is, as far as its checksums tell; "" for text."""
    if entry.form == "lines":
        return ""
    try:
        file = pyarrow.parquet.ParquetFile(path, page_checksum_verification=True)
    except (pa.ArrowException, OSError):
        return "; its footer cannot be read, so no row group can"
    with file:
        for group in range(file.metadata.num_row_groups):
            try:
                file.read_row_group(group)
            except (pa.ArrowException, OSError):
                return f"; row group {group} of {file.metadata.num_row_groups} is damaged"
    return "; its row groups can be read, what differs lies outside them"
