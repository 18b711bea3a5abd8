"""Calibration: surprises become shares of past cells, and nobody can buy a share of the past."""

from __future__ import annotations

import itertools
import random
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models import calibration
from models.calibration import BINS, EVIDENCE, FIRST, LEARNED, LEVELS, OBJECT_STRANGE, ROW, SCORE, _rebuild, bin_of, calibrate, nats_of
from models.kernels import DAY, HOUR
from models.profiles import record

#: Noon of a Monday, 2024-01-01.
NOON = 1_704_110_400_000_000
CAP = 8.0
STRANGE = 4.6


class Calibrator:
    """Objects and pairs by small numbers, and the kernel over them. Two signals, the second one drifting if asked."""

    def __init__(
        self,
        signals: int = 1,
        weights: tuple[float, ...] = (),
        drifts: bool = False,
        pairs: int = 4096,
        age: float = 0.0,
        kinds: int = 1,
    ) -> None:
        self.kinds = kinds
        self.object = np.zeros(512, record(calibration.OBJECT))
        self.pair = np.zeros(pairs, record((*calibration.PAIR, ("bins", "u1", signals))))
        self.clock = np.zeros(len(calibration.CLOCK))
        self.clock[1] = age
        self.streams = np.zeros((2 * kinds, 4))
        self.means = np.zeros((2, signals, 2))
        self.histogram, self.gain, self.term = (np.zeros((2 * kinds, signals, BINS)) for _ in range(3))
        self.weights = np.array(weights or (1.0,) * signals)
        self.drifts = np.full(signals, drifts)
        self.level = np.zeros((2, 2 * signals + 1))
        self.peers = np.zeros((4, signals, BINS))
        self.settings = np.array([CAP, STRANGE, 2.0, 0.0, 5.0, HOUR])

    def rows(
        self,
        time: list[float],
        surprise: Sequence[float] | Sequence[Sequence[float]] | np.ndarray,
        object: list[int] | int = 0,
        pair: list[int] | int = 0,
        new_hour: list[int] | int = 1,
        cells: list[int] | int = 1,
        learn: list[bool] | bool = True,
        stream: int = 0,
        kind: int = 0,
        peer: int = 0,
        days: list[float] | float = 0.0,
    ) -> tuple[np.ndarray, np.ndarray]:
        """(float64[n] scores, evidence rows)."""
        n = len(time)
        # A compiled kernel does not look: a slot beyond its table would write into someone else's memory.
        assert np.max(pair) < len(self.pair)
        assert np.max(object) < len(self.object)
        matrix = np.atleast_2d(np.asarray(surprise, np.float64))
        score = np.empty(n)
        evidence = np.zeros((n, EVIDENCE + 2 * len(matrix)))
        finished = np.zeros((n, LEVELS + len(matrix)))
        found, _ = calibrate(
            np.asarray(time, np.float64),
            np.broadcast_to(np.asarray(learn, np.bool_), n).copy(),
            np.broadcast_to(np.asarray(new_hour, np.float64), n).copy(),
            np.full(n, stream, np.int8),
            np.full(n, stream * self.kinds, np.int64),
            np.full(n, kind, np.int8),
            np.broadcast_to(np.asarray(cells, np.float64), n).copy(),
            np.broadcast_to(np.asarray(days, np.float64), n).copy(),
            np.full(n, 7.0),
            np.full(n, peer, np.int32),
            matrix,
            np.broadcast_to(np.asarray(object, np.int32), n).copy(),
            np.broadcast_to(np.asarray(pair, np.int32), n).copy(),
            self.object,
            self.pair,
            self.clock,
            self.streams,
            self.means,
            self.histogram,
            self.gain,
            self.term,
            self.peers,
            self.weights,
            self.drifts,
            self.settings,
            self.level,
            score,
            evidence,
            finished,
        )
        return score, evidence[:found]

    def taught(self, surprises: list[float], hours: int = 40) -> None:
        """A past: every hour one cell of each surprise, each at an object and a pair of its own."""
        for hour in range(hours):
            here = list(range(len(surprises)))
            self.rows([NOON + hour * HOUR] * len(here), surprises, object=here, pair=here)

    def ask(self, surprise: float, hours: float = 41.0) -> float:
        """The score of a row that teaches nothing, after the past."""
        return float(self.rows([NOON + hours * HOUR], [surprise], object=500, pair=4000, learn=False)[0][0])

    def state(self) -> bytes:
        parts = (self.object, self.pair, self.clock, self.streams, self.means, self.histogram, self.gain, self.term)
        return b"".join(part.tobytes() for part in parts)


def test_a_bin_begins_where_its_surprises_begin_however_large() -> None:
    bins = [bin_of(x) for x in np.geomspace(0.01, 1e7, 2000)]
    assert bins == sorted(bins)
    assert (bins[0], bins[-1]) == (0, BINS - 1)
    assert all(bin_of(nats_of(b) + 1e-6) == b for b in range(BINS))
    assert nats_of(bin_of(calibration.LINEAR)) == calibration.LINEAR


def test_a_cell_remembers_every_bin_and_that_a_signal_said_nothing() -> None:
    calibrator = Calibrator(signals=2)
    for pair, surprise in enumerate((0.0, 1.0, 15.9, 1e9)):
        calibrator.rows([NOON + pair], [[surprise], [np.nan]], object=pair, pair=pair)
        assert calibrator.pair["bins"][pair].tolist() == [bin_of(surprise) + 1, 0]
    # It grows from any bin to any other, and one that was silent joins late.
    calibrator.rows([NOON + 9], [[1e9], [2.0]], object=1, pair=1, new_hour=0)
    assert calibrator.pair["bins"][1].tolist() == [BINS, bin_of(2.0) + 1]
    assert calibrator.histogram.sum() == 5.0
    assert calibrator.histogram[0, 0, BINS - 1] == 2.0


def test_an_empty_calibrator_finds_nothing_strange() -> None:
    for surprise in (0.0, 5.0, 500.0):
        score, evidence = Calibrator().rows([NOON], [surprise])
        assert score.tolist() == [0.0]
        assert len(evidence) == 0


def test_a_surprise_becomes_the_share_of_cells_at_least_as_surprising() -> None:
    calibrator = Calibrator()
    calibrator.taught([1.0] * 90 + [3.0] * 10)
    cells = calibrator.histogram[0, 0].sum()
    assert cells == pytest.approx(4000, rel=0.06)
    assert calibrator.ask(0.5) == pytest.approx(0.0, abs=1e-6)
    assert calibrator.ask(2.0) == pytest.approx(np.log((1 + cells) / (1 + 0.1 * cells)), rel=1e-2)


def test_what_was_never_seen_is_stranger_than_the_strangest_but_only_by_a_bound() -> None:
    calibrator = Calibrator()
    calibrator.taught(list(np.linspace(0.0, 4.0, 100)))
    cells = calibrator.histogram[0, 0].sum()
    asked = [calibrator.ask(x) for x in (4.0, 6.0, 9.0, 31.0, 1e6)]
    assert asked == sorted(asked)
    assert asked[1] > asked[0]
    assert asked[-1] <= np.log(1 + cells) + 2.0 + 1e-9


@settings(max_examples=150, deadline=None)
@given(st.lists(st.tuples(st.integers(0, BINS - 1), st.floats(0.0, 5000.0)), max_size=40), st.floats(1.0, 2.0))
def test_a_more_surprising_bin_never_scores_lower(bins: list[tuple[int, float]], stretch: float) -> None:
    histogram = np.zeros(BINS)
    for bin_, many in bins:
        histogram[bin_] += many
    gain, term = np.empty(BINS), np.empty(BINS)
    _rebuild(histogram, 0.3, 2.0, stretch, gain, term)
    assert (np.diff(gain) >= -1e-9).all()
    assert (gain >= -1e-9).all()
    assert gain.max() <= (np.log(1 + histogram.sum()) + 2.0) * stretch + 1e-9
    assert np.allclose(term, (0.3 * np.exp(gain)) ** 2)


def test_the_tail_is_extrapolated_by_its_own_mean_excess() -> None:
    light, heavy = np.zeros(BINS), np.zeros(BINS)
    light[0] = heavy[0] = 10_000
    light[8:16] += 20
    heavy[8:88] += 2
    out = []
    for histogram in (light, heavy):
        gain, term = np.empty(BINS), np.empty(BINS)
        _rebuild(histogram, 1.0, 2.0, 1.0, gain, term)
        out.append(gain)
    for beyond in (90, 100, 110):
        assert out[0][beyond] > out[1][beyond]
    assert out[1][110] > out[1][90] + 0.1


def test_most_cells_at_one_value_do_not_hide_the_tail_above_it() -> None:
    calibrator = Calibrator()
    calibrator.taught([0.0] * 99 + [2.0])
    assert calibrator.ask(2.0) > 4.0
    assert calibrator.ask(0.0) == pytest.approx(0.0, abs=1e-6)


def test_a_cell_counts_once_at_its_strongest() -> None:
    calibrator = Calibrator()
    calibrator.rows([NOON + i for i in range(6)], [1.0, 3.0, 2.0, 3.0, 5.0, 0.0], new_hour=[1, 0, 0, 0, 0, 0])
    assert calibrator.histogram[0, 0].sum() == 1.0
    assert calibrator.histogram[0, 0, bin_of(5.0)] == 1.0
    assert calibrator.streams[0, 0] == 1.0


def test_a_cell_that_may_not_teach_does_not_teach_later_either() -> None:
    calibrator = Calibrator()
    calibrator.rows([NOON, NOON + 1], [1.0, 9.0], new_hour=[1, 0], cells=[int(CAP) + 1, 1])
    assert calibrator.histogram.sum() == 0.0


def test_an_endpoint_teaches_so_many_cells_an_hour_at_most() -> None:
    calibrator = Calibrator(age=100 * DAY)
    calibrator.rows([NOON] * 100, [2.0] * 100, object=0, pair=list(range(100)))
    assert calibrator.histogram.sum() == CAP
    calibrator.rows([NOON + HOUR] * 100, [2.0] * 100, object=0, pair=list(range(100)))
    assert calibrator.streams[0, 0] == pytest.approx(2 * CAP, rel=0.01)


def test_an_actor_teaches_so_many_cells_an_hour_at_most() -> None:
    calibrator = Calibrator()
    calibrator.rows([NOON] * 100, [2.0] * 100, object=list(range(100)), pair=list(range(100)), cells=list(range(1, 101)))
    assert calibrator.histogram.sum() == CAP


def test_a_hub_is_taught_by_its_old_partners_when_strangers_have_had_their_share() -> None:
    calibrator = Calibrator(age=100 * DAY)
    strangers, partners = [0.0] * 100, [5.0] * 100
    calibrator.rows([NOON] * 200, [2.0] * 100 + [7.0] * 100, pair=list(range(200)), cells=50, days=strangers + partners)
    assert calibrator.histogram[0, 0, bin_of(7.0)] == 0.0
    calibrator.rows([NOON + HOUR] * 200, [2.0] * 100 + [7.0] * 100, pair=list(range(200)), days=strangers + partners)
    assert calibrator.histogram[0, 0, bin_of(2.0)] == pytest.approx(CAP, rel=0.01)
    assert calibrator.histogram[0, 0, bin_of(7.0)] == pytest.approx(4 * CAP, rel=0.01)


def test_a_flood_of_yesterdays_strangers_is_still_one_of_strangers() -> None:
    calibrator = Calibrator(age=100 * DAY)
    calibrator.rows([NOON] * 100, [2.0] * 100, pair=list(range(100)), days=1.0)
    assert calibrator.histogram.sum() == CAP


def test_a_flood_of_spoofed_sources_does_not_make_itself_normal() -> None:
    calibrator = Calibrator(pairs=20_000)
    calibrator.taught([0.5] * 30)
    assert calibrator.ask(9.0) > 6.0
    # Six hours of 3,000 sources each: counted, they would be nine tenths of the past (0.1 nats); capped, they are a twentieth.
    for hour in range(41, 47):
        calibrator.rows([NOON + hour * HOUR] * 3000, [9.0] * 3000, object=100, pair=list(range(5000, 8000)))
    assert calibrator.ask(9.0, 47.5) > 2.5


def test_rows_that_do_not_teach_leave_the_past_as_it_was() -> None:
    calibrator = Calibrator()
    calibrator.taught([0.5, 1.0, 1.5])
    before = calibrator.histogram.sum(), calibrator.object.tobytes()
    score, _ = calibrator.rows([NOON + 39.5 * HOUR] * 3, [1.0, 8.0, 30.0], object=7, pair=[900, 901, 902], learn=False)
    assert score[2] > score[0]
    assert (calibrator.histogram.sum(), calibrator.object.tobytes()) == before


def test_a_signal_that_says_nothing_neither_raises_nor_teaches() -> None:
    calibrator = Calibrator(signals=2)
    score, _ = calibrator.rows([NOON], [[np.nan], [1.0]])
    assert score[0] == pytest.approx(np.log(2.0) / 2.0)
    assert calibrator.histogram[0, 0].sum() == 0.0
    assert calibrator.histogram[0, 1].sum() == 1.0
    nothing, evidence = calibrator.rows([NOON + 1.0], [[np.nan], [np.nan]], pair=1)
    assert np.isfinite(nothing[0])
    assert len(evidence) == 0


def test_a_signal_of_little_weight_must_be_so_much_stricter() -> None:
    scores = []
    for weight in (1.0, 0.03):
        calibrator = Calibrator(weights=(weight,))
        calibrator.taught(list(np.linspace(0.0, 4.0, 100)))
        scores.append(calibrator.ask(12.0))
    assert scores[0] - scores[1] == pytest.approx(-np.log(0.03), abs=1e-6)


def test_streams_do_not_share_a_past() -> None:
    calibrator = Calibrator()
    calibrator.taught([0.5] * 20)
    assert calibrator.ask(9.0) > 3.0
    score, _ = calibrator.rows([NOON + 41 * HOUR], [9.0], pair=4001, stream=1)
    assert score[0] == 0.0


def test_a_drifting_signal_is_measured_from_its_own_mean() -> None:
    calibrator = Calibrator(drifts=True)
    for hour in range(200):
        level = 3.0 + hour * 0.02
        here = list(range(30))
        calibrator.rows([NOON + hour * HOUR] * 30, list(level + np.linspace(-0.5, 0.5, 30)), object=here, pair=here)
    assert calibrator.ask(3.0 + 200 * 0.02, 201.0) < 4.0
    assert calibrator.ask(3.0 + 200 * 0.02 + 10.0, 201.0) > 5.0


def test_evidence_names_its_row_and_comes_again_only_when_stronger() -> None:
    calibrator = Calibrator(age=100 * DAY)
    calibrator.taught(list(np.linspace(0.0, 8.0, 100)))
    score, evidence = calibrator.rows(
        [NOON + 41 * HOUR + i for i in range(5)], [0.5, 8.5, 8.5, 9.5, 8.5], object=101, pair=900, new_hour=[1, 0, 0, 0, 0]
    )
    assert evidence[:, ROW].tolist() == [1, 2, 3, 4]
    assert evidence[:, SCORE].tolist() == score[1:].tolist()
    assert evidence[:, FIRST].tolist() == [2.0, 0.0, 1.0, 0.0]
    assert evidence[:, OBJECT_STRANGE].tolist() == [1.0] * 4
    assert evidence[:, LEARNED].tolist() == [1.0] * 4
    assert (evidence[:, EVIDENCE] > 3.0).all()


def test_an_object_counts_its_surprising_partners_of_the_hour() -> None:
    calibrator = Calibrator(age=100 * DAY)
    calibrator.taught([0.5] * 40)
    _, evidence = calibrator.rows([NOON + 41 * HOUR] * 4, [9.0] * 4, object=101, pair=[900, 901, 902, 901], new_hour=[1, 1, 1, 0])
    assert evidence[:, OBJECT_STRANGE].tolist() == [1.0, 2.0, 3.0, 3.0]
    _, later = calibrator.rows([NOON + 43 * HOUR], [9.0], object=101, pair=903)
    assert later[:, OBJECT_STRANGE].tolist() == [1.0]


def test_the_surprising_partners_of_an_earlier_hour_do_not_count_for_a_weaker_row_of_this_one() -> None:
    calibrator = Calibrator(age=100 * DAY)
    calibrator.settings[4] = 50.0  # twenty pieces of evidence are no more than was meant, and raise no floor
    calibrator.taught(list(np.linspace(0.0, 8.0, 100)))
    calibrator.rows([NOON + 41 * HOUR] * 20, [9.0] * 20, object=101, pair=list(range(900, 920)))
    score, evidence = calibrator.rows([NOON + 43 * HOUR], [7.6], object=101, pair=950)
    assert 1.5 < score[0] < STRANGE
    assert evidence[:, OBJECT_STRANGE].tolist() == [0.0]


def test_more_evidence_than_was_meant_raises_the_floor_within_bounds_and_for_a_while() -> None:
    calibrator = Calibrator(age=100 * DAY, pairs=1 << 14)
    calibrator.taught(list(np.linspace(0.0, 8.0, 100)))
    raised = []
    for hour in range(41, 60):
        many = 200 if hour < 46 else 1
        calibrator.rows([NOON + hour * HOUR] * many, [9.0] * many, object=101, pair=[900 + hour * 200 + i for i in range(many)])
        raised.append(float(calibrator.clock[4]))
    assert max(raised) == calibration.MOST_RAISED
    assert raised[-1] == 0.0


def test_a_cell_begins_anew_with_its_hour_even_where_the_row_comes_too_late_for_its_actor() -> None:
    calibrator = Calibrator(age=100 * DAY)
    calibrator.taught([0.5] * 40)
    calibrator.rows([NOON + 41 * HOUR], [9.0], object=101, pair=900)
    # The hour's first row is new to the object but does not teach, because its actor is ahead of it; the next one does.
    calibrator.rows([NOON + 42 * HOUR], [0.5], object=101, pair=900, new_hour=1, learn=False)
    _, evidence = calibrator.rows([NOON + 42 * HOUR + 1], [9.0], object=101, pair=900, new_hour=0)
    assert evidence[:, FIRST].tolist() == [2.0]


@pytest.mark.parametrize("seed", range(4))
def test_nothing_depends_on_how_rows_are_cut(seed: int) -> None:
    rng = random.Random(seed)
    n = 500
    time = [NOON + i * 100_000_000.0 for i in range(n)]
    surprise = np.array([[rng.expovariate(0.5) if rng.random() > 0.1 else np.nan for _ in range(n)] for _ in range(2)])
    object_ = [rng.randrange(20) for _ in range(n)]
    pair = [o * 8 + rng.randrange(8) for o in object_]
    fresh = [int(rng.random() < 0.4) for _ in range(n)]
    cells = [rng.randrange(1, 12) for _ in range(n)]
    learn = [rng.random() > 0.05 for _ in range(n)]

    def play(places: list[int]) -> tuple[Calibrator, np.ndarray, np.ndarray]:
        calibrator = Calibrator(signals=2, drifts=True)
        scores, found = [], []
        for a, b in itertools.pairwise([0, *places, n]):
            score, evidence = calibrator.rows(time[a:b], surprise[:, a:b], object_[a:b], pair[a:b], fresh[a:b], cells[a:b], learn[a:b])
            evidence[:, ROW] += a
            scores.append(score)
            found.append(evidence)
        return calibrator, np.concatenate(scores), np.concatenate(found)

    whole, expected, evidence = play([])
    assert len(evidence) > 10
    for places in (sorted(rng.sample(range(1, n), 40)), list(range(1, n))):
        cut, scores, found = play(places)
        assert scores.tobytes() == expected.tobytes()
        assert found.tobytes() == evidence.tobytes()
        assert cut.state() == whole.state()
