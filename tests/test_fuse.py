"""Judging evidence: whom to blame, when an alert opens, what it says, and when it is over."""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Iterator

import msgspec
import numpy as np
import pytest

from connectors.alert import Alert
from connectors.event import DAY, HOUR, MINUTE, SECOND, Action, Block, block_of
from connectors.names import Names
from detector.config import parse
from detector.fuse import REMEMBERED, SHOWN, Fuse, Fusion
from detector.scale import Found
from detector.trails import Trail
from models.calibration import CEILING, EVENTS, EVIDENCE, FIRST, LEARNED, OBJECT_STRANGE, ROW, SCORE, UNIT
from tests.logs import START, row

CONFIG = parse("")
SIGNALS = tuple(name for name, each in CONFIG.learners().items() if each.line == "main")
QUIET = int(CONFIG.fuse.quiet_hours * HOUR)

#: (minute, actor, object, score, first, strange partners of the object); first: 2 a new strange edge, 1 stronger, 0 a repetition,
#: -1 not surprising at all.
Piece = tuple[float, str, str, float, int, int]


def found(pieces: list[Piece], learned: bool = True, names: Names | None = None, details: str = "") -> Found:
    names = names if names is not None else Names()
    rows = [row(names, i, START + round(at * MINUTE), actor, object_, details) for i, (at, actor, object_, *_) in enumerate(pieces)]
    evidence = []
    for i, (_, _, _, score, first, strange) in enumerate(pieces):
        if first < 0:
            continue
        each = np.zeros(EVIDENCE + 2 * len(SIGNALS))
        each[[ROW, SCORE, FIRST, OBJECT_STRANGE, UNIT, LEARNED, CEILING, EVENTS]] = i, score, first, strange, HOUR, learned, 12.0, 1
        each[EVIDENCE] = score
        each[EVIDENCE + 1] = 2.0
        evidence.append(each)
    values = np.ones((len(evidence), len(SIGNALS), 3))
    return Found(block_of(names, "made_up", rows), np.array(evidence).reshape(-1, EVIDENCE + 2 * len(SIGNALS)), values, SIGNALS)


def fusion() -> Fusion:
    """One whose threshold is a little above 8 nats: two thousand cells lie there, more than the budget grants."""
    made = Fusion(CONFIG)
    budget = made.state.budget
    budget.age = 20.0 * DAY
    budget.now = budget.rebuilt = float(START - HOUR)
    budget.hours = {int((START - HOUR) // HOUR): {8 * 16: 2000}}
    made.advance(float(START))
    assert 8.0 < budget.threshold < 8.2
    return made


def judged(pieces: list[Piece], made: Fusion | None = None) -> list[Alert]:
    return (made or fusion()).judge(found(pieces))


def brief(alerts: list[Alert]) -> list[tuple[str, str]]:
    return [(alert.activity, alert.blamed) for alert in alerts]


# --- blame ----------------------------------------------------------------------------------------------------------------------------


def test_on_a_tie_the_actor_is_blamed() -> None:
    (alert,) = judged([(0, "user:a", "model:m", 9.0, 2, 1)])
    assert (alert.blamed, alert.role, alert.principals) == ("user:a", "actor", ["user:a"])


def test_the_source_of_a_scan_is_blamed_once() -> None:
    alerts = judged([(i / 60, "ip:10.0.0.1", f"host:h{i}", 9.0, 2, 1) for i in range(50)])
    assert {alert.blamed for alert in alerts} == {"ip:10.0.0.1"}
    assert [alert.activity for alert in alerts].count("open") == 1


def test_the_victim_of_a_flood_is_blamed_and_those_behind_it_are_named() -> None:
    made = fusion()
    made.judge(found([(0, "ip:10.9.0.0", "host:victim", 7.0, 2, 1)]))
    alerts = judged([(i / 60, f"ip:10.9.0.{i}", "host:victim", 9.0, 2, i + 1) for i in range(1, 50)], made)
    assert {alert.blamed for alert in alerts} == {"host:victim"}
    opened = alerts[0]
    assert (opened.activity, opened.role) == ("open", "object")
    assert opened.principals == ["ip:10.9.0.1"]
    assert 1 < len(alerts[-1].principals) <= SHOWN or len(alerts) == 1


def test_strange_partners_are_counted_by_the_hour() -> None:
    made = fusion()
    judged([(0, "user:a", "model:m", 7.0, 2, 1), (1, "user:a", "model:n", 7.0, 2, 1)], made)
    (alert,) = judged([(2, "user:a", "model:o", 9.0, 2, 2)], made)
    assert alert.blamed == "user:a"
    (later,) = judged([(70, "user:a", "model:p", 9.0, 2, 2)], made)
    assert later.blamed == "model:p"


# --- one evolving alert ---------------------------------------------------------------------------------------------------------------


def test_only_a_score_above_the_threshold_opens_and_it_is_above_not_at() -> None:
    made = fusion()
    at = made.state.budget.threshold
    assert judged([(0, "user:a", "model:m", at, 2, 1)], made) == []
    (alert,) = judged([(1, "user:b", "model:m", at + 0.01, 2, 1)], made)
    assert (alert.score, alert.threshold) == (round(at + 0.01, 4), at)


def test_an_identity_has_one_alert_that_is_updated_only_when_there_is_news() -> None:
    made = fusion()
    first = judged([(0, "user:a", "model:m", 9.0, 2, 1)], made)
    same = judged([(1, "user:a", "model:n", 9.0, 2, 1), (2, "user:a", "model:m", 9.2, 1, 1)], made)
    stronger = judged([(3, "user:a", "model:o", 11.5, 2, 1)], made)
    assert brief(first) == [("open", "user:a")]
    assert all(alert.activity == "update" for alert in same)
    assert brief(stronger) == [("update", "user:a")]
    everything = first + same + stronger
    assert {alert.uid for alert in everything} == {first[0].uid}
    assert [alert.revision for alert in everything] == list(range(1, len(everything) + 1))


def test_the_score_and_the_threshold_of_the_opening_stay_whatever_comes() -> None:
    made = fusion()
    alerts = judged([(i, "user:a", f"model:m{i}", 9.0 + i, 2, 1) for i in range(10)], made)
    alerts += made.advance(float(START + DAY))
    assert len(alerts) > 3
    assert {(alert.score, alert.threshold, alert.opened) for alert in alerts} == {(9.0, alerts[0].threshold, START)}


def test_a_revision_that_went_out_does_not_change_any_more() -> None:
    made = fusion()
    (first,) = judged([(0, "user:a", "model:m", 9.0, 2, 1)], made)
    before = msgspec.json.encode(first)
    judged([(i, "user:a", f"model:n{i}", 12.0 + i, 2, 1) for i in range(1, 20)], made)
    made.advance(float(START + DAY))
    assert msgspec.json.encode(first) == before


def test_repetitions_are_counted_and_keep_an_alert_open_without_a_word() -> None:
    made = fusion()
    judged([(0, "user:a", "model:m", 9.0, 2, 1)], made)
    for hour in range(1, 12):
        assert judged([(hour * 60, "user:a", "model:m", 9.0, 0, 0)], made) == []
    (closed,) = made.advance(float(START + 11 * HOUR + QUIET))
    assert closed.activity == "close"
    assert closed.events == 12


def test_an_alert_tells_of_the_evidence_that_came_before_it() -> None:
    made = fusion()
    assert judged([(i, "user:a", f"model:m{i}", 6.0 + i / 10, 2, 1) for i in range(5)], made) == []
    (alert,) = judged([(10, "user:a", "model:last", 9.0, 2, 1)], made)
    assert [piece.object for piece in alert.evidence] == ["model:last", *(f"model:m{i}" for i in (4, 3, 2, 1, 0))]
    assert (alert.first, alert.last, alert.events, alert.partners) == (START, START + 10 * MINUTE, 6, 6)


def test_no_more_than_the_strongest_pieces_are_shown() -> None:
    made = fusion()
    alerts = judged([(i, "user:a", f"model:m{i}", 9.0 + i / 10, 2, 1) for i in range(40)], made) + made.advance(float(START + DAY))
    assert all(len(alert.evidence) <= SHOWN for alert in alerts)
    assert [piece.score for piece in alerts[-1].evidence] == [round(12.9 - i / 10, 4) for i in range(SHOWN)]


def test_an_edge_is_one_piece_an_hour_at_its_strongest_and_the_next_hour_another() -> None:
    made = fusion()
    judged([(0, "user:a", "model:m", 9.0, 2, 1), (1, "user:a", "model:m", 10.0, 1, 1), (61, "user:a", "model:m", 9.5, 2, 1)], made)
    (closed,) = made.advance(float(START + DAY))
    assert [(piece.score, piece.events) for piece in closed.evidence] == [(10.0, 2), (9.5, 1)]


def test_an_edge_is_one_piece_an_hour_also_where_its_first_row_came_late() -> None:
    made = fusion()
    judged([(5, "user:b", "model:x", 7.0, 2, 1), (1, "user:a", "model:m", 9.0, 2, 1), (6, "user:a", "model:m", 10.0, 1, 1)], made)
    (closed,) = made.advance(float(START + DAY))
    assert [(piece.score, piece.events) for piece in closed.evidence] == [(10.0, 2)]


# --- the end ------------------------------------------------------------------------------------------------------------------------


def test_an_alert_closes_after_quiet_hours_by_a_tick_alone() -> None:
    made = fusion()
    judged([(0, "user:a", "model:m", 9.0, 2, 1)], made)
    assert made.advance(float(START + QUIET - 1)) == []
    (closed,) = made.advance(float(START + QUIET))
    assert (closed.activity, closed.revision, closed.time) == ("close", 2, START + QUIET)
    assert made.advance(float(START + 2 * QUIET)) == []


def test_an_alert_closes_at_its_own_hour_however_late_the_next_row_comes() -> None:
    made = fusion()
    judged([(0, "user:a", "model:m", 9.0, 2, 1), (30, "user:b", "model:m", 9.0, 2, 1)], made)
    alerts = judged([(60 * 24 * 3, "user:c", "model:m", 1.0, -1, 1)], made)
    assert [(alert.activity, alert.blamed, alert.time) for alert in alerts] == [
        ("close", "user:a", START + QUIET),
        ("close", "user:b", START + 30 * MINUTE + QUIET),
    ]


def test_after_its_end_an_identity_may_have_another_alert_with_another_id() -> None:
    made = fusion()
    (first,) = judged([(0, "user:a", "model:m", 9.0, 2, 1)], made)
    alerts = judged([(60 * 9, "user:a", "model:m", 9.0, 2, 1)], made)
    assert brief(alerts) == [("close", "user:a"), ("open", "user:a")]
    assert alerts[0].uid == first.uid != alerts[1].uid


def test_evidence_leaks_away() -> None:
    made = fusion()
    (opened,) = judged([(0, "user:a", "model:m", 9.0, 2, 1)], made)
    (closed,) = made.advance(float(START + QUIET))
    assert opened.evidence_now == pytest.approx(9.0 - CONFIG.fuse.evidence_floor)
    assert closed.evidence_now == pytest.approx(opened.evidence_now * math.exp(-CONFIG.fuse.quiet_hours / CONFIG.fuse.evidence_hours))
    assert closed.evidence_peak == opened.evidence_peak


def test_an_edge_adds_only_what_raises_its_strongest_of_the_hour() -> None:
    many, one = fusion(), fusion()
    judged([(i / 100, "user:a", "model:m", 6.0 + i / 10, 2 if i == 0 else 1, 0) for i in range(60)], many)
    judged([(0.59, "user:a", "model:m", 11.9, 2, 1)], one)
    found = [each.trails.get("user:a") for each in (many, one)]
    assert found[0] is not None
    assert found[1] is not None
    assert found[0].nats == pytest.approx(found[1].nats, rel=0.01)


def test_severity_rises_with_evidence_and_never_falls() -> None:
    made = fusion()
    alerts = judged([(i * 5, "user:a", f"model:m{i}", 12.0, 2, 1) for i in range(15)], made) + made.advance(float(START + DAY))
    severities = [alert.severity for alert in alerts]
    assert severities == sorted(severities)
    assert (severities[0], severities[-1]) == (2, 5)


# --- the budget, the words, the state -------------------------------------------------------------------------------------------------


def test_the_budget_counts_openings_not_updates() -> None:
    made = fusion()
    alerts = judged([(i, "user:a", f"model:m{i}", 9.0 + i, 2, 1) for i in range(10)], made)
    assert len(alerts) > 2
    assert len(made.state.budget.openings) == 1


def test_evidence_that_came_too_late_to_be_learned_says_so() -> None:
    made = fusion()
    (alert,) = made.judge(found([(0, "user:a", "model:m", 9.0, 2, 1)], learned=False))
    assert alert.evidence[0].lowered == ["it came too late to be learned, so it was only scored"]
    (other,) = made.judge(found([(1, "user:b", "model:m", 9.0, 2, 1)]))
    assert other.evidence[0].lowered == []


def test_reasons_name_the_signals_that_were_strange_strongest_first() -> None:
    (alert,) = judged([(0, "user:a", "model:m", 9.0, 2, 1)])
    (piece,) = alert.evidence
    assert [reason.signal for reason in piece.reasons] == list(SIGNALS[:2])
    assert piece.reasons[0].base_rate == pytest.approx(math.exp(-9.0), rel=0.01)
    assert alert.signals == [SIGNALS[0]]
    assert all(reason.text and reason.unit for reason in piece.reasons)
    assert (piece.source, piece.partition, piece.offset, piece.uid) == ("made_up", "0", 0, "u0")


def _busy(n: int, seed: int, disorder: float) -> Found:
    rng = random.Random(seed)
    at, pieces = 0.0, []
    for _ in range(n):
        at += rng.expovariate(1 / 1.5)
        late = rng.uniform(0, disorder)
        who, what = f"user:u{int(8 * rng.random() ** 2)}", f"model:m{rng.randrange(6)}"
        pieces.append((max(at - late, 0.0), who, what, 5.0 + rng.expovariate(0.5), rng.choice([-1, -1, -1, 0, 1, 2]), rng.randrange(4)))
    return found(pieces)


def _parts(whole: Found, places: list[int]) -> Iterator[Found]:
    ends = [0, *places, len(whole.block)]
    for a, b in itertools.pairwise(ends):
        mine = (whole.rows[:, ROW] >= a) & (whole.rows[:, ROW] < b)
        rows = whole.rows[mine].copy()
        rows[:, ROW] -= a
        yield Found(whole.block.take(slice(a, b)), rows, whole.values[mine], whole.signals)


def _played(whole: Found, places: list[int]) -> tuple[list[bytes], bytes]:
    made = fusion()
    alerts = [alert for part in _parts(whole, places) for alert in made.judge(part)]
    alerts += made.advance(float(whole.block.time.max() + DAY))
    return [msgspec.json.encode(alert) for alert in alerts], msgspec.msgpack.encode(made.state)


@pytest.mark.parametrize("seed", range(4))
def test_alerts_and_state_do_not_depend_on_how_rows_are_cut(seed: int) -> None:
    whole = _busy(500, seed, disorder=0.0)
    expected = _played(whole, [])
    assert len(expected[0]) > 20
    rng = random.Random(seed)
    for places in (list(range(1, 500)), sorted(rng.sample(range(1, 500), 20))):
        assert _played(whole, places) == expected


def test_alerts_do_not_depend_on_the_cut_where_rows_are_out_of_order_within_a_minute() -> None:
    whole = _busy(500, 1, disorder=3.0)
    assert _played(whole, list(range(1, 500))) == _played(whole, [])


def test_the_same_evidence_gives_the_same_bytes() -> None:
    assert _played(_busy(200, 3, 2.0), []) == _played(_busy(200, 3, 2.0), [])


@pytest.mark.parametrize("seed", range(2))
def test_what_rests_between_two_copies_says_the_same_when_it_is_at_work_again(seed: int) -> None:
    whole = _busy(500, seed, disorder=0.0)
    expected, made = _played(whole, []), fusion()
    alerts = []
    for part in _parts(whole, list(range(20, 500, 20))):
        alerts += made.judge(part)
        copy = msgspec.msgpack.encode(made.state)
        assert made.dump() == copy
        assert all(isinstance(each, msgspec.Raw) for each in made.state.trails.values())
    alerts += made.advance(float(whole.block.time.max() + DAY))
    assert ([msgspec.json.encode(alert) for alert in alerts], made.dump()) == expected


@pytest.mark.parametrize("seed", [1, 2])
def test_how_many_trails_are_at_work_changes_nothing(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = _busy(2000, seed, disorder=0.0)
    expected, plain, made = _played(whole, []), fusion(), fusion()
    plain.judge(whole)
    monkeypatch.setattr("detector.trails.AT_WORK", 5)
    monkeypatch.setattr("detector.trails.TO_REST", 2)
    alerts = made.judge(whole)
    at_work = [name for name, each in made.state.trails.items() if not isinstance(each, msgspec.Raw)]
    assert 0 < len(at_work) <= 5 < len(made.state.trails)
    assert msgspec.json.encode(made.strongest) == msgspec.json.encode(plain.strongest)
    alerts += made.advance(float(whole.block.time.max() + DAY))
    assert ([msgspec.json.encode(alert) for alert in alerts], made.dump()) == expected


def test_the_state_survives_the_wire_in_the_middle() -> None:
    whole = _busy(400, 9, disorder=0.0)
    one, two = fusion(), fusion()
    first, second = _parts(whole, [230])
    one.judge(first)
    two.state = msgspec.msgpack.decode(msgspec.msgpack.encode(one.state), type=Fuse)
    assert one.state.open
    said = [[msgspec.json.encode(alert) for alert in each.judge(second)] for each in (one, two)]
    assert said[0] == said[1]
    assert msgspec.msgpack.encode(one.state) == msgspec.msgpack.encode(two.state)


def test_what_was_long_ago_is_forgotten() -> None:
    made = fusion()
    judged([(i, f"user:u{i}", "model:m", 7.0, 2, 1) for i in range(50)], made)
    made.advance(float(START + 3 * DAY))
    state = made.state
    assert (state.strange, state.edges, state.trails, state.open) == ({}, {}, {}, {})


def test_an_open_alert_survives_a_flood_of_other_evidence() -> None:
    made = fusion()
    judged([(0, "user:a", "model:m", 9.0, 2, 1)], made)
    for i in range(REMEMBERED - 1):
        made.trails.put(f"user:u{i}", Trail(time=float(START)))
    judged([(1, "user:b", "model:m", 7.0, 2, 1)], made)
    (closed,) = made.advance(float(START + QUIET))
    assert closed.blamed == "user:a"


def test_a_block_without_rows_says_nothing() -> None:
    assert judged([]) == []


def test_a_stream_younger_than_a_day_has_its_alerts_on_probation() -> None:
    young, old = fusion(), fusion()
    young.state.budget.age = float(5 * HOUR)
    piece: Piece = (0.5, "user:a", "model:m", 12.0, 2, 1)
    assert [judged([piece], made)[0].probation for made in (young, old)] == [True, False]


def test_the_actions_and_details_of_an_edge_make_it_another_piece() -> None:
    made = fusion()
    names = Names()
    made.judge(found([(0, "user:a", "model:m", 9.0, 2, 1)], names=names, details="json"))
    made.judge(found([(1, "user:a", "model:m", 9.0, 2, 1)], names=names, details="text"))
    deleting = found([(2, "user:a", "model:m", 9.0, 2, 1)], names=names, details="text")
    deleting.block.action[:] = Action.delete
    made.judge(deleting)
    (closed,) = made.advance(float(START + DAY))
    assert [(piece.action, piece.detail) for piece in closed.evidence] == [("connect", "json"), ("connect", "text"), ("delete", "text")]
    assert closed.actions == ["connect", "delete"]


def test_times_in_an_alert_are_of_the_stream() -> None:
    (alert,) = judged([(0.5, "user:a", "model:m", 9.0, 2, 1)])
    assert (alert.time, alert.opened, alert.first, alert.last) == (START + 30 * SECOND,) * 4
    assert isinstance(found([]).block, Block)
