"""Scenarios in a recorded trace: played by the people and pods found in it, their records put among its own in order of time."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from connectors.event import DAY
from connectors.trace import TraceError
from replay.simulate import account_of, labels_of
from replay.simulate.background import WRITABLE, Background, BackgroundLog, open_background
from replay.simulate.factory import Factory
from replay.simulate.found import Finder, FoundPods
from replay.simulate.journal import CONN, SOURCES, Marked, Note, Sheet
from replay.simulate.labels import Label, read_labels
from replay.simulate.places import Hosts
from replay.simulate.scenarios import Stage, Trail, available
from replay.simulate.truth import Attack
from replay.simulate.world import World, randomness

#: Where in a trace a scenario begins whose hour of the day the trace does not have: this share of its length.
_ELSE_AT = 0.4


@dataclass
class Spliced:
    """A folder that was written: per log its name, source, records and times of the first and last; the scenarios; labels that the
    background had, with the record numbers they have now."""

    logs: list[tuple[BackgroundLog, int, int | None, int | None]] = field(default_factory=list)
    attacks: list[Attack] = field(default_factory=list)
    labels: list[Label] = field(default_factory=list)


def splice(out: Path, trace: Path, names: Sequence[str], seed: int, progress: Callable[[float], None] = lambda _: None) -> Spliced:
    """Play scenarios in a recorded trace and write the whole into the folder ``out``. Raises TraceError on the trace, ValueError on a
    scenario that finds no place in it, OSError where ``out`` cannot be written; then nothing is written."""
    background = open_background(trace)
    apart(out, trace)
    if len({log.name for log in background.logs}) < len(background.logs):
        raise TraceError(f"{trace}: two logs would have one name")
    finder = Finder(randomness(seed, "found"))
    finder.read(background)
    progress(0.4)
    sheet = Sheet()
    trails = _play(labels_of(names), background, finder, sheet, seed)
    out.mkdir(parents=True, exist_ok=True)
    marked: dict[str, Marked] = {}
    spliced = Spliced()
    old = read_labels(background.labels) if background.labels is not None else []
    homes = _homes(background)
    for number, log in enumerate(background.logs):
        notes = sheet.notes.get(WRITABLE.get(log.source, ""), []) if homes.get(log.source) is log else []
        if log.writable or log.parquet or log.entry is None:
            spliced.logs.append((log, *_merge(out / log.name, log, sorted(notes, key=lambda note: note.time), marked, old)))
        else:
            shutil.copyfile(log.files[0], out / log.name)
            spliced.logs.append((log, log.entry.records, None, None))
        progress(0.4 + 0.6 * (number + 1) / len(background.logs))
    spliced.attacks = [account_of(label, trail, marked[label]) for label, trail in trails.items()]
    spliced.labels = old
    return spliced


def apart(out: Path, trace: Path) -> None:
    """Raises ValueError where a trace would be written over the one that is read."""
    if out.exists() and out.resolve() in {trace.resolve(), trace.parent.resolve()}:
        raise ValueError(f"splice: {out} is where the trace is; give another folder")


def _homes(background: Background) -> dict[str, BackgroundLog]:
    """The log of each source into which records go: the largest."""
    homes: dict[str, BackgroundLog] = {}
    for log in sorted(background.logs, key=lambda log: sum(path.stat().st_size for path in log.files)):
        homes[log.source] = log
    return homes


def _play(labels: list[str], background: Background, finder: Finder, sheet: Sheet, seed: int) -> dict[str, Trail]:
    """Play each; what falls within the trace goes on the sheet: what would be written later does not exist."""
    present = {log.source for log in background.logs}
    cast = finder.factory(), finder.pods(), finder.hosts()
    trails: dict[str, Trail] = {}
    for label in labels:
        name = label.partition("#")[0]
        needs = available()[name].needs
        lacking = sorted(SOURCES[file] for file in needs if SOURCES[file] not in present)
        if lacking:
            raise ValueError(f"{name}: needs a log of {', '.join(lacking)}, which the trace does not have")
        if not cast[0].users and needs != {CONN}:
            raise ValueError(f"{name}: the trace names no people")
        if background.last <= background.first:
            raise ValueError(f"{name}: finds no place in the trace: it is one moment long")
        try:
            trail, own = _act(label, background, cast, seed, 0)
            first = min(note.time for notes in own.notes.values() for note in notes)
            if not background.first <= first < background.last:
                begin = background.first + int((background.last - background.first) * _ELSE_AT)
                trail, own = _act(label, background, cast, seed, begin - first)
        except (ValueError, IndexError) as error:
            raise ValueError(f"{name}: finds no place in the trace: {error}") from None
        _keep(name, own, sheet, background)
        trails[label] = trail
    return trails


def _act(label: str, background: Background, cast: tuple[Factory, FoundPods, Hosts], seed: int, shift: int) -> tuple[Trail, Sheet]:
    """Play one scenario, ``shift`` microseconds off the clock."""
    factory, pods, hosts = cast
    scenario, own = available()[label.partition("#")[0]], Sheet()
    start = background.first // DAY * DAY
    days = background.last // DAY - background.first // DAY + 1
    world = World(factory, seed, start + shift, days, own, label=label, hosts=hosts)
    stage = Stage(world, pods, world.rng(f"attack {label}"), max(0, days - 1 - scenario.lead))
    return scenario.play(stage), own


def _keep(name: str, own: Sheet, sheet: Sheet, background: Background) -> None:
    """Take over what falls within the trace: what is written later does not exist."""
    kept = 0
    for file, notes in own.notes.items():
        inside = [note for note in notes if background.first <= note.time <= background.last]
        kept += len(inside)
        sheet.notes.setdefault(file, []).extend(inside)
    if not kept:
        raise ValueError(f"{name}: finds no place in the trace: it is too short")


def _merge(
    path: Path, log: BackgroundLog, notes: list[Note], marked: dict[str, Marked], old: list[Label]
) -> tuple[int, int | None, int | None]:
    """Write a log with notes in it, each before the first record that is later. Returns records, first and last time.

    The numbers of the ``old`` labels are moved to where their records are now.
    """
    written, done, before = 0, 0, 0
    first: int | None = None
    last: int | None = None
    #: How many records of the background come before each note.
    places: list[int] = []

    def put(note: Note) -> None:
        nonlocal written, done
        file.write(note.line)
        marked.setdefault(note.label, Marked()).add(path.name, written, note.time)
        places.append(before)
        written += 1
        done += 1

    with path.open("wb") as file:
        for batch in log.batches():
            times = batch.times
            position = 0
            while done < len(notes) and len(times) and notes[done].time < times[-1]:
                cut = int(np.searchsorted(times, notes[done].time, side="right"))
                file.writelines([line + b"\n" for line in batch.lines[position:cut]])
                written += cut - position
                before += cut - position
                position = cut
                put(notes[done])
            file.writelines([line + b"\n" for line in batch.lines[position:]])
            written += len(batch.lines) - position
            before += len(batch.lines) - position
            if len(times):
                first = int(times[0]) if first is None else first
                last = int(times[-1])
        for note in notes[done:]:
            put(note)
    for label in old:
        numbers = label.records.get(path.name)
        if numbers:
            moved = np.array(numbers) + np.searchsorted(np.array(places, np.int64), numbers, side="right")
            label.records[path.name] = moved.tolist()
    return written, first, last
