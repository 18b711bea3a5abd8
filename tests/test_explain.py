from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings

from connectors.alert import Alert
from replay.explain import explain, headline
from tests.test_ocsf import ALERTS, HOSTILE, NIGHT, ODD_ALERTS, an_alert, harmless, piece, reason

DAY = 86_400_000_000


def bulk_pull() -> Alert:
    """The alert of docs/reading-an-alert.md."""
    pace = reason(
        signal="actor_rate",
        surprise=5.1,
        seen=12.0,
        expected=0.4,
        usual=3.0,
        unit="events a minute",
        base_rate=0.0061,
        text="user:mallory: 12 events this minute, 0.4 expected, up to 3 would be normal",
    )
    late = "it came too late to be learned, so it was only scored"
    shell = reason(
        signal="object_at_actor",
        surprise=4.6,
        seen=0.0,
        expected=3.0,
        usual=2.0,
        unit="days met",
        base_rate=0.01,
        text="user:mallory has never met node:gpu-07; it knows 2 others, from 3 meetings of late",
    )
    flow = {"stream": "flow", "action": "connect", "object": "node:gpu-07", "detail": "tcp/22", "reasons": [shell], "score": 8.9}
    return an_alert(
        revision=3,
        activity="update",
        streams=["registry", "flow"],
        severity=4,
        targets=["user:mallory", "ip:10.20.0.15", "pod:team-a/notebook-3"],
        evidence=[
            piece(reasons=[reason(), pace]),
            piece(time=NIGHT + 120_000_000, object="model:registry/mixtral-8x22b", score=10.2, offset=1866, events=9, lowered=[late]),
            piece(
                time=NIGHT + 490_000_000,
                **flow,
                source="zeek_conn",
                partition="conn.log",
                offset=90_112,
                uid="CHhAvVGS1DHFjwGM9",
                events=1,
            ),
            piece(time=NIGHT - 60_000_000, object="model:registry/phi", score=8.5),
        ],
    )


def test_the_page_about_alerts_shows_what_the_code_prints() -> None:
    page = Path(__file__).resolve().parents[1].joinpath("docs", "reading-an-alert.md").read_text(encoding="utf-8")
    shown = re.search(r"```text\n(.*?)\n```", page, re.DOTALL)
    assert shown is not None
    assert shown[1] == explain(bulk_pull())


def test_an_alert_on_an_object_in_probation_is_explained_whole() -> None:
    refused = reason(
        signal="denied_ratio",
        surprise=6.0,
        seen=40.0,
        expected=1.5,
        usual=4.0,
        unit="refusals this hour",
        base_rate=0.0025,
        text="ip:10.9.9.9 was refused 40 times this hour, 1.5 expected, up to 4 would be normal",
    )
    alert = an_alert(
        activity="close",
        revision=4,
        blamed="host:vault-1",
        role="object",
        principals=[f"ip:10.9.9.{i}" for i in range(7)],
        targets=[],
        first=NIGHT - DAY,
        streams=["auth"],
        score=5.0,
        threshold=4.9,
        evidence_peak=3.0,
        severity=2,
        events=1,
        partners=1,
        probation=True,
        evidence=[
            piece(
                stream="auth",
                action="login",
                outcome="denied",
                actor="ip:10.9.9.9",
                object="host:vault-1",
                detail="",
                reasons=[refused],
            )
        ],
    )
    assert explain(alert).splitlines() == [
        "LOW  Unusual auth activity around host:vault-1",
        "When      2026-11-19 22:50:00 to 2026-11-20 22:58:10 UTC; the alert opened 2026-11-20 22:50:00",
        "How sure  low (25 of 100): scored 5.0, 4.9 is where alerts begin; on probation: too little history",
        "          behind this to be sure, look before you act",
        "How much  1 surprising event with 1 partner in auth; risk 13 of 100",
        "",
        'Why, strongest first ("1 in N": so rarely does anything look as strange)',
        " 1. 2026-11-20 22:50:00 ip:10.9.9.9 tried to log in to host:vault-1 and was refused, 12 such this",
        "    hour",
        "    - ip:10.9.9.9 was refused 40 times this hour, 1.5 expected, up to 4 would be normal",
        "      [26.7x the expected, 1 in 400]",
        "    record oci_notifications registry.jsonl:1841, id ev-7f3a",
        "",
        "Meaning   could be Brute Force (Credential Access, ATT&CK T1110)",
        "Act on    ip:10.9.9.0, ip:10.9.9.1, ip:10.9.9.2, ip:10.9.9.3 and 3 more",
        "Alert     5c1f0b3a9d2e4f6871a0c3d5, revision 4 (closed, quiet for hours)",
    ]


def test_the_headline_says_when_how_bad_who_what_and_why() -> None:
    assert headline(an_alert(), width=200) == (
        "2026-11-20 22:58:10 5c1f0b3a MEDIUM   user:mallory pulled model:registry/llama-70b (layer): 140.2 GiB moved, about "
        "1.1 GiB expected between these two, up to 3.0 GiB would be normal"
    )
    assert headline(an_alert(activity="close"), width=69) == "2026-11-20 22:58:10 5c1f0b3a MEDIUM   over: user:mallory pulled mode…"
    assert headline(an_alert(evidence=[])) == "2026-11-20 22:58:10 5c1f0b3a MEDIUM   Unusual registry activity by user:mallory"


def test_a_plug_in_without_a_sentence_gets_one_from_its_numbers() -> None:
    mute = reason(signal="river:HalfSpaceTrees", text=" ", seen=3 * 2**30, expected=2.0**20, usual=None, base_rate=1e-12)
    text = explain(an_alert(evidence=[piece(reasons=[mute])]))
    assert "river:HalfSpaceTrees finds this strange, seen 3.0 GiB, expected 1.0 MiB" in text
    assert "[3,072x the expected, 1 in over a billion]" in text
    bare = reason(signal="river:LOF", text="", seen=None, expected=None, usual=None, base_rate=1.0)
    assert "    - river:LOF finds this strange [1 in 1]" in explain(an_alert(evidence=[piece(reasons=[bare])])).splitlines()


def test_nobody_accountable_is_said_in_words() -> None:
    assert "Act on    nobody is accountable for this by name" in explain(an_alert(principals=[]))


def test_a_broken_time_does_not_break_the_explanation() -> None:
    assert "99999999999999999999 µs" in explain(an_alert(first=10**20 - 1))


@pytest.mark.parametrize("name", ODD_ALERTS)
def test_odd_alerts_are_explained_within_bounds_and_without_raw_control_characters(name: str) -> None:
    assert fits(explain(ODD_ALERTS[name]))
    assert harmless(headline(ODD_ALERTS[name]))


def fits(text: str) -> bool:
    lines = text.split("\n")
    return len(lines) <= 40 and max(map(len, lines)) <= 100 and all(harmless(line) and line == line.rstrip() for line in lines)


def longest() -> dict[str, Any]:
    """The most an alert can say: every list full, every text long, with and without blanks to break at."""
    prose, word = "seldom have so many words said so little " * 40, "w" * 400
    reasons = [reason(text=prose), reason(text=word), reason(text=HOSTILE, base_rate=math.nan), reason(text=prose)]
    full = piece(
        actor=f"user:{word}", object=f"host:{prose}", detail=prose, uid=prose, partition=prose, lowered=[prose, word], reasons=reasons
    )
    return {
        "blamed": f"user:{word}",
        "principals": [f"user:{i}{word}" for i in range(10)],
        "targets": [f"token:{i}{prose}" for i in range(20)],
        "streams": [prose, word],
        "evidence": [full] * 10,
        "probation": True,
    }


def test_the_longest_alert_still_fits_a_screen() -> None:
    text = explain(an_alert(**longest()))
    assert fits(text)
    assert "and 7 more pieces of evidence" in text
    assert text.splitlines()[-1].startswith("Alert     5c1f0b3a9d2e4f6871a0c3d5")


@given(ALERTS)
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_any_alert_is_explained_the_same_way_twice_within_bounds(alert: Alert) -> None:
    assert explain(alert) == explain(alert)
    assert fits(explain(alert))
    assert harmless(headline(alert))
    assert len(headline(alert)) <= 120
