"""``tocsin worker``: the stages of the distributed engine as processes."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import sys
import time
from enum import StrEnum
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from detector.config import ConfigError, read
from detector.pipeline import quiet_collector

if TYPE_CHECKING:
    from detector.process import Process, Service

#: Exit code of a mistake in the configuration.
MISTAKE = 2

#: What a log record has of its own; anything else was given as ``extra``.
_PLAIN = set(vars(logging.makeLogRecord({})))


class Stage(StrEnum):
    """What a worker can run."""

    ingest = "ingest"
    actor = "actor"
    object = "object"
    fuse = "fuse"
    budget = "budget"
    watch = "watch"


class _Lines(logging.Formatter):
    """One JSON object a line."""

    def __init__(self, process: str) -> None:
        super().__init__()
        self._process = process

    def format(self, record: logging.LogRecord) -> str:
        said = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created)) + f".{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "process": self._process,
            "logger": record.name,
            "message": record.getMessage(),
        }
        said |= {key: value for key, value in vars(record).items() if key not in _PLAIN}
        if record.exc_info:
            said["trace"] = self.formatException(record.exc_info)
        return json.dumps(said, default=str)


def log_to_stderr(process: str) -> None:
    """Structured logs of ours; of the libraries only what someone has to know."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Lines(process))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.WARNING)
    logging.getLogger("tocsin").setLevel(logging.INFO)
    # All three tell of every heartbeat that meets a rebalance.
    for name in ("aiokafka", "faust", "mode"):
        logging.getLogger(name).setLevel(logging.ERROR)


def worker(
    stage: Annotated[list[Stage], typer.Option(help="What to run; may be given several times.")],
    config: Annotated[Path | None, typer.Option(help="TOML file laid over the default configuration.")] = None,
    listen: Annotated[str, typer.Option(help="Where /metrics, /healthz and /readyz are; none if empty.")] = "127.0.0.1:9464",
    instance: Annotated[str, typer.Option(help="A name that stays over restarts, so that a restart moves no partitions.")] = "",
) -> None:
    """Run stages of the distributed engine on Kafka, until a signal ends them."""
    try:
        given = read(config)
    except ConfigError as error:
        typer.echo(str(error), err=True)
        raise typer.Exit(MISTAKE) from None
    # The broker's client takes a while to import, and only this command needs it.
    from detector.process import Process

    try:
        process = Process(given, metadata.version("tocsin"), instance, listen, tuple(dict.fromkeys(each.value for each in stage)))
    except ValueError as error:
        typer.echo(str(error), err=True)
        raise typer.Exit(MISTAKE) from None
    log_to_stderr(process.name)
    with quiet_collector():
        asyncio.run(_to_the_end(process, stage))


async def _to_the_end(process: Process, stages: list[Stage]) -> None:
    code = await process.run(lambda running: _services(running, stages))
    # What had to be kept is kept. Faust's threads would hold up an ordinary exit, and may not be waited for.
    logging.shutdown()
    sys.stderr.flush()
    os._exit(code)


def _services(process: Process, stages: list[Stage]) -> list[Service]:
    from detector.collect import Collector
    from detector.worker import Worker

    return [Collector(process) if stage == Stage.ingest else Worker(process, stage.value) for stage in dict.fromkeys(stages)]
