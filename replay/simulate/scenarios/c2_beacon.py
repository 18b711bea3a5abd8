"""A pod calls home: every minute or so a small request to an address outside, around the clock."""

from __future__ import annotations

import numpy as np

from connectors.event import HOUR, SECOND
from replay.simulate.journal import CONN
from replay.simulate.moves import elsewhere, foothold
from replay.simulate.rhythm import spread
from replay.simulate.scenarios import Scenario, Stage, Trail
from replay.simulate.wire import HTTPS

_PERIOD, _JITTER = 60 * SECOND, 6 * SECOND


def _play(stage: Stage) -> Trail:
    """A tenth of jitter, as implants have by default; ten hours."""
    world, rng = stage.world, stage.rng
    begin = stage.clock(8)
    pod, outside = foothold(stage, 1, 1, begin, begin + 11 * HOUR), elsewhere(rng)
    times = np.arange(begin, begin + 10 * HOUR, _PERIOD) + rng.integers(0, _JITTER, 600)
    n = len(times)
    world.look_up(rng, times[::30] - 40_000, pod.address)
    sizes = spread(rng, 420, 0.1, n, 300, 900), spread(rng, 260, 0.1, n, 200, 900)
    world.connect(rng, times, spread(rng, 180_000, 0.3, n, 30_000, 2 * SECOND), pod.address, outside, HTTPS, *sizes)
    return Trail(
        summary=f"{pod.identity} calls {outside} once a minute for ten hours",
        actors=[pod.account.identity],
        via=[f"ip:{pod.address}", pod.identity],
        objects=[f"ip:{outside}"],
    )


SCENARIO = Scenario(_play, ("T1071.001", "T1573", "T1029"), needs=frozenset({CONN}))
