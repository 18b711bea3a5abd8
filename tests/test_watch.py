"""Blind spots: noticed, told once, called over; no silence where nobody could write; the same however the log is cut."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from connectors import ocsf
from connectors.alert import Alert
from connectors.event import DAY, HOUR, MINUTE, SECOND
from connectors.status import Canary, Heartbeat, Lag, Message, Newcomers, SourceStatus, StatusError, decode, encode
from detector.blindspots import Watch
from detector.checkpoint import StateError
from detector.config import parse
from detector.notices import Notices
from detector.watch import Watcher, allowed

Entry = tuple[int, Message]


def beat(process: str = "fuse-0", **over: object) -> Heartbeat:
    return Heartbeat(**{"process": process, "stage": process.partition("-")[0], "time": 0, "started": 1} | over)  # type: ignore[arg-type]


def zeek(records: int = 100, rejects: dict[str, int] | None = None) -> SourceStatus:
    return SourceStatus(process="ingest-0", topic="zeek.conn", source="zeek_conn", records=records, rejects=rejects or {})


def beats(start: int, end: int, *messages: Message, every: int = 10) -> list[Entry]:
    """The same messages at every step of a stretch of time, in seconds."""
    return [(second * SECOND, message) for second in range(start, end, every) for message in messages]


def fold(watcher: Watcher, log: Iterable[Entry]) -> list[Alert]:
    return [alert for time, message in log for alert in watcher.fold(time, message)]


def told(alerts: list[Alert]) -> list[tuple[str, str]]:
    return [(alert.activity, alert.blamed.removeprefix("service:tocsin/")) for alert in alerts]


@pytest.fixture
def watcher() -> Watcher:
    return Watcher(Watch())


def test_a_process_that_stops_sending_heartbeats_is_told_once_with_what_nobody_reads(watcher: Watcher) -> None:
    fold(watcher, beats(0, 60, beat(), beat("actor-0", partitions=["tocsin.by-actor/0", "tocsin.by-actor/1"])))
    alerts = fold(watcher, beats(60, 600, beat()))
    assert told(alerts) == [("open", "process/actor-0")]
    assert "nobody reads tocsin.by-actor/0, tocsin.by-actor/1" in alerts[0].notice
    assert alerts[0].severity == 4
    assert 110 * SECOND <= alerts[0].time <= 130 * SECOND


def test_a_process_that_comes_back_is_called_over_under_the_same_id(watcher: Watcher) -> None:
    fold(watcher, beats(0, 60, beat(), beat("actor-0")))
    alerts = fold(watcher, [*beats(60, 300, beat()), *beats(300, 330, beat(), beat("actor-0"))])
    assert told(alerts) == [("open", "process/actor-0"), ("close", "process/actor-0")]
    assert alerts[0].uid == alerts[1].uid
    assert [alert.revision for alert in alerts] == [0, 1]
    assert alerts[1].opened == alerts[0].time


def test_a_process_whose_partitions_others_have_taken_is_called_over(watcher: Watcher) -> None:
    fold(watcher, beats(0, 60, beat(), beat("actor-0", partitions=["tocsin.by-actor/0"])))
    alerts = fold(watcher, beats(60, 600, beat(), beat("actor-1", partitions=["tocsin.by-actor/0"])))
    assert told(alerts) == [("open", "process/actor-0"), ("close", "process/actor-0")]
    assert alerts[0].severity == 2


def test_a_process_that_was_stopped_in_order_is_not_missed(watcher: Watcher) -> None:
    fold(watcher, beats(0, 60, beat(), beat("actor-0")))
    assert fold(watcher, [(60 * SECOND, beat("actor-0", stopping=True)), *beats(60, 600, beat())]) == []


def test_where_the_log_itself_stood_still_nobody_was_silent(watcher: Watcher) -> None:
    everyone = (beat(), beat("actor-0"), zeek())
    fold(watcher, beats(0, 3600, *everyone))
    assert fold(watcher, beats(3600 + 7200, 3600 + 7500, *everyone)) == []


def test_a_source_that_sent_all_the_time_is_silent_after_five_minutes(watcher: Watcher) -> None:
    fold(watcher, beats(0, 7200, beat(), zeek()))
    alerts = fold(watcher, beats(7200, 8400, beat(), zeek(0)))
    assert told(alerts) == [("open", "source/zeek.conn/zeek_conn")]
    assert 7490 * SECOND <= alerts[0].time <= 7520 * SECOND
    assert "10 s is usual" in alerts[0].notice
    assert told(fold(watcher, beats(8400, 8420, zeek()))) == [("close", "source/zeek.conn/zeek_conn")]


def test_a_source_that_sends_once_an_hour_is_not_silent_after_five_minutes_but_after_ten_hours(watcher: Watcher) -> None:
    log = [entry for second in range(0, 10 * 3600, 10) for entry in beats(second, second + 1, beat(), zeek(int(second % 3600 == 0)))]
    assert fold(watcher, log) == []
    alerts = fold(watcher, beats(10 * 3600, 22 * 3600, beat()))
    assert told(alerts) == [("open", "source/zeek.conn/zeek_conn")]
    assert abs(alerts[0].time - 19 * HOUR) < MINUTE


def test_a_source_that_sends_only_by_day_is_not_silent_every_night(watcher: Watcher) -> None:
    def day(number: int) -> list[Entry]:
        return [
            *beats(number * 86_400, number * 86_400 + 57_600, beat(), zeek(), every=20),
            *beats(number * 86_400 + 57_600, (number + 1) * 86_400, beat(), every=20),
        ]

    first = fold(watcher, day(0))
    assert told(first) == [("open", "source/zeek.conn/zeek_conn")]  # nobody knows yet what a night is like
    assert told(fold(watcher, day(1) + day(2))) == [("close", "source/zeek.conn/zeek_conn")]


def test_a_source_seen_for_less_than_half_an_hour_has_no_usual_gap(watcher: Watcher) -> None:
    assert fold(watcher, [*beats(0, 900, beat(), zeek()), *beats(900, 7200, beat())]) == []


def test_lag_that_rises_over_three_heartbeats_above_the_bound_is_told_and_closed_when_it_is_worked_off(watcher: Watcher) -> None:
    def lags(start: int, *seconds: float) -> list[Entry]:
        return [
            (second * SECOND, beat("actor-0", lag={"tocsin.by-actor": Lag(records=1, seconds=lag)}))
            for second, lag in zip(range(start, start + 10 * len(seconds), 10), seconds, strict=True)
        ]

    assert fold(watcher, lags(0, 5, 90, 80, 70, 75, 70)) == []  # high, but it does not keep rising
    assert fold(watcher, lags(60, 10, 20, 30, 40, 50)) == []  # rising, but low
    alerts = fold(watcher, lags(110, 61, 75, 90, 120, 110, 90, 40, 5))
    assert told(alerts) == [("open", "lag/tocsin.by-actor"), ("close", "lag/tocsin.by-actor")]


def test_lag_is_called_over_when_its_reader_was_stopped_in_order(watcher: Watcher) -> None:
    log = [(10 * n * SECOND, beat("actor-0", lag={"t": Lag(records=1, seconds=60.0 + n)})) for n in range(1, 6)]
    assert told(fold(watcher, log)) == [("open", "lag/t")]
    assert told(fold(watcher, [(70 * SECOND, beat("actor-0", stopping=True))])) == [("close", "lag/t")]


def test_a_share_of_rejects_above_the_bound_is_told_with_its_reasons(watcher: Watcher) -> None:
    fold(watcher, beats(0, 600, zeek(95, {"wrong-type:orig_bytes": 4})))
    alerts = fold(watcher, beats(600, 900, zeek(90, {"wrong-type:orig_bytes": 9, "not-json": 1})))
    assert told(alerts) == [("open", "rejects/zeek.conn/zeek_conn")]
    assert "wrong-type:orig_bytes 9" in alerts[0].notice
    assert told(fold(watcher, beats(900, 1800, zeek(100)))) == [("close", "rejects/zeek.conn/zeek_conn")]


def test_two_bad_records_among_three_are_no_share(watcher: Watcher) -> None:
    assert fold(watcher, [(0, zeek(1, {"not-json": 2})), *beats(10, 600, beat())]) == []


def test_a_flood_of_new_identities_is_told_and_does_not_become_usual_while_it_lasts(watcher: Watcher) -> None:
    def minutes(start: int, end: int, fresh: int) -> list[Entry]:
        return beats(60 * start, 60 * end, Newcomers(process="actor-0", stage="actor", fresh=fresh), every=10)

    assert fold(watcher, minutes(0, 60, 20)) == []  # 120 a minute, so the bound is 1,200
    assert fold(watcher, minutes(60, 70, 150)) == []
    alerts = fold(watcher, minutes(70, 310, 1000))
    assert told(alerts) == [("open", "newcomers/actor")]
    assert told(fold(watcher, minutes(310, 320, 20))) == [("close", "newcomers/actor")]


def test_a_cold_start_is_no_flood_and_not_taken_for_usual(watcher: Watcher) -> None:
    def minutes(start: int, end: int, fresh: int) -> list[Entry]:
        return beats(60 * start, 60 * end, Newcomers(process="actor-0", stage="actor", fresh=fresh), every=10)

    assert fold(watcher, minutes(0, 10, 100_000) + minutes(10, 40, 5)) == []
    assert told(fold(watcher, minutes(40, 42, 1_000))) == [("open", "newcomers/actor")]


def test_a_canary_that_does_not_arrive_is_told_for_its_partition(watcher: Watcher) -> None:
    def canary(partition: int, sent: int, arrived: int = 0) -> Canary:
        return Canary(process="ingest-0", partition=partition, sent=sent, arrived=arrived)

    log = [(SECOND, canary(0, 1)), (SECOND, canary(1, 1)), (2 * SECOND, canary(0, 1, 2)), *beats(10, 120, beat())]
    alerts = fold(watcher, log)
    assert told(alerts) == [("open", "canary/1")]
    later = [(130 * SECOND, canary(1, 5)), (131 * SECOND, canary(1, 5, 6)), *beats(140, 150, beat())]
    assert told(fold(watcher, later)) == [("close", "canary/1")]


def test_a_canary_whose_arrival_is_written_before_its_sending_is_not_missed(watcher: Watcher) -> None:
    log = [(SECOND, Canary(process="o", partition=0, sent=7, arrived=9)), (SECOND, Canary(process="i", partition=0, sent=7))]
    assert fold(watcher, [*log, *beats(10, 300, beat())]) == []


def test_an_edited_allow_list_is_told_for_a_day_and_the_first_one_seen_is_not_an_edit(watcher: Watcher) -> None:
    assert fold(watcher, beats(0, 60, beat(allowed="a" * 32), beat("actor-0", allowed="a" * 32))) == []
    alerts = fold(watcher, beats(60, 120, beat(allowed="b" * 32), beat("actor-0", allowed="a" * 32)))
    assert told(alerts) == [("open", "allow-list/" + "b" * 12)]
    assert alerts[0].severity == 4
    more = fold(watcher, beats(120, 120 + 86_400, beat(allowed="b" * 32), beat("actor-0", allowed="b" * 32), every=20))
    assert told(more) == [("close", "allow-list/" + "b" * 12)]


def test_the_digest_of_what_is_let_through_changes_with_it_and_with_nothing_else() -> None:
    usual = allowed(parse(""))
    assert allowed(parse("[budget]\nalerts_per_day = 9")) == usual
    assert allowed(parse('[respond]\nprotected = ["user:root"]')) != usual
    assert allowed(parse('[identities]\nrestricted = ["model:*llama*"]')) != usual
    change = '[[changes]]\nname = "roll-out"\nsince = 2026-03-01T22:00:00Z\nuntil = 2026-03-02T02:00:00Z\nscope = ["sa:serving/*"]'
    assert allowed(parse(change)) != usual


def test_rows_dropped_as_seen_are_told_only_where_no_restart_explains_them(watcher: Watcher) -> None:
    assert fold(watcher, beats(0, 300, beat(repeats=5))) == []  # just started
    fold(watcher, beats(300, 1500, beat()))
    assert fold(watcher, beats(1500, 1510, beat("ingest-0", started=9), beat(repeats=9))) == []  # another one was
    alerts = fold(
        watcher, [*beats(1510, 2600, beat(), beat("ingest-0", started=9)), (2600 * SECOND, beat(repeats=1)), *beats(2610, 2630, beat())]
    )
    assert ("open", "repeats/fuse-0") in told(alerts)


def test_a_blind_spot_that_lasts_is_told_again_once_a_day(watcher: Watcher) -> None:
    fold(watcher, beats(0, 7200, beat(), zeek()))
    alerts = fold(watcher, beats(7200, 7200 + 3 * 86_400, beat(), every=20))
    assert told(alerts) == [("open", "source/zeek.conn/zeek_conn"), *[("update", "source/zeek.conn/zeek_conn")] * 2]
    assert len({alert.uid for alert in alerts}) == 1


def test_a_cause_that_comes_and_goes_is_opened_at_most_once_a_day(watcher: Watcher) -> None:
    log = [
        entry
        for hour in range(47)
        for entry in (
            *beats(3600 * hour, 3600 * hour + 1800, zeek(50, {"x": 50})),
            *beats(3600 * hour + 1800, 3600 * hour + 3600, zeek()),
        )
    ]
    opened = [alert for alert in fold(watcher, log) if alert.activity == "open"]
    assert len(opened) == 2
    assert opened[1].time - opened[0].time >= DAY


def test_what_is_not_heard_of_for_long_is_closed_and_forgotten(watcher: Watcher) -> None:
    fold(watcher, beats(0, 7200, beat("actor-0"), zeek()))
    before = len(watcher.dump())
    alerts = fold(watcher, beats(7200, 9 * 86_400, beat(), every=20))
    assert {entry for entry in told(alerts) if entry[0] == "close"} == {
        ("close", "process/actor-0"),
        ("close", "source/zeek.conn/zeek_conn"),
    }
    assert len(watcher.dump()) <= before


def test_a_notice_that_grows_more_severe_is_told_at_once_and_does_not_calm_down_before_it_is_over() -> None:
    notices, about = Notices(), "service:tocsin/x"
    said = [notices.say(time, about, "x", severity) for time, severity in ((0, 2), (1, 2), (2, 4), (3, 2), (DAY + 2, 2))]
    assert [[(alert.activity, alert.revision, alert.severity) for alert in alerts] for alerts in said] == [
        [("open", 0, 2)],
        [],
        [("update", 1, 4)],
        [],
        [("update", 2, 4)],
    ]
    assert [alert.activity for alert in notices.over(DAY + 3, about, "over")] == ["close"]
    assert notices.over(DAY + 4, about, "over") == []


def test_a_notice_is_a_valid_finding_at_every_revision(watcher: Watcher) -> None:
    fold(watcher, beats(0, 60, beat(), beat("actor-0")))
    day = 1_800_000_000
    alerts = fold(watcher, [*beats(day, day + 300, beat()), *beats(day + 300, day + 330, beat(), beat("actor-0"))])
    assert [ocsf.alert_of(ocsf.encode(alert, "1")).activity for alert in alerts] == ["open", "close"]


PROCESSES = st.sampled_from(["actor-0", "actor-1", "ingest-0"])
TIMES = st.integers(0, 400).map(lambda each: each * SECOND)
MESSAGES = st.one_of(
    st.builds(
        Heartbeat,
        process=PROCESSES,
        stage=st.just("actor"),
        time=st.just(0),
        started=st.integers(0, 2),
        stopping=st.booleans(),
        partitions=st.lists(st.sampled_from(["t/0", "t/1"]), unique=True),
        lag=st.dictionaries(st.sampled_from(["t", "u"]), st.builds(Lag, records=st.just(1), seconds=st.floats(0, 300))),
        repeats=st.integers(0, 1),
        allowed=st.sampled_from(["", "a", "b"]),
    ),
    st.builds(
        SourceStatus,
        process=PROCESSES,
        topic=st.sampled_from(["x", "y"]),
        source=st.just("zeek_conn"),
        records=st.integers(0, 50),
        rejects=st.dictionaries(st.sampled_from(["a", "b"]), st.integers(1, 50)),
    ),
    st.builds(Canary, process=PROCESSES, partition=st.integers(0, 1), sent=st.integers(1, 9), arrived=st.integers(0, 9)),
    st.builds(Newcomers, process=PROCESSES, stage=st.sampled_from(["actor", "object"]), fresh=st.integers(0, 2000)),
)
QUICK = Watch(
    heartbeat_seconds=2.0, silence_minutes=1.0, learn_minutes=1.0, lag_seconds=5.0, canary_seconds=5.0, newcomers_per_minute=50.0
)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(TIMES, MESSAGES), max_size=60), st.lists(st.integers(0, 60), max_size=5))
def test_alerts_and_state_do_not_depend_on_where_the_watcher_was_stopped_and_taken_up_again(
    steps: list[Entry], cuts: list[int]
) -> None:
    time, log = 0, []
    for step, message in steps:
        time += step // 20
        log.append((time, decode(encode(message))))
    whole = Watcher(QUICK)
    expected = fold(whole, log)
    alerts, state = [], Watcher(QUICK).dump()
    for start, end in zip([0, *sorted(cuts)], [*sorted(cuts), len(log)], strict=True):
        part = Watcher(QUICK)
        part.load(state)
        alerts += fold(part, log[start:end])
        state = part.dump()
    assert alerts == expected
    assert state == whole.dump()


def test_a_state_that_cannot_be_read_is_refused_with_a_sentence(watcher: Watcher) -> None:
    for data in (b"", b"\xc1", msgspec.msgpack.encode([1]), msgspec.msgpack.encode({"version": 1, "sources": 3})):
        with pytest.raises(StateError, match="not a watcher's state"):
            watcher.load(data)
    with pytest.raises(StateError, match="version 2; this release reads 1 to 1"):
        watcher.load(msgspec.msgpack.encode({"version": 2}))


def test_a_status_record_that_cannot_be_read_is_refused_with_a_sentence() -> None:
    for data in (b"", b"\xff", b"{}", msgspec.msgpack.encode({"version": 1, "kind": "nonsense"})):
        with pytest.raises(StatusError, match="not a status record"):
            decode(data)
    with pytest.raises(StatusError, match="version 9; this release reads 1 to 1"):
        decode(msgspec.msgpack.encode({"version": 9, "kind": "canary"}))


def test_every_setting_has_bounds_that_name_it() -> None:
    assert Watch().problems() == []
    for name in Watch.__struct_fields__:
        (problem,) = msgspec.structs.replace(Watch(), **{name: -1}).problems()
        assert problem.startswith(f"watch.{name}: expected ")


def test_a_watcher_without_its_rules_would_fail_these_tests(watcher: Watcher, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("detector.watch.RULES", ())
    fold(watcher, beats(0, 60, beat(), beat("actor-0")))
    assert fold(watcher, beats(60, 600, beat())) == []
