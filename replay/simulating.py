"""``tocsin simulate``: a simulated AI factory as a trace folder, with labels of what was an attack."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

from connectors.event import SECOND
from replay import screen
from replay.exits import MISTAKE, UNREADABLE
from replay.exits import fail as _fail
from replay.simulate import Attack, Truth, simulate
from replay.simulate.journal import SOURCES
from replay.simulate.labels import LABELS, Label, write_labels
from replay.simulate.scenarios import available
from replay.traces import MANIFEST, Manifest, described, write_manifest

#: Word for no scenario at all.
NONE = "none"
#: Scenarios of one day take turns over so many last days, where there are at least twice as many: a day of all attacks at once would
#: be a day unlike any other.
SPREAD = 4


def moment(time: int) -> str:
    """Microseconds UTC as ISO 8601 with microseconds."""
    return datetime.fromtimestamp(time // SECOND, UTC).strftime("%Y-%m-%dT%H:%M:%S") + f".{time % SECOND:06d}Z"


def label_of(attack: Attack) -> Label:
    """A scenario's account as a label."""
    return Label(
        scenario=attack.name,
        instance=attack.instance,
        benign=attack.benign,
        slow=attack.slow,
        summary=attack.summary,
        techniques=attack.techniques,
        principals=attack.actors,
        via=attack.via,
        objects=attack.objects,
        first=moment(attack.first),
        last=moment(attack.last),
        first_us=attack.first,
        last_us=attack.last,
        records=attack.records,
    )


def write_trace(
    out: Path,
    *,
    days: int,
    seed: int,
    scale: float = 1.0,
    scenarios: Sequence[str] | None = None,
    spread: int = 1,
    progress: Callable[[float], None] | None = None,
) -> Truth:
    """Simulate into a trace folder. ``scenarios``: None is all there are, () none. The manifest comes last, so that what is unfinished
    is no trace. Raises ValueError on an argument that cannot be, OSError where ``out`` cannot be written."""
    names = list(available()) if scenarios is None else list(scenarios)
    (out / MANIFEST).unlink(missing_ok=True)
    truth = simulate(out, days=days, seed=seed, scale=scale, attacks=names, spread=spread, progress=progress)
    write_labels(out / LABELS, [label_of(attack) for attack in truth.attacks])
    logs = []
    for name, source in SOURCES.items():
        first, last = truth.spans[name]
        times = [None if time is None else moment(time) for time in (first, last)]
        logs.append(described(out, name, source, truth.records[name], *times))
    given = {"days": days, "seed": seed, "scale": scale, "scenarios": names}
    made_by = {"program": "tocsin simulate", "version": metadata.version("tocsin"), **given}
    write_manifest(out, Manifest(logs=logs, labels=LABELS, made_by=made_by))
    return truth


def simulate_(
    out: Annotated[Path, typer.Option(help="Folder to write; tocsin replay takes it.")],
    days: Annotated[int, typer.Option(min=1, max=366, help="Days to simulate.")] = 10,
    seed: Annotated[int, typer.Option(min=0, help="Another seed is another factory.")] = 1,
    scale: Annotated[
        float, typer.Option(help="Size of the factory: 1 is 40 people and some 60,000 records a weekday; 200 at most.")
    ] = 1.0,
    scenario: Annotated[
        list[str] | None, typer.Option(help="A scenario to play, or none; again for more, twice for two of it. All if not given.")
    ] = None,
) -> None:
    """Simulate an AI factory as a trace folder, with attacks and hard cases and labels that say which records they are."""
    names = None if scenario is None else [] if scenario == [NONE] else scenario
    spread = SPREAD if days >= 2 * SPREAD else 1
    console = Console(stderr=True, highlight=False, markup=False, soft_wrap=True)
    try:
        with Progress(TextColumn("simulating"), BarColumn(), console=console, transient=True, disable=not console.is_terminal) as bar:
            task = bar.add_task("simulating", total=1.0)

            def tell(share: float) -> None:
                bar.update(task, completed=share)

            truth = write_trace(out, days=days, seed=seed, scale=scale, scenarios=names, spread=spread, progress=tell)
    except ValueError as error:
        _fail(str(error).replace("attacks:", "--scenario:"), MISTAKE)
    except OSError as error:
        _fail(f"{error.filename or out}: {error.strerror or error}", UNREADABLE)
    except KeyboardInterrupt:
        _fail(f"interrupted; {out} is no trace", 130)
    _sum_up(out, truth)


def _sum_up(out: Path, truth: Truth) -> None:
    text = [f"{out}: {sum(truth.records.values()):,} records, {moment(truth.start)[:10]} to {moment(truth.end - 1)[:10]}"]
    text += [f"  {name:18} {count:>12,}  {SOURCES[name]}" for name, count in truth.records.items()]
    for attack in truth.attacks:
        again = f" {attack.instance}" if attack.instance > 1 else ""
        kind = "hard case, no attack" if attack.benign else ", ".join(attack.techniques)
        text += [f"{moment(attack.first)[:19]} {attack.name}{again} ({kind})", f"    {attack.summary}"]
    screen.page(text)
