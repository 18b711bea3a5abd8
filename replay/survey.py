"""What a report is made of: one pass of the detector over a trace with everything kept that is shown, and one more that follows a few
identities by the hour.

Memory is that of one detector, the alerts that are shown, and a number an hour and source.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import msgspec
import numpy as np

from connectors.alert import Alert
from connectors.event import HOUR, Block
from connectors.names import Names
from connectors.sources import INPUTS, available
from detector.config import Config
from detector.identity import Bindings
from detector.pipeline import Cores, Pipeline, Tally, quiet_collector
from replay.inputs import Inputs
from replay.play import tallies
from replay.shards import moment
from replay.spread import Spread
from replay.trials import Cases, Subject, Trial, trial

#: Alerts that are kept whole: the newest revision of those that rose highest. Notices are kept apart, so many at most.
KEPT = 200


class Survey(msgspec.Struct, kw_only=True):
    """What a pass saw. ``alerts``: on behaviour, the strongest. ``hours``: source -> clock hour (hours since 1970) ->
    events. ``blind``: sentences on what could not be seen."""

    trial: Trial
    alerts: list[Alert]
    identities: int
    late: int
    evicted: int
    rejected: dict[str, int]
    skipped: dict[str, int]
    hours: dict[str, dict[int, int]]
    logs: list[tuple[str, str]]
    blind: list[str]
    armed: int | None


class Behaviour(msgspec.Struct, kw_only=True):
    """An identity by the hour: ``hours`` since 1970, rising, without gaps; beside them events, bytes and distinct partners."""

    identity: str
    role: str
    hours: list[int]
    events: list[int]
    bytes: list[float]
    partners: list[int]


class _Counted:
    """The detector's cores, with the events counted by source and hour on their way."""

    def __init__(self, cores: Cores | Spread) -> None:
        self.cores = cores
        self.config = cores.config
        self.bindings = cores.bindings
        self.title = cores.title
        self.hours: dict[str, dict[int, int]] = {}
        #: When the alert budget had seen enough to set a threshold, microseconds.
        self.armed: int | None = None

    def fold(self, block: Block, scores: Callable[[np.ndarray], None] | None = None) -> list[Alert]:
        """See ``Cores.fold``."""
        for number, source in enumerate(block.sources):
            hour, many = np.unique(block.time[block.source == number] // HOUR, return_counts=True)
            if len(hour) == 0:
                continue
            held = self.hours.setdefault(source, {})
            for each, count in zip(hour.tolist(), many.tolist(), strict=True):
                held[each] = held.get(each, 0) + count
        out = self.cores.fold(block, scores)
        if self.armed is None and self._threshold() < np.inf:
            self.armed = int(block.time.max())
        return out

    def _threshold(self) -> float:
        cores = self.cores
        judges = cores.judges["main"] if isinstance(cores, Spread) else [cores.fusion]
        return judges[0].state.budget.threshold


def survey(subject: Subject, config: Config, share: Callable[[float], None]) -> Survey:
    """The detector over the trace, which the caller has verified. Raises TraceError."""
    names, cases = Names(), Cases()
    inputs = subject.open(names, verified=True)
    cores = Cores(config) if subject.partitions == 1 else Spread(config, subject.partitions)
    counted = _Counted(cores)
    alerts: dict[str, Alert] = {}
    said: dict[str, None] = {}
    unsaid = 0

    def hear(alert: Alert) -> None:
        nonlocal unsaid
        cases.add(alert)
        if alert.notice:
            if len(said) < KEPT:
                said[alert.notice] = None
            else:
                unsaid += alert.activity == "open" and alert.notice not in said
            return
        alerts[alert.uid] = alert
        if len(alerts) > 2 * KEPT:
            for uid in [each.uid for each in strongest(list(alerts.values()))[KEPT:]]:
                del alerts[uid]

    pipeline = Pipeline(counted, names=names, on_alert=hear)
    tally = _run(pipeline, inputs, subject, share)
    found = Survey(
        trial=trial("this configuration", tally, cases),
        alerts=strongest(list(alerts.values()))[:KEPT],
        identities=cores.identities,
        late=cores.late,
        evicted=cores.evicted,
        rejected=dict(tally.rejected),
        skipped=dict(tally.skipped),
        hours=counted.hours,
        logs=[(each.path, each.source) for each in inputs.shown],
        blind=[],
        armed=counted.armed,
    )
    found.blind = [*said, *([f"{unsaid:,} more notices of the detector are not listed here"] if unsaid else []), *_blind(found, config)]
    return found


def strongest(alerts: list[Alert]) -> list[Alert]:
    """Alerts by how far their evidence rose, then by time."""
    return sorted(alerts, key=lambda alert: (-alert.evidence_peak, alert.opened, alert.uid))


def _run(pipeline: Pipeline, inputs: Inputs, subject: Subject, share: Callable[[float], None]) -> Tally:
    whole = max(sum(each.total_bytes for each in inputs.shown), 1)
    tally = Tally()
    with quiet_collector():
        for tally in tallies(pipeline, inputs, limit=subject.limit):  # noqa: B007  the last one is what came of it
            share(sum(each.bytes_read for each in inputs.shown) / whole)
    return tally


def _blind(found: Survey, config: Config) -> Iterator[str]:
    """What the detector could not see in this trace, and why, beside what it said itself."""
    if found.armed is None:
        yield "the trace was too short for an alert threshold: nothing on the main line could alert at any time"
    else:
        hours = (found.armed - found.trial.first) / HOUR
        yield f"nothing on the main line could alert in the first {hours:.1f} h: a threshold needs some history"
    rejected = sum(found.rejected.values())
    if rejected:
        reasons = ", ".join(f"{many:,} {reason}" for reason, many in sorted(found.rejected.items(), key=lambda each: -each[1])[:5])
        yield f"{rejected:,} records could not be read: {reasons}"
    if found.skipped:
        kinds = ", ".join(f"{many:,} {kind}" for kind, many in sorted(found.skipped.items(), key=lambda each: -each[1])[:5])
        yield f"record types that no signal reads were passed over: {kinds}"
    if found.late:
        yield f"{found.late:,} events came later than {config.time.lateness_minutes:g} minutes: scored, not learned"
    if found.evicted:
        yield f"{found.evicted:,} profiles were forgotten at a limit"
    yield from _unfed(found, config)
    yield from _silences(found)


def _unfed(found: Survey, config: Config) -> Iterator[str]:
    known = available()
    fed = {word for source in found.hours if source in known for word in known[source].feeds}
    for word, meaning in INPUTS.items():
        signals = [name for name, learner in config.learners().items() if learner.needs == word]
        if signals and word not in fed and fed:
            yield f"no source of this trace gives {word} ({meaning}): {', '.join(signals)} saw nothing"


def _silences(found: Survey) -> Iterator[str]:
    """The longest silence of each source, where it is long against what is usual for it."""
    for source, held in sorted(found.hours.items()):
        hours = np.array(sorted(held))
        gaps = np.diff(hours) - 1
        if len(gaps) and gaps.max() >= 3 and gaps.max() > 3 * np.quantile(gaps, 0.95):
            at = int(hours[int(gaps.argmax())]) + 1
            yield f"{source} was silent for {int(gaps.max())} hours from {moment(at * HOUR)[:16].replace('T', ' ')} UTC"


class _Followed:
    """Stands where the cores stand and counts what a few identities did, by the hour."""

    def __init__(self, config: Config, wanted: dict[str, str]) -> None:
        self.config = config
        self.bindings = Bindings(config.limits.bindings)
        self.wanted = wanted
        self.held: dict[str, dict[int, list[Any]]] = {identity: {} for identity in wanted}

    def title(self, paths: tuple[str, ...]) -> None:
        """Nothing here says where a record came from."""

    def fold(self, block: Block, scores: Callable[[np.ndarray], None] | None = None) -> list[Alert]:
        """Count the rows of the identities followed."""
        for identity, role in self.wanted.items():
            code = block.names.find(identity)
            if code is None:
                continue
            mine, other = (block.actor, block.object) if role == "actor" else (block.object, block.actor)
            rows = np.flatnonzero(mine == code)
            moved = np.nan_to_num(block.bytes_out[rows]) + np.nan_to_num(block.bytes_in[rows])
            partners = block.names.hashes[other[rows]]
            hours = block.time[rows] // HOUR
            for hour in np.unique(hours).tolist():
                at = hours == hour
                kept = self.held[identity].setdefault(hour, [0, 0.0, set()])
                kept[0] += int(at.sum())
                kept[1] += float(moved[at].sum())
                kept[2] |= set(partners[at].tolist())
        return []


def follow(subject: Subject, config: Config, wanted: dict[str, str], share: Callable[[float], None]) -> list[Behaviour]:
    """What identities (with the role in which each was blamed) did hour by hour, in the order given; those never seen are left out."""
    names = Names()
    inputs = subject.open(names, verified=True)
    followed = _Followed(config, wanted)
    tally = _run(Pipeline(followed, names=names), inputs, subject, share)
    span = range(tally.first // HOUR, tally.last // HOUR + 1)
    found = []
    for identity, role in wanted.items():
        held = followed.held[identity]
        rows = [held.get(hour, (0, 0.0, ())) for hour in span]
        if held:
            found.append(
                Behaviour(
                    identity=identity,
                    role=role,
                    hours=list(span),
                    events=[row[0] for row in rows],
                    bytes=[row[1] for row in rows],
                    partners=[len(row[2]) for row in rows],
                )
            )
    return found
