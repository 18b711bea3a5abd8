"""What every part of the simulation is given: the factory, the calendar, the journal, and randomness of its own."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from connectors.event import DAY, MINUTE
from connectors.names import stable_hash
from replay.simulate.factory import Factory, User
from replay.simulate.journal import CONN, Writes
from replay.simulate.places import Hosts
from replay.simulate.rhythm import is_weekend, spread
from replay.simulate.wire import DOMAIN, Port, SlurmJob, conns


def randomness(seed: int, concern: str, *key: int) -> np.random.Generator:
    """The random numbers of one concern, the same in every run."""
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence([seed, stable_hash(concern), *key])))


@dataclass
class World:
    """The simulation's constants, and the only way to randomness and to the files.

    ``start``: midnight of day 0, microseconds UTC. ``label``: what the records added now are part of ("" = everyday life).
    ``hosts``: where the servers are that attacks have to do with.
    ``jobs``: those that scenarios submitted.
    ``tokens`` and ``sessions``: ids by owner (normalised identity).
    """

    factory: Factory
    seed: int
    start: int
    days: int
    journal: Writes
    label: str = ""
    hosts: Hosts = field(default_factory=Hosts)
    jobs: list[SlurmJob] = field(default_factory=list)
    tokens: dict[str, list[str]] = field(default_factory=dict)
    sessions: dict[str, list[str]] = field(default_factory=dict)

    @property
    def end(self) -> int:
        """When the simulation ends; records written from then on do not exist."""
        return self.start + self.days * DAY

    def rng(self, concern: str, *key: int) -> np.random.Generator:
        """Randomness of one concern, day and actor: nothing else draws from it, so that nothing else can shift it."""
        return randomness(self.seed, concern, *key)

    def midnight(self, day: int) -> int:
        """When a day begins, UTC."""
        return self.start + day * DAY

    def write(self, file: str, time: int, line: bytes) -> None:
        """Add a record."""
        self.journal.add(file, time, line, self.label)

    def connect(
        self,
        rng: np.random.Generator,
        start: np.ndarray,
        duration: np.ndarray,
        orig: str | list[str],
        resp: str | list[str],
        port: Port,
        out: np.ndarray,
        into: np.ndarray,
        state: str | list[str] = "SF",
        orig_port: int | None = None,
    ) -> None:
        """Add connections; see ``wire.conns``."""
        times, lines = conns(rng, start, duration, orig, resp, port, out, into, state, orig_port)
        self.journal.extend(CONN, times, lines, self.label)

    def look_up(self, rng: np.random.Generator, start: np.ndarray, orig: str | list[str]) -> None:
        """Add DNS queries."""
        n = len(start)
        self.connect(
            rng,
            start,
            spread(rng, 1500, 0.8, n, 150, 900_000),
            orig,
            self.hosts.dns,
            DOMAIN,
            rng.integers(28, 60, n),
            rng.integers(60, 300, n),
        )

    def shift(self, user: User, day: int) -> tuple[int, int] | None:
        """When a user is at work on a day (microseconds UTC), or None. The shift of a western site may end after midnight UTC."""
        if day < user.joins:
            return None
        rng = self.rng("shift", day, user.index)
        chance = (0.25 if user.admin else 0.06) if is_weekend(self.midnight(day)) else 0.93
        if rng.random() >= chance:
            return None
        begin = self.midnight(day) + round((user.begins - user.offset + rng.normal(0, 15)) * MINUTE)
        end = self.midnight(day) + round((user.ends - user.offset + rng.normal(0, 30)) * MINUTE)
        return max(begin, self.midnight(day)), end
