"""Our signals in river, and river's detectors among our signals."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from river import anomaly, base, compose, metrics

from connectors.names import stable_hash
from models.river_view import RiverView
from models.signals import Signal, learners
from models.signals.river_detector import FEATURES, RiverDetector, features
from tests.signal_stage import COLUMNS, Events, Stage, mixed

HOUR = 3600.0
#: Midnight of a Monday, 2024-01-01, in seconds.
START = 1_704_067_200.0


Event = dict[Hashable, Any]


def event(hours: float, actor: str = "user:ann", object: str = "model:a/b", **more: Any) -> Event:
    x: Event = {"time": START + hours * HOUR, "actor": stable_hash(actor), "object": stable_hash(object), "moved": 1e9}
    x.update(more)
    return x


def past(signal: str, days: int = 5, **settings: Any) -> RiverView:
    """Ann and Bob at work on two models."""
    view = RiverView(msgspec.convert(settings, learners()[signal]))
    for hour in range(days * 24):
        view.learn_one(event(hour, "user:ann", "model:a/b", refused=0))
        view.learn_one(event(hour + 0.1, "user:bob", "model:a/c", refused=0))
    return view


STRANGER: dict[str, dict[str, Any]] = {
    "rate": {"weight": 500.0},
    "magnitude": {"moved": 1e13},
    "egress": {"moved": 1e13},
    "denied": {"refused": 1, "weight": 50.0},
    "novelty": {"object": "model:a/c"},
    "rarity": {"actor": "user:eve"},
}


@pytest.mark.parametrize("name", STRANGER)
def test_a_signal_of_ours_scores_as_a_river_detector_does(name: str) -> None:
    view = past(name)
    assert isinstance(view, base.AnomalyDetector)
    usual = view.score_one(event(130.0, refused=0))
    strange = view.score_one(event(130.0, **STRANGER[name]))
    assert isinstance(usual, float)
    assert strange > usual + 0.5


@pytest.mark.parametrize("name", STRANGER)
def test_scoring_teaches_nothing_whatever_is_scored(name: str) -> None:
    asked, left = past(name), past(name)
    later = [
        event(130.0 + i * 0.3, who, what, refused=i % 2)
        for i, who in enumerate(("user:ann", "user:eve"))
        for what in ("model:a/b", "model:x/y")
    ]
    for each in later:
        for i in range(20):
            asked.score_one(event(130.0 + i, f"user:new{i}", f"model:new/{i}", moved=1e14, refused=1, weight=9.0))
            asked.score_one(each)
        assert asked.score_one(each) == left.score_one(each)
        asked.learn_one(each)
        left.learn_one(each)
    assert [asked.score_one(each) for each in later] == [left.score_one(each) for each in later]


def test_events_one_by_one_score_as_a_block_does() -> None:
    given = mixed(200)
    for learner in learners().values():
        if not learner.durable:
            continue
        stage, view = Stage(learner), RiverView(learner())
        block = stage.play(given)[0]
        single = []
        for i in range(len(given)):
            x = _event_of(given, i)
            single.append(view.score_one(x))
            view.learn_one(x)
        assert single == np.nan_to_num(block, nan=0.0).tolist()


def _event_of(given: Events, i: int) -> Event:
    return {"time": given.time[i] / 1e6} | {name: getattr(given, name)[i].item() for name in COLUMNS}


def test_an_event_that_does_not_say_what_is_asked_scores_nothing() -> None:
    x = event(130.0)
    del x["moved"]
    assert past("magnitude").score_one(x) == 0.0
    assert past("denied").score_one(x) == 0.0


def test_a_signal_works_at_the_end_of_a_river_pipeline() -> None:
    def whole(x: Event) -> Event:
        return {"time": x["at"], "actor": stable_hash(x["who"]), "object": stable_hash(x["what"]), "moved": x["size"]}

    pipeline = compose.FuncTransformer(whole) | RiverView(learners()["magnitude"]())
    for hour in range(100):
        pipeline.learn_one({"at": START + hour * HOUR, "who": "ann", "what": "model", "size": 1e6})
    usual, strange = (
        pipeline.score_one({"at": START + 101 * HOUR, "who": "ann", "what": "model", "size": size}) for size in (1e6, 1e12)
    )
    assert strange > usual + 3.0


def test_rivers_filter_works_over_a_signal_and_keeps_what_is_strange_from_teaching() -> None:
    filtered = anomaly.QuantileFilter(past("magnitude"), q=0.95, protect_anomaly_detector=True)
    for hour in range(120, 200):
        filtered.learn_one(event(hour, moved=1e9 * (1 + hour % 7 / 10)))  # type: ignore[no-untyped-call]  # river is typed in part
    strange, usual = (filtered.classify(filtered.score_one(event(201.0, moved=moved))) for moved in (1e14, 1.2e9))  # type: ignore[no-untyped-call]  # ditto
    assert strange
    assert not usual


def test_a_signal_can_be_evaluated_like_any_river_detector() -> None:
    metric = metrics.ROCAUC()  # type: ignore[no-untyped-call]  # river is typed in part
    view = past("rarity")
    for i in range(60):
        eve = i % 10 == 9
        x = event(130.0 + i, f"user:eve{i}" if eve else "user:ann")
        metric.update(eve, view.score_one(x))  # type: ignore[no-untyped-call]  # as above
        view.learn_one(x)
    assert metric.get() > 0.95  # type: ignore[no-untyped-call]  # as above


# --- the other way round: river's detectors as signals --------------------------------------------------------------------------------


def made(**settings: Any) -> Signal:
    return msgspec.convert(settings, RiverDetector)


@pytest.mark.parametrize("name", ["HalfSpaceTrees", "LocalOutlierFactor", "OneClassSVM", "LODA"])
def test_any_unsupervised_detector_of_river_is_a_signal(name: str) -> None:
    out = Stage(lambda: made(detector=name)).play(mixed(60))
    assert np.isfinite(out).all()
    assert (out[0] >= 0.0).all()


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"detector": "IsolationForest"}, r"expected a river anomaly detector \(HalfSpaceTrees, LODA, .*\), got 'IsolationForest'"),
        ({"detector": "GaussianScorer"}, r"expected a river anomaly detector \(.*\), got 'GaussianScorer'"),
        ({"detector": "QuantileFilter"}, r"expected a river anomaly detector \(.*\), got 'QuantileFilter'"),
        ({"detector": "__name__"}, r"expected a river anomaly detector \(.*\), got '__name__'"),
        ({"detector": "base.Estimator"}, r"expected a river anomaly detector"),
        ({"detector": 3}, r"Expected `str`, got `int` - at `\$.detector`"),
        ({"settings": {"trees": 3}}, r"settings of river's HalfSpaceTrees: .*unexpected keyword argument 'trees'.*\$.settings"),
        ({"settings": {"n_trees": "many"}}, r"settings of river's HalfSpaceTrees that work: .*\$.settings"),
        ({"settings": {"n_trees": 1.5}}, r"settings of river's HalfSpaceTrees that work: .*\$.settings"),
        ({"per": "object"}, r"Invalid enum value 'object' - at `\$.per`"),
    ],
)
def test_a_detector_that_river_has_not_or_that_does_not_fit_is_named_in_a_sentence(settings: dict[str, Any], expected: str) -> None:
    with pytest.raises((ValueError, msgspec.ValidationError), match=expected) as caught:
        made(**settings)
    assert str(caught.value).count("\n") == 0


def test_the_configuration_names_the_key_of_a_wrong_detector() -> None:
    from detector.config import ConfigError, parse

    with pytest.raises(ConfigError, match=r"^signals\.trees\.detector: expected a river anomaly detector"):
        parse('[signals.trees]\nlearner = "river_detector"\ndetector = "Nonsense"')
    with pytest.raises(ConfigError, match=r"^signals\.trees\.settings: expected settings of river's HalfSpaceTrees"):
        parse('[signals.trees]\nlearner = "river_detector"\nsettings = { depth = 3 }')


def test_a_detector_per_actor_learns_from_that_actor_alone() -> None:
    settings = {"n_trees": 3, "height": 3, "window_size": 10}
    given = mixed(150)

    def scores(who: Callable[[int], bool]) -> list[float]:
        chosen = given.take([i for i in range(len(given)) if who(int(given.actor[i]))])
        out = Stage(lambda: made(per="actor", settings=settings)).play(chosen)
        return [float(score) for score, actor in zip(out[1], chosen.actor.tolist(), strict=True) if actor == 1]

    # The value seen is river's own score; without the other actors it is the same.
    alone, among = scores(lambda actor: actor == 1), scores(lambda _: True)
    assert len(alone) > 5
    assert alone[:5] == among[:5]


def test_features_lie_between_nought_and_one_and_are_nought_where_unknown() -> None:
    stage = Stage(made)
    rows = stage.rows(mixed(200))
    for i in range(len(rows)):
        x = features(rows, i)
        assert tuple(x) == FEATURES
        assert all(0.0 <= value <= 1.0 for value in x.values())
        assert x["bytes"] == 0.0 or not np.isnan(rows.moved[i])


def test_a_state_file_refuses_a_detector_of_river_by_name(tmp_path: Path) -> None:
    from detector.checkpoint import Checkpoints, StateError
    from detector.config import parse

    config = parse('[signals.trees]\nlearner = "river_detector"')
    with pytest.raises(StateError, match=r"^signals\.trees: this learner's state cannot be kept over a restart"):
        Checkpoints(tmp_path / "state", config)
    assert not (tmp_path / "state").exists()
