"""Somebody who is about to leave collects what their rights allow, day by day at their desk, and takes it along on the last evening."""

from __future__ import annotations

from connectors.event import HOUR, MINUTE
from replay.simulate.journal import CONN, REGISTRY
from replay.simulate.moves import model_identity, send_out, somebody, strange_models, take
from replay.simulate.places import MB
from replay.simulate.scenarios import Scenario, Stage, Trail

#: Models a day, from so many days before the last on.
_A_DAY = 4


def _play(stage: Stage) -> Trail:
    """Whole models the usual way from the usual place at usual hours; out to a site that others of the factory use."""
    world, rng = stage.world, stage.rng
    user = somebody(stage)
    place = user.workstations[0]
    loot = strange_models(stage, user.models, _A_DAY * stage.days)
    sites = [site for site in world.factory.internet if site not in user.sites]
    cloud = sites[int(rng.integers(len(sites)))]
    for number in range(stage.days):
        shift = world.shift(user, stage.day + number)
        begin = shift[0] if shift else world.midnight(stage.day + number) + 9 * HOUR
        part = loot[number * _A_DAY : (number + 1) * _A_DAY]
        take(world, rng, begin + HOUR, (user.name, place, "oras/1.2.0"), part, 90 * MINUTE)
    volume = sum(model.size for model in loot)
    evening = stage.last + 17 * HOUR - max(user.offset, 0) * MINUTE
    send_out(world, rng, evening, place, cloud, volume, volume / (4 * 3600) + 20 * MB)
    return Trail(
        summary=f"{user.name} pulls {len(loot)} models in {stage.days} days at the desk and sends them to {cloud} on the last evening",
        actors=[f"user:{user.name}"],
        via=[f"ip:{place}"],
        objects=[*(model_identity(world, model) for model in loot), f"ip:{cloud}"],
    )


SCENARIO = Scenario(
    _play, ("T1078", "T1213", "T1074", "T1567.002", "AML.T0035", "AML.T0025"), lead=3, slow=True, needs=frozenset({CONN, REGISTRY})
)
