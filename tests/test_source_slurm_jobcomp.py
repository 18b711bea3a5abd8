from __future__ import annotations

from typing import Any

import pytest

from connectors.event import Binding
from tests.shared import samples
from tests.source_stage import events, fresh, reasons

NAME = "slurm_jobcomp"
END: dict[str, Any] = {
    "jobid": 8812,
    "sluid": "s7SXM7XJWKCK00",
    "username": "Alice",
    "@start": "2026-11-20T22:57:58",
    "@end": "2026-11-20T23:57:58",
    "elapsed": 3600,
    "partition": "gpu",
    "state": "COMPLETED",
    "@submit": "2026-11-20T22:50:00",
    "cluster": "aifac",
    "qos": "normal",
    "tres_alloc": "cpu=1,node=1,billing=1,gres/gpu=4,gres/gpu:h200=4",
    "account": "ml",
}
START = {key: value for key, value in END.items() if key not in ("@end", "elapsed")} | {"state": None}
SUBMITTED, STARTED, ENDED = 1795215000_000000, 1795215478_000000, 1795219078_000000
JOB = "job:slurm/aifac/8812"


def one(**changes: Any) -> dict[str, Any]:
    """The row of the finished job with fields replaced; None takes one away."""
    return events(fresh(NAME, {key: value for key, value in {**END, **changes}.items() if value is not None}))[0]


def test_start_and_end_are_read_field_by_field() -> None:
    same = {
        "stream": "job",
        "outcome": "ok",
        "actor": "user:alice",
        "object": "queue:aifac/gpu",
        "via": JOB,
        "detail": "ml",
        "gpus": 4.0,
    }
    assert events(fresh(NAME, START, END)) == [
        {"record": 0, "time": STARTED, "action": "start", "uid": "s7SXM7XJWKCK00"} | same,
        {"record": 1, "time": ENDED, "action": "end", "uid": "s7SXM7XJWKCK00", "duration": 3600.0, "gpu_seconds": 14400.0} | same,
    ]


def test_a_job_belongs_to_its_user_from_its_submission_on() -> None:
    decoded = fresh(NAME, START, END)
    assert decoded.bindings == [Binding(i, SUBMITTED, JOB, "user:alice") for i in (0, 1)]
    alone = fresh(NAME, {key: value for key, value in END.items() if key != "@submit"})
    assert alone.bindings == [Binding(0, STARTED, JOB, "user:alice")]


@pytest.mark.parametrize(
    ("state", "outcome"),
    [
        ("COMPLETED", "ok"),
        ("FAILED", "failed"),
        ("NODE_FAIL", "failed"),
        ("TIMEOUT", "failed"),
        ("OUT_OF_MEMORY", "failed"),
        ("CANCELLED", "unknown"),
        ("CANCELLED by 1000", "unknown"),
        ("PREEMPTED", "unknown"),
        ("RESIZING", "unknown"),
    ],
)
def test_outcomes_follow_the_state(state: str, outcome: str) -> None:
    assert one(state=state)["outcome"] == outcome


@pytest.mark.parametrize(("start", "elapsed"), [(None, 0), ("Unknown", -86_400), ("None", 1_795_219_078)])
def test_a_job_cancelled_while_it_waited_held_no_gpus_for_no_time(start: str | None, elapsed: int) -> None:
    row = one(**{"@start": start}, elapsed=elapsed, state="CANCELLED")
    assert (row["action"], row["outcome"], row["duration"], row["gpu_seconds"]) == ("end", "unknown", 0.0, 0.0)
    assert one(**{"@start": start}, elapsed=elapsed, tres_alloc=None)["gpu_seconds"] == 0.0


def test_time_is_counted_between_start_and_end_and_not_taken_from_elapsed() -> None:
    assert one(elapsed=999_999_999)["gpu_seconds"] == 14400.0


@pytest.mark.parametrize(
    ("tres", "gpus"),
    [
        ("cpu=1,gres/gpu=8", 8.0),
        ("gres/gpu:a100=2,gres/gpu:h200=4", 6.0),
        ("gres/gpu:h200=4,gres/gpu=5", 5.0),
        ("cpu=1,node=1,billing=1", None),
        ("", None),
        (None, None),
    ],
)
def test_gpus_are_known_only_where_they_are_tracked(tres: str | None, gpus: float | None) -> None:
    assert one(tres_alloc=tres).get("gpus") == gpus


def test_without_a_cluster_queue_and_job_are_named_without_it() -> None:
    row = one(cluster=None)
    assert (row["object"], row["via"]) == ("queue:gpu", "job:slurm/8812")


def test_detail_is_the_account_else_the_qos_and_never_hostile_text() -> None:
    assert one(account=None)["detail"] == "normal"
    assert "detail" not in one(account=None, qos=None)
    assert one(account="x" * 65)["detail"] == one(account="a\x00b")["detail"] == "other"


def test_of_several_partitions_waited_for_the_first_counts() -> None:
    assert one(partition="gpu,debug")["object"] == "queue:aifac/gpu"


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"@end": "2026-11-20T22:57:57"}, "negative:@end"),
        ({"@start": "soon"}, "bad-time:@start"),
        ({"@submit": "1970-01-01T00:00:00"}, "time-out-of-range:@submit"),
        ({"@start": None, "@end": None}, "missing:@start"),
        ({"jobid": -1}, "negative:jobid"),
        ({"jobid": "8812"}, "wrong-type:jobid"),
        ({"username": None}, "missing:username"),
        ({"username": "a\u202eb"}, "bad-identity:username"),
        ({"partition": ""}, "missing:partition"),
        ({"tres_alloc": "gres/gpu=-4"}, "bad-number:tres_alloc"),
        ({"tres_alloc": "gres/gpu=nan"}, "bad-number:tres_alloc"),
        ({"tres_alloc": "gres/gpu=9999999"}, "bad-number:tres_alloc"),
    ],
)
def test_what_is_bad_is_named_and_the_rest_goes_on(change: dict[str, Any], reason: str) -> None:
    bad = {key: value for key, value in {**END, **change}.items() if value is not None}
    decoded = fresh(NAME, END, bad, END)
    assert reasons(decoded) == [(1, reason)]
    assert [row["record"] for row in events(decoded)] == [0, 2]
    assert [binding.record for binding in decoded.bindings] == [0, 2]


def test_every_sample_is_read_field_by_field() -> None:
    decoded = fresh(NAME, *(samples() / "slurm_jobcomp_kafka_26.05.5.jsonl").read_bytes().splitlines())
    first = {
        "stream": "job",
        "outcome": "ok",
        "actor": "user:alice",
        "object": "queue:aifac/gpu",
        "via": "job:slurm/aifac/1",
        "detail": "ml",
        "gpus": 4.0,
        "uid": "s7SXM7XJWKCK00",
    }
    assert events(decoded) == [
        {"record": 0, "time": 1795215478_000000, "action": "start"} | first,
        {key: value for key, value in first.items() if key != "gpus"}
        | {"record": 0, "time": 1795215478_000000, "action": "start", "object": "node:vm", "detail": "node"},
        {"record": 1, "time": 1795215483_000000, "action": "end", "duration": 5.0, "gpu_seconds": 20.0} | first,
        {
            "record": 2,
            "time": 1795215325_000000,
            "stream": "job",
            "action": "end",
            "outcome": "ok",
            "actor": "user:alice",
            "object": "queue:gpu",
            "via": "job:slurm/5",
            "duration": 1.0,
            "uid": "s49HM7XJQXT800",
        },
    ]
    assert decoded.bindings == [
        Binding(0, 1795215478_000000, "job:slurm/aifac/1", "user:alice"),
        Binding(1, 1795215478_000000, "job:slurm/aifac/1", "user:alice"),
        Binding(2, 1795215318_000000, "job:slurm/5", "user:alice"),
    ]


def test_a_job_that_starts_is_seen_at_each_of_its_nodes() -> None:
    rows = events(fresh(NAME, {**START, "nodes": "gpu-[08-09],Login1"}, {**END, "nodes": "gpu-[08-09]"}))
    assert [(row["record"], row["action"], row["object"]) for row in rows] == [
        (0, "start", "queue:aifac/gpu"),
        (0, "start", "node:gpu-08"),
        (0, "start", "node:gpu-09"),
        (0, "start", "node:login1"),
        (1, "end", "queue:aifac/gpu"),
    ]
    assert {(row["actor"], row["via"], row["detail"]) for row in rows[1:4]} == {("user:alice", JOB, "node")}


@pytest.mark.parametrize("nodes", ["(null)", "None assigned", "gpu-[1-999999999]", "gpu-[9-1]", "a[1]b[2]", "gpu-[", "\u202e", "a,,b"])
def test_a_host_list_that_is_none_or_too_long_gives_no_nodes_and_no_reject(nodes: str) -> None:
    decoded = fresh(NAME, {**START, "nodes": nodes})
    assert decoded.rejects == []
    assert [row["object"] for row in events(decoded)] == ["queue:aifac/gpu"]
