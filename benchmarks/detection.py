"""What the detector catches, how soon and at what cost in alerts, beside counters and detectors that know less, on recorded data.

``python -m benchmarks.detection [--data DIR] [--only NAME ...] [--config FILE] [--partitions N ...] [--frog] [--json [FILE]]``

Progress goes to stderr, tables to stdout; the figures as JSON to FILE, or alone to stdout. Besides the recorded sets there is
``simulated``: every scenario of the simulator on one background, where a row's attack is its scenario (``benchmarks.scenarios`` plays
them one by one).

``auc``, ``ap``            of single rows, attack against benign (ROC; average precision); ties count half, or come together
``macro_auc``, ``_5``      mean over attack names of at least 50 (5) rows of the AUC against all benign rows
``hard_auc``, ``hard_ap``  without floods and scans, which any counter sees
``names_caught``           share of attack names with an alert that opened on one of their rows, at a budget of 10 alerts a day with the
                           threshold known at that moment. ``loose`` beside it counts alerts on an end of the attack in its hour: chance
                           alone is good at that
``precision``              share of alerts that opened on an attack row; ``false`` the others, a day
``beaten``                 ratios of this run, ours to the best rival's: share of row pairs in the wrong order (1 - AUC, lower is
                           better), names caught, speed against river's HalfSpaceTrees on the same rows
``ours_evidence``          our score plus the evidence accumulated on the identity that a row is blamed on
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import sys
import tempfile
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import references
from benchmarks.blame import best_figures, evidence
from benchmarks.datasets import BENIGN, STEPS, DataSet, Unusable, find, load
from benchmarks.frog import frog
from benchmarks.ours import BATCH, Run, openings, run
from benchmarks.simulated import NAME as SIMULATED
from benchmarks.simulated import simulated
from benchmarks.tables import BUDGETS, Figures, shown, shown_budgets, shown_frogs
from benchmarks.verdicts import DAY, alert_figures, by_attack, row_figures
from connectors.alert import Evidence
from detector.config import Config, ConfigError, read

#: The budget at which attacks must be caught.
PER_DAY = 10.0
#: A set shorter than this has no alerts a day to speak of: only its rows are judged.
FEWEST_DAYS = 2.0
#: Days of warm-up before the budget is measured: a week, less where a set has no second one.
WARM_UP, SHORT_WARM_UP = 7.0, 4.0
#: The figures of ``--json``; what else is printed is under its "details".
FIGURES = (
    "auc",
    "ap",
    "macro_auc",
    "macro_auc_5",
    "hard_auc",
    "hard_ap",
    "names_caught_at_10_per_day",
    "precision_at_10_per_day",
    "alerts_per_day",
    "false_per_day",
    "events_per_second",
)


def say(text: str) -> None:
    """Progress, to whoever watches."""
    print(text, file=sys.stderr, flush=True)


def judged(scores: np.ndarray, data: DataSet, seconds: float) -> Figures:
    """What any score of rows is worth, but for its alerts."""
    figures: Figures = dict(row_figures(scores, data))
    figures["by_attack"] = by_attack(scores, data)
    figures["events_per_second"] = len(data) / seconds if seconds > 0.0 else None
    return figures


def false_per_day(figures: Figures) -> float | None:
    """Alerts a day that opened on no attack."""
    precision = figures["precision_at_10_per_day"]
    return None if precision is None else figures["alerts_per_day"] * (1.0 - precision)


def rival(scores: np.ndarray, data: DataSet, seconds: float) -> Figures:
    """All figures of a score that makes no alerts of its own."""
    figures = judged(scores, data, seconds)
    if data.days >= FEWEST_DAYS:
        figures |= best_figures(data, scores, PER_DAY)
        figures["false_per_day"] = false_per_day(figures)
    return figures


def own(found: Run, data: DataSet) -> Figures:
    """All figures of a pass of ours. Alerts are those of the main line; the slow one has a budget of its own."""
    figures = judged(found.scores, data, found.seconds)
    if data.days >= FEWEST_DAYS:
        figures |= alert_figures(openings(found.of_line("main"), data), data)
        figures["false_per_day"] = false_per_day(figures)
        figures["slow_per_day"] = len(found.of_line("slow")) / data.days
    if data.name in STEPS:
        figures["steps"] = steps(data.name, found.strongest)
    return figures


def steps(name: str, strongest: list[Evidence]) -> dict[str, int | None]:
    """The rank of each attack step among the strongest pieces of evidence, None where it is not among them."""
    ranks: dict[str, int | None] = {}
    for step, (actor, other, details) in STEPS[name].items():
        places = [
            k for k, piece in enumerate(strongest, 1) if (piece.actor, piece.object) == (actor, other) and piece.detail in details
        ]
        ranks[step] = places[0] if places else None
    return ranks


def ours(data: DataSet, config: Config, partitions: list[int]) -> dict[str, Figures]:
    """Our rows of a set's table."""
    table = {}
    for many in partitions:
        say(f"{data.name}: ours{f', {many} partitions' if many > 1 else ''}")
        found = run(data, config, PER_DAY, many)
        if many == partitions[0]:
            table["ours"] = own(found, data)
            accumulated = found.scores + evidence(data, found.scores)
            table["ours_evidence"] = rival(accumulated, data, found.seconds)
        else:
            table[f"ours_{many}_partitions"] = own(found, data)
    return table


def budget(data: DataSet, config: Config) -> Figures:
    """Alerts a day on benign rows at each budget, after the warm-up; by line, with what the set is too short to tell."""
    warm = WARM_UP if data.days >= 2 * WARM_UP else SHORT_WARM_UP
    days = data.days - warm
    if days < FEWEST_DAYS:
        return {"remark": f"{data.days:.1f} days: too short to tell anything after {warm:g} days of warm-up"}
    begin = data.block.time[0] + warm * DAY
    figures: Figures = {"days": round(days, 1), "warm_up_days": warm, "main": {}, "slow": {}}
    short, scores = [], []
    for per_day in BUDGETS:
        found = run(data, config, per_day)
        scores.append(found.scores)
        for line in ("main", "slow"):
            figures[line][str(per_day)] = sum(alert.time >= begin for alert in found.of_line(line)) / days
        # Of n alerts that come as they please the count varies by sqrt(n).
        if per_day * days < 25:
            short.append(f"{per_day} (chance alone moves it by {100 / math.sqrt(per_day * days):.0f} %)")
    figures["remark"] = f"too short to tell 20 % at {', '.join(short)}" if short else ""
    if any(not np.array_equal(each, scores[0]) for each in scores):
        figures["remark"] += "; scores depend on the budget"
    return figures


def beaten(table: dict[str, Figures]) -> Figures:
    """Ours over the best rival's, where both are known; of chance nothing is asked."""

    def best(key: str) -> float:
        found = [figures.get(key) for name, figures in table.items() if name in references.NAMES and name != "random"]
        return max((value for value in found if value is not None), default=0.0)

    mine, trees = table["ours"], table["half_space_trees"]
    ratios: Figures = {}
    for key in ("auc", "hard_auc", "macro_auc"):
        if mine.get(key) is not None and best(key) < 1.0:
            ratios[f"wrong_order_{key}"] = (1.0 - mine[key]) / (1.0 - best(key))
    if mine.get("names_caught_at_10_per_day") is not None and (rivals := best("names_caught_at_10_per_day")) > 0.0:
        ratios["names_caught"] = mine["names_caught_at_10_per_day"] / rivals
    if mine["events_per_second"] and trees["events_per_second"]:
        ratios["speed_to_half_space_trees"] = mine["events_per_second"] / trees["events_per_second"]
    return ratios


def data_sets(folder: Path, only: list[str] | None, config: Config) -> Iterator[DataSet]:
    """The sets there are; those that are not are said."""
    if only is None or SIMULATED in only:
        say(f"{SIMULATED}: every scenario on one background")
        yield simulated(config)
    for name, path in find(folder).items():
        if only is not None and name not in only:
            continue
        if path is None:
            say(f"{name}: absent from {folder}")
            continue
        try:
            data = load(name, path)
        except Unusable as error:
            say(str(error))
            continue
        yield data


def measure(sets: list[DataSet], config: Config, partitions: list[int]) -> tuple[dict[str, dict[str, Figures]], dict[str, Figures]]:
    """(tables of the sets with attacks, budgets of the benign rows of all)."""
    attacked = [data for data in sets if data.attacked]
    tables: dict[str, dict[str, Figures]] = {}
    budgets: dict[str, Figures] = {}
    if sets:
        say("compiling")
        for many in {1, *partitions}:
            run(sets[0].where(np.arange(len(sets[0])) < BATCH, ""), config, PER_DAY, many)
    with tempfile.TemporaryDirectory() as folder:
        x = {data.name: references.features(data) for data in attacked}
        apart = references.Apart(x, Path(folder))
        try:
            for data in attacked:
                tables[data.name] = ours(data, config, partitions)
                say(f"{data.name}: references")
                for name, scored in references.quick(data, x[data.name]).items():
                    tables[data.name][name] = rival(scored.scores, data, scored.seconds)
            for data in sets:
                benign = data.where(data.truth == BENIGN, f"{data.name}-benign") if data.attacked else data
                if data.days >= FEWEST_DAYS:
                    say(f"{benign.name}: alert budget")
                    budgets[benign.name] = budget(benign, config)
            say("waiting for the slow references")
            for data in attacked:
                for name, scored in apart.results(data.name).items():
                    tables[data.name][name] = rival(scored.scores, data, scored.seconds)
        finally:
            apart.stop()
    order = ["ours", *(f"ours_{many}_partitions" for many in partitions), "ours_evidence", *references.NAMES]
    for table in tables.values():
        table["ours"]["beaten"] = beaten(table)
    return {name: {row: table[row] for row in order if row in table} for name, table in tables.items()}, budgets


def rounded(value: Any) -> Any:
    """Figures with four decimals, everything else as it is."""
    if isinstance(value, dict):
        return {key: rounded(each) for key, each in value.items()}
    return round(value, 4) if isinstance(value, float) else value


def as_json(tables: dict[str, dict[str, Figures]], budgets: dict[str, Figures], frogs: list[dict[str, object]]) -> dict[str, Any]:
    """The figures in the form that ``--json`` prints."""
    kept = (*FIGURES, "steps", "beaten")
    said: dict[str, Any] = {
        name: {row: {key: figures[key] for key in kept if key in figures} for row, figures in table.items()}
        for name, table in tables.items()
    }
    said["budget"] = {name: figures["main"] for name, figures in budgets.items() if "main" in figures}
    said["details"] = {
        **{
            name: {row: {key: value for key, value in figures.items() if key not in kept} for row, figures in table.items()}
            for name, table in tables.items()
        },
        "budget": {name: {key: value for key, value in figures.items() if key != "main"} for name, figures in budgets.items()},
        "frog": frogs,
    }
    said |= {"machine": machine(), "versions": versions()}
    found: dict[str, Any] = rounded(said)
    return found


def machine() -> str:
    """Where the speeds were measured."""
    return f"{platform.machine()} {platform.system()}, {os.cpu_count()} cores, Python {platform.python_version()}"


def versions() -> dict[str, str]:
    """Of what the figures depend on."""
    return {name: metadata.version(name) for name in ("numpy", "numba", "river", "scikit-learn", "pyarrow")}


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--data", type=Path, default=Path(__file__).resolve().parents[2] / "shared" / "data", help="folder of data sets"
    )
    parser.add_argument("--only", nargs="+", metavar="NAME", help="only these data sets")
    parser.add_argument("--config", type=Path, help="a configuration over the default one")
    parser.add_argument(
        "--partitions", type=int, nargs="+", default=[1, 4], metavar="N", help="also with the work split N ways; the first is 'ours'"
    )
    parser.add_argument("--frog", action="store_true", help="also the boiling frog (minutes)")
    parser.add_argument("--json", nargs="?", const="-", metavar="FILE", help="the figures as JSON, to a file, or alone to stdout")
    given = parser.parse_args()
    known = [SIMULATED, *find(given.data)]
    unknown = [name for name in given.only or [] if name not in known]
    if unknown:
        parser.error(f"--only {' '.join(unknown)}: there are {', '.join(known)}")
    if min(given.partitions) < 1:
        parser.error("--partitions: expected numbers from 1 up")
    try:
        config = read(given.config)
    except ConfigError as error:
        parser.error(str(error))
    sets = []
    for data in data_sets(given.data, given.only, config):
        sets.append(data)
        say(f"{data.name}: {len(data):,} rows, {data.days:.2f} days, {len(data.attacks)} attack names, {data.rejected} rejected")
    tables, budgets = measure(sets, config, list(dict.fromkeys(given.partitions)))
    frogs = []
    for data in sets:
        if given.frog and data.name == "darpa98-june":
            say("boiling frog")
            frogs = frog(data.where(data.truth == BENIGN, data.name), config, PER_DAY)
    if given.json == "-":
        print(json.dumps(as_json(tables, budgets, frogs)))
        return
    if given.json:
        Path(given.json).write_text(json.dumps(as_json(tables, budgets, frogs)), encoding="utf-8")
    parts = [shown(name, table) for name, table in tables.items()]
    parts += [shown_budgets(budgets)] if budgets else []
    parts += [shown_frogs(frogs)] if frogs else []
    print("\n\n".join([*parts, f"{machine()}; {', '.join(f'{name} {version}' for name, version in versions().items())}"]))


if __name__ == "__main__":
    main()
