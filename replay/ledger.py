"""``tocsin ledger``: check that nothing was changed or left out, give the rows to others, anchor the head."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import Annotated

import msgspec
import sqlalchemy as sa
import typer

from connectors.event import SECOND
from connectors.secret import NoSecret
from connectors.signing import BadKey, Key
from detector.anchor import Anchorer, AnchorFailed, read_file, to_file
from detector.ledger import Ledger, LedgerFailed
from detector.policy import LedgerSettings
from detector.remediation import remediation
from replay.exits import MISTAKE, STATE, UNREADABLE, config, fail

#: Where the ledger is when nothing says so: in the folder the command is run in.
DEFAULT = "sqlite:///tocsin-ledger.sqlite"

ledger = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="Check, export and anchor the ledger of containment.")
ConfigOption = Annotated[Path | None, typer.Option("--config", help="TOML file laid over the default configuration.")]
LedgerOption = Annotated[Path | None, typer.Option("--ledger", help="SQLite file of the ledger, instead of the configured one.")]
AnchorOption = Annotated[Path | None, typer.Option("--anchors", help="File of anchors, instead of the configured one.")]
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
def verify(path: ConfigOption = None, file: LedgerOption = None, anchors: AnchorOption = None, key: KeyOption = None) -> None:
    """Find any edit, removal or reordering of rows; with the anchors, of the last ones too."""
    settings = config(path).respond.ledger
    where = anchors or (Path(settings.anchor_file) if settings.anchor_file else None)
    found = []
    try:
        if where is not None:
            found = read_file(where, _key(settings, key))
    except (AnchorFailed, NoSecret, BadKey) as error:
        fail(str(error), STATE)
    with reading(settings, file) as book:
        broken = book.verify_chain(*((each.seq, each.hash) for each in found))
        rows = book.head[0]
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
def anchor(path: ConfigOption = None, file: LedgerOption = None, anchors: AnchorOption = None, key: KeyOption = None) -> None:
    """Add an anchor of the present head to the file of anchors; the key must be one that signs."""
    settings = config(path).respond.ledger
    where = anchors or (Path(settings.anchor_file) if settings.anchor_file else None)
    if where is None:
        fail("--anchors, or respond.ledger.anchor_file: expected a file", MISTAKE)
    try:
        signs = _key(settings, key)
        last = where.read_bytes().splitlines()[-1] if where.exists() and read_file(where, signs) else b""
        with reading(settings, file) as book:
            done = Anchorer(book, signs, to_file(where), last).tick(int(time.time() * SECOND), at_once=True)
            typer.echo(f"anchored row {book.head[0]}" if done else "nothing new to anchor")
    except (AnchorFailed, NoSecret, BadKey) as error:
        fail(str(error), STATE)
    except OSError as error:
        fail(f"{where}: {error.strerror}", UNREADABLE)


def _key(settings: LedgerSettings, path: Path | None) -> Key:
    if path is not None:
        try:
            return Key(path.read_text(encoding="utf-8").rstrip("\r\n"))
        except (OSError, UnicodeDecodeError):
            raise BadKey(f"{path} cannot be read") from None
    if settings.anchor_key is None:
        raise BadKey("--key, or respond.ledger.anchor_key: expected the key of the anchors")
    return Key(settings.anchor_key.read())
