"""Signals about identities: the first of its name, the order of what it does, and where it is at once."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from connectors.event import Action, Stream
from models.kernels import DAY, HOUR, MINUTE
from models.signals import EXPECTED, SEEN, SURPRISE, Signal
from models.signals.first_seen import FirstSeen
from models.signals.places import Places
from models.signals.sequence import Sequence
from tests.signal_stage import SECOND, START, Events, Stage, events, joined, steady

Make = Callable[[], Signal]


def _sorted(*parts: Events) -> Events:
    whole = joined(*parts)
    return whole.take(np.argsort(whole.time, kind="stable").tolist())


def _after(make: Make, past: Events) -> Stage:
    stage = Stage(make)
    stage.play(past)
    return stage


def _surprise(stage: Stage, given: Events) -> np.ndarray:
    return np.asarray(stage.probe(given)[0][SURPRISE])


# --- first seen -----------------------------------------------------------------------------------------------------------------------

WEEK = steady(7.0)
NEXT = int(WEEK.time.max()) + int(2 * HOUR)


def _newcomers(many: int, first: int, begin: float = START, end: float = NEXT) -> Events:
    """So many identities, spread evenly, each seen once."""
    return events(np.linspace(begin, end, many).astype(np.int64), np.arange(first, first + many))


def test_a_newcomer_among_old_acquaintances_is_news_and_they_are_not() -> None:
    stage = _after(FirstSeen, WEEK)
    assert _surprise(stage, events([NEXT], 99)) > 5.0
    assert _surprise(stage, events([NEXT], 1)) == 0.0


def test_where_newcomers_come_every_hour_one_more_is_not_news() -> None:
    stage = _after(FirstSeen, _sorted(WEEK, _newcomers(2000, 1000)))
    assert _surprise(stage, events([NEXT], 99)) < 1.0


def test_a_newcomer_is_new_for_its_first_hour_and_known_after() -> None:
    stage = _after(FirstSeen, WEEK)
    top = NEXT // int(HOUR) * int(HOUR)
    said = stage.play(events([top + int(minutes * MINUTE) for minutes in (1, 20, 59, 61, 200)], 99))[SURPRISE]
    assert said[:3].min() > 5.0
    assert said[3:].max() == 0.0


def test_the_first_identities_of_a_young_stream_are_not_news() -> None:
    beginning = events(START + np.arange(200) * SECOND, np.arange(1, 201))
    assert Stage(FirstSeen).play(beginning)[SURPRISE].max() < 0.7


def test_a_million_made_up_identities_do_not_make_newcomers_normal() -> None:
    stage = _after(FirstSeen, WEEK)
    before = _surprise(stage, events([NEXT + int(3 * HOUR)], 99))[0]
    stage.play(events(NEXT + np.arange(100_000) * SECOND // 50, np.arange(10_000, 110_000)))
    after = _surprise(stage, events([NEXT + int(3 * HOUR)], 99))[0]
    assert 0.4 * before < after < 1.2 * before


def test_a_newcomer_on_the_stream_of_logins_is_news_though_addresses_come_and_go() -> None:
    flows = _newcomers(2000, 1000)
    flows.stream[:] = Stream.flow
    stage = _after(FirstSeen, _sorted(WEEK, flows))
    on_registry, on_flows = (_surprise(stage, events([NEXT], 99, stream=stream))[0] for stream in (Stream.registry, Stream.flow))
    assert on_flows < 1.0 < 4.0 < on_registry


def test_newcomers_of_an_announced_change_are_sooner_usual() -> None:
    moved = [events(NEXT + np.arange(15) * int(MINUTE), np.arange(500, 515), pace=pace) for pace in (1.0, 4.0)]
    said = []
    for each in moved:
        stage = _after(FirstSeen, WEEK)
        stage.play(each)
        said.append(_surprise(stage, events([NEXT + int(HOUR)], 99))[0])
    assert said[1] < said[0] - 0.5


def test_a_newcomer_is_told_with_how_many_there_were() -> None:
    assert FirstSeen().text(1.0, 4.0 / 1001.0, 1000.0, "user:eve", "-") == (
        "first hour ever of user:eve; 3 of 1,000 active hours here were a newcomer's"
    )


# --- sequence -------------------------------------------------------------------------------------------------------------------------

A = Action


def _doing(actions: list[Action], every: float = 5 * MINUTE, who: int = 1, begin: int = START, stream: int = Stream.auth) -> Events:
    time = begin + (np.arange(len(actions)) * every).astype(np.int64)
    return events(time, who, action=np.array(actions), stream=stream)


#: A controller that lists, reads, and renews its lease, all day.
ROUND = [A.list, A.read, A.update]


def _of_last(stage: Stage, actions: list[Action], begin: int, who: int = 1) -> float:
    return float(_surprise(stage, _doing(actions, who=who, begin=begin))[-1])


def test_a_step_never_taken_is_strange_and_the_usual_ones_are_not() -> None:
    stage = _after(Sequence, _doing(ROUND * 100))
    now = START + int(300 * 5 * MINUTE)
    assert _of_last(stage, [A.list, A.exec], now) > 4.0
    assert _of_last(stage, [A.list, A.update], now) > 3.0
    assert _of_last(stage, [A.list, A.read], now) < 0.3


def test_the_longer_an_order_is_kept_the_stranger_is_its_breach() -> None:
    said = [
        _of_last(_after(Sequence, _doing(ROUND * laps)), [A.list, A.exec], START + int(3 * laps * 5 * MINUTE))
        for laps in (2, 8, 30, 80)
    ]
    assert said == sorted(said)
    assert said[-1] > said[0] + 1.5


def test_a_flood_of_one_action_is_no_sequence() -> None:
    stage = _after(Sequence, _doing(ROUND * 50))
    now = START + int(150 * 5 * MINUTE)
    flood = stage.play(_doing([A.read] * 3000, every=SECOND, begin=now))[SURPRISE]
    assert flood[1:].max() == 0.0
    assert _of_last(stage, [A.list, A.read], now + int(2 * HOUR)) < 0.3


def test_to_do_something_else_is_the_stranger_the_longer_the_same_was_done() -> None:
    said = [
        _of_last(_after(Sequence, _doing([A.update] * laps, 10 * MINUTE)), [A.update, A.list], START + int(laps * 10 * MINUTE))
        for laps in (2, 20, 200)
    ]
    assert said == sorted(said)
    assert said[-1] > said[0] + 2.0


def test_a_flood_of_a_new_order_is_one_lesson_a_minute() -> None:
    stage = _after(Sequence, _doing(ROUND * 100))
    now = START + int(300 * 5 * MINUTE)
    before = _of_last(stage, [A.list, A.exec], now)
    stage.play(_doing([A.list, A.exec] * 2000, every=0.01 * SECOND, begin=now))
    assert _of_last(stage, [A.list, A.exec], now + int(2 * HOUR)) > 0.6 * before


def test_whoever_does_all_things_in_any_order_is_hardly_strange() -> None:
    rng = np.random.default_rng(1)
    kinds = [A.list, A.read, A.update, A.exec, A.create]
    said = Stage(Sequence).play(_doing([kinds[k] for k in rng.integers(0, 5, 2000)]))[SURPRISE]
    assert np.quantile(said[200:], 0.99) < 3.0


def test_a_newcomer_that_does_as_everyone_is_less_strange_than_one_that_does_not() -> None:
    crowd = _sorted(*[_doing(ROUND * 20, who=who, begin=START + who * SECOND) for who in range(2, 42)])
    stage = _after(Sequence, crowd)
    now = int(crowd.time.max()) + int(HOUR)
    assert _of_last(stage, [A.list, A.read], now, 99) + 2.0 < _of_last(stage, [A.list, A.exec], now, 99)


def test_throw_away_identities_teach_nobody() -> None:
    stage = _after(Sequence, _sorted(*[_doing(ROUND * 20, who=who, begin=START + who * SECOND) for who in range(2, 42)]))
    now = START + int(80 * 5 * MINUTE)
    before = _of_last(stage, [A.list, A.exec], now + int(3 * HOUR), 99)
    stage.play(_sorted(*[_doing([A.list, A.exec], every=SECOND, who=who, begin=now + who * SECOND) for who in range(1000, 2000)]))
    assert _of_last(stage, [A.list, A.exec], now + int(3 * HOUR), 99) == before


def test_flows_ends_of_jobs_and_sightings_do_not_break_an_order() -> None:
    now = START + int(300 * 5 * MINUTE)
    quiet, loud = _after(Sequence, _doing(ROUND * 100)), _after(Sequence, _doing(ROUND * 100))
    noise = _sorted(
        _doing([A.connect] * 20, MINUTE, begin=now, stream=Stream.flow),
        _doing([A.use] * 20, MINUTE, begin=now),
        _doing([A.end] * 5, MINUTE, begin=now, stream=Stream.job),
    )
    assert np.isnan(loud.play(noise)).all()
    assert loud.state() == quiet.state()


def test_after_a_pause_an_identity_begins_anew() -> None:
    # A day's work begins with a login; what was done last the evening before does not matter.
    days = [_doing([A.login, *ROUND * 10, A.logout], begin=START + int(day * DAY)) for day in range(30)]
    stage = _after(Sequence, joined(*days))
    morning = START + int(30 * DAY)
    assert _surprise(stage, _doing([A.login], begin=morning))[0] < 0.5
    assert _surprise(stage, _doing([A.read], begin=morning))[0] > 2.0


def test_a_read_of_a_registry_is_not_a_read_of_a_control_plane() -> None:
    stage = _after(Sequence, _doing(ROUND * 100))
    now = START + int(300 * 5 * MINUTE)
    assert _of_last(stage, [A.list, A.read], now) < 0.3
    elsewhere = joined(_doing([A.list], begin=now), _doing([A.read], begin=now + int(MINUTE), stream=Stream.registry))
    assert _surprise(stage, elsewhere)[-1] > 3.0


def test_an_order_that_is_old_is_still_known() -> None:
    # More laps than a counter holds.
    stage = _after(Sequence, _doing(ROUND * 1500))
    now = START + int(4500 * 5 * MINUTE)
    assert _of_last(stage, [A.list, A.read], now) < 0.3
    assert _of_last(stage, [A.list, A.exec], now) > 5.0


def test_a_new_order_is_sooner_usual_inside_an_announced_change() -> None:
    now = START + int(300 * 5 * MINUTE)
    said = []
    for pace in (1.0, 4.0):
        stage = _after(Sequence, _doing(ROUND * 100))
        change = _doing([A.list, A.exec] * 5, begin=now)
        change.pace[:] = pace
        stage.play(change)
        said.append(_of_last(stage, [A.list, A.exec], now + int(HOUR)))
    assert said[1] < said[0] - 0.5


def test_a_step_is_told_with_the_actors_own_and_everyones() -> None:
    said = Sequence().text(0.0, 6.9, 340.0, "sa:a/b", "-")
    assert said == "sa:a/b did this right after what it had done before, as in 0 of its last 340 steps from there; everyone: 1 in 50"
    assert "never went on from before; everyone: 1 in 10" in Sequence().text(0.0, 0.5, 0.0, "sa:a/b", "-")


# --- places ---------------------------------------------------------------------------------------------------------------------------

DESK, VPN, POD, ELSEWHERE = 901, 902, 903, 904


def _used(places: list[int], every: float = 5 * MINUTE, who: int = 1, begin: int = START) -> Events:
    """An identity seen at places in turn."""
    time = begin + (np.arange(len(places)) * every).astype(np.int64)
    return events(time, who, np.array(places), action=Action.use, stream=Stream.auth, via=777)


def _office(weeks: int = 2, who: int = 1) -> Events:
    """At the desk all day, on Fridays over VPN."""
    days = [day for day in range(7 * weeks) if day % 7 < 5]
    return joined(*[_used([VPN if day % 7 == 4 else DESK] * 90, who=who, begin=START + int(day * DAY + 9 * HOUR)) for day in days])


MONDAY = START + int(14 * DAY + 10 * HOUR)


def test_a_token_used_elsewhere_while_its_owner_works_is_strange() -> None:
    stage = _after(Places, _office())
    out, _ = stage.probe(_used([DESK, ELSEWHERE, DESK, ELSEWHERE], every=2 * MINUTE, begin=MONDAY))
    assert out[SURPRISE, 0] == 0.0
    assert out[SURPRISE, 1:].min() > 4.0
    assert out[SEEN].tolist() == [1.0, 2.0, 2.0, 2.0]


def test_two_known_places_at_once_are_not_strange() -> None:
    stage = _after(Places, _office())
    assert _surprise(stage, _used([DESK, VPN, DESK, VPN], every=2 * MINUTE, begin=MONDAY)).max() == 0.0


def test_a_move_to_a_new_place_is_not_being_in_two() -> None:
    stage = _after(Places, _office())
    assert _surprise(stage, _used([DESK, ELSEWHERE], every=30 * MINUTE, begin=MONDAY)).max() == 0.0


def test_a_new_place_is_known_from_the_next_day_on() -> None:
    stage = _after(Places, _office())
    assert stage.play(_used([DESK, ELSEWHERE] * 5, every=2 * MINUTE, begin=MONDAY))[SURPRISE].max() > 4.0
    # The first row of the day closes the day before.
    assert stage.play(_used([DESK, ELSEWHERE, DESK], every=2 * MINUTE, begin=MONDAY + int(DAY)))[SURPRISE, 2] == 0.0


def test_a_service_in_many_places_that_come_and_go_learns_that_this_is_normal() -> None:
    rng = np.random.default_rng(3)
    # Three pods at a time, each replaced after five hours, one after the other.
    pods = [1000 + 3 * ((minute + 100 * k) // 300) + k for minute in range(0, 4 * 1440, 2) for k in [int(rng.integers(3))]]
    said = Stage(Places).play(_used(pods, every=2 * MINUTE))[SURPRISE]
    assert np.quantile(said[720:], 0.99) < 1.0
    assert said[720:].max() < 4.0


def test_newcomers_and_the_first_day_are_not_strange() -> None:
    first = _sorted(*[_used([10 * who] * 50, who=who, begin=START + who * SECOND) for who in range(1, 30)])
    assert Stage(Places).play(first)[SURPRISE].max() == 0.0


def test_the_more_places_at_once_the_stranger() -> None:
    stage = _after(Places, _office())
    said = [_surprise(stage, _used([DESK, *range(2000, 2000 + many)], every=SECOND, begin=MONDAY))[-1] for many in range(1, 6)]
    assert said == sorted(said)
    assert said[-1] > said[0] + 2.0


def test_flows_jobs_and_sessions_say_nothing_of_places() -> None:
    flows = events(START + np.arange(50) * SECOND, via=np.arange(1, 51), stream=Stream.flow, action=Action.connect)
    assert np.isnan(Stage(Places).play(flows)).all()
    jobs = events(START + np.arange(50) * SECOND, via=np.arange(1, 51), stream=Stream.job, action=Action.start)
    assert np.isnan(Stage(Places).play(jobs)).all()
    stage = _after(Places, _used([DESK]))
    sessions = events(START + int(HOUR) + np.arange(50) * SECOND, via=np.arange(1, 51), stream=Stream.auth, action=Action.read)
    assert np.isnan(stage.play(sessions)).all()


def test_where_no_source_says_where_an_identity_is_its_via_does() -> None:
    def through(places: list[int], begin: int) -> Events:
        return events(begin + np.arange(len(places)) * int(2 * MINUTE), via=np.array(places), stream=Stream.registry)

    stage = _after(Places, joined(*[through([DESK] * 30, START + int(day * DAY)) for day in range(10)]))
    said = _surprise(stage, through([DESK, ELSEWHERE, DESK], START + int(10 * DAY)))
    assert said[0] == 0.0
    assert said[1:].min() > 3.0
    assert np.isnan(_surprise(stage, through([0], START + int(10 * DAY)))).all()


def test_a_day_in_two_places_does_not_make_it_usual() -> None:
    stage = _after(Places, _office())
    before = stage.probe(_used([DESK], begin=MONDAY))[0][EXPECTED, 0]
    stage.play(_used([DESK, ELSEWHERE] * 200, every=MINUTE, begin=MONDAY))
    after = stage.probe(_used([DESK], begin=MONDAY + int(DAY)))[0][EXPECTED, 0]
    assert after < before + 0.1


@pytest.mark.parametrize(("seen", "words"), [(1.0, "1 place "), (3.0, "3 places "), (6.0, "6 or more places ")])
def test_places_are_told_with_what_would_be_normal(seen: float, words: str) -> None:
    said = Places().text(seen, 1.14, 2.3, "user:ann", "-")
    assert said.startswith(f"user:ann was in {words}within 10 minutes, 1.1 expected, up to 2 would be normal")
