"""The benchmark of scenarios: what counts as caught, and its summary. The measurement itself takes minutes and is run by hand."""

from __future__ import annotations

import msgspec
import pytest

from benchmarks.scenarios import Figures, Seen, judged, shown, summed_up
from connectors.alert import Alert, Evidence
from connectors.event import SECOND
from replay.simulate.labels import Label

LABEL = Label(
    scenario="theft", principals=["user:eve"], first="", last="", first_us=0, last_us=0, records={"conn.log": [4, 5, 9]}, slow=False
)


def evidence(offset: int, log: str = "conn.log", score: float = 9.0) -> Evidence:
    reason = {"signal": "egress", "surprise": 9.0, "seen": 1.0, "expected": 0.0, "usual": 0.0, "unit": "bytes", "base_rate": 0.001}
    where = {"source": "zeek_conn", "partition": f"/some/where/{log}", "offset": offset, "uid": "", "time": 0, "detail": "", "via": ""}
    what = {"stream": "flow", "action": "connect", "outcome": "ok", "actor": "ip:10.0.0.1", "object": "ip:192.0.2.1", "score": score}
    rest = {"reasons": [{**reason, "text": "much moved"}], "events": 1, "lowered": []}
    return msgspec.convert({**where, **what, **rest}, Evidence)


def alert(uid: str, seconds: int, *pieces: Evidence, activity: str = "open", line: str = "main") -> Alert:
    times = dict.fromkeys(("time", "opened", "first", "last"), seconds * SECOND)
    numbers = {"score": 9.0, "threshold": 8.0, "evidence_now": 0.0, "evidence_peak": 0.0, "severity": 2, "events": 1, "partners": 1}
    names: dict[str, list[str]] = {"principals": [], "targets": [], "signals": [], "streams": [], "actions": []}
    who = {"uid": uid, "line": line, "revision": 0, "activity": activity, "blamed": "user:eve", "role": "actor", "probation": False}
    return msgspec.convert({**times, **numbers, **names, **who, "evidence": list(pieces)}, Alert)


def seen(*revisions: Alert) -> Seen:
    return Seen(list(revisions), [100 * SECOND, 160 * SECOND, 220 * SECOND], [7.0, 9.0, 8.0], [8.5, 8.6, 8.7], days=2.0, events=10)


def test_an_alert_on_a_record_of_the_scenario_catches_it_and_its_delay_is_counted_in_its_events() -> None:
    found = judged(seen(alert("a", 50, evidence(1)), alert("b", 160, evidence(5))), LABEL, 1)
    assert (found.caught, found.events, found.seconds, found.signal, found.named) == ("opened", 0, 60.0, "egress", True)
    assert (found.false_a_day, found.on_it, found.rows) == (0.5, 1, 3)
    later = judged(seen(alert("b", 220, evidence(9))), LABEL, 1)
    assert later.events == 1


def test_an_alert_on_other_records_of_the_same_number_or_person_catches_nothing() -> None:
    found = judged(seen(alert("a", 160, evidence(5, "slurm.jsonl")), alert("b", 170, evidence(6))), LABEL, 1)
    assert (found.caught, found.events, found.seconds) == ("", None, None)
    assert (found.best, found.bar) == (9.0, 8.6)
    assert found.false_a_day == 1.0


def test_an_open_alert_that_takes_it_in_is_joined_and_the_slow_line_is_told() -> None:
    opened = alert("a", 50, evidence(1))
    joined = alert("a", 170, evidence(1), evidence(5), activity="update")
    assert judged(seen(opened, joined), LABEL, 1).caught == "joined"
    slow = judged(seen(alert("a", 170, evidence(5), line="slow"), alert("b", 180, evidence(1), line="slow")), LABEL, 1)
    assert (slow.caught, slow.slow_a_day, slow.false_a_day) == ("opened, slow", 0.5, 0.0)


def test_a_hard_case_makes_every_alert_false() -> None:
    benign = Label(scenario="move", benign=True, first="", last="", first_us=0, last_us=0, records={"conn.log": [5]})
    found = judged(seen(alert("a", 160, evidence(5)), alert("b", 170, evidence(6))), benign, 1)
    assert (found.false_a_day, found.on_it) == (1.0, 1)


def test_the_summary_names_what_was_missed_and_leaves_the_slow_out_of_the_delay() -> None:
    found = [
        Figures("a", 1, benign=False, slow=False, caught="opened", events=4, seconds=1.0, false_a_day=5.0),
        Figures("a", 2, benign=False, slow=False, false_a_day=4.0),
        Figures("b", 1, benign=False, slow=True, caught="opened, slow", events=900, seconds=9.0, false_a_day=4.5),
        Figures("c", 1, benign=True, slow=False, false_a_day=6.0),
    ]
    said = summed_up(found, 5.0)
    assert said["missed"] == ["a, seed 2"]
    assert (said["families"], said["caught_on_every_seed"], said["median_delay_events"]) == (2, 1, 4)
    assert said["hard_case_share"] == pytest.approx(1.2)
    assert "(hard case)" in shown(found)
