"""A new model is released: a runner pushes it, and the whole house fetches and tries it within hours."""

from __future__ import annotations

import numpy as np

from connectors.event import HOUR, MINUTE, SECOND
from replay.simulate.factory import Blob, Model, digest
from replay.simulate.journal import CONN, REGISTRY
from replay.simulate.moves import at_work, model_identity
from replay.simulate.places import GB, MB
from replay.simulate.registry import pull, push
from replay.simulate.rhythm import spread
from replay.simulate.scenarios import Scenario, Stage, Trail
from replay.simulate.wire import HTTPS


def _play(stage: Stage) -> Trail:
    """Everybody at work looks at it, half take it whole, the model servers of all teams too; calls to models are up for hours."""
    world, rng = stage.world, stage.rng
    team, time = int(rng.integers(len(world.factory.teams))), stage.clock(8)
    size = 30 * GB // 6
    small = (Blob(digest(rng), 1_800), Blob(digest(rng), 5 * MB))
    model = Model(
        f"{world.factory.teams[team]}/flagship-30b", team, digest(rng), small, tuple(Blob(digest(rng), size) for _ in range(6))
    )
    runners = [bot for bot in world.factory.bots if bot.kind == "ci"]
    runner = runners[int(rng.integers(len(runners)))]
    released = push(world, rng, time, runner.username, runner.address, "oras/1.2.0", model) + 10 * MINUTE
    people = at_work(stage, stage.day)
    for user, (begin, end) in people:
        place = user.workstations[0]
        first = max(begin, released) + int(rng.exponential(40 * MINUTE))
        if first > end - HOUR:
            continue
        pull(world, rng, first, user.name, place, "oras/1.2.0", model, weights=rng.random() < 0.5)
        times = np.sort(rng.integers(first, end, rng.poisson(15)))
        n = len(times)
        sizes = spread(rng, 12_000, 1.0, n, 300, 4 * MB), spread(rng, 60_000, 1.0, n, 300, 9 * MB)
        world.connect(rng, times, spread(rng, 4e6, 0.8, n, 90_000, 120 * SECOND), place, world.hosts.ingress, HTTPS, *sizes)
    for number, name in enumerate(range(len(world.factory.teams))):
        for pod in stage.cluster.alive(released, released + HOUR, "serving", name):
            at = released + number * 7 * MINUTE + int(rng.integers(MINUTE))
            pull(world, rng, at, pod.account.username, pod.address, "python-oras/0.2.0", model, weights=True, within=30 * MINUTE)
    return Trail(
        summary=f"{model.repository} is released, and {len(people)} people try it",
        actors=[f"user:{user.name}" for user, _ in people],
        via=[],
        objects=[model_identity(world, model)],
    )


SCENARIO = Scenario(_play, benign=True, needs=frozenset({CONN, REGISTRY}))
