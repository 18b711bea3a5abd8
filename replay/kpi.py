"""``tocsin kpi``: how fast threats are found and contained, and how often that was wrong."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import msgspec
import typer

from connectors.alert import Alert
from connectors.names import Names
from connectors.ocsf import NotAnAlert, alert_of
from connectors.trace import TraceError, open_trace
from detector.kpi import Attestations, Grant, Kpi, Times, measure, privileges
from detector.ledger import LedgerFailed
from replay.exits import STATE, UNREADABLE, config, fail
from replay.ledger import reading


def hook(app: typer.Typer) -> None:
    """Add the command."""
    app.command("kpi")(kpi)


def kpi(
    path: Annotated[Path | None, typer.Option("--config", help="TOML file laid over the default configuration.")] = None,
    ledger: Annotated[Path | None, typer.Option("--ledger", help="SQLite file of the ledger, instead of the configured one.")] = None,
    alerts: Annotated[Path | None, typer.Option(help="Findings of ours, one a line: those that led to no action count too.")] = None,
    events: Annotated[list[Path] | None, typer.Option(help="Recorded traces with attestations and key releases.")] = None,
    grants: Annotated[Path | None, typer.Option(help='Privileges: JSON lines of {"identity", "role", "since", "until"}.')] = None,
    json_: Annotated[bool, typer.Option("--json", help="As JSON.")] = False,
) -> None:
    """Key figures: time to detection, decision, dispatch and effect; false containment; attestation; standing privileges."""
    try:
        with reading(config(path).respond.ledger, ledger) as book:
            figures = measure(book.entries(), _alerts(alerts) if alerts else ())
        if events:
            _attested(figures, events)
        if grants:
            lines = [line for line in grants.read_bytes().splitlines() if line.strip()]
            privileges(figures, [msgspec.json.decode(line, type=Grant) for line in lines], time.time())
    except LedgerFailed as error:
        fail(str(error), STATE)
    except OSError as error:
        fail(f"{error.filename}: {error.strerror}", UNREADABLE)
    except (TraceError, msgspec.DecodeError) as error:
        fail(f"{grants}: {error}" if isinstance(error, msgspec.DecodeError) else str(error), UNREADABLE)
    typer.echo(msgspec.json.encode(figures).decode() if json_ else "\n".join(_lines(figures)))


def _alerts(path: Path) -> list[Alert]:
    """The first revision of each alert in a file."""
    found: dict[str, Alert] = {}
    for line in path.read_bytes().splitlines():
        try:
            alert = alert_of(line)
        except NotAnAlert:
            continue
        found.setdefault(alert.uid, alert)
    return list(found.values())


def _attested(figures: Kpi, paths: list[Path]) -> None:
    names, seen = Names(), Attestations()
    for path in paths:
        for decoded in open_trace(path, None, None, names):
            seen.add(decoded.block)
    seen.into(figures)


def _lines(figures: Kpi) -> list[str]:
    ends = f"{figures.verified} verified, {figures.unverified} unverified, {figures.failed} failed"
    text = [
        f"alerts               {figures.alerts}",
        f"actions              {figures.actions}: {ends}",
        f"time to detection    {_shown(figures.to_detection)}",
        f"time to decision     {_shown(figures.to_decision)}",
        f"time to dispatch     {_shown(figures.to_dispatch)}",
        f"time to effect       {_shown(figures.to_effect)}",
        f"false containment    {figures.false_containment_minutes:g} minutes in {figures.released} actions that people took back",
    ]
    if figures.attestations is not None:
        rate = "-" if figures.attestation_pass_rate is None else f"{figures.attestation_pass_rate:.1%}"
        text.append(f"attestations passed  {rate} of {figures.attestations}")
    if figures.key_release is not None:
        text.append(f"to a key's release   {_shown(figures.key_release)}")
    if figures.standing_privileged is not None:
        share = "-" if figures.just_in_time_share is None else f"{figures.just_in_time_share:.1%}"
        text.append(f"standing privileges  {figures.standing_privileged} identities; {share} of the grants end by themselves")
    return text


def _shown(times: Times) -> str:
    if not times.count:
        return "-"
    return f"mean {times.mean:,} s, median {times.median:,} s, worst {times.worst:,} s, of {times.count}"
