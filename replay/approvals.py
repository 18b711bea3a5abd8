"""``tocsin approvals``: what waits for people, and their word on it, dropped where the responder looks."""

from __future__ import annotations

import os
import pwd
import re
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, NamedTuple

import msgspec
import typer

from connectors.decision import PersonDecision, Word, encode, made
from connectors.event import SECOND
from connectors.kafka import Kafka, client, connected
from connectors.names import BadName, identity
from connectors.secret import NoSecret
from connectors.signing import BadKey, Key
from connectors.topics import DECISIONS_SCHEMA, Topics
from detector.history import Entry, History
from detector.ledger import LedgerFailed
from detector.policy import Respond
from replay.exits import MISTAKE, NOTHING, UNREADABLE, complain, config, fail
from replay.ledger import opened, reached, reading
from replay.screen import printable

#: An action's id, whole (``detector.decide.action_id``).
_WHOLE = re.compile(r"[0-9a-f]{32}")

approvals = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="See what waits for people, and decide it.")
ConfigOption = Annotated[Path | None, typer.Option("--config", help="TOML file laid over the default configuration.")]
LedgerOption = Annotated[Path | None, typer.Option("--ledger", help="SQLite file of the ledger, instead of the configured one.")]
ActionArgument = Annotated[str, typer.Argument(help="An action's id, or its first characters.")]
ReasonOption = Annotated[str, typer.Option("--reason", help="Why; it is kept in the ledger.")]
KeyOption = Annotated[Path | None, typer.Option("--key", help="File of your private key (Ed25519 PEM), or of the secret you share.")]
SendOption = Annotated[
    bool,
    typer.Option("--send", help="To the topic of decisions, signed with --key; without a ledger here, with the whole id."),
]
PersonOption = Annotated[str | None, typer.Option("--person", help="Who you are, where your key says so; else your account here.")]


def hook(app: typer.Typer) -> None:
    """Add the commands."""
    app.add_typer(approvals, name="approvals")


@approvals.command("list")
def list_(
    path: ConfigOption = None,
    ledger: LedgerOption = None,
    held: Annotated[bool, typer.Option("--held", help="What is contained, which can be released, instead.")] = False,
    json_: Annotated[bool, typer.Option("--json", help="As JSON, one line each.")] = False,
) -> None:
    """What waits for approval: the action, who has approved it, how long it still waits."""
    settings = config(path).respond
    with reading(settings.ledger, ledger) as book:
        history = book.history
    now = max(int(time.time() * SECOND), history.now)
    if held:
        rows: list[tuple[Entry, list[str], int]] = [(hold.entry, [], hold.due) for hold in history.holds.values()]
    else:
        wait = settings.approval_seconds * SECOND
        rows = [(each.entry, sorted(each.people), each.entry.time + wait) for each in history.waiting.values()]
        rows = [(entry, people, until) for entry, people, until in rows if until >= now]
    if not rows:
        fail("nothing is contained" if held else "nothing waits for approval", NOTHING)
    for entry, people, until in rows:
        typer.echo(_as_json(entry, people, until) if json_ else _told(entry, people, until))


def _as_json(entry: Entry, people: list[str], until: int) -> str:
    plain = {"action": entry.action, "alert": entry.alert, "verb": entry.verb, "target": entry.target, "owners": entry.owners}
    return msgspec.json.encode({**plain, "result": entry.result, "reason": entry.reason, "people": people, "until": until}).decode()


def _told(entry: Entry, people: list[str], until: int) -> str:
    when = datetime.fromtimestamp(until / 1e6, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    by = f"; approved by {', '.join(people)}" if people else ""
    return printable(f"{entry.action}  {entry.verb} {entry.target}  alert {entry.alert}: {entry.reason}{by}; until {when}")


@approvals.command()
def approve(
    action: ActionArgument,
    path: ConfigOption = None,
    ledger: LedgerOption = None,
    reason: ReasonOption = "",
    key: KeyOption = None,
    person: PersonOption = None,
    send: SendOption = False,
) -> None:
    """Approve an action. Where it needs several people, each of them must."""
    _say(Said("approve", reason, person, key), action, path, ledger, send=send)


@approvals.command()
def deny(
    action: ActionArgument,
    path: ConfigOption = None,
    ledger: LedgerOption = None,
    reason: ReasonOption = "",
    key: KeyOption = None,
    person: PersonOption = None,
    send: SendOption = False,
) -> None:
    """Deny an action: it is not asked for again for the same alert."""
    _say(Said("deny", reason, person, key), action, path, ledger, send=send)


@approvals.command()
def release(
    action: ActionArgument,
    path: ConfigOption = None,
    ledger: LedgerOption = None,
    reason: ReasonOption = "",
    key: KeyOption = None,
    person: PersonOption = None,
    send: SendOption = False,
) -> None:
    """Take a containment back before its time: a false alarm, or the matter is settled."""
    _say(Said("release", reason, person, key), action, path, ledger, send=send)


class Said(NamedTuple):
    """What somebody says on the command line."""

    word: Word
    reason: str
    person: str | None
    key: Path | None


def _say(said: Said, action: str, path: Path | None, ledger: Path | None, *, send: bool) -> None:
    given = config(path)
    settings = given.respond
    if send and said.key is None:
        fail("--send: expected with --key; on the topic only what is signed counts", MISTAKE)
    if not send and not settings.decisions:
        fail("respond.decisions: expected the folder where the responder looks for decisions; or --send them to the topic", MISTAKE)
    known = _WHOLE.fullmatch(action) and (send or not _readable(settings, ledger))
    whole = action if known else _looked_up(settings, ledger, action, said.word)
    who = _person(said.person, said.key)
    try:
        signs = Key(said.key.read_text(encoding="utf-8").rstrip("\r\n")) if said.key else None
        decision = made(whole, said.word, who, int(time.time() * SECOND), said.reason, signs)
        if send:
            reached(_send(decision, given.kafka))
        else:
            _drop(decision, settings)
    except (BadKey, UnicodeDecodeError) as error:
        fail(f"{said.key}: {error}", MISTAKE)
    except OSError as error:
        fail(f"{error.filename}: {error.strerror}", UNREADABLE)
    done = {"approve": "approved", "deny": "denied", "release": "released"}[said.word]
    typer.echo(f"{whole}: {done} as {who}; the responder has the last word")


def _readable(settings: Respond, ledger: Path | None) -> bool:
    """Whether this account can read the ledger; who decides need not."""
    try:
        with opened(settings.ledger, ledger):
            return True
    except (LedgerFailed, NoSecret):
        return False


def _looked_up(settings: Respond, ledger: Path | None, action: str, word: Word) -> str:
    with reading(settings.ledger, ledger) as book:
        return _meant(action, word, book.history)


async def _send(decision: PersonDecision, kafka: Kafka) -> None:
    # The broker's client takes a while to import.
    from aiokafka import AIOKafkaProducer

    from connectors.wire import HEADER

    await connected(kafka, complain)
    producer = AIOKafkaProducer(enable_idempotence=True, **client(kafka))
    await producer.start()
    try:
        headers = [(HEADER, DECISIONS_SCHEMA.encode())]
        await producer.send_and_wait(Topics(kafka.prefix).decisions, encode(decision), partition=0, headers=headers)
    finally:
        await producer.stop()


def _meant(action: str, word: Word, history: History) -> str:
    """The one action whose id begins so."""
    known = [hold.entry.action for hold in history.holds.values()] if word == "release" else list(history.waiting)
    known += [each for each in history.pending if word != "approve" and each not in known]
    found = [each for each in known if action and each.startswith(action)]
    if not found:
        fail(f"no action {action!r} {'is in force' if word == 'release' else 'waits for approval'}", NOTHING)
    if len(found) > 1:
        fail(f"{action!r} is the beginning of {len(found)} actions: {', '.join(sorted(found)[:5])}", MISTAKE)
    return found[0]


def _person(given: str | None, key: Path | None) -> str:
    if given is not None and key is None:
        fail("--person: expected with --key; without a key you are who your account is", MISTAKE)
    try:
        return identity("user", given.removeprefix("user:") if given else pwd.getpwuid(os.geteuid()).pw_name)
    except (BadName, KeyError) as error:
        fail(f"--person: {error}", MISTAKE)


def _drop(decision: PersonDecision, settings: Respond) -> None:
    """Write it whole or not at all: the responder never sees half a file."""
    folder = Path(settings.decisions)
    half = folder / f".{decision.id}"
    with half.open("xb") as file:
        file.write(encode(decision))
        os.fchmod(file.fileno(), 0o644)
    half.rename(folder / f"{decision.time}-{decision.id}.json")
