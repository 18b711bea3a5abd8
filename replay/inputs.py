"""What a replay reads: files, and trace folders with what they hold, as logs of the detector."""

from __future__ import annotations

import hashlib
import time as wall
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Protocol

import numpy as np

from connectors.event import DAY, SECOND, Block
from connectors.names import Names
from connectors.sources import Decoded
from connectors.sources.table import Mapping, MappingError, read_mapping
from connectors.trace import TraceError, open_trace
from detector.ingest import TimeGuard, joined
from replay.recorded import EventTrace, RawLog
from replay.traces import MANIFEST, LogEntry, Manifest, inside, is_folder, read_manifest, verify

#: Bytes of a log that tell it from others, so that a state knows how far it was read.
FINGERPRINT_BYTES = 4096
#: Records decoded at a time when a replay keeps a pace: a batch comes when its last record is due, so few.
PACED_RECORDS = 64


class Input(Protocol):
    """What a screen shows of a log."""

    path: str
    source: str
    total_bytes: int
    bytes_read: int


class InputLog(Input, Protocol):
    """A log of raw records."""

    def __iter__(self) -> Iterator[Decoded]: ...


@dataclass
class Inputs:
    """``logs`` with a fingerprint each, or, in a trace of resolved events, ``events``. ``files``: all that is read. ``labels``: the
    files of ground truth beside them."""

    logs: list[InputLog] = field(default_factory=list)
    prints: list[str] = field(default_factory=list)
    events: EventTrace | None = None
    files: list[Path] = field(default_factory=list)
    labels: list[Path] = field(default_factory=list)

    @property
    def shown(self) -> list[Input]:
        """What is read, for a screen."""
        return [*self.logs] if self.events is None else [self.events]


def fingerprint(path: Path) -> str:
    """What a log begins with, as a hash: the same log grown longer, or under another name, keeps it."""
    with path.open("rb") as file:
        return hashlib.blake2b(file.read(FINGERPRINT_BYTES), digest_size=16).hexdigest()


def open_inputs(
    paths: list[Path], source: str | None, mapping: Mapping | None, names: Names, batch_records: int, *, verified: bool = False
) -> Inputs:
    """Open files and trace folders, in the order given. Every folder is verified first, unless it just was. Raises TraceError, nothing
    half-done."""
    found = Inputs()
    for path in paths:
        if not is_folder(path):
            found.logs.append(open_trace(path, source, mapping, names, batch_records))
            found.prints.append(fingerprint(path))
            found.files.append(path)
            continue
        if source is not None or mapping is not None:
            raise TraceError(f"{path}: a trace folder says itself what its logs are; --source and --mapping are for files")
        manifest = read_manifest(path)
        if not verified:
            verify(path, manifest)
        _add(found, path, manifest, names, batch_records)
    if found.events is not None and (found.logs or len(paths) > 1):
        raise TraceError(f"{found.events.path}: a trace of resolved events is replayed alone")
    return found


def _add(found: Inputs, folder: Path, manifest: Manifest, names: Names, batch_records: int) -> None:
    found.files += [folder / MANIFEST, *(folder / entry.path for entry in manifest.logs)]
    if manifest.labels is not None:
        found.labels.append(folder / manifest.labels)
    if manifest.logs[0].form == "events":
        found.events = EventTrace(folder, manifest.logs, manifest.titles, names)
        return
    raw: dict[tuple[str, int], list[LogEntry]] = {}
    for entry in manifest.logs:
        if entry.form == "raw":
            raw.setdefault((entry.topic, entry.partition), []).append(entry)
        elif entry.bytes:
            path = folder / entry.path
            found.logs.append(open_trace(path, entry.source, _mapping(folder, entry), names, batch_records))
            found.prints.append(fingerprint(path))
    for (topic, partition), entries in raw.items():
        log = RawLog(folder, entries, names, batch_records)
        if any(each.path == log.path for each in found.logs):
            # A recording of another day, or another site's topic of the same name: its offsets are others.
            log.path = f"{folder}/{log.path}"
        found.logs.append(log)
        begin = f"{topic}:{partition}:{entries[0].offsets}:{entries[0].sha256}"
        found.prints.append(hashlib.blake2b(begin.encode(), digest_size=16).hexdigest())


def _mapping(folder: Path, entry: LogEntry) -> Mapping | None:
    if entry.mapping is None:
        return None
    path = inside(folder, entry.mapping, str(folder / MANIFEST))
    try:
        return read_mapping(path)
    except (MappingError, OSError) as error:
        raise TraceError(f"{path}: {error}") from None


class Pace:
    """Holds a replay back to so many times the recorded speed. ``clock`` and ``sleep``: seconds."""

    def __init__(self, factor: float, clock: Callable[[], float] = wall.monotonic, sleep: Callable[[float], None] = wall.sleep) -> None:
        self.factor = factor
        self._clock = clock
        self._sleep = sleep
        self._origin: tuple[float, int] | None = None

    def wait(self, block: Block) -> None:
        """Return when a block's last event is due: the first event seen is due at once."""
        if len(block) == 0:
            return
        if self._origin is None:
            # A row far behind the rest was written by a clock that had not been set: from there on it would be a wait of years.
            usual = np.median(block.time) - DAY
            self._origin = (self._clock(), int(block.time[block.time >= usual].min()))
        began, first = self._origin
        due = began + (int(block.time.max()) - first) / SECOND / self.factor
        delay = due - self._clock()
        if delay > 0:
            self._sleep(delay)

    def held(self, blocks: Iterator[Block]) -> Iterator[Block]:
        """Blocks, each when its last event is due."""
        for block in blocks:
            self.wait(block)
            yield block


class PacedLog:
    """A log that gives each batch only when its last event is due. What runs ahead of its neighbours by more than ``ahead_hours`` is no
    time to wait for: ingest takes it out."""

    def __init__(self, log: InputLog, pace: Pace, ahead_hours: float) -> None:
        self._log = log
        self._pace = pace
        self._ahead = ahead_hours
        self.path = log.path
        self.source = log.source
        self.total_bytes = log.total_bytes
        if hasattr(log, "arrivals"):
            self.arrivals = log.arrivals

    @property
    def bytes_read(self) -> int:
        """How much has been read."""
        return self._log.bytes_read

    def __iter__(self) -> Iterator[Decoded]:
        guard, held = TimeGuard(self._ahead), list[Decoded]()
        for decoded in chain(self._log, [None]):
            if decoded is not None:
                held.append(decoded)
            for part in guard.admit(decoded):
                self._pace.wait(part.block)
            if held and not guard.waiting:
                # As one: whoever takes it may number its names anew before the next, and would not know of what is held here.
                yield held[0] if len(held) == 1 else joined(held)
                held = []


def speed(text: str) -> float | None:
    """``max`` as None, ``60x`` as 60.0. Raises ValueError.

    >>> speed("max"), speed("60x"), speed("1x")
    (None, 60.0, 1.0)
    """
    if text == "max":
        return None
    try:
        factor = float(text[:-1]) if text.endswith("x") else 0.0
    except ValueError:
        factor = 0.0
    if not 0.0 < factor < 1e9:
        raise ValueError(f"expected max or a factor such as 1x or 60x; got {text!r}")
    return factor
