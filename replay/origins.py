"""What a recording keeps of the logs it was made from beside their events: by what they are known again, and their labels.

A recording that goes on must go on with the same logs under the same settings, or its events are of two worlds.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pyarrow.parquet

from connectors.trace import TraceError
from detector.config import Config
from replay.inputs import Inputs
from replay.pseudonyms import Pseudonyms
from replay.record import Recorder
from replay.shards import micros, moment
from replay.simulate.labels import LABELS, Label, read_labels, write_labels
from replay.traces import write_manifest

#: Bytes at the beginning of a log by which it is known again: far more than a header, read in no time.
HEAD_BYTES = 1 << 20


class Head(msgspec.Struct, kw_only=True):
    """How a log began when it was recorded. ``bytes``: how many of its first bytes ``sha256`` is of; ``size``: bytes it had, so that a
    log that was cut is told from one that has grown."""

    bytes: int
    sha256: str
    size: int


def settings_of(config: Config) -> dict[str, Any]:
    """The settings on which it depends what events a log gives."""
    return {"time.ahead_hours": config.time.ahead_hours, "limits.bindings": config.limits.bindings}


def same_inputs(recorder: Recorder, inputs: Inputs, config: Config, pseudonyms: Pseudonyms | None) -> None:
    """Note in a recording what it is made from. Raises TraceError where it goes on, and was made from other logs or otherwise."""
    made_by, folder = recorder.manifest.made_by, recorder.folder
    try:
        held = msgspec.convert(made_by.get("inputs", []), list[Head])
    except msgspec.ValidationError as error:
        raise TraceError(f"{folder}: manifest: made_by.inputs: {error}") from None
    paths = _files(inputs)
    if recorder.manifest.logs:
        if len(held) > len(paths):
            raise TraceError(f"{folder}: was recorded from {len(held)} files, not {len(paths)}; name an empty folder")
        if not held:
            raise TraceError(f"{folder}: does not say which logs it was recorded from; name an empty folder")
        for path, head in zip(paths, held, strict=False):
            if path.stat().st_size < head.size or _digest(path, head.bytes, pseudonyms) != head.sha256:
                raise TraceError(f"{folder}: was not recorded from {path}, or {path} was changed since; name an empty folder")
        changed = sorted(key for key, value in settings_of(config).items() if made_by.get("settings", {}).get(key) != value)
        if changed:
            raise TraceError(f"{folder}: was recorded with another {', '.join(changed)}; use that, or an empty folder")
    made_by["inputs"] = [msgspec.to_builtins(_head(path, pseudonyms)) for path in paths]


def _files(inputs: Inputs) -> list[Path]:
    """The files of the logs, without manifests: these change as a trace grows."""
    return [path for path in inputs.files if path.name != "manifest.json"]


def _head(path: Path, pseudonyms: Pseudonyms | None) -> Head:
    size = path.stat().st_size
    many = min(size, HEAD_BYTES)
    return Head(bytes=many, sha256=_digest(path, many, pseudonyms), size=size)


def _digest(path: Path, many: int, pseudonyms: Pseudonyms | None) -> str:
    """SHA-256 of a file's first bytes; under pseudonyms keyed, so that nobody can try whether it is of a log they have."""
    with path.open("rb") as file:
        found = hashlib.sha256(file.read(many)).hexdigest()
    return found if pseudonyms is None else pseudonyms.uid(found)


def marks_of(recorder: Recorder) -> dict[int, tuple[int, int]]:
    """Number of a log -> its highest record in a recording of events, and how many rows of that record there are. Raises OSError."""
    marks: dict[int, tuple[int, int]] = {}
    for entry in recorder.manifest.logs:
        table = pyarrow.parquet.read_table(recorder.folder / entry.path, columns=["partition", "record"])
        logs, records = (table.column(name).to_numpy() for name in ("partition", "record"))
        for log in np.unique(logs).tolist():
            mine = records[logs == log]
            highest = int(mine.max())
            many = int(np.count_nonzero(mine == highest))
            before = marks.get(log, (-1, 0))
            marks[log] = (highest, many + before[1]) if highest == before[0] else max(before, (highest, many))
    return marks


def keep_labels(recorder: Recorder, inputs: Inputs, titles: list[str], pseudonyms: Pseudonyms | None) -> None:
    """Put the labels of the inputs into a finished recording: what of them it holds. Raises TraceError, OSError."""
    if not inputs.labels or not recorder.manifest.logs:
        return
    marks = marks_of(recorder)
    ends = max((micros(entry.last) for entry in recorder.manifest.logs if entry.last is not None), default=0)
    kept = []
    for label in (each for path in inputs.labels for each in read_labels(path)):
        records = {}
        for number, title in enumerate(titles):
            there = [each for each in label.records.get(title, []) if each <= marks.get(number, (-1, 0))[0]]
            if there:
                records[recorder.manifest.titles[number]] = there
        if not records:
            continue
        label.records = records
        if label.last_us > ends:
            label.last_us, label.last = max(ends, label.first_us), moment(max(ends, label.first_us))
        kept.append(label if pseudonyms is None else _hidden(label, pseudonyms))
    write_labels(recorder.folder / LABELS, kept)
    recorder.manifest.labels = LABELS
    write_manifest(recorder.folder, recorder.manifest)


def _hidden(label: Label, pseudonyms: Pseudonyms) -> Label:
    """A label under pseudonyms; its sentence names names and is left out."""
    named = {field: [pseudonyms.identity(each) for each in getattr(label, field)] for field in ("principals", "via", "objects")}
    return msgspec.structs.replace(label, summary="", **named)
