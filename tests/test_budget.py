"""The alert budget: a threshold from past cells, corrected by what was spent."""

from __future__ import annotations

import math

import msgspec
import numpy as np
import pytest

from models.budget import FEWEST, PER_NAT, POWER, STALE_SHARE, Budget, reckon
from models.kernels import DAY, HOUR, MINUTE

#: Midnight of a Monday, 2024-01-01, in microseconds.
START = 1_704_067_200_000_000.0


def aged(per_day: float = 5.0, days: float = 2.0) -> Budget:
    """A budget that has watched an empty stream for some days."""
    budget = Budget(per_day)
    for hour in range(int(days * 24) + 1):
        budget.advance(START + hour * HOUR)
    return budget


def hour_by_hour(budget: Budget, cells: list[float], first: float) -> float:
    """One cell an hour, each of an identity of its own. Returns the time after the last."""
    now = first
    for number, score in enumerate(cells):
        budget.advance(now)
        budget.note(f"user:u{number}", score, False)
        now += HOUR
    budget.advance(now)
    return now


def test_nothing_alerts_before_there_are_enough_cells() -> None:
    budget = aged()
    now = hour_by_hour(budget, [5.0] * (FEWEST - 1), budget.now + HOUR)
    assert budget.threshold == math.inf
    hour_by_hour(budget, [5.0], now)
    assert budget.threshold < math.inf


def test_the_threshold_lets_through_as_many_cells_as_are_granted() -> None:
    rng = np.random.default_rng(1)
    budget = aged(per_day=5.0, days=1.0)
    cells = rng.exponential(1.0, 96).tolist()
    # Four a day were spent of five, none of them in bulk.
    budget.openings = [(budget.now + DAY * day, 5.0, 5.0) for day in np.arange(0.0, 4.0, 0.25)]
    hour_by_hour(budget, cells, budget.now + HOUR)
    granted = 5.0 * budget.age / DAY
    wanted = granted * ((granted + 10.0) / (16.0 + 10.0)) ** POWER
    above = sum(cell >= budget.threshold for cell in cells)
    fewer = sum(cell >= budget.threshold + 1.0 / PER_NAT for cell in cells)
    more = sum(cell >= budget.threshold - 1.0 / PER_NAT for cell in cells)
    assert fewer < wanted < more
    assert abs(above - wanted) <= min(wanted - fewer, more - wanted)


def test_a_budget_of_several_partitions_is_the_budget_of_all_their_cells() -> None:
    rng = np.random.default_rng(2)
    cells = rng.exponential(1.0, (4, 96))
    whole = aged(per_day=5.0, days=1.0)
    parts = [aged(per_day=5.0, days=1.0) for _ in range(4)]
    for part in parts:
        part.partitions = 4
    for hour in range(96):
        for budget in (whole, *parts):
            budget.advance(budget.now + HOUR)
        for partition, part in enumerate(parts):
            whole.note(f"user:u{partition}", float(cells[partition, hour]), False)
            part.note(f"user:u{partition}", float(cells[partition, hour]), False)
    for budget in (whole, *parts):
        budget.advance(budget.now + HOUR)
    reckon(parts)
    assert whole.threshold < math.inf
    assert [part.threshold for part in parts] == [whole.threshold] * 4


def shared(per_day: float, many: int, days: float = 1.0, seed: int = 4, cells: int = 96) -> tuple[Budget, Budget]:
    """A partition of several that has heard nothing, and one that is by itself and has as much to spend."""
    part, alone = aged(per_day, days), aged(per_day / many, days)
    part.partitions = many
    for score in np.random.default_rng(seed).exponential(1.0, cells).tolist():
        for budget in (part, alone):
            budget.advance(budget.now + HOUR)
            budget.note("user:ann", 1.0 + score, False)
    for budget in (part, alone):
        budget.advance(budget.now + HOUR)
    return part, alone


def test_a_partition_that_reads_a_backlog_goes_by_its_own_share_until_it_hears_what_still_holds() -> None:
    part, alone = shared(8.0, 4)
    own = part.threshold
    assert own == alone.threshold < math.inf
    age = part.age
    part.hear(99.0, part.now - STALE_SHARE * age - 1.0)
    assert part.threshold == own, "what all had a quarter of its life ago does not hold any more"
    part.advance(part.now + 2 * HOUR)
    assert part.threshold < 99.0
    part.hear(99.0, part.now - STALE_SHARE * age)
    assert part.threshold == 99.0
    for _ in range(200):
        part.advance(part.now + HOUR)
    assert part.threshold == 99.0, "the budget's worker is away: nobody knows better"
    part.hear(60.0, 0.0)
    assert part.threshold == 60.0, "an older release does not say when"


def test_a_gap_in_the_log_is_no_backlog() -> None:
    part, _ = shared(8.0, 4)
    part.hear(6.0, part.now)
    part.advance(part.now + 30 * DAY)
    assert part.threshold == 6.0


@pytest.mark.parametrize(("per_day", "many", "cells"), [(8.0, 16, 96), (2_000.0, 4, 96), (8.0, 4, FEWEST - 2)])
def test_what_a_partition_cannot_tell_by_itself_it_takes_from_the_others_however_stale(per_day: float, many: int, cells: int) -> None:
    # A share that comes to less than three alerts, one that everything fits into, and too few cells.
    part, _ = shared(per_day, many, cells=cells)
    assert part.threshold == math.inf
    part.hear(7.0, part.now - 30 * DAY)
    assert part.threshold == 7.0
    part.advance(part.now + 5 * HOUR)
    assert part.threshold == 7.0


def test_who_is_behind_the_others_takes_their_threshold() -> None:
    part, _ = shared(8.0, 4)
    part.hear(7.0, part.now + 30 * DAY)
    part.advance(part.now + 5 * HOUR)
    assert part.threshold == 7.0


def test_a_budget_by_the_day_counts_an_identity_once_a_day() -> None:
    budget = Budget(1.0, period=DAY)
    for hour in range(24 * 20):
        budget.advance(START + hour * HOUR)
        budget.note("user:ann", 3.0 + hour / 1000, False)
    assert 14 <= sum(sum(hour.values()) for hour in budget.hours.values()) <= 16


def test_an_identity_counts_once_an_hour_at_its_strongest() -> None:
    budget = aged()
    budget.advance(budget.now + HOUR)
    for score in (3.0, 7.0, 5.0):
        budget.note("user:ann", score, False)
    counted = [hour for hour in budget.hours.values() if hour]
    assert counted == [{int(7.0 * PER_NAT): 1}]


def test_a_cell_under_an_open_alert_is_not_counted() -> None:
    budget = aged()
    budget.advance(budget.now + HOUR)
    budget.note("user:ann", 9.0, True)
    budget.note("user:ann", 12.0, False)
    assert not any(budget.hours.values())


def test_spending_more_than_granted_raises_the_threshold_and_a_surge_raises_it_at_once() -> None:
    rng = np.random.default_rng(3)
    cells = rng.exponential(1.0, 24 * 10).tolist()

    def threshold(openings: list[float]) -> float:
        budget = aged(per_day=2.0, days=1.0)
        budget.openings = [(budget.now + DAY * 11 - ago, 5.0, 5.0) for ago in openings]
        hour_by_hour(budget, cells, budget.now + HOUR)
        return budget.threshold

    thrifty = threshold([])
    as_granted = threshold([day * DAY * 0.5 for day in range(3, 20)])
    lavish = threshold([day * DAY * 0.25 for day in range(5, 40)])
    surging = threshold([day * DAY * 0.5 for day in range(3, 20)] + [HOUR * 12] * 8)
    assert thrifty < as_granted < lavish
    assert surging > as_granted + 0.5


def test_when_the_day_is_spent_only_the_stranger_may_still_open() -> None:
    budget = aged(per_day=2.0)
    hour_by_hour(budget, list(np.linspace(1.0, 6.0, 60)), budget.now + HOUR)
    open_ = budget.bar(9.0)
    assert open_ == budget.threshold
    for score in (20.0, 30.0, 25.0):
        assert budget.bar(9.0) == open_
        budget.opened(score, 9.0)
    assert budget.bar(9.0) == 20.0
    budget.opened(28.0, 9.0)
    assert budget.bar(9.0) == 25.0
    assert budget.bar(10.0) == 26.0, "a higher ceiling lifts past scores with it"
    budget.advance(budget.now + 1.1 * DAY)
    assert budget.bar(9.0) == budget.threshold


def test_a_young_stream_may_spend_only_its_part_of_the_day() -> None:
    budget = aged(per_day=8.0, days=0.25)
    budget.threshold = 1.0
    for score in (5.0, 6.0):
        budget.opened(score, 9.0)
    assert budget.bar(9.0) == 1.0
    budget.opened(7.0, 9.0)
    assert budget.bar(9.0) == 5.0


def test_only_past_cells_move_the_threshold() -> None:
    budget = aged()
    hour_by_hour(budget, list(np.linspace(1.0, 6.0, 60)), budget.now + HOUR)
    before = budget.threshold
    for i in range(50):
        budget.note(f"user:new{i}", 30.0, False)
    assert budget.threshold == before
    budget.advance(budget.now + HOUR)
    assert budget.threshold > before


def test_a_year_leaves_nothing_of_what_is_older_than_the_window() -> None:
    budget = aged()
    now = hour_by_hour(budget, [5.0] * 50, budget.now + HOUR)
    budget.opened(5.0, 8.0)
    for day in range(1, 20):
        budget.advance(now + day * DAY)
    assert budget.hours == {}
    assert budget.cells == {}
    assert budget.openings == []
    assert budget.threshold == math.inf


def test_time_never_runs_back() -> None:
    budget = aged()
    now, age = budget.now, budget.age
    budget.advance(now - 5 * DAY)
    assert (budget.now, budget.age) == (now, age)


def test_silence_is_no_history() -> None:
    budget = aged(days=2.0)
    budget.advance(budget.now + 300 * DAY)
    assert budget.age == pytest.approx(3 * DAY)


@pytest.mark.parametrize(("per_day", "identities", "seed"), [(5.0, 40, 1), (10.0, 200, 2), (2.0, 25, 3)])
def test_random_benign_cells_spend_about_what_is_granted(per_day: float, identities: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    budget = Budget(per_day)
    spent: dict[int, int] = {}
    until: dict[int, float] = {}
    for hour in range(24 * 14):
        for who in np.flatnonzero(rng.random(identities) < 0.3).tolist():
            now = START + hour * HOUR + who * MINUTE * 60 / identities
            budget.advance(now)
            score = float(rng.exponential(1.2)) + 1.0
            is_open = until.get(who, 0.0) > now
            budget.note(f"user:{who}", score, is_open)
            if not is_open and score > budget.bar(8.0):
                budget.opened(score, 8.0)
                until[who] = now + 6 * HOUR
                spent[hour // 24] = spent.get(hour // 24, 0) + 1
    after = [spent.get(day, 0) for day in range(3, 14)]
    assert per_day / 2 <= sum(after) / len(after) <= per_day * 2, after


def test_asking_again_at_the_same_moment_changes_nothing() -> None:
    budget = aged()
    hour_by_hour(budget, list(np.linspace(1.0, 6.0, 60)), budget.now + HOUR)
    before = msgspec.msgpack.encode(budget)
    for _ in range(3):
        budget.advance(budget.now)
    assert msgspec.msgpack.encode(budget) == before


def test_ticks_between_the_cells_change_no_cell_and_no_later_threshold() -> None:
    rng = np.random.default_rng(11)
    cells = [
        (START + 40 * DAY + float(at) * HOUR, f"user:{who}", float(score))
        for at, who, score in sorted(zip(rng.uniform(0, 24 * 5, 400), rng.integers(0, 30, 400), rng.exponential(1.5, 400), strict=True))
    ]

    def play(every: float) -> Budget:
        budget = aged(days=39.9)
        clock = budget.now
        for now, who, score in cells:
            while every and clock + every < now:
                clock += every
                budget.advance(clock)
            budget.advance(now)
            budget.note(who, score, False)
        budget.advance(START + 46 * DAY)
        return budget

    quiet, ticking = play(0.0), play(7 * MINUTE)
    assert ticking.threshold == quiet.threshold
    assert ticking.age == pytest.approx(quiet.age)
    assert {hour: bins for hour, bins in ticking.hours.items() if bins} == {hour: bins for hour, bins in quiet.hours.items() if bins}


def test_the_state_survives_the_wire_in_the_middle() -> None:
    rng = np.random.default_rng(5)
    one = aged()
    hour_by_hour(one, rng.exponential(1.5, 40).tolist(), one.now + HOUR)
    one.opened(5.0, 8.0)
    two = msgspec.msgpack.decode(msgspec.msgpack.encode(one), type=Budget)
    assert two == one
    for budget in (one, two):
        hour_by_hour(budget, np.linspace(0.5, 8.0, 60).tolist(), budget.now + HOUR)
    assert msgspec.msgpack.encode(two) == msgspec.msgpack.encode(one)


def test_a_budget_without_a_threshold_yet_survives_the_wire() -> None:
    fresh = Budget(5.0)
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(fresh), type=Budget).threshold == math.inf
