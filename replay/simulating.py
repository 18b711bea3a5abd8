"""``tocsin simulate``: a simulated AI factory as a trace folder, with labels of what was an attack."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

from connectors.event import SECOND
from connectors.trace import TraceError
from replay import screen
from replay.exits import MISTAKE, UNREADABLE
from replay.exits import fail as _fail
from replay.simulate import Attack, Truth, labels_of, simulate
from replay.simulate.journal import SOURCES
from replay.simulate.labels import LABELS, Label, write_labels
from replay.simulate.scenarios import available
from replay.simulate.splice import Spliced, apart
from replay.simulate.splice import splice as splice_into
from replay.traces import MANIFEST, Manifest, described, read_manifest, write_manifest

#: Word for no scenario at all.
NONE = "none"
#: Scenarios of one day take turns over so many last days, where there are at least twice as many: a day of all attacks at once would
#: be a day unlike any other.
SPREAD = 4
#: What the manifest of a trace of ours says it was made by.
PROGRAM = "tocsin simulate"
#: Where a trace lies until it is whole, in the folder it is for.
_ASIDE = ".simulating"


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


def _check_ours(out: Path) -> None:
    """Raises ValueError where ``out`` holds a trace of something else, which would be lost."""
    if not (out / MANIFEST).exists():
        return
    try:
        made_by = read_manifest(out).made_by.get("program")
    except TraceError:
        made_by = None
    if made_by != PROGRAM:
        raise ValueError(f"{out}: holds a trace that is not of {PROGRAM}; name another folder")


@contextmanager
def _aside(out: Path) -> Iterator[Path]:
    """A folder in ``out`` to write a trace into. Its files take their place once all of it is there, the manifest last; if anything
    fails before, ``out`` is as it was. Raises ValueError where ``out`` holds files of others, OSError where it cannot be written."""
    _check_ours(out)
    fresh = not out.exists()
    out.mkdir(parents=True, exist_ok=True)
    aside = out / _ASIDE
    try:
        if aside.exists():
            shutil.rmtree(aside)
        aside.mkdir()
        yield aside
        made = sorted(path.name for path in aside.iterdir() if path.name != MANIFEST)
        if not (out / MANIFEST).exists():
            there = [name for name in made if (out / name).exists()]
            if there:
                raise ValueError(f"{out}: holds {there[0]} and no trace of {PROGRAM}; name another folder")
        (out / MANIFEST).unlink(missing_ok=True)
        for name in (*made, MANIFEST):
            (aside / name).replace(out / name)
    finally:
        shutil.rmtree(aside, ignore_errors=True)
        if fresh:
            with suppress(OSError):  # it holds a trace by now
                out.rmdir()


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
    """Simulate into a trace folder. ``scenarios``: None is all there are, () none. A trace of ours that is there is replaced once the
    new one is whole. Raises ValueError on an argument that cannot be, OSError where ``out`` cannot be written; then nothing is
    changed."""
    names = list(available()) if scenarios is None else list(scenarios)
    labels_of(names)
    with _aside(out) as folder:
        truth = simulate(folder, days=days, seed=seed, scale=scale, attacks=names, spread=spread, progress=progress)
        write_labels(folder / LABELS, [label_of(attack) for attack in truth.attacks])
        logs = []
        for name, source in SOURCES.items():
            first, last = truth.spans[name]
            times = [None if time is None else moment(time) for time in (first, last)]
            logs.append(described(folder, name, source, truth.records[name], *times))
        given = {"days": days, "seed": seed, "scale": scale, "scenarios": names}
        made_by = {"program": PROGRAM, "version": metadata.version("tocsin"), **given}
        write_manifest(folder, Manifest(logs=logs, labels=LABELS, made_by=made_by))
    return truth


def splice_trace(
    out: Path, trace: Path, *, seed: int, scenarios: Sequence[str], progress: Callable[[float], None] = lambda _: None
) -> Spliced:
    """Play scenarios in a recorded trace into a trace folder. Raises TraceError, ValueError, OSError; then nothing is changed."""
    labels_of(scenarios)
    apart(out, trace)
    with _aside(out) as folder:
        spliced = splice_into(folder, trace, scenarios, seed, progress)
        write_labels(folder / LABELS, [*spliced.labels, *map(label_of, spliced.attacks)])
        logs = []
        for log, records, first, last in spliced.logs:
            times = [None if time is None else moment(time) for time in (first, last)]
            entry = described(folder, log.name, log.source, records, *times)
            if log.entry is not None and log.entry.mapping is not None:
                shutil.copyfile(trace / log.entry.mapping, folder / f"{log.name}.toml")
                entry.mapping = f"{log.name}.toml"
            logs.append(entry)
        given = {"seed": seed, "scenarios": list(scenarios), "splice": trace.name}
        made_by = {"program": PROGRAM, "version": metadata.version("tocsin"), **given}
        write_manifest(folder, Manifest(logs=logs, labels=LABELS, made_by=made_by))
    return spliced


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
    splice: Annotated[
        Path | None, typer.Option(help="Simulate no factory: play the scenarios in this recorded trace (a folder or a log).")
    ] = None,
) -> None:
    """Simulate an AI factory as a trace folder, with attacks and hard cases and labels that say which records they are."""
    if splice is not None and not scenario:
        _fail("--splice: name what to play with --scenario", MISTAKE)
    names = None if scenario is None else [] if scenario == [NONE] else scenario
    spread = SPREAD if days >= 2 * SPREAD else 1
    console = Console(stderr=True, highlight=False, markup=False, soft_wrap=True)
    try:
        with Progress(TextColumn("simulating"), BarColumn(), console=console, transient=True, disable=not console.is_terminal) as bar:
            task = bar.add_task("simulating", total=1.0)

            def tell(share: float) -> None:
                bar.update(task, completed=share)

            if splice is not None:
                found = splice_trace(out, splice, seed=seed, scenarios=names or [], progress=tell)
                records = {log.name: (log.source, many) for log, many, _, _ in found.logs}
                attacks = found.attacks
            else:
                truth = write_trace(out, days=days, seed=seed, scale=scale, scenarios=names, spread=spread, progress=tell)
                records = {name: (SOURCES[name], many) for name, many in truth.records.items()}
                attacks = truth.attacks
    except TraceError as error:
        _fail(str(error), UNREADABLE)
    except ValueError as error:
        _fail(str(error).replace("attacks:", "--scenario:"), MISTAKE)
    except OSError as error:
        _fail(f"{error.filename or out}: {error.strerror or error}", UNREADABLE)
    except KeyboardInterrupt:
        _fail(f"interrupted; {out} is as it was", 130)
    _sum_up(out, records, attacks)


def _sum_up(out: Path, records: dict[str, tuple[str, int]], attacks: Sequence[Attack]) -> None:
    text = [f"{out}: {sum(many for _, many in records.values()):,} records"]
    text += [f"  {name:24} {many:>12,}  {source}" for name, (source, many) in records.items()]
    for attack in attacks:
        again = f" {attack.instance}" if attack.instance > 1 else ""
        kind = "hard case, no attack" if attack.benign else ", ".join(attack.techniques)
        text += [f"{moment(attack.first)[:19]} {attack.name}{again} ({kind})", f"    {attack.summary}"]
    screen.page(text)
