"""What can be done to a node of Slurm, and to what a user may run."""

from __future__ import annotations

from typing import Any

import msgspec

from connectors.containment import Action, Applied, Prepared, Trouble, Undone, Verb, Verified
from connectors.containment._doing import kept
from connectors.containment._http import CallFailed
from connectors.containment._slurm_api import Association, Node, Slurm, our_text


class DrainNode:
    """Let no new job start on a node."""

    verb = Verb(
        name="drain_node",
        kinds=("node",),
        undoable=True,
        residual="Jobs that run on the node go on until they end or are cancelled.",
        needs=("slurm: administrator",),
        destructive=True,
    )

    def __init__(self, slurm: Slurm) -> None:
        self._slurm = slurm

    def prepare(self, action: Action) -> Prepared:
        """See ``Doing``."""
        node = self._slurm.node(action.target)
        if "DRAIN" in node.state:
            return Prepared("already", f"the node is drained: {node.reason}")
        return Prepared("ready", "", {"reason": node.reason})

    def apply(self, action: Action) -> Applied:
        """See ``Doing``."""
        node = self._slurm.node(action.target)
        if "DRAIN" in node.state:
            return Applied("already", "this action did it before" if self._ours(node, action) else f"drained: {node.reason}")
        self._slurm.call("POST", f"/node/{node.name}", {"state": ["DRAIN"], "reason": our_text(action)})
        return Applied("applied", f"draining {node.name}")

    def verify(self, action: Action) -> Verified:
        """See ``Doing``."""
        if "DRAIN" in self._slurm.node(action.target).state:
            return Verified("verified", "nothing starts on the node")
        return Verified("not-effective", "the node takes jobs")

    def undo(self, action: Action) -> Undone:
        """See ``Doing``."""
        node = self._slurm.node(action.target)
        if "DRAIN" not in node.state or not self._ours(node, action):
            return Undone("already", "nothing of ours is left")
        self._slurm.call("POST", f"/node/{node.name}", {"state": ["RESUME"], "reason": str(kept(action).get("reason", ""))})
        return Undone("undone", f"{node.name} takes jobs again")

    def verify_undone(self, action: Action) -> Verified:
        """See ``Doing``."""
        node = self._slurm.node(action.target)
        if "DRAIN" in node.state and self._ours(node, action):
            return Verified("not-effective", "the node is still drained by this action")
        return Verified("verified", "nothing of this action is left")

    def _ours(self, node: Node, action: Action) -> bool:
        # Slurm may add who and when behind the reason.
        return node.reason.split(" ")[0] == our_text(action)


class LimitUser:
    """Throttle a user: no more than so many jobs at a time. Needs accounting that enforces limits."""

    verb = Verb(
        name="limit_user",
        kinds=("user",),
        undoable=True,
        residual="Jobs that run go on; without AccountingStorageEnforce=limits in slurm.conf nothing is kept back.",
        needs=("slurmdb: operator",),
    )

    def __init__(self, slurm: Slurm, jobs: int) -> None:
        self._slurm = slurm
        self._jobs = jobs

    def prepare(self, action: Action) -> Prepared:
        """See ``Doing``."""
        found = self._slurm.associations(action.target)
        if _limited(found, self._jobs):
            return Prepared("already", f"no more than {self._jobs} jobs of the user may run")
        return Prepared(
            "ready", "", {"jobs": self._jobs, "before": {_key(one): [msgspec.to_builtins(one.active), one.comment] for one in found}}
        )

    def apply(self, action: Action) -> Applied:
        """See ``Doing``."""
        found = self._slurm.associations(action.target)
        if _limited(found, self._limit(action)):
            ours = any(one.comment == our_text(action) for one in found)
            return Applied("already", "this action did it before" if ours else "the user is limited")
        limit = {"set": True, "infinite": False, "number": self._limit(action)}
        meant = [one for one in found if not _limited([one], self._limit(action))]
        self._write([_changed(one, limit, our_text(action)) for one in meant])
        # 304 says nothing, and a limit whose mark was dropped could never be taken back: read what is there.
        after = {_key(one): one for one in self._slurm.associations(action.target)}
        if all(after[_key(one)].comment == our_text(action) for one in meant if _key(one) in after):
            return Applied("applied", f"limited in {len(meant)} accounts")
        self._write([_changed(one, msgspec.to_builtins(one.active), one.comment) for one in meant])
        return Applied("failed", "the accounting database keeps no comment, or ignored the change", Trouble("refused"))

    def verify(self, action: Action) -> Verified:
        """See ``Doing``."""
        if _limited(self._slurm.associations(action.target), self._limit(action)):
            return Verified("verified", f"no more than {self._limit(action)} jobs of the user may run")
        return Verified("not-effective", "the user is not limited in every account")

    def undo(self, action: Action) -> Undone:
        """See ``Doing``."""
        ours = [one for one in self._slurm.associations(action.target) if one.comment == our_text(action)]
        if not ours:
            return Undone("already", "nothing of ours is left")
        before, bodies = kept(action).get("before") or {}, []
        for one in ours:
            limit, comment = before.get(_key(one), [{"set": False, "infinite": True, "number": 0}, ""])
            # A limit that somebody changed since stays; only our mark goes.
            bodies.append(
                _changed(one, limit if one.active.number == self._limit(action) else msgspec.to_builtins(one.active), str(comment))
            )
        self._write(bodies)
        return Undone("undone", f"no longer limited in {len(ours)} accounts")

    def verify_undone(self, action: Action) -> Verified:
        """See ``Doing``."""
        if any(one.comment == our_text(action) for one in self._slurm.associations(action.target)):
            return Verified("not-effective", "an account of the user still bears the mark of this action")
        return Verified("verified", "nothing of this action is left")

    def _limit(self, action: Action) -> int:
        """The limit of this action: the settings may name another by now."""
        return int(kept(action).get("jobs", self._jobs))

    def _write(self, bodies: list[dict[str, Any]]) -> None:
        if bodies:
            try:
                self._slurm.call("POST", "/associations/", {"associations": bodies}, database=True)
            except CallFailed as error:
                # Some of several may be written.
                raise CallFailed(error.trouble.kind, error.reason, retry_after=error.trouble.retry_after, sent=True) from None


def _limited(found: list[Association], jobs: int) -> bool:
    return all(one.active.set and not one.active.infinite and one.active.number <= jobs for one in found)


def _key(one: Association) -> str:
    return f"{one.cluster}/{one.account}/{one.partition or ''}"


def _changed(one: Association, active: Any, comment: str) -> dict[str, Any]:
    # An association is found by these four; of no limit only "infinite" is understood.
    where = {"account": one.account, "cluster": one.cluster, "user": one.user, "partition": one.partition or ""}
    limit = active if active.get("set") else {"set": False, "infinite": True, "number": 0}
    return {**where, "comment": comment, "max": {"jobs": {"active": limit}}}
