"""What the detector makes of real recorded data. The data lies beside the checkout in development; elsewhere these are skipped."""

from __future__ import annotations

from pathlib import Path

import pytest

from connectors.event import DAY
from connectors.sources.table import read_mapping
from tests.shared import data
from tests.test_pipeline import run

MAPPINGS = Path(__file__).parent.parent / "docs" / "mappings"


def _steps(summary: object) -> set[str]:
    """Which of the three attack steps of the emulation's first day are among the strongest evidence."""
    found = set()
    for piece in summary.strongest:  # type: ignore[attr-defined]
        edge = piece.actor, piece.object, piece.detail
        if edge == ("ip:10.0.1.4", "ip:192.168.0.4", "tcp/80"):
            found.add("exfiltration")
        if edge[:2] == ("ip:10.0.1.4", "ip:10.0.1.6") and edge[2] in ("tcp/5985", "tcp/445", "tcp/135"):
            found.add("lateral movement")
        if edge == ("ip:10.0.1.6", "ip:192.168.0.4", "tcp/8443"):
            found.add("beacon")
    return found


@pytest.mark.parametrize("day", [1, 2])
def test_an_attack_emulation_of_forty_minutes_gives_a_handful_of_explained_alerts(day: int) -> None:
    summary, alerts = run([data() / f"apt29-zeek-day{day}.jsonl.gz"], config="")
    assert summary.events == {1: 613, 2: 1172}[day]
    assert summary.rejected == {}
    assert 1 <= summary.alerts <= 5
    assert all(alert.evidence and alert.evidence[0].reasons for alert in alerts)


def test_two_of_its_three_attack_steps_are_among_the_ten_strongest_pieces_of_evidence() -> None:
    summary, _ = run([data() / "apt29-zeek-day1.jsonl.gz"], config="")
    assert len(_steps(summary)) >= 2


@pytest.mark.parametrize("name", ["gentd26-model-access", "lcg2005-jobs", "dlrm2025-pods"])
def test_benign_data_keeps_the_budget_of_five_a_day_within_a_factor_of_two(name: str) -> None:
    mapping = read_mapping(MAPPINGS / f"{name}.toml")
    summary, alerts = run([data() / f"{name}.csv.gz"], config="[budget]\nalerts_per_day = 5\n", mapping=mapping)
    opened = [alert.time for alert in alerts if alert.activity == "open"]
    begin = min(alert.first for alert in alerts) // DAY * DAY
    end = begin + int(summary.days * DAY)
    after = [time for time in opened if time >= begin + 3 * DAY]
    a_day = len(after) / ((end - begin) / DAY - 3)
    assert 2.5 <= a_day <= 10.0
