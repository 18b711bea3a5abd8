"""``tocsin respond`` and ``tocsin kill-switch``: act on alerts by policy, and stop doing so."""

from __future__ import annotations

import asyncio
import logging
import sys
import time
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Annotated

import msgspec
import typer

from connectors.event import SECOND
from connectors.kafka import KafkaError
from connectors.secret import NoSecret
from connectors.signing import BadKey
from detector import adapters
from detector.anchor import AnchorAway, Anchorer, AnchorFailed
from detector.config import ConfigError, read
from detector.kernel import Outside
from detector.ledger import Ledger, LedgerAway, LedgerFailed
from detector.policy import Respond
from detector.respond import Responder
from detector.responder import Clock, News, Service, Switch
from replay.exits import BROKER, INTERRUPTED, MISTAKE, STATE, UNREADABLE, complain, config, fail
from replay.ledger import opened
from replay.screen import printable
from replay.worker import log_to_stderr

log = logging.getLogger("tocsin.respond")

#: Exit code where the ledger or its anchors cannot be reached, or are another responder's: a supervisor starts it again.
AWAY = 75

ConfigOption = Annotated[Path | None, typer.Option("--config", help="TOML file laid over the default configuration.")]
LedgerOption = Annotated[Path | None, typer.Option("--ledger", help="SQLite file of the ledger, instead of the configured one.")]


def hook(app: typer.Typer) -> None:
    """Add the commands."""
    app.command("respond")(respond)
    app.command("kill-switch")(kill_switch)


def respond(
    alerts: Annotated[
        Path | None,
        typer.Argument(help="Findings, one a line, as replay --alerts writes them; the topic of alerts if not given."),
    ] = None,
    path: ConfigOption = None,
    ledger: LedgerOption = None,
    follow: Annotated[bool, typer.Option("--follow", help="Wait for more, like tail -f; take back what is due.")] = False,
    replay: Annotated[
        bool, typer.Option("--replay", help="The alerts are of a replay: observe only, whatever the policy says.")
    ] = False,
    listen: Annotated[str, typer.Option(help="Where /metrics, /healthz and /readyz are, e.g. 127.0.0.1:9470; none if not given.")] = "",
    json_: Annotated[bool, typer.Option("--json", help="What was done as JSON, one line each.")] = False,
) -> None:
    """Act on alerts by policy: decide, ask, contain, verify, take back. Every step is in the ledger first."""
    given = config(path)
    settings = given.respond
    if alerts is not None and not follow and not alerts.is_file():
        fail(f"{alerts}: no such file", UNREADABLE)
    # The broker's client takes a while to import, and of the commands here only this one may need it.
    from detector.duty import Post, stand

    if alerts is None:
        log_to_stderr("respond")
    try:
        with opened(settings.ledger, ledger, create=True) as book:
            book.claim()
            post = Post(
                settings,
                given.kafka,
                book,
                alerts,
                follow or alerts is None,
                listen,
                metadata.version("tocsin"),
                lambda anchorer: service_of(settings, book, anchorer, replay=replay),
            )
            asyncio.run(stand(post, _teller(json_, complain if alerts else log.warning), lambda service: _reader(service, path)))
    except (LedgerAway, AnchorAway) as error:
        fail(str(error), AWAY)
    except (LedgerFailed, AnchorFailed, NoSecret, BadKey) as error:
        fail(str(error), STATE)
    except KafkaError as error:
        fail(str(error), BROKER)
    except ValueError as error:
        fail(str(error), MISTAKE)
    except OSError as error:
        fail(f"{error.filename or alerts}: {error.strerror or error}", UNREADABLE)
    except KeyboardInterrupt:
        fail("interrupted; what is unfinished is in the ledger and goes on with the next start", INTERRUPTED)


def service_of(settings: Respond, book: Ledger, anchorer: Anchorer | None = None, *, replay: bool = False) -> Service:
    """A responder over a ledger, ready to be served. Raises ValueError, LedgerFailed."""
    clock, switch = Clock(book.history.now), Switch(settings.kill_switch_file)
    made = adapters.build(settings.adapters)
    # A rule may name a verb whose adapter is not set up: it is decided on, and fails with that reason where it would be carried out.
    responder = Responder(settings, made, book, adapters.verbs(made), clock=clock, outside=lambda: Outside(switch(), replay))
    return Service(responder, clock, switch, replay=replay, anchorer=anchorer, wall=lambda: int(time.time() * SECOND))


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


def _teller(json_: bool, say: Callable[[str], object]) -> Callable[[list[News]], None]:
    def tell(news: list[News]) -> None:
        for each in news:
            if each.outcome is None:
                say(each.text)
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
