"""Somebody takes hold of GPUs and lets them idle: job after job, none of which reads anything."""

from __future__ import annotations

from connectors.event import HOUR, MINUTE, SECOND
from replay.simulate.journal import SLURM
from replay.simulate.moves import at_work, nodes, somebody, start_job
from replay.simulate.scenarios import Scenario, Stage, Trail

_JOBS, _GPUS = 10, 8


def _play(stage: Stage) -> Trail:
    """Within two hours of a working day, each job for as long as the partition allows."""
    rng = stage.rng
    there = at_work(stage, stage.day)
    user, (begin, _) = there[int(rng.integers(len(there)))] if there else (somebody(stage), (stage.clock(9), 0))
    now = begin + HOUR
    places = nodes(stage, _JOBS)
    for number in range(_JOBS):
        start_job(stage, user, number, now, _GPUS, 20 * HOUR, places[number % len(places)])
        now += int(rng.integers(40 * SECOND, 20 * MINUTE))
    return Trail(
        summary=f"{user.name} holds {_JOBS * _GPUS} GPUs with {_JOBS} jobs that do nothing",
        actors=[f"user:{user.name}"],
        via=[],
        objects=[f"node:{name}" for name, _ in places],
    )


SCENARIO = Scenario(_play, ("T1496.001", "AML.T0034"), needs=frozenset({SLURM}))
