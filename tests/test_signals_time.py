"""The learners of time: day volume, drip, periodicity and hour of week, by what they do to histories of people and programs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Literal

import numpy as np
import pytest

from connectors.event import Stream
from models.kernels import DAY, HOUR, MINUTE
from models.signals import EXPECTED, SEEN, SURPRISE, USUAL, Signal
from models.signals.drip import Drip
from models.signals.hour_of_week import HourOfWeek
from models.signals.periodicity import Periodicity
from models.signals.volume import Volume
from tests.signal_stage import SECOND, START, Events, Stage, events, joined

GB = 1e9


def _sorted(*parts: Events) -> Events:
    whole = joined(*parts)
    return whole.take(np.argsort(whole.time, kind="stable").tolist())


def _says(make: Callable[[], Signal], given: Events) -> np.ndarray:
    """float64[4, n]: what a new learner says to a history."""
    return Stage(make).play(given)


def _by_day(out: np.ndarray, given: Events, who: int) -> np.ndarray:
    """float64[days]: the highest surprise of an actor on each day."""
    day = ((given.time - START) // DAY).astype(np.int64)
    highest = np.zeros(day.max() + 1)
    mine = given.actor == who
    np.maximum.at(highest, day[mine], out[SURPRISE][mine])
    return highest


def _working(who: int, daily: np.ndarray, seed: int, moved: float = np.nan, first: int = 0) -> Events:
    """An actor with so many events on each day, between 8 and 18 o'clock; or so many bytes, ``moved`` each day in ten pieces."""
    rng = np.random.default_rng(seed)
    days = np.repeat(np.arange(len(daily)), 10 if moved else np.maximum(daily, 1).astype(int))
    time = START + (first + days) * DAY + (8 + 10 * rng.random(len(days))) * HOUR
    each = daily[days] / 10 if moved else np.nan
    return events(np.sort(time), who, 101, moved=np.broadcast_to(each, len(days)))


def _office(days: int, actors: int = 20, growing: float = 1.0, begin: int = 30, what: str = "events") -> Events:
    """Actors with 40 events (2 GB) a day, give or take a third; that of number 1 grows by a factor a day from ``begin`` on."""
    parts = []
    for who in range(1, actors + 1):
        daily = (40.0 if what == "events" else 2 * GB) * np.exp(np.random.default_rng(who).normal(0.0, 0.35, days))
        if who == 1:
            daily *= growing ** np.maximum(np.arange(days) - begin + 1, 0)
        parts.append(_working(who, daily, 100 + who, moved=what == "bytes"))
    return _sorted(*parts)


# --- volume ---------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("what", ["events", "bytes"])
@pytest.mark.parametrize("of", ["actor", "pair"])
def test_a_source_that_grows_by_a_third_a_day_is_noticed_before_it_has_grown_fivefold(
    of: Literal["actor", "pair"], what: Literal["events", "bytes"]
) -> None:
    given = _office(40, growing=1.3, what=what)
    out = _says(lambda: Volume(of=of, what=what), given)
    others = np.concatenate([_by_day(out, given, who)[20:] for who in range(2, 21)])
    noticed = np.flatnonzero(_by_day(out, given, 1)[30:] > others.max())
    assert len(noticed)
    assert 1.3 ** (noticed[0] + 1) < 5.0


def test_a_source_that_grows_by_a_seventh_a_day_hardly_teaches_itself() -> None:
    given = _office(52, growing=1.15, begin=30)
    out = _says(Volume, given)
    mine = given.actor == 1
    day = ((given.time[mine] - START) // DAY).astype(np.int64)
    expected = out[EXPECTED][mine]
    # It has grown twentyfold by then.
    assert expected[day == 51].max() < 1.5 * expected[day == 29].max()
    others = np.concatenate([_by_day(out, given, who)[20:] for who in range(2, 21)])
    noticed = np.flatnonzero(_by_day(out, given, 1)[30:] > others.max())
    assert 1.15 ** (noticed[0] + 1) < 5.0


def test_ordinary_days_are_seldom_surprising() -> None:
    given = _office(60, actors=40)
    out = _says(Volume, given)
    days = np.concatenate([_by_day(out, given, who)[10:] for who in range(1, 41)])
    assert np.mean(days > 3.0) < 0.02
    assert np.mean(days > 6.0) < 0.002


def test_a_day_is_learned_when_it_is_over_and_no_sooner() -> None:
    stage = Stage(Volume)
    stage.play(_office(20, actors=5))
    monday = START + int(21 * DAY)
    expected = [float(stage.play(events([monday + hour * int(HOUR)] * 30))[EXPECTED, -1]) for hour in range(8, 14)]
    # Others' days may end meanwhile, its own does not.
    assert expected == pytest.approx([expected[0]] * 6)
    after = float(stage.play(events([monday + int(1.1 * DAY)]))[EXPECTED, 0])
    assert after > 1.01 * expected[0]


def test_a_growing_day_of_a_young_stream_is_no_growth_of_what_is_done_in_it() -> None:
    # One event a minute for two days, while the unit "day" grows from a minute to four hours.
    given = events(START + np.arange(2880) * int(MINUTE) + 7 * SECOND)
    out = _says(Volume, given)
    assert out[SURPRISE, 720:].max() < 1.5
    assert out[EXPECTED, -1] == pytest.approx(240, rel=0.3)


def test_counts_of_another_basis_say_nothing_until_a_week_has_passed() -> None:
    stage = Stage(lambda: Volume(of="pair", what="bytes"))
    stage.play(_working(1, np.full(20, GB), 3, moved=True))
    before = stage.state()
    other = np.array([2], np.int8)
    soon = stage.play(replace(events([START + int(21 * DAY)], moved=5 * GB), basis=other))
    assert np.isnan(soon).all()
    assert stage.state() == before
    later = stage.play(replace(events([START + int(29 * DAY)], moved=5 * GB), basis=other))
    assert later[SEEN, 0] == 5 * GB
    again = stage.play(replace(events([START + int(29 * DAY) + SECOND], moved=5 * GB), basis=other))
    assert again[SEEN, 0] == 10 * GB


@pytest.mark.parametrize("learner", [lambda: Volume(what="bytes"), Drip])
def test_what_is_read_from_a_registry_and_what_is_sent_are_two_days(learner: Callable[[], Signal]) -> None:
    stage = Stage(learner)
    read = events([START + SECOND], moved=3 * GB)
    sent = replace(events([START + 2 * SECOND], moved=7 * GB), basis=np.array([2], np.int8))
    assert stage.play(read)[SEEN, 0] == 3 * GB
    assert stage.play(sent)[SEEN, 0] == 7 * GB


@pytest.mark.parametrize("learner", [Volume, Drip])
def test_days_inside_an_announced_change_are_soon_the_usual_ones(learner: Callable[[], Signal]) -> None:
    def after(pace: float) -> float:
        past = _office(40, actors=5, what="bytes")
        change = _working(1, np.full(4, 20 * GB), 9, moved=True, first=40)
        change = _sorted(change, *[_working(1, np.full(4, 400.0), 8, moved=0.0, first=40)])
        stage = Stage(learner)
        stage.play(past)
        stage.play(replace(change, pace=np.full(len(change), pace)))
        # The change has ended: its last day is learned at its own pace all the same.
        next_day = _working(1, np.array([20 * GB]), 9, moved=True, first=44)
        return float(stage.play(next_day)[EXPECTED, 0])

    assert after(8.0) > 1.3 * after(1.0)


# --- drip -----------------------------------------------------------------------------------------------------------------------------


def _dripping(extra: float, days: int = 60, begin: int = 40, end: int = 60, seed: int = 0) -> Events:
    """Actors that move 2 GB a day, give or take a half; number 1 moves ``extra`` bytes a day more from ``begin`` until ``end``."""
    parts = []
    for who in range(1, 21):
        daily = 2 * GB * np.exp(np.random.default_rng(seed * 100 + who).normal(0.0, 0.5, days))
        if who == 1:
            daily[begin:end] += extra
        parts.append(_working(who, daily, seed * 100 + 50 + who, moved=True))
    return _sorted(*parts)


@pytest.mark.parametrize("seed", range(3))
def test_three_gigabytes_a_day_on_top_of_two_are_noticed_within_ten_days(seed: int) -> None:
    given = _dripping(3 * GB, seed=seed)
    out = _says(Drip, given)
    others = np.concatenate([_by_day(out, given, who)[10:] for who in range(2, 21)])
    noticed = np.flatnonzero(_by_day(out, given, 1)[40:] > others.max())
    assert len(noticed)
    assert noticed[0] < 10
    # Days alone would not have shown it.
    alone = _says(lambda: Volume(what="bytes"), given)
    usual = np.concatenate([_by_day(alone, given, who)[10:] for who in range(2, 21)])
    assert np.sum(_by_day(alone, given, 1)[40:50] > usual.max()) <= 1


def test_ordinary_days_do_not_add_up() -> None:
    given = _dripping(0.0, days=90)
    out = _says(Drip, given)
    days = np.concatenate([_by_day(out, given, who) for who in range(1, 21)])
    assert np.mean(days > 3.0) < 0.03
    assert np.mean(days > 6.0) < 0.002


def test_one_enormous_day_is_no_drip() -> None:
    given = _dripping(1e15, begin=40, end=41)
    assert _by_day(_says(Drip, given), given, 1).max() <= 3.0


def test_whoever_is_back_at_the_usual_is_not_told_of_again() -> None:
    given = _dripping(10 * GB, days=90, begin=40, end=50)
    days = _by_day(_says(Drip, given), given, 1)
    assert days[45:50].min() > 6.0
    assert np.mean(days[51:] > 1.0) < 0.1


def test_a_drip_is_over_within_weeks_of_its_end() -> None:
    for seed in range(3):
        given = _dripping(10 * GB, days=90, begin=40, end=60, seed=seed)
        days = _by_day(_says(Drip, given), given, 1)
        assert 10.0 < days[59] <= days.max() < 18.0
        assert days[72:].max() < 5.0


def test_newcomers_that_move_much_from_the_start_are_no_drip() -> None:
    rng = np.random.default_rng(5)
    newcomers = [_working(who, 50 * GB * np.exp(rng.normal(0.0, 0.6, 8)), who, moved=True, first=30) for who in range(70, 110)]
    given = _sorted(_dripping(0.0, days=50), *newcomers)
    out = _says(Drip, given)
    days = np.concatenate([_by_day(out, given, who)[30:38] for who in range(70, 110)])
    assert np.mean(days > 2.0) < 0.01
    assert days.max() < 4.0


def test_a_drip_below_what_matters_is_none() -> None:
    daily = np.full(60, 1e5) * np.exp(np.random.default_rng(1).normal(0, 0.3, 60))
    daily[40:] *= 20.0
    given = _sorted(_dripping(0.0), _working(77, daily, 6, moved=True))
    assert _by_day(_says(Drip, given), given, 77).max() < 0.5


def test_a_drip_tells_what_was_moved_since_it_began_and_how_much_too_much() -> None:
    given = _dripping(10 * GB)
    out = _says(Drip, given)
    mine = out[:, given.actor == 1][:, -1]
    # Twenty days of about 12 GB where 2 were expected, give or take one of ordinary days at its begin.
    assert 220 * GB < mine[SEEN] < 280 * GB
    assert 30 * GB < mine[EXPECTED] < 90 * GB
    assert mine[EXPECTED] < mine[USUAL] < mine[SEEN]
    said = Drip().text(240 * GB, 40 * GB, 60 * GB, "user:ann", "-")
    assert "moved 223.5 GiB since its days began to exceed the usual" in said
    assert "186.3 GiB more than expected" in said


# --- periodicity ----------------------------------------------------------------------------------------------------------------------


def _random_calls(pairs: int, days: float, seed: int = 1) -> Events:
    """Pairs 101, 102, ... of actor 9 whose calls come at random, from once a few hours to once a few seconds."""
    rng = np.random.default_rng(seed)
    parts = []
    for pair in range(pairs):
        mean = np.exp(rng.uniform(1.5, 9.0))
        gaps = rng.exponential(mean, min(int(days * 86_400 / mean), 3000) + 1)
        parts.append(events(START + (np.cumsum(gaps) * SECOND).astype(np.int64), 9, 101 + pair))
    return _sorted(*parts)


def _timer(every: float, jitter: float, beats: int, begin: float = 86_400.0, seed: int = 3, actor: int = 1) -> Events:
    gaps = every * (1.0 + np.random.default_rng(seed).uniform(-jitter, jitter, beats))
    return events(START + ((begin + np.cumsum(gaps)) * SECOND).astype(np.int64), actor, 999)


def _of(out: np.ndarray, given: Events, who: int) -> np.ndarray:
    return np.asarray(out[SURPRISE][given.actor == who])


@pytest.mark.parametrize("every", [10.0, 60.0, 900.0])
@pytest.mark.parametrize("jitter", [0.0, 0.1, 0.3])
def test_a_beacon_stands_out_from_calls_at_random_within_25_beats(every: float, jitter: float) -> None:
    given = _sorted(_random_calls(100, 1.5), _timer(every, jitter, 25))
    out = _says(Periodicity, given)
    assert _of(out, given, 1).max() > 10.0
    assert _of(out, given, 1).max() > _of(out, given, 9).max()


def test_calls_at_random_rarely_look_like_a_beacon() -> None:
    given = _random_calls(300, 2.0)
    out = _says(Periodicity, given)
    _, cell = np.unique(given.object.astype(np.int64) * 1000 + given.time // int(HOUR) % 1000, return_inverse=True)
    highest = np.zeros(cell.max() + 1)
    np.maximum.at(highest, cell, out[SURPRISE])
    assert np.mean(highest > 5.0) < 0.04
    assert np.mean(highest > 8.0) < 0.005
    assert highest.max() < 15.0


def test_an_irregular_pair_that_becomes_regular_is_noticed_and_stays_so_for_a_hundred_beats() -> None:
    gaps = np.random.default_rng(4).exponential(600.0, 140)
    before = events(START + (np.cumsum(gaps) * SECOND).astype(np.int64), 1, 999)
    given = _sorted(_random_calls(50, 2.0), before, _timer(60.0, 0.2, 120, begin=100_000.0))
    said = _of(_says(Periodicity, given), given, 1)
    assert said[:140].max() < 9.0
    assert said[165:].min() > 10.0


def test_a_cron_job_that_was_always_regular_is_no_beacon() -> None:
    given = _sorted(_random_calls(50, 4.0), _timer(300.0, 0.01, 1000, begin=0.0))
    said = _of(_says(Periodicity, given), given, 1)
    assert said[:50].max() > 10.0, "while it is new it cannot be told from a beacon"
    assert said[200:].max() == 0.0


def test_a_late_run_of_a_regular_job_is_no_sign_of_a_timer_either() -> None:
    gaps = np.full(600, 300.0)
    gaps[400::7] = 900.0
    job = events(START + (np.cumsum(gaps) * SECOND).astype(np.int64), 1, 999)
    given = _sorted(_random_calls(50, 3.0), job)
    assert _of(_says(Periodicity, given), given, 1)[200:].max() < 1.0


@pytest.mark.parametrize("gap", [0.001, 0.3, 0.9])
def test_a_flood_is_no_beacon(gap: float) -> None:
    rng = np.random.default_rng(2)
    for gaps in (np.full(5000, gap), rng.exponential(gap, 5000)):
        flood = events(START + (np.cumsum(gaps) * SECOND).astype(np.int64), 1, 999)
        assert _says(Periodicity, flood)[SURPRISE].max() < 8.0


def test_a_log_of_whole_minutes_makes_no_beacon_of_a_busy_pair() -> None:
    for mean in (5.0, 30.0, 60.0, 120.0):
        gaps = np.random.default_rng(2).exponential(mean, 3000)
        time = START + (np.cumsum(gaps) / 60.0).astype(np.int64) * int(MINUTE)
        assert _says(Periodicity, events(time, 1, 999))[SURPRISE].max() < 8.0


def test_a_log_of_whole_minutes_still_shows_a_beacon_of_ten() -> None:
    calls = _sorted(_random_calls(50, 2.0), _timer(600.0, 0.1, 40))
    given = replace(calls, time=calls.time // int(MINUTE) * int(MINUTE))
    assert _of(_says(Periodicity, given), given, 1).max() > 10.0


def test_streams_with_other_clocks_do_not_blur_each_other() -> None:
    calls = _random_calls(50, 2.0)
    minutes = replace(calls, time=calls.time // int(MINUTE) * int(MINUTE), stream=np.full(len(calls), Stream.job, np.int8))
    given = _sorted(minutes, _timer(10.0, 0.1, 40))
    assert _of(_says(Periodicity, given), given, 1).max() > 8.0


def test_a_missed_beat_and_a_night_slept_through_cost_a_beacon_little() -> None:
    gaps = 60.0 * (1.0 + np.random.default_rng(6).uniform(-0.1, 0.1, 60))
    gaps[30] *= 2.0
    gaps[40] = 30_000.0
    given = _sorted(_random_calls(50, 2.0), events(START + (np.cumsum(gaps) * SECOND).astype(np.int64), 1, 999))
    said = _of(_says(Periodicity, given), given, 1)
    assert said[30:].min() > 20.0


def test_several_connections_within_a_second_are_one_call() -> None:
    calls = _timer(60.0, 0.1, 30)
    burst = [replace(calls, time=calls.time + shift * SECOND // 10) for shift in range(4)]
    given = _sorted(_random_calls(50, 1.5), *burst)
    assert _of(_says(Periodicity, given), given, 1).max() > 10.0


def test_a_timer_installed_inside_an_announced_change_is_sooner_known() -> None:
    def beats_told(pace: float) -> int:
        timer = _timer(300.0, 0.02, 300)
        given = _sorted(_random_calls(50, 2.0), replace(timer, pace=np.full(300, pace)))
        return int((_of(_says(Periodicity, given), given, 1) > 5.0).sum())

    assert beats_told(4.0) < 0.6 * beats_told(1.0)


def test_a_beacon_is_told_by_its_interval_and_its_jitter() -> None:
    given = _sorted(_random_calls(50, 1.5), _timer(60.0, 0.1, 40))
    out = _says(Periodicity, given)[:, given.actor == 1]
    seen, expected, usual = out[SEEN:, -1]
    assert usual / 0.2 == pytest.approx(60.0, rel=0.05)
    assert seen / 60.0 == pytest.approx(0.05, abs=0.03)
    assert expected / 60.0 > 0.2
    said = Periodicity().text(2.4, 54.0, 12.0, "host:a", "host:b")
    assert "every 60 s, give or take 4%" in said
    assert "usually vary by 90%" in said


# --- hour of week ---------------------------------------------------------------------------------------------------------------------


def _clerk(weeks: int, who: int = 1, seed: int = 0, hours: tuple[int, int] = (8, 17), first: int = 0) -> Events:
    """One that works on weekdays between two hours (UTC), a tenth of the days not at all."""
    rng = np.random.default_rng(seed)
    time = [
        START + int((first * 7 + day) * DAY + hour * HOUR + minute * MINUTE)
        for day in range(weeks * 7)
        if day % 7 < 5 and rng.random() > 0.1
        for hour in range(*hours)
        for minute in rng.choice(60, 2)
        if rng.random() > 0.1
    ]
    return events(np.sort(time), who, 101)


def _at(week: int, day: int, hour: int, who: int = 1) -> Events:
    return events([START + int((week * 7 + day) * DAY + hour * HOUR + 30 * MINUTE)], who, 101)


def _strangeness(past: Events, *visits: Events) -> list[float]:
    stage = Stage(HourOfWeek)
    stage.play(past)
    return [float(stage.probe(visit)[0][SURPRISE, 0]) for visit in visits]


def test_a_clerk_at_three_in_the_night_is_strange_and_at_noon_is_not() -> None:
    noon, night, saturday = _strangeness(_clerk(5), _at(5, 1, 12), _at(5, 1, 3), _at(5, 5, 12))
    assert noon < 0.3
    assert night > 2.5
    assert saturday > 2.0


def test_a_little_late_is_not_off_hours() -> None:
    late, evening = _strangeness(_clerk(5), _at(5, 1, 17), _at(5, 1, 20))
    assert late < 0.6 * evening


def test_the_longer_a_rhythm_is_known_the_stranger_is_its_breach() -> None:
    said = [_strangeness(_clerk(weeks), _at(weeks, 1, 3))[0] for weeks in (1, 2, 4, 8)]
    assert said == sorted(said)
    assert said[0] < 2.0 < said[-1]


def test_whoever_has_no_rhythm_is_never_strange() -> None:
    rng = np.random.default_rng(1)
    for each_day in (0.3, 3.0, 40.0):
        time = np.sort(START + rng.random(int(each_day * 60)) * 60 * DAY).astype(np.int64)
        said = _says(HourOfWeek, events(time))[SURPRISE]
        assert np.quantile(said, 0.99) < 1.6
        assert said.max() < 2.0


def test_a_job_that_runs_at_night_is_not_strange_at_night() -> None:
    nightly = events([START + int(day * DAY + 2 * HOUR) for day in range(40)], 5)
    assert _says(HourOfWeek, nightly)[SURPRISE].max() == 0.0


@pytest.mark.parametrize("begin", [9.0, 23.4, 4 * 24 + 23.4])
def test_a_short_trace_knows_no_rhythm(begin: float) -> None:
    rng = np.random.default_rng(2)
    time = np.sort(START + begin * HOUR + rng.random(3000) * 91 * MINUTE).astype(np.int64)
    given = events(time, rng.integers(1, 6, 3000))
    assert (_says(HourOfWeek, given)[SURPRISE] == 0.0).all()


def test_midnight_tuesday_and_saturday_are_not_strange_for_coming_first() -> None:
    # Always at work, from Monday noon on.
    given = events(START + int(12 * HOUR) + np.arange(7 * 24 * 6) * 10 * int(MINUTE))
    assert _says(HourOfWeek, given)[SURPRISE].max() < 0.1
    # A clerk's first evening, first night and first Saturday at work.
    assert _strangeness(_clerk(1).take(slice(0, 16)), _at(0, 0, 21), _at(0, 1, 3)) == [0.0, 0.0]
    assert _strangeness(_clerk(1), _at(0, 5, 12)) == [0.0]


def test_a_newcomer_is_judged_by_the_hours_of_everyone_and_mildly() -> None:
    clerks = _sorted(*[_clerk(5, who, who) for who in range(1, 81)])
    noon, night = _strangeness(clerks, _at(5, 1, 12, 999), _at(5, 1, 3, 999))
    assert noon == 0.0
    assert 0.5 < night < 1.5


def test_the_busiest_night_is_one_night() -> None:
    past = _clerk(5)
    night = START + int((5 * 7 + 1) * DAY + 3 * HOUR)
    flood = events(night + np.arange(5000) * SECOND // 10)
    stage = Stage(HourOfWeek)
    stage.play(past)
    said = stage.play(flood)[SURPRISE]
    assert np.ptp(said) < 0.05
    assert said.min() > 2.5
    assert float(stage.play(_at(5, 2, 3))[SURPRISE, 0]) > 1.5


def test_a_new_shift_becomes_usual_and_sooner_if_it_was_announced() -> None:
    def after(weeks: int, pace: float) -> float:
        nights = _clerk(weeks, hours=(20, 24), first=5)
        return _strangeness(_sorted(_clerk(5), replace(nights, pace=np.full(len(nights), pace))), _at(5 + weeks, 1, 22))[0]

    assert after(4, 1.0) < 0.7
    assert after(1, 4.0) < 0.6 * after(1, 1.0)


def test_when_the_clocks_change_only_the_edges_of_the_working_day_are_a_little_strange() -> None:
    said = _strangeness(_clerk(10), *[_at(10, 1, hour) for hour in range(7, 16)])
    assert max(said[1:]) < 0.5
    assert said[0] < 2.0


def test_what_is_forgotten_keeps_its_proportions() -> None:
    # Two years: what is counted was halved many times, and says the same.
    noon, night = _strangeness(_clerk(104), _at(104, 1, 12), _at(104, 1, 3))
    assert noon < 0.3
    assert 3.0 < night < 5.0


def test_an_hour_is_told_with_its_own_hours_and_its_usual_ones() -> None:
    stage = Stage(HourOfWeek)
    stage.play(_clerk(5))
    seen, expected, usual = stage.play(_at(5, 1, 3))[SEEN:, 0]
    assert seen == 0.0
    assert 15 < expected < 25
    assert 150 < usual < 230
    said = HourOfWeek().text(0.0, 18.4, 210.0, "user:ann", "-")
    assert said == "of the 210 hours that user:ann was active, 0 were at this time of the week; its usual hours have 18.4"
