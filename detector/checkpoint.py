"""The state of an embedded run in one SQLite file: the same chunk records that the Kafka shell keeps in a topic.

Everything is written in one transaction: a run that is killed leaves the last whole checkpoint, never half a one. Only chunks that
changed are written.
"""

from __future__ import annotations

import hashlib
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from detector.config import Config
from detector.fuse import Fuse
from detector.learned import dump, load
from detector.pipeline import Cores, Place

#: Version of the file. A reader refuses a newer one.
VERSION = 1


class StateError(ValueError):
    """A state that cannot be used, in one sentence naming the file."""


class Progress(msgspec.Struct):
    """Where a checkpoint was taken: how far each log was read (by fingerprint) and how long the alert file was."""

    places: dict[str, tuple[int, int | None]] = {}
    alerts: dict[str, int] = {}
    events: int = 0


def records(cores: Cores) -> Iterator[tuple[str, int, bytes]]:
    """The whole state as (name, number, bytes). Equal states give equal bytes."""
    yield from dump(cores.actors)
    yield from dump(cores.objects)
    yield "fuse", 0, cores.fusion.dump()
    yield "fuse.slow", 0, cores.slow.dump()
    yield "notices", 0, msgspec.msgpack.encode(cores.notices.told)
    yield "bindings", 0, msgspec.msgpack.encode(cores.bindings.dump())


def digest(cores: Cores) -> str:
    """A hash of the whole state: the same for the same log, however it was cut, wherever it was run."""
    whole = hashlib.blake2b(digest_size=16)
    for name, number, data in records(cores):
        whole.update(f"{name} {number} {len(data)}\n".encode())
        whole.update(data)
    return whole.hexdigest()


def meaning(config: Config) -> str:
    """A hash of the part of a configuration that gives a state its meaning; budget, limits and policy may change under it."""
    part = [config.signals, config.calibration, config.time]
    return hashlib.blake2b(msgspec.json.encode(part, order="deterministic"), digest_size=16).hexdigest()


class Checkpoints:
    """One state file. Raises StateError where the file cannot be used."""

    def __init__(self, path: Path, config: Config) -> None:
        self.path = path
        self._config = config
        self._written: dict[tuple[str, int], bytes] = {}
        for name, signal in config.learners().items():
            if not signal.durable:
                raise StateError(f"signals.{name}: this learner's state cannot be kept over a restart, so it does not go with --state")
        try:
            self._file = sqlite3.connect(path, isolation_level=None)
            self._file.execute("PRAGMA journal_mode=WAL")
            self._file.execute("CREATE TABLE IF NOT EXISTS chunk (name TEXT, number INT, data BLOB, PRIMARY KEY (name, number))")
            self._file.execute("CREATE TABLE IF NOT EXISTS meta (key TEXT PRIMARY KEY, value TEXT)")
        except sqlite3.Error as error:
            raise StateError(f"{path}: cannot be used as a state file: {error}") from None

    def close(self) -> None:
        """Let go of the file."""
        self._file.close()

    def _meta(self) -> dict[str, str]:
        return dict(self._file.execute("SELECT key, value FROM meta"))

    def restore(self, cores: Cores) -> Progress:
        """Fill ``cores`` from the last checkpoint; an empty file leaves them as they are."""
        meta = self._meta()
        if not meta:
            return Progress()
        version = meta.get("version", "0")
        if not version.isdigit() or not 1 <= int(version) <= VERSION:
            raise StateError(f"{self.path}: state of version {version}, this release reads 1 to {VERSION}")
        if meta.get("meaning") != meaning(self._config):
            raise StateError(
                f"{self.path}: made with other [signals], [calibration] or [time] settings; use that configuration, or another file"
            )
        held: dict[str, list[bytes]] = {}
        for name, number, data in self._file.execute("SELECT name, number, data FROM chunk ORDER BY name, number"):
            held.setdefault(name, []).append(data)
            self._written[name, number] = hashlib.blake2b(data, digest_size=16).digest()
        try:
            load(cores.actors, held)
            load(cores.objects, held)
            cores.bindings.load(msgspec.msgpack.decode(held["bindings"][0]))
            cores.fusion.state = msgspec.msgpack.decode(held["fuse"][0], type=Fuse)
            cores.notices.told = msgspec.msgpack.decode(held["notices"][0], type=dict[str, float])
            cores.slow.state = msgspec.msgpack.decode(held["fuse.slow"][0], type=Fuse)
            progress = msgspec.json.decode(meta["progress"], type=Progress)
        except (KeyError, IndexError, ValueError, TypeError) as error:
            raise StateError(f"{self.path}: the state is damaged or foreign: {error}") from None
        cores.fusion.state.budget.per_day = self._config.budget.alerts_per_day
        cores.slow.state.budget.per_day = self._config.budget.slow_alerts_per_day
        return progress

    def save(self, cores: Cores, progress: Progress) -> None:
        """Write a checkpoint, all or nothing."""
        fresh: dict[tuple[str, int], bytes] = {}
        changed: list[tuple[str, int, bytes]] = []
        for name, number, data in records(cores):
            mark = fresh[name, number] = hashlib.blake2b(data, digest_size=16).digest()
            if self._written.get((name, number)) != mark:
                changed.append((name, number, data))
        gone = [key for key in self._written if key not in fresh]
        meta: dict[str, Any] = {
            "version": VERSION,
            "meaning": meaning(self._config),
            "progress": msgspec.json.encode(progress).decode(),
        }
        try:
            self._file.execute("BEGIN IMMEDIATE")
            self._file.executemany("INSERT OR REPLACE INTO chunk VALUES (?, ?, ?)", changed)
            self._file.executemany("DELETE FROM chunk WHERE name = ? AND number = ?", gone)
            self._file.executemany("INSERT OR REPLACE INTO meta VALUES (?, ?)", [(key, str(value)) for key, value in meta.items()])
            self._file.execute("COMMIT")
        except sqlite3.Error as error:
            raise StateError(f"{self.path}: the state could not be written: {error}") from None
        self._written = fresh


def places_of(progress: Progress, prints: list[str]) -> list[Place]:
    """Where to go on in each log."""
    return [Place(*progress.places.get(print_, (0, None))) for print_ in prints]
