"""Slurm, through slurmrestd: a job requeued and held, held, or cancelled; a node drained; a user's jobs limited.

Jobs are ``job:slurm/<cluster>/<number>`` as the source of job records spells them. Our mark is the job's administrator's comment, the
node's reason, the association's comment.

The stand-in answers a hold, a cancel, a drain, a limit and their errors as Slurm 26.05.5 did; the requeue, and reading a job, a node or
an association back, as the reference of v0.0.45 describes them.
"""

from __future__ import annotations

from typing import ClassVar

import msgspec

from connectors.containment import Rehearsal, Verb
from connectors.containment._doing import ByVerb
from connectors.containment._fake_slurm import FakeSlurm
from connectors.containment._http import Http
from connectors.containment._slurm_api import Slurm as Api
from connectors.containment._slurm_api import SlurmSettings
from connectors.containment._slurm_jobs import Cancel, Hold, RequeueHold
from connectors.containment._slurm_limits import DrainNode, LimitUser


class Slurm(ByVerb):
    """The adapter. See the module."""

    title: ClassVar[str] = "Slurm: jobs, nodes and users' limits"
    verbs: ClassVar[tuple[Verb, ...]] = (Hold.verb, RequeueHold.verb, Cancel.verb, DrainNode.verb, LimitUser.verb)
    Settings: ClassVar[type[msgspec.Struct]] = SlurmSettings

    def __init__(self, settings: SlurmSettings, http: Http | None = None) -> None:
        """``http``: what stands in for the connection where a cluster is rehearsed."""
        http = http or Http(settings)
        api = Api(http, settings)
        super().__init__(http, [Hold(api), RequeueHold(api), Cancel(api), DrainNode(api), LimitUser(api, settings.jobs)])

    @classmethod
    def rehearsal(cls) -> Rehearsal:
        """A cluster with a job that runs and one that waits, one node, and a user in two accounts."""
        fake = FakeSlurm()
        settings = SlurmSettings(url="http://127.0.0.1:0", username="tocsin", token=fake.token, cluster="aifac")
        targets = {
            "hold_job": ("job:slurm/aifac/12",),
            "requeue_hold": ("job:slurm/aifac/11",),
            "cancel_job": ("job:slurm/aifac/11", "job:slurm/aifac/12"),
            "drain_node": ("node:gpu-1",),
            "limit_user": ("user:alice",),
        }
        return Rehearsal(cls(settings, Http(settings, fake.transport())), targets, fake.state)


ADAPTER = Slurm

__all__ = ["ADAPTER", "Slurm", "SlurmSettings"]
