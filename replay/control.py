"""``tocsin control``: what may change while the detector runs, as versioned records that take effect at one place of every log.

A budget, announced changes, suppressions, restricted identities: each version goes through the same logs as the events, so that what
was decided under it can be folded again later and comes out the same.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from pathlib import Path
from typing import Annotated, Any, NoReturn, TypeVar

import msgspec
import typer
from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError as BrokerError

from connectors.kafka import Kafka, KafkaError, client, connected
from connectors.topics import Topics
from connectors.wire import HEADER, Control
from detector.checkpoint import meaning
from detector.config import Config, ConfigError, parse, read
from detector.follow import to_the_end

app = typer.Typer(no_args_is_help=True, help="What may change while the detector runs: apply it, show it.")

MISTAKE, NOTHING, BROKER = 2, 5, 6
#: The key under which the control topic keeps the latest.
KEY = b"config"

_Result = TypeVar("_Result")
ConfigFile = Annotated[Path | None, typer.Option("--config", help="The file that the workers were started with.")]


def _fail(text: str, code: int) -> NoReturn:
    for line in text.splitlines():
        typer.echo(f"tocsin: {line}", err=True)
    raise typer.Exit(code)


def _given(path: Path | None) -> Config:
    try:
        return read(path)
    except ConfigError as error:
        _fail(str(error), MISTAKE)


def _done(work: Coroutine[Any, Any, _Result]) -> _Result:
    try:
        return asyncio.run(work)
    except (KafkaError, BrokerError, OSError) as error:
        _fail(str(error) or type(error).__name__, BROKER)


@app.command()
def apply(
    file: Annotated[Path, typer.Argument(help="TOML laid over the default configuration; the whole of what is to hold.")],
    config: ConfigFile = None,
) -> None:
    """Let a configuration hold from now on, in all workers. It may not change [signals], [calibration] or [time]."""
    running, wanted = _given(config), _given(file)
    if meaning(wanted) != meaning(running):
        _fail(
            f"{file}: changes [signals], [calibration] or [time], on which the profiles rest: that takes another kafka.prefix", MISTAKE
        )
    control = _done(_apply(running.kafka, file.read_text(encoding="utf-8")))
    typer.echo(f"version {control.version}: sent; it holds in every log from its place on")


@app.command()
def show(config: ConfigFile = None) -> None:
    """Show the version that holds."""
    control = _done(_latest(_given(config).kafka))
    if control.version == 0:
        _fail("nothing was applied yet: every worker's own file holds", NOTHING)
    typer.echo(f"# version {control.version}\n{control.text}", nl=False)


async def _latest(kafka: Kafka) -> Control:
    await connected(kafka)
    held, _ = await to_the_end(client(kafka), Topics(kafka.prefix).control)
    versions = [msgspec.json.decode(message.value, type=Control) for message in held if message.key == KEY]
    return max(versions, key=lambda each: each.version, default=Control())


async def _apply(kafka: Kafka, text: str) -> Control:
    # Parsed once more where it will be, so that what is sent is what the workers can use.
    parse(text)
    control = Control((await _latest(kafka)).version + 1, text)
    producer = AIOKafkaProducer(acks="all", enable_idempotence=True, **client(kafka))
    await producer.start()
    try:
        topic = Topics(kafka.prefix).control
        await producer.send_and_wait(topic, msgspec.json.encode(control), KEY, partition=0, headers=[(HEADER, b"control/1")])
    finally:
        await producer.stop()
    return control
