"""A pod sends a little every few minutes, for most of a day."""

from __future__ import annotations

import numpy as np

from connectors.event import HOUR, MINUTE, SECOND
from replay.simulate.journal import CONN
from replay.simulate.moves import elsewhere, foothold
from replay.simulate.places import GB, MB
from replay.simulate.rhythm import spread
from replay.simulate.scenarios import Scenario, Stage, Trail
from replay.simulate.wire import HTTPS


def _play(stage: Stage) -> Trail:
    """A pod sends a little every few minutes, for most of the day."""
    world, rng = stage.world, stage.rng
    begin = stage.begin + 4 * HOUR + int(rng.integers(80 * MINUTE))
    end = begin + 18 * HOUR
    pod = foothold(stage, 3, 1, begin, end)
    outside = elsewhere(rng)
    times = begin + np.cumsum(rng.integers(4 * MINUTE, 9 * MINUTE, 18 * 60 // 4))
    times = times[times < end]
    n = len(times)
    volume, answers = rng.integers(15 * MB, 40 * MB, n), spread(rng, 20_000, 0.3, n, 2_000, 90_000)
    world.connect(rng, times, spread(rng, 3.5e6, 0.3, n, 900_000, 20 * SECOND), pod.address, outside, HTTPS, volume, answers)
    return Trail(
        summary=f"{pod.identity} sends {int(volume.sum()) / GB:.1f} GB to {outside} in {n} small parts over 18 hours",
        actors=[pod.account.identity],
        via=[f"ip:{pod.address}", pod.identity],
        objects=[f"ip:{outside}"],
    )


SCENARIO = Scenario(_play, ("T1048", "T1030", "T1020", "AML.T0025"), slow=True, needs=frozenset({CONN}))
