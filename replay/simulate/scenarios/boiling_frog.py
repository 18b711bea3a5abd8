"""The baseline is poisoned: a pod sends a little more every day to where it always sends, and in the end everything."""

from __future__ import annotations

import numpy as np

from connectors.event import DAY, HOUR
from replay.simulate.journal import CONN
from replay.simulate.moves import foothold, send_out
from replay.simulate.places import GB, MB
from replay.simulate.rhythm import spread
from replay.simulate.scenarios import Scenario, Stage, Trail
from replay.simulate.wire import HTTPS

#: Bytes added on the first day, how much more each day, and what leaves in the end.
_FIRST, _GROWTH, _PRIZE = 60 * MB, 1.7, 60 * GB


def _play(stage: Stage) -> Trail:
    """To a mirror that the pod's team uses anyway, at the hours at which it does."""
    world, rng = stage.world, stage.rng
    begin = stage.clock(7)
    pod = foothold(stage, 0, 0, begin, world.end)
    mirror = stage.cluster.outside(pod)
    for day in range(stage.days):
        many = 12 + 4 * day
        times = np.sort(stage.begin + day * DAY + rng.integers(8 * HOUR, 18 * HOUR, many))
        volume = spread(rng, _FIRST * _GROWTH**day / many, 0.4, many, MB / 4, 20 * GB)
        world.connect(rng, times, spread(rng, 20e6, 0.6, many, 200_000, 300e6), pod.address, mirror, HTTPS, volume, volume // 100)
    send_out(world, rng, stage.last + 15 * HOUR + int(rng.integers(2 * HOUR)), pod.address, mirror, _PRIZE, _PRIZE / (90 * 60))
    return Trail(
        summary=f"{pod.identity} sends {_GROWTH:g} times as much each day to {mirror}, which it knows, then {_PRIZE / GB:.0f} GB",
        actors=[pod.account.identity],
        via=[f"ip:{pod.address}", pod.identity],
        objects=[f"ip:{mirror}"],
    )


SCENARIO = Scenario(_play, ("AML.T0020", "T1029", "T1030", "T1048", "AML.T0025"), lead=6, slow=True, needs=frozenset({CONN}))
