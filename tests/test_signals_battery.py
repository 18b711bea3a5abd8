"""What every learner must do, each check shown to fail on a learner that does not.

A learner is found by ``models.signals.learners()``; one that comes new is tested without a change here, but for its entry in
``LADDERS`` (or its reason in ``BLACK_BOXES``), and where it does not heed an announced change, its reason in ``UNPACED``.
"""

from __future__ import annotations

import gc
import itertools
import math
import random
import re
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from types import FunctionType, ModuleType
from typing import Any, get_args

import msgspec
import numpy as np
import pytest

from connectors.event import Action, Stream
from models.kernels import DAY, HOUR, MINUTE
from models.profiles import record
from models.signals import EXPECTED, SURPRISE, TABLES, USUAL, Line, Rows, Signal, Visit, learners
from tests import signal_stage
from tests.signal_faults import (
    AccusesTheFirst,
    BelievesEverything,
    BelievesTheChange,
    ExcusesTheChange,
    FindsTheSmallStrange,
    GoesBelowZero,
    HalfSilent,
    Hoards,
    IgnoresTheChange,
    LearnsFirst,
    LearnsFromSilence,
    LearnsInBatches,
    LearnsTheLate,
    Mumbles,
    Plain,
    RemembersByItself,
    SaysNotWhatIsStrange,
    SparesTheLate,
    SpeaksForEveryone,
    Sprawls,
    SprawlsOverPairs,
    TakesAnySetting,
    ThrowsDice,
    Undescribed,
)
from tests.signal_stage import SECOND, START, Events, events, joined, mixed, steady

Make = Callable[[], Signal]

#: Learners whose own learning is not ours to bound or to order, with the reason.
BLACK_BOXES = {"river_detector": "what it learns, and what it finds strange, is river's business; the calibration cap bounds both"}
#: Learners whose expectation counts the row itself as an attempt, so that it follows the row's weight.
EXPOSED = {"denied"}
#: Learners that learn no faster inside an announced change, with the reason.
UNPACED = {
    "periodicity": "it expects seconds of the latest interval, which a change sets at once; test_signals_time shows it heeds it",
    "rarity": "hours of activity are a bound on what one identity may teach; a change lets it be known faster, not be busier",
}

_SMALL = {"n_trees": 3, "height": 4, "window_size": 30}


def _variants() -> dict[str, Make]:
    """Every learner with its default settings, and once for each value of the settings that choose a view."""
    found: dict[str, Make] = {}
    for name, learner in learners().items():
        base: dict[str, Any] = {"settings": _SMALL} if name == "river_detector" else {}
        views = {
            field.name: get_args(field.type)
            for field in msgspec.structs.fields(learner)
            if field.name != "line" and get_args(field.type) and isinstance(get_args(field.type)[0], str)
        }
        for values in itertools.product(*views.values()):
            chosen = dict(zip(views, values, strict=True))
            label = "-".join((name, *values))
            found[label] = lambda learner=learner, given=base | chosen: msgspec.convert(given, learner)  # type: ignore[misc]
    return found


VARIANTS = _variants()


def _name(make: Make) -> str:
    learner = type(make())
    return getattr(learner, "like", learner.__module__.rpartition(".")[2])


def _attested_in_turn(pulls: Events) -> dict[str, Any]:
    attests = (pulls.time // int(20 * MINUTE) + pulls.actor.astype(np.int64)) % 2 == 0
    return {
        "stream": np.where(attests, Stream.attestation, Stream.job),
        "action": np.where(attests, Action.attest, Action.start),
    }


#: Learners that are not asked about pulls of models, and what the pulls of this battery are to them: columns in place of the usual.
ASKED: dict[str, Callable[[Events], dict[str, Any]]] = {
    "sequence": lambda pulls: {"action": np.where(pulls.object % 2 == 1, Action.pull, Action.push)},
    "places": lambda pulls: {"via": pulls.object},
    "gpu_hours": lambda pulls: {"stream": Stream.job, "action": Action.end, "gpu_seconds": pulls.moved / 1e5},
    "hoarding": lambda pulls: {"stream": Stream.job, "action": Action.start, "gpus": pulls.moved / 1e8},
    "outward": lambda pulls: {"stream": Stream.flow, "outward": (pulls.refused == 1.0) | (pulls.moved > 1e11)},
    "attestation": _attested_in_turn,
}


class Stage(signal_stage.Stage):
    """A stage on which pulls are what the learner is asked about."""

    def rows(self, given: Events) -> Rows:
        asked = ASKED.get(_name(self.make))
        pulls = np.flatnonzero((given.stream == Stream.registry) & (given.action == Action.pull))
        if asked is None or len(pulls) == 0:
            return super().rows(given)
        columns = {}
        for name, values in asked(given.take(pulls.tolist())).items():
            columns[name] = getattr(given, name).copy()
            columns[name][pulls] = values
        return super().rows(replace(given, **columns))


def _cut(given: Events, places: list[int]) -> list[Events]:
    ends = [0, *sorted(places), len(given)]
    return [given.take(slice(a, b)) for a, b in itertools.pairwise(ends) if b > a]


def _same(a: np.ndarray, b: np.ndarray) -> bool:
    return a.tobytes() == b.tobytes()


def _later(hours: float, warm: Events) -> int:
    return int(warm.time.max()) + int(hours * HOUR)


# --- the checks -----------------------------------------------------------------------------------------------------------------------


def expects_nothing_of_the_row_itself(make: Make) -> None:
    warm = steady(3.0)
    stage = Stage(make)
    stage.play(warm)
    for actor, object_ in ((1, 101), (1, 999), (77, 101), (77, 999)):
        one = events([_later(1.5, warm)], actor, object_)
        tame = stage.probe(one)[0]
        wild = [replace(one, moved=np.array([1e14])), replace(one, refused=np.ones(1)), replace(one, moved=np.array([1.0]))]
        if _name(make) not in EXPOSED:
            wild.append(replace(one, weight=np.array([1e4])))
        for other in wild:
            assert _same(stage.probe(other)[0][EXPECTED:], tame[EXPECTED:]), "the value seen changed what was expected"
        wildest = replace(one, moved=np.array([1e14]), refused=np.ones(1), weight=np.array([1e4]))
        assert stage.probe(wildest)[0][SURPRISE] >= tame[SURPRISE] or _name(make) in BLACK_BOXES


def says_nothing_of_an_empty_history_that_the_row_itself_made(make: Make) -> None:
    said = {}
    for moved in (1.0, 1e14):
        said[moved] = Stage(make).play(events([START], moved=moved))[:, 0]
    assert said[1.0][EXPECTED] == said[1e14][EXPECTED] or not any(out[SURPRISE] > 0.0 for out in said.values())


def scores_a_row_alike_whether_it_teaches_or_not(make: Make) -> None:
    given = mixed(300)
    stage = Stage(make)
    for part in _cut(given, [100, 200]):
        stage.play(part)
        for wait in (0.01, 0.7, 5.0, 30.0):
            for actor, object_ in ((1, 101), (2, 102), (88, 999)):
                one = events([_later(wait, part)], actor, object_, moved=5e8, refused=1.0)
                taught, _ = stage.probe(one)
                withheld, _ = stage.probe(one, learn=False)
                assert _same(taught, withheld), f"after {wait} h: {taught.ravel()} taught, {withheld.ravel()} withheld"


def learns_nothing_from_rows_that_do_not_teach(make: Make) -> None:
    given = mixed(300)
    stage = Stage(make)
    before = stage.state()
    for part in _cut(given, [5, 100, 200]):
        probe = joined(part, events([_later(7.0, part)] * 3, 55, 555, moved=1e13, refused=1.0))
        assert stage.probe(probe, learn=False)[1] == before
        stage.play(part)
        before = stage.state()


def does_not_depend_on_how_rows_are_cut(make: Make) -> None:
    given = mixed(240)
    whole = Stage(make)
    expected = whole.play(given)
    rng = random.Random(3)
    cuts = [list(range(len(given)))] + [rng.sample(range(1, len(given)), k) for k in (1, 3, 40)]
    for places in cuts:
        stage = Stage(make)
        out = np.hstack([stage.play(part) for part in _cut(given, places)])
        assert _same(out, expected), f"the scores depend on the cuts at {places[:5]}..."
        assert stage.state() == whole.state(), f"the state depends on the cuts at {places[:5]}..."


def goes_on_from_a_dump_as_if_nothing_had_been(make: Make) -> None:
    first, second = _cut(mixed(300), [170])
    stage = Stage(make)
    stage.play(first)
    if not stage.signal.durable:
        assert "restart" in (type(stage.signal).__doc__ or ""), "a learner that cannot be kept over a restart must say so"
        return
    other = stage.twin()
    assert _same(other.play(second), stage.play(second))
    assert other.state() == stage.state()


def keeps_everything_in_the_state_it_is_handed(make: Make) -> None:
    signal = make()
    if not signal.durable:
        return
    given = mixed(200)
    runs = [Stage(lambda: signal).play(given) for _ in range(2)]
    assert _same(*runs), "a second run over empty tables remembers the first"


def _weight_of(held: object) -> int:
    """Bytes reachable from an object, code left out."""
    seen: set[int] = set()
    waiting, total = [held], 0
    while waiting:
        each = waiting.pop()
        if id(each) in seen or isinstance(each, type | ModuleType | FunctionType):
            continue
        seen.add(id(each))
        total += sys.getsizeof(each)
        waiting += gc.get_referents(each)
    return total


def has_a_memory_bounded_by_its_profiles(make: Make) -> None:
    def lap(number: int) -> Events:
        given = mixed(400)
        return replace(given, time=given.time + np.int64(number * 4 * DAY))

    stage = Stage(make)
    fields, scalars = stage.signal.state(), stage.signal.scalars()
    stage.play(lap(0))
    stage.play(lap(1))
    tables = {name: (table.used, table.nbytes) for name, table in stage.tables.items()}
    beside = _weight_of(stage.signal)
    for number in range(2, 8):
        stage.play(lap(number))
    assert (stage.signal.state(), stage.signal.scalars()) == (fields, scalars)
    assert {name: (table.used, table.nbytes) for name, table in stage.tables.items()} == tables
    assert _weight_of(stage.signal) <= beside * 1.05 + 4096, "it grows beside its tables"


def is_finite_or_silent_and_never_negative(make: Make) -> None:
    given = mixed(500)
    unknown = replace(given, moved=np.full(500, np.nan), refused=np.full(500, np.nan), basis=np.zeros(500, np.int8))
    huge = events([START + i * SECOND for i in range(50)], moved=1e18, weight=1e9, refused=1.0)
    for each in (given, unknown, huge):
        out = Stage(make).play(each)
        silent = np.isnan(out).all(axis=0)
        # Where no value would be too large (rarity), there is no largest usual one, and no row has it.
        spoken = out if np.isfinite(out[USUAL]).any() else out[:USUAL]
        assert (silent | np.isfinite(spoken).all(axis=0)).all(), "neither numbers nor four times nothing"
        assert (out[SURPRISE, ~silent] >= 0.0).all()


def learns_nothing_where_it_says_nothing(make: Make) -> None:
    given = mixed(250)
    mute = replace(given, moved=np.full(250, np.nan), refused=np.full(250, np.nan))
    stage = Stage(make)
    for one in _cut(joined(given, replace(mute, time=mute.time + np.int64(5 * DAY))), list(range(500))):
        before = stage.state()
        if np.isnan(stage.play(one)).all():
            assert stage.state() == before, "a row that says nothing taught something"


def is_deterministic(make: Make) -> None:
    given = mixed(300)
    random.seed(1)
    a, b = Stage(make), Stage(make)
    first = a.play(given)
    random.seed(2)
    assert _same(b.play(given), first)
    assert b.state() == a.state()


Ladder = Iterator[tuple[Events, Events]]


def _in_order(*parts: Events) -> Events:
    whole = joined(*parts)
    return whole.take(np.argsort(whole.time, kind="stable").tolist())


def _more_events() -> Ladder:
    calm = steady(3.0)
    for many in (1.0, 2.0, 5.0, 30.0, 1e3, 1e6):
        yield calm, events([_later(1.5, calm)], weight=many)


def _more_bytes() -> Ladder:
    calm = steady(3.0)
    for many in (1e3, 1e9, 1e10, 1e12, 1e15):
        yield calm, events([_later(1.5, calm)], moved=many)


def _more_refusals() -> Ladder:
    calm = steady(3.0)
    now = _later(1.5, calm)
    for many in (0, 1, 3, 10, 100):
        yield joined(calm, events([now] * many, refused=1.0)), events([now], refused=1.0)


def _less_activity() -> Ladder:
    now = _later(1.5, steady(3.0))
    for who in (1, 5, 77):
        yield joined(steady(3.0), events([now], 5)), events([now], who)


def _more_partners() -> Ladder:
    calm = steady(3.0)
    now = _later(1.5, calm)
    for many in (0, 2, 8, 40):
        met = events([now - 1_000_000] * many, 1, np.arange(500, 500 + many)) if many else calm.take([0])
        yield _in_order(calm, met), events([now], 1, 999)


def _less_acquaintance() -> Ladder:
    # Met on twelve, five, one day and never; all others keep meeting.
    days = [START + int(day * DAY) for day in range(12)]
    rest = [events([day + int(HOUR), day + int(2 * HOUR)], 2, np.array([103, 101])) for day in days]
    rest += [events([day + int(3 * HOUR)], 1, 102) for day in days]
    end = int(13 * DAY) + START
    for met in (12, 5, 1, 0):
        yield _in_order(*rest, *[events([day], 1, 101) for day in days[-met:] if met]), events([end], 1, 101)


def _larger_days() -> Ladder:
    calm = steady(3.0)
    for many in (1.0, 30.0, 1e3, 1e6):
        yield calm, events([_later(1.5, calm)], weight=many, moved=1e9 * many)


def _more_even_calls() -> Ladder:
    calm = _in_order(steady(3.0), events(START + np.cumsum(np.random.default_rng(2).exponential(1800.0, 100) * SECOND), 9, 101))
    now = _later(1.5, calm)
    for beats in (0, 5, 10, 20):
        calls = events(now + np.arange(beats) * 60 * SECOND, 9, 101)
        yield joined(calm, calls), events([now + beats * 60 * SECOND], 9, 101)


def _less_usual_hours() -> Ladder:
    # Four weeks of office hours; then at noon, soon after work, and late at night.
    work = [START + int(day * DAY + hour * HOUR) for day in range(28) if day % 7 < 5 for hour in range(9, 17)]
    for hour in (12, 17, 23):
        yield events(work), events([START + int(28 * DAY + hour * HOUR)])


def _less_usual_sizes() -> Ladder:
    # Four sizes, the first the most usual.
    sizes = np.array([1e6] * 20 + [1e3] * 6 + [30.0] * 2)
    past = events(START + np.arange(len(sizes)) * int(HOUR), moved=sizes)
    for size in (1e6, 1e3, 30.0, 1e9):
        yield past, events([START + 40 * int(HOUR)], moved=size)


def _fewer_newcomers() -> Ladder:
    calm = steady(6.0)
    for many in (300, 60, 10, 0):
        time = np.linspace(START, calm.time.max(), max(many, 1)).astype(np.int64)
        newcomers = events(time, np.arange(1000, 1000 + many) if many else 1)
        yield _in_order(calm, newcomers), events([_later(1.5, calm)], 99)


def _less_usual_steps() -> Ladder:
    # Lists, then mostly pulls, and ever less often pushes.
    for pushes in (40, 10, 2, 0):
        action = np.array([Action.list, Action.pull] * 40)
        action[1 : 2 * pushes : 2] = Action.push
        past = events(START + np.arange(80) * int(10 * MINUTE), action=action)
        end = int(past.time.max())
        begun = joined(past, events([end + int(10 * MINUTE)], action=Action.list))
        yield begun, events([end + int(20 * MINUTE)], action=Action.push)


def _more_places() -> Ladder:
    calm = steady(3.0)
    now = _later(1.5, calm)
    for many in (0, 1, 3, 5):
        seen = events([now - SECOND] * many, 1, np.arange(500, 500 + many)) if many else calm.take([0])
        yield _in_order(calm, seen), events([now], 1, 999)


def _fewer_outward_hours() -> Ladder:
    for outside in (100, 30, 5, 0):
        hour = np.arange(100)
        past = events(START + hour * int(HOUR), stream=Stream.flow, action=Action.connect, outward=hour < outside)
        yield past, events([START + int(101 * HOUR)], stream=Stream.flow, action=Action.connect, outward=True)


def _worse_attestation() -> Ladder:
    # Attested and used every hour of ten days; then used soon, later and much later than that, and after a failure.
    begin = START + np.arange(240) * int(HOUR)
    attests = events(begin, stream=Stream.attestation, action=Action.attest)
    works = events(begin + int(MINUTE), stream=Stream.job, action=Action.start)
    past = _in_order(attests, works)
    failure = events([_later(0.5, past)], stream=Stream.attestation, action=Action.attest, refused=1.0)
    for hours, before in ((1.0, past), (20.0, past), (30.0, past), (1.0, joined(past, failure))):
        yield before, events([_later(hours, past)], stream=Stream.job, action=Action.start)


#: By learner: what makes a row stranger, and pairs of (past, last row), the last row ever stranger.
LADDERS: dict[str, tuple[str, Callable[[], Ladder]]] = {
    "rate": ("more events in the minute", _more_events),
    "magnitude": ("more bytes", _more_bytes),
    "egress": ("more bytes", _more_bytes),
    "volume": ("more of it in the day", _larger_days),
    "drip": ("more bytes", _more_bytes),
    "size": ("a size less usual", _less_usual_sizes),
    "periodicity": ("more calls at even intervals", _more_even_calls),
    "hour_of_week": ("an hour less usual", _less_usual_hours),
    "denied": ("more refusals", _more_refusals),
    "fanout": ("more new partners before it", _more_partners),
    "novelty": ("less acquaintance", _less_acquaintance),
    "rarity": ("less activity", _less_activity),
    "first_seen": ("fewer newcomers", _fewer_newcomers),
    "sequence": ("a step less usual", _less_usual_steps),
    "places": ("more places at once", _more_places),
    "gpu_hours": ("more GPU-hours", _more_bytes),
    "hoarding": ("more GPUs", _more_bytes),
    "outward": ("fewer hours with the outside", _fewer_outward_hours),
    "attestation": ("an attestation older, then failed", _worse_attestation),
}


def finds_the_stranger_stranger(make: Make) -> None:
    name = _name(make)
    if name in BLACK_BOXES:
        return
    assert name in LADDERS, f"say in LADDERS what makes a row stranger to {name}"
    rises, ladder = LADDERS[name]
    found = []
    for past, last in ladder():
        stage = Stage(make)
        stage.play(past)
        found.append(float(stage.play(last)[SURPRISE, 0]))
    assert found == sorted(found), f"{rises}, but {found}"
    assert found[-1] > found[0] + 0.5


#: How often what is expected may grow by one flood, however large; and inside an announced change.
GULLIBLE, GULLIBLE_IN_CHANGE = 2.5, 3.0


def _bought(make: Make, pace: float, bound: float) -> None:
    if _name(make) in BLACK_BOXES:
        return
    calm = steady(6.0)
    now = _later(2.0, calm)
    enormous = events([now], moved=1e15, weight=1e6, refused=1.0, pace=pace)
    flood = events([now + i * 1000 for i in range(5000)], moved=1e15, refused=1.0, pace=pace)
    then = events([now + int(2 * HOUR)])
    stage = Stage(make)
    stage.play(calm)
    before = float(stage.probe(then)[0][EXPECTED, 0])
    for burst in (enormous, flood):
        other = stage.twin()
        other.play(burst)
        # Whatever is learned when a unit is over is learned now.
        other.play(events([now + int(HOUR)], moved=np.nan, refused=np.nan, pace=pace))
        after = float(other.play(then)[EXPECTED, 0])
        assert after <= bound * before, f"expected {before} before, {after} after one burst of {len(burst)}"


def is_not_bought_by_one_enormous_row_or_a_flood(make: Make) -> None:
    _bought(make, 1.0, GULLIBLE)


def is_not_bought_by_a_flood_inside_an_announced_change(make: Make) -> None:
    _bought(make, 4.0, GULLIBLE_IN_CHANGE)


def learns_faster_inside_an_announced_change(make: Make) -> None:
    if _name(make) in BLACK_BOXES | UNPACED:
        return
    calm = steady(6.0)
    now = _later(2.0, calm)
    then = events([now + int(14 * HOUR)], moved=3e9)
    stage = Stage(make)
    stage.play(calm)
    before = float(stage.probe(then)[0][EXPECTED, 0])
    moved = {}
    for pace in (1.0, 4.0):
        other = stage.twin()
        # Hours in which all is different: larger, more often, refused more often, and with partners never met.
        time = now + np.arange(4 * 12) * int(5 * MINUTE)
        row = np.arange(len(time))
        other.play(events(time, 1, np.where(row % 2, 5000 + row, 101), moved=3e9, weight=3.0, refused=row % 4 == 0, pace=pace))
        moved[pace] = abs(float(other.play(then)[EXPECTED, 0]) - before)
    assert moved[4.0] > 1.05 * moved[1.0], f"what is expected moved by {moved[1.0]} usually, by {moved[4.0]} inside a change"


def scores_a_row_alike_whatever_its_pace(make: Make) -> None:
    stage = Stage(make)
    past = mixed(300)
    stage.play(past)
    # Half past a minute, so that the row before it is in the same minute and what that closed is learned.
    time = int((_later(0.7, past) // MINUTE + 1.5) * MINUTE)
    for actor, object_ in ((1, 101), (2, 102), (88, 999)):
        stage.play(events([time - SECOND], actor, object_ + 10_000, moved=2e8))
        stage.play(events([time - SECOND], actor, object_, moved=2e8))
        one = events([time], actor, object_, moved=5e11, refused=1.0)
        usual, announced = (stage.probe(replace(one, pace=np.array([pace])))[0] for pace in (1.0, 4.0))
        assert _same(usual, announced), f"{usual.ravel()} usually, {announced.ravel()} inside an announced change"


#: Bytes that a learner may keep of an identity, and of a pair: there are a million of the one and several million of the other.
LARGEST, LARGEST_OF_PAIRS = 160, 64


def is_small(make: Make) -> None:
    for table, kept in make().state().items():
        size = record(kept).itemsize
        most = LARGEST_OF_PAIRS if table.endswith("pair") else LARGEST
        assert size <= most, f"{size} bytes for each {table}, at most {most}"


def does_not_let_one_flooder_speak_for_everyone(make: Make) -> None:
    if _name(make) in BLACK_BOXES:
        return
    calm = steady(6.0)
    stage = Stage(make)
    stage.play(calm)
    now = _later(1.0, calm)
    victims = [events([now + int(13 * HOUR)] * 5, who, 101, moved=1e11, refused=1.0) for who in (2, 88)]
    before = [float(stage.probe(strange)[0][SURPRISE].max()) for strange in victims]
    for hour in range(12):
        begin = now + int(hour * HOUR)
        stage.play(events([begin + i * SECOND // 20 for i in range(2000)], 1, 102, moved=1e11, refused=1.0))
    after = [float(stage.probe(strange)[0][SURPRISE].max()) for strange in victims]
    assert all(b >= 0.5 * a for a, b in zip(before, after, strict=True)), f"{before} nats before, {after} after another's flood"


NUMBERS = (0.0, 1e-300, 0.004, 0.5, 0.9999, 1.0, 3.0, 99.96, 1023.9, 12_345.6, 7e9, 1e15, 1e40, 1e300)


def speaks_in_a_sentence_whatever_the_numbers(make: Make) -> None:
    signal = make()
    for seen, expected, usual in itertools.product(NUMBERS, repeat=3):
        said = signal.text(seen, expected, usual, "user:ann", "model:registry/llama")
        assert len(said.split()) >= 4
        assert "\n" not in said
        assert not re.search(r"\b(nan|inf|none)\b", said, re.IGNORECASE), said


def describes_itself(make: Make) -> None:
    signal = make()
    learner = type(signal)
    assert 0.0 <= signal.weight <= 1.0
    assert signal.unit
    assert signal.visit in get_args(Visit)
    assert set(signal.state()) <= set(TABLES[signal.visit])
    named = [[field[0] for field in kept] for kept in signal.state().values()]
    assert all(len(set(names)) == len(names) > 0 for names in named)
    assert signal.line in get_args(Line)
    assert isinstance(learner.drifts, bool)
    text = learner.__doc__ or ""
    for word in ("Idea:", "Fails ", "Cost"):
        assert word in text, f"the docstring does not say {word.strip()}"
    for field in msgspec.structs.fields(learner):
        assert field.name in ("weight", "line") or f"``{field.name}" in text, f"the docstring does not name the parameter {field.name}"


def refuses_settings_that_make_no_sense(make: Make) -> None:
    signal = make()
    given = msgspec.structs.asdict(signal)
    for name, value in given.items():
        if isinstance(value, float) and name != "weight":
            for wrong in (math.nan, math.inf, -1.0):
                with pytest.raises((msgspec.ValidationError, ValueError), match=name):
                    msgspec.convert(given | {name: wrong}, type(signal))
    with pytest.raises(msgspec.ValidationError, match="no_such_setting"):
        msgspec.convert(given | {"no_such_setting": 1}, type(signal))


CHECKS: list[Callable[[Make], None]] = [
    expects_nothing_of_the_row_itself,
    says_nothing_of_an_empty_history_that_the_row_itself_made,
    scores_a_row_alike_whether_it_teaches_or_not,
    learns_nothing_from_rows_that_do_not_teach,
    does_not_depend_on_how_rows_are_cut,
    goes_on_from_a_dump_as_if_nothing_had_been,
    keeps_everything_in_the_state_it_is_handed,
    has_a_memory_bounded_by_its_profiles,
    is_finite_or_silent_and_never_negative,
    learns_nothing_where_it_says_nothing,
    is_deterministic,
    finds_the_stranger_stranger,
    is_not_bought_by_one_enormous_row_or_a_flood,
    is_not_bought_by_a_flood_inside_an_announced_change,
    learns_faster_inside_an_announced_change,
    scores_a_row_alike_whatever_its_pace,
    is_small,
    does_not_let_one_flooder_speak_for_everyone,
    speaks_in_a_sentence_whatever_the_numbers,
    describes_itself,
    refuses_settings_that_make_no_sense,
]


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
@pytest.mark.parametrize("label", VARIANTS)
def test_every_learner(label: str, check: Callable[[Make], None]) -> None:
    check(VARIANTS[label])


def test_the_battery_runs_over_every_learner_and_every_view() -> None:
    assert {label.partition("-")[0] for label in VARIANTS} == set(learners())
    assert {"rate-actor", "rate-object", "rate-pair", "novelty-object", "novelty-actor"} <= set(VARIANTS)


# --- every check can fail ------------------------------------------------------------------------------------------------------------

BAD: list[tuple[Callable[[Make], None], type[Plain]]] = [
    (expects_nothing_of_the_row_itself, LearnsFirst),
    (says_nothing_of_an_empty_history_that_the_row_itself_made, AccusesTheFirst),
    (scores_a_row_alike_whether_it_teaches_or_not, SparesTheLate),
    (learns_nothing_from_rows_that_do_not_teach, LearnsTheLate),
    (does_not_depend_on_how_rows_are_cut, LearnsInBatches),
    (goes_on_from_a_dump_as_if_nothing_had_been, RemembersByItself),
    (keeps_everything_in_the_state_it_is_handed, RemembersByItself),
    (has_a_memory_bounded_by_its_profiles, Hoards),
    (is_finite_or_silent_and_never_negative, GoesBelowZero),
    (is_finite_or_silent_and_never_negative, HalfSilent),
    (learns_nothing_where_it_says_nothing, LearnsFromSilence),
    (is_deterministic, ThrowsDice),
    (finds_the_stranger_stranger, FindsTheSmallStrange),
    (finds_the_stranger_stranger, SaysNotWhatIsStrange),
    (is_not_bought_by_one_enormous_row_or_a_flood, BelievesEverything),
    (is_not_bought_by_a_flood_inside_an_announced_change, BelievesTheChange),
    (learns_faster_inside_an_announced_change, IgnoresTheChange),
    (scores_a_row_alike_whatever_its_pace, ExcusesTheChange),
    (is_small, Sprawls),
    (is_small, SprawlsOverPairs),
    (does_not_let_one_flooder_speak_for_everyone, SpeaksForEveryone),
    (speaks_in_a_sentence_whatever_the_numbers, Mumbles),
    (describes_itself, Undescribed),
    (refuses_settings_that_make_no_sense, TakesAnySetting),
]


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_a_plain_learner_passes(check: Callable[[Make], None]) -> None:
    check(Plain)


@pytest.mark.parametrize(("check", "learner"), BAD, ids=lambda value: value.__name__)
def test_a_bad_learner_is_caught(check: Callable[[Make], None], learner: type[Plain]) -> None:
    with pytest.raises((AssertionError, pytest.fail.Exception)):
        check(learner)


def test_every_check_is_shown_to_fail() -> None:
    assert {check for check, _ in BAD} == set(CHECKS)


def test_one_scan_does_not_make_scanning_usual_for_anyone() -> None:
    calm = steady(6.0)
    stage = Stage(learners()["fanout"])
    stage.play(calm)
    now = _later(2.0, calm)

    def scan(many: int, at: int, first: int, who: int) -> Events:
        return events([at + i * SECOND // 10 for i in range(many)], who, np.arange(first, first + many))

    again = [scan(200, now + int(25 * HOUR), 50_000, who) for who in (1, 2, 88)]
    before = [stage.probe(each)[0][SURPRISE].max() for each in again]
    stage.play(scan(5000, now, 100_000, 1))
    stage.play(scan(1, now + int(3 * HOUR), 200_000, 1))
    after = [stage.probe(each)[0][SURPRISE].max() for each in again]
    assert all(b >= 0.5 * a > 1.0 for a, b in zip(before, after, strict=True)), (before, after)
