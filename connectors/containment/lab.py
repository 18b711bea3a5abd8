"""The lab: a small identity provider, cluster and scheduler in memory, to see containment work before any real system is touched.

``LabTarget`` is the world: plain data, and the effects computed from it (does a token authenticate, can a pod connect, does a job
run). ``Lab`` is the adapter: it changes the data, and verifies by asking for the effects.
"""

from __future__ import annotations

from typing import ClassVar, Literal

import msgspec

from connectors.containment import Action, Applied, Prepared, Rehearsal, Undone, Verb, Verified
from connectors.containment._lab_verbs import DOINGS, QUARANTINE, Doing
from connectors.containment._lab_world import (
    Job,
    LabTarget,
    NetworkPolicy,
    Pod,
    Session,
    State,
    Token,
    User,
)

__all__ = [
    "ADAPTER",
    "QUARANTINE",
    "Fault",
    "Job",
    "Lab",
    "LabSettings",
    "LabTarget",
    "NetworkPolicy",
    "Pod",
    "Session",
    "State",
    "Token",
    "User",
]


class Fault(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """Bad weather, as data.

    ``refused``: the call fails. ``ignored``: it reports success and changes nothing. ``blind``: the effect does not show.
    """

    step: Literal["prepare", "apply", "verify", "undo", "verify_undone"]
    how: Literal["refused", "ignored", "blind"]
    #: The verb and the target it befalls; "*" for all.
    verb: str = "*"
    target: str = "*"


class LabSettings(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """What is in the lab, and what goes wrong in it."""

    state: State = msgspec.field(default_factory=State)
    faults: list[Fault] = []


class Lab:
    """The adapter of the lab. ``target`` is its world."""

    title: ClassVar[str] = "the lab: a simulated identity provider, cluster and scheduler"
    verbs: ClassVar[tuple[Verb, ...]] = tuple(doing.verb for doing in DOINGS.values())
    Settings: ClassVar[type[msgspec.Struct]] = LabSettings

    def __init__(self, settings: LabSettings) -> None:
        self.settings = settings
        self.target = LabTarget(settings.state)

    def prepare(self, action: Action) -> Prepared:
        """See ``Adapter``."""
        doing = self._doing(action)
        if isinstance(doing, str):
            return Prepared("failed", doing)
        if self._fault("prepare", action):
            return Prepared("failed", "the lab refused")
        return doing.prepare(self.target, action)

    def apply(self, action: Action) -> Applied:
        """See ``Adapter``."""
        doing = self._doing(action)
        if isinstance(doing, str):
            return Applied("failed", doing)
        if action.snapshot is None:
            return Applied("failed", "not prepared: no snapshot")
        fault = self._fault("apply", action)
        if fault:
            return Applied("failed", "the lab refused") if fault == "refused" else Applied("applied", "")
        return doing.apply(self.target, action)

    def verify(self, action: Action) -> Verified:
        """See ``Adapter``."""
        doing = self._doing(action)
        if isinstance(doing, str):
            return Verified("unverified", doing)
        if self._fault("verify", action):
            return Verified("unverified", "the lab does not show it")
        return doing.verify(self.target, action)

    def undo(self, action: Action) -> Undone:
        """See ``Adapter``."""
        doing = self._doing(action)
        if isinstance(doing, str):
            return Undone("failed", doing)
        fault = self._fault("undo", action)
        if fault:
            return Undone("failed", "the lab refused") if fault == "refused" else Undone("undone", "")
        return doing.undo(self.target, action)

    def verify_undone(self, action: Action) -> Verified:
        """See ``Adapter``."""
        doing = self._doing(action)
        if isinstance(doing, str):
            return Verified("unverified", doing)
        if self._fault("verify_undone", action):
            return Verified("unverified", "the lab does not show it")
        return doing.verify_undone(self.target, action)

    def close(self) -> None:
        """See ``Adapter``: the lab holds nothing open."""

    @classmethod
    def rehearsal(cls) -> Rehearsal:
        """A lab with a user of two logins, a service account, three replicas, a running and a waiting job."""
        labels = {"app": "trainer", "pod-template-hash": "7c9"}
        state = State(
            users={"user:alice": User(), "user:bob": User()},
            sessions={"session:a1": Session(owner="user:alice"), "session:a2": Session(owner="user:alice")},
            tokens={
                "token:t1": Token(owner="user:alice", session="session:a1"),
                "token:t2": Token(owner="user:alice", session="session:a2"),
                "token:t3": Token(owner="sa:team-a/trainer"),
                "token:t4": Token(owner="user:bob"),
            },
            pods={
                f"pod:team-a/trainer-{i}": Pod(uid=f"u{i}", ip=f"10.0.0.{i}", owner="workload:team-a/trainer", labels=dict(labels))
                for i in range(3)
            },
            policies={"team-a/trainer": NetworkPolicy(selector={"app": "trainer"}, effect="allow", made_by="team-a")},
            jobs={"job:slurm/1": Job(user="user:alice"), "job:slurm/2": Job(user="user:bob", state="PENDING")},
        )
        lab = cls(LabSettings(state=state))
        targets = {
            "revoke_sessions": ("user:alice", "sa:team-a/trainer", "session:a1", "token:t4"),
            "disable_user": ("user:alice",),
            "isolate_pod": ("pod:team-a/trainer-0",),
            "suspend_job": ("job:slurm/1", "job:slurm/2"),
        }
        return Rehearsal(lab, targets, lab.target.dump)

    def _doing(self, action: Action) -> Doing | str:
        doing = DOINGS.get(action.verb)
        if doing is None:
            return f"no such verb: {action.verb}"
        kind = action.target.partition(":")[0]
        return doing if kind in doing.verb.kinds else f"{action.verb} does not act on the kind {kind!r}"

    def _fault(self, step: str, action: Action) -> str:
        for fault in self.settings.faults:
            if fault.step == step and fault.verb in ("*", action.verb) and fault.target in ("*", action.target):
                return fault.how
        return ""


ADAPTER = Lab
