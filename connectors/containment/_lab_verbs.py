"""How each verb of the lab is done: reading and changing its state, and looking at the effects to verify."""

from __future__ import annotations

from typing import Protocol

from connectors.containment import Action, Applied, Prepared, Undone, Verb, Verified
from connectors.containment._lab_world import RESUMED, STOPPED, LabTarget, NetworkPolicy, namespace_of

#: The label our deny policy selects. Its value is the action id, so a policy reaches one pod and never that pod's siblings (T1).
QUARANTINE = "tocsin.io/quarantine"


class Doing(Protocol):
    """How one verb is done. Called with an action whose target is of the verb's kinds; ``apply`` with a snapshot."""

    @property
    def verb(self) -> Verb: ...
    def prepare(self, world: LabTarget, action: Action) -> Prepared: ...
    def apply(self, world: LabTarget, action: Action) -> Applied: ...
    def verify(self, world: LabTarget, action: Action) -> Verified: ...
    def undo(self, world: LabTarget, action: Action) -> Undone: ...
    def verify_undone(self, world: LabTarget, action: Action) -> Verified: ...


class Revoke:
    """End the live sessions and tokens of a user or service account, or one session, or one token. New logins are not ours to stop."""

    verb = Verb(
        name="revoke_sessions",
        kinds=("user", "sa", "session", "token"),
        undoable=False,
        residual="The account can log in again; services that do not ask the identity provider accept a token until it expires.",
        needs=("lab: end sessions", "lab: revoke tokens"),
    )

    def prepare(self, world: LabTarget, action: Action) -> Prepared:
        if not self._known(world, action.target):
            return Prepared("failed", f"not found: {action.target}")
        live = self._live(world, action.target)
        if not live:
            return Prepared("already", "no live session or token")
        return Prepared("ready", f"{len(live)} live sessions and tokens", {"live": live})

    def apply(self, world: LabTarget, action: Action) -> Applied:
        state, changed = world.state, False
        for name in self._meant(action):
            session, token = state.sessions.get(name), state.tokens.get(name)
            if session is not None and not session.ended_by:
                session.ended_by, changed = action.id, True
            if token is not None and not token.revoked_by:
                token.revoked_by, changed = action.id, True
        return Applied("applied", "revoked") if changed else Applied("already", "all of them were revoked before")

    def verify(self, world: LabTarget, action: Action) -> Verified:
        if action.snapshot is None and not self._known(world, action.target):
            return Verified("unverified", f"not found: {action.target}")
        meant = self._live(world, action.target) if action.snapshot is None else self._meant(action)
        alive = [name for name in meant if world.authenticates(name) or world.live_session(name)]
        if alive:
            return Verified("not-effective", f"{len(alive)} of {len(meant)} still authenticate")
        return Verified("verified", f"none of {len(meant)} authenticates")

    def undo(self, world: LabTarget, action: Action) -> Undone:
        return Undone("failed", "what is revoked cannot be given back; the account logs in again")

    def verify_undone(self, world: LabTarget, action: Action) -> Verified:
        return Verified("unverified", "a revocation cannot be undone")

    def _known(self, world: LabTarget, target: str) -> bool:
        state = world.state
        owners = {item.owner for table in (state.sessions, state.tokens) for item in table.values()}
        return target in owners or any(target in table for table in (state.users, state.sessions, state.tokens))

    def _live(self, world: LabTarget, target: str) -> list[str]:
        state = world.state
        sessions = [n for n, s in state.sessions.items() if target in (n, s.owner) and world.live_session(n)]
        tokens = [n for n, t in state.tokens.items() if target in (n, t.owner, t.session) and world.authenticates(n)]
        return sorted(sessions + tokens)

    def _meant(self, action: Action) -> list[str]:
        return [str(name) for name in (action.snapshot or {}).get("live", [])]


class Disable:
    """Disable an account."""

    verb = Verb(
        name="disable_user",
        kinds=("user",),
        undoable=True,
        residual="Services that do not ask the identity provider accept tokens already issued until they expire.",
        needs=("lab: update users",),
    )

    def prepare(self, world: LabTarget, action: Action) -> Prepared:
        user = world.state.users.get(action.target)
        if user is None:
            return Prepared("failed", f"not found: {action.target}")
        if not user.enabled:
            return Prepared("already", "the account is disabled")
        return Prepared("ready", "", {"enabled": True, "disabled_by": user.disabled_by})

    def apply(self, world: LabTarget, action: Action) -> Applied:
        user = world.state.users.get(action.target)
        if user is None:
            return Applied("failed", f"not found: {action.target}")
        if not user.enabled:
            return Applied("already", "the account is disabled")
        user.enabled, user.disabled_by = False, action.id
        return Applied("applied", "disabled")

    def verify(self, world: LabTarget, action: Action) -> Verified:
        if world.can_log_in(action.target):
            return Verified("not-effective", "the account can log in")
        if action.target not in world.state.users:
            return Verified("unverified", f"not found: {action.target}")
        return Verified("verified", "the account cannot log in")

    def undo(self, world: LabTarget, action: Action) -> Undone:
        user = world.state.users.get(action.target)
        if user is None or user.disabled_by != action.id:
            return Undone("already", "nothing of ours is left")
        enabled_by_other = user.enabled
        user.enabled, user.disabled_by = True, str((action.snapshot or {}).get("disabled_by", ""))
        return Undone("already", "enabled by somebody else") if enabled_by_other else Undone("undone", "enabled again")

    def verify_undone(self, world: LabTarget, action: Action) -> Verified:
        user = world.state.users.get(action.target)
        if user is not None and user.disabled_by == action.id:
            return Verified("not-effective", "the account is still disabled by this action")
        return Verified("verified", "nothing of this action is left")


class Isolate:
    """Cut one pod off: a deny policy of our own (T2) that selects a label only this pod carries (T1)."""

    verb = Verb(
        name="isolate_pod",
        kinds=("pod",),
        undoable=True,
        residual="Its node still reaches the pod, connections already open may live on, and its siblings are untouched.",
        needs=("lab: label pods", "lab: create and delete network policies"),
    )

    def prepare(self, world: LabTarget, action: Action) -> Prepared:
        pod = world.state.pods.get(action.target)
        if pod is None:
            return Prepared("failed", f"not found: {action.target}")
        if not world.can_connect(action.target):
            return Prepared("already", f"isolated by {', '.join(world.denials(action.target))}")
        return Prepared("ready", "", {"uid": pod.uid, "label": pod.labels.get(QUARANTINE)})

    def apply(self, world: LabTarget, action: Action) -> Applied:
        pod, name = world.state.pods.get(action.target), _policy_name(action)
        if pod is None:
            return Applied("failed", f"not found: {action.target}")
        if pod.uid != (action.snapshot or {}).get("uid"):
            return Applied("failed", f"the pod was replaced: its uid is now {pod.uid}")
        policy = world.state.policies.get(name)
        if policy is not None and policy.made_by != action.id:
            return Applied("failed", f"a policy {name} exists that is not ours")
        if policy is not None and pod.labels.get(QUARANTINE) == action.id:
            return Applied("already", "this action isolated it before")
        if not world.can_connect(action.target):
            return Applied("already", f"isolated by {', '.join(world.denials(action.target))}")
        world.state.policies[name] = NetworkPolicy(selector={QUARANTINE: action.id}, effect="deny", made_by=action.id)
        pod.labels[QUARANTINE] = action.id
        return Applied("applied", f"isolated by {name}")

    def verify(self, world: LabTarget, action: Action) -> Verified:
        pod = world.state.pods.get(action.target)
        if pod is None:
            return Verified("unverified", f"not found: {action.target}")
        if action.snapshot is not None and pod.uid != action.snapshot.get("uid"):
            return Verified("unverified", "the pod is gone; another of its name is not isolated by this action")
        if world.can_connect(action.target):
            return Verified("not-effective", "the pod can connect")
        return Verified("verified", "the pod cannot connect")

    def undo(self, world: LabTarget, action: Action) -> Undone:
        pod, name = world.state.pods.get(action.target), _policy_name(action)
        ours = [key for key in (name,) if key in world.state.policies and world.state.policies[key].made_by == action.id]
        labelled = pod is not None and pod.labels.get(QUARANTINE) == action.id
        if not ours and not labelled:
            return Undone("already", "nothing of ours is left")
        for key in ours:
            del world.state.policies[key]
        if pod is not None and labelled:
            before = (action.snapshot or {}).get("label")
            if before is None:
                del pod.labels[QUARANTINE]
            else:
                pod.labels[QUARANTINE] = str(before)
        return Undone("undone", f"{name} removed")

    def verify_undone(self, world: LabTarget, action: Action) -> Verified:
        pod, policy = world.state.pods.get(action.target), world.state.policies.get(_policy_name(action))
        if (policy is not None and policy.made_by == action.id) or (pod is not None and pod.labels.get(QUARANTINE) == action.id):
            return Verified("not-effective", "the policy or the label of this action is still there")
        return Verified("verified", "nothing of this action is left")


def _policy_name(action: Action) -> str:
    return f"{namespace_of(action.target)}/tocsin-{action.id}"


class Suspend:
    """Stop a job that runs, hold one that waits."""

    verb = Verb(
        name="suspend_job",
        kinds=("job",),
        undoable=True,
        residual="The job keeps its GPUs and what is in their memory; what it has already sent is sent.",
        needs=("lab: suspend, hold and resume jobs",),
    )

    def prepare(self, world: LabTarget, action: Action) -> Prepared:
        job = world.state.jobs.get(action.target)
        if job is None:
            return Prepared("failed", f"not found: {action.target}")
        if not world.is_running(action.target):
            return Prepared("already", f"the job is {job.state}")
        return Prepared("ready", "", {"state": job.state, "held_by": job.held_by})

    def apply(self, world: LabTarget, action: Action) -> Applied:
        job = world.state.jobs.get(action.target)
        if job is None:
            return Applied("failed", f"not found: {action.target}")
        if job.state not in STOPPED:
            return Applied("already", f"the job is {job.state}")
        job.state, job.held_by = STOPPED[job.state], action.id
        return Applied("applied", f"the job is {job.state}")

    def verify(self, world: LabTarget, action: Action) -> Verified:
        if world.is_running(action.target):
            return Verified("not-effective", f"the job is {world.state.jobs[action.target].state}")
        if action.target not in world.state.jobs:
            return Verified("unverified", f"not found: {action.target}")
        return Verified("verified", "the job does not run")

    def undo(self, world: LabTarget, action: Action) -> Undone:
        job = world.state.jobs.get(action.target)
        if job is None or job.held_by != action.id:
            return Undone("already", "nothing of ours is left")
        job.held_by = str((action.snapshot or {}).get("held_by", ""))
        if job.state not in RESUMED:
            return Undone("already", f"somebody else made it {job.state}")
        job.state = RESUMED[job.state]
        return Undone("undone", f"the job is {job.state}")

    def verify_undone(self, world: LabTarget, action: Action) -> Verified:
        job = world.state.jobs.get(action.target)
        if job is not None and job.held_by == action.id:
            return Verified("not-effective", "the job is still stopped by this action")
        return Verified("verified", "nothing of this action is left")


DOINGS: dict[str, Doing] = {doing.verb.name: doing for doing in (Revoke(), Disable(), Isolate(), Suspend())}
