"""``tocsin ledger``: check that nothing was changed or left out, give the rows to others, anchor the head."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import Annotated, Any, TypeVar

import msgspec
import sqlalchemy as sa
import typer

from connectors.event import SECOND
from connectors.kafka import Kafka, KafkaError, connected
from connectors.secret import NoSecret
from connectors.signing import BadKey, Key
from detector.anchor import Anchorer, AnchorFailed, read, read_file, to_file, whole_lines
from detector.ledger import Ledger, LedgerFailed
from detector.policy import LedgerSettings
from detector.remediation import remediation
from replay.exits import BROKER, MISTAKE, STATE, UNREADABLE, complain, config, fail

_Found = TypeVar("_Found")

#: Where the ledger is when nothing says so: in the folder the command is run in.
DEFAULT = "sqlite:///tocsin-ledger.sqlite"

ledger = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="Check, export and anchor the ledger of containment.")
ConfigOption = Annotated[Path | None, typer.Option("--config", help="TOML file laid over the default configuration.")]
LedgerOption = Annotated[Path | None, typer.Option("--ledger", help="SQLite file of the ledger, instead of the configured one.")]
AnchorOption = Annotated[Path | None, typer.Option("--anchors", help="File of anchors, instead of the configured one.")]
PlaceOption = Annotated[str, typer.Option("--anchor", help="kafka: the topic of anchors, instead of a file.")]
KeyOption = Annotated[Path | None, typer.Option("--key", help="File of the key the anchors are checked with (shared, or public).")]


def hook(app: typer.Typer) -> None:
    """Add the commands."""
    app.add_typer(ledger, name="ledger")


def opened(settings: LedgerSettings, path: Path | None, *, create: bool = False) -> Ledger:
    """The ledger that a command is about. Raises LedgerFailed, NoSecret."""
    if path is not None:
        return Ledger.at(path, create=create)
    try:
        url = sa.make_url(settings.url or DEFAULT)
    except sa.exc.ArgumentError:
        raise LedgerFailed("respond.ledger.url: expected a URL such as sqlite:///ledger.sqlite") from None
    if url.password:
        raise LedgerFailed("respond.ledger.url: expected no password in it; name its file or variable in respond.ledger.password")
    return Ledger(url.set(password=settings.password.read()) if settings.password else url, create=create)


@contextmanager
def reading(settings: LedgerSettings, path: Path | None) -> Iterator[Ledger]:
    """The ledger, to be read; what is wrong with it ends the command."""
    try:
        with opened(settings, path) as book:
            yield book
    except (LedgerFailed, NoSecret) as error:
        fail(str(error), STATE)


@ledger.command()
def verify(
    path: ConfigOption = None,
    file: LedgerOption = None,
    anchors: AnchorOption = None,
    at: PlaceOption = "",
    key: KeyOption = None,
) -> None:
    """Find any edit, removal or reordering of rows; with the anchors, of the last ones too."""
    given = config(path)
    settings = given.respond.ledger
    where = _file(settings, anchors, at)
    found = []
    try:
        if where is not None:
            found = read_file(where, _key(settings, key))
        elif _on_topic(settings, at):
            found = read(_from_topic(given.kafka), _key(settings, key))
    except (AnchorFailed, NoSecret, BadKey) as error:
        fail(str(error), STATE)
    with reading(settings, file) as book:
        broken = book.verify_chain(*((each.seq, each.hash) for each in found))
        rows = book.head[0]
    if not found and rows and (where is not None or _on_topic(settings, at)):
        fail(f"the ledger has {rows} rows, and there is no anchor of it where it is anchored", STATE)
    if broken is not None:
        fail(f"the ledger is not whole: {broken.reason}", STATE)
    after = f"{rows - found[-1].seq} rows after the last of {len(found)} anchors" if found else "no anchors: a lost tail would not show"
    typer.echo(f"the ledger is whole: {rows} rows; {after}")


@ledger.command()
def export(path: ConfigOption = None, file: LedgerOption = None) -> None:
    """Every row as an OCSF Remediation Activity, one a line, on standard output."""
    version = metadata.version("tocsin")
    with reading(config(path).respond.ledger, file) as book:
        before = ""
        for seq, (entry, hash_) in enumerate(book.hashed(), 1):
            typer.echo(msgspec.json.encode(remediation(entry, seq, hash_, before, version)).decode())
            before = hash_


@ledger.command()
def anchor(
    path: ConfigOption = None, file: LedgerOption = None, anchors: AnchorOption = None, at: PlaceOption = "", key: KeyOption = None
) -> None:
    """Add an anchor of the present head, in the file or on the topic; the key must be one that signs."""
    given = config(path)
    settings = given.respond.ledger
    where = _file(settings, anchors, at)
    if where is None and not _on_topic(settings, at):
        fail("--anchors, --anchor kafka, or respond.ledger.anchor_file: expected a place for anchors", MISTAKE)
    try:
        signs = _key(settings, key)
        with reading(settings, file) as book:
            if where is None:
                done = reached(_anchored(given.kafka, book, signs))
            else:
                held = where.read_bytes() if where.exists() else b""
                lines, whole = whole_lines(held)
                if len(held) > whole:
                    fail(f"{where}: its last anchor was not written to its end; the responder cuts it off when it starts", STATE)
                last = lines[-1] if read(lines, signs) else b""
                done = Anchorer(book, signs, to_file(where), last).tick(int(time.time() * SECOND), at_once=True)
            typer.echo(f"anchored row {book.head[0]}" if done else "nothing new to anchor")
    except (AnchorFailed, NoSecret, BadKey) as error:
        fail(str(error), STATE)
    except OSError as error:
        fail(f"{where}: {error.strerror}", UNREADABLE)


def _file(settings: LedgerSettings, anchors: Path | None, at: str) -> Path | None:
    if at not in ("", "kafka") or (at and anchors):
        fail(f"--anchor: expected kafka, without --anchors; got {at!r}", MISTAKE)
    return None if at else anchors or (Path(settings.anchor_file) if settings.anchor_file else None)


def _on_topic(settings: LedgerSettings, at: str) -> bool:
    return at == "kafka" or settings.anchor_topic


def _from_topic(kafka: Kafka) -> list[bytes]:
    # The broker's client takes a while to import.
    from detector.anchorage import anchors_on

    async def lines() -> list[bytes]:
        await connected(kafka, complain)
        return await anchors_on(kafka)

    return reached(lines())


async def _anchored(kafka: Kafka, book: Ledger, signs: Key) -> bool:
    from detector.anchorage import Anchorage

    await connected(kafka, complain)
    anchorage = Anchorage(kafka, complain)
    lines = await anchorage.start()
    try:
        read(lines, signs)
        return Anchorer(book, signs, anchorage.keep, lines[-1] if lines else b"").tick(int(time.time() * SECOND), at_once=True)
    finally:
        await anchorage.stop()
        if anchorage.waiting:
            raise AnchorFailed("the broker has not taken the anchor")


def reached(work: Coroutine[Any, Any, _Found]) -> _Found:
    """Run what needs the broker; one that cannot be reached ends the command."""
    from aiokafka.errors import KafkaError as BrokerError

    try:
        return asyncio.run(work)
    except (KafkaError, BrokerError, TimeoutError) as error:
        fail(str(error) or type(error).__name__, BROKER)


def _key(settings: LedgerSettings, path: Path | None) -> Key:
    if path is not None:
        try:
            return Key(path.read_text(encoding="utf-8").rstrip("\r\n"))
        except (OSError, UnicodeDecodeError):
            raise BadKey(f"{path} cannot be read") from None
    if settings.anchor_key is None:
        raise BadKey("--key, or respond.ledger.anchor_key: expected the key of the anchors")
    return Key(settings.anchor_key.read())
