"""Key figures of the containment programme, from the ledger alone, and of attestation and privilege where data on them is given.

Times count from the first surprising event of an alert: to its opening (detection), to the decision to act, to the call that goes
out, to the effect seen. What never got there has no time and is counted apart: a mean over what went well would flatter.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence

import msgspec

from connectors.alert import Alert
from connectors.event import MINUTE, SECOND, Action, Block, Outcome
from detector.history import Entry, History


class Times(msgspec.Struct, frozen=True):
    """How long something took, in seconds; None where it never happened."""

    count: int
    mean: float | None = None
    median: float | None = None
    worst: float | None = None


class Grant(msgspec.Struct, kw_only=True, frozen=True):
    """A privilege somebody holds, as an export of the access system says it. ``until`` None: for good. Seconds since 1970."""

    identity: str
    role: str
    since: float
    until: float | None = None


class Kpi(msgspec.Struct, kw_only=True):
    """The figures. None: no data was given for it."""

    alerts: int
    actions: int
    verified: int
    unverified: int
    failed: int
    to_detection: Times
    to_decision: Times
    to_dispatch: Times
    to_effect: Times
    #: Minutes of containment that a person took back before its time.
    false_containment_minutes: float
    released: int
    attestations: int | None = None
    attestation_pass_rate: float | None = None
    key_release: Times | None = None
    standing_privileged: int | None = None
    just_in_time_share: float | None = None


class _Life(msgspec.Struct):
    """The times of one action, microseconds; 0 = never."""

    first: int = 0
    opened: int = 0
    decided: int = 0
    dispatched: int = 0
    carried: int = 0
    effect: int = 0
    ended: int = 0
    released: bool = False
    result: str = ""


def measure(entries: Iterable[Entry], alerts: Iterable[Alert] = ()) -> Kpi:
    """The figures of a ledger, with the alerts that led to nothing where they are given. Containments still in force count up to the
    ledger's last row."""
    lives: dict[str, _Life] = {}
    opened: dict[str, tuple[int, int]] = {alert.uid: (alert.first, alert.opened) for alert in alerts}
    history = History()
    for entry in entries:
        history.add(entry)
        if entry.facts is not None:
            opened.setdefault(entry.alert, (entry.facts.first, entry.facts.opened))
        if entry.action:
            _note(lives.setdefault(entry.action, _Life()), entry)
    acted = [life for life in lives.values() if life.decided]
    false = [((life.ended or history.now) - life.carried) / MINUTE for life in acted if life.released and life.carried]
    return Kpi(
        alerts=len(opened),
        actions=len(acted),
        verified=sum(life.result == "verified" for life in acted),
        unverified=sum(life.result == "unverified" for life in acted),
        failed=sum(life.result in ("failed", "not-effective", "withdrawn") for life in acted),
        to_detection=_times([when - first for first, when in opened.values()]),
        to_decision=_times([life.decided - life.first for life in acted]),
        to_dispatch=_times([life.dispatched - life.first for life in acted if life.dispatched]),
        to_effect=_times([life.effect - life.first for life in acted if life.effect]),
        false_containment_minutes=round(sum(false), 2),
        released=len(false),
    )


def _note(life: _Life, entry: Entry) -> None:
    if entry.facts is not None:
        life.first, life.opened = entry.facts.first, entry.facts.opened
    if entry.step == "decided" and entry.result == "enforced":
        life.decided = entry.time
    elif entry.step == "intent" and not life.dispatched:
        life.dispatched = entry.time
    elif entry.result == "carried-out":
        life.carried = entry.time
    elif entry.step == "undo-verify":
        life.ended = entry.time
    elif entry.step == "approval" and entry.result == "" and entry.person:
        life.released = True
    if entry.step in ("outcome", "verify"):
        life.result = entry.result
        life.effect = entry.time if entry.result == "verified" else life.effect


def _times(micros: Sequence[int]) -> Times:
    seconds = [each / SECOND for each in micros]
    if not seconds:
        return Times(0)
    return Times(len(seconds), round(statistics.fmean(seconds), 3), round(statistics.median(seconds), 3), round(max(seconds), 3))


class Attestations:
    """Attestations and key releases, block by block in order of time. A release counts from its object's latest good attestation."""

    def __init__(self) -> None:
        self._good: dict[int, int] = {}
        self._passed = self._all = 0
        self._waits: list[int] = []

    def add(self, block: Block) -> None:
        """Count one block. All blocks must share one dictionary of names."""
        for i in range(len(block.time)):
            action, ok = int(block.action[i]), int(block.outcome[i]) == Outcome.ok
            name, time = int(block.object[i]), int(block.time[i])
            if action == Action.attest:
                self._all += 1
                self._passed += ok
                if ok:
                    self._good[name] = time
            elif action == Action.release_key and ok and time >= self._good.get(name, time + 1):
                self._waits.append(time - self._good.pop(name))

    def into(self, kpi: Kpi) -> None:
        """Put the figures in."""
        kpi.attestations = self._all
        kpi.attestation_pass_rate = round(self._passed / self._all, 4) if self._all else None
        kpi.key_release = _times(self._waits)


def privileges(kpi: Kpi, grants: Iterable[Grant], now: float) -> None:
    """Put in how many identities hold a privilege for good, and which share of the grants in force ends by itself. ``now``: seconds."""
    live = [grant for grant in grants if grant.since <= now and (grant.until is None or grant.until > now)]
    kpi.standing_privileged = len({grant.identity for grant in live if grant.until is None})
    kpi.just_in_time_share = round(sum(grant.until is not None for grant in live) / len(live), 4) if live else None
