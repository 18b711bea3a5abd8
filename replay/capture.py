"""``tocsin record``: recorded logs as a trace of resolved events, which replays without decoding and can be shared under pseudonyms."""

from __future__ import annotations

from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Annotated

import numpy as np
import typer

from connectors.alert import Alert
from connectors.event import Block
from connectors.names import Names
from connectors.trace import TraceError
from detector.config import Config, ConfigError, read
from detector.identity import Bindings
from detector.pipeline import Pipeline, quiet_collector
from replay import screen
from replay.exits import INTERRUPTED, MISTAKE, UNREADABLE, fail
from replay.inputs import Inputs, open_inputs
from replay.play import tallies
from replay.pseudonyms import KeyProblem, Pseudonyms, read_key
from replay.record import BlockRecord, Bounds, Recorder

#: What the by-actor log is called everywhere.
TOPIC = "tocsin.by-actor"


class _Tap:
    """Stands where the detector's cores stand and keeps what would have been scored."""

    def __init__(self, config: Config, recorder: Recorder) -> None:
        self.config = config
        self.bindings = Bindings(config.limits.bindings)
        self._recorder = recorder
        self._next = 0

    def fold(self, block: Block, scores: Callable[[np.ndarray], None] | None = None) -> list[Alert]:
        """Record a block."""
        self._recorder.put(BlockRecord(TOPIC, 0, self._next, int(block.time.max()), block.to_arrow()))
        self._next += 1
        return []

    def title(self, paths: tuple[str, ...]) -> None:
        """The recorder was given them already."""


def capture(inputs: Inputs, names: Names, config: Config, recorder: Recorder) -> int:
    """Resolve all inputs and record the events; the blocks that the folder holds already are passed over. Returns how many events
    there are now."""
    tap = _Tap(config, recorder)
    pipeline = Pipeline(tap, names=names)
    with recorder, quiet_collector():
        for _ in tallies(pipeline, inputs):
            if recorder.full:
                break
    return recorder.records


def record(
    paths: Annotated[list[Path], typer.Argument(help="Trace folders, or recorded logs.")],
    out: Annotated[Path, typer.Option(help="The trace folder to write, or to go on with.")],
    config: Annotated[Path | None, typer.Option(help="TOML file laid over the default configuration.")] = None,
    source: Annotated[str | None, typer.Option(help="Format of the records of files; detected if not given.")] = None,
    pseudonyms: Annotated[bool, typer.Option("--pseudonyms", help="Replace identities; the key is in TOCSIN_PSEUDONYM_KEY.")] = False,
    key: Annotated[Path | None, typer.Option(help="File with the key of the pseudonyms; implies --pseudonyms.")] = None,
    max_records: Annotated[int | None, typer.Option(min=1, help="Stop after so many events.")] = None,
    max_bytes: Annotated[int | None, typer.Option(min=1, help="Stop at so many bytes on the disk.")] = None,
    max_seconds: Annotated[float | None, typer.Option(min=1, help="Stop after so many seconds of recorded time.")] = None,
) -> None:
    """Record logs as a trace of resolved events, under pseudonyms if asked."""
    try:
        given = read(config)
        names = Names()
        inputs = open_inputs(paths, source, None, names, 4096)
        if inputs.events is not None:
            fail(f"{inputs.events.path}: is a trace of resolved events already", MISTAKE)
        recorder = Recorder(
            out,
            sources=None,
            bounds=Bounds(records=max_records, bytes=max_bytes, seconds=max_seconds, roll_seconds=None),
            titles=[Path(log.path).name for log in inputs.logs],
            pseudonyms=Pseudonyms(read_key(key)) if pseudonyms or key is not None else None,
            made_by={"program": "tocsin record", "version": metadata.version("tocsin")},
        )
        many = capture(inputs, names, given, recorder)
    except (ConfigError, KeyProblem) as error:
        fail(str(error), MISTAKE)
    except TraceError as error:
        fail(str(error), UNREADABLE)
    except OSError as error:
        fail(f"{error.filename or out}: {error.strerror or error}", UNREADABLE)
    except KeyboardInterrupt:
        fail("interrupted; the folder keeps what was finished", INTERRUPTED)
    ended = f"; ended at {recorder.full}" if recorder.full else ""
    screen.page([f"{out}: {many:,} events in {len(recorder.manifest.logs)} files{ended}"])
