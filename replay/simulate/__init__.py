"""A simulated AI factory: people, service accounts, bots, pods, jobs and models, as the records their systems would write.

``simulate`` writes a folder: six logs in the wire formats of our sources, each in the order in which its records are written;
``truth.json``, what was an attack; ``inventory.json``, what there is to contain. The same arguments give the same bytes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, date, datetime
from functools import partial
from pathlib import Path

import msgspec

from connectors.event import SECOND
from replay.simulate import bots, machines, nights, oddities, people
from replay.simulate.batch import Scheduler, play_pods
from replay.simulate.cluster import Cluster
from replay.simulate.factory import build
from replay.simulate.inventory import inventory_of
from replay.simulate.journal import ATTESTATION, CONN, FILES, KEYCLOAK, KUBERNETES, REGISTRY, SLURM, Journal, Marked
from replay.simulate.scenarios import Stage, Trail, available
from replay.simulate.truth import INVENTORY, TRUTH, Attack, Inventory, Truth
from replay.simulate.world import World, randomness

__all__ = [
    "ATTACKS",
    "ATTESTATION",
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
    "account_of",
    "labels_of",
    "simulate",
]

#: The attacks of a demo, each within one day, in order. ``scenarios.available`` has more.
ATTACKS = ("bulk-pull", "stolen-token", "lateral-movement", "slow-drip")
#: The first day of every simulation unless said otherwise: a Monday, so that a week ends on a Sunday.
START = date(2026, 3, 2)
#: The largest factory: past it pods would be out of addresses.
_LARGEST = 200.0
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
    spread: int = 1,
    progress: Callable[[float], None] | None = None,
) -> Truth:
    """Simulate ``days`` days from midnight UTC of ``start`` into the folder ``out``, made if need be. Returns the truth.

    ``scale``: the size of the factory; 1 is 40 people and some 60,000 records a weekday. ``attacks``: scenarios that happen, each as
    many days before the last as it takes; a name given twice happens twice; None is all of ``ATTACKS``, () none. ``spread``: those that
    begin on the same day take turns over so many days before it. ``progress`` is told what share is done, 1.0 at the end. Memory is
    bounded but for one small object a pod, job, session and token. Raises ValueError on an argument that cannot be, OSError where
    ``out`` cannot be written.
    """
    chosen = _checked(days, seed, scale, attacks, start)
    tell = progress or _quiet
    out.mkdir(parents=True, exist_ok=True)
    midnight = int(datetime(start.year, start.month, start.day, tzinfo=UTC).timestamp()) * SECOND
    with Journal(out) as journal:
        world = World(build(randomness(seed, "factory"), scale, days), seed, midnight, days, journal)
        cluster, scheduler = Cluster(world), Scheduler(world)
        plan = _planned(chosen, days, spread)
        trails: dict[str, Trail] = {}
        # The cluster decides which pods there are; the others find them.
        parts: tuple[Callable[[int], None], ...] = (
            cluster.play,
            partial(machines.play, world, cluster),
            partial(people.play, world, cluster),
            partial(play_pods, world, cluster),
            scheduler.play,
            partial(bots.play, world),
            partial(oddities.play, world),
            partial(nights.play, world, cluster),
        )
        for day in range(days):
            for i, part in enumerate(parts):
                part(day)
                tell((day + i / len(parts)) / days)
            trails |= _attack(world, cluster, day, plan.get(day, []))
            journal.settle(world.midnight(day + 1))
        truth = Truth(
            seed=seed,
            scale=scale,
            days=days,
            start=midnight,
            end=world.end,
            records=journal.counts,
            spans={name: journal.span(name) for name in FILES},
            attacks=[account_of(label, trails[label], journal.marked.get(label)) for label in chosen],
        )
    inventory = inventory_of(world, cluster, scheduler)
    for name, content in ((TRUTH, msgspec.json.encode(truth)), (INVENTORY, msgspec.json.encode(inventory))):
        (out / name).write_bytes(content + b"\n")
    tell(1.0)
    return truth


def _checked(days: int, seed: int, scale: float, attacks: Sequence[str] | None, start: date) -> list[str]:
    """The attacks to play, in order. Raises ValueError."""
    if days < 1:
        raise ValueError(f"days: at least one day can be simulated, not {days}")
    if seed < 0:
        raise ValueError(f"seed: is not negative, not {seed}")
    if not 0 < scale <= _LARGEST:  # also false for NaN
        raise ValueError(f"scale: a factory is between 0 and {_LARGEST:g} times the usual size, not {scale:g}")
    if not _YEARS[0] <= start.year <= _YEARS[1] or days > 366 * (_YEARS[1] + 1 - start.year):
        raise ValueError(f"start: the simulated days lie between {_YEARS[0]} and {_YEARS[1]}, not {days} from {start}")
    return labels_of(ATTACKS if attacks is None else attacks)


def labels_of(names: Sequence[str]) -> list[str]:
    """The scenarios of these names as labels: the second of a name is ``name#2``. Raises ValueError on a name that is none."""
    known = available()
    unknown = sorted(set(names) - known.keys())
    if unknown:
        raise ValueError(f"attacks: expected some of {', '.join(known)}; got {', '.join(map(repr, unknown))}")
    # In the order in which a demo lists its own, then by name, so that the order asked for does not matter.
    order = {name: number for number, name in enumerate(dict.fromkeys((*ATTACKS, *known)))}
    labels: list[str] = []
    for name in sorted(names, key=lambda name: order[name]):
        again = sum(label.partition("#")[0] == name for label in labels)
        labels.append(f"{name}#{again + 1}" if again else name)
    return labels


def _planned(labels: list[str], days: int, spread: int) -> dict[int, list[str]]:
    """Day -> the scenarios that begin on it."""
    plan: dict[int, list[str]] = {}
    turns: dict[int, int] = {}
    for label in labels:
        lead = available()[label.partition("#")[0]].lead
        turn = turns.get(lead, 0)
        turns[lead] = turn + 1
        plan.setdefault(max(0, days - 1 - lead - turn % max(spread, 1)), []).append(label)
    return plan


def _quiet(share: float) -> None:
    """Tell nobody."""


def _attack(world: World, cluster: Cluster, day: int, labels: list[str]) -> dict[str, Trail]:
    trails = {}
    for label in labels:
        world.label = label
        scenario = available()[label.partition("#")[0]]
        trails[label] = scenario.play(Stage(world, cluster, world.rng(f"attack {label}"), day))
    world.label = ""
    return trails


def account_of(label: str, trail: Trail, marked: Marked | None) -> Attack:
    """What is true about a scenario that was played. Raises ValueError where it left no record."""
    if marked is None:
        raise ValueError(f"attacks: {label} has no record within the days simulated")
    name, _, again = label.partition("#")
    scenario = available()[name]
    return Attack(
        name=name,
        instance=int(again or 1),
        benign=scenario.benign,
        slow=scenario.slow,
        summary=trail.summary,
        techniques=list(scenario.techniques),
        first=marked.first,
        last=marked.last,
        actors=trail.actors,
        via=trail.via,
        objects=trail.objects,
        records=marked.records,
    )
