"""A quarter of the nodes fail at once: jobs die and start again elsewhere, scrapes find nobody, nodes come back and attest."""

from __future__ import annotations

import numpy as np

from connectors.event import HOUR, MINUTE, SECOND
from replay.simulate.factory import uuid
from replay.simulate.journal import ATTESTATION, CONN, SLURM
from replay.simulate.moves import at_work, nodes, start_job
from replay.simulate.rhythm import spread
from replay.simulate.scenarios import Scenario, Stage, Trail
from replay.simulate.wire import EXPORTER, NFS, attestation_record


def _play(stage: Stage) -> Trail:
    """For forty minutes of an afternoon."""
    world, rng = stage.world, stage.rng
    begin = stage.clock(13)
    back = begin + 40 * MINUTE
    failed = nodes(stage, max(2, len(world.factory.nodes) // 4))
    scrapers = [pod for service, pod in stage.cluster.working if service.kind == "prometheus"]
    people = at_work(stage, stage.day)
    for number, (name, place) in enumerate(failed):
        for pod in scrapers:
            times = np.arange(begin + int(rng.integers(MINUTE)), back, MINUTE)
            nothing = np.zeros(len(times), np.int64)
            world.connect(rng, times, nothing, pod.address, place, EXPORTER, nothing, nothing, "S0")
        for part in range(2):
            if not people:
                break
            user = people[int(rng.integers(len(people)))][0]
            ran = int(rng.integers(HOUR, 3 * HOUR))
            start_job(stage, user, 4 * number + 2 * part, begin - ran, 4, ran, (name, place), "NODE_FAIL")
            other, there = nodes(stage, 1)[0]
            again = begin + int(rng.integers(2 * MINUTE, 20 * MINUTE))
            start_job(stage, user, 4 * number + 2 * part + 1, again, 4, 2 * HOUR, (other, there))
            volume = spread(rng, 40e9, 0.8, 1, 1e8, 9e11)
            world.connect(rng, np.array([again + SECOND]), np.array([HOUR]), there, world.hosts.storage, NFS, volume // 30, volume)
        up = back + int(rng.integers(5 * MINUTE))
        if rng.random() < 0.3:
            # A node that is just up may not have its clock right yet, and is told to try again.
            world.write(ATTESTATION, up, attestation_record(up, name, False, uuid(rng), 8))
        world.write(ATTESTATION, up + 2 * MINUTE, attestation_record(up + 2 * MINUTE, name, True, uuid(rng), 8))
    return Trail(
        summary=f"{len(failed)} nodes fail for 40 minutes; their jobs start again elsewhere",
        actors=[f"node:{name}" for name, _ in failed],
        via=[],
        objects=[],
    )


SCENARIO = Scenario(_play, benign=True, needs=frozenset({CONN, SLURM, ATTESTATION}))
