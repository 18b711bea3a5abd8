"""A pod sends a model out over days, in parts no larger than many a transfer, around the clock."""

from __future__ import annotations

import numpy as np

from connectors.event import HOUR, MINUTE
from replay.simulate.journal import CONN
from replay.simulate.moves import elsewhere, foothold
from replay.simulate.places import GB, MB
from replay.simulate.rhythm import spread
from replay.simulate.scenarios import Scenario, Stage, Trail
from replay.simulate.wire import HTTPS


def _play(stage: Stage) -> Trail:
    """Twelve to thirty megabytes every ten minutes or so: some three gigabytes a day."""
    world, rng = stage.world, stage.rng
    begin, end = stage.clock(9), world.end - HOUR
    pod, outside = foothold(stage, 4, 0, begin, end), elsewhere(rng)
    times = begin + np.cumsum(rng.integers(6 * MINUTE, 14 * MINUTE, (end - begin) // (6 * MINUTE) + 1))
    times = times[times < end]
    n = len(times)
    volume, answers = rng.integers(12 * MB, 30 * MB, n), spread(rng, 20_000, 0.3, n, 2_000, 90_000)
    world.connect(rng, times, spread(rng, 3e6, 0.3, n, 900_000, 20_000_000), pod.address, outside, HTTPS, volume, answers)
    return Trail(
        summary=f"{pod.identity} sends {int(volume.sum()) / GB:.1f} GB of weights to {outside} in {n} small parts over days",
        actors=[pod.account.identity],
        via=[f"ip:{pod.address}", pod.identity],
        objects=[f"ip:{outside}"],
    )


SCENARIO = Scenario(_play, ("T1048", "T1030", "T1029", "AML.T0025"), lead=4, slow=True, needs=frozenset({CONN}))
