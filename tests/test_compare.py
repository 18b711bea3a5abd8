"""What counts as caught, by which records, in which log; and what a configuration B is against A."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from connectors.event import HOUR, MINUTE
from connectors.names import Names
from detector.config import ConfigError, parse
from replay import trials
from replay.compare import score, suggestion, verdicts
from replay.labelled import labels_of
from replay.simulate.labels import Label
from replay.trials import Cases, Subject, Trial, run
from replay.variants import MOST, Variant, against, sweep, unlike
from tests.labelled_office import write_office
from tests.test_pipeline import conn
from tests.test_tune import T0, A, case, label, scored, tocsin, trial

BUDGET = Variant(name="A", text="[budget]\nalerts_per_day = 20\n")


def judged(found: Trial, labels: list[Label]) -> tuple[list[str], int | None, int]:
    """(ids of the alerts that caught each scenario, false alerts, scenarios caught)."""
    figures = score(found, A, labels, [])
    return [each.uid for each in verdicts(found, labels)], figures.false_alerts, figures.caught


def test_b_changes_what_a_has_otherwise() -> None:
    b = Variant(name="B", text="[budget]\nalerts_per_day = 10\n[signals.size]\nweight = 0.5\n[signals.fan_out]\nweight = 0.3\n")
    assert against(A, b).changes == {"budget.alerts_per_day": 10.0, "signals.fan_out.weight": 0.3}
    assert against(A, Variant(name="B", text="")).changes["budget.alerts_per_day"] == parse("").budget.alerts_per_day


def test_a_b_that_only_has_a_larger_budget_is_no_suggestion_and_no_change_of_no_key() -> None:
    base = scored("A", 5.9, 3)
    b = against(A, Variant(name="B", text="[budget]\nalerts_per_day = 10\n"))
    rival = scored("one key", 5.0, 9, **{"signals.size.weight": 0.4})
    larger = scored("B", 5.9, 4, **b.changes)
    found = suggestion(base, [larger, rival], parse(""))
    assert found is not None
    assert found.name == "one key"
    assert suggestion(base, [larger], parse("")) is None


def test_an_alert_that_opened_on_other_records_before_an_attack_did_not_catch_it() -> None:
    attack = label("steal", "user:a", records={"conn.log": [50, 51]})
    early = case("early", "user:a", T0 - 5 * HOUR, T0 + HOUR, told=[T0 - 5 * HOUR, T0 + MINUTE], records=[("conn.log", 7)])
    assert judged(trial(early), [attack]) == ([""], 1, 0)


def test_an_alert_that_an_attack_joined_caught_it_when_it_showed_its_record() -> None:
    attack = label("steal", "user:a", records={"conn.log": [50, 51]})
    joined = case("joined", "user:a", T0 - 5 * HOUR, T0 + HOUR, told=[T0 - 5 * HOUR, T0 + MINUTE, T0 + 3 * MINUTE])
    joined.records = [("conn.log", 7, T0 - 5 * HOUR), ("conn.log", 50, T0 + 3 * MINUTE), ("conn.log", 51, T0 + 9 * MINUTE)]
    found = verdicts(trial(joined), [attack])[0]
    assert (found.uid, found.delay_seconds, found.delay_events) == ("joined", 180.0, 1)
    assert judged(trial(joined), [attack]) == (["joined"], 0, 1)


def test_an_alert_on_the_records_that_names_somebody_else_is_neither_a_catch_nor_false() -> None:
    attack = label("steal", "user:a", records={"conn.log": [50]})
    assert judged(trial(case("victim", "host:v", T0, records=[("conn.log", 50)])), [attack]) == ([""], 0, 0)


def test_an_alert_that_names_who_is_behind_it_later_caught_it_then() -> None:
    attack = label("steal", "user:a", records={"conn.log": [50]})
    late = case("late", "host:v", T0, told=[T0, T0 + HOUR], records=[("conn.log", 50)])
    late.named["user:a"] = T0 + HOUR
    assert verdicts(trial(late), [attack])[0].delay_seconds == 3600.0


def test_a_label_without_records_goes_by_name_and_time() -> None:
    plain = label("told", "user:a")
    other = label("steal", "user:a", records={"conn.log": [3]})
    assert judged(trial(case("x", "user:a", T0 + MINUTE)), [plain]) == (["x"], 0, 1)
    assert judged(trial(case("x", "user:a", T0 + MINUTE, records=[("conn.log", 3)])), [plain, other])[0] == ["", "x"]


def revision(activity: str, time: int, *records: int, uid: str = "x") -> Any:
    class Piece:
        def __init__(self, offset: int) -> None:
            self.partition, self.offset = "conn.log", offset

    class Revision:
        line, notice, blamed, role, principals, targets, signals = "main", "", "user:a", "actor", ["user:a"], [f"pod:{time}"], ["size"]
        opened = first = 0
        last = time
        severity, score, threshold = 3, 9.0, 8.0

    made = Revision()
    vars(made).update(uid=uid, activity=activity, time=time, evidence=[Piece(each) for each in records])
    return made


@pytest.fixture
def _bare(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trials, "headline", lambda _: "")


@pytest.mark.usefixtures("_bare")
def test_records_and_names_are_taken_from_every_revision_but_the_last_word() -> None:
    cases = Cases()
    for each in (revision("open", 1, 4), revision("update", 2, 9, 4, 9), revision("close", 3, 77)):
        cases.add(each)
    (held,) = cases.held.values()
    assert held.records == [("conn.log", 4, 1), ("conn.log", 9, 2)]
    assert held.named == {"user:a": 1, "pod:1": 1, "pod:2": 2}
    assert held.told == [1, 2]


@pytest.mark.usefixtures("_bare")
def test_alerts_beyond_what_is_kept_are_counted_once_each(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trials, "MOST_CASES", 1)
    cases = Cases()
    for uid in ("x", "y", "z"):
        cases.add(revision("open", 1, uid=uid))
        cases.add(revision("update", 2, uid=uid))
    assert (list(cases.held), cases.dropped) == (["x"], 2)


def test_a_trial_says_how_many_alerts_it_did_not_keep(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    subject = Subject(paths=[str(write_office(tmp_path / "w"))])
    whole = run(subject, BUDGET)
    monkeypatch.setattr(trials, "MOST_CASES", 1)
    cut = run(subject, BUDGET)
    assert (len(cut.cases), cut.dropped, cut.alerts) == (1, whole.alerts - 1, whole.alerts)
    assert score(cut, BUDGET, [], []).dropped == whole.alerts - 1


def test_what_was_caught_does_not_depend_on_what_else_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Alerts call a log by its path once two share a name; an extra log of the labels' name at the bare path is none of theirs."""
    write_office(tmp_path / "w")
    (tmp_path / "extra").mkdir()
    start = 1_772_409_600.0
    (tmp_path / "extra" / "conn.log").write_bytes(
        b"\n".join(conn(start + i * 60, "10.9.0.1", "10.9.1.1") for i in range(50)) + b"\n",
    )
    monkeypatch.chdir(tmp_path / "extra")
    for given in (["../w"], ["../w", "conn.log"], ["conn.log", "../w"]):
        subject = Subject(paths=given)
        labels = labels_of(subject, subject.open(Names(), verified=True))
        found = verdicts(run(subject, BUDGET), labels)
        assert [bool(each.uid) for each in found] == [True], given
        assert found[0].delay_events is not None, given
    assert [*labels[0].records] == ["../w/conn.log"]


@pytest.mark.slow
def test_a_recording_of_a_labelled_trace_catches_what_the_trace_does(tmp_path: Path) -> None:
    week, events = write_office(tmp_path / "w"), tmp_path / "events"
    tocsin("record", week, "--out", events)
    both = []
    for path in (week, events):
        subject = Subject(paths=[str(path)])
        labels = labels_of(subject, subject.open(Names(), verified=True))
        both.append(verdicts(run(subject, BUDGET), labels))
    assert both[0] == both[1]
    assert both[0][0].uid


def test_each_of_two_traces_has_its_own_records(tmp_path: Path) -> None:
    for name in ("one", "two"):
        write_office(tmp_path / name, more=(label("other", "ip:10.0.0.1", records={"gone.log": [1]}),))
    subject = Subject(paths=[str(tmp_path / "one"), str(tmp_path / "two")])
    labels = labels_of(subject, subject.open(Names(), verified=True))
    assert [[*each.records] for each in labels] == [
        [str(tmp_path / "one" / "conn.log")], ["gone.log"], [str(tmp_path / "two" / "conn.log")], ["gone.log"],
    ]  # fmt: skip


def test_a_repeated_value_is_tried_once_and_too_many_configurations_are_refused() -> None:
    twice = [A, *sweep(A, "budget.alerts_per_day=1,1,2"), *sweep(A, "budget.alerts_per_day=2")]
    assert [each.name for each in unlike(twice)] == ["A", "budget.alerts_per_day=1", "budget.alerts_per_day=2"]
    half, rest = (",".join(str(begin + i) for i in range(MOST // 2)) for begin in (1, 100))
    with pytest.raises(ConfigError, match="65"):
        unlike([A, *sweep(A, f"budget.alerts_per_day={half}"), *sweep(A, f"budget.alerts_per_day={rest}")])
    with pytest.raises(ConfigError, match="at most 64 values"):
        sweep(A, "budget.alerts_per_day=" + ",".join(map(str, range(1, 100_000))))
