"""``tocsin report``: one HTML file that says what a configuration does on a trace."""

from __future__ import annotations

import hashlib
import os
import platform
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn

from connectors.names import Names
from connectors.ocsf import shown
from connectors.sources.table import MappingError, read_mapping
from connectors.trace import TraceError
from detector.config import Config, ConfigError, parse
from replay import screen
from replay.compare import Score, score, verdicts
from replay.exits import INTERRUPTED, MISTAKE, UNREADABLE, fail
from replay.explain import explain
from replay.feedback import Judged, judged, read_feedback
from replay.labelled import labels_of
from replay.outputs import check_outputs, put
from replay.simulate.labels import Label
from replay.survey import Behaviour, Survey, follow, survey
from replay.traces import digest_of, is_folder, read_manifest
from replay.trials import MOST_CASES, Subject, run_all, workers
from replay.tune import span
from replay.variants import Variant, differences, flat, read_variant, sweep, unlike

#: Alerts that are explained, identities whose behaviour is drawn.
EXPLAINED, DRAWN = 5, 3
#: Libraries that results or the page depend on.
LIBRARIES = ("tocsin", "numpy", "numba", "pyarrow", "msgspec", "plotly")


class Gathered(msgspec.Struct, kw_only=True):
    """All that a page is made of."""

    survey: Survey
    behaviours: list[Behaviour]
    scores: list[Score]
    budgets: list[float]
    mine: Score
    labels: list[Label]
    heard: list[Judged]


def gather(
    subject: Subject,
    variant: Variant,
    budgets: list[float],
    feedback: Path | None,
    jobs: int | None,
    tell: Callable[[str, float], None] = lambda *_: None,
) -> Gathered:
    """Run everything, the inputs verified first. ``tell`` hears what is done and its share. Raises TraceError, ConfigError."""
    config = parse(variant.text)
    mine = config.budget.alerts_per_day
    others = sorted({each for each in budgets if each != mine})
    # All that can be wrong is found before the trace is read.
    variants = sweep(variant, "budget.alerts_per_day=" + ",".join(map(repr, others))) if others else []
    unlike([variant, *variants])
    opinions = [] if feedback is None else read_feedback(feedback)
    labels = labels_of(subject, subject.open(Names(), verified=False))
    found = survey(subject, config, lambda share: tell("detecting", share))
    if found.trial.events == 0:
        raise TraceError("nothing to score: no record of any input became an event")
    wanted: dict[str, str] = {}
    for alert in found.alerts:
        if not alert.notice and len(wanted) < DRAWN:
            wanted.setdefault(alert.blamed, alert.role)
    behaviours = follow(subject, config, wanted, lambda share: tell("following", share)) if wanted else []
    many = workers(jobs, len(variants))
    trials = run_all(subject, variants, many, lambda shares: tell("trying budgets", sum(shares) / len(shares))) if variants else []
    heard = judged(opinions, [found.trial, *trials])
    own = score(found.trial, variant, labels, heard)
    scores = [own, *(score(trial, each, labels, heard) for trial, each in zip(trials, variants, strict=True))]
    return Gathered(survey=found, behaviours=behaviours, scores=scores, budgets=[mine, *others], mine=own, labels=labels, heard=heard)


def page_of(found: Gathered, config: Config, paths: list[Path], beside: dict[str, Path | None]) -> str:
    """The HTML of what was gathered. ``beside``: option -> a file that was read as well. Raises OSError, TraceError."""
    # Plotting is heavy to load, and no other command needs it.
    from replay import plots, portraits
    from replay.page import render

    alerts = [alert for alert in found.survey.alerts if not alert.notice]
    pieces = [portraits.evidence(i, alert) for i, alert in enumerate(alerts[:EXPLAINED])]
    top = [{"figure": piece, "text": explain(alert)} for piece, alert in zip(pieces, alerts, strict=False)]
    by_name = {alert.blamed: alert for alert in reversed(alerts)}
    cases = found.survey.trial.cases
    behaviours = [
        portraits.behaviour(i, held, by_name[held.identity], [case.opened for case in cases if case.blamed == held.identity])
        for i, held in enumerate(found.behaviours)
    ]
    timeline, volume = plots.timeline(found.survey.alerts, found.labels, found.survey.trial.alerts), plots.volume(found.survey)
    curve = plots.curve(found.scores, found.budgets, config.budget.alerts_per_day) if len(found.scores) > 1 else None
    trial = found.survey.trial
    values: dict[str, Any] = {
        "name": ", ".join(shown(path.name or str(path), 80) for path in paths),
        "span": f"{plots.when(trial.first)} to {plots.when(trial.last)} UTC",
        "figures": _figures(found),
        "timeline": timeline,
        "scenarios": _scenarios(found),
        "alerts": top,
        "behaviours": behaviours,
        "curve": curve,
        "volume": volume,
        "blind": [shown(each, 400) for each in found.survey.blind],
        "changes": [[key, *(shown(str(each), 200) for each in reversed(both))] for key, both in differences(parse(""), config).items()],
        "whole": [[key, shown(_told(value), 400)] for key, value in flat(config).items()],
        "logs": _logs(found.survey, paths),
        "beside": [[option, shown(path.name, 120), digest_of(path)] for option, path in beside.items() if path is not None],
        "versions": _versions(config),
    }
    return render(values, [timeline, volume, *([curve] if curve else []), *behaviours, *pieces])


def _figures(found: Gathered) -> list[list[str]]:
    """What counts, in figures: what, value, unit, remark."""
    mine, trial, survey = found.mine, found.survey.trial, found.survey
    rejected = sum(survey.rejected.values())
    figures = [
        ["events", f"{trial.events:,}", "events", f"over {trial.days:.1f} days"],
        ["identities", f"{survey.identities:,}", "identities", "with a profile"],
        ["alerts on behaviour", f"{trial.alerts:,}", "alerts", f"{trial.alerts_per_day:.2f} a day"],
        ["notices", f"{trial.notices:,}", "notices", "of the detector on itself; their texts are among the blind spots"],
    ]
    if trial.dropped:
        figures.append(["alerts only counted", f"{trial.dropped:,}", "alerts", f"those beyond {MOST_CASES:,}: in no other figure"])
    if mine.scenarios or mine.false_alerts is not None:
        delay = "none caught" if mine.median_delay_seconds is None else f"{mine.median_delay_seconds / 60:,.1f}"
        figures += [
            ["scenarios caught", f"{mine.caught} of {mine.scenarios}", "scenarios", "labelled attacks"],
            ["median delay", delay, "minutes", "from its first record, slow ones aside"],
            ["false alerts", f"{mine.false_alerts:,}", "alerts", f"{mine.benign_alerts} harmless hard cases alerted"],
        ]
    if found.heard:
        figures += [
            ["confirmed alerts kept", f"{mine.true_kept} of {mine.true_known}", "alerts", "by analysts' feedback"],
            ["rejected alerts still there", f"{mine.false_kept} of {mine.false_known}", "alerts", "by analysts' feedback"],
        ]
    return [
        *figures,
        ["rejected records", f"{rejected:,}", "records", "could not be read"],
        ["late events", f"{survey.late:,}", "events", "scored, not learned"],
        ["speed", f"{mine.events_per_second:,.0f}", "events a second", f"{mine.seconds:.1f} s"],
        ["peak memory", f"{mine.peak_bytes / 1e6:,.0f}", "MB", "of the process that made this page, up to the end of detection"],
    ]


def _told(value: Any) -> str:
    """A value of the configuration, as JSON: quotes tell a text from a number."""
    return msgspec.json.encode(value).decode()


def _scenarios(found: Gathered) -> list[list[str]]:
    rows = []
    for verdict, label in zip(verdicts(found.survey.trial, found.labels), found.labels, strict=True):
        kind = " (harmless)" if label.benign else " (slow)" if label.slow else ""
        after = "not caught" if not label.benign else "quiet, as it should be"
        if verdict.delay_seconds is not None:
            after = span(verdict.delay_seconds) + ("" if verdict.delay_events is None else f", record {verdict.delay_events}")
        rows.append([f"{shown(label.scenario, 60)} {label.instance}{kind}", after, verdict.uid[:8], shown(label.summary, 200)])
    return rows


def _logs(found: Survey, paths: list[Path]) -> list[list[str]]:
    """What was read, with digests: of a trace folder's logs as its manifest says (they were compared), of files as they are."""
    rows = []
    for path in paths:
        if is_folder(path):
            manifest = read_manifest(path)
            rows += [
                [shown(each.path, 120), each.source or "resolved events", f"{each.records:,}", each.sha256] for each in manifest.logs
            ]
            if manifest.labels is not None:
                rows.append([shown(manifest.labels, 120), "labels", "", digest_of(path / manifest.labels)])
        else:
            source = next((source for name, source in found.logs if name == str(path)), "")
            rows.append([shown(path.name, 120), source, "", digest_of(path)])
    return rows


def _versions(config: Config) -> list[list[str]]:
    whole = hashlib.sha256(msgspec.json.encode(config, order="deterministic")).hexdigest()
    rows = [[name, metadata.version(name)] for name in LIBRARIES]
    machine = f"{platform.machine()}, {os.cpu_count()} processors, {platform.system()}"
    return [*rows, ["Python", platform.python_version()], ["machine", machine], ["configuration in force, SHA-256", whole]]


def report(
    paths: Annotated[list[Path], typer.Argument(help="Trace folders, or recorded logs.")],
    out: Annotated[Path, typer.Option(help="The HTML file to write.")],
    config: Annotated[Path | None, typer.Option(help="TOML file laid over the default configuration.")] = None,
    budgets: Annotated[str, typer.Option(help="Alert budgets of the curve, a day; none leaves it out.")] = "1,2,5,10,20",
    feedback: Annotated[Path | None, typer.Option(help="What analysts said: JSON lines of uid, verdict, note.")] = None,
    jobs: Annotated[int | None, typer.Option(min=1, help="Trials at once; by processors and memory if not given.")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Stop after so many events.")] = None,
    partitions: Annotated[int, typer.Option(min=1, max=1024, help="Lay the work out as over so many partitions.")] = 1,
    source: Annotated[str | None, typer.Option(help="Format of the records of files; detected if not given.")] = None,
    mapping: Annotated[Path | None, typer.Option(help="TOML file that names the columns of a table.")] = None,
) -> None:
    """Write an HTML report: alerts over time, why they opened, what a budget buys, blind spots. It works offline."""
    try:
        check_outputs({"--out": out}, paths, (config, feedback, mapping))
        variant = read_variant("this configuration", config)
        subject = Subject(
            paths=[str(path) for path in paths],
            source=source,
            mapping=read_mapping(mapping) if mapping is not None else None,
            limit=limit,
            partitions=partitions,
        )
        given = parse(variant.text)
        found = _watched(subject, variant, _numbers(budgets), feedback, jobs)
        beside = {"--config": config, "--feedback": feedback, "--mapping": mapping}
        page = page_of(found, given, paths, beside).encode()
        put(out, page)
    except (ConfigError, MappingError) as error:
        fail(str(error), MISTAKE)
    except TraceError as error:
        fail(str(error), UNREADABLE)
    except OSError as error:
        fail(f"{error.filename or out}: {error.strerror or error}", UNREADABLE)
    except KeyboardInterrupt:
        fail("interrupted; no report was written", INTERRUPTED)
    screen.page([f"{out}: {found.mine.alerts} alerts of {found.survey.trial.events:,} events, {len(page) / 1e6:.1f} MB"])


def _watched(subject: Subject, variant: Variant, budgets: list[float], feedback: Path | None, jobs: int | None) -> Gathered:
    """``gather`` with a progress bar."""
    console = Console(stderr=True, highlight=False, markup=False)
    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("reading", total=1.0)
        return gather(
            subject, variant, budgets, feedback, jobs, lambda what, share: bar.update(task, description=what, completed=share)
        )


def _numbers(text: str) -> list[float]:
    """The budgets of the curve. Raises ConfigError."""
    if text.strip() in ("", "none"):
        return []
    try:
        return [float(each) for each in text.split(",")]
    except ValueError:
        raise ConfigError([f"--budgets: expected numbers with commas between them, or none; got {text[:60]!r}"]) from None
