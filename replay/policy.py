"""``tocsin policy test``: what a policy would have done with alerts that were kept, and why."""

from __future__ import annotations

from collections import Counter
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import msgspec
import typer

from connectors.ocsf import NotAnAlert, alert_of
from detector import adapters
from detector.decide import decide, row
from detector.history import Entry, History
from detector.policy import LADDER, Mode
from detector.wishes import Policy
from replay.exits import MISTAKE, UNREADABLE, config, errors, fail
from replay.screen import printable

policy = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="Try a containment policy out.")


def hook(app: typer.Typer) -> None:
    """Add the commands."""
    app.add_typer(policy, name="policy")


@policy.callback()
def _more() -> None:
    """Commands about policies."""


@policy.command("test")
def try_out(
    alerts: Annotated[Path, typer.Argument(help="Findings of ours, one a line.")],
    path: Annotated[Path | None, typer.Option("--config", help="TOML file laid over the default configuration.")] = None,
    mode: Annotated[str | None, typer.Option(help="As if respond.mode were this: observe, propose, approve or enforce.")] = None,
    json_: Annotated[bool, typer.Option("--json", help="Decisions as JSON, one a line.")] = False,
) -> None:
    """Print what would have been done with each alert, and why. Nothing is done; every action is taken to succeed."""
    respond = config(path).respond
    if mode is not None and mode not in LADDER:
        fail(f"--mode: expected one of {', '.join(LADDER)}; got {mode!r}", MISTAKE)
    if mode is not None:
        given: Mode = next(each for each in LADDER if each == mode)
        respond = msgspec.structs.replace(respond, mode=given)
    ready = Policy(respond, adapters.verbs(adapters.build(respond.adapters)))
    history, counts, bad = History(), Counter[str](), 0
    try:
        with alerts.open("rb") as file:
            for line in file:
                if not line.strip():
                    continue
                try:
                    alert = alert_of(line)
                except NotAnAlert:
                    bad += 1
                    continue
                now = max(history.now, alert.time)
                _release(history, now)
                for decision in decide(alert, ready, history, now):
                    entry = row(decision, alert.uid, alert.revision, now)
                    _remember(history, entry)
                    counts[decision.result] += 1
                    show = msgspec.json.encode(entry).decode() if json_ else _told(entry)
                    typer.echo(show)
    except OSError as error:
        fail(f"{alerts}: {error.strerror}", UNREADABLE)
    if bad:
        errors.print(f"tocsin: {bad} lines are not alerts of ours and were passed over")
    if not json_:
        typer.echo("in all: " + (", ".join(f"{number} {word}" for word, number in sorted(counts.items())) or "no alerts"))


def _remember(history: History, entry: Entry) -> None:
    """Fold a decision in, and its success where it was to be carried out."""
    history.add(entry)
    if entry.result == "enforced":
        history.add(msgspec.structs.replace(entry, step="outcome", result="carried-out"))
        history.add(msgspec.structs.replace(entry, step="verify", result="verified"))


def _release(history: History, now: int) -> None:
    """Take back, in the history, what would have been taken back by now."""
    for hold in list(history.holds.values()):
        if hold.due <= now:
            history.add(msgspec.structs.replace(hold.entry, time=now, step="undo-verify", result="undo-verified"))


def _told(entry: Entry) -> str:
    when = datetime.fromtimestamp(entry.time / 1e6, UTC).strftime("%Y-%m-%d %H:%M:%S")
    what = f"{entry.verb} {entry.target}".strip() or "-"
    return printable(f"{when}  {entry.alert[:12]}/{entry.revision}  {what}: {entry.result} ({entry.reason})")
