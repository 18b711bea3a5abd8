"""Announced changes: windows in which what is new is meant to be, and is learned faster. Nothing is hidden: every event is scored as
ever and alerts as ever, and the alert says that a change was on."""

from __future__ import annotations

from fnmatch import fnmatchcase

import numpy as np

from connectors.event import Block
from detector.config import Change, Config
from detector.marks import Marks


def _micros(change: Change) -> tuple[int, int]:
    return round(change.since.timestamp() * 1e6), round(change.until.timestamp() * 1e6)


class Changes:
    """The announced changes of a configuration."""

    def __init__(self, config: Config) -> None:
        self._windows = [
            (*_micros(change), change, Marks(lambda name, scope=change.scope: any(fnmatchcase(name, each) for each in scope)))  # type: ignore[misc]
            for change in config.changes
        ]

    def paces(self, block: Block) -> np.ndarray:
        """float64[n]: how many times faster than usual to learn each row; 1 outside every change. Of several the fastest holds."""
        out = np.ones(len(block))
        for since, until, change, marks in self._windows:
            during = (block.time >= since) & (block.time < until)
            if during.any():
                meant = during & ((marks.of(block.names, block.actor) != 0) | (marks.of(block.names, block.object) != 0))
                out[meant] = np.maximum(out[meant], change.pace)
        return out

    def on(self, time: int, actor: str, object: str) -> str:
        """The name of the first change that an event falls into; "" outside every change."""
        for since, until, change, _ in self._windows:
            if since <= time < until and any(fnmatchcase(actor, each) or fnmatchcase(object, each) for each in change.scope):
                return change.name
        return ""


class Suppressions:
    """Whom no alert is to be opened on, and until when. What they do is scored and learned as ever.

    One owner alone silences nothing that is restricted: a list that is too wide, or edited by an intruder, does not reach it.
    """

    def __init__(self, config: Config) -> None:
        self._until = [(each.until.timestamp() * 1e6, each.scope, bool(each.second_owner)) for each in config.suppressions]
        self._restricted = config.identities.restricted

    def covers(self, identity: str, now: float) -> bool:
        """Whether an alert on ``identity`` at ``now`` (microseconds) is suppressed."""
        found = [both for until, scope, both in self._until if now < until and any(fnmatchcase(identity, each) for each in scope)]
        return any(found) or (bool(found) and not any(fnmatchcase(identity, each) for each in self._restricted))
