"""Scenarios: one file each, an attack or a hard case of everyday life. Each takes the factory as it finds it and only adds records.

A scenario is a module of this package with one ``SCENARIO``, found by the module's name; nothing is listed anywhere. It draws from
randomness of its own, so without it the other records are the same. It runs over a simulated factory, or over what was found in a
recorded trace: then times, people, pods and models are those of the trace.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Protocol

import numpy as np

from connectors.event import HOUR
from replay.simulate.cluster import Pod
from replay.simulate.factory import Service
from replay.simulate.journal import CONN, KUBERNETES
from replay.simulate.world import World


@dataclass
class Trail:
    """Who did it, through what, to what: identities as the sources spell them. ``summary``: one sentence."""

    summary: str
    actors: list[str]
    via: list[str]
    objects: list[str]


class Pods(Protocol):
    """The pods that a scenario finds. ``working``: service pods of the day on which it begins."""

    working: list[tuple[Service, Pod]]

    def alive(self, begin: int, end: int, role: str, team: int) -> list[Pod]:
        """A team's service pods of a role that live through [begin, end]."""
        ...

    def outside(self, pod: Pod) -> str:
        """An address outside that a loader pod talks to anyway."""
        ...


@dataclass
class Stage:
    """What a scenario finds, and randomness of its own. ``day``: the day on which it begins; what is written after the end of the
    world's days does not exist."""

    world: World
    cluster: Pods
    rng: np.random.Generator
    day: int

    @property
    def begin(self) -> int:
        """Midnight before its first day, microseconds UTC."""
        return self.world.midnight(self.day)

    @property
    def days(self) -> int:
        """Days it has, at least one."""
        return self.world.days - self.day

    @property
    def last(self) -> int:
        """Midnight before its last day."""
        return self.world.midnight(self.world.days - 1)

    def clock(self, hour: float) -> int:
        """A time on its first day, up to an hour after ``hour`` of the day (UTC)."""
        return self.begin + round(hour * HOUR) + int(self.rng.integers(HOUR))


@dataclass(frozen=True)
class Scenario:
    """What can be asked for.

    ``techniques``: ATT&CK and ATLAS ids. ``lead``: days before the last on which it begins; what takes days needs them. ``slow``:
    built to stay below every hour's notice. ``benign``: a hard case, which should not alert. ``needs``: the logs without which it makes
    no sense.
    """

    play: Callable[[Stage], Trail]
    techniques: tuple[str, ...] = ()
    lead: int = 0
    slow: bool = False
    benign: bool = False
    needs: frozenset[str] = frozenset({CONN, KUBERNETES})


@cache
def available() -> dict[str, Scenario]:
    """Every scenario by name (``bulk_pull.py`` is ``bulk-pull``), in order of name."""
    found: dict[str, Scenario] = {}
    for module in sorted(info.name for info in pkgutil.iter_modules(__path__)):
        if not module.startswith("_"):
            found[module.replace("_", "-")] = importlib.import_module(f"{__name__}.{module}").SCENARIO
    return found
