"""Passwords from elsewhere are tried at the identity provider, name after name; one fits."""

from __future__ import annotations

from connectors.event import MINUTE, SECOND
from replay.simulate.journal import CONN, KEYCLOAK
from replay.simulate.moves import elsewhere, refused_login, touch
from replay.simulate.people import PORTAL, log_in
from replay.simulate.scenarios import Scenario, Stage, Trail
from replay.simulate.wire import HTTPS

#: Attempts, from so many addresses; most names are of people who never worked here.
_ATTEMPTS, _ADDRESSES, _OURS = 240, 4, 0.3


def _play(stage: Stage) -> Trail:
    """Half an hour or so, early in the evening."""
    world, rng = stage.world, stage.rng
    users = world.factory.users
    now, places = stage.clock(18), [elsewhere(rng) for _ in range(_ADDRESSES)]
    begin, fits = now, users[int(rng.integers(len(users)))]
    for number in range(_ATTEMPTS):
        place = places[number % _ADDRESSES]
        user = users[int(rng.integers(len(users)))]
        ours = rng.random() < _OURS
        name = user.name if ours else f"{user.name}.{rng.bytes(2).hex()}@mail.example"
        refused_login(world, rng, now, PORTAL, name, user.uid if ours else None, place)
        touch(world, rng, now - 90_000, place, world.hosts.keycloak, HTTPS, 2_000, 4_000, "SF")
        now += int(rng.integers(SECOND, 14 * SECOND))
    log_in(world, rng, fits, places[0], now, now + 20 * MINUTE)
    return Trail(
        summary=f"{_ATTEMPTS} passwords from {_ADDRESSES} addresses in {(now - begin) // MINUTE} minutes; one fits, {fits.name}'s",
        actors=[f"ip:{place}" for place in dict.fromkeys(places)] + [f"user:{fits.name}"],
        via=[],
        objects=[],
    )


SCENARIO = Scenario(_play, ("T1110.004", "T1078", "AML.T0012"), needs=frozenset({CONN, KEYCLOAK}))
