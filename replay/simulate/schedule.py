"""What is planned ahead: the weekly maintenance window and the on-call nights. Plans only; ``nights``, cluster and batch play them.

On Thursday mornings a quarter of the nodes are drained, rebooted and given back, some at a time; each has its turn every fourth week.
Who knows in advance plans around it: batch pods are put on nodes that stay. One engineer a week is on call. Times are microseconds UTC.
"""

from __future__ import annotations

from typing import NamedTuple

from connectors.event import DAY, HOUR, MINUTE
from replay.simulate.factory import User
from replay.simulate.world import World

#: Day of the week (Monday is 0), and when it begins.
_WEEKDAY, _BEGINS = 3, 4 * HOUR
#: Weeks until a node has its turn again; how many groups the nodes of a week are drained in, and how far apart.
_TURNS, _GROUPS, _APART = 4, 4, 20 * MINUTE
#: From the drain until the node is down, until it is up, and until work may come back.
_DOWN, _UP, _BACK = 3 * MINUTE, 12 * MINUTE, 16 * MINUTE
#: Share of the nights on which somebody is called, and of these calls that end with a job started again.
_CALLED, _AGAIN = 0.4, 0.5


class Window(NamedTuple):
    """When a node takes no work: drained at ``begins``, silent from ``down`` to ``up``, back at ``ends``."""

    begins: int
    down: int
    up: int
    ends: int


class Call(NamedTuple):
    """Who is called out of bed, from when to when; ``again``: when a job is started again, None if none is."""

    user: User
    begins: int
    ends: int
    again: int | None


def _week(world: World, day: int) -> int:
    return (world.midnight(day) // DAY + 3) // 7


def windows(world: World, day: int) -> dict[int, Window]:
    """Node -> its window on a day; empty on most days."""
    if (world.midnight(day) // DAY + 3) % 7 != _WEEKDAY:
        return {}
    nodes = [node for node in range(len(world.factory.nodes)) if (node + _week(world, day)) % _TURNS == 0]
    found = {}
    for place, node in enumerate(nodes):
        begins = world.midnight(day) + _BEGINS + place % _GROUPS * _APART
        found[node] = Window(begins, begins + _DOWN, begins + _UP, begins + _BACK)
    return found


def window(world: World, node: int, begin: int, end: int) -> Window | None:
    """The first window of a node that [begin, end) touches."""
    for day in range((begin - world.start) // DAY, (end - world.start) // DAY + 1):
        found = windows(world, day).get(node)
        if found is not None and found.begins < end and begin < found.ends:
            return found
    return None


def administrator(world: World, day: int) -> User:
    """Who does this week's maintenance."""
    admins = [user for user in world.factory.users if user.admin]
    return admins[_week(world, day) % len(admins)]


def call(world: World, day: int) -> Call | None:
    """The call of a night, if there is one: between half past twelve and half past four of the engineer's own clock."""
    engineers = [user for user in world.factory.users if not user.joins]
    user = engineers[_week(world, day) * 7 % len(engineers)]
    rng = world.rng("on-call", day)
    called, again, minute, lasts = rng.random() < _CALLED, rng.random() < _AGAIN, int(rng.integers(30, 270)), int(rng.integers(25, 75))
    begins = world.midnight(day) + (minute - user.offset) % (24 * 60) * MINUTE
    if not called:
        return None
    restart = begins + lasts * MINUTE // 2
    # Addresses are handed out a day at a time.
    return Call(user, begins, begins + lasts * MINUTE, restart if again and restart < world.midnight(day + 1) - MINUTE else None)
