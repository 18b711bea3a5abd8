"""A reorganisation: a quarter of the people change teams, and work with other models and another namespace from one day to the next."""

from __future__ import annotations

from connectors.event import HOUR, MINUTE
from replay.simulate.audit import Asked, person
from replay.simulate.journal import CONN, KUBERNETES, REGISTRY
from replay.simulate.moves import ask, model_identity
from replay.simulate.registry import pull
from replay.simulate.rhythm import office
from replay.simulate.scenarios import Scenario, Stage, Trail


def _play(stage: Stage) -> Trail:
    """Each mover fetches the new team's models over the first days and looks into its namespace; the rights come late."""
    world, rng = stage.world, stage.rng
    factory = world.factory
    movers = [factory.users[i] for i in rng.permutation(len(factory.users))[: max(2, len(factory.users) // 4)].tolist()]
    used: set[int] = set()
    for user in movers:
        team = (user.team + 1) % len(factory.teams)
        own = factory.team_models(team)[:3]
        place = user.workstations[0]
        for number in range(stage.days):
            shift = world.shift(user, stage.day + number)
            if shift is None:
                continue
            begin, end = shift
            for time in office(rng, begin + HOUR, end, 0.3).tolist():
                model = factory.models[chosen := own[int(rng.integers(len(own)))]]
                used.add(chosen)
                pull(world, rng, time, user.name, place, "oras/1.2.0", model, weights=rng.random() < 0.4)
            for time in office(rng, begin + 20 * MINUTE, end, 0.7 * user.pace).tolist():
                early = number == 0 and time < begin + 2 * HOUR
                ask(
                    world,
                    rng,
                    time,
                    person(user, factory.teams[team], place),
                    Asked("list", "pods", factory.teams[team]),
                    403 if early else 200,
                )
    return Trail(
        summary=f"{len(movers)} people change teams",
        actors=[f"user:{user.name}" for user in movers],
        via=[],
        objects=[model_identity(world, factory.models[i]) for i in sorted(used)],
    )


SCENARIO = Scenario(_play, lead=2, benign=True, needs=frozenset({CONN, KUBERNETES, REGISTRY}))
