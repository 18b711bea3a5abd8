"""The lab's world: state as plain data, and the effects that follow from it. ``lab`` is the adapter that acts on it."""

from __future__ import annotations

from typing import Any, Literal

import msgspec

JobState = Literal["PENDING", "RUNNING", "SUSPENDED", "HELD", "COMPLETED", "FAILED", "CANCELLED"]
#: How the scheduler stops a job, by the state it is in, and the way back.
STOPPED: dict[str, JobState] = {"RUNNING": "SUSPENDED", "PENDING": "HELD"}
RESUMED: dict[str, JobState] = {"SUSPENDED": "RUNNING", "HELD": "PENDING"}


class User(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """An account. ``disabled_by``: who disabled it; an action id where it was us."""

    enabled: bool = True
    disabled_by: str = ""


class Session(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """A login. ``ended_by`` "" = live."""

    owner: str
    ended_by: str = ""


class Token(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """A credential of a user or service account, perhaps of one session. ``revoked_by`` "" = not revoked."""

    owner: str
    session: str = ""
    revoked_by: str = ""


class Pod(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """A pod. Its identity is ``pod:namespace/name``; ``uid`` tells it from a later pod of that name."""

    uid: str
    ip: str = ""
    service_account: str = ""
    owner: str = ""
    labels: dict[str, str] = {}


class NetworkPolicy(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """A policy, keyed ``namespace/name``. Pods with all of ``selector``'s labels are meant; a deny beats any allow (T3)."""

    selector: dict[str, str]
    effect: Literal["allow", "deny"]
    made_by: str = ""


class Job(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """A batch job. ``held_by``: the action that stopped it."""

    user: str
    state: JobState = "RUNNING"
    held_by: str = ""


class State(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """The lab's whole state. Every table but ``policies`` is keyed by normalised identity."""

    users: dict[str, User] = {}
    sessions: dict[str, Session] = {}
    tokens: dict[str, Token] = {}
    pods: dict[str, Pod] = {}
    policies: dict[str, NetworkPolicy] = {}
    jobs: dict[str, Job] = {}


class LabTarget:
    """The simulated world: state, and the effects that follow from it."""

    def __init__(self, state: State | None = None) -> None:
        self.state = state or State()

    @classmethod
    def load(cls, plain: Any) -> LabTarget:
        """A world from plain data. Raises msgspec.ValidationError naming the field that is wrong."""
        return cls(msgspec.convert(plain, State))

    def dump(self) -> dict[str, Any]:
        """The whole state as plain data; ``load`` reads it back."""
        plain: dict[str, Any] = msgspec.to_builtins(self.state)
        return plain

    def learn(self, inventory: State) -> None:
        """Add what is not known yet. What is known keeps its state, containment included; only another pod takes a name over."""
        for table in ("users", "sessions", "tokens", "policies", "jobs"):
            known: dict[str, Any] = getattr(self.state, table)
            for name, item in getattr(inventory, table).items():
                known.setdefault(name, item)
        for name, pod in inventory.pods.items():
            if name not in self.state.pods or self.state.pods[name].uid != pod.uid:
                self.state.pods[name] = pod

    def can_log_in(self, user: str) -> bool:
        """Whether an account exists and is enabled."""
        return user in self.state.users and self.state.users[user].enabled

    def live_session(self, name: str) -> bool:
        """Whether a session exists, has not ended, and its account is enabled."""
        session = self.state.sessions.get(name)
        return session is not None and not session.ended_by and self._may_act(session.owner)

    def authenticates(self, name: str) -> bool:
        """Whether a token still opens doors: not revoked, its session live, its account enabled."""
        token = self.state.tokens.get(name)
        if token is None or token.revoked_by or not self._may_act(token.owner):
            return False
        return not token.session or self.live_session(token.session)

    def can_connect(self, pod: str) -> bool:
        """Whether traffic of an existing pod passes: no deny policy of its namespace selects it."""
        return pod in self.state.pods and not self.denials(pod)

    def denials(self, pod: str) -> list[str]:
        """The deny policies that select a pod, in order of name."""
        labels = self.state.pods[pod].labels.items()
        return sorted(
            name
            for name, policy in self.state.policies.items()
            if policy.effect == "deny" and name.partition("/")[0] == namespace_of(pod) and policy.selector.items() <= labels
        )

    def is_running(self, job: str) -> bool:
        """Whether a job runs, or would be started next."""
        return job in self.state.jobs and self.state.jobs[job].state in STOPPED

    def _may_act(self, owner: str) -> bool:
        return owner not in self.state.users or self.state.users[owner].enabled


def namespace_of(pod: str) -> str:
    """The namespace of a pod's identity, ``pod:namespace/name``."""
    return pod.partition(":")[2].partition("/")[0]
