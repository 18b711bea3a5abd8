"""The files of a simulation: records go in as they are thought of, and come out in the order they are written."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import BinaryIO

import numpy as np

CONN = "conn.log"
REGISTRY = "registry.jsonl"
SLURM = "slurm.jsonl"
KUBERNETES = "kubernetes.jsonl"
KEYCLOAK = "keycloak.jsonl"
FILES = (CONN, REGISTRY, SLURM, KUBERNETES, KEYCLOAK)


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


class _Log:
    """One file: what waits to be written, and how many records are."""

    def __init__(self, file: BinaryIO) -> None:
        self.file = file
        self.times: list[int] = []
        self.lines: list[bytes] = []
        self.labels: list[str] = []
        self.written = 0


class Journal:
    """The five files. Records of one time keep the order they were added in; a label never reaches the file."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._stack = ExitStack()
        self._logs: dict[str, _Log] = {}
        self._settled = 0
        self.marked: dict[str, Marked] = {}

    def __enter__(self) -> Journal:
        self._logs = {name: _Log(self._stack.enter_context((self._folder / name).open("wb"))) for name in FILES}
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._stack.close()

    def add(self, name: str, time: int, line: bytes, label: str = "") -> None:
        """Add a record that is written at ``time``. Raises ValueError if that part of the file is already on disk."""
        self.extend(name, (time,), (line,), label)

    def extend(self, name: str, times: Iterable[int], lines: Iterable[bytes], label: str = "") -> None:
        """Add records, one time each. Raises ValueError if one belongs to a part of the file that is already on disk."""
        log = self._logs[name]
        before = len(log.lines)
        log.times.extend(times)
        log.lines.extend(lines)
        log.labels.extend([label] * (len(log.lines) - before))
        if min(log.times[before:], default=self._settled) < self._settled:
            raise ValueError(f"{name}: a record comes after later ones were written")

    def settle(self, until: int) -> None:
        """Write everything before ``until``; later records wait."""
        for name, log in self._logs.items():
            order = np.argsort(np.array(log.times, np.int64), kind="stable").tolist()
            cut = len(order)
            while cut and log.times[order[cut - 1]] >= until:
                cut -= 1
            for position in order[:cut]:
                log.file.write(log.lines[position])
                label = log.labels[position]
                if label:
                    self.marked.setdefault(label, Marked()).add(name, log.written, log.times[position])
                log.written += 1
            later = sorted(order[cut:])
            log.times = [log.times[i] for i in later]
            log.lines = [log.lines[i] for i in later]
            log.labels = [log.labels[i] for i in later]
        self._settled = until

    @property
    def counts(self) -> dict[str, int]:
        """Records on disk, by file."""
        return {name: log.written for name, log in self._logs.items()}
