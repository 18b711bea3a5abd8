"""What attackers do, in the records it leaves: what several scenarios share."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from connectors.event import HOUR, MINUTE, SECOND
from connectors.names import stable_hash
from replay.simulate.audit import Asked, Caller, account, event
from replay.simulate.cluster import Pod
from replay.simulate.factory import Model, User, uuid
from replay.simulate.journal import KEYCLOAK as LOGINS
from replay.simulate.journal import KUBERNETES, SLURM
from replay.simulate.places import GB, MB
from replay.simulate.registry import pull
from replay.simulate.rhythm import spread
from replay.simulate.wire import API, HTTPS, Port, SlurmJob, keycloak_event, slurm_record
from replay.simulate.world import World

if TYPE_CHECKING:
    from replay.simulate.scenarios import Stage

#: Numbers of jobs that scenarios submit: far above those of everyday life, a hundred to a scenario.
_JOB_NUMBERS = 900_000
#: What is sent out leaves in parts of at most this size.
_PART = 8 * GB


def elsewhere(rng: np.random.Generator) -> str:
    """An address nobody in the factory ever had to do with (a documentation range, see ``factory``)."""
    return f"192.0.2.{int(rng.integers(1, 255))}"


def model_identity(world: World, model: Model) -> str:
    """A model as the registry source spells it."""
    return f"model:{world.hosts.registry_name}/{model.repository}"


def parties(world: World) -> list[int]:
    """The teams in the order in which fate befalls them; counted round when there are few."""
    order: list[int] = world.rng("parties").permutation(len(world.factory.teams)).tolist()
    return order


def foothold(stage: Stage, party: int, replica: int, begin: int, end: int) -> Pod:
    """A loader pod: stateful, so it lives on. Another team (``party``, counted round) or replica for each attack keeps them apart.

    Where that team has none, any team's. Raises ValueError where no pod lives so long.
    """
    order = parties(stage.world)
    for number in range(len(order)):
        pods = stage.cluster.alive(begin, end, "loader", order[(party + number) % len(order)])
        if pods:
            return pods[replica % len(pods)]
    raise ValueError("no pod lives long enough for it")


def caller_of(pod: Pod) -> Caller:
    """A pod's service account, asking from the pod with the pod's own token."""
    return account(pod.account, pod.address, pod.credential, (pod.name, pod.uid))


def ask(world: World, rng: np.random.Generator, time: int, caller: Caller, asked: Asked, code: int) -> int:
    """One request to the API server and its connection; returns when the next may follow."""
    world.write(KUBERNETES, time, event(rng, time, caller, asked, code))
    sizes = spread(rng, 2_500, 0.2, 1, 900, 9_000), spread(rng, 5_000, 0.6, 1, 900, 90_000)
    world.connect(rng, np.array([time - 30_000]), np.array([60_000]), caller.address, world.hosts.apiserver, API, *sizes)
    return time + int(rng.integers(3 * SECOND, 90 * SECOND))


def run_shell(world: World, rng: np.random.Generator, time: int, caller: Caller, pod: tuple[str, str], lasts: int) -> int:
    """An exec into a pod (namespace and name): the API server reports that it began, and that it ended. Returns when it ended."""
    asked, request = Asked("get", "pods", *pod, "exec"), uuid(rng)
    world.write(KUBERNETES, time, event(rng, time, caller, asked, 101, stage="ResponseStarted", id=request))
    world.write(KUBERNETES, time + lasts, event(rng, time + lasts, caller, asked, 101, id=request))
    return time + lasts


def touch(
    world: World, rng: np.random.Generator, time: int, place: str, target: str, port: Port, out: int, into: int, state: str
) -> None:
    """One short connection of about so many bytes."""
    sizes = spread(rng, out, 0.4, 1, out // 4, out * 5), spread(rng, into, 0.4, 1, into // 4, into * 5)
    world.connect(rng, np.array([time]), spread(rng, 300_000, 0.8, 1, 2_000, 9 * SECOND), place, target, port, *sizes, state)


def send_out(world: World, rng: np.random.Generator, time: int, place: str, outside: str, volume: int, rate: float) -> int:
    """``volume`` bytes to an address outside, ``rate`` bytes a second, in parts of some gigabytes. Returns when it is done."""
    parts = max(1, round(volume / _PART))
    size = np.full(parts, volume // parts)
    took = np.maximum((size / rate * SECOND).astype(np.int64), 1)
    starts = time + np.arange(parts) * took
    world.connect(rng, starts, took, place, outside, HTTPS, size, spread(rng, 90_000, 0.3, parts, 9_000, MB))
    return int(starts[-1] + took[-1])


def take(world: World, rng: np.random.Generator, time: int, who: tuple[str, str, str], models: list[Model], pause: int) -> int:
    """Whole pulls one after the other, up to ``pause`` apart. ``who``: name, address, user agent. Returns when the last is over."""
    for model in models:
        time = pull(world, rng, time, *who, model, weights=True) + int(rng.integers(pause // 4, pause))
    return time


def refused_login(world: World, rng: np.random.Generator, time: int, client: str, name: str, uid: str | None, place: str) -> None:
    """A wrong password."""
    why = "invalid_user_credentials" if uid is not None else "user_not_found"
    details = {"auth_method": "openid-connect", "username": name, "error": why}
    world.write(LOGINS, time, keycloak_event(time, uuid(rng), "LOGIN_ERROR", client, uid, place, None, **details))


def start_job(
    stage: Stage, user: User, number: int, start: int, gpus: int, lasts: int, node: tuple[str, str], state: str = "COMPLETED"
) -> SlurmJob:
    """A job that starts on one node (name, address) and runs for ``lasts``, written at both ends. ``number``: of this scenario's."""
    world = stage.world
    job = SlurmJob(
        number=_JOB_NUMBERS + stable_hash(world.label) % 900 * 100 + number,
        user=user.name,
        user_number=1000 + user.index,
        team=world.factory.teams[user.team],
        name=("train", "finetune", "eval", "sweep")[number % 4],
        nodes=node[0],
        node_count=1,
        gpus=gpus,
        submit=start - int(stage.rng.integers(5 * SECOND, 3 * MINUTE)),
        start=start,
        end=start + lasts,
        limit=24 * HOUR // SECOND,
        state=state,
    )
    world.write(SLURM, job.start, slurm_record(job, finished=False))
    world.write(SLURM, job.end, slurm_record(job, finished=True))
    world.jobs.append(job)
    return job


def at_work(stage: Stage, day: int, near: tuple[int, int] = (-600, 600)) -> list[tuple[User, tuple[int, int]]]:
    """Who is at work on a day, and when; of those whose clocks are within ``near`` minutes of UTC and who are no newcomers."""
    world = stage.world
    found = []
    for user in world.factory.users:
        shift = world.shift(user, day)
        if shift is not None and near[0] <= user.offset <= near[1] and not user.joins:
            found.append((user, shift))
    return found


def somebody(stage: Stage) -> User:
    """Any person that is no newcomer and no administrator; the first one where all are."""
    users = [user for user in stage.world.factory.users if not user.joins and not user.admin] or list(stage.world.factory.users)
    return users[int(stage.rng.integers(len(users)))]


def strange_models(stage: Stage, known: tuple[int, ...], many: int) -> list[Model]:
    """Up to ``many`` models that are not among the ``known``, in any order."""
    models = stage.world.factory.models
    fresh = [model for i, model in enumerate(models) if i not in known]
    return [fresh[i] for i in stage.rng.permutation(len(fresh))[:many].tolist()]


def nodes(stage: Stage, many: int) -> list[tuple[str, str]]:
    """(name, address) of up to ``many`` nodes."""
    factory = stage.world.factory
    return [(factory.nodes[i], factory.node_address(i)) for i in stage.rng.permutation(len(factory.nodes))[:many].tolist()]
