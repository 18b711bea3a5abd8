"""People at work: they log in, browse, call, read and push code, look into the cluster, try models, and go home."""

from __future__ import annotations

import numpy as np

from connectors.event import MINUTE, SECOND
from replay.simulate.audit import Asked, event, person
from replay.simulate.cluster import Cluster, Pod
from replay.simulate.factory import User, uuid
from replay.simulate.journal import KEYCLOAK as LOGINS
from replay.simulate.journal import KUBERNETES
from replay.simulate.places import GIT, INGRESS, MAIL, MB, SLURM_LOGIN, WIKI
from replay.simulate.registry import pull
from replay.simulate.rhythm import office, spread
from replay.simulate.wire import API, CALLS, HTTPS, SMTPS, SSH, keycloak_event
from replay.simulate.world import World

#: The OIDC client behind which the factory's tools stand.
PORTAL = "factory-portal"
#: Access tokens live half an hour at most; tools refresh them when they are needed.
_REFRESH = 28 * MINUTE
#: What people use by the hour: target, service, requests an hour, usual bytes out and in, usual seconds.
_HABITS = (
    (GIT, HTTPS, 1.6, 9_000, 90_000, 0.8),
    (GIT, SSH, 0.7, 30_000, 400_000, 3.0),
    (WIKI, HTTPS, 1.5, 6_000, 200_000, 1.2),
    (INGRESS, HTTPS, 2.2, 12_000, 60_000, 4.0),
    (MAIL, SMTPS, 0.8, 60_000, 4_000, 0.7),
    (SLURM_LOGIN, SSH, 0.3, 90_000, 600_000, 900.0),
)
_WEB = 5.0
_KUBECTL = 1.3
_PULLS = 1.2
#: Chance that a pull is of the whole model, and not of its configuration alone.
_WHOLE = 0.35
_TYPO = 0.06


def play(world: World, cluster: Cluster, day: int) -> None:
    """A day of everybody who is at work."""
    pods = [[pod for pod in cluster.today if pod.namespace == team] for team in world.factory.teams]
    for user in world.factory.users:
        shift = world.shift(user, day)
        if shift is None:
            continue
        rng = world.rng("person", day, user.index)
        place = where(rng, user)
        log_in(world, rng, user, place, *shift)
        _browse(world, rng, user, place, *shift)
        _look_into_cluster(world, rng, user, place, *shift, pods[user.team])
        for time in office(rng, *shift, _PULLS / 9).tolist():
            model = world.factory.models[user.models[int(rng.integers(len(user.models)))]]
            pull(world, rng, time, user.name, place, "oras/1.2.0", model, weights=rng.random() < _WHOLE)


def where(rng: np.random.Generator, user: User) -> str:
    """The address somebody works from: mostly a workstation, one day in six over VPN."""
    return user.vpn if rng.random() < 1 / 6 else user.workstations[int(rng.integers(len(user.workstations)))]


def log_in(world: World, rng: np.random.Generator, user: User, place: str, begin: int, end: int) -> None:
    """A session at the identity provider: now and then a typo first, tokens, refreshes, sometimes a log-out."""
    owner, session, time = f"user:{user.name}", uuid(rng), begin
    world.sessions.setdefault(owner, []).append(session)

    def say(at: int, kind: str, **details: str) -> None:
        during = None if "error" in details else session
        world.write(LOGINS, at, keycloak_event(at, uuid(rng), kind, PORTAL, user.uid, place, during, **details))

    while rng.random() < _TYPO:
        say(time, "LOGIN_ERROR", auth_method="openid-connect", username=user.name, error="invalid_user_credentials")
        time += int(rng.integers(4, 20)) * SECOND
    # Only a login names the user; later events have the account's number.
    say(time, "LOGIN", auth_method="openid-connect", auth_type="code", code_id=session, username=user.name)
    time += int(rng.integers(200_000, 2 * SECOND))
    kind, given = "CODE_TO_TOKEN", "authorization_code"
    opened = np.zeros(0, np.int64)
    while time < end:
        token = uuid(rng)
        say(time, kind, token_id=token, grant_type=given, refresh_token_id=uuid(rng), scope="openid profile", code_id=session)
        world.tokens.setdefault(owner, []).append(token)
        opened = np.append(opened, time)
        kind, given = "REFRESH_TOKEN", "refresh_token"
        time += _REFRESH + int(rng.integers(0, 25 * MINUTE))
    if rng.random() < 0.6:
        say(end, "LOGOUT")
    n = len(opened)
    sizes = spread(rng, 3_000, 0.3, n, 900, 20_000), spread(rng, 9_000, 0.4, n, 2_000, 90_000)
    world.connect(rng, opened, spread(rng, 200_000, 0.5, n, 9_000, 3 * SECOND), place, world.hosts.keycloak, HTTPS, *sizes)


def _browse(world: World, rng: np.random.Generator, user: User, place: str, begin: int, end: int) -> None:
    for target, port, per_hour, out, into, lasts in _HABITS:
        times = office(rng, begin, end, per_hour * user.pace)
        n = len(times)
        sizes = spread(rng, out, 1.0, n, 200, 90 * MB), spread(rng, into, 1.2, n, 200, 900 * MB)
        world.connect(rng, times, spread(rng, lasts * SECOND, 1.0, n, 3_000, 6 * 3600 * SECOND), place, target, port, *sizes)
    times = office(rng, begin, end, _WEB * user.pace)
    n = len(times)
    # Favourites by Zipf's law, and one visit in twelve anywhere.
    favourite = np.minimum(rng.zipf(1.6, n) - 1, len(user.sites) - 1)
    anywhere = rng.integers(0, len(world.factory.internet), n)
    stray = rng.random(n) < 1 / 12
    sites = [
        world.factory.internet[a] if odd else user.sites[f]
        for f, a, odd in zip(favourite.tolist(), anywhere.tolist(), stray.tolist(), strict=True)
    ]
    sizes = spread(rng, 5_000, 1.0, n, 300, 40 * MB), spread(rng, 60_000, 1.6, n, 300, 2_000 * MB)
    state = np.where(rng.random(n) < 0.02, "RSTR", np.where(rng.random(n) < 0.01, "S0", "SF")).tolist()
    world.connect(rng, times, spread(rng, 6e6, 1.4, n, 20_000, 3600 * SECOND), place, sites, HTTPS, *sizes, state)
    named = times[rng.random(n) < 0.5]
    world.look_up(rng, np.maximum(named - 40_000, begin), place)
    calls = office(rng, begin, end, 0.12)
    n = len(calls)
    took = spread(rng, 35 * 60e6, 0.4, n, 60e6, 2 * 3600 * SECOND)
    volume = (took // SECOND) * 190_000
    world.connect(rng, calls, took, place, world.factory.internet[5], CALLS, volume, volume)


def _look_into_cluster(world: World, rng: np.random.Generator, user: User, place: str, begin: int, end: int, pods: list[Pod]) -> None:
    team = world.factory.teams[user.team]
    caller = person(user, team, place)
    times = office(rng, begin, end, _KUBECTL * user.pace)
    for time in times.tolist():
        living = [pod for pod in pods if pod.born < time and (pod.dies is None or time < pod.dies)]
        chance = rng.random()
        if chance < 0.5 or not living:
            asked = Asked("list", ("pods", "jobs")[int(chance < 0.1)], team, group="batch" if chance < 0.1 else "")
        elif chance < 0.86:
            asked = Asked("get", "pods", team, living[int(rng.integers(len(living)))].name, "log" if chance < 0.75 else "")
        elif chance < 0.97:
            asked = Asked("get", "configmaps", team, f"settings-{int(rng.integers(3))}")
        elif chance < 0.985:
            asked = Asked("get", "secrets", team, "model-registry-cred")
        else:
            run_inside(world, rng, time, caller.address, user, living[int(rng.integers(len(living)))])
            continue
        # One question in a hundred is about something that has gone.
        code = 404 if asked.name and rng.random() < 0.01 else 200
        world.write(KUBERNETES, time, event(rng, time, caller, asked, code))
    n = len(times)
    sizes = spread(rng, 4_000, 0.5, n, 900, 90_000), spread(rng, 40_000, 1.0, n, 1_000, 20 * MB)
    world.connect(
        rng,
        np.maximum(times - 60_000, begin),
        spread(rng, 300_000, 0.8, n, 70_000, 60 * SECOND),
        place,
        world.hosts.apiserver,
        API,
        *sizes,
    )


def run_inside(world: World, rng: np.random.Generator, time: int, place: str, user: User, pod: Pod) -> None:
    """A person's ``kubectl exec`` into a pod: the API server reports that it began, and that it ended."""
    caller, request = person(user, pod.namespace, place), uuid(rng)
    asked = Asked("get", "pods", pod.namespace, pod.name, "exec")
    ended = time + int(rng.integers(SECOND, 5 * MINUTE))
    world.write(KUBERNETES, time, event(rng, time, caller, asked, 101, stage="ResponseStarted", id=request))
    world.write(KUBERNETES, ended, event(rng, ended, caller, asked, 101, id=request))
