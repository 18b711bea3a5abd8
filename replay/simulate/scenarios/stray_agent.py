"""An LLM agent loses its way: it pulls what it was never asked for, asks for secrets, and hammers the gateway."""

from __future__ import annotations

import numpy as np

from connectors.event import HOUR, MINUTE, SECOND
from replay.simulate.audit import Asked
from replay.simulate.cluster import machine
from replay.simulate.journal import CONN, KUBERNETES, REGISTRY
from replay.simulate.moves import ask, model_identity, strange_models
from replay.simulate.places import MB
from replay.simulate.registry import pull
from replay.simulate.rhythm import spread
from replay.simulate.scenarios import Scenario, Stage, Trail
from replay.simulate.wire import HTTPS

_CALLS, _MODELS = 400, 8


def _play(stage: Stage) -> Trail:
    """Two hours around noon, with the agent's own credentials from its own place."""
    world, rng = stage.world, stage.rng
    agents = [bot for bot in world.factory.bots if bot.kind == "agent"] or list(world.factory.bots)
    if not agents:
        raise ValueError("no agent or other machine user")
    bot, begin = agents[int(rng.integers(len(agents)))], stage.clock(11)
    times = np.sort(begin + rng.integers(0, 2 * HOUR, _CALLS))
    sizes = spread(rng, 30_000, 0.8, _CALLS, 900, 4 * MB), spread(rng, 12_000, 1.0, _CALLS, 300, 4 * MB)
    world.connect(rng, times, spread(rng, 6e6, 0.8, _CALLS, 90_000, 120 * SECOND), bot.address, world.hosts.ingress, HTTPS, *sizes)
    now = begin + 4 * MINUTE
    models = strange_models(stage, bot.models, _MODELS)
    teams = [name for i, name in enumerate(world.factory.teams) if i != bot.team]
    for model in models:
        now = pull(world, rng, now, bot.username, bot.address, "huggingface-hub/1.2", model, weights=True) + int(rng.integers(MINUTE))
    for name in teams:
        now = ask(world, rng, now, machine(bot), Asked("list", "secrets", name), 403)
        now = ask(world, rng, now, machine(bot), Asked("get", "secrets", name, "storage-cred"), 403)
    return Trail(
        summary=f"{bot.client} pulls {len(models)} strange models, tries secrets of {len(teams)} teams, calls models {_CALLS} times",
        actors=[f"user:{bot.username}"],
        via=[f"ip:{bot.address}"],
        objects=[*(model_identity(world, model) for model in models), *(f"secret:{name}/storage-cred" for name in teams)],
    )


SCENARIO = Scenario(_play, ("AML.T0053", "AML.T0035", "T1552.007", "T1613"), needs=frozenset({CONN, KUBERNETES, REGISTRY}))
