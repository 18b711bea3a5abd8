"""The rules of the watcher: its settings, its state, and which blind spots there are in it. ``detector.watch`` keeps the state.

Each rule reads the state as it is at the log's time ``now`` and yields a ``Cause`` for everything it watches: that it holds, or that it
does not. Durations are measured in ``lived`` time, in which the hours do not count in which nobody could write.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import NamedTuple

import msgspec

from connectors.event import MINUTE, SECOND
from detector.notices import Standing
from detector.watched import Gaps, Known, Path, Process, Shares

#: Version of the watcher's state. A reader refuses a newer one.
WATCH_VERSION = 1
#: Heartbeats over which lag must have risen: two may be a burst that is being worked off.
RISING = 3
#: Rows read twice are explained by a start, an end or a move of partitions within so much time before.
MOVE = 10 * MINUTE

LOW, MEDIUM, HIGH = 2, 3, 4


class Watch(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """``[watch]``: from when on something that is missing, late or refused is a blind spot."""

    #: How often each process sends its heartbeat; after so many missed ones it is taken for gone.
    heartbeat_seconds: float = 10.0
    missed_heartbeats: int = 6
    #: A source is silent after the longer of these: minutes, and a multiple of its usual gap. Known after ``learn_minutes``.
    silence_minutes: float = 5.0
    silence_factor: float = 10.0
    learn_minutes: float = 30.0
    #: Lag is a blind spot above so many seconds, and while it rises.
    lag_seconds: float = 60.0
    #: Share of a source's records that are refused, over five minutes in which there were at least so many records.
    reject_share: float = 0.05
    reject_records: int = 20
    #: A canary must be through after so many seconds.
    canary_seconds: float = 60.0
    #: New identities a minute, the larger of: a number, and a multiple of the usual.
    newcomers_per_minute: float = 600.0
    newcomers_factor: float = 10.0

    def problems(self) -> list[str]:
        """One sentence a mistake, each naming the key and what was expected."""
        found = [
            (1.0 <= self.heartbeat_seconds <= 300, "watch.heartbeat_seconds: expected 1 to 300"),
            (2 <= self.missed_heartbeats <= 100, "watch.missed_heartbeats: expected 2 to 100"),
            (1.0 <= self.silence_minutes <= 1_440, "watch.silence_minutes: expected 1 to 1,440 (a day)"),
            (2.0 <= self.silence_factor <= 1_000, "watch.silence_factor: expected 2 to 1,000"),
            (0.0 <= self.learn_minutes <= 10_080, "watch.learn_minutes: expected 0 to 10,080 (a week)"),
            (1.0 <= self.lag_seconds <= 86_400, "watch.lag_seconds: expected 1 to 86,400 (a day)"),
            (0.0 < self.reject_share < 1.0, "watch.reject_share: expected a share above 0 and below 1"),
            (1 <= self.reject_records <= 1_000_000, "watch.reject_records: expected 1 to 1,000,000"),
            (1.0 <= self.canary_seconds <= 3_600, "watch.canary_seconds: expected 1 to 3,600 (an hour)"),
            (1.0 <= self.newcomers_per_minute <= 1e9, "watch.newcomers_per_minute: expected 1 to 1,000,000,000"),
            (2.0 <= self.newcomers_factor <= 1_000, "watch.newcomers_factor: expected 2 to 1,000"),
        ]
        return [text for good, text in found if not good]

    @property
    def absent(self) -> int:
        """Microseconds without a heartbeat after which a process is taken for gone."""
        return int(self.heartbeat_seconds * self.missed_heartbeats * SECOND)


class State(msgspec.Struct):
    """Everything that is remembered. ``now``: the log's time, -1 before its first record; ``lived``: see above."""

    version: int = WATCH_VERSION
    now: int = -1
    lived: int = 0
    judged: int = 0
    #: When a process was last started, stopped, or given other partitions.
    moved: int = 0
    processes: dict[str, Process] = {}
    sources: dict[str, Gaps] = {}
    shares: dict[str, Shares] = {}
    paths: dict[int, Path] = {}
    stages: dict[str, Known] = {}
    #: Digests of what is let through -> when they were last in force.
    lists: dict[str, int] = {}
    told: dict[str, float] = {}
    standing: dict[str, Standing] = {}


class Cause(NamedTuple):
    """What a rule says of one thing: the cause's name, whether it holds, the sentence, the severity where it holds."""

    name: str
    holds: bool
    text: str
    severity: int = MEDIUM


def silent_processes(state: State, settings: Watch) -> Iterator[Cause]:
    """Processes that stopped sending heartbeats, and what nobody reads because of it."""
    live = [process for process in state.processes.values() if state.lived - process.seen <= settings.absent]
    served = {each for process in live for each in process.partitions}
    for name, process in state.processes.items():
        silent = state.lived - process.seen
        orphans = [each for each in process.partitions if each not in served]
        # Told for as long again as it was waited for, so that whoever was woken finds it.
        process.settled = process.settled or (silent > 2 * settings.absent and bool(process.partitions) and not orphans)
        if process.settled:
            yield Cause(f"process/{name}", False, f"what {name} read is read by others")
        elif silent > settings.absent:
            text = f"nobody reads {', '.join(orphans)}" if orphans else "nothing that it read is left without a reader"
            text = f"{name} ({process.stage}) has not been heard of for {spoken(silent)}: {text}"
            yield Cause(f"process/{name}", True, text, HIGH if orphans else LOW)
        else:
            yield Cause(f"process/{name}", False, f"{name} is heard of again")


def repeats(state: State, _: Watch) -> Iterator[Cause]:
    """Rows dropped as seen before, although no process was started, stopped or moved."""
    for name, process in state.processes.items():
        holds = process.repeated is not None and state.lived - process.repeated <= MOVE
        text = (
            f"{name} drops rows as already seen, and in the {spoken(MOVE)} before nothing was started, stopped or moved: offsets "
            "have run back (a topic recreated or mirrored, an old committed offset), and what is dropped may be new"
        )
        yield Cause(f"repeats/{name}", holds, text if holds else f"{name} drops no more rows", HIGH)


def growing_lag(state: State, settings: Watch) -> Iterator[Cause]:
    """Topics read later than the bound, and ever later. A reader that is gone says nothing about its topics any more."""
    topics: dict[str, list[list[float]]] = {}
    for process in state.processes.values():
        if state.lived - process.seen <= settings.absent:
            for topic, last in process.lags.items():
                topics.setdefault(topic, []).append(last)
    for topic, each in topics.items():
        worst = max(last[-1] for last in each)
        rising = any(len(last) == RISING and last == sorted(set(last)) and last[-1] > settings.lag_seconds for last in each)
        text = f"{topic} is read {spoken(worst * SECOND)} behind"
        if rising:
            yield Cause(f"lag/{topic}", True, f"{text}, and falls back further: what happens now is judged late")
        elif worst <= settings.lag_seconds:
            yield Cause(f"lag/{topic}", False, text)


def silent_sources(state: State, settings: Watch) -> Iterator[Cause]:
    """Sources of which nothing came for much longer than usual."""
    for name, gaps in state.sources.items():
        silent = state.lived - gaps.last
        bound = max(settings.silence_minutes * MINUTE, settings.silence_factor * gaps.usual)
        holds = silent > bound and gaps.last - gaps.first >= settings.learn_minutes * MINUTE
        text = (
            f"nothing from {name} for {spoken(silent)}, where {spoken(gaps.usual)} is usual. The last record arrived "
            f"{_when(gaps.arrival)}; what this source would show cannot be seen"
        )
        yield Cause(f"source/{name}", holds, text if holds else f"{name} is heard of again", HIGH)


def many_rejects(state: State, settings: Watch) -> Iterator[Cause]:
    """Sources of which too large a share cannot be decoded."""
    for name, shares in state.shares.items():
        many, bad = shares.within(state.lived)
        share = bad / many if many else 0.0
        if share > settings.reject_share and many >= settings.reject_records:
            why = ", ".join(f"{reason} {times:,}" for reason, times in shares.reasons.items())
            yield Cause(f"rejects/{name}", True, f"{share:.0%} of {many:,} records of {name} in five minutes were refused; last: {why}")
        # Half the bound, so that a share that lies about it does not open and close all day.
        elif share <= settings.reject_share / 2:
            yield Cause(f"rejects/{name}", False, f"{share:.1%} of the records of {name} are refused")


def lost_canaries(state: State, settings: Watch) -> Iterator[Cause]:
    """Partitions whose synthetic event did not come through."""
    for partition, path in state.paths.items():
        waited = state.lived - path.pending[0][1] if path.pending else 0
        holds = waited > settings.canary_seconds * SECOND
        text = f"the canary of partition {partition} is not through after {spoken(waited)}: events of this partition are not judged"
        yield Cause(f"canary/{partition}", holds, text if holds else f"canaries of partition {partition} come through", HIGH)


def floods(state: State, settings: Watch) -> Iterator[Cause]:
    """Stages that meet far more new identities than usual."""
    for name, known in state.stages.items():
        usual = known.usual
        last = known.move(state.lived // MINUTE, settings.learn_minutes, settings.newcomers_per_minute / settings.newcomers_factor)
        worst = max(known.fresh, last or 0)
        if usual is not None and worst > max(settings.newcomers_per_minute, settings.newcomers_factor * usual):
            text = (
                f"{worst:,} new identities in a minute in {name}, where {usual:,.0f} are usual: either the site grows at once, or "
                "someone invents identities to have known ones forgotten"
            )
            yield Cause(f"newcomers/{name}", True, text)
        elif last is not None:
            yield Cause(f"newcomers/{name}", False, f"{last:,} new identities in a minute in {name}")


RULES: tuple[Callable[[State, Watch], Iterator[Cause]], ...] = (
    silent_processes,
    repeats,
    growing_lag,
    silent_sources,
    many_rejects,
    lost_canaries,
    floods,
)


def spoken(span: float) -> str:
    """Microseconds as people say them."""
    seconds = span / SECOND
    for unit, length in (("d", 86_400), ("h", 3_600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.0f} {unit}"
    return f"{seconds:.0f} s"


def _when(time: int) -> str:
    return datetime.fromtimestamp(time / SECOND, UTC).strftime("%Y-%m-%d %H:%M:%SZ") if time else "before it was watched"
