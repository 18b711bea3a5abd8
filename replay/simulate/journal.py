"""The files of a simulation: records go in as they are thought of, and come out in the order they are written.

Memory is bounded: what waits beyond ``SPILL`` bytes goes to disk, sorted into slices of time, and is read back a slice at a time.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterable
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, NamedTuple, Protocol

import numpy as np

from connectors.event import MINUTE

CONN = "conn.log"
REGISTRY = "registry.jsonl"
SLURM = "slurm.jsonl"
KUBERNETES = "kubernetes.jsonl"
KEYCLOAK = "keycloak.jsonl"
ATTESTATION = "attestation.jsonl"
FILES = (CONN, REGISTRY, SLURM, KUBERNETES, KEYCLOAK, ATTESTATION)
#: The source that reads each.
SOURCES = {
    CONN: "zeek_conn",
    REGISTRY: "oci_notifications",
    SLURM: "slurm_jobcomp",
    KUBERNETES: "kubernetes_audit",
    KEYCLOAK: "keycloak_events",
    ATTESTATION: "nvidia_attestation",
}
#: Bytes of records that wait in memory: a day of a usual factory is less, a large one's goes to disk.
SPILL = 96 << 20
#: Length of a slice on disk: of a factory of ten million records a day some 70,000.
_SLICE = 10 * MINUTE


class Marked:
    """What a label was given to: record numbers by file, and the first and last time of writing (microseconds UTC)."""

    def __init__(self) -> None:
        self.records: dict[str, list[int]] = {}
        self.first = 0
        self.last = 0

    def add(self, file: str, record: int, time: int) -> None:
        """Count one record in."""
        self.first = min(self.first, time) if self.records else time
        self.last = max(self.last, time)
        self.records.setdefault(file, []).append(record)


class Writes(Protocol):
    """What records are written to."""

    def add(self, name: str, time: int, line: bytes, label: str = "") -> None:
        """Add a record that is written at ``time``."""
        ...

    def extend(self, name: str, times: Iterable[int], lines: Iterable[bytes], label: str = "") -> None:
        """Add records, one time each."""
        ...


class Note(NamedTuple):
    """A record on a sheet."""

    time: int
    line: bytes
    label: str


class Sheet:
    """A few records in memory, by file, in the order they were added."""

    def __init__(self) -> None:
        self.notes: dict[str, list[Note]] = {}

    def add(self, name: str, time: int, line: bytes, label: str = "") -> None:
        """Add a record that is written at ``time``."""
        self.notes.setdefault(name, []).append(Note(time, line, label))

    def extend(self, name: str, times: Iterable[int], lines: Iterable[bytes], label: str = "") -> None:
        """Add records, one time each."""
        for time, line in zip(times, lines, strict=True):
            self.add(name, time, line, label)


class _Waiting:
    """Records that wait, in the order they were added."""

    def __init__(self) -> None:
        self.times: list[int] = []
        self.lines: list[bytes] = []
        #: Position -> label, of the few that have one.
        self.labels: dict[int, str] = {}

    def sorted_before(self, until: int) -> tuple[list[int], list[int]]:
        """(positions of what is written before ``until``, in order of time; positions of the rest, in order of adding)."""
        times = np.array(self.times, np.int64)
        order = np.argsort(times, kind="stable")
        cut = int(np.searchsorted(times[order], until))
        return order[:cut].tolist(), np.sort(order[cut:]).tolist()

    def keep(self, positions: list[int]) -> None:
        """Forget all others."""
        self.labels = {new: self.labels[old] for new, old in enumerate(positions) if old in self.labels}
        self.times = [self.times[i] for i in positions]
        self.lines = [self.lines[i] for i in positions]


class _Log:
    """One file: what waits, in memory and by slice of time on disk, and what is written."""

    def __init__(self, file: BinaryIO, aside: Path) -> None:
        self.file = file
        self.aside = aside
        self.waiting = _Waiting()
        #: Slice -> position in it -> label, of what lies on disk.
        self.slices: dict[int, dict[int, str]] = {}
        self.sizes: dict[int, int] = {}
        self.written = 0
        self.first: int | None = None
        self.last: int | None = None

    def spill(self) -> None:
        """Put all that waits on disk."""
        waiting = self.waiting
        if not waiting.times:
            return
        slices = np.array(waiting.times, np.int64) // _SLICE
        order = np.argsort(slices, kind="stable")
        bounds = np.flatnonzero(np.diff(slices[order], prepend=-1)).tolist()
        for begin, end in zip(bounds, [*bounds[1:], len(order)], strict=True):
            which = order[begin:end].tolist()
            number = int(slices[which[0]])
            marks = self.slices.setdefault(number, {})
            held = self.sizes.get(number, 0)
            marks |= {held + i: waiting.labels[position] for i, position in enumerate(which) if position in waiting.labels}
            self.sizes[number] = held + len(which)
            lines = [waiting.lines[i] for i in which]
            head = np.array([len(which)], np.int64).tobytes() + np.array([waiting.times[i] for i in which], np.int64).tobytes()
            with (self.aside / str(number)).open("ab") as file:
                file.write(head)
                file.write(np.fromiter(map(len, lines), np.int64, len(lines)).tobytes())
                file.writelines(lines)
        self.waiting = _Waiting()

    def slice_back(self, number: int) -> _Waiting:
        """A slice from disk, which is then gone there."""
        found = _Waiting()
        path = self.aside / str(number)
        with path.open("rb") as file:
            while head := file.read(8):
                (count,) = np.frombuffer(head, np.int64).tolist()
                found.times += np.frombuffer(file.read(8 * count), np.int64).tolist()
                for length in np.frombuffer(file.read(8 * count), np.int64).tolist():
                    found.lines.append(file.read(length))
        path.unlink()
        found.labels = self.slices.pop(number)
        del self.sizes[number]
        return found


class Journal:
    """The files of a folder. Records of one time keep the order they were added in; a label never reaches the file."""

    def __init__(self, folder: Path, spill: int = SPILL) -> None:
        self._folder = folder
        self._spill = spill
        self._held = 0
        self._stack = ExitStack()
        self._logs: dict[str, _Log] = {}
        self._settled = 0
        self.marked: dict[str, Marked] = {}

    def __enter__(self) -> Journal:
        aside = Path(tempfile.mkdtemp(prefix=".slices-", dir=self._folder))
        self._stack.callback(shutil.rmtree, aside, ignore_errors=True)
        for name in FILES:
            (aside / name).mkdir()
            self._logs[name] = _Log(self._stack.enter_context((self._folder / name).open("wb")), aside / name)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._stack.close()

    def add(self, name: str, time: int, line: bytes, label: str = "") -> None:
        """Add a record that is written at ``time``. Raises ValueError if that part of the file is already on disk."""
        self.extend(name, (time,), (line,), label)

    def extend(self, name: str, times: Iterable[int], lines: Iterable[bytes], label: str = "") -> None:
        """Add records, one time each. Raises ValueError if one belongs to a part of the file that is already on disk."""
        log = self._logs[name]
        waiting = log.waiting
        before = len(waiting.lines)
        waiting.times.extend(times)
        waiting.lines.extend(lines)
        if label:
            waiting.labels |= dict.fromkeys(range(before, len(waiting.lines)), label)
        if min(waiting.times[before:], default=self._settled) < self._settled:
            raise ValueError(f"{name}: a record comes after later ones were written")
        self._held += sum(map(len, waiting.lines[before:]))
        if self._held > self._spill:
            for each in self._logs.values():
                each.spill()
            self._held = 0

    def settle(self, until: int) -> None:
        """Write everything before ``until``; later records wait."""
        for name, log in self._logs.items():
            if log.slices and log.waiting.times:
                log.spill()
            for number in sorted(number for number in log.slices if number * _SLICE < until):
                part = log.slice_back(number)
                self._write(name, log, part, until)
                if part.times:
                    # Nothing waits beside it: that was put on disk above.
                    log.waiting = part
                    log.spill()
            if not log.slices:
                self._write(name, log, log.waiting, until)
        self._held = sum(len(line) for log in self._logs.values() for line in log.waiting.lines)
        self._settled = until

    def _write(self, name: str, log: _Log, waiting: _Waiting, until: int) -> None:
        """Write what ``waiting`` has before ``until``, and keep the rest in it."""
        now, later = waiting.sorted_before(until)
        log.file.writelines([waiting.lines[position] for position in now])
        if waiting.labels:
            for number, position in enumerate(now):
                label = waiting.labels.get(position)
                if label is not None:
                    self.marked.setdefault(label, Marked()).add(name, log.written + number, waiting.times[position])
        if now:
            log.first = waiting.times[now[0]] if log.first is None else log.first
            log.last = waiting.times[now[-1]]
        log.written += len(now)
        waiting.keep(later)

    @property
    def counts(self) -> dict[str, int]:
        """Records on disk, by file."""
        return {name: log.written for name, log in self._logs.items()}

    def span(self, name: str) -> tuple[int | None, int | None]:
        """When the first and the last record of a file were written (microseconds UTC)."""
        return self._logs[name].first, self._logs[name].last
