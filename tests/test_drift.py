import subprocess
import sys
from typing import Any

import msgspec
import numpy as np
import pytest

from models.drift import FEWEST, HOUR, KEPT, MOST, MOVES, WEEK, Drift

KEY = (0, 3)
YEAR = 365 * 24
#: 2026-01-05, a Monday.
START = 1_767_571_200_000_000


def fed(series: np.ndarray, drift: Drift | None = None, start: int = 0) -> tuple[list[int], Drift]:
    """The hours, counted from the first of the series, at which a drift was found, and the detector afterwards."""
    drift = drift or Drift()
    return [i for i, value in enumerate(series.tolist()) if drift.add(KEY, value, START + (start + i) * HOUR)], drift


def noise(hours: int, seed: int = 0, deviation: float = 0.3) -> np.ndarray:
    return np.random.default_rng(seed).normal(0.0, deviation, hours)


@pytest.mark.parametrize(
    ("size", "deviation", "within"), [(4.0, 0.3, 12), (1.0, 0.3, 36), (1.0, 1.0, 72), (0.3, 0.3, 168), (-1.0, 0.3, 36)]
)
@pytest.mark.parametrize("at", [500, 1400])
def test_a_step_is_found_within_hours_once_and_not_before_it(size: float, deviation: float, within: int, at: int) -> None:
    series = 8.0 + noise(at + 1000, 1, deviation)
    series[at:] += size
    found, drift = fed(series)
    assert len(found) == 1
    assert at <= found[0] <= at + within
    (moved,) = drift.history(KEY)
    assert abs((moved.since - START) / HOUR - at) <= 24
    assert moved.found == START + found[0] * HOUR
    assert moved.before == pytest.approx(8.0, abs=0.3)
    assert moved.after == pytest.approx(8.0 + size, abs=0.4)


def test_a_step_between_the_weekdays_of_a_strong_rhythm_is_found_too() -> None:
    hours = np.arange(1500)
    series = 8.0 + noise(1500, 2) + 2.0 * (hours // 24 % 7 < 5) + np.sin(hours * 2 * np.pi / 24)
    series[1000:] += 1.0
    found, _ = fed(series)
    assert len(found) == 1
    assert 1000 <= found[0] <= 1048


@pytest.mark.parametrize("kind", ["steady", "normal", "wide", "exponential", "gamma", "zeros", "beyond the largest"])
def test_a_stationary_year_has_no_drift(kind: str) -> None:
    random = np.random.default_rng(3)
    series = {
        "steady": np.full(YEAR, 2.5),
        "normal": random.normal(8.0, 0.3, YEAR),
        "wide": random.normal(8.0, 2.0, YEAR),
        "exponential": random.exponential(1.0, YEAR),
        "gamma": random.gamma(4.0, 0.25, YEAR),
        "zeros": np.zeros(YEAR),
        "beyond the largest": np.full(YEAR, 1e300),
    }[kind]
    assert fed(series)[0] == []


@pytest.mark.parametrize("size", [0.5, 2.0, 5.0])
def test_a_rhythm_of_days_and_weeks_is_no_drift(size: float) -> None:
    hours = np.arange(YEAR // 2)
    day = size * np.sin(hours * 2 * np.pi / 24)
    weekend = size * (hours // 24 % 7 >= 5)
    assert fed(8.0 + day + weekend + noise(YEAR // 2, 4))[0] == []


def test_a_rhythm_is_no_drift_where_quiet_hours_say_nothing() -> None:
    drift = Drift()
    values = 5.0 + noise(YEAR, 5)
    found = 0
    for hour in range(YEAR):
        if 8 <= hour % 24 < 18 and hour // 24 % 7 < 5:
            found += drift.add(KEY, values[hour] + hour % 24 / 5, START + hour * HOUR)
    assert found == 0


def test_a_detector_that_looked_at_raw_values_would_take_weekends_for_drifts() -> None:
    from river.drift import ADWIN

    hours = np.arange(YEAR // 2)
    raw: Any = ADWIN(clock=1, grace_period=FEWEST)  # type: ignore[no-untyped-call]  # river is typed in part
    found = 0
    for value in (8.0 + 2.0 * (hours // 24 % 7 >= 5) + noise(YEAR // 2, 4)).tolist():
        raw.update(value)
        found += raw.drift_detected
    assert found > 20


@pytest.mark.parametrize(("a_day", "within"), [(0.1, 10), (0.05, 15), (0.02, 30)])
def test_a_slow_push_is_found_within_weeks(a_day: float, within: int) -> None:
    hours = np.arange(3000)
    found, drift = fed(2.0 + noise(3000, 6) + np.maximum(hours - 600, 0) / 24 * a_day)
    assert 600 <= found[0] <= 600 + within * 24
    # It goes on being found, and every move goes up.
    assert len(found) > 2
    assert all(moved.after > moved.before for moved in drift.history(KEY))


@pytest.mark.parametrize("at", [190, 260, 400, 600, 1300])
@pytest.mark.parametrize("lasting", [1, 3, 6])
def test_an_attack_of_hours_is_at_most_its_beginning_and_its_end(at: int, lasting: int) -> None:
    series = 4.0 + noise(2500, 7)
    series[at : at + lasting] = 20.0
    assert len(fed(series)[0]) <= 2


def test_a_run_with_a_restart_at_any_hour_equals_one_without() -> None:
    # Beyond the bound, so that the detector is built anew on the way, and with drifts before and after that.
    series = 3.0 + noise(2600, 8)
    series[700:] += 1.0
    series[2400:] -= 2.0
    whole, straight = fed(series)
    assert len(whole) == 2
    stops = [
        1,
        WEEK,
        WEEK + FEWEST,
        *whole,
        whole[0] + FEWEST,
        whole[0] + FEWEST + 1,
        WEEK + MOST,
        WEEK + MOST + 1,
        *range(100, 2600, 61),
    ]
    drift, found, before = Drift(), [], 0
    for stop in [*sorted(set(stops)), len(series)]:
        found += [before + i for i in fed(series[before:stop], drift, before)[0]]
        data = drift.dump()
        drift = Drift()
        drift.load(data)
        assert drift.dump() == data
        before = stop
    assert found == whole
    assert drift.dump() == straight.dump()
    assert drift.history(KEY) == straight.history(KEY)


def test_the_order_of_keys_does_not_matter() -> None:
    keys = [(0, 1), (2, 0), (1, 7)]
    series = {key: 3.0 + noise(400, i) + (np.arange(400) > 300) * i for i, key in enumerate(keys)}
    one, other = Drift(), Drift()
    for key in keys:
        for hour, value in enumerate(series[key].tolist()):
            one.add(key, value, START + hour * HOUR)
    for hour in range(400):
        for key in reversed(keys):
            other.add(key, float(series[key][hour]), START + hour * HOUR)
    assert one.dump() == other.dump()
    assert [len(one.history(key)) for key in keys] == [0, 1, 1]


def test_state_and_history_are_bounded() -> None:
    series = 2.0 + noise(20_000, 9) + np.arange(20_000) // 300 % 2 * 3.0
    found, drift = fed(series)
    assert len(found) > MOVES
    assert len(drift.history(KEY)) == MOVES
    _, calm = fed(2.0 + noise(20_000, 9))
    assert KEPT * 16 < len(calm.dump()) < MOST * 16 + WEEK * 18 + 1000


def test_a_value_that_is_no_number_is_ignored() -> None:
    series = 3.0 + noise(600, 10)
    _, clean = fed(series)
    dirty = Drift()
    for hour, value in enumerate(series.tolist()):
        for bad in (float("nan"), float("inf"), float("-inf")):
            assert not dirty.add(KEY, bad, START + hour * HOUR)
        dirty.add(KEY, value, START + hour * HOUR)
    assert dirty.dump() == clean.dump()


def test_a_signal_never_seen_has_no_history() -> None:
    assert Drift().history(KEY) == ()


def test_a_move_is_told_with_levels_and_the_day_it_began() -> None:
    series = 2.1 + noise(1000, 11, 0.05)
    series[600:] += 1.3
    _, drift = fed(series)
    assert [moved.text("rate") for moved in drift.history(KEY)] == ["the level of rate moved from 2.1 to 3.4 nats on 2026-01-30"]


def test_river_is_imported_only_when_a_detector_is_needed() -> None:
    code = """
import sys
from models.drift import Drift, FEWEST, HOUR, WEEK
drift = Drift()
for hour in range(WEEK + FEWEST):
    drift.add((0, 0), 1.0, hour * HOUR)
assert not [name for name in sys.modules if name.split(".")[0] == "river"]
drift.add((0, 0), 1.0, hour * HOUR)
assert "river" in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], check=True)  # noqa: S603 - our own interpreter


@pytest.mark.parametrize("delta", [0.0, 1.0, -0.1, float("nan")])
def test_a_delta_that_is_no_chance_is_refused(delta: float) -> None:
    with pytest.raises(ValueError, match="delta must lie between 0 and 1"):
        Drift(delta)


def test_a_state_under_another_delta_goes_on() -> None:
    series = 3.0 + noise(700, 12)
    series[600:] += 0.4
    found, strict = fed(series, Drift(1e-9))
    assert found == []
    loose = Drift(0.5)
    loose.load(strict.dump())
    # What the stricter setting let pass is no longer one window: the newer part goes on, and no drift is reported for the past.
    assert fed(3.4 + noise(300, 13), loose, 700)[0] == []


def damaged(change: dict[str, object], series: int | None = None) -> bytes:
    state = msgspec.msgpack.decode(fed(3.0 + noise(400, 14))[1].dump())
    if series is None:
        state |= change
    else:
        state["series"][0][series] = change["value"]
    return msgspec.msgpack.encode(state)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x00garbage",
        damaged({"series": 1}),
        damaged({"value": b"\0" * 7}, 2),
        damaged({"value": b""}, 2),
        damaged({"value": b"\xff" * 8 * (400 - WEEK)}, 2),
        damaged({"value": b"\0" * 8}, 4),
        damaged({"value": np.full(WEEK, np.inf).tobytes()}, 4),
        damaged({"value": np.full(WEEK, np.nan).tobytes()}, 5),
        damaged({"value": "text"}, 7),
    ],
)
def test_foreign_and_damaged_state_is_refused_whole(data: bytes) -> None:
    _, drift = fed(3.0 + noise(400, 15))
    before = drift.dump()
    with pytest.raises(ValueError, match="state of drift: "):
        drift.load(data)
    assert drift.dump() == before


def test_a_newer_format_is_refused_with_a_sentence_even_if_its_fields_are_others() -> None:
    with pytest.raises(ValueError, match="format 2, this release reads 1"):
        Drift().load(msgspec.msgpack.encode({"format": 2, "windows": "of glass"}))
