"""``tocsin respond`` and ``tocsin kill-switch``: act on alerts by policy, and stop doing so."""

from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import msgspec
import typer

from connectors.secret import NoSecret
from connectors.signing import BadKey, Key
from detector import adapters
from detector.anchor import Anchorer, AnchorFailed, read_file, to_file
from detector.config import ConfigError, read
from detector.feeds import Feed, alerts_in, decisions_in
from detector.kernel import Outside
from detector.ledger import Ledger, LedgerFailed
from detector.policy import LedgerSettings, Respond
from detector.respond import Responder
from detector.responder import Clock, News, Service, Switch, serve
from replay.exits import MISTAKE, STATE, UNREADABLE, config, errors, fail
from replay.ledger import opened
from replay.screen import printable

ConfigOption = Annotated[Path | None, typer.Option("--config", help="TOML file laid over the default configuration.")]
LedgerOption = Annotated[Path | None, typer.Option("--ledger", help="SQLite file of the ledger, instead of the configured one.")]


def hook(app: typer.Typer) -> None:
    """Add the commands."""
    app.command("respond")(respond)
    app.command("kill-switch")(kill_switch)


def respond(
    alerts: Annotated[Path, typer.Argument(help="Findings of ours, one a line, as replay --alerts and the workers write them.")],
    path: ConfigOption = None,
    ledger: LedgerOption = None,
    follow: Annotated[bool, typer.Option("--follow", help="Wait for more, like tail -f; take back what is due.")] = False,
    replay: Annotated[
        bool, typer.Option("--replay", help="The alerts are of a replay: observe only, whatever the policy says.")
    ] = False,
    json_: Annotated[bool, typer.Option("--json", help="What was done as JSON, one line each.")] = False,
) -> None:
    """Act on alerts by policy: decide, ask, contain, verify, take back. Every step is in the ledger first."""
    settings = config(path).respond
    if not follow and not alerts.is_file():
        fail(f"{alerts}: no such file", UNREADABLE)
    try:
        with opened(settings.ledger, ledger, create=True) as book:
            service = service_of(settings, book, replay=replay)
            try:
                asyncio.run(_run(service, feeds_of(settings, alerts, follow), _teller(json_), _reader(service, path)))
            finally:
                service.finish()
    except (LedgerFailed, AnchorFailed, NoSecret, BadKey) as error:
        fail(str(error), STATE)
    except ValueError as error:
        fail(str(error), MISTAKE)
    except OSError as error:
        fail(f"{error.filename or alerts}: {error.strerror or error}", UNREADABLE)
    except KeyboardInterrupt:
        fail("interrupted; what is unfinished is in the ledger and goes on with the next start", 130)


def service_of(settings: Respond, book: Ledger, *, replay: bool = False) -> Service:
    """A responder over a ledger, ready to be served. Raises ValueError, LedgerFailed, AnchorFailed, NoSecret, BadKey."""
    anchorer = anchorer_of(settings.ledger, book)
    clock, switch = Clock(book.history.now), Switch(settings.kill_switch_file)
    made = adapters.build(settings.adapters)
    # A rule may name a verb whose adapter is not set up: it is decided on, and fails with that reason where it would be carried out.
    responder = Responder(settings, made, book, adapters.verbs(made), clock=clock, outside=lambda: Outside(switch(), replay))
    return Service(responder, clock, switch, replay=replay, anchorer=anchorer)


def anchorer_of(settings: LedgerSettings, book: Ledger) -> Anchorer | None:
    """What anchors a ledger, after the anchors there are have been compared with it. Raises LedgerFailed where they do not fit."""
    if not settings.anchor_file:
        return None
    if settings.anchor_key is None:
        raise BadKey("respond.ledger.anchor_key: expected a table with 'file' or 'env', as there is an anchor_file")
    key, path = Key(settings.anchor_key.read()), Path(settings.anchor_file)
    found = read_file(path, key) if path.exists() else []
    if not found and book.head[0]:
        raise LedgerFailed(f"{path} holds no anchor of a ledger of {book.head[0]} rows; make one with: tocsin ledger anchor")
    broken = book.verify_chain(*((each.seq, each.hash) for each in found))
    if broken is not None:
        raise LedgerFailed(f"the ledger does not verify against {path}: {broken.reason}")
    last = path.read_bytes().splitlines()[-1] if found else b""
    return Anchorer(book, key, to_file(path), last, rows=settings.anchor_rows, seconds=settings.anchor_seconds)


def feeds_of(settings: Respond, alerts: Path, follow: bool) -> list[Feed]:
    """The file of alerts, and the folder of decisions where there is one."""
    feeds = [alerts_in(alerts, follow=follow)]
    if settings.decisions:
        feeds.insert(0, decisions_in(Path(settings.decisions), follow=follow))
    return feeds


async def _run(service: Service, feeds: list[Feed], tell: Callable[[list[News]], None], changed: Callable[[], list[News]]) -> None:
    """Serve until the feeds end; SIGTERM ends it between two deliveries, like an interrupt."""
    task = asyncio.current_task()
    assert task is not None  # noqa: S101  a coroutine that runs has one
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    try:
        await serve(service, feeds, tell, changed)
    except asyncio.CancelledError:
        return


def _reader(service: Service, path: Path | None) -> Callable[[], list[News]]:
    """Reads the policy anew when its file has changed. One with mistakes is told and not adopted; adapters stay as they were set up."""
    seen = [_changed(path)]

    def look() -> list[News]:
        now = _changed(path)
        if now == seen[0] or not now:
            return []
        seen[0] = now
        try:
            return service.adopt(read(path).respond)
        except (ConfigError, ValueError) as error:
            return [News(None, f"policy not adopted: {each}") for each in str(error).splitlines()]

    return look


def _changed(path: Path | None) -> tuple[int, int]:
    try:
        about = path.stat() if path else None
    except OSError:
        return (0, 0)
    return (about.st_mtime_ns, about.st_ino) if about else (0, 0)


def _teller(json_: bool) -> Callable[[list[News]], None]:
    def tell(news: list[News]) -> None:
        for each in news:
            if each.outcome is None:
                errors.print(f"tocsin: {printable(each.text)}")
            elif json_:
                sys.stdout.write(msgspec.json.encode(each.outcome).decode() + "\n")
            else:
                done = each.outcome
                what = f"{done.verb} {done.target}".strip() or "-"
                text = f"{done.alert[:12]}  {done.action[:12] or '-':12}  {what}: {done.result} ({done.reason})"
                sys.stdout.write(printable(text) + "\n")
        sys.stdout.flush()

    return tell


def kill_switch(
    turn: Annotated[str, typer.Argument(help="on, off or status.")],
    path: ConfigOption = None,
    reason: Annotated[str, typer.Option(help="Why, for those who find it on.")] = "",
) -> None:
    """Stop beginning anything, at once; what is contained is still taken back when its time is up."""
    settings = config(path).respond
    if turn not in ("on", "off", "status"):
        fail(f"expected on, off or status; got {turn!r}", MISTAKE)
    if not settings.kill_switch_file:
        fail("respond.kill_switch_file: expected the path of a file, which is the switch", MISTAKE)
    switch, file = Switch(settings.kill_switch_file), Path(settings.kill_switch_file)
    try:
        if turn == "on":
            file.write_text((reason or "turned on by command") + "\n", encoding="utf-8")
        elif turn == "off":
            file.unlink(missing_ok=True)
    except OSError as error:
        fail(f"{file}: {error.strerror}", UNREADABLE)
    stopped = "respond.kill_switch" if settings.kill_switch else switch()
    typer.echo(printable(f"the kill switch is {f'on: {stopped}' if stopped else 'off'}"))
