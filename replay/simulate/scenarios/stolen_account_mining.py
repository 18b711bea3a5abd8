"""A stolen account mines: a log-in from outside, many GPUs at night under a plausible name, and a pool on the Internet."""

from __future__ import annotations

import numpy as np

from connectors.event import HOUR, MINUTE, SECOND
from replay.simulate.journal import CONN, KEYCLOAK, SLURM
from replay.simulate.moves import elsewhere, nodes, somebody, start_job, touch
from replay.simulate.people import log_in
from replay.simulate.rhythm import spread
from replay.simulate.scenarios import Scenario, Stage, Trail
from replay.simulate.wire import SSH, Port

#: Where mining pools listen.
_POOL = Port("tcp", 3333, "")
_JOBS, _GPUS = 5, 8


def _play(stage: Stage) -> Trail:
    """At 01:00 UTC or so. Each job keeps a connection to the pool, renewed every half hour; mining needs no data set."""
    world, rng = stage.world, stage.rng
    user, begin = somebody(stage), stage.clock(0.5)
    outside, pool = elsewhere(rng), elsewhere(rng)
    log_in(world, rng, user, outside, begin, begin + 40 * MINUTE)
    touch(world, rng, begin + 3 * MINUTE, outside, world.hosts.login, SSH, 20_000, 60_000, "SF")
    places = nodes(stage, _JOBS)
    first = begin + 6 * MINUTE
    for number in range(_JOBS):
        name, address = places[number % len(places)]
        start = first + number * int(rng.integers(20 * SECOND, 90 * SECOND))
        lasts = int(rng.integers(6 * HOUR, 9 * HOUR))
        start_job(stage, user, number, start, _GPUS, lasts, (name, address))
        times = np.arange(start + 40 * SECOND, start + lasts - 31 * MINUTE, 30 * MINUTE)
        n = len(times)
        took = spread(rng, 29.5 * 60 * SECOND, 0.01, n, 20 * MINUTE, 30 * MINUTE)
        world.connect(
            rng,
            times,
            took,
            address,
            pool,
            _POOL,
            spread(rng, 90_000, 0.2, n, 9_000, 900_000),
            spread(rng, 160_000, 0.2, n, 9_000, 900_000),
        )
    return Trail(
        summary=f"{user.name} logs in from {outside} and runs {_JOBS} jobs of {_GPUS} GPUs that talk to the pool {pool}",
        actors=[f"user:{user.name}"],
        via=[f"ip:{outside}", *(f"ip:{address}" for _, address in places)],
        objects=[f"ip:{pool}"],
    )


SCENARIO = Scenario(_play, ("T1078", "AML.T0012", "T1496.001", "T1071"), needs=frozenset({CONN, SLURM, KEYCLOAK}))
