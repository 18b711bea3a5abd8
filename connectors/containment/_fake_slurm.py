"""slurmrestd in memory: the answers recorded on Slurm 26.05.5, errors under HTTP 200 among them; the requeue as documented."""

from __future__ import annotations

import copy
from typing import Any

from connectors.containment._fake import Answer, Ask, Fake, Rehearsed

_NO_LIMIT = {"set": False, "infinite": True, "number": 0}


class FakeSlurm(Fake):
    """Jobs, nodes and associations. A job that is cancelled or requeued ends at once."""

    def __init__(self) -> None:
        super().__init__()
        self.token = Rehearsed()
        self.jobs: dict[int, dict[str, Any]] = {
            11: _job(11, "RUNNING", "None"),
            12: _job(12, "PENDING", "Priority"),
            13: _job(13, "COMPLETED", "None"),
        }
        self.nodes: dict[str, dict[str, Any]] = {"gpu-1": {"name": "gpu-1", "state": ["IDLE"], "reason": ""}}
        self.associations: list[dict[str, Any]] = [_association("ml"), _association("vision")]
        #: Users above the common one: "Operator" or "Administrator".
        self.ranks = {"tocsin": "Administrator"}

    def state(self) -> Any:
        """Everything."""
        return copy.deepcopy({"jobs": self.jobs, "nodes": self.nodes, "associations": self.associations})

    def answer(self, ask: Ask) -> Answer:
        """See ``Fake``."""
        if ask.headers.get("x-slurm-user-token") != self.token.read():
            return Answer(401, _envelope(errors=[_error(1007, "Protocol authentication error")]))
        parts = ask.path.strip("/").split("/")
        if len(parts) < 3 or parts[1] != "v0.0.45":
            return Answer(404, "Unable to find requested URL")
        changes = ask.method != "GET" or ask.path.endswith("/requeue")
        needed = ("Administrator",) if parts[2] == "node" else ("Administrator", "Operator")
        if changes and self.ranks.get(ask.headers.get("x-slurm-user-name", "")) not in needed:
            # slurmctld lets operators change jobs and accounting, and only administrators nodes (proc_req.c).
            return Answer(422, _envelope(errors=[_error(2010, "Invalid user id")]))
        if parts[0] == "slurmdb":
            return self._association(ask)
        return self._node(ask, parts[3]) if parts[2] == "node" else self._job(ask, int(parts[3]), parts[4:])

    def _job(self, ask: Ask, number: int, rest: list[str]) -> Answer:
        job = self.jobs.get(number)
        if job is None:
            return Answer(200, _envelope(errors=[_error(2017, "Invalid job id specified")], jobs=[]))
        if rest == ["requeue"]:
            return self._requeue(job, ask.query)
        if ask.method == "GET":
            return Answer(200, _envelope(jobs=[job]))
        if _ended(job):
            return Answer(200, _envelope(errors=[_error(2021, "Job/step already completing or completed")]))
        if ask.method == "DELETE":
            job.update(job_state=["CANCELLED"], state_reason="None", hold=False)
            return Answer(200, _envelope(status=[]))
        given = ask.json()
        job["admin_comment"] = given.get("admin_comment", job["admin_comment"])
        if "hold" in given:
            job.update(hold=given["hold"], state_reason="JobHeldAdmin" if given["hold"] else job["waits_for"])
            if not given["hold"] and job["waits_for"] == "None":
                # Nothing kept it but the hold: it starts at once.
                job["job_state"] = ["RUNNING"]
        return Answer(200, _envelope(results=[{"job_id": number, "error_code": 0, "error": "No error", "why": ""}]))

    def _requeue(self, job: dict[str, Any], query: dict[str, str]) -> Answer:
        told = {"job_id": job["job_id"], "step_id": "", "error_code": 0, "error": "No error", "why": ""}
        if _ended(job) or "RUNNING" not in job["job_state"]:
            return Answer(200, _envelope(status=[{**told, "error_code": 2037, "error": "Requested operation is presently disabled"}]))
        held = query.get("Hold") == "true"
        reason = "job_requeued_in_held_state" if held else "None"
        job.update(job_state=["PENDING"], hold=held, state_reason=reason)
        return Answer(200, _envelope(status=[told]))

    def _node(self, ask: Ask, name: str) -> Answer:
        node = self.nodes.get(name)
        if node is None:
            return Answer(200, _envelope(errors=[_error(2018, "Invalid node name specified")], nodes=[]))
        if ask.method == "GET":
            return Answer(200, _envelope(nodes=[node]))
        given = ask.json()
        if "DRAIN" in given["state"]:
            node.update(state=["IDLE", "DRAIN"], reason=given["reason"])
        if "RESUME" in given["state"]:
            node.update(state=["IDLE"], reason=given.get("reason", ""))
        return Answer(200, _envelope())

    def _association(self, ask: Ask) -> Answer:
        if ask.method == "GET":
            return Answer(200, _envelope(associations=[one for one in self.associations if one["user"] == ask.query.get("user")]))
        changed = False
        for given in ask.json()["associations"]:
            for one in self.associations:
                if all(one[key] == given[key] for key in ("account", "cluster", "user")):
                    new = {"comment": given["comment"], "max": {"jobs": {"active": given["max"]["jobs"]["active"]}}}
                    changed = changed or any(one[key] != value for key, value in new.items())
                    one.update(new)
        return Answer(200, _envelope()) if changed else Answer(304)


def _ended(job: dict[str, Any]) -> bool:
    return bool({"COMPLETED", "CANCELLED"} & set(job["job_state"]))


def _job(number: int, state: str, reason: str) -> dict[str, Any]:
    return {
        "job_id": number,
        "job_state": [state],
        "state_reason": reason,
        "waits_for": reason,
        "user_name": "alice",
        "hold": False,
        "requeue": True,
        "batch_flag": True,
        "restart_cnt": 0,
        "submit_time": {"set": True, "infinite": False, "number": 1795215478 + number},
        "admin_comment": "",
    }


def _association(account: str) -> dict[str, Any]:
    where = {"account": account, "cluster": "aifac", "user": "alice", "partition": ""}
    return {**where, "comment": "", "max": {"jobs": {"active": dict(_NO_LIMIT)}}}


def _error(number: int, text: str) -> dict[str, Any]:
    return {"description": text, "source": "slurm", "error": text, "error_number": number}


def _envelope(errors: list[dict[str, Any]] | None = None, **things: Any) -> dict[str, Any]:
    meta = {"slurm": {"version": {"major": "26", "minor": "05", "micro": "5"}, "release": "26.05.5", "cluster": "aifac"}}
    return {**things, "meta": meta, "errors": errors or [], "warnings": []}
