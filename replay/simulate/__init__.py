"""A simulated AI factory: people, service accounts, bots, pods, jobs and models, as the records their systems would write.

``simulate`` writes a folder: five logs in the wire formats of five of our sources, each in the order in which its records are
written; ``truth.json``, what was an attack; ``inventory.json``, what there is to contain. The same arguments give the same bytes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from datetime import UTC, date, datetime
from pathlib import Path

import msgspec

from connectors.event import SECOND
from replay.simulate import batch, bots, machines, oddities, people
from replay.simulate.attacks import SCENARIOS, Trail
from replay.simulate.cluster import Cluster
from replay.simulate.factory import build
from replay.simulate.inventory import inventory_of
from replay.simulate.journal import CONN, FILES, KEYCLOAK, KUBERNETES, REGISTRY, SLURM, Journal
from replay.simulate.truth import INVENTORY, TRUTH, Attack, Inventory, Truth
from replay.simulate.world import World

__all__ = [
    "ATTACKS",
    "CONN",
    "FILES",
    "INVENTORY",
    "KEYCLOAK",
    "KUBERNETES",
    "REGISTRY",
    "SLURM",
    "START",
    "TRUTH",
    "Attack",
    "Inventory",
    "Truth",
    "simulate",
]

#: The attacks there are, in order.
ATTACKS = tuple(SCENARIOS)
#: The first day of every simulation unless said otherwise: a Monday, so that a week ends on a Sunday.
START = date(2026, 3, 2)
#: The largest factory: past it addresses of workstations (two a person) would run into the next network.
_LARGEST = 500.0
#: Years of the calendar that every source accepts.
_YEARS = (1991, 2099)


def simulate(
    out: Path,
    *,
    days: int = 7,
    seed: int = 1,
    scale: float = 1.0,
    attacks: Sequence[str] | None = None,
    start: date = START,
    progress: Callable[[float], None] | None = None,
) -> Truth:
    """Simulate ``days`` days from midnight UTC of ``start`` into the folder ``out``, made if need be; returns what was written as truth.

    ``scale``: the size of the factory; 1 is 40 people and some 50,000 records a weekday. ``attacks``: which of ``ATTACKS`` happen on the
    last day; None all, () none. ``progress`` is told what share is done, 1.0 at the end. Memory is that of one day's records and of one
    small object a pod and a job. Raises ValueError on an argument that cannot be, OSError where ``out`` cannot be written.
    """
    chosen = _checked(days, seed, scale, attacks, start)
    out.mkdir(parents=True, exist_ok=True)
    midnight = int(datetime(start.year, start.month, start.day, tzinfo=UTC).timestamp()) * SECOND
    with Journal(out) as journal:
        world = World(build(World.draw(seed, "factory"), scale), seed, midnight, days, scale, journal)
        cluster, scheduler = Cluster(world), batch.Scheduler(world)
        trails: dict[str, Trail] = {}
        for day in range(days):
            world.tokens.clear()
            parts: list[Callable[[], None]] = [
                lambda day=day: cluster.play(day),  # type: ignore[misc]
                lambda day=day: machines.play(world, cluster, day),  # type: ignore[misc]
            ]
        journal.settle(world.end)
    return Truth(seed=seed, scale=scale, days=days, start=midnight, end=world.end, records=journal.counts, attacks=[])
