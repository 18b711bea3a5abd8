"""The configuration: one TOML file over ``default.toml``, every mistake named with its key and what was expected."""

from __future__ import annotations

import tomllib
from datetime import datetime, timedelta
from importlib import resources
from pathlib import Path
from typing import Any

import msgspec

from connectors import kafka
from detector import adapters
from detector.blindspots import Watch
from detector.mistakes import sentence
from detector.policy import Respond, problems, spelled
from models.signals import Signal, learners


class ConfigError(ValueError):
    """A configuration that cannot be used: one sentence a mistake, each naming the key and what was expected."""

    def __init__(self, mistakes: list[str]) -> None:
        super().__init__("\n".join(mistakes))
        self.mistakes = mistakes


class Budget(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """How many alerts a day someone is ready to read, of the main line and of the slow one."""

    alerts_per_day: float
    slow_alerts_per_day: float


class Time(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """Bounds on disorder: how far a row may lie behind its profile, how far ahead of all its neighbours."""

    lateness_minutes: float
    ahead_hours: float


class Limits(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """Most profiles of each sort, and most identities with bindings."""

    actors: int
    objects: int
    endpoints: int
    pairs: int
    bindings: int


class Identities(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """Patterns of identities whose profiles are never given up."""

    restricted: list[str]


class CalibrationSettings(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """See ``models.calibration``."""

    cap: float
    floor: float
    beta: float
    equalise_streams: bool


class FuseSettings(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """See ``detector.fuse``."""

    quiet_hours: float
    evidence_hours: float
    evidence_floor: float


class Change(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """An announced change: between two times, identities that match a pattern of ``scope`` are learned ``pace`` times faster."""

    name: str
    since: datetime
    until: datetime
    scope: list[str]
    pace: float = 4.0


class WorkerSettings(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """How the workers work; see ``detector.worker`` and ``detector.collect``. Seconds and milliseconds of the clock on the wall."""

    linger_ms: float
    tick_seconds: float
    bindings_seconds: float
    checkpoint_seconds: float
    checkpoint_megabytes: float
    session_seconds: float
    ahead_minutes: float


class Suppression(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """No alert is opened on identities that match a pattern of ``scope`` until ``until``; ``owner`` answers for it.

    On restricted identities it holds only where a second owner answers for it, too.
    """

    reason: str
    owner: str
    scope: list[str]
    until: datetime
    second_owner: str = ""


class Config(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """Everything that changes results."""

    budget: Budget
    time: Time
    limits: Limits
    identities: Identities
    calibration: CalibrationSettings
    fuse: FuseSettings
    signals: dict[str, dict[str, Any]]
    respond: Respond
    changes: list[Change]
    suppressions: list[Suppression]
    kafka: kafka.Kafka
    worker: WorkerSettings
    watch: Watch

    def learners(self) -> dict[str, Signal]:
        """The signals by name, in the order of the configuration. Raises ConfigError."""
        made: dict[str, Signal] = {}
        mistakes: list[str] = []
        for name, table in self.signals.items():
            try:
                made[name] = _signal(name, table)
            except ConfigError as error:
                mistakes += error.mistakes
        if mistakes:
            raise ConfigError(mistakes)
        return made

    def asked_of_actors(self) -> int:
        """How many signals the actors' visit asks."""
        return sum(signal.visit == "actor" for signal in self.learners().values())


def _signal(name: str, table: dict[str, Any]) -> Signal:
    known = learners()
    settings = dict(table)
    learner = settings.pop("learner", None)
    if not isinstance(learner, str) or learner not in known:
        raise ConfigError([f"signals.{name}.learner: expected one of {', '.join(known)}, got {learner!r}"])
    try:
        signal = msgspec.convert(settings, known[learner])
        signal.visit  # noqa: B018  a setting may be wrong in a way only the learner knows
    except (msgspec.ValidationError, ValueError) as error:
        raise ConfigError([sentence(str(error), f"signals.{name}")]) from None
    if not 0.0 <= signal.weight <= 1.0:
        raise ConfigError([f"signals.{name}.weight: expected a share between 0 and 1, got {signal.weight}"])
    return signal


def _merge(base: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in over.items():
        if isinstance(value, dict) and isinstance(merged.get(key), dict):
            merged[key] = _merge(merged[key], value)
        else:
            merged[key] = value
    return merged


def _mistakes(config: Config) -> list[str]:
    """What types cannot say."""
    found = [
        (0.0 < config.budget.alerts_per_day <= 10_000, "budget.alerts_per_day: expected a number above 0 and at most 10,000"),
        (
            0.0 < config.budget.slow_alerts_per_day <= 10_000,
            "budget.slow_alerts_per_day: expected a number above 0 and at most 10,000",
        ),
        (0.0 <= config.time.lateness_minutes <= 10_080, "time.lateness_minutes: expected 0 to 10,080 (a week)"),
        (1.0 <= config.time.ahead_hours <= 8_760, "time.ahead_hours: expected 1 to 8,760 (a year)"),
        (config.calibration.cap >= 1, "calibration.cap: expected at least 1"),
        (0.0 < config.calibration.floor < 30, "calibration.floor: expected above 0 and below 30 nats"),
        # (w e^G)^beta must stay a finite number.
        (1.0 <= config.calibration.beta <= 8, "calibration.beta: expected 1 to 8"),
        (0.0 < config.fuse.quiet_hours <= 720, "fuse.quiet_hours: expected above 0 and at most 720 (30 days)"),
        (0.0 < config.fuse.evidence_hours <= 720, "fuse.evidence_hours: expected above 0 and at most 720 (30 days)"),
        (config.fuse.evidence_floor > 0, "fuse.evidence_floor: expected above 0 nats"),
        (bool(config.signals), "signals: expected at least one signal"),
    ]
    mistakes = [text for good, text in found if not good]
    mistakes += [
        f"limits.{key}: expected 100 to 1,000,000,000"
        for key in ("actors", "objects", "endpoints", "pairs", "bindings")
        if not 100 <= getattr(config.limits, key) <= 1_000_000_000
    ]
    mistakes += [f"identities.restricted: {why}" for each in config.identities.restricted if (why := spelled(each)[1])]
    mistakes += [mistake for place, change in enumerate(config.changes) for mistake in _wrong(change, place)]
    mistakes += [mistake for place, each in enumerate(config.suppressions) for mistake in _wrong_suppression(each, place)]
    if len({pattern for pattern in config.identities.restricted if "*" not in pattern}) > config.limits.actors:
        mistakes.append("identities.restricted: names more identities than limits.actors keeps")
    mistakes += _worker_mistakes(config.worker) + config.watch.problems()
    mistakes += problems(config.respond) + adapters.mistakes(config.respond.adapters)
    return mistakes + kafka.problems(config.kafka)


def _worker_mistakes(worker: WorkerSettings) -> list[str]:
    found = [
        (0.0 <= worker.linger_ms <= 1_000, "worker.linger_ms: expected 0 to 1,000"),
        (0.0 <= worker.tick_seconds <= 3_600, "worker.tick_seconds: expected 0 (no ticks) to 3,600"),
        (0.05 <= worker.bindings_seconds <= 60, "worker.bindings_seconds: expected 0.05 to 60"),
        (1.0 <= worker.checkpoint_seconds <= 86_400, "worker.checkpoint_seconds: expected 1 to 86,400 (a day)"),
        (0.1 <= worker.checkpoint_megabytes <= 100_000, "worker.checkpoint_megabytes: expected 0.1 to 100,000"),
        (6.0 <= worker.session_seconds <= 1_800, "worker.session_seconds: expected 6 to 1,800, as the broker allows"),
        (1.0 <= worker.ahead_minutes <= 1_440, "worker.ahead_minutes: expected 1 to 1,440 (a day)"),
    ]
    return [text for good, text in found if not good]


def _wrong(change: Change, place: int) -> list[str]:
    """What is wrong with an announced change."""
    at = f"changes[{place}]"
    found = [
        (
            bool(change.name.strip()) and len(change.name) <= 100 and change.name.isprintable(),
            f"{at}.name: expected 1 to 100 characters",
        ),
        (change.since.tzinfo is not None, f"{at}.since: expected a time with its offset (2026-03-01T22:00:00Z)"),
        (change.until.tzinfo is not None, f"{at}.until: expected a time with its offset (2026-03-02T02:00:00Z)"),
        (bool(change.scope), f"{at}.scope: expected at least one pattern; a change of everything would be a blind spot for everything"),
        (1.0 <= change.pace <= 10.0, f"{at}.pace: expected 1 to 10"),
    ]
    mistakes = [text for good, text in found if not good]
    if not mistakes and not timedelta() < change.until - change.since <= timedelta(days=14):
        mistakes.append(f"{at}.until: expected a time after since, at most 14 days")
    return mistakes + [f"{at}.scope: {why}" for each in change.scope if (why := spelled(each)[1])]


def _wrong_suppression(each: Suppression, place: int) -> list[str]:
    """What is wrong with a suppression."""
    at = f"suppressions[{place}]"
    found = [
        (bool(each.reason.strip()) and each.reason.isprintable(), f"{at}.reason: expected a sentence"),
        (bool(each.owner.strip()) and each.owner.isprintable(), f"{at}.owner: expected who answers for it"),
        (
            not each.second_owner or (each.second_owner.isprintable() and _person(each.second_owner) not in ("", _person(each.owner))),
            f"{at}.second_owner: expected somebody else than the owner",
        ),
        (bool(each.scope), f"{at}.scope: expected at least one pattern"),
        ("*" not in each.scope, f"{at}.scope: '*' would switch the detector off; name whom it is about"),
        (each.until.tzinfo is not None, f"{at}.until: expected a time with its offset (2026-03-02T02:00:00Z)"),
    ]
    return [text for good, text in found if not good] + [f"{at}.scope: {why}" for one in each.scope if (why := spelled(one)[1])]


def _person(name: str) -> str:
    return name.strip().casefold()


def default_text() -> str:
    """The default configuration file, with its comments."""
    return resources.files("detector").joinpath("default.toml").read_text(encoding="utf-8")


def parse(text: str) -> Config:
    """A configuration from TOML laid over the default. Raises ConfigError naming every mistake it can tell apart."""
    try:
        given = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError([f"not valid TOML: {error}"]) from None
    try:
        config = msgspec.convert(_merge(tomllib.loads(default_text()), given), Config)
    except msgspec.ValidationError as error:
        raise ConfigError([sentence(str(error))]) from None
    mistakes = _mistakes(config)
    try:
        config.learners()
    except ConfigError as error:
        mistakes += error.mistakes
    if mistakes:
        raise ConfigError(mistakes)
    for change in config.changes:
        change.scope = [spelled(pattern)[0] for pattern in change.scope]
    for each in config.suppressions:
        each.scope = [spelled(pattern)[0] for pattern in each.scope]
    config.identities.restricted = [spelled(pattern)[0] for pattern in config.identities.restricted]
    return config


def read(path: Path | None) -> Config:
    """The configuration of a file, or the default. Raises ConfigError, each mistake prefixed with the file."""
    if path is None:
        return parse("")
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not a text file"
        raise ConfigError([f"{path}: {reason}"]) from None
    try:
        return parse(text)
    except ConfigError as error:
        raise ConfigError([f"{path}: {mistake}" for mistake in error.mistakes]) from None
