"""The ``tocsin`` command.

Exit codes: 0 done; 2 a mistake in the command or the configuration; 3 an input that cannot be read, or holds nothing to score;
4 a state file or a ledger that cannot be used, or does not verify, a log that a worker refuses; 5 nothing found (``explain``,
``approvals``); 6 a broker that cannot be reached or used; 7 topics that are not as they must be; 75 a worker that is to be started
again; 130 interrupted.
"""

from __future__ import annotations

import asyncio
import sys
from importlib import metadata
from pathlib import Path
from typing import Annotated

import typer

from connectors import ocsf
from connectors.kafka import KafkaError
from connectors.loops import Policy
from connectors.sources import INPUTS, available
from connectors.sources.table import MappingError, read_mapping
from connectors.trace import TraceError
from detector.checkpoint import StateError
from detector.config import ConfigError, read
from detector.ledger import LedgerFailed
from detector.memory import give_back
from detector.respond import observer
from replay import approvals, control, dlq, inputs, kpi, ledger, policy, respond, screen, state, to_kafka
from replay.accept import accept
from replay.capture import record
from replay.exits import BROKER, MISTAKE, NOTHING, STATE, TOPICS, UNREADABLE, errors
from replay.exits import complain as _complain
from replay.exits import config as _config
from replay.exits import fail as _fail
from replay.explain import explain as explained
from replay.play import Plan, Summary, play
from replay.report import report
from replay.simulating import simulate_
from replay.skip import skip
from replay.tune import tune
from replay.worker import worker

app = typer.Typer(
    name="tocsin",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    help="Streaming behavioural anomaly detection and bounded containment for AI factories.",
)


def _run(plan: Plan, watcher: screen.Screen) -> Summary:
    try:
        with watcher:
            return play(plan, observer(plan.config.respond), watcher)
    except (StateError, LedgerFailed) as error:
        _fail(str(error), STATE)
    except ConfigError as error:
        _fail(str(error), MISTAKE)
    except BrokenPipeError:
        # Whoever reads our output has had enough.
        sys.stderr.close()
        raise typer.Exit(0) from None
    except OSError as error:
        _fail(f"{error.filename or 'input or output'}: {error.strerror or error}", UNREADABLE)
    except (TraceError, MappingError) as error:
        _fail(str(error), UNREADABLE)
    except KeyboardInterrupt:
        _fail("interrupted; a state file keeps its last checkpoint", 130)


@app.command()
def demo(
    days: Annotated[int, typer.Option(min=2, max=60, help="Days to simulate; the attacks are on the last.")] = 7,
    seed: Annotated[int, typer.Option(help="Another seed is another factory.")] = 1,
    scale: Annotated[float, typer.Option(min=0.05, max=50, help="Size of the factory.")] = 1.0,
    out: Annotated[Path | None, typer.Option(help="Keep the simulated traces, the alerts and the ledger in this folder.")] = None,
    json_: Annotated[bool, typer.Option("--json", help="The summary as JSON, as the last line.")] = False,
) -> None:
    """A simulated week of an AI factory, with attacks on its last day, through the whole pipeline to contained threats."""
    from replay.demo import run_demo

    try:
        run_demo(days, seed, scale, out, json_)
    except (TraceError, OSError) as error:
        _fail(str(error), UNREADABLE)
    except LedgerFailed as error:
        _fail(str(error), STATE)
    except ValueError as error:
        _fail(str(error), MISTAKE)
    except KeyboardInterrupt:
        _fail("interrupted", 130)


@app.command("replay")
def replay_(
    paths: Annotated[
        list[Path],
        typer.Argument(help="Trace folders; or recorded logs: JSON lines (plain, gzip, zstd), CSV or Parquet with --mapping."),
    ],
    source: Annotated[str | None, typer.Option(help="Format of the records; detected from the first ones if not given.")] = None,
    mapping: Annotated[Path | None, typer.Option(help="TOML file that names the columns of a table.")] = None,
    config: Annotated[Path | None, typer.Option(help="TOML file laid over the default configuration.")] = None,
    alerts: Annotated[str | None, typer.Option(help="Write OCSF findings, one a line, to this file; - is standard output.")] = None,
    state: Annotated[Path | None, typer.Option(help="Keep the profiles in this file, and go on from it.")] = None,
    deadletter: Annotated[Path | None, typer.Option(help="Write rejected records with their reason to this file.")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Stop after so many events.")] = None,
    block: Annotated[
        int, typer.Option(min=1, max=1_000_000, help="Records decoded at a time; the result does not depend on it.")
    ] = 4096,
    speed: Annotated[str, typer.Option(help="max, or so many times as fast as it was recorded: 1x, 60x.")] = "max",
    partitions: Annotated[int, typer.Option(min=1, max=1024, help="Lay the work out as over so many partitions.")] = 1,
    to: Annotated[str, typer.Option(help="kafka: play a trace of raw records into the raw topics instead.")] = "",
    rate: Annotated[str, typer.Option(help="To Kafka: recorded, max, or records a second.")] = "recorded",
    shift: Annotated[str, typer.Option(help="To Kafka: now = move the records' times to today; none.")] = "now",
    json_: Annotated[bool, typer.Option("--json", help="The summary as JSON, as the last line.")] = False,
) -> None:
    """Replay recorded traces through the detector. Nothing is ever contained in a replay."""
    given = _config(config)
    if to:
        if to != "kafka" or source or mapping or alerts or state or deadletter or partitions != 1 or speed != "max" or json_:
            _fail("--to: expected kafka, with --rate, --shift, --limit and --config and nothing else", MISTAKE)
        to_kafka.run(paths, given, rate, shift, limit)
        return
    if source is not None and source not in available():
        _fail(f"--source: expected one of {', '.join(available())}; got {source!r}", MISTAKE)
    try:
        named = read_mapping(mapping) if mapping is not None else None
        factor = inputs.speed(speed)
    except MappingError as error:
        _fail(str(error), MISTAKE)
    except ValueError as error:
        _fail(f"--speed: {error}", MISTAKE)
    to_stdout = alerts == "-"
    plan = Plan(
        paths=paths,
        config=given,
        version=_version(),
        source=source,
        mapping=named,
        alerts=None if to_stdout or alerts is None else Path(alerts),
        state=state,
        deadletter=deadletter,
        limit=limit,
        batch_records=block,
        speed=factor,
        partitions=partitions,
    )
    watcher = screen.Screen(plan.version, to_stdout=to_stdout, quiet=json_)
    summary = _run(plan, watcher)
    screen.close(summary, json_=json_, to_stdout=to_stdout)
    if summary.events == 0 and state is None:
        _fail("nothing to score: no record of any input became an event", UNREADABLE)


app.command()(record)
app.command()(tune)
app.command()(report)
app.command("simulate")(simulate_)


@app.command()
def sources() -> None:
    """The formats that can be read, and the signals that each can and cannot feed."""
    signals = read(None).learners()
    text: list[str] = []
    for name, source in available().items():
        can = [signal for signal, learner in signals.items() if learner.needs in source.feeds]
        cannot = [signal for signal in signals if signal not in can]
        lacks = [word for word in INPUTS if word not in source.feeds]
        text += [
            f"{name}: {source.title}",
            f"    feeds      {', '.join(can) or 'no signal by itself'}",
            f"    cannot     {', '.join(cannot) or 'every signal is fed'}",
            f"    lacks      {', '.join(lacks) or 'nothing'}",
            f"    mind       {source.limits}",
        ]
    screen.page([*text, "", "lacks: " + "; ".join(f"{word} = {meaning}" for word, meaning in INPUTS.items())])


@app.command()
def check(config: Annotated[Path, typer.Argument(help="A configuration file.")]) -> None:
    """Check a configuration; every mistake names the file, the key and what was expected."""
    given = _config(config)
    typer.echo(
        f"{config}: good. {len(given.signals)} signals, {given.budget.alerts_per_day:g} alerts a day, mode {given.respond.mode}."
    )


@app.command()
def topics(
    config: Annotated[Path | None, typer.Option(help="TOML file laid over the default configuration; its [kafka] says where.")] = None,
    check: Annotated[bool, typer.Option("--check", help="Only look: make and alter nothing.")] = False,
    fix: Annotated[bool, typer.Option("--fix", help="Alter settings that differ; never a partition count.")] = False,
    raw: Annotated[bool, typer.Option("--raw", help="Make the raw topics that are missing, too.")] = False,
) -> None:
    """Make the topics on the broker, and check that they are as the workers need them."""
    from replay.topics import run_topics

    if check and (fix or raw):
        _fail("--check only looks; it goes with neither --fix nor --raw", MISTAKE)
    given = _config(config)
    try:
        good = run_topics(given.kafka, check=check, fix=fix, raw=raw, say=typer.echo, complain=_complain)
    except KafkaError as error:
        _fail(str(error), BROKER)
    except KeyboardInterrupt:
        _fail("interrupted", 130)
    if not good:
        raise typer.Exit(TOPICS)


@app.command()
def explain(
    alert: Annotated[str, typer.Argument(help="An alert's id, or its first characters.")],
    alerts: Annotated[Path | None, typer.Option(help="The alert file; the last run's if not given.")] = None,
) -> None:
    """Explain an alert: what was seen, what was expected, what would have been normal."""
    path = alerts or screen.last_alerts()
    found = {}
    bad = 0
    try:
        with path.open("rb") as file:
            for line in file:
                try:
                    read_ = ocsf.alert_of(line)
                except ocsf.NotAnAlert:
                    bad += 1
                    continue
                if alert and read_.uid.startswith(alert):
                    found[read_.uid] = read_
    except OSError as error:
        _fail(f"{path}: {error.strerror}; name an alert file with --alerts", UNREADABLE)
    if bad:
        errors.print(f"tocsin: {path}: {bad} lines are not alerts of ours and were passed over")
    if not found:
        _fail(f"no alert {alert!r} in {path}", NOTHING)
    if len(found) > 1:
        _fail(f"{alert!r} is the beginning of {len(found)} alerts: {', '.join(sorted(found)[:5])}", MISTAKE)
    typer.echo(explained(next(iter(found.values()))))


app.command()(worker)
app.command("accept-topic")(accept)
app.command()(skip)


app.add_typer(control.app, name="control")
app.add_typer(dlq.app, name="dlq")
app.add_typer(state.app, name="state")
respond.hook(app)
policy.hook(app)
approvals.hook(app)
ledger.hook(app)
kpi.hook(app)


def _version() -> str:
    return metadata.version("tocsin")


def main() -> None:
    """Run the command."""
    give_back()
    asyncio.set_event_loop_policy(Policy())
    app()


if __name__ == "__main__":
    main()
