"""Slurm's REST API as the adapter uses it. It answers 200 to what failed, and says so in the body: no status is trusted alone."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, TypeVar
from urllib.parse import quote as percent

import msgspec

from connectors.containment import Action, TroubleKind
from connectors.containment._doing import gone, mark, shaped
from connectors.containment._http import CallFailed, Endpoint, Http, Reply, Secret, failure
from connectors.containment._quote import quote

T = TypeVar("T")

#: Slurm's own error numbers (slurm_errno.h) that mean something to a caller; what is not here is refused.
NO_SUCH_JOB, ALREADY_DONE = 2017, 2021
_KINDS: dict[int, TroubleKind] = {
    2002: "unauthorised",  # ESLURM_ACCESS_DENIED
    2010: "unauthorised",  # ESLURM_USER_ID_MISSING: what a caller without the rank of an operator gets
    NO_SUCH_JOB: "gone",
    2018: "gone",  # ESLURM_INVALID_NODE_NAME
    2020: "busy",  # ESLURM_TRANSITION_STATE_NO_UPDATE
    ALREADY_DONE: "gone",
}
#: Numbers of its own transport and of its database's: slurmrestd answered, slurmctld or slurmdbd did not.
_DOWN = (range(1000, 2000), range(5000, 6000), range(7000, 7010))
#: Lists of an answer that hold things, not errors.
_THINGS = frozenset({"jobs", "nodes", "associations", "warnings"})
#: The first version that can requeue a job (Slurm 26.05).
REQUEUES = 45
#: Statuses under which a body may say more.
_TOLD = tuple(range(400, 600))


class SlurmSettings(Endpoint, kw_only=True, forbid_unknown_fields=True):
    """One slurmrestd, as a user with the rank of an operator, by a token (``scontrol token``)."""

    username: str
    token: Secret
    #: The cluster's name, as it stands in the jobs' identities. Without it only jobs of no named cluster are acted on.
    cluster: str = ""
    #: Version of the API: v0.0.45 comes with Slurm 26.05. Older ones cannot requeue.
    version: str = "v0.0.45"
    #: How many jobs of a user ``limit_user`` lets run at a time.
    jobs: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.version.startswith("v0.0.") or not self.version[5:].isdigit():
            raise ValueError("version: expected v0.0.<number>")


class Number(msgspec.Struct, frozen=True):
    """Slurm's numbers, which may be unset or infinite."""

    set: bool = False
    infinite: bool = False
    number: int = 0


class Job(msgspec.Struct, frozen=True):
    """A job."""

    job_id: int
    job_state: list[str]
    user_name: str = ""
    hold: bool = False
    requeue: bool = True
    batch_flag: bool = True
    submit_time: Number = Number()
    admin_comment: str = ""

    @property
    def ended(self) -> bool:
        """Whether it runs no more and never will."""
        over = {"BOOT_FAIL", "CANCELLED", "COMPLETED", "DEADLINE", "FAILED", "NODE_FAIL", "OUT_OF_MEMORY", "PREEMPTED", "TIMEOUT"}
        return not {"COMPLETING", "REQUEUED", "REQUEUE_HOLD"} & set(self.job_state) and bool(over & set(self.job_state))

    @property
    def held(self) -> bool:
        """Whether it waits and will not start."""
        return "PENDING" in self.job_state and "COMPLETING" not in self.job_state and self.hold


class Node(msgspec.Struct, frozen=True):
    """A node."""

    name: str
    state: list[str]
    reason: str = ""


class Association(msgspec.Struct, frozen=True):
    """A user in an account: what limits hang on."""

    account: str
    cluster: str
    user: str
    partition: str | None = None
    comment: str = ""
    max: dict[str, Any] = {}

    @property
    def active(self) -> Number:
        """Most jobs that may run at a time."""
        return shaped((self.max.get("jobs") or {}).get("active") or {}, Number)


class Slurm:
    """One slurmrestd."""

    def __init__(self, http: Http, settings: SlurmSettings) -> None:
        self._http = http
        self.settings = settings

    def call(
        self, method: str, path: str, body: Any = msgspec.UNSET, *, query: dict[str, str] | None = None, database: bool = False
    ) -> Any:
        """One call; its answer. Raises CallFailed where the body names an error, whatever the status. 304: no change, no body."""
        root = f"/{'slurmdb' if database else 'slurm'}/{self.settings.version}"
        headers = {"X-SLURM-USER-NAME": self.settings.username, "X-SLURM-USER-TOKEN": self.settings.token.read()}
        reply = self._http.call(method, root + path, headers=headers, query=query, json=body, expect=(304, *_TOLD), gone=_is_told)
        if reply.status == 304:
            return {}
        told = _told(reply)
        for code, text in told:
            raise CallFailed(_kind(code), f"Slurm error {code}: {quote(text)}", status=code, sent=_kind(code) == "down")
        if reply.status >= 400:
            raise failure(reply)
        return shaped(reply.json(), dict[str, Any])

    def _listed(self, path: str, what: str, form: type[T], **given: Any) -> list[T]:
        """The things of an answer. Raises CallFailed (down) where it has no such list: then it is not Slurm's, and nothing is gone."""
        answer = self.call("GET", path, **given)
        if what not in answer:
            raise CallFailed("down", f"the answer has no {what}", sent=True)
        return shaped(answer[what] or [], list[form])  # type: ignore[valid-type]

    def job(self, target: str) -> Job:
        """The job of that identity. Raises CallFailed (gone)."""
        number = self.number(target)
        found = self._listed(f"/job/{number}", "jobs", Job)
        ours = [job for job in found if job.job_id == number]
        if len(ours) != 1:
            raise gone(target) if not ours else CallFailed("refused", f"{len(ours)} jobs have that number")
        return ours[0]

    def number(self, target: str) -> int:
        """A job's number. Raises CallFailed: gone where it is none of our cluster's, refused where it names no cluster."""
        kind, _, rest = target.partition("/")
        cluster, slash, number = rest.rpartition("/")
        if kind != "job:slurm" or not number.isdigit() or (slash and cluster != self.settings.cluster):
            raise gone(target)
        if not slash and self.settings.cluster:
            # Every cluster of a site may have a job of that number.
            raise CallFailed("refused", f"the job names no cluster: it may be another's than {self.settings.cluster}'s")
        return int(number)

    def node(self, target: str) -> Node:
        """The node of that name. Raises CallFailed (gone)."""
        name = target.partition(":")[2]
        found = self._listed(f"/node/{percent(name, safe='')}", "nodes", Node)
        ours = [node for node in found if node.name.lower() == name]
        if len(ours) != 1:
            raise gone(target)
        return ours[0]

    def associations(self, target: str) -> list[Association]:
        """The user's associations on this cluster. Raises CallFailed (gone) where there are none."""
        user = target.partition(":")[2]
        found = self._listed("/associations/", "associations", Association, query={"user": user}, database=True)
        ours = [one for one in found if one.user == user and self.settings.cluster in ("", one.cluster)]
        if not ours:
            raise gone(target)
        return ours


def our_text(action: Action) -> str:
    """Our mark where Slurm has room for a text."""
    return f"tocsin:{mark(action)}"


def _told(reply: Reply) -> list[tuple[int, str]]:
    """(number, text) of each error that a body names, wherever it stands: ``errors``, ``status``, ``results``."""
    try:
        data = reply.json()
    except CallFailed:
        if reply.status >= 400:
            return []
        raise
    if not isinstance(data, dict):
        return []
    listed = [one for name, value in data.items() if name not in _THINGS and isinstance(value, list) for one in value]
    return [found for one in listed if isinstance(one, dict) for found in _codes(one)]


def _is_told(reply: Reply) -> bool:
    """Whether a 404 bears an error of Slurm's own."""
    return bool(_told(reply))


def _codes(one: dict[str, Any]) -> Iterator[tuple[int, str]]:
    inner = one.get("error")
    code = one.get("error_number") or one.get("error_code") or (inner.get("code") if isinstance(inner, dict) else 0)
    text = one.get("description") or one.get("why") or (inner.get("string") if isinstance(inner, dict) else inner) or ""
    if isinstance(code, int) and code:
        yield code, str(text)


def _kind(code: int) -> TroubleKind:
    if any(code in codes for codes in _DOWN):
        return "down"
    return _KINDS.get(code, "refused")
