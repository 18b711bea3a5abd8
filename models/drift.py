"""Drift: has the level of a signal itself moved, for everyone, for good?

Calibration follows a signal whose level creeps upwards, and thereby hides the creep. So, once an hour, each signal's mean surprise over
that hour's taught cells is put to ADWIN (river's), which keeps as long a window as its mean has not changed and says when it has.

Idea: two parts of a window whose means differ by more than chance allows, at any cut, are not one level. What is tested is the hour's
value less what that hour *of the week* usually has above the level of the week: river's ADWIN took no daily rhythm for a drift in a
year of hours, but every weekend for two. When a drift is found, the window is cut where its two parts differ most, and only the newer
part goes on.

When it fails: it is blind for the first ten days, in which it learns the hours of the week and gathers a window. A push slower than its
memory of 720 to 1,440 hours looks level. Levels that wander by themselves for days (an hour correlated .9 with the next) are reported
10 to 90 times a year, rightly by its terms. An attack that lifts the whole mean for hours is reported, and so is its end. It says that
everyone moved, not who.

Cost: about 50 microseconds an hour and key, most of it for the rhythm; at most 26 kB a key, and as much for the detector. The state is
the values themselves, from which the detector is built anew: no pickle, and a run with a restart equals one without. river takes a
second to import, and is imported at the first key with more than ``FEWEST`` values, that is in the second week.

Paper: A. Bifet, R. Gavaldà, "Learning from time-changing data with adaptive windowing", SDM 2007.
"""

from __future__ import annotations

import math
from array import array
from datetime import UTC, datetime
from typing import Any

import msgspec
import numpy as np

#: Format of the saved state. A reader refuses a newer one.
FORMAT = 1
#: Chance of a false alarm that ADWIN allows itself at a cut: river's own default. On 15 stationary years of hours it raised none, so
#: that less buys nothing, and 1e-6 finds a step of one standard deviation after 129 hours instead of 67.
DELTA = 0.002
#: Values before anything is said: three days. A shorter window is noise, and a short trace need not import river.
FEWEST = 72
#: At so many values the detector is built anew from the newest half, so that state and the time to load it are bounded: 60 and 30 days.
MOST, KEPT = 1440, 720
#: Largest value taken, in nats. A calibration of ten million cells says no more than 18; and a single hour of 20 moves no level of 4,
#: but one of 50 does, and upsets the rhythm with it.
LARGEST = 20.0
#: Moves remembered of a signal: what an explanation could still mention.
MOVES = 16
#: Hours of a week: each has its own usual distance from the week's level.
WEEK = 168
#: Newest value's least weight in that distance: two months of weeks, or a new rhythm would never be learned.
LEAST_WEIGHT = 1 / 8
#: Microseconds of an hour.
HOUR = 3_600_000_000

Key = tuple[int, int]


class Moved(msgspec.Struct, frozen=True, array_like=True):
    """One drift. ``since``: when the new level began, ``found``: when that was sure (microseconds UTC); ``before``, ``after``: mean
    levels (nats)."""

    since: int
    found: int
    before: float
    after: float

    def text(self, signal: str) -> str:
        """One sentence for people.

        >>> Moved(since=1772600400000000, found=1772688000000000, before=2.1, after=3.44).text("rate")
        'the level of rate moved from 2.1 to 3.4 nats on 2026-03-04'
        """
        day = datetime.fromtimestamp(self.since / 1e6, UTC).date().isoformat()
        return f"the level of {signal} moved from {self.before:.1f} to {self.after:.1f} nats on {day}"


class _Saved(msgspec.Struct, array_like=True):
    """A series as it is stored: arrays as little-endian bytes."""

    stream: int
    signal: int
    values: bytes
    hours: bytes
    latest: bytes
    offset: bytes
    weeks: bytes
    resumes: int
    moves: tuple[Moved, ...]


class _State(msgspec.Struct):
    format: int
    series: list[_Saved]


class _Format(msgspec.Struct):
    format: int


class _Series:
    """What is kept of one key.

    ``values``: nats less the rhythm, since the last cut; ``hours``: of each, since 1970. Per hour of the week: ``latest`` raw value
    (NaN = never), its usual ``offset`` from the week's level, ``weeks`` that taught it. ``resumes``: the hour from which weeks teach
    again: one in which the level moved tells nothing of the rhythm, and what it would teach makes later weeks look like drifts.
    """

    def __init__(self) -> None:
        self.values = array("d")
        self.hours = array("q")
        self.latest = np.full(WEEK, np.nan)
        self.offset = np.zeros(WEEK)
        self.weeks = np.zeros(WEEK, np.uint16)
        self.resumes = 0
        self.moves: tuple[Moved, ...] = ()
        #: ADWIN fed with exactly ``values``; None = to be built. Never stored.
        self.detector: Any = None

    def level_out(self, hour: int, value: float) -> float:
        """``value`` less what its hour of the week usually has above the week's level; NaN the first time that hour comes."""
        at = hour % WEEK
        last = self.latest[at]
        if not math.isnan(last) and hour >= self.resumes:
            # From the same hour a week ago until now is one whole week. Its level is the median, which an attack of some hours does not
            # move: with the mean, one of six hours in the second week left 25 false drifts behind it.
            usual = last - float(np.median(self.latest[~np.isnan(self.latest)]))
            self.weeks[at] = min(int(self.weeks[at]) + 1, 1000)
            self.offset[at] += max(1.0 / self.weeks[at], LEAST_WEIGHT) * (usual - self.offset[at])
        self.latest[at] = value
        return math.nan if math.isnan(last) else value - float(self.offset[at])

    def cut(self) -> tuple[float, float]:
        """Forget what is older than the likeliest change. Returns the mean levels (before, after)."""
        values = np.array(self.values)
        n = len(values)
        at = np.arange(1, n)
        left = np.cumsum(values)[at - 1]
        # Of all cuts the one whose two means differ most, measured in their own standard errors.
        gap = left / at - (values.sum() - left) / (n - at)
        where = int(at[np.argmax(np.abs(gap) * np.sqrt(at * (n - at)))])
        before, after = float(values[:where].mean()), float(values[where:].mean())
        del self.values[:where], self.hours[:where]
        return before, after


class Drift:
    """One ADWIN for each key (stream number, signal number). ``delta``: see ``DELTA``, in (0, 1); ValueError otherwise."""

    def __init__(self, delta: float = DELTA) -> None:
        if not 0.0 < delta < 1.0:
            raise ValueError(f"delta must lie between 0 and 1, got {delta}")
        self.delta = delta
        self._series: dict[Key, _Series] = {}

    def add(self, key: Key, value: float, time: int) -> bool:
        """Take in the mean surprise ``value`` (nats) of one hour; ``time``: any microsecond (UTC) of that hour. Once an hour at most;
        hours without cells are left out. Returns whether a drift was found now. A value that is no number is ignored."""
        if not math.isfinite(value):
            return False
        series = self._series.setdefault(key, _Series())
        hour = int(time) // HOUR
        level = series.level_out(hour, min(max(value, 0.0), LARGEST))
        if math.isnan(level):
            return False
        if series.detector is None and len(series.values) >= FEWEST:
            series.detector = self._built(series)
        series.values.append(level)
        series.hours.append(hour)
        if series.detector is not None:
            series.detector.update(level)
            if series.detector.drift_detected:
                before, after = series.cut()
                series.detector = None
                series.resumes = hour + WEEK
                moved = Moved(series.hours[0] * HOUR, int(time), before, after)
                series.moves = (*series.moves, moved)[-MOVES:]
                return True
        if len(series.values) >= MOST:
            del series.values[:-KEPT], series.hours[:-KEPT]
            series.detector = None
        return False

    def history(self, key: Key) -> tuple[Moved, ...]:
        """The drifts found in a signal, oldest first, at most ``MOVES``."""
        series = self._series.get(key)
        return series.moves if series else ()

    def _built(self, series: _Series) -> Any:
        """ADWIN fed with the values; None if too few of them stay. A change found already on the way (the setting was another when
        they were saved) is cut off in silence: the detector handed out has found nothing in exactly these values."""
        # Imported only when it is needed: it takes a second.
        from river.drift import ADWIN

        while len(series.values) >= FEWEST:
            # Once an hour is seldom enough to look every time.
            detector: Any = ADWIN(delta=self.delta, clock=1, grace_period=FEWEST)  # type: ignore[no-untyped-call]  # river is typed in part
            for value in series.values:
                detector.update(value)
                if detector.drift_detected:
                    break
            else:
                return detector
            series.cut()
        return None

    def dump(self) -> bytes:
        """The whole state. Equal histories give equal bytes, whatever the order of keys."""
        saved = [
            _Saved(
                *key,
                values=np.array(each.values).astype("<f8").tobytes(),
                hours=np.array(each.hours, np.int64).astype("<i8").tobytes(),
                latest=each.latest.astype("<f8").tobytes(),
                offset=each.offset.astype("<f8").tobytes(),
                weeks=each.weeks.astype("<u2").tobytes(),
                resumes=each.resumes,
                moves=each.moves,
            )
            for key, each in sorted(self._series.items())
        ]
        return msgspec.msgpack.encode(_State(FORMAT, saved))

    def load(self, data: bytes) -> None:
        """Take over what ``dump`` gave, whole or not at all. Raises ValueError, with a sentence, on another format and on
        foreign bytes."""
        try:
            given = msgspec.msgpack.decode(data, type=_Format).format
            if given != FORMAT:
                raise ValueError(f"state of drift: format {given}, this release reads {FORMAT}")
            saved = msgspec.msgpack.decode(data, type=_State)
        except msgspec.MsgspecError as error:
            raise ValueError(f"state of drift: not a record of it ({error})") from None
        self._series = {(each.stream, each.signal): _restored(each) for each in saved.series}


def _restored(saved: _Saved) -> _Series:
    series = _Series()
    try:
        values = np.frombuffer(saved.values, "<f8")
        hours = np.frombuffer(saved.hours, "<i8")
        latest, offset = np.frombuffer(saved.latest, "<f8"), np.frombuffer(saved.offset, "<f8")
        weeks = np.frombuffer(saved.weeks, "<u2")
    except ValueError as error:
        raise ValueError(f"state of drift: damaged ({error})") from None
    sizes = (
        (len(latest), len(offset), len(weeks)) == (WEEK, WEEK, WEEK) and len(hours) == len(values) < MOST and len(saved.moves) <= MOVES
    )
    if not sizes or not np.isfinite(values).all() or not np.isfinite(offset).all() or np.isinf(latest).any():
        raise ValueError("state of drift: damaged (sizes or numbers that no run leaves behind)")
    series.values = array("d", values.tolist())
    series.hours = array("q", hours.tolist())
    series.latest, series.offset, series.weeks = latest.astype(np.float64), offset.astype(np.float64), weeks.astype(np.uint16)
    series.resumes, series.moves = saved.resumes, saved.moves
    return series
