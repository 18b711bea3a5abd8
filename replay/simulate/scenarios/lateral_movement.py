"""A pod feels its way through its neighbours, and gets into one."""

from __future__ import annotations

import numpy as np

from connectors.event import HOUR, MINUTE, SECOND
from replay.simulate.audit import Asked, account
from replay.simulate.moves import ask, foothold, run_shell
from replay.simulate.rhythm import spread
from replay.simulate.scenarios import Scenario, Stage, Trail
from replay.simulate.wire import KUBELET, SMB, SSH, WINRM


def _play(stage: Stage) -> Trail:
    """A pod feels its way through its neighbours, and gets into one."""
    world, cluster, rng = stage.world, stage.cluster, stage.rng
    begin = stage.begin + 15 * HOUR + int(rng.integers(2 * HOUR))
    pod = foothold(stage, 2, 0, begin, begin + 2 * HOUR)
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
    if not victims:
        raise ValueError("no pod of another namespace to get into")
    victim = victims[int(rng.integers(len(victims)))]
    caller = account(pod.account, pod.address, pod.credential, (pod.name, pod.uid))
    now = ask(world, rng, now + MINUTE, caller, Asked("list", "pods", victim.namespace), 200)
    run_shell(world, rng, now, caller, (victim.namespace, victim.name), 4 * MINUTE)
    return Trail(
        summary=f"{pod.identity} tries four ports on {len(targets)} neighbours and runs a shell in {victim.identity}",
        actors=[pod.account.identity],
        via=[f"ip:{pod.address}", pod.identity, f"token:{pod.credential}"],
        objects=[*(f"ip:{target}" for target in targets), f"ns:{victim.namespace}", victim.identity],
    )


SCENARIO = Scenario(_play, ("T1046", "T1021", "T1021.004", "T1613", "T1609"))
