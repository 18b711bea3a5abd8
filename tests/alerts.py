"""Alerts for tests of what answers them."""

from __future__ import annotations

from typing import Any

from connectors.alert import Alert, Evidence
from connectors.event import SECOND

T0 = 1_750_000_000 * SECOND


def made_alert(**changes: Any) -> Alert:
    """A grave alert on user:alice, with her pod, her token and her job in the evidence."""
    values: dict[str, Any] = {
        "uid": "alert-1",
        "revision": 1,
        "activity": "open",
        "time": T0,
        "opened": T0,
        "first": T0,
        "last": T0,
        "blamed": "user:alice",
        "role": "actor",
        "principals": ["user:alice"],
        "targets": ["pod:team-a/trainer-0", "token:t1", "job:slurm/1", "ip:10.0.0.9"],
        "score": 12.0,
        "threshold": 9.0,
        "evidence_now": 30.0,
        "evidence_peak": 30.0,
        "severity": 4,
        "events": 3,
        "partners": 2,
        "signals": ["actor_rarity", "bytes_out"],
        "streams": ["flow", "registry"],
        "actions": ["pull"],
        "evidence": [],
        "probation": False,
    }
    return Alert(**(values | changes))


def piece(actor: str, via: str) -> Evidence:
    return Evidence(
        time=T0,
        stream="flow",
        action="connect",
        outcome="ok",
        actor=actor,
        object="host:db",
        via=via,
        detail="",
        score=9.0,
        reasons=[],
        source="zeek_conn",
        partition="conn.log",
        offset=0,
        uid="",
        events=1,
        lowered=[],
    )
