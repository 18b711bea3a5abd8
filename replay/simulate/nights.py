"""Work at odd hours that is as it should be: the maintenance window's administrator, and the engineer who is called at night."""

from __future__ import annotations

import numpy as np

from connectors.event import MINUTE, SECOND
from replay.simulate.audit import Asked, person
from replay.simulate.cluster import Cluster
from replay.simulate.factory import uuid
from replay.simulate.journal import ATTESTATION
from replay.simulate.moves import ask
from replay.simulate.people import log_in
from replay.simulate.places import MB, SLURM_LOGIN, WIKI
from replay.simulate.rhythm import spread
from replay.simulate.schedule import administrator, call, windows
from replay.simulate.wire import HTTPS, SSH, attestation_record
from replay.simulate.world import World


def play(world: World, cluster: Cluster, day: int) -> None:
    """The day's share of both. The pods that they move are the cluster's."""
    _maintain(world, day)
    _called(world, cluster, day)


def _maintain(world: World, day: int) -> None:
    """An administrator logs in, cordons each node and gives it back; the node attests once it is up again."""
    turns = windows(world, day)
    if not turns:
        return
    rng, user = world.rng("maintenance", day), administrator(world, day)
    caller = person(user, world.factory.teams[user.team], user.vpn)
    begins, ends = min(turn.begins for turn in turns.values()), max(turn.ends for turn in turns.values())
    log_in(world, rng, user, user.vpn, begins - 10 * MINUTE, ends + 5 * MINUTE)
    world.connect(
        rng,
        np.array([begins - 5 * MINUTE]),
        np.array([ends - begins]),
        user.vpn,
        SLURM_LOGIN,
        SSH,
        np.array([90_000]),
        np.array([900_000]),
    )
    for node, turn in turns.items():
        name = world.factory.nodes[node]
        for time in (turn.begins, turn.ends):
            ask(world, rng, time, caller, Asked("patch", "nodes", "", name), 200)
        up = turn.up + int(rng.integers(20 * SECOND, 2 * MINUTE))
        world.write(ATTESTATION, up, attestation_record(up, name, True, uuid(rng), 8))


def _called(world: World, cluster: Cluster, day: int) -> None:
    """Somebody logs in over VPN, reads what the runbook says, looks at pods and their logs, and at the queue."""
    found = call(world, day)
    if found is None:
        return
    rng, (user, begins, ends, _) = world.rng("called", day), found
    team, place = world.factory.teams[user.team], user.vpn
    log_in(world, rng, user, place, begins, ends)
    caller = person(user, team, place)
    now = ask(world, rng, begins + 2 * MINUTE, caller, Asked("list", "pods", team), 200)
    now = ask(world, rng, now, caller, Asked("list", "jobs", team, group="batch"), 200)
    for pod in cluster.alive(begins, ends + MINUTE, "serving", user.team):
        for _ in range(int(rng.integers(1, 4))):
            now = ask(world, rng, now, caller, Asked("get", "pods", team, pod.name, "log"), 200)
    times = np.sort(rng.integers(begins + MINUTE, ends, 1 + rng.poisson(4)))
    n = len(times)
    sizes = spread(rng, 6_000, 1.0, n, 200, 90_000), spread(rng, 200_000, 1.2, n, 200, 9 * MB)
    world.connect(rng, times, spread(rng, 1.2e6, 1.0, n, 3_000, 60 * SECOND), place, WIKI, HTTPS, *sizes)
    once = np.array([begins + 3 * MINUTE])
    world.connect(rng, once, np.array([ends - begins]) // 2, place, SLURM_LOGIN, SSH, np.array([60_000]), np.array([400_000]))
