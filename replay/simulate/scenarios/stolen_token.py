"""The token of one team's serving account is stolen and used elsewhere: in another team's pod."""

from __future__ import annotations

from connectors.event import HOUR
from replay.simulate.audit import Asked, account
from replay.simulate.journal import CONN, KUBERNETES, REGISTRY
from replay.simulate.moves import ask, foothold, model_identity, parties
from replay.simulate.registry import pull
from replay.simulate.scenarios import Scenario, Stage, Trail


def _play(stage: Stage) -> Trail:
    """The token of one team's serving account turns up in another team's pod."""
    world, rng = stage.world, stage.rng
    team = parties(world)[0]
    begin = stage.begin + 10 * HOUR + int(rng.integers(2 * HOUR))
    owners = stage.cluster.alive(begin, begin, "serving", team)
    if not owners:
        raise ValueError("no pod of another account lives then")
    robbed = owners[int(rng.integers(len(owners)))]
    pod = foothold(stage, 1, 0, begin, begin + 2 * HOUR)
    caller = account(robbed.account, pod.address, robbed.credential, (robbed.name, robbed.uid))
    own = world.factory.team_models(team)[0]
    crown = max((model for i, model in enumerate(world.factory.models) if i != own), key=lambda model: model.size)
    now = ask(world, rng, begin, caller, Asked("list", "secrets", robbed.namespace), 200)
    now = ask(world, rng, now, caller, Asked("get", "secrets", robbed.namespace, "model-registry-cred"), 200)
    now = ask(world, rng, now, caller, Asked("get", "secrets", robbed.namespace, "storage-cred"), 200)
    objects = [f"secret:{robbed.namespace}/model-registry-cred", f"secret:{robbed.namespace}/storage-cred"]
    for other in [name for i, name in enumerate(world.factory.teams) if i != team] + ["kube-system", "ci", "backup"]:
        now = ask(world, rng, now, caller, Asked("get", "secrets", other, "model-registry-cred"), 403)
        objects.append(f"secret:{other}/model-registry-cred")
    pull(world, rng, now, caller.username, pod.address, "curl/8.16.0", crown, weights=True)
    return Trail(
        summary=f"a token of {robbed.account.identity} is used from {pod.identity}: secrets asked for, {crown.repository} pulled",
        actors=[robbed.account.identity, pod.account.identity],
        via=[f"ip:{pod.address}", pod.identity, f"token:{robbed.credential}", robbed.identity],
        objects=[model_identity(world, crown), *objects],
    )


SCENARIO = Scenario(
    _play,
    ("T1528", "T1550.001", "T1552.007", "AML.T0091.000", "AML.T0035"),
    needs=frozenset({CONN, KUBERNETES, REGISTRY}),
)
