"""Machine users: CI runners that build, pull and push in bursts, and LLM agents that ask models and look around, day and night."""

from __future__ import annotations

import numpy as np

from connectors.event import DAY, HOUR, MINUTE, SECOND
from replay.simulate.audit import Asked, event
from replay.simulate.cluster import machine
from replay.simulate.factory import Bot, uuid
from replay.simulate.journal import KEYCLOAK as LOGINS
from replay.simulate.journal import KUBERNETES
from replay.simulate.places import APISERVER, GIT, INGRESS, KEYCLOAK, MB
from replay.simulate.registry import pull, push
from replay.simulate.rhythm import beat, demand, poisson, spread
from replay.simulate.wire import API, HTTPS, keycloak_event
from replay.simulate.world import World

#: How long a client's token is used before the next one.
_TOKEN = 55 * MINUTE
#: Builds an hour at the busiest time of day, and questions of an agent.
_BUILDS, _QUESTIONS = 2.2, 14.0
#: An agent looks models up and fetches a small part of one now and then, an hour.
_CURIOUS = 0.3


def play(world: World, day: int) -> None:
    """A day of every bot."""
    begin, end = world.midnight(day), world.midnight(day) + DAY
    for bot in world.factory.bots:
        rng = world.rng("bot", day, bot.index)
        _tokens(world, rng, bot, begin, end)
        (_runner if bot.kind == "ci" else _agent)(world, rng, bot, begin, end)


def _tokens(world: World, rng: np.random.Generator, bot: Bot, begin: int, end: int) -> None:
    times = beat(rng, begin, end, _TOKEN, 20 * SECOND)
    for time in times.tolist():
        token = uuid(rng)
        details = {"token_id": token, "grant_type": "client_credentials", "scope": "registry", "username": bot.username}
        line = keycloak_event(time, uuid(rng), "CLIENT_LOGIN", bot.client, bot.uid, bot.address, None, **details)
        world.write(LOGINS, time, line)
        world.tokens.setdefault(f"user:{bot.username}", []).append(token)
    n = len(times)
    sizes = spread(rng, 1_200, 0.2, n, 700, 4_000), spread(rng, 3_000, 0.2, n, 1_500, 9_000)
    world.connect(rng, times, spread(rng, 120_000, 0.4, n, 9_000, 2 * SECOND), bot.address, KEYCLOAK, HTTPS, *sizes)


def _runner(world: World, rng: np.random.Generator, bot: Bot, begin: int, end: int) -> None:
    """Each build fetches sources and names, tries a model, and sometimes publishes one."""
    times = demand(rng, begin, end, _BUILDS)
    n = len(times)
    sizes = spread(rng, 20_000, 0.6, n, 900, MB), spread(rng, 30 * MB, 1.0, n, 90_000, 900 * MB)
    world.connect(rng, times, spread(rng, 4e6, 0.7, n, 90_000, 90 * SECOND), bot.address, GIT, HTTPS, *sizes)
    world.look_up(rng, np.repeat(times, 4) + rng.integers(0, 30 * SECOND, 4 * n), bot.address)
    team = world.factory.teams[bot.team]
    for time in times.tolist():
        model = world.factory.models[bot.models[int(rng.integers(len(bot.models)))]]
        done = pull(world, rng, time + 40 * SECOND, bot.username, bot.address, "oras/1.2.0", model, weights=rng.random() < 0.15)
        if rng.random() < 0.04:
            done = push(world, rng, done + 5 * MINUTE, bot.username, bot.address, "oras/1.2.0", model)
        if rng.random() < 0.3:
            asked = Asked("get", "deployments", team, "serving", group="apps")
            world.write(KUBERNETES, done, event(rng, done, machine(bot), asked))


def _agent(world: World, rng: np.random.Generator, bot: Bot, begin: int, end: int) -> None:
    """Asks models through the gateway all day, half as often at night; looks at its team's pods."""
    times = np.sort(np.concatenate([poisson(rng, begin, end, _QUESTIONS / 2), demand(rng, begin, end, _QUESTIONS / 2)]))
    n = len(times)
    sizes = spread(rng, 7_000, 1.0, n, 300, 4 * MB), spread(rng, 12_000, 1.0, n, 300, 4 * MB)
    world.connect(rng, times, spread(rng, 6e6, 0.8, n, 90_000, 120 * SECOND), bot.address, INGRESS, HTTPS, *sizes)
    for time in poisson(rng, begin, end, _CURIOUS).tolist():
        model = world.factory.models[bot.models[int(rng.integers(len(bot.models)))]]
        pull(world, rng, time, bot.username, bot.address, "huggingface-hub/1.2", model, weights=rng.random() < 0.05)
    looks = beat(rng, begin, end, HOUR, 5 * MINUTE)
    for time in looks.tolist():
        world.write(KUBERNETES, time, event(rng, time, machine(bot), Asked("list", "pods", world.factory.teams[bot.team])))
    n = len(looks)
    sizes = spread(rng, 2_000, 0.2, n, 900, 9_000), spread(rng, 30_000, 0.4, n, 4_000, 300_000)
    world.connect(rng, looks, spread(rng, 200_000, 0.4, n, 30_000, 3 * SECOND), bot.address, APISERVER, API, *sizes)
