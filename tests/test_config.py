"""The configuration: every mistake is named with its key and what was expected, and the default explains itself."""

from __future__ import annotations

import tomllib
from contextlib import suppress
from pathlib import Path

import msgspec
import numpy as np
import pytest

from detector.config import Config, ConfigError, default_text, parse, read
from models.calibration import BINS, MOST_STRETCH, _rebuild
from models.signals import learners

#: TOML with a mistake -> the key it must name, and a word of what was expected.
MISTAKES = [
    ("[budget]\nalerts_a_day = 5", "budget", "alerts_a_day"),
    ("[bugdet]\nalerts_per_day = 5", "the file", "bugdet"),
    ("top = 1", "the file", "top"),
    ('[budget]\nalerts_per_day = "five"', "budget.alerts_per_day", "expected `float`, got `str`"),
    ("[budget]\nalerts_per_day = 0", "budget.alerts_per_day", "expected a number above 0"),
    ("[budget]\nalerts_per_day = -1", "budget.alerts_per_day", "expected a number above 0"),
    ("[budget]\nalerts_per_day = nan", "budget.alerts_per_day", "expected a number above 0"),
    ("[budget]\nalerts_per_day = inf", "budget.alerts_per_day", "at most 10,000"),
    ("budget = 5", "budget", "expected `object`, got `int`"),
    ("[time]\nlateness_minutes = -1", "time.lateness_minutes", "expected 0 to 10,080"),
    ("[time]\nahead_hours = 0", "time.ahead_hours", "expected 1 to 8,760"),
    ("[time]\nahead_hours = nan", "time.ahead_hours", "expected 1 to 8,760"),
    ("[limits]\nactors = 0", "limits.actors", "expected 100 to 1,000,000,000"),
    ("[limits]\npairs = 1.5", "limits.pairs", "expected `int`, got `float`"),
    ("[limits]\nendpoints = true", "limits.endpoints", "expected `int`, got `bool`"),
    ('[identities]\nrestricted = "model:*"', "identities.restricted", "expected `array`, got `str`"),
    ('[identities]\nrestricted = ["llama*"]', "identities.restricted", "expected 'kind:pattern'"),
    ('[identities]\nrestricted = ["modell:llama"]', "identities.restricted", "got 'modell:llama'"),
    ("[identities]\nrestricted = [3]", "identities.restricted[0]", "expected `str`, got `int`"),
    ("[calibration]\ncap = 0", "calibration.cap", "expected at least 1"),
    ("[calibration]\nfloor = 31", "calibration.floor", "expected above 0 and below 30 nats"),
    ("[calibration]\nbeta = 0.5", "calibration.beta", "expected 1 to"),
    ("[calibration]\nequalise_streams = 1", "calibration.equalise_streams", "expected `bool`, got `int`"),
    ("[fuse]\nquiet_hours = 0", "fuse.quiet_hours", "expected above 0"),
    ("[fuse]\nevidence_floor = 0", "fuse.evidence_floor", "expected above 0 nats"),
    ('[signals.new]\nlearner = "magic"', "signals.new.learner", "expected one of "),
    ("[signals.new]\nweight = 1.0", "signals.new.learner", "got None"),
    ("[signals.new]\nlearner = 3", "signals.new.learner", "got 3"),
    ("[signals]\nnew = 3", "signals", "expected `object`, got `int`"),
    ("[signals.actor_rate]\nweight = 1.5", "signals.actor_rate.weight", "expected a share between 0 and 1, got 1.5"),
    ("[signals.actor_rate]\nweight = nan", "signals.actor_rate.weight", "expected a share between 0 and 1, got nan"),
    ('[signals.actor_rate]\nweight = "much"', "signals.actor_rate.weight", "expected `float`, got `str`"),
    ('[signals.actor_rate]\nof = "host"', "signals.actor_rate.of", "invalid enum value 'host'"),
    ("[signals.actor_rate]\nmemory_days = 0", "signals.actor_rate.memory_days", "expected `float` > 0.0"),
    ("[signals.actor_rate]\nmemory_weeks = 2", "signals.actor_rate", "memory_weeks"),
    ("[signals.actor_at_object]\ndiscount = 1", "signals.actor_at_object.discount", "expected `float` < 1.0"),
    ('[respond]\nmode = "attack"', "respond.mode", "invalid enum value 'attack'"),
    ('[[respond.rules]]\nname = "x"\nactions = [{ verb = "format_disk" }]', "respond.rules[0].actions[0].verb", "expected one of"),
]


@pytest.mark.parametrize(
    ("text", "key", "expected"), MISTAKES, ids=[key + " " + text.split("=")[-1].strip()[:12] for text, key, _ in MISTAKES]
)
def test_a_mistake_names_its_key_and_what_was_expected(text: str, key: str, expected: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse(text)
    (mistake,) = caught.value.mistakes
    assert mistake.startswith(f"{key}: "), mistake
    assert expected in mistake
    assert "\n" not in mistake


@pytest.mark.parametrize("value", ['["rate"]', '{ name = "rate" }'])
def test_a_learner_that_is_no_text_is_named_too(value: str) -> None:
    with pytest.raises(ConfigError, match=r"^signals\.new\.learner: expected one of"):
        parse(f"[signals.new]\nlearner = {value}")


def test_a_restricted_identity_is_spelled_like_the_identities_it_is_for() -> None:
    config = parse('[identities]\nrestricted = ["user:Admin", "ip:010.000.000.001"]')
    assert config.identities.restricted == ["user:admin", "ip:10.0.0.1"]


def test_scores_stay_finite_at_the_largest_beta_that_is_accepted() -> None:
    accepted = []
    for beta in (8, 16, 32, 64):
        with suppress(ConfigError):
            accepted.append(parse(f"[calibration]\nbeta = {beta}").calibration.beta)
    # Ten million cells, and a thin stream's scores stretched twice: the largest G there can be.
    gain, term, histogram = np.empty(BINS), np.empty(BINS), np.zeros(BINS)
    histogram[0] = 1e7
    _rebuild(histogram, 1.0, max(accepted), MOST_STRETCH, gain, term)
    assert np.isfinite(term).all()


def test_all_mistakes_are_told_at_once() -> None:
    with pytest.raises(ConfigError) as caught:
        parse('[budget]\nalerts_per_day = 0\n[limits]\nactors = 1\n[signals.a]\nlearner = "b"\n[signals.c]\nlearner = "d"')
    assert [mistake.partition(":")[0] for mistake in caught.value.mistakes] == [
        "budget.alerts_per_day",
        "limits.actors",
        "signals.a.learner",
        "signals.c.learner",
    ]


@pytest.mark.parametrize("text", ["[budget", "alerts_per_day: 5", "{}", "\x00", "[a]\n[a]"])
def test_what_is_not_toml_is_said_to_be_so(text: str) -> None:
    with pytest.raises(ConfigError, match=r"^not valid TOML: "):
        parse(text)


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    absent, folder, binary, wrong = (tmp_path / name for name in ("absent.toml", "folder", "binary.toml", "wrong.toml"))
    folder.mkdir()
    binary.write_bytes(b"\xff\xfe\x00")
    wrong.write_text("[budget]\nalerts_per_day = 0\n[time]\nahead_hours = 0\n", encoding="utf-8")
    for path, expected in (
        (absent, "No such file"),
        (folder, "directory"),
        (binary, "not a text file"),
        (wrong, "budget.alerts_per_day"),
    ):
        with pytest.raises(ConfigError) as caught:
            read(path)
        assert all(mistake.startswith(f"{path}: ") for mistake in caught.value.mistakes)
        assert expected in str(caught.value)
    assert len(caught.value.mistakes) == 2


def test_a_file_changes_what_it_names_and_keeps_the_rest(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text("[budget]\nalerts_per_day = 2\n[signals.actor_rate]\nweight = 0.5\n", encoding="utf-8")
    mine, default = read(path), parse("")
    assert mine.budget.alerts_per_day == 2
    assert mine.learners()["actor_rate"].weight == 0.5
    assert list(mine.learners()) == list(default.learners())
    assert mine.limits == default.limits
    assert mine.learners()["egress"] == default.learners()["egress"]


def test_a_new_signal_comes_after_the_default_ones() -> None:
    made = parse('[signals.trees]\nlearner = "rate"\nof = "pair"').learners()
    assert list(made)[-1] == "trees"
    assert type(made["trees"]) is learners()["rate"]


def test_no_file_means_the_default() -> None:
    assert read(None) == parse(default_text()) == parse("")


def test_the_default_names_every_setting_and_says_something_of_each() -> None:
    """A key is explained on its own line, or by the line of its table, or by the comment above its group of tables."""
    given = tomllib.loads(default_text())
    assert set(given) == {field.name for field in msgspec.structs.fields(Config)}
    for table, settings in (
        (name, getattr(parse(""), name)) for name in given if name not in ("signals", "respond", "changes", "suppressions")
    ):
        assert set(given[table]) == set(msgspec.structs.asdict(settings))
    explained = ""
    for line in default_text().splitlines():
        if line.startswith("#"):
            explained = "group"
        elif line.startswith("["):
            own = "#" in line
            explained = "table" if own else explained if line.startswith("[signals.") else ""
        elif line.strip():
            assert "#" in line or explained, f"nothing explains {line!r}"


def test_every_learner_of_ours_is_in_the_default() -> None:
    used = {table["learner"] for table in tomllib.loads(default_text())["signals"].values()}
    assert used == set(learners()) - {"river_detector"}
