"""Batch work: Slurm jobs on the GPU nodes, and what job and notebook pods do while they live."""

from __future__ import annotations

import numpy as np

from connectors.event import DAY, HOUR, MINUTE, SECOND
from replay.simulate.cluster import Cluster, Pod
from replay.simulate.factory import User
from replay.simulate.journal import SLURM
from replay.simulate.places import MB, STORAGE
from replay.simulate.registry import pull, push
from replay.simulate.rhythm import office, poisson, spread
from replay.simulate.schedule import window
from replay.simulate.wire import NFS, OBJECTS, Port, SlurmJob, slurm_record
from replay.simulate.world import World

#: Jobs a person at work submits in a day; some are held for the night.
_SUBMITTED = 1.6
_AT_NIGHT = 0.25
#: GPUs are handed out in halves of a node.
_SLOT_GPUS = 4
_LONGEST = 20 * HOUR
#: Chance that a job finds its model on the node, and that it leaves a new one in the registry.
_CACHED, _KEPT = 0.5, 0.2
#: Work that would be stopped within this is not begun, and what was stopped waits this long before it begins anew.
_TOO_SHORT, _REQUEUE = 10 * MINUTE, 2 * MINUTE
_COLLECTIVE = Port("tcp", 29_500, "")


class Scheduler:
    """Slurm: gives jobs their nodes, in order of submission. ``jobs``: every job there ever was."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.jobs: list[SlurmJob] = []
        self._free_from = np.zeros(2 * len(world.factory.nodes), np.int64)

    def play(self, day: int) -> None:
        """A day's submissions, and all that becomes of them."""
        wishes = []
        for user in self.world.factory.users:
            shift = self.world.shift(user, day)
            if shift is not None:
                rng = self.world.rng("submit", day, user.index)
                wishes += [(time, user) for time in office(rng, *shift, _SUBMITTED / 9).tolist()]
        wishes.sort(key=lambda wish: (wish[0], wish[1].index))
        for submit, user in wishes:
            number = 8_000 + len(self.jobs)
            rng = self.world.rng("job", number)
            for placed in self._placed(rng, number, user, submit):
                self._run(rng, placed)

    def _placed(self, rng: np.random.Generator, number: int, user: User, submit: int) -> list[tuple[SlurmJob, list[int], User]]:
        """A job with its nodes: one run, and one more for each time that maintenance stops it."""
        gpus = int(rng.choice([1, 2, 4, 8, 16], p=[0.3, 0.2, 0.25, 0.2, 0.05]))
        ready = submit + int(rng.exponential(3 * MINUTE)) + SECOND
        if rng.random() < _AT_NIGHT:
            midnight = self.world.midnight((submit - self.world.start) // DAY + 1)
            ready = max(ready, midnight - int(rng.integers(3 * HOUR)))
        lasts = int(np.clip(rng.lognormal(np.log(80), 1.0), 3, _LONGEST / MINUTE) * MINUTE)
        job = SlurmJob(
            number=number,
            user=user.name,
            user_number=1000 + user.index,
            team=self.world.factory.teams[user.team],
            name=("train", "finetune", "eval", "sweep")[int(rng.integers(4))],
            nodes="",
            node_count=0,
            gpus=gpus,
            submit=submit,
            start=0,
            end=0,
            limit=int(_LONGEST // SECOND),
            state=str(rng.choice(["COMPLETED", "FAILED", "TIMEOUT"], p=[0.88, 0.1, 0.02])),
        )
        runs: list[tuple[SlurmJob, list[int], User]] = []
        while True:
            slots = np.argsort(self._free_from, kind="stable")[: min(-(-gpus // _SLOT_GPUS), len(self._free_from))]
            nodes = sorted({int(slot) // 2 for slot in slots})
            start = max(ready, int(self._free_from[slots].max()) + 10 * SECOND)
            near = [turn.ends for node in nodes if (turn := window(self.world, node, start, start + _TOO_SHORT)) is not None]
            start = max([start, *(back + 10 * SECOND for back in near)])
            stops = [turn.begins for node in nodes if (turn := window(self.world, node, start, start + lasts)) is not None]
            end = min([start + lasts, *stops])
            self._free_from[slots] = end
            state = "REQUEUED" if stops else job.state
            hosts = _hostlist([self.world.factory.nodes[node] for node in nodes])
            runs.append((job._replace(nodes=hosts, node_count=len(nodes), start=start, end=end, state=state), nodes, user))
            if not stops:
                break
            ready = end + _REQUEUE
        self.jobs.append(runs[-1][0])
        return runs

    def _run(self, rng: np.random.Generator, placed: tuple[SlurmJob, list[int], User]) -> None:
        world, (job, nodes, user) = self.world, placed
        world.write(SLURM, job.start, slurm_record(job, finished=False))
        world.write(SLURM, job.end, slurm_record(job, finished=True))
        places = [world.factory.node_address(node) for node in nodes]
        model = world.factory.models[user.models[int(rng.integers(len(user.models)))]]
        life = job.end - job.start
        weights = rng.random() >= _CACHED
        pull(world, rng, job.start + 5 * SECOND, user.name, places[0], "oras/1.2.0", model, weights=weights, within=life // 3)
        if job.state == "COMPLETED" and rng.random() < _KEPT:
            push(world, rng, job.end - life // 4, user.name, places[0], "oras/1.2.0", model, within=life // 5)
        store = STORAGE[user.team % len(STORAGE)]
        for place in places:
            # The mounted data set: one connection as long as the job.
            volume = spread(rng, 40_000 * MB, 1.0, 1, 100 * MB, 900_000 * MB)
            world.connect(rng, np.array([job.start + SECOND]), np.array([life - 2 * SECOND]), place, store, NFS, volume // 30, volume)
            world.look_up(rng, poisson(rng, job.start, job.end - SECOND, 5), place)
        for place in places[1:]:
            volume = spread(rng, 200_000 * MB, 0.8, 1, 1_000 * MB, 2_000_000 * MB)
            begin = np.array([job.start + 20 * SECOND])
            world.connect(rng, begin, np.array([life - 30 * SECOND]), place, places[0], _COLLECTIVE, volume, volume)


def play_pods(world: World, cluster: Cluster, day: int) -> None:
    """The whole lives of the job and notebook pods born today."""
    users = {user.name: user for user in world.factory.users}
    for pod in cluster.today:
        rng = world.rng("batch-pod", day, int(pod.uid[:8], 16))
        team = world.factory.teams.index(pod.namespace)
        _live(world, rng, pod, team)
        if pod.account.name == "notebook":
            _notebook(world, rng, pod, users[pod.user])
        else:
            _job(world, rng, pod, users.get(pod.user), world.factory.team_models(team))


def _live(world: World, rng: np.random.Generator, pod: Pod, team: int) -> None:
    """What both kinds do: ask for names, and read from the team's storage."""
    begin, dies = pod.first(0), pod.dies or pod.born
    world.look_up(rng, poisson(rng, begin, pod.last(dies, SECOND), 9), pod.address)
    times = poisson(rng, begin + 2 * SECOND, pod.last(dies, 120 * SECOND), 9)
    n = len(times)
    sizes = spread(rng, 40_000, 1.0, n, 900, 200 * MB), spread(rng, 50 * MB, 1.2, n, 50_000, 3_000 * MB)
    took = spread(rng, 4e6, 1.0, n, 50_000, 110 * SECOND)
    world.connect(rng, times, took, pod.address, STORAGE[team % len(STORAGE)], OBJECTS, *sizes)


def _job(world: World, rng: np.random.Generator, pod: Pod, user: User | None, team_models: list[int]) -> None:
    """A batch job pulls one model under its own account; a trainer sometimes leaves a new one."""
    dies = pod.dies or pod.born
    life = dies - pod.born
    chosen = user.models if user is not None else team_models[:4]
    model = world.factory.models[chosen[int(rng.integers(len(chosen)))]]
    agent = "python-oras/0.2.0"
    actor = pod.account.username
    pull(world, rng, pod.born + 6 * SECOND, actor, pod.address, agent, model, weights=rng.random() >= _CACHED, within=life // 3)
    if pod.account.name == "trainer" and rng.random() < _KEPT:
        push(world, rng, dies - life // 4, actor, pod.address, agent, model, within=life // 5)


def _notebook(world: World, rng: np.random.Generator, pod: Pod, user: User) -> None:
    """Somebody tries a model from a notebook, with a token of their own."""
    dies = pod.dies or pod.born
    for time in poisson(rng, pod.first(0), pod.last(dies, 20 * MINUTE), 0.15).tolist():
        model = world.factory.models[user.models[int(rng.integers(len(user.models)))]]
        pull(world, rng, time, user.name, pod.address, "python-oras/0.2.0", model, weights=rng.random() < 0.3, within=15 * MINUTE)


def _hostlist(names: list[str]) -> str:
    """Slurm's expression for nodes that differ in their number."""
    if len(names) == 1:
        return names[0]
    stem = names[0].rpartition("-")[0]
    return f"{stem}-[{','.join(name.rpartition('-')[2] for name in names)}]"
