"""``tocsin record``: logs, or what Kafka holds, as a trace folder: resolved events replay without decoding and can be shared under
pseudonyms, raw records are what was on the topic."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from aiokafka.errors import KafkaError as BrokerError

from connectors.alert import Alert
from connectors.event import Block
from connectors.kafka import KafkaError
from connectors.names import Names
from connectors.trace import TraceError
from detector.config import Config, ConfigError, read
from detector.identity import Bindings
from detector.pipeline import Pipeline, quiet_collector
from replay import from_kafka, screen
from replay.exits import BROKER, INTERRUPTED, MISTAKE, UNREADABLE, fail
from replay.inputs import Inputs, open_inputs
from replay.letters import SinceError
from replay.origins import keep_labels, marks_of, same_inputs, settings_of
from replay.play import tallies
from replay.pseudonyms import KeyProblem, Pseudonyms, read_key
from replay.record import BlockRecord, Bounds, Recorder

#: What the by-actor log is called everywhere.
TOPIC = "tocsin.by-actor"


class _Tap:
    """Stands where the detector's cores stand and keeps what would have been scored, without the rows that the recording has."""

    def __init__(self, config: Config, recorder: Recorder) -> None:
        self.config = config
        self.bindings = Bindings(config.limits.bindings)
        self._recorder = recorder
        self._next = recorder.positions.get((TOPIC, 0), 0)
        #: Number of a log -> its highest record in the recording, and how many rows of that record.
        self.marks = marks_of(recorder)

    def fold(self, block: Block, scores: Callable[[np.ndarray], None] | None = None) -> list[Alert]:
        """Record a block."""
        block = self._fresh(block)
        if len(block) and self._recorder.put(BlockRecord(TOPIC, 0, self._next, int(block.time.max()), block.to_arrow())):
            self._next += 1
        return []

    def _fresh(self, block: Block) -> Block:
        """The rows that are not recorded yet. Blocks are cut elsewhere once a log has grown, so it is rows that count."""
        keep = np.ones(len(block), np.bool_)
        for log, (record, many) in list(self.marks.items()):
            mine = block.partition == log
            keep &= ~mine | (block.record >= record)
            last = np.flatnonzero(mine & (block.record == record))
            keep[last[:many]] = False
            left = many - len(last)
            self.marks[log] = (record, max(left, 0))
        return block if keep.all() else block.take(keep)

    def title(self, paths: tuple[str, ...]) -> None:
        """The recorder was given them already."""


def capture(inputs: Inputs, names: Names, config: Config, recorder: Recorder) -> int:
    """Resolve all inputs and record the events; the rows that the folder holds already are passed over. Returns how many events there
    are now."""
    tap = _Tap(config, recorder)
    pipeline = Pipeline(tap, names=names)
    with recorder, quiet_collector():
        for _ in tallies(pipeline, inputs):
            if recorder.full:
                break
    return recorder.records


def record(
    paths: Annotated[list[Path] | None, typer.Argument(help="Trace folders, or recorded logs.")] = None,
    out: Annotated[Path, typer.Option(help="The trace folder to write, or to go on with.")] = ...,  # type: ignore[assignment]
    config: Annotated[Path | None, typer.Option(help="TOML file laid over the default configuration.")] = None,
    source: Annotated[str | None, typer.Option(help="Format of the records of files; detected if not given.")] = None,
    from_: Annotated[str, typer.Option("--from", help="kafka: read the topics of [kafka] instead of files.")] = "",
    raw: Annotated[bool, typer.Option("--raw", help="From Kafka: the raw topics, byte for byte (the default).")] = False,
    by_actor: Annotated[bool, typer.Option("--by-actor", help="From Kafka: resolved events, as ingest sent them on.")] = False,
    since: Annotated[str, typer.Option(help="From Kafka: earliest, now, an offset, a time, or a span (6h).")] = "",
    until: Annotated[str, typer.Option(help="From Kafka: now, an offset, a time; without it until a limit or a signal.")] = "",
    pseudonyms: Annotated[bool, typer.Option("--pseudonyms", help="Replace identities; the key is in TOCSIN_PSEUDONYM_KEY.")] = False,
    key: Annotated[Path | None, typer.Option(help="File with the key of the pseudonyms; implies --pseudonyms.")] = None,
    max_records: Annotated[int | None, typer.Option(min=1, help="Stop after so many records or events.")] = None,
    max_bytes: Annotated[int | None, typer.Option(min=1, help="Stop at so many bytes on the disk.")] = None,
    max_gb: Annotated[float | None, typer.Option(min=0.000001, help="The same in gigabytes (10^9).")] = None,
    max_seconds: Annotated[float | None, typer.Option(min=1, help="Stop after so many seconds of recorded time.")] = None,
    hours: Annotated[float | None, typer.Option(min=0.0003, help="The same in hours.")] = None,
) -> None:
    """Record logs as a trace of resolved events, or what Kafka holds, under pseudonyms if asked."""
    if max_gb is not None:
        max_bytes = min(round(max_gb * 1e9), max_bytes or sys.maxsize)
    if hours is not None:
        max_seconds = min(hours * 3600, max_seconds or math.inf)
    bounds = Bounds(records=max_records, bytes=max_bytes, seconds=max_seconds, roll_seconds=None)
    try:
        given = read(config)
        hidden = Pseudonyms(read_key(key)) if pseudonyms or key is not None else None
        if from_:
            _refuse_mixed(from_, paths, source, raw=raw, by_actor=by_actor)
            told = from_kafka.run(given.kafka, out, bounds, hidden, "by-actor" if by_actor else "raw", since=since, until=until)
            screen.page(told)
            return
        if not paths or raw or by_actor or since or until:
            fail("record: name trace folders or logs; or --from kafka, with --raw or --by-actor, --since and --until", MISTAKE)
        many, recorder = _from_files(paths, source, given, out, bounds, hidden)
    except (ConfigError, KeyProblem, SinceError) as error:
        fail(str(error), MISTAKE)
    except TraceError as error:
        fail(str(error), UNREADABLE)
    except (KafkaError, BrokerError) as error:
        fail(str(error) or type(error).__name__, BROKER)
    except OSError as error:
        fail(f"{error.filename or out}: {error.strerror or error}", UNREADABLE)
    except KeyboardInterrupt:
        fail("interrupted; the folder keeps what was finished", INTERRUPTED)
    ended = f"; ended at {recorder.full}" if recorder.full else ""
    screen.page([f"{out}: {many:,} events in {len(recorder.manifest.logs)} files{ended}"])


def _refuse_mixed(from_: str, paths: list[Path] | None, source: str | None, *, raw: bool, by_actor: bool) -> None:
    if from_ != "kafka":
        fail(f"--from: expected kafka, got {from_!r}", MISTAKE)
    if paths or source:
        fail("--from kafka: reads the topics of the configuration; it goes with neither paths nor --source", MISTAKE)
    if raw and by_actor:
        fail("--raw and --by-actor: one of them", MISTAKE)


def _from_files(
    paths: list[Path], source: str | None, config: Config, out: Path, bounds: Bounds, pseudonyms: Pseudonyms | None
) -> tuple[int, Recorder]:
    names = Names()
    inputs = open_inputs(paths, source, None, names, 4096)
    if inputs.events is not None:
        fail(f"{inputs.events.path}: is a trace of resolved events already", MISTAKE)
    made_by = {"program": "tocsin record", "version": metadata.version("tocsin"), "settings": settings_of(config)}
    titles = [Path(log.path).name for log in inputs.logs]
    recorder = Recorder(out, sources=None, bounds=bounds, titles=titles, pseudonyms=pseudonyms, made_by=made_by)
    same_inputs(recorder, inputs, config, pseudonyms)
    many = capture(inputs, names, config, recorder)
    keep_labels(recorder, inputs, titles, pseudonyms)
    return many, recorder
