"""A node that cannot prove what it runs joins the cluster, and gets a job with a model to train."""

from __future__ import annotations

from connectors.event import HOUR, MINUTE
from replay.simulate.factory import uuid
from replay.simulate.journal import ATTESTATION, CONN, REGISTRY, SLURM
from replay.simulate.moves import model_identity, somebody, start_job
from replay.simulate.places import address
from replay.simulate.registry import pull
from replay.simulate.scenarios import Scenario, Stage, Trail
from replay.simulate.wire import attestation_record


def _play(stage: Stage) -> Trail:
    """It is called as the next one would be, fails its attestation twice, and work starts on it all the same."""
    world, rng = stage.world, stage.rng
    factory, begin, user = world.factory, stage.clock(11), somebody(stage)
    stem, _, number = factory.nodes[-1].rpartition("-")
    name = f"{stem}-{int(number) + 1:02d}" if number.isdigit() else f"{factory.nodes[-1]}-b"
    place = address("10.16", 60_000 + int(rng.integers(4_000)))
    for at in (begin, begin + 3 * MINUTE):
        world.write(ATTESTATION, at, attestation_record(at, name, False, uuid(rng), 8))
    start = begin + 20 * MINUTE
    start_job(stage, user, 0, start, 8, 3 * HOUR, (name, place))
    model = factory.models[user.models[-1]]
    pull(world, rng, start + 5 * MINUTE, user.name, place, "oras/1.2.0", model, weights=True)
    return Trail(
        summary=f"node:{name} fails its attestation and gets a job of {user.name} with {model.repository}",
        actors=[f"node:{name}", f"user:{user.name}"],
        via=[f"ip:{place}"],
        objects=[f"node:{name}", model_identity(world, model)],
    )


SCENARIO = Scenario(_play, ("T1195.003", "T1542", "AML.T0010"), needs=frozenset({CONN, SLURM, REGISTRY, ATTESTATION}))
