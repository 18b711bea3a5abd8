"""What can be done to one job: suspend it itself, or, where Kueue owns that switch, its workload."""

from __future__ import annotations

from typing import Any

from connectors.containment import Action, Verb, Verified
from connectors.containment._doing import gone
from connectors.containment._http import CallFailed
from connectors.containment._kube_api import STOPPED_BY, Api, Job, Workload, place_of
from connectors.containment._kube_change import Change

#: How soon pods that must end are looked for again, in seconds: their grace is 30 by default.
LOOK_AGAIN = 5.0
#: Label of a job that Kueue manages.
QUEUE = "kueue.x-k8s.io/queue-name"
#: How a Kubernetes job is spelled, among jobs of other schedulers.
PREFIX = "k8s/"


def find_job(api: Api, target: str) -> Job | None:
    """The job of that name."""
    namespace, name = place_of(target, PREFIX)
    return api.find(f"/apis/batch/v1/namespaces/{namespace}/jobs/{name}", Job)


def stopped(job: Job) -> Verified:
    """Whether nothing of the job runs."""
    left = job.status.active + job.status.terminating
    if left:
        return Verified("not-effective", f"{left} pods of the job are still there", again=LOOK_AGAIN)
    if not job.spec.suspend:
        return Verified("not-effective", "the job is not suspended", again=LOOK_AGAIN)
    return Verified("verified", "no pod of the job is left")


class SuspendJob(Change[Job]):
    """Suspend a job: its pods are ended and it waits."""

    verb = Verb(
        name="suspend_job",
        kinds=("job",),
        undoable=True,
        residual="Who may change the job can resume it; what it has sent is sent. Progress since its last checkpoint is lost.",
        needs=("jobs.batch: get, patch",),
        destructive=True,
    )
    what = "job"

    def find(self, target: str) -> Job | None:
        return find_job(self.api, target)

    def path(self, thing: Job) -> str:
        return f"/apis/batch/v1/namespaces/{thing.metadata.namespace}/jobs/{thing.metadata.name}"

    def so(self, thing: Job) -> str:
        if thing.status.is_true("Complete") or thing.status.is_true("Failed"):
            return "the job has ended"
        return "the job is suspended" if thing.spec.suspend else ""

    def allowed(self, thing: Job) -> str:
        if QUEUE in thing.metadata.labels:
            raise CallFailed("refused", "Kueue owns this job's suspension: use suspend_kueue_workload")
        return ""

    def ours(self, thing: Job, our: str) -> bool:
        return thing.metadata.annotations.get(STOPPED_BY) == our

    def done(self, thing: Job, our: str) -> dict[str, Any]:
        return {"metadata": {"annotations": {STOPPED_BY: our}}, "spec": {"suspend": True}}

    def undone(self, thing: Job, our: str) -> dict[str, Any]:
        # A job that ended, or was resumed by somebody else, only loses the mark: its switch is no longer ours.
        back = {"spec": {"suspend": False}} if thing.spec.suspend else {}
        return {"metadata": {"annotations": {STOPPED_BY: None}}, **back}

    def seen(self, action: Action, thing: Job) -> Verified:
        if not thing.spec.suspend:
            return Verified("verified", "the job has ended")
        return stopped(thing)


class SuspendWorkload(Change[Workload]):
    """Deactivate the Kueue workload of a job: it is evicted and not queued again."""

    verb = Verb(
        name="suspend_kueue_workload",
        kinds=("job",),
        undoable=True,
        residual="Who may change the workload can activate it; what it has sent is sent. Progress since its last checkpoint is lost.",
        needs=("jobs.batch: get", "workloads.kueue.x-k8s.io: list, patch"),
        destructive=True,
    )
    what = "workload"

    def __init__(self, api: Api, version: str) -> None:
        super().__init__(api)
        self._root = f"/apis/kueue.x-k8s.io/{version}/namespaces"

    def find(self, target: str) -> Workload | None:
        job = find_job(self.api, target)
        if job is None:
            return None
        found = self.api.items_extra(f"{self._root}/{place_of(target, PREFIX)[0]}/workloads", Workload)
        # Workloads have made-up names: the job's uid is what ties them to it.
        ours = [one for one in found if any(owner.uid == job.metadata.uid for owner in one.metadata.owner_references)]
        if len(ours) > 1:
            raise CallFailed("refused", f"{len(ours)} workloads belong to the job")
        return ours[0] if ours else None

    def path(self, thing: Workload) -> str:
        return f"{self._root}/{thing.metadata.namespace}/workloads/{thing.metadata.name}"

    def so(self, thing: Workload) -> str:
        if thing.status.is_true("Finished"):
            return "the workload has ended"
        return "" if thing.spec.active else "the workload is not active"

    def ours(self, thing: Workload, our: str) -> bool:
        return thing.metadata.annotations.get(STOPPED_BY) == our

    def done(self, thing: Workload, our: str) -> dict[str, Any]:
        return {"metadata": {"annotations": {STOPPED_BY: our}}, "spec": {"active": False}}

    def undone(self, thing: Workload, our: str) -> dict[str, Any]:
        return {"metadata": {"annotations": {STOPPED_BY: None}}, "spec": {"active": True}}

    def seen(self, action: Action, thing: Workload) -> Verified:
        if thing.spec.active:
            return Verified("verified", "the workload has ended")
        job = find_job(self.api, action.target)
        if job is None:
            raise gone(action.target)
        return stopped(job)
