"""Key figures: counted by hand on small ledgers."""

from __future__ import annotations

import pytest

from connectors.decision import made
from connectors.event import MINUTE, SECOND
from detector.history import Facts
from detector.kpi import Grant, Kpi, Times, measure, privileges
from detector.ledger import Ledger
from detector.respond import Responder
from tests.alerts import T0, made_alert
from tests.test_ledger import entry
from tests.test_respond import lab, table

FACTS = Facts(first=0, opened=10 * SECOND, time=10 * SECOND, severity=4, confidence=80, signals=["a"], probation=False)


def test_times_count_from_the_first_surprising_event_to_each_step() -> None:
    steps = [("decided", "enforced", 12), ("intent", "", 13), ("outcome", "carried-out", 15), ("verify", "verified", 20)]
    rows = [entry(1, step=step, result=result, time=at * SECOND, facts=FACTS) for step, result, at in steps]
    found = measure(rows)
    assert found.to_detection == Times(1, 10.0, 10.0, 10.0)
    assert (found.to_decision.mean, found.to_dispatch.mean, found.to_effect.mean) == (12.0, 13.0, 20.0)
    assert (found.alerts, found.actions, found.verified) == (1, 1, 1)


def test_what_never_had_an_effect_has_no_time_and_is_counted_apart() -> None:
    rows = [
        entry(1, step="decided", result="enforced", time=12 * SECOND, facts=FACTS),
        entry(1, step="outcome", result="failed", time=13 * SECOND, facts=FACTS),
    ]
    found = measure(rows)
    assert found.to_effect == Times(0)
    assert (found.actions, found.verified, found.failed) == (1, 0, 1)


def test_alerts_that_led_to_nothing_count_for_detection() -> None:
    alert = made_alert(first=T0 - 30 * SECOND, opened=T0)
    assert measure([], [alert]).to_detection.mean == 30.0


@pytest.mark.parametrize(("released", "minutes"), [(True, 7.0), (False, 0.0)])
def test_only_what_a_person_takes_back_early_was_a_false_containment(released: bool, minutes: float) -> None:
    with Ledger() as ledger:
        responder = Responder(table("isolate_pod"), [lab()], ledger)
        responder.handle(made_alert())
        (hold,) = ledger.history.holds.values()
        if released:
            responder.hear(made(hold.entry.action, "release", "user:ann", T0), T0 + 7 * MINUTE)
        responder.expire(T0 + 300 * MINUTE)
        found = measure(ledger.entries())
    assert (found.false_containment_minutes, found.released) == (minutes, int(released))


def test_standing_privileges_are_those_without_an_end() -> None:
    grants = [
        Grant(identity="user:ann", role="admin", since=0),
        Grant(identity="user:ann", role="owner", since=0),
        Grant(identity="user:bob", role="admin", since=0, until=200),
        Grant(identity="user:eve", role="admin", since=0, until=50),
        Grant(identity="user:dan", role="admin", since=500),
    ]
    kpi: Kpi = measure([])
    privileges(kpi, grants, 100)
    assert (kpi.standing_privileged, kpi.just_in_time_share) == (1, 0.3333)
