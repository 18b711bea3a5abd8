"""Units of activity: what an hour and a day are, young and old, and what a late row may do."""

from __future__ import annotations

import itertools
import random

import numpy as np
import pytest

from models import counts
from models.counts import ALL_HOURS, CELLS, DAYS, HOURS, LEARN, NEW_DAY, NEW_HOUR, PAIR_DAYS, PARTNERS, TIME, count
from models.kernels import DAY, HOUR, MINUTE, advance, day_unit, hour_unit, passed
from models.profiles import record

#: Noon of a Monday, 2024-01-01, and a year before it.
NOON = 1_704_110_400_000_000
YEAR = int(365 * DAY)
SECOND = 1_000_000


class Ledger:
    """Owners and pairs by small numbers, and the kernel over them."""

    def __init__(self, lateness: float = HOUR, age: float = 0.0) -> None:
        self.keeper = np.zeros(8, record(counts.KEEPER))
        self.owner = np.zeros(8, record(counts.OWNER))
        self.pair = np.zeros(64, record(counts.PAIR))
        self.scalars = np.zeros(len(counts.SCALARS))
        self.scalars[1] = age
        self.lateness = lateness

    def rows(self, time: list[int], owner: list[int] | int = 0, partner: list[int] | int = 0, pace: float = 1.0) -> np.ndarray:
        n = len(time)
        o = np.full(n, owner, np.int32)
        p = o * 8 + np.full(n, partner, np.int32)
        out = np.empty((len(counts.OUTPUT), n))
        population = np.full(n, 8)
        when = np.array(time, np.int64)
        count(when, o, o, p, population, np.full(n, pace), self.keeper, self.owner, self.pair, self.scalars, self.lateness, out)
        return out

    def state(self) -> bytes:
        return b"".join(each.tobytes() for each in (self.keeper, self.owner, self.pair, self.scalars))


def test_units_grow_with_the_age_of_the_stream_up_to_an_hour_and_a_day() -> None:
    assert [hour_unit(age * HOUR) / MINUTE for age in (0, 1, 10, 59, 60, 1000)] == [1, 1, 10, 59, 60, 60]
    assert [day_unit(age * HOUR) / MINUTE for age in (0, 0.2, 1, 24)] == [1, 1, 5, 120]
    assert day_unit(12 * DAY) == day_unit(400 * DAY) == DAY


def test_below_its_full_length_a_unit_ends_when_that_long_has_passed_then_by_the_clock() -> None:
    ten_to_one = float(NOON + 50 * MINUTE)
    assert not passed(ten_to_one + 9 * MINUTE, ten_to_one, 10 * MINUTE, HOUR)
    assert passed(ten_to_one + 10 * MINUTE, ten_to_one, 10 * MINUTE, HOUR)
    assert not passed(ten_to_one + 10 * MINUTE - 1, ten_to_one, HOUR, HOUR)
    assert passed(ten_to_one + 10 * MINUTE, ten_to_one, HOUR, HOUR)


def test_silence_counts_as_a_day_of_age_at_most() -> None:
    clock = np.zeros(2)
    for time in (NOON, NOON + HOUR, NOON + 40 * DAY, NOON + 39 * DAY):
        advance(clock, float(time))
    assert clock.tolist() == [NOON + 40 * DAY, HOUR + DAY]


def test_an_edge_of_an_old_stream_teaches_once_a_clock_hour_and_once_a_date_however_many_events() -> None:
    ledger = Ledger(age=YEAR)
    out = ledger.rows([NOON + i * SECOND for i in range(1000)])
    assert out[NEW_HOUR].sum() == 1
    assert out[:, 0][[HOURS, DAYS, PARTNERS, PAIR_DAYS]].tolist() == [0, 0, 0, 0]
    assert out[:, 999][[DAYS, PARTNERS, PAIR_DAYS]] == pytest.approx([1, 1, 1], abs=2e-3)
    later = ledger.rows([NOON + int(HOUR), NOON + int(HOUR) + 1, NOON + int(DAY), NOON + int(DAY) + 1])
    assert later[NEW_HOUR].tolist() == [1, 0, 1, 0]
    assert later[NEW_DAY].tolist() == [0, 0, 1, 0]
    assert later[HOURS] == pytest.approx([0, 0, 2, 2], abs=0.05)
    assert later[ALL_HOURS] == pytest.approx([1, 2, 2, 3], abs=0.05)
    assert later[PAIR_DAYS] == pytest.approx([1, 1, 1, 2], rel=0.11)


def test_rows_read_the_units_as_they_were_before_they_taught() -> None:
    out = Ledger(age=YEAR).rows([NOON] * 4, partner=[0, 1, 2, 0])
    assert out[DAYS].tolist() == [0, 1, 2, 3]
    assert out[ALL_HOURS].tolist() == [0, 1, 2, 3]
    assert out[PARTNERS].tolist() == [0, 1, 2, 3]
    assert out[CELLS].tolist() == [1, 2, 3, 3]


def test_a_young_stream_teaches_by_the_minute() -> None:
    out = Ledger().rows([NOON + i * 10 * SECOND for i in range(60)])
    assert out[NEW_HOUR].sum() == 10
    assert out[PAIR_DAYS, -1] > 9


def test_cells_of_an_hour_start_anew_with_the_hour() -> None:
    ledger = Ledger(age=YEAR)
    assert ledger.rows([NOON + i for i in range(8)], partner=list(range(8)))[CELLS].tolist() == list(range(1, 9))
    assert ledger.rows([NOON + int(HOUR)])[CELLS].tolist() == [1]


def test_a_row_a_little_late_counts_at_the_time_of_its_profile() -> None:
    out = Ledger(age=YEAR).rows([NOON, NOON - int(50 * MINUTE)], partner=[0, 1])
    assert out[TIME].tolist() == [NOON, NOON]
    assert out[LEARN].tolist() == [1, 1]
    assert out[NEW_HOUR].tolist() == [1, 1]


def test_a_row_too_late_is_read_and_counted_and_teaches_nothing() -> None:
    ledger = Ledger(age=YEAR)
    ledger.rows([NOON, NOON + 1], partner=[0, 1])
    before = ledger.state(), ledger.scalars[4]
    out = ledger.rows([NOON - int(HOUR) - 1], partner=2)
    assert out[:, 0][[TIME, LEARN, NEW_HOUR]].tolist() == [NOON + 1, 0, 0]
    assert out[DAYS, 0] == pytest.approx(2.0)
    assert ledger.scalars[4] == before[1] + 1
    ledger.scalars[4] = before[1]
    assert ledger.state() == before[0]


def test_lateness_is_measured_against_the_profile_not_the_stream() -> None:
    ledger = Ledger(age=YEAR)
    ledger.rows([NOON], owner=0)
    assert ledger.rows([NOON - int(5 * DAY)], owner=1)[LEARN].tolist() == [1]


def test_time_of_a_profile_and_of_the_stream_never_runs_back() -> None:
    rng = random.Random(5)
    ledger = Ledger(lateness=2 * HOUR)
    last = np.zeros(8)
    for _ in range(300):
        owner = rng.randrange(8)
        out = ledger.rows([NOON + rng.randrange(int(3 * DAY))], owner=owner)
        assert out[TIME, 0] >= last[owner]
        last[owner] = out[TIME, 0]
    assert ledger.scalars[0] >= last.max()


def test_inside_an_announced_change_a_day_counts_for_several_and_an_hour_for_one() -> None:
    ledger = Ledger(age=YEAR)
    ledger.rows([NOON], pace=4.0)
    out = ledger.rows([NOON + 1])
    assert out[[DAYS, PARTNERS, PAIR_DAYS], 0].tolist() == [4, 1, 4]
    assert ledger.rows([NOON + int(DAY)], pace=4.0)[HOURS] == pytest.approx(1.0, abs=0.01)


def test_how_active_an_owner_is_counts_up_to_yesterday() -> None:
    ledger = Ledger(age=YEAR)
    ledger.rows([NOON + i for i in range(8)], partner=list(range(8)))
    # Busy since noon, and no less rare for it until midnight, in rows that teach and in rows that come too late to.
    today = ledger.rows([NOON + int(3 * HOUR), NOON, NOON + int(11 * HOUR)], partner=[0, 1, 2])
    assert today[LEARN].tolist() == [1, 0, 1]
    assert today[HOURS].tolist() == [0, 0, 0]
    assert ledger.rows([NOON + int(12 * HOUR), NOON + int(13 * HOUR)])[HOURS] == pytest.approx([10, 10], abs=0.1)


def test_thousands_of_partners_within_one_second_do_not_age_their_owner() -> None:
    busy = Ledger(age=YEAR)
    busy.pair = np.zeros(5000, record(counts.PAIR))
    # 0.999 s into the second: were each row as old as that, all of them together would be older than an hour.
    time = np.full(4000, NOON + 999_000)
    slots, zeros = np.arange(4000, dtype=np.int32), np.zeros(4000, np.int32)
    out = np.empty((len(counts.OUTPUT), 4000))
    count(time, zeros, zeros, slots, zeros + 1, np.ones(4000), busy.keeper, busy.owner, busy.pair, busy.scalars, HOUR, out)
    assert out[DAYS].tolist() == list(range(4000))


def test_cells_of_an_hour_beyond_what_their_count_can_say_are_as_many_as_it_can() -> None:
    ledger = Ledger(age=YEAR)
    ledger.rows([NOON])
    ledger.owner["cells"][0] = counts.MOST_CELLS
    assert ledger.rows([NOON + 1, NOON + 2], partner=[1, 2])[CELLS].tolist() == [counts.MOST_CELLS] * 2


@pytest.mark.parametrize("seed", range(5))
def test_units_do_not_depend_on_how_rows_are_cut(seed: int) -> None:
    rng = random.Random(seed)
    time = [NOON + int(i * rng.expovariate(1 / (3 * MINUTE))) - rng.choice([0, 0, int(30 * MINUTE), int(3 * HOUR)]) for i in range(400)]
    owner = [rng.randrange(4) for _ in time]
    partner = [rng.randrange(8) for _ in time]
    whole, cut = Ledger(), Ledger()
    expected = whole.rows(time, owner, partner)
    places = [0, *sorted(rng.sample(range(1, 400), 30)), 400]
    parts = [cut.rows(time[a:b], owner[a:b], partner[a:b]) for a, b in itertools.pairwise(places)]
    assert np.hstack(parts).tobytes() == expected.tobytes()
    assert cut.state() == whole.state()
