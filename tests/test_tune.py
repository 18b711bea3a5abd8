"""Tuning: configurations side by side, feedback, labels, the smallest change that helps, in one process or several."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tomllib
from pathlib import Path

import msgspec
import pytest

from connectors.event import HOUR, MINUTE
from connectors.trace import TraceError
from detector.config import ConfigError, parse
from replay.compare import Score, cheapest, pairs, suggestion, verdicts
from replay.feedback import Opinion, answer, judged, kept, read_feedback, unheard
from replay.simulate.labels import Label
from replay.trials import Case, Subject, Trial, run, run_all, workers
from replay.variants import Variant, changed, differences, flat, read_variant, sweep, toml
from tests.test_pipeline import office

A = Variant(name="A", text="[budget]\nalerts_per_day = 2\n")
T0 = 1_772_409_600_000_000


@pytest.fixture(scope="module")
def subject(tmp_path_factory: pytest.TempPathFactory) -> Subject:
    path = tmp_path_factory.mktemp("tune") / "conn.log"
    path.write_bytes(b"\n".join(office(2.0)) + b"\n")
    return Subject(paths=[str(path)])


def case(uid: str, blamed: str, opened: int, last: int | None = None, **more: object) -> Case:
    more["named"] = dict.fromkeys(more.get("named", [blamed]), opened)  # type: ignore[call-overload]
    more["records"] = [(*each, opened)[:3] for each in more.get("records", [])]  # type: ignore[attr-defined]
    given: dict[str, object] = {
        "uid": uid, "line": "main", "notice": False, "blamed": blamed, "role": "actor", "opened": opened,
        "first": opened, "last": opened if last is None else last, "told": [opened], "severity": 3, "score": 9.0, "threshold": 8.0,
        "signals": [], "headline": "",
    }  # fmt: skip
    return Case(**(given | more))  # type: ignore[arg-type]


def trial(*cases: Case, name: str = "A", days: float = 10.0) -> Trial:
    many = len(cases)
    return Trial(
        name=name, events=1000, days=days, first=T0, last=T0, alerts=many, alerts_per_day=many / days, cases=list(cases), seconds=1.0,
        peak_bytes=1,
    )  # fmt: skip


def label(scenario: str, *who: str, first: int = T0, last: int = T0 + HOUR, **more: object) -> Label:
    return Label(scenario=scenario, first="", last="", first_us=first, last_us=last, principals=list(who), **({"records": {}} | more))  # type: ignore[arg-type]


def scored(name: str, per_day: float, caught: int, **changes: object) -> Score:
    return Score(
        name=name, changes=dict(changes), alerts=1, alerts_per_day=per_day, caught=caught, scenarios=9, median_delay_seconds=None,
        median_delay_events=None, benign_alerts=0, false_alerts=0, true_kept=0, true_known=0, false_kept=0, false_known=0, seconds=1.0,
        events_per_second=1.0, peak_bytes=1,
    )  # fmt: skip


def test_the_same_alert_gained_lost_and_moved_are_told_apart() -> None:
    a = trial(case("x", "user:a", T0), case("y", "user:b", T0), case("z", "user:c", T0, T0 + HOUR))
    b = trial(case("x", "user:a", T0), case("w", "user:d", T0), case("v", "user:c", T0 + 30 * MINUTE))
    found = {(pair.kind, (pair.a or pair.b).blamed): pair.shift for pair in pairs(a, b)}  # type: ignore[union-attr]
    assert found == {("same", "user:a"): 0.0, ("lost", "user:b"): 0.0, ("moved", "user:c"): 1800.0, ("gained", "user:d"): 0.0}


def test_an_alert_on_the_same_identity_days_later_is_another() -> None:
    kinds = [pair.kind for pair in pairs(trial(case("x", "user:a", T0)), trial(case("y", "user:a", T0 + 48 * HOUR)))]
    assert sorted(kinds) == ["gained", "lost"]


def test_of_several_that_could_match_the_nearest_do() -> None:
    a = trial(case("a1", "user:a", T0), case("a2", "user:a", T0 + 2 * HOUR))
    b = trial(case("b1", "user:a", T0 + 2 * HOUR + MINUTE))
    matched = {pair.a.uid: pair.b.uid for pair in pairs(a, b) if pair.a and pair.b}
    assert matched == {"a2": "b1"}


def test_a_scenario_is_caught_by_an_alert_that_names_who_is_behind_it_in_time() -> None:
    found = verdicts(
        trial(
            case("before", "user:a", T0 - HOUR),
            case("hit", "model:m", T0 + 10 * MINUTE, named=["model:m", "user:a"], records=[("conn.log", 7), ("conn.log", 3)]),
            case("late", "user:b", T0 + 30 * HOUR),
        ),
        [label("steal", "user:a", records={"conn.log": [3, 5, 7]}), label("drip", "user:b", slow=True), label("away", "user:z")],
    )
    assert [(each.scenario, each.uid, each.delay_seconds, each.delay_events) for each in found] == [
        ("steal", "hit", 600.0, 3),
        ("drip", "", None, None),
        ("away", "", None, None),
    ]


def test_an_alert_with_the_records_of_one_scenario_is_not_held_against_another() -> None:
    labels = [
        label("hoard", "user:a", records={"slurm.jsonl": [4]}),
        label("release", "user:a", benign=True, records={"conn.log": [1]}),
    ]
    found = verdicts(trial(case("x", "user:a", T0 + MINUTE, records=[("slurm.jsonl", 4)])), labels)
    assert [each.uid for each in found] == ["x", ""]


def test_feedback_is_matched_by_id_else_by_identity_and_time(tmp_path: Path) -> None:
    path = tmp_path / "feedback.jsonl"
    path.write_text(
        '{"uid": "x", "verdict": "true_positive", "note": "real"}\n\n'
        '{"blamed": "user:b", "time": "2026-03-02T00:30:00Z", "verdict": "false_positive"}\n'
        '{"uid": "gone", "verdict": "false_positive"}\n'
    )
    opinions = read_feedback(path)
    a = trial(case("x", "user:a", T0), case("y", "user:b", T0))
    b = trial(case("x2", "user:a", T0 + HOUR))
    heard = judged(opinions, [a, b])
    assert kept(heard, a, "true_positive") == (1, 1)
    assert kept(heard, b, "true_positive") == (1, 1)
    assert (kept(heard, a, "false_positive"), kept(heard, b, "false_positive")) == ((1, 2), (0, 2))
    said = answer(b.cases[0], heard)
    assert said is not None
    assert said.opinion.note == "real"
    assert answer(case("q", "user:q", T0), heard) is None


def test_an_alert_that_was_there_beside_the_rejected_one_is_another() -> None:
    opinions = [Opinion(uid="x", verdict="false_positive")]
    both = trial(case("x", "user:a", T0), case("y", "user:a", T0 + HOUR))
    rid, moved = trial(case("y", "user:a", T0 + HOUR)), trial(case("z", "user:a", T0 + MINUTE))
    heard = judged(opinions, [both, rid, moved])
    assert [kept(heard, each, "false_positive") for each in (both, rid, moved)] == [(1, 1), (0, 1), (1, 1)]
    assert answer(rid.cases[0], heard) is None
    assert answer(moved.cases[0], heard) is heard[0]


def test_the_last_opinion_on_an_alert_counts_and_those_on_none_are_counted(tmp_path: Path) -> None:
    lines = [
        {"uid": "x", "verdict": "false_positive"},
        {"uid": "nobody", "verdict": "false_positive"},
        {"blamed": "user:a", "time": "2026-03-02T00:00:00Z", "verdict": "false_positive"},
        {"uid": "x", "verdict": "true_positive"},
        {"blamed": "user:a", "time": "2026-03-02T01:00:00+01:00", "verdict": "true_positive"},
    ]
    (tmp_path / "f").write_text("".join(f"{json.dumps(each)}\n" for each in lines))
    opinions = read_feedback(tmp_path / "f")
    found = trial(case("x", "user:a", T0))
    heard = judged(opinions, [found])
    assert kept(heard, found, "true_positive") == (2, 2)
    assert kept(heard, found, "false_positive") == (0, 1)
    assert unheard(heard, [found]) == 1


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ('{"uid": "x"}', "verdict"),
        ('{"uid": "x", "verdict": "maybe"}', "line 1"),
        ('{"verdict": "true_positive"}', "expected uid, or blamed and time"),
        ('{"blamed": "user:b", "time": "2026-03-02T00:30:00", "verdict": "true_positive"}', "offset"),
        ("nonsense", "line 1"),
        ('{"uid": "x", "verdict": "true_positive", "extra": 1}', "extra"),
    ],
)
def test_a_wrong_line_of_feedback_is_named(tmp_path: Path, line: str, said: str) -> None:
    (tmp_path / "f").write_text(line)
    with pytest.raises(TraceError, match=said):
        read_feedback(tmp_path / "f")


def test_a_sweep_changes_one_key_and_keeps_the_rest_of_its_base() -> None:
    one, two = sweep(A, "signals.size.weight=0.1,0.9")
    assert two.changes == {"signals.size.weight": 0.9}
    assert differences(parse(A.text), parse(two.text)) == {"signals.size.weight": (0.5, 0.9)}
    assert parse(one.text).budget.alerts_per_day == 2
    assert tomllib.loads(two.text) == {"budget": {"alerts_per_day": 2}, "signals": {"size": {"weight": 0.9}}}


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("budget.alerts_per_day", "expected key=v1,v2"),
        ("budget.alert_per_day=1", "no such key"),
        ("alerts_per_day=1", "did you mean budget.alerts_per_day"),
        ("budget.alerts_per_day=0", "expected a number above 0"),
        ("budget.alerts_per_day=many", "budget.alerts_per_day"),
        ("budget.alerts_per_day=", "expected key=v1,v2"),
        ("budget=1", "no such key"),
    ],
)
def test_a_sweep_that_makes_no_sense_is_refused_by_key(given: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        sweep(A, given)


def test_what_is_written_as_toml_is_read_back_the_same() -> None:
    tree = {
        "changes": [{"name": 'a "b"\n', "since": tomllib.loads("v = 2026-03-01T22:00:00Z")["v"], "scope": ["sa:x/*"]}],
        "calibration": {"equalise_streams": False},
        "respond": {"rules": [{"match": {"min_signals": 2}, "actions": [{"verb": "x"}]}]},
        "signals": {"my.signal": {"weight": 1e-05}, "size": {}},
    }
    assert tomllib.loads(toml(tree)) == tree


def test_several_keys_at_once_reach_their_tables() -> None:
    two = changed(A, {"budget.alerts_per_day": 3, "identities.restricted": ["model:*"]}, "both")
    assert flat(parse(two.text))["identities.restricted"] == ["model:*"]


def test_the_smallest_change_that_catches_more_at_the_same_budget_is_suggested() -> None:
    config, base = parse(""), scored("A", 5.0, 3)
    others = [
        scored("far", 5.0, 6, **{"signals.size.weight": 0.05}),
        scored("near", 5.5, 5, **{"signals.size.weight": 0.4}),
        scored("dear", 50.0, 9, **{"signals.size.weight": 0.45}),
        scored("budget", 6.0, 9, **{"budget.alerts_per_day": 5.1}),
        scored("useless", 1.0, 3, **{"signals.size.weight": 0.49}),
    ]
    best = suggestion(base, others, config)
    assert best is not None
    assert best.name == "near"
    assert suggestion(base, others[2:], config) is None


def test_the_cheapest_budget_catches_what_the_largest_does() -> None:
    variants = [A, *sweep(A, "budget.alerts_per_day=20,5,1")]
    scores = [scored("A", 2.0, 1), scored("20", 18.0, 7), scored("5", 5.0, 7), scored("1", 1.0, 2)]
    found = cheapest(scores, variants)
    assert found is not None
    assert found.name == "5"


def plain(trials: list[Trial]) -> list[object]:
    """Trials without what a clock or the machine adds."""
    return [msgspec.to_builtins(msgspec.structs.replace(each, seconds=0.0, peak_bytes=0)) for each in trials]


def test_a_trial_is_the_run_that_replay_makes_and_says_how_far_it_is(subject: Subject) -> None:
    shares: list[float] = []
    found = run(subject, A, shares.append)
    assert found.alerts == len(found.cases) > 0
    assert found.events == len(office(2.0))
    assert shares[-1] == 1.0
    assert found.cases == sorted(found.cases, key=lambda each: each.opened)
    assert found.cases[0].headline


def test_one_budget_after_another_in_one_process_gives_the_same_as_alone(subject: Subject) -> None:
    variants = [A, *sweep(A, "budget.alerts_per_day=20")]
    assert plain(run_all(subject, variants, 1)) == plain([run(subject, each) for each in variants])


@pytest.mark.slow
def test_processes_of_their_own_give_the_same_trials_in_the_same_order(subject: Subject) -> None:
    variants = sweep(A, "budget.alerts_per_day=1,20,5")
    seen: list[list[float]] = []
    assert plain(run_all(subject, variants, 2, seen.append)) == plain(run_all(subject, variants, 1))
    assert seen


def test_a_trace_that_cannot_be_read_fails_before_any_process_starts(tmp_path: Path) -> None:
    with pytest.raises(TraceError, match=r"without manifest\.json"):
        run_all(Subject(paths=[str(tmp_path)]), [A], 2)


def test_so_many_trials_run_at_once_as_asked_and_never_more_than_there_are() -> None:
    assert workers(8, 3) == 3
    assert workers(None, 1) == 1


def test_a_configuration_file_that_is_wrong_is_named(tmp_path: Path) -> None:
    (tmp_path / "b.toml").write_text("[budget]\nalerts = 3\n")
    with pytest.raises(ConfigError, match=r"b\.toml"):
        read_variant("B", tmp_path / "b.toml")


def tocsin(*arguments: object, code: int = 0) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "replay.cli", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=os.environ | {"COLUMNS": "200"})  # noqa: S603
    assert "Traceback" not in done.stderr, done.stderr
    assert done.returncode == code, (done.stdout, done.stderr)
    return done


@pytest.mark.slow
def test_the_command_compares_suggests_and_writes(subject: Subject, tmp_path: Path) -> None:
    (tmp_path / "a.toml").write_text(A.text)
    (tmp_path / "b.toml").write_text("[budget]\nalerts_per_day = 20\n")
    trace = subject.paths[0]
    both = ("--a", tmp_path / "a.toml", "--b", tmp_path / "b.toml")
    first = json.loads(tocsin("tune", trace, *both, "--jobs", 1, "--json").stdout.splitlines()[-1])
    assert first["differences"] == {"budget.alerts_per_day": [2.0, 20.0]}
    gained = [pair for pair in first["pairs"] if pair["kind"] == "gained"]
    assert gained
    said = {"uid": gained[0]["b"]["uid"], "verdict": "true_positive", "note": "seen <b>by</b> ann"}
    (tmp_path / "feedback").write_text(json.dumps(said))
    shown = tocsin("tune", trace, *both, "--feedback", tmp_path / "feedback", "--out", tmp_path / "out.json").stdout
    assert "only with B" in shown
    assert "true positive seen <b>by</b> ann" in shown
    assert json.loads((tmp_path / "out.json").read_text())["scores"][1]["true_kept"] == 1
    assert "no such key" in tocsin("tune", trace, "--sweep", "signals.nosuch=1", code=2).stderr
    assert "No such file" in tocsin("tune", tmp_path / "none", code=3).stderr
