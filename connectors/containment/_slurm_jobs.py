"""What can be done to one job of Slurm. Suspending it is not among it: a stopped job keeps its GPUs and what is in them (T25)."""

from __future__ import annotations

from connectors.containment import Action, Applied, Prepared, Undone, Verb, Verified
from connectors.containment._doing import OneWay, kept
from connectors.containment._http import CallFailed
from connectors.containment._slurm_api import ALREADY_DONE, REQUEUES, Job, Slurm, our_text

#: How soon a job that is being ended is looked at again, in seconds: KillWait is 30 by default.
LOOK_AGAIN = 5.0


def same(job: Job, action: Action) -> bool:
    """Whether this is the job that ``prepare`` saw: numbers are used again, and a requeue changes the time of submission."""
    snapshot = kept(action)
    return job.admin_comment == our_text(action) or (job.user_name, job.submit_time.number) == (
        snapshot.get("user"),
        snapshot.get("submitted"),
    )


class Hold:
    """Hold a job that waits."""

    verb = Verb(
        name="hold_job",
        kinds=("job",),
        undoable=True,
        residual="Other jobs of the same user are untouched, and the user may submit the same again.",
        needs=("slurm: operator",),
    )

    def __init__(self, slurm: Slurm) -> None:
        self.slurm = slurm

    def prepare(self, action: Action) -> Prepared:
        """See ``Doing``."""
        job = self.slurm.job(action.target)
        if job.ended:
            return Prepared("already", "the job has ended")
        if job.held:
            return Prepared("already", "the job is held")
        self.check(job)
        return Prepared("ready", "", {"user": job.user_name, "submitted": job.submit_time.number, "comment": job.admin_comment})

    def check(self, job: Job) -> None:
        """Raises CallFailed (refused) where this cannot be done to the job."""
        if "PENDING" not in job.job_state:
            raise CallFailed("refused", f"the job is {'+'.join(job.job_state)}: requeue_hold or cancel_job ends it")

    def apply(self, action: Action) -> Applied:
        """See ``Doing``."""
        job = self.slurm.job(action.target)
        if not same(job, action):
            raise CallFailed("gone", "another job has its number")
        if job.held or job.ended:
            ours = job.held and job.admin_comment == our_text(action)
            return Applied("already", "this action did it before" if ours else "the job is held or has ended")
        self.act(job, action)
        return Applied("applied", f"{self.verb.name} {job.job_id}")

    def act(self, job: Job, action: Action) -> None:
        """The call itself."""
        self.slurm.call("POST", f"/job/{job.job_id}", {"hold": True, "admin_comment": our_text(action)})

    def verify(self, action: Action) -> Verified:
        """See ``Doing``."""
        job = self.slurm.job(action.target)
        if job.held or job.ended:
            return Verified("verified", "the job does not run and will not start")
        ending = "COMPLETING" in job.job_state
        return Verified("not-effective", f"the job is {'+'.join(job.job_state)}", again=LOOK_AGAIN if ending else 0.0)

    def undo(self, action: Action) -> Undone:
        """See ``Doing``."""
        job = self.slurm.job(action.target)
        if job.admin_comment != our_text(action):
            return Undone("already", "nothing of ours is left")
        before = str(kept(action).get("comment", ""))
        release = {"hold": False} if job.held else {}
        try:
            self.slurm.call("POST", f"/job/{job.job_id}", {**release, "admin_comment": before})
        except CallFailed as error:
            if error.status != ALREADY_DONE:
                raise
            return Undone("already", "the job has ended")
        return Undone("undone", "released") if job.held else Undone("already", "somebody else had released it")

    def verify_undone(self, action: Action) -> Verified:
        """See ``Doing``."""
        job = self.slurm.job(action.target)
        if job.admin_comment == our_text(action) and not job.ended:
            return Verified("not-effective", "the job still bears the mark of this action")
        return Verified("verified", "nothing of this action is left")


class RequeueHold(Hold):
    """End a job that runs, and put it back into the queue, held: its GPUs are free, and nothing of it starts."""

    verb = Verb(
        name="requeue_hold",
        kinds=("job",),
        undoable=True,
        residual="Progress since its last checkpoint is lost; other jobs of the same user are untouched; what it has sent is sent.",
        needs=("slurm: operator",),
        destructive=True,
    )

    def check(self, job: Job) -> None:
        """See ``Hold``."""
        if int(self.slurm.settings.version.removeprefix("v0.0.")) < REQUEUES:
            raise CallFailed("refused", f"slurmrestd requeues from v0.0.{REQUEUES} (Slurm 26.05) on")
        if "PENDING" in job.job_state:
            raise CallFailed("refused", "the job waits: hold_job is enough")
        if not job.batch_flag or not job.requeue:
            raise CallFailed("refused", "the job cannot be requeued: cancel_job ends it")

    def act(self, job: Job, action: Action) -> None:
        """The mark goes first: a job that was requeued without it could not be told from another's work."""
        path = f"/job/{job.job_id}"
        self.slurm.call("POST", path, {"admin_comment": our_text(action)})
        try:
            # It is a GET that changes something: so is Slurm's interface.
            self.slurm.call("GET", f"{path}/requeue", query={"Hold": "true", "Incomplete": "true"})
        except CallFailed as error:
            if error.sent:
                raise
            self._unmark(path, action, error)
            raise

    def _unmark(self, path: str, action: Action, error: CallFailed) -> None:
        try:
            self.slurm.call("POST", path, {"admin_comment": str(kept(action).get("comment", ""))})
        except CallFailed:
            raise CallFailed(error.trouble.kind, f"{error.reason}; our mark is left", sent=True) from None


class Cancel(OneWay):
    """End a job for good: the last resort."""

    verb = Verb(
        name="cancel_job",
        kinds=("job",),
        undoable=False,
        residual="The work is lost; other jobs of the same user are untouched, and the user may submit the same again.",
        needs=("slurm: operator",),
        destructive=True,
    )

    def __init__(self, slurm: Slurm) -> None:
        self._slurm = slurm

    def prepare(self, action: Action) -> Prepared:
        """See ``Doing``."""
        job = self._slurm.job(action.target)
        if job.ended:
            return Prepared("already", "the job has ended")
        return Prepared("ready", "", {"user": job.user_name, "submitted": job.submit_time.number})

    def apply(self, action: Action) -> Applied:
        """See ``Doing``."""
        job = self._slurm.job(action.target)
        if not same(job, action):
            return Applied("already", "that job is gone; another has its number")
        if job.ended:
            return Applied("already", "the job has ended")
        try:
            self._slurm.call("DELETE", f"/job/{job.job_id}")
        except CallFailed as error:
            if error.trouble.kind != "gone":
                raise
            return Applied("already", error.reason)
        return Applied("applied", f"cancelled {job.job_id}")

    def verify(self, action: Action) -> Verified:
        """See ``Doing``."""
        try:
            job = self._slurm.job(action.target)
        except CallFailed as error:
            if error.trouble.kind != "gone" or action.snapshot is None:
                raise
            return Verified("verified", "Slurm no longer knows the job")
        if job.ended or (action.snapshot is not None and not same(job, action)):
            return Verified("verified", "the job has ended")
        return Verified(
            "not-effective", f"the job is {'+'.join(job.job_state)}", again=LOOK_AGAIN if "COMPLETING" in job.job_state else 0.0
        )
