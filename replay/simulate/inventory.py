"""The inventory: what a containment target of this factory would hold."""

from __future__ import annotations

from typing import Literal

from replay.simulate.batch import Scheduler
from replay.simulate.cluster import Cluster
from replay.simulate.truth import AccountEntry, Inventory, JobEntry, PodEntry, UserEntry, moment
from replay.simulate.wire import CLUSTER, SlurmJob
from replay.simulate.world import World


def inventory_of(world: World, cluster: Cluster, scheduler: Scheduler) -> Inventory:
    """Users, accounts, pods and jobs as they are when the simulation ends, and the pods and jobs that were."""
    factory, end = world.factory, world.end
    names = [user.name for user in factory.users] + [bot.username for bot in factory.bots]
    held: dict[str, list[str]] = {}
    for pod in cluster.all:
        held.setdefault(pod.account.identity, []).append(pod.credential)
    return Inventory(
        users=[
            UserEntry(name=name, tokens=world.tokens.get(f"user:{name}", []), sessions=world.sessions.get(f"user:{name}", []))
            for name in names
        ],
        service_accounts=[
            AccountEntry(namespace=account.namespace, name=account.name, tokens=held.get(account.identity, []))
            for account in factory.accounts
        ],
        pods=[
            PodEntry(
                namespace=pod.namespace,
                name=pod.name,
                uid=pod.uid,
                ip=pod.address,
                service_account=pod.account.name,
                owner="/".join(pod.owner),
                node=factory.nodes[pod.node],
                user=pod.user,
                begins=moment(pod.born),
                ends=None if pod.dies is None or pod.dies >= end else moment(pod.dies),
            )
            for pod in cluster.all
        ],
        jobs=[
            JobEntry(id=f"slurm/{CLUSTER}/{job.number}", user=job.user, state=_state(job, end))
            for job in (*scheduler.jobs, *world.jobs)
        ],
    )


def _state(job: SlurmJob, end: int) -> Literal["PENDING", "RUNNING", "COMPLETED", "FAILED"]:
    if job.start >= end:
        return "PENDING"
    if job.end >= end:
        return "RUNNING"
    return "COMPLETED" if job.state == "COMPLETED" else "FAILED"
