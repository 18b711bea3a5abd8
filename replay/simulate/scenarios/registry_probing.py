"""Somebody's account tries the registry's repositories one after the other, to see which open."""

from __future__ import annotations

from connectors.event import SECOND
from replay.simulate.audit import Asked, person
from replay.simulate.journal import CONN, KUBERNETES, REGISTRY
from replay.simulate.moves import ask, at_work, model_identity, somebody, strange_models, touch
from replay.simulate.registry import pull
from replay.simulate.scenarios import Scenario, Stage, Trail
from replay.simulate.wire import HTTPS

#: Repositories tried, and how many of them are open to everybody: a registry notifies only what succeeds.
_TRIED, _OPEN = 40, 12


def _play(stage: Stage) -> Trail:
    """Manifests alone, no weights: what is open gives a notification, what is refused only a short connection. Then the credentials
    of other teams' repositories are asked for in the cluster."""
    world, rng = stage.world, stage.rng
    there = at_work(stage, stage.day)
    user, (begin, end) = there[int(rng.integers(len(there)))] if there else (somebody(stage), (stage.clock(10), stage.clock(15)))
    place = user.workstations[0]
    models = strange_models(stage, user.models, _OPEN)
    now = begin + (end - begin) // 3
    for number in range(_TRIED):
        if number % 3 == 0 and number // 3 < len(models):
            now = pull(world, rng, now, user.name, place, "oras/1.2.0", models[number // 3], weights=False)
        else:
            touch(world, rng, now, place, world.hosts.registry, HTTPS, 1_100, 2_400, "SF")
        now += int(rng.integers(3 * SECOND, 25 * SECOND))
    teams = [name for i, name in enumerate(world.factory.teams) if i != user.team]
    for name in teams:
        who = person(user, world.factory.teams[user.team], place)
        now = ask(world, rng, now, who, Asked("get", "secrets", name, "model-registry-cred"), 403)
    return Trail(
        summary=f"{user.name} tries {_TRIED} repositories of the registry and the credentials of {len(teams)} teams",
        actors=[f"user:{user.name}"],
        via=[f"ip:{place}"],
        objects=[*(model_identity(world, model) for model in models), *(f"secret:{name}/model-registry-cred" for name in teams)],
    )


SCENARIO = Scenario(_play, ("AML.T0007", "T1526", "T1083", "T1552.007"), needs=frozenset({CONN, REGISTRY, KUBERNETES}))
