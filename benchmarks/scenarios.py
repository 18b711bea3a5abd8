"""Which of the simulator's scenarios are caught, how soon, and what that costs in alerts.

``python -m benchmarks.scenarios [--days N] [--scale X] [--seeds N ...] [--only NAME ...] [--per-day N] [--config FILE] [--processes N]
[--json]``. Minutes. Each family plays alone on a background of its own seed, so that no attack uses up another's budget. Progress goes
to stderr, the tables to stdout, or with ``--json`` the figures alone.

``caught``         an alert ``opened`` on a record of the scenario, or one that was open ``joined`` it to its evidence; ``slow`` is the
                   slow line, which has a budget of its own
``events``         the scenario's events from its first up to that moment, the first one not counted
``seconds``        from its first event to that moment
``false``          alerts a day that opened on none of the scenario's records; ``slow`` beside it those of the slow line
``best``, ``bar``  the highest score of its events on the main line, and what an alert asked for at that moment: why one was missed
``share``          of a hard case: alerts a day, all of them false, over the budget; ``on it`` opened on its own records
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.detection import machine, versions
from benchmarks.tables import aligned
from connectors.alert import Alert, Evidence
from connectors.event import DAY, SECOND, Block
from connectors.names import Names
from detector.config import Config, ConfigError, read
from detector.pipeline import Cores, Pipeline, quiet_collector
from replay.inputs import open_inputs
from replay.simulate.labels import LABELS, Label, read_labels
from replay.simulate.scenarios import available
from replay.simulating import write_trace

#: The background: long enough for baselines and for what takes days, its size that of a demo.
DAYS, SCALE, SEEDS = 10, 1.0, (1, 2, 3)
PER_DAY = 5.0
#: An alert on somebody behind an attack counts loosely until so long after its last record.
AFTER = 6 * 3600 * SECOND


@dataclass
class Seen:
    """What the detector made of a trace: alert revisions that stand on evidence; of the labelled rows their time, score and the bar of
    the main line at that moment."""

    revisions: list[Alert] = field(default_factory=list)
    times: list[int] = field(default_factory=list)
    scores: list[float] = field(default_factory=list)
    bars: list[float] = field(default_factory=list)
    days: float = 0.0
    events: int = 0


@dataclass
class Figures:
    """What came of one scenario on one background. ``events`` and ``seconds`` are None where it was not caught."""

    scenario: str
    seed: int
    benign: bool
    slow: bool
    caught: str = ""
    events: int | None = None
    seconds: float | None = None
    signal: str = ""
    named: bool = False
    false_a_day: float = 0.0
    slow_a_day: float = 0.0
    on_it: int = 0
    rows: int = 0
    best: float = 0.0
    bar: float = 0.0
    said: str = ""


def observe(folder: Path, config: Config, labels: list[Label]) -> Seen:
    """Replay a trace as ``tocsin replay`` does, and watch the labelled rows."""
    names, cores, seen = Names(), Cores(config), Seen()
    inputs = open_inputs([folder], None, None, names, 4096)
    marked = [
        np.array(sorted({number for label in labels for number in label.records.get(Path(log.path).name, [])})) for log in inputs.logs
    ]

    def watch(block: Block, scores: np.ndarray) -> None:
        mine = np.zeros(len(block), np.bool_)
        for number, records in enumerate(marked):
            here = block.partition == number
            mine |= here & np.isin(block.record, records) if len(records) else False
        if mine.any():
            bar = cores.fusion.state.budget.threshold
            seen.times += block.time[mine].tolist()
            seen.scores += scores[mine].tolist()
            seen.bars += [bar] * int(mine.sum())

    pipeline = Pipeline(cores, names=names, on_alert=seen.revisions.append, scores=watch)
    with quiet_collector():
        for tally in pipeline.run(list(inputs.logs)):
            seen.events, seen.days = tally.events, (tally.last - tally.first) / DAY
    seen.revisions = [alert for alert in seen.revisions if alert.evidence]
    return seen


def on_scenario(alert: Alert, label: Label) -> list[Evidence]:
    """The evidence of an alert that is a record of the scenario."""
    records = {name: set(numbers) for name, numbers in label.records.items()}
    return [piece for piece in alert.evidence if piece.offset in records.get(Path(piece.partition).name, ())]


def judged(seen: Seen, label: Label, seed: int) -> Figures:
    """The figures of one scenario."""
    out = Figures(label.scenario, seed, label.benign, label.slow, rows=len(seen.times))
    hits = [(alert, mine) for alert in seen.revisions if alert.activity != "close" and (mine := on_scenario(alert, label))]
    if hits:
        alert, mine = min(hits, key=lambda hit: (hit[0].time, hit[0].revision))
        times = np.sort(np.array(seen.times, np.int64))
        how = "opened" if alert.activity == "open" else "joined"
        strongest = max(mine, key=lambda piece: piece.score)
        out.caught = f"{how}, slow" if alert.line == "slow" else how
        out.events = max(int((times < alert.time).sum()) - 1, 0) if len(times) else 0
        out.seconds = round((alert.time - int(times[0])) / SECOND, 1)
        out.signal = strongest.reasons[0].signal if strongest.reasons else ""
        out.said = strongest.reasons[0].text if strongest.reasons else ""
        principals = set(label.principals)
        out.named = bool(principals & {alert.blamed, *alert.principals, *alert.targets})
    if seen.scores:
        best = int(np.argmax(seen.scores))
        out.best, out.bar = round(seen.scores[best], 2), round(seen.bars[best], 2)
    opened = [alert for alert in seen.revisions if alert.activity == "open"]
    own = {alert.uid for alert, _ in hits}
    out.on_it = sum(alert.uid in own for alert in opened)
    false = [alert for alert in opened if label.benign or alert.uid not in own]
    days = max(seen.days, 1.0)
    out.false_a_day = round(sum(alert.line == "main" for alert in false) / days, 2)
    out.slow_a_day = round(sum(alert.line == "slow" for alert in false) / days, 2)
    return out


def measure(name: str, seed: int, days: int, scale: float, config: Config) -> Figures:
    """Simulate, replay and judge one scenario."""
    with tempfile.TemporaryDirectory(prefix="tocsin-scenario-") as scratch:
        folder = Path(scratch)
        write_trace(folder, days=days, seed=seed, scale=scale, scenarios=[name])
        (label,) = read_labels(folder / LABELS)
        return judged(observe(folder, config, [label]), label, seed)


def measure_all(names: Sequence[str], seeds: Sequence[int], days: int, scale: float, config: Config, processes: int) -> list[Figures]:
    """Every scenario on every seed, in order of name and seed."""
    found: dict[tuple[str, int], Figures] = {}
    with ProcessPoolExecutor(processes) as pool:
        jobs = {pool.submit(measure, name, seed, days, scale, config): (name, seed) for seed in seeds for name in names}
        for job in as_completed(jobs):
            found[jobs[job]] = job.result()
            name, seed = jobs[job]
            print(f"{len(found)}/{len(jobs)} {name}, seed {seed}: {found[name, seed].caught or 'nothing'}", file=sys.stderr, flush=True)
    return [found[name, seed] for name in names for seed in seeds]


def summed_up(found: Sequence[Figures], per_day: float) -> dict[str, Any]:
    """The figures that the issue asks for."""
    attacks = [each for each in found if not each.benign]
    sudden = [each.events for each in attacks if not each.slow and each.events is not None]
    families = sorted({each.scenario for each in attacks})
    missed = sorted({each.scenario for each in attacks if not each.caught})
    hard = [each for each in found if each.benign]
    return {
        "families": len(families),
        "caught_on_every_seed": len(families) - len(missed),
        "caught": round(sum(bool(each.caught) for each in attacks) / max(len(attacks), 1), 3),
        "missed": [f"{each.scenario}, seed {each.seed}" for each in attacks if not each.caught],
        "median_delay_events": statistics.median(sudden) if sudden else None,
        "false_a_day": round(statistics.mean(each.false_a_day for each in attacks), 2) if attacks else None,
        "slow_a_day": round(statistics.mean(each.slow_a_day for each in attacks), 2) if attacks else None,
        "hard_case_share": round(max(each.false_a_day for each in hard) / per_day, 2) if hard else None,
    }


def shown(found: Sequence[Figures]) -> str:
    """The table for people."""
    rows = [["scenario", "seed", "caught", "events", "seconds", "false", "slow", "rows", "best", "bar", "on it", "first signal"]]
    for each in found:
        delay = ["-", "-"] if each.events is None else [f"{each.events:,}", f"{each.seconds:,.0f}"]
        kind = " (hard case)" if each.benign else " (slow)" if each.slow else ""
        figures = [f"{each.false_a_day:.2f}", f"{each.slow_a_day:.2f}", f"{each.rows:,}", f"{each.best:.1f}", f"{each.bar:.1f}"]
        rows.append([each.scenario + kind, str(each.seed), each.caught or "-", *delay, *figures, str(each.on_it), each.signal])
    return aligned(rows)


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--days", type=int, default=DAYS)
    parser.add_argument("--scale", type=float, default=SCALE)
    parser.add_argument("--seeds", type=int, nargs="+", default=list(SEEDS), metavar="N")
    parser.add_argument("--only", nargs="+", metavar="NAME", help="only these scenarios")
    parser.add_argument("--per-day", type=float, default=PER_DAY, help="alerts a day of the main line")
    parser.add_argument("--config", type=Path, help="a configuration over the default one")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    unknown = [name for name in given.only or [] if name not in available()]
    if unknown:
        parser.error(f"--only {' '.join(unknown)}: there are {', '.join(available())}")
    try:
        config = read(given.config)
    except ConfigError as error:
        parser.error(str(error))
    config.budget.alerts_per_day = given.per_day
    names = given.only or list(available())
    found = measure_all(names, given.seeds, given.days, given.scale, config, given.processes)
    summary = summed_up(found, given.per_day)
    setting = {"days": given.days, "scale": given.scale, "seeds": given.seeds, "alerts_per_day": given.per_day}
    if given.json:
        figures = {"summary": summary, "scenarios": [asdict(each) for each in found]}
        print(json.dumps({"setting": setting, **figures, "machine": machine(), "versions": versions()}))
        return
    said = "\n".join(f"{key.replace('_', ' '):22} {value}" for key, value in summary.items())
    print("\n\n".join([shown(found), said, f"{setting}; {machine()}; {', '.join(f'{k} {v}' for k, v in versions().items())}"]))


if __name__ == "__main__":
    main()
