"""``tocsin state``: profiles from Kafka into a file, and from a file into Kafka."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from pathlib import Path
from typing import Annotated, Any

import typer
from aiokafka.errors import KafkaError as BrokerError

from connectors.kafka import KafkaError
from detector.checkpoint import StateError
from detector.config import Config, ConfigError, read
from detector.snapshot import Refused

app = typer.Typer(no_args_is_help=True, help="Move profiles between Kafka and a file. The workers must be stopped.")

MISTAKE, STATE, BROKER = 2, 4, 6

File = Annotated[Path, typer.Argument(help="The file: with one partition the one of 'tocsin replay --state'.")]
ConfigFile = Annotated[Path | None, typer.Option("--config", help="TOML file laid over the default configuration.")]
FromNow = Annotated[
    bool, typer.Option("--from-now", help="Begin at the present end of the raw topics: what they keep is in the profiles already.")
]


@app.command()
def export(file: File, config: ConfigFile = None) -> None:
    """Write the profiles that the topics hold to a new file."""
    given = _given(config)
    if file.exists():
        typer.echo(f"tocsin: {file}: is there already; name a new file", err=True)
        raise typer.Exit(STATE)
    # The workers' modules take a while to import, and only these commands need them here.
    from replay.moves import export as moved
    from replay.moves import told

    typer.echo(told(given.kafka, _done(moved(given, file)), file))


@app.command("import")
def import_(file: File, config: ConfigFile = None, from_now: FromNow = False) -> None:
    """Put a file's profiles into topics that hold none yet."""
    given = _given(config)
    from replay.moves import import_ as moved
    from replay.moves import told

    typer.echo(told(given.kafka, _done(moved(given, file, from_now)), file))


def _given(config: Path | None) -> Config:
    try:
        return read(config)
    except ConfigError as error:
        typer.echo(f"tocsin: {error}", err=True)
        raise typer.Exit(MISTAKE) from None


def _done(work: Coroutine[Any, Any, int]) -> int:
    try:
        return asyncio.run(work)
    except (StateError, Refused) as error:
        typer.echo(f"tocsin: {error}", err=True)
        raise typer.Exit(STATE) from None
    except (KafkaError, BrokerError, OSError) as error:
        typer.echo(f"tocsin: {str(error) or type(error).__name__}", err=True)
        raise typer.Exit(BROKER) from None
