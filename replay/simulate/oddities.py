"""What looks like an attack and is none: a nightly scan, one big pull across teams, a machine that is new."""

from __future__ import annotations

import numpy as np

from connectors.event import DAY, HOUR, MINUTE, SECOND
from replay.simulate.factory import User
from replay.simulate.people import log_in
from replay.simulate.places import REGISTRY, SCANNER, STORAGE, address
from replay.simulate.registry import pull
from replay.simulate.rhythm import is_weekend, spread
from replay.simulate.wire import API, EXPORTER, HTTPS, KUBELET, SSH, WINRM, Port
from replay.simulate.world import World

#: What the vulnerability scanner tries, and what answers on a GPU node.
_TRIED = (SSH, Port("tcp", 80, ""), HTTPS, WINRM, KUBELET, API, EXPORTER)
_OPEN = frozenset({SSH, KUBELET, EXPORTER})


def play(world: World, day: int) -> None:
    """The day's share of oddities."""
    _scan(world, day)
    if day == _ordinary_day(world, "big-pull"):
        _big_pull(world, day)
    if day == _ordinary_day(world, "new-machine"):
        _new_machine(world, day)


def _ordinary_day(world: World, what: str) -> int:
    """The weekday on which something happens once: neither the first day nor the last; -1 if there is none."""
    days = [day for day in range(1, world.days - 1) if not is_weekend(world.midnight(day))]
    return days[int(world.rng(what).integers(len(days)))] if days else -1


def _scan(world: World, day: int) -> None:
    """Every night at half past one, from the host everybody knows: each node and server, seven ports each."""
    rng = world.rng("scan", day)
    targets = [world.factory.node_address(node) for node in range(len(world.factory.nodes))] + [REGISTRY, *STORAGE]
    first = world.midnight(day) + 90 * MINUTE + int(rng.integers(MINUTE))
    for i, port in enumerate(_TRIED):
        n = len(targets)
        times = first + i * 2 * SECOND + np.arange(n) * 20 * SECOND + rng.integers(0, SECOND, n)
        if port in _OPEN:
            sizes = spread(rng, 900, 0.3, n, 200, 5_000), spread(rng, 1_500, 0.3, n, 200, 9_000)
            state = "SF"
        else:
            sizes = np.zeros(n, np.int64), np.zeros(n, np.int64)
            state = "REJ"
        world.connect(rng, times, spread(rng, 40_000, 0.6, n, 300, 2 * SECOND), SCANNER, targets, port, *sizes, state)


def _somebody(world: World, day: int, what: str) -> tuple[User, tuple[int, int]] | None:
    """Somebody at work that day, and when."""
    there = [(user, shift) for user in world.factory.users if (shift := world.shift(user, day)) is not None]
    return there[int(world.rng(what, day).integers(len(there)))] if there else None


def _big_pull(world: World, day: int) -> None:
    """Somebody evaluates the largest model of the house, another team's, once: the rare big but legitimate pull."""
    found = _somebody(world, day, "who-pulls")
    if found is None:
        return
    user, (begin, end) = found
    rng = world.rng("big-pull", day)
    model = max((m for m in world.factory.models if m.team != user.team), key=lambda m: m.size)
    time = begin + int(rng.integers(HOUR, max(2 * HOUR, (end - begin) // 2)))
    pull(world, rng, time, user.name, user.workstations[0], "oras/1.2.0", model, weights=True)


def _new_machine(world: World, day: int) -> None:
    """Somebody gets a new laptop, logs in with it for the first time, and fetches what they always use."""
    found = _somebody(world, day, "who-gets-it")
    if found is None:
        return
    user, (begin, end) = found
    rng = world.rng("new-machine", day)
    place = address("10.20", 2 * len(world.factory.users) + day)
    log_in(world, rng, user, place, (begin + end) // 2, min(end, world.midnight(day) + DAY))
    for i, model in enumerate(user.models):
        time = (begin + end) // 2 + 10 * MINUTE + i * 15 * MINUTE
        pull(world, rng, time, user.name, place, "oras/1.2.0", world.factory.models[model], weights=True)
