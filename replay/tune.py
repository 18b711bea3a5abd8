"""``tocsin tune``: one trace, several configurations, and what the difference is."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from connectors.names import Names
from connectors.ocsf import shown
from connectors.sources.table import MappingError, read_mapping
from connectors.trace import TraceError
from detector.config import ConfigError
from replay.compare import Pair, Score, Verdict, cheapest, pairs, score, suggestion, verdicts
from replay.exits import INTERRUPTED, MISTAKE, UNREADABLE, fail
from replay.feedback import Judged, answer, judged, read_feedback, unheard
from replay.labelled import labels_of
from replay.outputs import check_outputs, put
from replay.shards import moment
from replay.simulate.labels import Label
from replay.trials import MOST_CASES, Subject, Trial, run_all, workers
from replay.variants import Variant, against, differences, parse_named, read_variant, sweep, unlike

#: The budgets of the curve that is drawn when nothing else is asked.
BUDGETS = "budget.alerts_per_day=1,2,5,10,20"
#: Alerts of a kind that a table shows; a file given with --out has all.
SHOWN = 15
#: Width of tables where no terminal says.
WIDTH = 150


class Result(msgspec.Struct, kw_only=True):
    """All that came of it. ``pairs`` and ``differences``: of A against B, if there is a B. ``unheard``: opinions on no alert here."""

    scores: list[Score]
    verdicts: dict[str, list[Verdict]]
    differences: dict[str, tuple[Any, Any]] = {}
    pairs: list[Pair] = []
    suggestion: Score | None = None
    cheapest: Score | None = None
    unheard: int = 0
    version: int = 1


def trials_of(subject: Subject, variants: list[Variant], jobs: int | None, *, quiet: bool = False) -> list[Trial]:
    """Run all variants, with a progress bar on a terminal. Raises TraceError."""
    many = workers(jobs, len(variants))
    console = Console(stderr=True, highlight=False, markup=False)
    if quiet or not console.is_terminal:
        return run_all(subject, variants, many)
    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True) as bar:
        tasks = [bar.add_task(shown(variant.name, 50), total=1.0) for variant in variants]

        def show(shares: list[float]) -> None:
            for task, share in zip(tasks, shares, strict=True):
                bar.update(task, completed=share)

        return run_all(subject, variants, many, show)


def compared(variants: list[Variant], trials: list[Trial], labels: list[Label], opinions: list[Judged], *, ab: bool) -> Result:
    """Everything there is to say of the trials; the first is the base. With ``ab`` the second is compared with it alert by alert."""
    scores = [score(trial, variant, labels, opinions) for trial, variant in zip(trials, variants, strict=True)]
    base = parse_named(variants[0])
    return Result(
        scores=scores,
        verdicts={trial.name: verdicts(trial, labels) for trial in trials},
        differences=differences(base, parse_named(variants[1])) if ab else {},
        pairs=pairs(trials[0], trials[1]) if ab else [],
        suggestion=suggestion(scores[0], scores[1:], base),
        cheapest=cheapest(scores, variants),
        unheard=unheard(opinions, trials),
    )


def tune(
    paths: Annotated[list[Path], typer.Argument(help="Trace folders, or recorded logs.")],
    a: Annotated[Path | None, typer.Option("--a", help="Configuration A, the base; the default if not given.")] = None,
    b: Annotated[Path | None, typer.Option("--b", help="Configuration B, compared with A alert by alert.")] = None,
    sweeps: Annotated[list[str] | None, typer.Option("--sweep", help="key=v1,v2,…: A with each value; may be repeated.")] = None,
    feedback: Annotated[Path | None, typer.Option(help="What analysts said: JSON lines of uid, verdict, note.")] = None,
    write: Annotated[Path | None, typer.Option(help="Write the suggested configuration to this file.")] = None,
    out: Annotated[Path | None, typer.Option(help="Write everything as JSON to this file.")] = None,
    jobs: Annotated[int | None, typer.Option(min=1, help="Trials at once; by processors and memory if not given.")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Stop after so many events.")] = None,
    partitions: Annotated[int, typer.Option(min=1, max=1024, help="Lay the work out as over so many partitions.")] = 1,
    source: Annotated[str | None, typer.Option(help="Format of the records of files; detected if not given.")] = None,
    mapping: Annotated[Path | None, typer.Option(help="TOML file that names the columns of a table.")] = None,
    json_: Annotated[bool, typer.Option("--json", help="Everything as JSON, as the last line.")] = False,
) -> None:
    """Compare configurations on a recorded trace: alerts gained, lost and moved, scenarios caught, the budget's curve."""
    try:
        check_outputs({"--out": out, "--write": write}, paths, (a, b, feedback, mapping))
        base = read_variant("A", a)
        others = [] if b is None else [against(base, read_variant("B", b))]
        asked = sweeps or ([] if b is not None else [BUDGETS])
        variants = unlike([base, *others, *(each for given in asked for each in sweep(base, given))])
        subject = Subject(
            paths=[str(path) for path in paths],
            source=source,
            mapping=read_mapping(mapping) if mapping is not None else None,
            limit=limit,
            partitions=partitions,
        )
        labels = labels_of(subject, subject.open(Names(), verified=False))
        opinions = [] if feedback is None else read_feedback(feedback)
        trials = trials_of(subject, variants, jobs, quiet=json_)
        if trials[0].events == 0:
            fail("nothing to score: no record of any input became an event", UNREADABLE)
        heard = judged(opinions, trials)
        result = compared(variants, trials, labels, heard, ab=b is not None)
        _write(result, variants, write, out)
    except (ConfigError, MappingError) as error:
        fail(str(error), MISTAKE)
    except TraceError as error:
        fail(str(error), UNREADABLE)
    except OSError as error:
        fail(f"{error.filename or 'input or output'}: {error.strerror or error}", UNREADABLE)
    except KeyboardInterrupt:
        fail("interrupted", INTERRUPTED)
    if json_:
        sys.stdout.buffer.write(msgspec.json.encode(result) + b"\n")
        return
    _show(result, heard, trials[0], labels, write)


def _write(result: Result, variants: list[Variant], write: Path | None, out: Path | None) -> None:
    if out is not None:
        put(out, msgspec.json.format(msgspec.json.encode(result), indent=1) + b"\n")
    if write is not None and result.suggestion is not None:
        name = result.suggestion.name
        text = next(variant.text for variant in variants if variant.name == name)
        put(write, f"# tocsin tune: {name} does better within the budget.\n{text}".encode())


def _show(result: Result, heard: list[Judged], base: Trial, labels: list[Label], write: Path | None) -> None:
    console = Console(highlight=False, markup=False)
    if not console.is_terminal:
        console = Console(highlight=False, markup=False, width=WIDTH)
    console.print(f"{base.events:,} events over {base.days:.2f} days, {base.alerts} alerts with A")
    console.print(_scores(result.scores, heard))
    if result.verdicts and labels:
        console.print(_scenarios(result))
    if result.differences:
        rows = [(key, *map(str, both)) for key, both in result.differences.items()]
        console.print(_table("B differs from A in", ("key", "A", "B"), rows))
    for kind in ("gained", "lost", "moved"):
        found = [pair for pair in result.pairs if pair.kind == kind]
        if found:
            console.print(_alerts(kind, found, heard))
    if result.pairs:
        console.print(f"{sum(pair.kind == 'same' for pair in result.pairs)} alerts are the same with both")
    for each in result.scores:
        if each.dropped:
            console.print(
                Text(f"{shown(each.name, 300)}: {each.dropped:,} alerts beyond the first {MOST_CASES:,} are counted and not compared.")
            )
    if result.unheard:
        console.print(f"{result.unheard} of {len(heard)} opinions of the feedback are about no alert that any configuration opened")
    for line in _advice(result, write, labels=bool(labels), heard=bool(heard)):
        console.print(Text(line))


def _table(title: str, heads: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> Table:
    """A table in which every cell is text, whatever it holds."""
    table = Table(title=title, title_justify="left")
    for place, head in enumerate(heads):
        table.add_column(head, overflow="fold", justify="left" if place == 0 else "default")
    for row in rows:
        table.add_row(*(Text(shown(cell, 300)) for cell in row))
    return table


def _scores(scores: list[Score], heard: list[Judged]) -> Table:
    heads = ["configuration", "alerts", "a day", "caught", "median delay", "in events", "false", "events/s", "peak memory"]
    if heard:
        heads[7:7] = ["confirmed kept", "rejected still"]
    rows = []
    for each in scores:
        row = [
            each.name,
            str(each.alerts),
            f"{each.alerts_per_day:.2f}",
            f"{each.caught} of {each.scenarios}" if each.scenarios else "no labels",
            "" if each.median_delay_seconds is None else span(each.median_delay_seconds),
            "" if each.median_delay_events is None else f"{each.median_delay_events:g}",
            "" if each.false_alerts is None else str(each.false_alerts),
            f"{each.events_per_second:,.0f}",
            f"{each.peak_bytes / 1e6:,.0f} MB",
        ]
        if heard:
            row[7:7] = [f"{each.true_kept} of {each.true_known}", f"{each.false_kept} of {each.false_known}"]
        rows.append(tuple(row))
    return _table("configurations", tuple(heads), rows)


def _scenarios(result: Result) -> Table:
    """Every scenario, and how long each configuration took to catch it."""
    names = list(result.verdicts)
    rows = []
    for each in zip(*result.verdicts.values(), strict=True):
        first = each[0]
        what = f"{first.scenario} {first.instance}{' (harmless)' if first.benign else ' (slow)' if first.slow else ''}"
        rows.append((what, *(_caught(verdict) for verdict in each)))
    return _table("scenarios", ("scenario", *names), rows)


def _caught(verdict: Verdict) -> str:
    if verdict.delay_seconds is None:
        return "quiet" if verdict.benign else "missed"
    events = "" if verdict.delay_events is None else f", event {verdict.delay_events}"
    return f"{span(verdict.delay_seconds)}{events}"


def _alerts(kind: str, found: list[Pair], heard: list[Judged]) -> Table:
    rows = []
    for pair in found[:SHOWN]:
        case = pair.b or pair.a
        if case is None:
            continue
        said = answer(case, heard)
        verdict = "" if said is None else " ".join(filter(None, (said.opinion.verdict.replace("_", " "), said.opinion.note)))
        shift = f"{span(abs(pair.shift))} {'later' if pair.shift > 0 else 'sooner'}" if kind == "moved" else ""
        rows.append((moment(case.opened)[:19], case.uid[:8], case.headline[29:], shift or f"{case.score:.1f} nats", verdict))
    more = f", the first {SHOWN} of {len(found)}" if len(found) > SHOWN else ""
    title = {"gained": "only with B", "lost": "only with A", "moved": "moved in time by B"}[kind]
    heads = ("opened", "id", "what", "shift" if kind == "moved" else "score", "feedback")
    return _table(f"{len(found)} alerts {title}{more}", heads, rows)


def _advice(result: Result, write: Path | None, *, labels: bool, heard: bool) -> list[str]:
    found = []
    best = result.cheapest
    if best is not None:
        found.append(f"The smallest budget that catches as much as the largest: {best.name} ({best.caught} of {best.scenarios}).")
    base, better = result.scores[0], result.suggestion
    if better is not None:
        gains = [f"{better.caught} of {better.scenarios} scenarios, {base.caught} before"] if labels else []
        if heard:
            gains.append(f"{better.true_kept} confirmed alerts kept, {base.true_kept} before")
            gains.append(f"{better.false_kept} rejected ones still there, {base.false_kept} before")
        rates = f"{better.alerts_per_day:.2f} alerts a day ({base.alerts_per_day:.2f} before)"
        found.append(f"Suggestion: {better.name}: {'; '.join(gains)}, at {rates}.")
        found.append(f"Written to {write}." if write is not None else "--write FILE writes it as a configuration.")
    elif not labels and not heard:
        found.append("No suggestion: nothing says which alerts are right. --feedback FILE, or a trace with labels, does.")
    elif len(result.scores) > 1:
        found.append("No suggestion: no variant does better within the budget.")
    if better is None and write is not None:
        found.append(f"Nothing was written to {write}.")
    return found


def span(seconds: float) -> str:
    """A span for people.

    >>> span(42), span(600), span(7200), span(200_000)
    ('42 s', '10 min', '2.0 h', '2.3 d')
    """
    for size, unit, digits in ((86_400.0, "d", 1), (3_600.0, "h", 1), (120.0, "min", 0)):
        if seconds >= size:
            return f"{seconds / (60.0 if unit == 'min' else size):.{digits}f} {unit}"
    return f"{seconds:.0f} s"
