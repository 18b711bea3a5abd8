"""A pod is made from an image nobody ever ran, under a team's account, and a shell is run in it."""

from __future__ import annotations

from connectors.event import MINUTE, SECOND
from replay.simulate.audit import Asked, Caller, event, node, person, pod_object
from replay.simulate.factory import Account, uuid
from replay.simulate.journal import CONN, KUBERNETES
from replay.simulate.moves import ask, at_work, elsewhere, nodes, run_shell, somebody, touch
from replay.simulate.places import address
from replay.simulate.scenarios import Scenario, Stage, Trail
from replay.simulate.wire import HTTPS

_IMAGE = "docker.io/nicetools/netshoot-plus"
#: Addresses of pods that scenarios make: the end of the pods' range, which everyday life never reaches.
_ADDRESSES = 60_000


def _play(stage: Stage) -> Trail:
    """By a person's account: the pod is asked for, runs, gets a shell, and fetches something from outside."""
    world, rng = stage.world, stage.rng
    there = at_work(stage, stage.day)
    user, (begin, end) = there[int(rng.integers(len(there)))] if there else (somebody(stage), (stage.clock(10), stage.clock(15)))
    team = world.factory.teams[user.team]
    who, outside = person(user, team, user.workstations[0]), elsewhere(rng)
    (name, host), *_ = nodes(stage, 1)
    place = address("10.42", _ADDRESSES + int(rng.integers(4_000)))
    own = Account(team, "trainer")
    pod_name, uid = f"debug-{rng.bytes(2).hex()}", uuid(rng)
    now = begin + (end - begin) // 2

    def tell(time: int, verb: str, by: Caller, phase: str, sub: str, code: int) -> None:
        at = None if phase == "Pending" else (name, host, place)
        answer = pod_object((team, pod_name, uid), own.name, ("", ""), now, phase, at, _IMAGE + ":latest")
        world.write(KUBERNETES, time, event(rng, time, by, Asked(verb, "pods", team, pod_name, sub), code, answer))

    tell(now, "create", who, "Pending", "", 201)
    tell(now + 9 * SECOND, "patch", node(name, host), "Running", "status", 200)
    then = ask(world, rng, now + 40 * SECOND, who, Asked("get", "pods", team, pod_name), 200)
    pod = team, pod_name
    then = run_shell(world, rng, then, who, pod, 3 * MINUTE)
    for _ in range(6):
        touch(world, rng, then, place, outside, HTTPS, 3_000, 4_000_000, "SF")
        then += int(rng.integers(5 * SECOND, 40 * SECOND))
    run_shell(world, rng, then + 30 * SECOND, who, pod, 8 * MINUTE)
    return Trail(
        summary=f"{user.name} starts pod:{team}/{pod_name} from {_IMAGE}, runs a shell in it and fetches from {outside}",
        actors=[f"user:{user.name}", own.identity],
        via=[f"ip:{place}", f"pod:{team}/{pod_name}", f"ip:{user.workstations[0]}"],
        objects=[f"resource:image/{_IMAGE}", f"ip:{outside}"],
    )


SCENARIO = Scenario(_play, ("T1610", "T1204.003", "T1609", "T1105"), needs=frozenset({CONN, KUBERNETES}))
