"""Slurm's ``jobcomp/kafka`` records: one row when a job starts (where ``enable_job_start`` is set), one when it ends.

============  ==========================================================================================================
time          ``@start``, ``@end``: UTC without a zone
actor         ``user`` of ``username``
object        ``queue:<cluster>/<partition>``, without the cluster where it is not named
via           ``job:slurm/<cluster>/<jobid>``: what containment acts on
action        start, end
outcome       end: COMPLETED ok; a fault of job or node failed; stopped by somebody, preempted or resized unknown
detail        the account, else the qos
gpus          ``gres/gpu`` of ``tres_alloc``; its types summed where only they are tracked; not known where neither is
gpu_seconds   end: GPUs times ``@end`` - ``@start``; 0 where the job never started
============  ==========================================================================================================

A job that starts gives a further row for each of its nodes (``nodes``, a host list): the user at ``node:<name>``, action start, detail
``node``. So what is known of the nodes, their attestation, meets the work.

Binding: the job belongs to its user from its submission on, and never to anybody else. ``elapsed`` is not read: of a job that never
started it is negative or decades, of a resized one it counts from the first start.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, ClassVar

import msgspec

from connectors.event import SECOND, Action, Binding, Outcome, Row, Stream
from connectors.names import Names
from connectors.sources import Decoded
from connectors.sources._acts import Act, Words, decode_acts, one, quantity, required
from connectors.sources._records import BadRecord, iso_time

#: How a job ends by itself or by its node. CANCELLED, PREEMPTED, RESIZING, SUSPENDED say nothing about the job: unknown.
_OUTCOMES = {
    "COMPLETED": Outcome.ok,
    **dict.fromkeys(
        ("FAILED", "NODE_FAIL", "TIMEOUT", "OUT_OF_MEMORY", "OOM", "BOOT_FAIL", "DEADLINE", "LAUNCH_FAILED"), Outcome.failed
    ),
}
#: What Slurm writes for a time it does not have.
_NO_TIME = frozenset({"", "Unknown", "None", "N/A"})
#: More GPUs than any one job can hold: the largest machines have tens of thousands.
_MOST_GPUS = 1_000_000
#: A job on more nodes has no rows for them: a record must not become thousands of rows, and the whole machine is no one's habit.
_MOST_NODES = 128
#: A host list with one range of numbers a name at most, as Slurm writes them; anything else gives no nodes.
_NAME = r"[A-Za-z0-9][A-Za-z0-9._-]*"
_RANGE = r"\[((?:\d{1,9}(?:-\d{1,9})?)(?:,\d{1,9}(?:-\d{1,9})?)*)\]"
_HOST = re.compile(rf"({_NAME})(?:{_RANGE}([A-Za-z0-9._-]*))?", re.ASCII)
_HOSTS = re.compile(rf"{_HOST.pattern}(?:,{_HOST.pattern})*", re.ASCII)


class _Job(msgspec.Struct, rename={"start": "@start", "end": "@end", "submit": "@submit"}):
    jobid: int
    username: str
    partition: str
    nodes: str | None = None
    start: str | None = None
    end: str | None = None
    submit: str | None = None
    state: str | None = None
    cluster: str | None = None
    account: str | None = None
    qos: str | None = None
    tres_alloc: str | None = None
    sluid: str | None = None


_job = msgspec.json.Decoder(_Job).decode


class SlurmJobcomp:
    """Slurm job completion records. See the module."""

    title: ClassVar[str] = "Slurm jobcomp/kafka: jobs as they start and end, with their GPUs"
    feeds: ClassVar[frozenset[str]] = frozenset({"who-to-whom", "rate", "outcome", "gpus", "attestation", "bindings"})
    limits: ClassVar[str] = (
        "starts only with enable_job_start (25.05 or later); GPUs only with AccountingStorageTRES=gres/gpu and slurmdbd, else unknown, "
        "also for jobs without any; submissions, holds and changes are not reported; no client address; a resized job gives a record "
        "for each size; records can be lost on Kafka errors; array tasks have a job id each"
    )
    times: ClassVar[dict[str, int]] = {"@start": 1, "@end": 1, "@submit": 1, "@eligible": 1}
    example: ClassVar[str] = (
        '{"jobid":8812,"sluid":"s7SXM7XJWKCK00","username":"alice","user_id":1000,"@start":"2026-11-20T22:57:58","@end":"2026-11-20T23:57:58",'
        '"elapsed":3600,"partition":"gpu","nodes":"gpu-07","exit_code":"0:0","state":"COMPLETED","@submit":"2026-11-20T22:50:00",'
        '"cluster":"aifac","qos":"normal","time_limit":7200,"job_name":"train-llama","tres_alloc":"cpu=1,node=1,billing=1,gres/gpu=4",'
        '"account":"ml"}'
    )

    def __init__(self, names: Names) -> None:
        self._words = Words(names)

    @classmethod
    def recognises(cls, record: dict[str, Any]) -> bool:
        """Whether this is a job of Slurm's job completion plug-in."""
        return "jobid" in record and "username" in record and ("@submit" in record or "@start" in record or "@end" in record)

    def decode(self, records: Sequence[bytes]) -> Decoded:
        """Decode a batch. Reasons: ``missing``, ``wrong-type``, ``bad-time``, ``time-out-of-range``, ``bad-identity``, ``negative``,
        ``out-of-range`` and ``bad-number`` with the field, ``malformed-json``, ``too-long``, ``empty``, ``unsupported-format``."""
        return decode_acts(self._words.names, "slurm_jobcomp", records, one, self._read)

    def _read(self, index: int, raw: bytes) -> Act:
        job = _job(raw)
        quantity(job.jobid, "jobid")
        cluster = f"{job.cluster}/" if job.cluster else ""
        start, end, submit = _time(job.start, "@start"), _time(job.end, "@end"), _time(job.submit, "@submit")
        time = end if end is not None else start
        if time is None:
            raise BadRecord("missing:@start", "@start, @end: a job record has at least one of them")
        gpus = _gpus(job.tres_alloc or "")
        user = self._words.identity("user", job.username, "username")
        row = Row(
            record=index,
            time=time,
            stream=Stream.job,
            action=Action.start if end is None else Action.end,
            actor=user,
            object=self._words.identity("queue", f"{cluster}{_first(job.partition)}", "partition"),
            via=self._words.identity("job", f"slurm/{cluster}{job.jobid}", "cluster"),
            detail=self._words.detail(job.account or job.qos),
            gpus=gpus,
            uid=job.sluid or str(job.jobid),
        )
        if end is None:
            row.outcome = Outcome.ok
        else:
            # Cancelled by somebody is written with and without their number: "CANCELLED by 1000".
            row.outcome = _OUTCOMES.get(job.state or "", Outcome.unknown)
            row.duration = _lasted(start, end)
            row.gpu_seconds = gpus * row.duration if start is not None else 0.0
        # Owned since the earliest moment the record knows of.
        since = min(moment for moment in (submit, start, end) if moment is not None)
        rows = [row, *self._at_nodes(row, job.nodes or "")] if end is None else [row]
        return Act(rows, [Binding(index, since, self._words.text(row.via), self._words.text(user))])

    def _at_nodes(self, row: Row, hosts: str) -> list[Row]:
        """The user at each node on which the job starts."""
        return [
            Row(
                record=row.record,
                time=row.time,
                stream=row.stream,
                action=row.action,
                outcome=row.outcome,
                actor=row.actor,
                object=self._words.identity("node", name, "nodes"),
                via=row.via,
                detail=self._words.detail("node"),
                uid=row.uid,
            )
            for name in _hosts(hosts)
        ]


def _first(partition: str) -> str:
    """The partition of a job; of a job that was cancelled while it waited for any of several, the first."""
    return required(partition.partition(",")[0], "partition")


def _hosts(text: str) -> list[str]:
    """The names in a host list; none where there are more than ``_MOST_NODES``, or where it is none.

    >>> _hosts("gpu-07"), _hosts("gpu-[08-10,12],login1"), _hosts("None assigned"), _hosts("gpu-[1-9999]")
    (['gpu-07'], ['gpu-08', 'gpu-09', 'gpu-10', 'gpu-12', 'login1'], [], [])
    """
    found: list[str] = []
    for match in _HOST.finditer(text) if _HOSTS.fullmatch(text) else ():
        head, ranges, tail = match.groups()
        for part in ranges.split(",") if ranges else [""]:
            first, _, last = part.partition("-")
            numbers = range(int(first), int(last or first) + 1) if part else range(1)
            if len(found) + len(numbers) > _MOST_NODES:
                return []
            found += [f"{head}{number:0{len(first)}d}{tail}" if part else head for number in numbers]
    return found


def _time(text: str | None, field: str) -> int | None:
    return None if text is None or text in _NO_TIME else iso_time(text, field)


def _lasted(start: int | None, end: int) -> float:
    """Seconds from start to end; 0 for a job that never started. Raises BadRecord where the end comes first."""
    if start is None:
        return 0.0
    if end < start:
        raise BadRecord("negative:@end", "@end: is before @start")
    return (end - start) / SECOND


def _gpus(tres: str) -> float:
    """GPUs in a list of trackable resources; NaN where they are not tracked. Raises BadRecord.

    >>> _gpus("cpu=1,gres/gpu=4,gres/gpu:h200=4"), _gpus("gres/gpu:a100=2,gres/gpu:h200=4"), _gpus("cpu=1,mem=1M")
    (4.0, 6.0, nan)
    """
    typed = []
    for item in tres.split(","):
        name, _, amount = item.partition("=")
        if name == "gres/gpu":
            return _number(amount)
        if name.startswith("gres/gpu:"):
            typed.append(_number(amount))
    return sum(typed) if typed else float("nan")


def _number(text: str) -> float:
    if not (text.isascii() and text.isdigit() and len(text) <= len(str(_MOST_GPUS))) or int(text) > _MOST_GPUS:
        raise BadRecord("bad-number:tres_alloc", f"tres_alloc: not a number of GPUs: {text[:40]!r}")
    return float(text)


SOURCE = SlurmJobcomp
