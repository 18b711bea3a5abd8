"""A recorded trace as the background of a scenario: its logs read in passes, and who and what is found in them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import orjson
import pyarrow.parquet

from connectors.lines import Lines
from connectors.names import Names
from connectors.sources import available
from connectors.trace import TraceError, detect
from replay.simulate.journal import SOURCES
from replay.timed import Timed, timed
from replay.traces import LogEntry, inside, is_folder, read_manifest, verify

#: Records decoded at a time.
_BATCH = 4096
#: The sources whose records scenarios can write.
WRITABLE = {source: name for name, source in SOURCES.items()}
#: An event so far ahead of all its neighbours has a broken clock.
AHEAD_HOURS = 24.0


@dataclass(frozen=True)
class BackgroundLog:
    """One log: ``name`` in the folder to be written, its source, the files it is in, and the entry of the trace folder it is from."""

    name: str
    source: str
    files: tuple[Path, ...]
    parquet: bool = False
    entry: LogEntry | None = None

    @property
    def writable(self) -> bool:
        """Whether a scenario's records can go in."""
        return self.source in WRITABLE

    def batches(self) -> Iterator[Timed]:
        """The log from its beginning."""
        return timed(available()[self.source](Names()), self._lines(), AHEAD_HOURS)

    def _lines(self) -> Iterator[list[bytes]]:
        for path in self.files:
            if not self.parquet:
                with Lines(path) as lines:
                    for _, records, _ in lines.batches(_BATCH):
                        yield records
                continue
            with pyarrow.parquet.ParquetFile(path) as file:
                for batch in file.iter_batches(_BATCH, columns=["value"]):
                    # In JSON a line break is blank space, wherever it stands unescaped.
                    yield [value.replace(b"\n", b" ") for value in batch.column("value").to_pylist() if value]


@dataclass
class Background:
    """The logs of a trace, the labels it has, and when its events begin and end (microseconds UTC)."""

    logs: list[BackgroundLog]
    labels: Path | None = None
    first: int = 0
    last: int = 0


def open_background(path: Path) -> Background:
    """A trace folder, a folder of logs without a manifest, or a single log. Raises TraceError."""
    if not is_folder(path):
        return Background([BackgroundLog(_plain(path.name), detect(path), (path,))])
    try:
        manifest = read_manifest(path)
    except TraceError:
        if (path / "manifest.json").exists():
            raise
        found = [each for each in sorted(path.iterdir()) if each.is_file() and not each.name.startswith(".")]
        logs = [log for each in found if (log := _recognised(each)) is not None]
        if not logs:
            raise TraceError(f"{path}: neither a trace folder nor a folder with a log of a known format") from None
        return Background(logs)
    verify(path, manifest)
    labels = inside(path, manifest.labels, f"{path}: labels") if manifest.labels else None
    grouped: dict[tuple[str, int], list[LogEntry]] = {}
    logs = []
    for entry in manifest.logs:
        if entry.form == "events":
            raise TraceError(f"{path}: a trace of resolved events: scenarios are spliced into raw records")
        if entry.form == "raw":
            grouped.setdefault((entry.topic, entry.partition), []).append(entry)
        elif entry.bytes:
            logs.append(BackgroundLog(_plain(entry.path), entry.source, (path / entry.path,), entry=entry))
    for (topic, partition), entries in grouped.items():
        files = tuple(path / entry.path for entry in entries)
        logs.append(BackgroundLog(f"{topic}-{partition}.jsonl".replace("/", "-"), entries[0].source, files, parquet=True))
    return Background(logs, labels)


def _plain(name: str) -> str:
    """What a log is called once it is unpacked and lies in one folder."""
    return name.removesuffix(".gz").removesuffix(".zst").replace("/", "-")


def _recognised(path: Path) -> BackgroundLog | None:
    try:
        return BackgroundLog(_plain(path.name), detect(path), (path,))
    except TraceError:
        return None


def each_record(batch: Timed) -> Iterator[tuple[dict[str, object], int]]:
    """The records of a batch that are JSON objects, each with its time."""
    for line, time in zip(batch.lines, batch.times.tolist(), strict=True):
        try:
            record = orjson.loads(line)
        except orjson.JSONDecodeError:
            continue
        if isinstance(record, dict):
            yield record, time


def scan(background: Background, take: dict[str, Callable[[Timed], None]]) -> None:
    """Read every writable log once, batch by batch, by source; sets when the events begin and end. Raises TraceError."""
    firsts, lasts = [], []
    for log in background.logs:
        if not log.writable:
            continue
        for batch in log.batches():
            known = batch.block.time
            if len(known):
                firsts.append(int(known.min()))
                lasts.append(int(known.max()))
                firsts, lasts = [min(firsts)], [max(lasts)]
            take[log.source](batch)
    if not firsts:
        raise TraceError(f"no log of {', '.join(WRITABLE)} with an event in it: nothing to splice into")
    background.first, background.last = firsts[0], lasts[0]
