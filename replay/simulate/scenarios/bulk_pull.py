"""At night somebody's account pulls everything it never needed, and sends it out."""

from __future__ import annotations

import numpy as np

from connectors.event import HOUR, MINUTE, SECOND
from replay.simulate.factory import User
from replay.simulate.journal import CONN, KEYCLOAK, REGISTRY
from replay.simulate.moves import elsewhere, model_identity
from replay.simulate.people import log_in
from replay.simulate.places import GB, MB
from replay.simulate.registry import pull
from replay.simulate.rhythm import spread
from replay.simulate.scenarios import Scenario, Stage, Trail
from replay.simulate.wire import HTTPS

#: Models a thief takes at most.
_LOOT = 25


def _play(stage: Stage) -> Trail:
    """At 02:40 of their own clock somebody's account takes everything it never needed, and sends it out."""
    world, rng = stage.world, stage.rng
    midnight = stage.begin
    # West of Greenwich 02:40 is in the middle of the UTC day; far east it would be the day before.
    near = [user for user in world.factory.users if 0 <= user.offset <= 2 * 60 and not user.joins]
    user: User = near[int(rng.integers(len(near)))]
    place, outside = user.workstations[0], elsewhere(rng)
    begin = midnight + 2 * HOUR + 40 * MINUTE - user.offset * MINUTE + int(rng.integers(MINUTE))
    fresh = [model for i, model in enumerate(world.factory.models) if i not in user.models]
    loot = [fresh[i] for i in rng.permutation(len(fresh))[:_LOOT].tolist()]
    rate = sum(model.size for model in loot) / (float(rng.uniform(35, 55)) * 60)
    log_in(world, rng, user, place, begin - 2 * MINUTE, begin + 20 * MINUTE)
    now = begin
    for model in loot:
        now = pull(world, rng, now, user.name, place, "oras/1.2.0", model, weights=True, rate=rate)
        # What has come in leaves in parts of some gigabytes, half as fast again.
        parts = max(1, round(model.size / (8 * GB)))
        size = np.full(parts, model.size // parts)
        took = (size / (1.5 * rate) * SECOND).astype(np.int64)
        starts = now + SECOND + np.arange(parts) * took
        world.connect(rng, starts, took, place, outside, HTTPS, size, spread(rng, 90_000, 0.3, parts, 9_000, MB))
        now += int(rng.integers(SECOND, 15 * SECOND))
    return Trail(
        summary=f"{user.name} pulls {len(loot)} models never used before, at night and from home ground, and sends them to {outside}",
        actors=[f"user:{user.name}"],
        via=[f"ip:{place}"],
        objects=[*(model_identity(world, model) for model in loot), f"ip:{outside}"],
    )


SCENARIO = Scenario(
    _play,
    ("T1078", "T1213", "T1048", "AML.T0012", "AML.T0035", "AML.T0025"),
    needs=frozenset({CONN, REGISTRY, KEYCLOAK}),
)
