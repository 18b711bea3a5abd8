"""The benchmark of detection: its figures by hand on tiny cases, its references ranked as they must be, its loading of data."""

from __future__ import annotations

import gzip
import json
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest

from benchmarks import blame, references, verdicts
from benchmarks.datasets import BENIGN, NEITHER, DataSet, Unusable, find, load
from benchmarks.detection import as_json, budget, measure
from benchmarks.frog import BEFORE, LASTING, catch, grown, on_edge, rows_of, usual
from benchmarks.ours import openings, run
from benchmarks.simulated import simulated
from benchmarks.tables import shown, shown_budgets, shown_frogs
from benchmarks.verdicts import DAY, HOUR, Openings
from connectors.event import Block
from connectors.names import Names
from detector.config import parse
from tests.checkout import ROOT

MINUTE = 60_000_000
#: A Monday, 1998-06-01.
START = 896_659_200


def stream(rows: list[tuple[float, str, str, str]]) -> DataSet:
    """Rows (minutes since the start, source, target, attack or "-") as a data set."""
    names = Names()
    ends = [[names.code(f"ip:{row[place]}") for row in rows] for place in (1, 2)]
    times = [START * 1_000_000 + int(row[0] * MINUTE) for row in rows]
    block = Block(
        names, "test", {"time": times, "stream": 0, "action": 1, "actor": ends[0], "object": ends[1], "record": range(len(rows))}
    )
    attacks = tuple(sorted({row[3] for row in rows} - {"-", "ignore"}))
    truth = [{"-": BENIGN, "ignore": NEITHER}.get(row[3], attacks.index(row[3]) if row[3] in attacks else 0) for row in rows]
    return DataSet("test", block, attacks, np.array(truth, np.int32))


def month(days: int = 5, seed: int = 1) -> list[tuple[float, str, str, str]]:
    """Traffic of a few hosts with two servers (minutes, source, target, label); on the last day a scan and a theft of a few rows."""
    draw = np.random.default_rng(seed)
    rows: list[tuple[float, str, str, str]] = [
        (int(draw.integers(0, days * 1440)), f"10.0.0.{draw.integers(1, 9)}", f"10.0.1.{draw.integers(1, 3)}", "-")
        for _ in range(days * 600)
    ]
    late = (days - 1) * 1440 + 600
    rows += [(late + k // 20, "10.9.9.9", f"10.0.2.{k}", "ipsweep") for k in range(120)]
    rows += [(late + 300 + k, "10.0.0.3", "192.168.7.7", "warezclient") for k in range(6)]
    return sorted(rows)


def written(folder: Path, rows: list[tuple[float, str, str, str]], *, label: bool = True, name: str = "darpa98-june") -> Path:
    """Those rows as a file in DARPA's format."""
    lines = ["ts,src,dst,attack" if label else "ts,src,dst"]
    lines += [
        ",".join([str(START + int(60 * at)), source, target, *([attack] if label else [])]) for at, source, target, attack in rows
    ]
    path = folder / f"{name}.csv.gz"
    path.write_bytes(gzip.compress("\n".join(lines).encode()))
    return path


# Figures of rows


def test_auc_is_the_share_of_pairs_in_order_with_ties_as_half() -> None:
    # Pairs (attack, benign): 3>1, 3>2, 2>1, 2=2.
    assert verdicts.auc(np.array([1.0, 2.0, 2.0, 3.0]), np.array([False, False, True, True])) == (1 + 1 + 1 + 0.5) / 4
    assert verdicts.auc(np.zeros(6), np.array([True, False] * 3)) == 0.5


def test_average_precision_takes_rows_of_equal_score_together() -> None:
    # After the first score 1 of 1; after the tie 2 of 3: (1 + 2/3) / 2, in whatever order the tied rows come.
    for second in ([True, False], [False, True]):
        assert verdicts.average_precision(np.array([3.0, 2.0, 2.0]), np.array([True, *second])) == pytest.approx((1 + 2 / 3) / 2)


def test_a_side_without_rows_has_no_figure() -> None:
    assert verdicts.auc(np.ones(3), np.zeros(3, bool)) is None
    assert verdicts.average_precision(np.ones(3), np.zeros(3, bool)) is None


def test_macro_auc_counts_each_name_once_and_hard_mode_leaves_floods_out() -> None:
    rows: list[tuple[float, str, str, str]] = [(k, "1.1.1.1", "2.2.2.2", "-") for k in range(10)]
    rows += [(20 + k, "3.3.3.3", "2.2.2.2", "neptune") for k in range(60)] + [(90 + k, "4.4.4.4", "2.2.2.2", "guest") for k in range(5)]
    rows += [(100, "5.5.5.5", "2.2.2.2", "ignore")]
    data = stream(rows)
    # Above, below and neither above nor below the benign rows.
    scores = np.select([data.truth == data.attacks.index("neptune"), data.truth == data.attacks.index("guest")], [2.0, 0.0], 1.0)
    figures = verdicts.row_figures(scores, data)
    assert figures["auc"] == pytest.approx(60 / 65)
    assert figures["macro_auc"] == 1.0
    assert figures["macro_auc_5"] == 0.5
    assert figures["hard_auc"] == 0.0


# Figures of alerts


def test_an_instance_ends_after_an_hour_without_its_attack() -> None:
    data = stream([(0, "a", "b", "x"), (10, "c", "b", "-"), (60, "a", "b", "x"), (121, "a", "b", "x"), (121, "a", "b", "y")])
    assert verdicts.instances(data).tolist() == [0, -1, 0, 1, 2]


def test_an_alert_counts_strictly_only_where_it_opens_on_a_row_of_the_attack() -> None:
    data = stream(
        [
            (0, "a", "b", "x"),
            (30, "a", "c", "-"),
            (31, "a", "b", "x"),
            (3000, "d", "b", "y"),
            (3001, "d", "e", "-"),
            (6000, "f", "g", "-"),
        ]
    )
    code = {name: data.block.names.find(f"ip:{name}") for name in "abdf"}
    # On x's second row, half an hour in; on a benign row of y's source in y's hour; far from anything.
    found = Openings(np.array([2, 4, 5]), np.array([code["a"], code["d"], code["f"]]))
    figures = verdicts.alert_figures(found, data)
    assert figures["names_caught_at_10_per_day"] == 0.5
    assert figures["names_loose"] == 1.0
    assert figures["precision_at_10_per_day"] == pytest.approx(1 / 3)
    assert figures["delay_seconds"] == 31 * 60
    assert figures["delay_events"] == 2
    assert figures["alerts_per_day"] == pytest.approx(3 / (6000 / 1440))
    assert figures["worst_day"] == 1


def test_a_stream_without_attacks_or_without_alerts_has_figures_too() -> None:
    quiet = stream([(0, "a", "b", "-"), (2000, "a", "b", "-")])
    nothing = Openings(np.zeros(0, np.int64), np.zeros(0, np.int64))
    assert verdicts.alert_figures(nothing, quiet)["names_caught_at_10_per_day"] is None
    assert verdicts.row_figures(np.zeros(2), quiet)["auc"] is None
    assert verdicts.alert_figures(nothing, stream([(0, "a", "b", "x"), (9, "a", "b", "-")]))["names_caught_at_10_per_day"] == 0.0


# Blame and budget


def test_a_scan_is_blamed_on_its_source_and_a_flood_on_its_victim() -> None:
    scan = stream([(k, "s", f"t{k}", "-") for k in range(5)])
    flood = stream([(k, f"s{k}", "t", "-") for k in range(5)])
    hot = np.ones(5, bool)
    assert {scan.block.names.values[code] for code in blame.blame(scan, hot)} == {"ip:s"}
    # The first row is a tie, which blames the actor.
    assert [flood.block.names.values[code] for code in blame.blame(flood, hot)] == ["ip:s0", *["ip:t"] * 4]


def test_rows_that_are_not_hot_are_blamed_on_nobody_and_count_for_nobody() -> None:
    flood = stream([(k, f"s{k}", "t", "-") for k in range(3)])
    assert blame.blame(flood, np.array([False, True, False])).tolist() == [-1, flood.block.actor[1], -1]


def test_partners_are_counted_afresh_every_hour() -> None:
    flood = stream([(0, "s0", "t", "-"), (1, "s1", "t", "-"), (60, "s2", "t", "-")])
    assert blame.blame(flood, np.ones(3, bool)).tolist() == [flood.block.actor[0], flood.block.object[1], flood.block.actor[2]]


def test_the_median_so_far_is_that_of_the_rows_before() -> None:
    bins = np.random.default_rng(3).integers(0, blame.BINS, 500).astype(np.int32)
    found = blame.median_so_far(bins)
    assert found[0] == blame.BINS
    for i in range(1, 500):
        past = np.sort(bins[:i])
        assert past[(i - 1) // 2] <= found[i] <= past[min(i // 2, i - 1)]


def test_a_threshold_tells_nothing_ahead_of_time() -> None:
    rows = stream([(k, f"h{k % 50}", f"t{k % 7}", "-") for k in range(20_000)])
    scores = np.random.default_rng(1).random(20_000)
    whole = blame.openings(rows, scores, 10, 6.0)
    # The same ranks, in another order after row 15,000.
    later = np.concatenate([scores[:15_000], scores[15_000:][::-1]])
    other = blame.openings(rows, later, 10, 6.0)
    assert whole.row[whole.row < 15_000].tolist() == other.row[other.row < 15_000].tolist()
    assert len(whole.row) > 50


@pytest.mark.parametrize("lasting", blame.LASTING)
def test_a_rival_spends_its_budget_and_not_much_more(lasting: float) -> None:
    days = 20
    data = stream([(k * 0.72, f"h{k % 97}", f"t{k % 31}", "-") for k in range(days * 2000)])
    found = blame.openings(data, np.random.default_rng(5).exponential(size=len(data)), 10, lasting)
    assert 6 <= (found.row > len(data) // 4).sum() / (days * 0.75) <= 12


def test_an_identity_gives_one_alert_an_hour_at_most() -> None:
    data = stream([(k * 0.1, f"h{k % 5}", "t", "-") for k in range(50_000)])
    found = blame.openings(data, np.random.default_rng(5).random(len(data)), 100, 0.0)
    cells = list(zip(found.blamed.tolist(), (data.block.time[found.row] // HOUR).tolist(), strict=True))
    assert len(cells) == len(set(cells)) > 10


def test_evidence_adds_up_what_an_edge_rises_by_and_leaks() -> None:
    data = stream([(0, "a", "b", "-"), (1, "a", "b", "-"), (2, "a", "b", "-"), (362, "a", "b", "-")])
    found = blame.evidence(data, np.array([7.0, 9.0, 8.0, 1.0]))
    leak = np.exp(-1 / 360)
    assert found == pytest.approx([2.0, 2.0 * leak + 2.0, (2.0 * leak + 2.0) * leak, (2.0 * leak + 2.0) * leak * np.exp(-1)])


# References


def test_a_perfect_score_beats_all_and_a_random_one_is_at_chance() -> None:
    data = stream(month(6))
    perfect = (data.truth >= 0) * 10.0 + np.random.default_rng(1).random(len(data))
    figures = verdicts.row_figures(perfect, data) | blame.best_figures(data, perfect, 10)
    assert figures["auc"] == figures["hard_auc"] == figures["ap"] == 1.0
    assert figures["names_caught_at_10_per_day"] == 1.0
    luck = references.chance(data)
    assert 0.4 < verdicts.row_figures(luck, data)["auc"] < 0.6  # type: ignore[operator]
    assert blame.best_figures(data, luck, 10)["names_caught_at_10_per_day"] < 1.0  # type: ignore[operator]


def test_ties_of_the_new_edge_are_broken_by_chance_not_by_arrival() -> None:
    # Everybody is new at once: which rows are the strangest must not be a matter of who comes first.
    data = stream([(k * 0.001, f"s{k}", f"t{k}", "-") for k in range(1000)])
    scores = references.new_edge(data)
    assert len(np.unique(scores)) == 1000
    assert abs(np.corrcoef(scores, np.arange(1000))[0, 1]) < 0.1
    assert np.array_equal(scores, references.new_edge(data))
    early = np.arange(1000) < 100
    assert abs(verdicts.auc(scores, early) - 0.5) < 0.1  # type: ignore[operator]
    # In order of arrival the early ones would win outright.
    assert verdicts.auc(-np.arange(1000.0), early) == 1.0


def test_an_edge_is_newer_the_fewer_rows_it_had() -> None:
    data = stream([(0, "a", "b", "-"), (1, "a", "b", "-"), (2, "a", "c", "-"), (3, "a", "b", "-")])
    scores = references.new_edge(data)
    assert min(scores[0], scores[2]) > scores[1] > scores[3]


def test_rows_this_minute_count_up_to_the_row_itself() -> None:
    data = stream([(0, "a", "b", "-"), (0.5, "c", "d", "-"), (0.9, "a", "b", "-"), (1, "a", "b", "-")])
    assert references.rows_this_minute(data).tolist() == [1, 2, 3, 1]


def test_features_lie_between_0_and_1_and_know_nothing_of_what_comes() -> None:
    rows = month(2)
    whole = references.features(stream(rows))
    assert whole.shape == (len(rows), len(references.FEATURES))
    assert whole.min() >= 0.0
    assert whole.max() <= 1.0
    assert np.array_equal(references.features(stream(rows[:500])), whole[:500])


def test_every_detector_that_is_no_counter_scores_before_it_learns() -> None:
    data = stream(month(1))
    x = references.features(data)
    time = data.block.time
    for name, score in references.SLOW.items():
        assert np.array_equal(score(x)[:400], score(x[:400])), name
    assert np.array_equal(references.isolation_forest(x, time)[:300], references.isolation_forest(x[:300], time[:300]))
    assert references.isolation_forest(x, time)[:256].tolist() == [0.0] * 256
    assert np.ptp(references.isolation_forest(x, time)[256:]) > 0


# Data


def test_an_absent_data_set_is_said_and_another_of_the_family_is_found(tmp_path: Path) -> None:
    written(tmp_path, month(1), name="darpa98-july")
    found = find(tmp_path)
    assert found["darpa98-june"] is None
    assert found["darpa98-july"] == tmp_path / "darpa98-july.csv.gz"
    assert len(load("darpa98-july", tmp_path / "darpa98-july.csv.gz").attacks) == 2
    assert all(path is None for path in find(tmp_path / "nothing").values())


def test_a_file_that_is_no_data_set_is_one_sentence(tmp_path: Path) -> None:
    path = tmp_path / "darpa98-june.csv"
    path.write_text("a,b\n1,2\n")
    with pytest.raises(Unusable, match=r"darpa98-june: .*column"):
        load("darpa98-june", path)


def test_labels_never_reach_the_detector_and_without_them_scores_are_the_same(tmp_path: Path) -> None:
    rows = month(3)
    with_labels = load("darpa98-june", written(tmp_path, rows))
    assert with_labels.block.label is None
    assert with_labels.attacked
    (tmp_path / "bare").mkdir()
    bare = load("darpa98-june", written(tmp_path / "bare", rows, label=False))
    assert not bare.attacked
    config = parse("")
    first, second = run(with_labels, config, 10), run(bare, config, 10)
    assert np.array_equal(first.scores, second.scores)
    assert [alert.uid for alert in first.revisions] == [alert.uid for alert in second.revisions]


# The whole


def test_alerts_of_ours_are_known_by_the_row_that_opened_them(tmp_path: Path) -> None:
    data = load("darpa98-june", written(tmp_path, month(6)))
    found = run(data, parse(""), 10)
    assert len(found.scores) == len(data)
    alerts = found.of_line("main")
    assert alerts
    opened = openings(alerts, data)
    assert found.scores[opened.row] == pytest.approx([alert.score for alert in alerts], abs=1e-3)
    ends = np.stack([data.block.actor[opened.row], data.block.object[opened.row]])
    assert (ends == opened.blamed).any(axis=0).all()


def test_every_score_stands_in_the_table_with_every_figure(tmp_path: Path) -> None:
    written(tmp_path, month(4))
    data = load("darpa98-june", tmp_path / "darpa98-june.csv.gz")
    tables, budgets = measure([data], parse(""), [1])
    said = json.loads(json.dumps(as_json(tables, budgets, [])))
    assert list(said["darpa98-june"]) == ["ours", "ours_evidence", *references.NAMES]
    expected = {"auc", "ap", "macro_auc", "macro_auc_5", "hard_auc", "hard_ap"}
    expected |= {"names_caught_at_10_per_day", "precision_at_10_per_day", "alerts_per_day", "false_per_day", "events_per_second"}
    beaten = said["darpa98-june"]["ours"].pop("beaten")
    assert set(beaten) <= {f"wrong_order_{key}" for key in ("auc", "hard_auc", "macro_auc")} | {
        "names_caught",
        "speed_to_half_space_trees",
    }
    assert all(ratio >= 0.0 for ratio in beaten.values())
    for name, figures in said["darpa98-june"].items():
        assert set(figures) == expected, name
    assert said["darpa98-june"]["ours"]["auc"] > said["darpa98-june"]["random"]["auc"] + 0.2
    assert {"budget", "machine", "versions"} <= set(said)
    text = shown("darpa98-june", tables["darpa98-june"])
    assert all(name in text for name in references.NAMES)
    assert "too short" in shown_budgets(budgets)


def test_a_set_without_attacks_has_its_budget_measured() -> None:
    rows = [(at * 10 // 8, source, target, "-") for at, source, target, attack in month(9) if attack == "-"]
    figures = budget(stream(rows), parse(""))
    assert set(figures["main"]) == {"1", "5", "10", "20"}
    assert figures["warm_up_days"] == 4.0
    assert "too short to tell 20 % at 1 (" in figures["remark"]
    assert "depend" not in figures["remark"]


def test_the_command_prints_one_json_and_says_what_is_absent(tmp_path: Path) -> None:
    done = subprocess.run(  # noqa: S603 - our own module
        [sys.executable, "-m", "benchmarks.detection", "--data", str(tmp_path), "--only", "darpa98-june", "westermo-left", "--json"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["budget"] == {}
    assert "darpa98-june: absent" in done.stderr
    assert "westermo-left: absent" in done.stderr


def test_the_simulators_scenarios_are_a_set_with_the_truth_of_their_labels() -> None:
    data = simulated(parse(""), days=4, scale=0.3)
    assert {"stolen-token", "bulk-pull", "registry-probing"} <= set(data.attacks)
    many = np.bincount(data.truth[data.truth >= 0], minlength=len(data.attacks))
    assert (many > 0).all()
    assert 0.5 < (data.truth == BENIGN).mean() < 1.0
    assert np.all(np.diff(data.block.time) >= 0)
    assert data.block.record.tolist() == list(range(len(data)))


# The frog


def test_a_frog_grows_only_its_edge_by_the_factor_a_day_and_spread_over_the_day() -> None:
    rows = [(day * 1440 + 480 + 20.0 * k, "192.168.1.1", "192.168.1.5", "-") for day in range(30) for k in range(24)]
    rows += [(day * 1440 + 30.0 * k, "10.0.0.1", "10.0.0.2", "-") for day in range(30) for k in range(48)]
    data = stream(sorted(rows))
    edge = "ip:192.168.1.1", "ip:192.168.1.5"
    assert usual(data, edge) == 24
    more = grown(data, edge, 1.3)
    days = np.bincount((more.block.time[rows_of(more, edge)] - data.block.time[0]) // DAY, minlength=30)
    assert days[:BEFORE].tolist() == [24] * BEFORE
    assert days[BEFORE : BEFORE + LASTING] == pytest.approx([24 * 1.3**k for k in range(1, LASTING + 1)], abs=1)
    assert len(more) - len(rows_of(more, edge)) == 30 * 48
    assert (np.diff(more.block.time) >= 0).all()
    last = more.block.time[rows_of(more, edge)]
    minutes = (last[last // DAY == last.max() // DAY] % DAY) // MINUTE
    assert minutes.min() < 520
    assert minutes.max() > 900
    assert rows_of(data, ("ip:9.9.9.9", "ip:8.8.8.8")).tolist() == []


def test_an_alert_before_the_growth_or_on_another_edge_is_no_catch(tmp_path: Path) -> None:
    data = load("darpa98-june", written(tmp_path, month(6)))
    found = run(data, parse(""), 10).revisions
    alert = next(each for each in found if each.blamed == "ip:10.9.9.9")
    piece = max(alert.evidence, key=lambda each: each.score)
    edge = piece.actor, piece.object
    first = on_edge(found, edge, 0)[0]
    assert first[0].blamed in edge
    assert (first[1].actor, first[1].object) == edge
    assert on_edge(found, (piece.actor, "ip:10.255.0.1"), 0) == []
    after = int(data.block.time[-1]) + 1
    assert on_edge(found, edge, after) == []
    begin = piece.time // DAY * DAY
    assert catch("main", found, edge, 1.3, begin).day == 1
    assert catch("main", found, edge, 1.3, begin).multiple == 1.3
    assert catch("slow", found, edge, 1.3, after).day == 0
    assert "never" in shown_frogs([{"edge": "a -> b", **asdict(catch("slow", found, edge, 1.3, after))}])
