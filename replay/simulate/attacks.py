"""The attacks, all on the last day. Each takes the factory as it finds it and only adds records: without it the rest is the same."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from connectors.event import HOUR, MINUTE, SECOND
from replay.simulate.audit import Asked, Caller, account, event
from replay.simulate.cluster import Cluster, Pod
from replay.simulate.factory import Model, User, uuid
from replay.simulate.journal import KUBERNETES
from replay.simulate.people import log_in
from replay.simulate.places import APISERVER, GB, MB
from replay.simulate.registry import pull
from replay.simulate.rhythm import spread
from replay.simulate.wire import API, HTTPS, KUBELET, SMB, SSH, WINRM
from replay.simulate.world import World

#: Models a thief takes at most.
_LOOT = 25


@dataclass
class Trail:
    """Who did it, through what, to what: identities as the sources spell them. ``summary``: one sentence."""

    summary: str
    actors: list[str]
    via: list[str]
    objects: list[str]


class Stage(NamedTuple):
    """What an attack finds, and randomness of its own."""

    world: World
    cluster: Cluster
    rng: np.random.Generator


@dataclass(frozen=True)
class Scenario:
    """An attack that can be asked for. ``techniques``: ATT&CK and ATLAS ids."""

    techniques: tuple[str, ...]
    play: Callable[[Stage], Trail]


def _elsewhere(rng: np.random.Generator) -> str:
    """An address nobody in the factory ever had to do with."""
    return f"192.0.2.{int(rng.integers(1, 255))}"


def model_identity(model: Model) -> str:
    """A model as the registry source spells it."""
    return f"model:registry.factory.example/{model.repository}"


def _parties(world: World) -> list[int]:
    """The teams in the order in which fate befalls them; counted round when there are few."""
    order: list[int] = world.rng("parties").permutation(len(world.factory.teams)).tolist()
    return order


def _foothold(cluster: Cluster, team: int, replica: int, begin: int, end: int) -> Pod:
    """A loader pod of a team: stateful, so it lives through the day. Another replica or team for each attack keeps them apart."""
    return cluster.alive(begin, end, "loader", team)[replica]


def _bulk_pull(stage: Stage) -> Trail:
    """At 02:40 of their own clock somebody's account takes everything it never needed, and sends it out."""
    world, _, rng = stage
    midnight = world.midnight(world.days - 1)
    # West of Greenwich 02:40 is in the middle of the UTC day; far east it would be the day before.
    near = [user for user in world.factory.users if 0 <= user.offset <= 2 * 60 and not user.joins]
    user: User = near[int(rng.integers(len(near)))]
    place, outside = user.workstations[0], _elsewhere(rng)
    begin = midnight + 2 * HOUR + 40 * MINUTE - user.offset * MINUTE + int(rng.integers(MINUTE))
    fresh = [model for i, model in enumerate(world.factory.models) if i not in user.models]
    loot = [fresh[i] for i in rng.permutation(len(fresh))[:_LOOT].tolist()]
    rate = sum(model.size for model in loot) / (float(rng.uniform(35, 55)) * 60)
    log_in(world, rng, user, place, begin - 2 * MINUTE, begin + 20 * MINUTE)
    now = begin
    for model in loot:
        now = pull(world, rng, now, user.name, place, "oras/1.2.0", model, weights=True, rate=rate)
        # What has come in leaves in parts of some gigabytes, half as fast again.
        parts = max(1, round(model.size / (8 * GB)))
        size = np.full(parts, model.size // parts)
        took = (size / (1.5 * rate) * SECOND).astype(np.int64)
        starts = now + SECOND + np.arange(parts) * took
        world.connect(rng, starts, took, place, outside, HTTPS, size, spread(rng, 90_000, 0.3, parts, 9_000, MB))
        now += int(rng.integers(SECOND, 15 * SECOND))
    return Trail(
        summary=f"{user.name} pulls {len(loot)} models never used before, at night and from home ground, and sends them to {outside}",
        actors=[f"user:{user.name}"],
        via=[f"ip:{place}"],
        objects=[*map(model_identity, loot), f"ip:{outside}"],
    )


def _ask(world: World, rng: np.random.Generator, time: int, caller: Caller, asked: Asked, code: int) -> int:
    """One request to the API server and its connection; returns when the next may follow."""
    world.write(KUBERNETES, time, event(rng, time, caller, asked, code))
    sizes = spread(rng, 2_500, 0.2, 1, 900, 9_000), spread(rng, 5_000, 0.6, 1, 900, 90_000)
    world.connect(rng, np.array([time - 30_000]), np.array([60_000]), caller.address, APISERVER, API, *sizes)
    return time + int(rng.integers(3 * SECOND, 90 * SECOND))


def _stolen_token(stage: Stage) -> Trail:
    """The token of one team's serving account turns up in another team's pod."""
    world, cluster, rng = stage
    parties = _parties(world)
    begin = world.midnight(world.days - 1) + 10 * HOUR + int(rng.integers(2 * HOUR))
    owners = cluster.alive(begin, begin, "serving", parties[0])
    robbed = owners[int(rng.integers(len(owners)))]
    pod = _foothold(cluster, parties[1], 0, begin, begin + 2 * HOUR)
    caller = account(robbed.account, pod.address, robbed.credential, (robbed.name, robbed.uid))
    own = world.factory.team_models(parties[0])[0]
    crown = max((model for i, model in enumerate(world.factory.models) if i != own), key=lambda model: model.size)
    now = _ask(world, rng, begin, caller, Asked("list", "secrets", robbed.namespace), 200)
    now = _ask(world, rng, now, caller, Asked("get", "secrets", robbed.namespace, "model-registry-cred"), 200)
    now = _ask(world, rng, now, caller, Asked("get", "secrets", robbed.namespace, "storage-cred"), 200)
    objects = [f"secret:{robbed.namespace}/model-registry-cred", f"secret:{robbed.namespace}/storage-cred"]
    for other in [team for i, team in enumerate(world.factory.teams) if i != parties[0]] + ["kube-system", "ci", "backup"]:
        now = _ask(world, rng, now, caller, Asked("get", "secrets", other, "model-registry-cred"), 403)
        objects.append(f"secret:{other}/model-registry-cred")
    pull(world, rng, now, caller.username, pod.address, "curl/8.16.0", crown, weights=True)
    return Trail(
        summary=f"a token of {robbed.account.identity} is used from {pod.identity}: secrets asked for, {crown.repository} pulled",
        actors=[robbed.account.identity, pod.account.identity],
        via=[f"ip:{pod.address}", pod.identity, f"token:{robbed.credential}", robbed.identity],
        objects=[model_identity(crown), *objects],
    )


def _lateral_movement(stage: Stage) -> Trail:
    """A pod feels its way through its neighbours, and gets into one."""
    world, cluster, rng = stage
    parties = _parties(world)
    begin = world.midnight(world.days - 1) + 15 * HOUR + int(rng.integers(2 * HOUR))
    pod = _foothold(cluster, parties[2 % len(parties)], 0, begin, begin + 2 * HOUR)
    pods = [p for _, p in cluster.working if p is not pod and p.born < begin and (p.dies is None or p.dies > begin + HOUR)]
    chosen = [pods[i].address for i in rng.permutation(len(pods))[:6].tolist()]
    nodes = rng.permutation(len(world.factory.nodes))[: 12 - len(chosen)].tolist()
    targets = [*map(world.factory.node_address, nodes), *chosen]
    now = begin
    for target in targets:
        for port in (SSH, WINRM, SMB, KUBELET):
            now += int(rng.integers(SECOND, 40 * SECOND))
            answers = port in (SSH, KUBELET) and target.startswith("10.16.")
            sizes = spread(rng, 1_800, 0.4, 1, 400, 9_000), spread(rng, 2_400, 0.4, 1, 400, 9_000)
            state = "SF" if answers else ("S0", "REJ")[int(rng.integers(2))]
            world.connect(
                rng, np.array([now]), spread(rng, 300_000, 0.8, 1, 2_000, 9 * SECOND), pod.address, target, port, *sizes, state
            )
    victims = [p for p in pods if p.namespace != pod.namespace and p.owner[0] == "StatefulSet"]
    victim = victims[int(rng.integers(len(victims)))]
    caller = account(pod.account, pod.address, pod.credential, (pod.name, pod.uid))
    now = _ask(world, rng, now + MINUTE, caller, Asked("list", "pods", victim.namespace), 200)
    asked, request = Asked("get", "pods", victim.namespace, victim.name, "exec"), uuid(rng)
    world.write(KUBERNETES, now, event(rng, now, caller, asked, 101, stage="ResponseStarted", id=request))
    now += 4 * MINUTE
    world.write(KUBERNETES, now, event(rng, now, caller, asked, 101, id=request))
    return Trail(
        summary=f"{pod.identity} tries four ports on {len(targets)} neighbours and runs a shell in {victim.identity}",
        actors=[pod.account.identity],
        via=[f"ip:{pod.address}", pod.identity, f"token:{pod.credential}"],
        objects=[*(f"ip:{target}" for target in targets), f"ns:{victim.namespace}", victim.identity],
    )


def _slow_drip(stage: Stage) -> Trail:
    """A pod sends a little every few minutes, for most of the day."""
    world, cluster, rng = stage
    parties = _parties(world)
    begin = world.midnight(world.days - 1) + 4 * HOUR + int(rng.integers(80 * MINUTE))
    end = begin + 18 * HOUR
    pod = _foothold(cluster, parties[3 % len(parties)], 1, begin, end)
    outside = _elsewhere(rng)
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


#: Every attack by name, in the order in which truth lists them.
SCENARIOS: dict[str, Scenario] = {
    "bulk-pull": Scenario(("T1078", "T1213", "T1048", "AML.T0012", "AML.T0035", "AML.T0025"), _bulk_pull),
    "stolen-token": Scenario(("T1528", "T1550.001", "T1552.007", "AML.T0091.000", "AML.T0035"), _stolen_token),
    "lateral-movement": Scenario(("T1046", "T1021", "T1021.004", "T1613", "T1609"), _lateral_movement),
    "slow-drip": Scenario(("T1048", "T1030", "T1020", "AML.T0025"), _slow_drip),
}
