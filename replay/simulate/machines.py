"""What runs all the time: scrapes, heartbeats, clocks, names, storage, requests to models, telemetry; nodes and service pods."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from connectors.event import DAY, HOUR, MINUTE, SECOND
from replay.simulate.audit import Asked, account, event
from replay.simulate.cluster import Cluster, Pod, mirror
from replay.simulate.factory import Service, uuid
from replay.simulate.journal import ATTESTATION, KUBERNETES
from replay.simulate.places import APISERVER, INGRESS, MB, NTP, OFFSITE, QUEUE, STORAGE
from replay.simulate.registry import pull
from replay.simulate.rhythm import beat, demand, poisson, spread
from replay.simulate.schedule import Window, windows
from replay.simulate.wire import AMQPS, API, CLOCK, EXPORTER, HTTPS, INFERENCE, OBJECTS, attestation_record
from replay.simulate.world import World

#: Share of the nodes that are scraped over the network the sensor sees.
_SCRAPED = 0.5
#: How far a node's or pod's periodic work is from its beat.
_JITTER = 2 * SECOND
#: How often a node attests, and the share of attempts that a healthy node fails: a service that is down gives no claims at all.
_ATTESTS, _UNSURE = 4 * HOUR, 0.001


class _Duty(NamedTuple):
    """A service pod's day: what it works from ``begin`` to ``end``, or to its death."""

    world: World
    rng: np.random.Generator
    service: Service
    pod: Pod
    begin: int
    end: int


def play(world: World, cluster: Cluster, day: int) -> None:
    """A day of everything that runs by itself."""
    begin, end = world.midnight(day), world.midnight(day) + DAY
    for node in range(len(world.factory.nodes)):
        _node(world, node, day, begin, end)
        _attest(world, node, day, begin, end)
    for service, pod in cluster.working:
        rng = world.rng("service-pod", day, int(pod.uid[:8], 16))
        duty = _Duty(world, rng, service, pod, pod.first(begin), end)
        _common(duty)
        _OWN[service.kind](duty)


def _node(world: World, node: int, day: int, begin: int, end: int) -> None:
    rng = world.rng("node", day, node)
    place = world.factory.node_address(node)
    turn = windows(world, day).get(node)
    times = _up(beat(rng, begin, end, 1024 * SECOND, _JITTER), turn)
    n = len(times)
    world.connect(rng, times, spread(rng, 900, 0.5, n, 100, 90_000), place, NTP, CLOCK, np.full(n, 48), np.full(n, 48))
    times = _up(beat(rng, begin, end, 10 * MINUTE, 5 * SECOND), turn)
    n = len(times)
    sizes = spread(rng, 6_000, 0.4, n, 800, 90_000), spread(rng, 9_000, 0.5, n, 900, 200_000)
    world.connect(rng, times, spread(rng, 400_000, 0.6, n, 5_000, 9 * SECOND), place, APISERVER, API, *sizes)


def _up(times: np.ndarray, turn: Window | None) -> np.ndarray:
    """Those of the times at which a node is not rebooting."""
    return times if turn is None else times[(times < turn.down - 10 * SECOND) | (times >= turn.up)]


def _attest(world: World, node: int, day: int, begin: int, end: int) -> None:
    """A node attests when it comes up and every few hours; one attempt in some hundred fails and is repeated."""
    rng = world.rng("attest", day, node)
    name = world.factory.nodes[node]
    times = _up(beat(rng, begin, end, _ATTESTS, MINUTE), windows(world, day).get(node)).tolist()
    for time in ([begin + 20 * SECOND + node * SECOND] if day == 0 else []) + times:
        if rng.random() < _UNSURE:
            world.write(ATTESTATION, time, attestation_record(time, name, False, uuid(rng), 8))
            time += 90 * SECOND
        world.write(ATTESTATION, time, attestation_record(time, name, True, uuid(rng), 8))


def _common(duty: _Duty) -> None:
    """What every service pod does: ask for names, beat its heart, renew its lease."""
    world, rng, _, pod, begin, end = duty
    world.look_up(rng, poisson(rng, begin, pod.last(end, SECOND), 10), pod.address)
    times = beat(rng, begin, pod.last(end, SECOND), 5 * MINUTE, _JITTER)
    n = len(times)
    sizes = spread(rng, 700, 0.2, n, 300, 4_000), spread(rng, 400, 0.2, n, 200, 2_000)
    world.connect(rng, times, spread(rng, 60_000, 0.5, n, 2_000, SECOND), pod.address, QUEUE, AMQPS, *sizes)
    caller = account(pod.account, pod.address, pod.credential, (pod.name, pod.uid))
    lease = Asked("update", "leases", pod.namespace, pod.account.name, group="coordination.k8s.io")
    for time in beat(rng, begin, pod.last(end, 0), 10 * MINUTE, _JITTER).tolist():
        world.write(KUBERNETES, time, event(rng, time, caller, lease))


def _serving(duty: _Duty) -> None:
    """A model behind the gateway: fetched at the start; it reports usage to a vendor."""
    world, rng, service, pod, begin, end = duty
    if pod.born >= begin - 2 * SECOND:
        model = world.factory.models[world.factory.team_models(service.team)[0]]
        pull(world, rng, begin + 4 * SECOND, pod.account.username, pod.address, "python-oras/0.2.0", model, weights=True)
    times = demand(rng, begin, pod.last(end, 30 * SECOND), 28)
    n = len(times)
    sizes = spread(rng, 3_000, 1.0, n, 200, 2 * MB), spread(rng, 9_000, 1.1, n, 200, 8 * MB)
    world.connect(rng, times, spread(rng, 2.5e6, 0.8, n, 30_000, 30 * SECOND), INGRESS, pod.address, INFERENCE, *sizes)
    times = demand(rng, begin, pod.last(end, 4 * SECOND), 8)
    n = len(times)
    vendor = world.factory.internet[service.team % 3]
    sizes = spread(rng, 9_000, 0.6, n, 900, MB), spread(rng, 1_500, 0.4, n, 500, 40_000)
    world.connect(rng, times, spread(rng, 300_000, 0.5, n, 20_000, 4 * SECOND), pod.address, vendor, HTTPS, *sizes)


def _loader(duty: _Duty) -> None:
    """Brings data sets in from mirrors, and serves them from storage."""
    world, rng, service, pod, begin, end = duty
    times = demand(rng, begin, pod.last(end, 180 * SECOND), 26)
    n = len(times)
    store = STORAGE[service.team % len(STORAGE)]
    sizes = spread(rng, 60_000, 1.0, n, 900, 400 * MB), spread(rng, 60 * MB, 1.2, n, 50_000, 4_000 * MB)
    world.connect(rng, times, spread(rng, 5e6, 1.0, n, 50_000, 180 * SECOND), pod.address, store, OBJECTS, *sizes)
    times = poisson(rng, begin, pod.last(end, 380 * SECOND), 2)
    n = len(times)
    mirrors = [world.factory.internet[mirror(service.team, int(k))] for k in np.minimum(rng.geometric(0.6, n), 3)]
    sizes = spread(rng, 40_000, 0.8, n, 900, 3 * MB), spread(rng, 200 * MB, 1.2, n, 90_000, 9_000 * MB)
    world.connect(rng, times, spread(rng, 20e6, 0.9, n, 200_000, 380 * SECOND), pod.address, mirrors, HTTPS, *sizes)


def _prometheus(duty: _Duty) -> None:
    """Scrapes half the nodes once a minute."""
    world, rng, _, pod, begin, end = duty
    turns = windows(world, (begin - world.start) // DAY)
    for node in range(max(2, round(len(world.factory.nodes) * _SCRAPED))):
        times = beat(rng, begin, pod.last(end, 2 * SECOND), MINUTE, SECOND // 5)
        n = len(times)
        sizes = spread(rng, 310, 0.02, n, 290, 330), spread(rng, 90_000, 0.03, n, 60_000, 140_000)
        target, turn = world.factory.node_address(node), turns.get(node)
        # A node that reboots does not answer.
        state = ["SF"] * n if turn is None else ["S0" if turn.down <= time < turn.up else "SF" for time in times.tolist()]
        world.connect(rng, times, spread(rng, 25_000, 0.4, n, 4_000, 2 * SECOND), pod.address, target, EXPORTER, *sizes, state)


def _gateway(duty: _Duty) -> None:
    """Keeps a watch on the API server: long connections, renewed every hour or so."""
    world, rng, _, pod, begin, end = duty
    times = beat(rng, begin, pod.last(end, 60 * MINUTE), HOUR, 30 * SECOND)
    n = len(times)
    sizes = spread(rng, 20_000, 0.3, n, 2_000, 200_000), spread(rng, 700_000, 0.5, n, 20_000, 9 * MB)
    world.connect(rng, times, spread(rng, 3.3e9, 0.1, n, 60e6, 60 * MINUTE), pod.address, APISERVER, API, *sizes)


def _backup(duty: _Duty) -> None:
    """Every night a few very large flows from storage, and out to another site: egress that is as it should be."""
    world, rng, _, pod, begin, end = duty
    first = begin - begin % DAY + 2 * HOUR + int(rng.integers(10 * MINUTE))
    times = np.array([t for t in first + np.arange(4) * 14 * MINUTE if begin <= t < pod.last(end, 15 * MINUTE)], np.int64)
    n = len(times)
    volume = spread(rng, 12_000 * MB, 0.25, n, 3_000 * MB, 40_000 * MB)
    small = np.full(n, 90_000)
    took = spread(rng, 6e8, 0.2, n, 60e6, 14 * MINUTE)
    world.connect(rng, times, took, pod.address, STORAGE[0], OBJECTS, small, volume)
    world.connect(rng, times + 20 * SECOND, took, pod.address, OFFSITE, HTTPS, volume, small)


def _janitor(duty: _Duty) -> None:
    """Lists workloads twice an hour to know which images are in use."""
    world, rng, _, pod, begin, end = duty
    caller = account(pod.account, pod.address, pod.credential, (pod.name, pod.uid))
    for time in beat(rng, begin, pod.last(end, MINUTE), 30 * MINUTE, _JITTER).tolist():
        for i, team in enumerate(world.factory.teams):
            at = time + i * 90_000
            world.write(KUBERNETES, at, event(rng, at, caller, Asked("list", "pods", team)))


_OWN = {
    "serving": _serving,
    "loader": _loader,
    "prometheus": _prometheus,
    "gateway": _gateway,
    "backup": _backup,
    "janitor": _janitor,
}
