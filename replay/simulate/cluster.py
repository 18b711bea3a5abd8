"""The cluster: pods come, get an address from a small pool, and go; the address passes on to the next pod."""

from __future__ import annotations

import heapq
from collections import Counter, deque
from dataclasses import dataclass

import numpy as np

from connectors.event import DAY, HOUR, MINUTE, SECOND
from replay.simulate.audit import Asked, Caller, controller, event, node, person, pod_object
from replay.simulate.factory import Account, Bot, Service, User, uuid
from replay.simulate.journal import KUBERNETES
from replay.simulate.places import address
from replay.simulate.rhythm import is_weekend
from replay.simulate.schedule import administrator, call, window, windows
from replay.simulate.wire import iso
from replay.simulate.world import World

#: How long an address rests before it is given to another pod.
_REST = 30 * SECOND
#: Chance that a service which is rolled out now and then gets a new version on a weekday.
_ROLLOUT = 0.3
#: Batch jobs a person at work starts in a day, and nightly ones a team has.
_JOBS, _NIGHTLY = 1.0, 4
_NOTEBOOK = 0.4
#: When the nightly jobs begin: long after the offices closed, and before the backup is done.
_NIGHT = 1 * HOUR


@dataclass(slots=True)
class Pod:
    """A pod's life, from when it runs. ``dies`` None: not decided yet. ``user``: the person behind it ("" = nobody)."""

    namespace: str
    name: str
    uid: str
    address: str
    account: Account
    owner: tuple[str, str]
    node: int
    born: int
    dies: int | None
    user: str
    credential: str

    @property
    def identity(self) -> str:
        """How we spell it."""
        return f"pod:{self.namespace}/{self.name}"

    def first(self, begin: int) -> int:
        """When it can begin work, from ``begin`` on: two seconds after its birth."""
        return max(begin, self.born + 2 * SECOND)

    def last(self, end: int, longest: int) -> int:
        """Until when it can begin work that takes ``longest`` at most, before ``end``, to be done a second before its death."""
        return end if self.dies is None else min(end, self.dies - longest - SECOND)


@dataclass(slots=True)
class _Birth:
    """A pod to come. ``slot``: the replica it takes over, if it is one of a service."""

    time: int
    dies: int | None
    account: Account
    owner: tuple[str, str]
    name: str
    user: str
    slot: tuple[int, int] | None = None


class Cluster:
    """Pods by day. ``replicas``: the pod of each (service, replica) now; ``today``: batch and notebook pods born today;
    ``working``: (service, pod) of every service pod that is alive at some time today; ``all``: every pod there ever was."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.replicas: dict[tuple[int, int], Pod] = {}
        self.today: list[Pod] = []
        self.working: list[tuple[Service, Pod]] = []
        self.all: list[Pod] = []
        self._free: deque[str] = deque()
        self._addresses = 0
        self._leaving: list[tuple[int, str]] = []

    def play(self, day: int) -> None:
        """Decide the day's births and deaths, hand out addresses, and write what the API server saw of it."""
        births = self._rollouts(day) if day else self._first()
        self.working = [(self.world.factory.services[service], pod) for (service, _), pod in self.replicas.items()]
        births += self._drained(day) + self._nightly(day) + self._again(day)
        for user in self.world.factory.users:
            shift = self.world.shift(user, day)
            if shift is not None:
                births += self._of_user(day, user, shift)
        births.sort(key=lambda birth: (birth.time, birth.name))
        rng = self.world.rng("pods", day)
        self.today = []
        for birth in births:
            pod = self._bear(rng, birth)
            if birth.slot is None:
                self.today.append(pod)
            else:
                self.replicas[birth.slot] = pod
                self.working.append((self.world.factory.services[birth.slot[0]], pod))

    def alive(self, begin: int, end: int, role: str, team: int) -> list[Pod]:
        """A team's service pods of a role that live through [begin, end]."""
        return [
            pod
            for service, pod in self.working
            if service.kind == role and service.team == team and pod.born <= begin and self._lives(pod, begin, end)
        ]

    def _lives(self, pod: Pod, begin: int, end: int) -> bool:
        """Whether a pod that is there at ``begin`` is still there at ``end``: maintenance to come is known."""
        return pod.dies >= end if pod.dies is not None else window(self.world, pod.node, begin, end) is None

    def outside(self, pod: Pod) -> str:
        """The mirror from which a team's loaders take most."""
        return self.world.factory.internet[mirror(self.world.factory.teams.index(pod.namespace), 0)]

    def _first(self) -> list[_Birth]:
        """The simulation begins with a restart of the cluster, so that every pod's birth is in the log."""
        births = []
        for number, service in enumerate(self.world.factory.services):
            version = self.world.rng("version", 0, number)
            owner = _owner(version, service)
            for replica in range(service.replicas):
                time = self.world.start + MINUTE + (number * 7 + replica * 3) * SECOND
                births.append(_Birth(time, None, service.account, owner, _suffix(version, owner[1]), "", (number, replica)))
        return births

    def _rollouts(self, day: int) -> list[_Birth]:
        world = self.world
        births: list[_Birth] = []
        if is_weekend(world.midnight(day)):
            return self._weekend(day)
        runners = [bot for bot in world.factory.bots if bot.kind == "ci"]
        turns = windows(world, day)
        for number, service in enumerate(world.factory.services):
            # What is moved by the drain of its node is not rolled out the same day.
            rng = world.rng("rollout", day, number)
            if not service.rolls or rng.random() >= _ROLLOUT or any(turns.get(pod.node) for pod in self._pods_of(number)):
                continue
            time = world.midnight(day) + int(rng.integers(8 * HOUR, 16 * HOUR))
            births += self._roll_out(rng, time, number, machine(runners[number % len(runners)]))
        return births

    def _weekend(self, day: int) -> list[_Birth]:
        """On Saturdays an administrator brings out one service by hand, when nobody is in the way: unusual, and no attack."""
        if is_weekend(self.world.midnight(day) - DAY):
            return []
        rng = self.world.rng("weekend-deploy", day)
        rolling = [number for number, service in enumerate(self.world.factory.services) if service.rolls]
        admins = [user for user in self.world.factory.users if user.admin]
        admin, number = admins[int(rng.integers(len(admins)))], rolling[int(rng.integers(len(rolling)))]
        time = self.world.midnight(day) + int(rng.integers(9 * HOUR, 20 * HOUR))
        return self._roll_out(rng, time, number, person(admin, self.world.factory.teams[admin.team], admin.vpn))

    def _roll_out(self, rng: np.random.Generator, time: int, number: int, by: Caller) -> list[_Birth]:
        """A new version of a service: ``by`` patches its deployment, each replica is replaced in turn."""
        service = self.world.factory.services[number]
        asked = Asked("patch", "deployments", service.account.namespace, service.account.name, group="apps")
        self.world.write(KUBERNETES, time, event(rng, time, by, asked))
        owner = _owner(rng, service)
        births = []
        for replica in range(service.replicas):
            begins = time + 5 * SECOND + replica * 25 * SECOND
            births.append(_Birth(begins, None, service.account, owner, _suffix(rng, owner[1]), "", (number, replica)))
            self._end(rng, self.replicas[number, replica], begins + 20 * SECOND)
        return births

    def _pods_of(self, number: int) -> list[Pod]:
        """The pods of a service, as they are."""
        return [pod for (service, _), pod in self.replicas.items() if service == number]

    def _drained(self, day: int) -> list[_Birth]:
        """Service pods on nodes that are drained are evicted one after the other, and begin anew elsewhere."""
        turns = windows(self.world, day) if day else {}
        if not turns:
            return []
        rng, admin = self.world.rng("drain", day), administrator(self.world, day)
        by, births, many = person(admin, self.world.factory.teams[admin.team], admin.vpn), [], Counter[int]()
        for slot, pod in self.replicas.items():
            turn = turns.get(pod.node)
            if turn is None:
                continue
            time = turn.begins + (3 + many[pod.node] % 20) * SECOND
            many[pod.node] += 1
            self.world.write(KUBERNETES, time, event(rng, time, by, Asked("create", "pods", pod.namespace, pod.name, "eviction"), 201))
            self._end(rng, pod, time + 20 * SECOND)
            births.append(_Birth(time + 25 * SECOND, None, pod.account, pod.owner, _suffix(rng, pod.owner[1]), "", slot))
        return births

    def _again(self, day: int) -> list[_Birth]:
        """A nightly job that failed is deleted and started again by who is on call."""
        found = call(self.world, day)
        if found is None or found.again is None:
            return []
        rng, user, time = self.world.rng("again", day), found.user, found.again
        team = self.world.factory.teams[user.team]
        owner = f"evaluate-again-{time // MINUTE}"
        by = person(user, team, user.vpn)
        asked = [(time, "create", owner, 201)]
        failed = self.world.midnight(day) + _NIGHT + user.team * 11 * MINUTE
        if failed < time - 20 * MINUTE:
            asked.insert(0, (time - 40 * SECOND, "delete", f"evaluate-0-{failed // MINUTE}", 200))
        for at, verb, name, code in asked:
            self.world.write(KUBERNETES, at, event(rng, at, by, Asked(verb, "jobs", team, name, group="batch"), code))
        dies = time + int(np.clip(rng.lognormal(np.log(25), 0.4), 8, 120) * MINUTE)
        account = self.world.factory.account(user.team, "evaluator")
        return [_Birth(time + 5 * SECOND, dies, account, ("Job", owner), _suffix(rng, owner), "")]

    def _nightly(self, day: int) -> list[_Birth]:
        births = []
        for team, name in enumerate(self.world.factory.teams):
            rng = self.world.rng("nightly", day, team)
            own = self.world.factory.account(team, "evaluator")
            for i in range(_NIGHTLY):
                time = self.world.midnight(day) + _NIGHT + team * 11 * MINUTE + i * 40 * MINUTE + int(rng.integers(20 * SECOND))
                # A cron job names its jobs by the minute they were due.
                owner = f"evaluate-{i}-{time // MINUTE}"
                dies = time + int(np.clip(rng.lognormal(np.log(25), 0.4), 8, 120) * MINUTE)
                births.append(_Birth(time, dies, own, ("Job", owner), _suffix(rng, owner), ""))
                asked = Asked("create", "jobs", name, owner, group="batch")
                self.world.write(
                    KUBERNETES, time - 5 * SECOND, event(rng, time - 5 * SECOND, controller("cronjob-controller"), asked, 201)
                )
        return births

    def _of_user(self, day: int, user: User, shift: tuple[int, int]) -> list[_Birth]:
        world, begin, end = self.world, *shift
        rng = world.rng("user-pods", day, user.index)
        team = world.factory.teams[user.team]
        tomorrow = world.midnight(day) + DAY
        births = []
        for _ in range(rng.poisson(_JOBS)):
            time = int(rng.integers(begin, end))
            if time >= tomorrow:
                # Addresses are handed out a day at a time.
                continue
            owner = f"finetune-{user.name}-{rng.bytes(3).hex()}"
            dies = time + int(np.clip(rng.lognormal(np.log(70), 0.9), 10, 20 * 60) * MINUTE)
            births.append(
                _Birth(time, dies, world.factory.account(user.team, "trainer"), ("Job", owner), _suffix(rng, owner), user.name)
            )
            asked = Asked("create", "jobs", team, owner, group="batch")
            who = person(user, team, user.workstations[0])
            world.write(KUBERNETES, time - 5 * SECOND, event(rng, time - 5 * SECOND, who, asked, 201))
        time = begin + int(rng.integers(5 * MINUTE, HOUR))
        if rng.random() < _NOTEBOOK and time < tomorrow:
            owner = f"notebook-{user.name}"
            dies = max(end + int(rng.integers(HOUR)), time + HOUR)
            births.append(
                _Birth(time, dies, world.factory.account(user.team, "notebook"), ("StatefulSet", owner), f"{owner}-0", user.name)
            )
        return births

    def _bear(self, rng: np.random.Generator, birth: _Birth) -> Pod:
        while self._leaving and self._leaving[0][0] + _REST <= birth.time:
            self._free.append(heapq.heappop(self._leaving)[1])
        if not self._free:
            self._free.append(address("10.42", self._addresses))
            self._addresses += 1
        pod = Pod(
            namespace=birth.account.namespace,
            name=birth.name,
            uid=uuid(rng),
            address=self._free.popleft(),
            account=birth.account,
            owner=birth.owner,
            node=self._node(int(rng.integers(len(self.world.factory.nodes))), birth),
            born=birth.time,
            dies=None,
            user=birth.user,
            credential=uuid(rng),
        )
        self.all.append(pod)
        self._tell(rng, pod, pod.born - 3 * SECOND, "create", controller(_CONTROLLERS[pod.owner[0]]), "Pending")
        self._tell(rng, pod, pod.born, "patch", self._kubelet(pod), "Running")
        if birth.dies is not None:
            self._end(rng, pod, birth.dies)
        return pod

    def _node(self, node: int, birth: _Birth) -> int:
        """The node of that number, or the next one that is not drained in a pod's life, as far as that is known."""
        many, until = len(self.world.factory.nodes), birth.time + 1 if birth.dies is None else birth.dies
        free = (each % many for each in range(node, node + many) if window(self.world, each % many, birth.time, until) is None)
        return next(free, node)

    def _end(self, rng: np.random.Generator, pod: Pod, time: int) -> None:
        """A job's pod succeeds at ``time`` and is cleared away later; any other is told to stop before, and has gone by then."""
        pod.dies = time
        heapq.heappush(self._leaving, (time, pod.address))
        if pod.owner[0] == "Job":
            self._tell(rng, pod, time, "patch", self._kubelet(pod), "Succeeded")
            cleared = time + int(rng.integers(MINUTE, 5 * MINUTE))
            self._tell(rng, pod, cleared, "delete", controller("ttl-after-finished-controller"), "Succeeded", grace=0)
        else:
            stopped = time - int(rng.integers(200_000, SECOND))
            self._tell(rng, pod, stopped, "delete", controller(_CONTROLLERS[pod.owner[0]]), "Running", grace=30)
            self._tell(rng, pod, time, "delete", self._kubelet(pod), "Running", grace=0)

    def _kubelet(self, pod: Pod) -> Caller:
        return node(self.world.factory.nodes[pod.node], self.world.factory.node_address(pod.node))

    def _tell(self, rng: np.random.Generator, pod: Pod, time: int, verb: str, by: Caller, phase: str, grace: int | None = None) -> None:
        """Write a request about a pod, with the pod as the API server answers: its address once it has run."""
        place = None
        if phase != "Pending":
            place = self.world.factory.nodes[pod.node], self.world.factory.node_address(pod.node), pod.address
        named = (pod.namespace, pod.name, pod.uid)
        answer = pod_object(named, pod.account.name, pod.owner, pod.born - 3 * SECOND, phase, place)
        if grace is not None:
            answer["metadata"] |= {"deletionTimestamp": f"{iso(time + grace * SECOND)[:19]}Z", "deletionGracePeriodSeconds": grace}
        asked = Asked(verb, "pods", pod.namespace, pod.name, "status" if verb == "patch" else "")
        self.world.write(KUBERNETES, time, event(rng, time, by, asked, 201 if verb == "create" else 200, answer))


_CONTROLLERS = {"ReplicaSet": "replicaset-controller", "StatefulSet": "statefulset-controller", "Job": "job-controller"}


def mirror(team: int, number: int) -> int:
    """Where in the Internet a team's mirrors are: it has three, the first used most; very large factories share them."""
    return (10 + 3 * team + number) % 480


def machine(bot: Bot) -> Caller:
    """A bot at the API server."""
    return Caller(bot.username, ("bots", "system:authenticated"), bot.address, "kustomize/5.8.0", {})


def _owner(rng: np.random.Generator, service: Service) -> tuple[str, str]:
    """What owns a service's pods: a replica set named after its version, or a stateful set."""
    if service.rolls:
        return "ReplicaSet", f"{service.account.name}-{rng.bytes(4).hex()}"
    return "StatefulSet", service.account.name


def _suffix(rng: np.random.Generator, owner: str) -> str:
    return f"{owner}-{rng.bytes(3).hex()[:5]}"
