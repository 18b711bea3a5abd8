"""The safety kernel under any sequence of events; and every rule of it shown to be needed."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import run_state_machine_as_test

from connectors.event import SECOND
from detector import approvals, decide, kernel
from tests.kernel_machine import Machine


def walk(examples: int, steps: int = 40) -> None:
    """Run the machine; the same walks on every run."""
    run_state_machine_as_test(
        Machine,
        settings=settings(
            max_examples=examples,
            stateful_step_count=steps,
            deadline=None,
            derandomize=True,
            database=None,
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
            report_multiple_bugs=False,
        ),
    )


def test_whatever_happens_no_safety_rule_is_broken() -> None:
    walk(30)


@pytest.mark.slow
def test_whatever_happens_for_long_no_safety_rule_is_broken() -> None:
    walk(1_500)


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("rule", kernel.CHECKS, ids=lambda rule: rule.__name__)
def test_a_kernel_without_one_of_its_rules_is_found_out(monkeypatch: pytest.MonkeyPatch, rule: Any) -> None:
    monkeypatch.setattr(kernel, "CHECKS", tuple(each for each in kernel.CHECKS if each is not rule))
    with pytest.raises((AssertionError, BaseExceptionGroup)):
        walk(5_000)


#: Faults that this model found within few walks: where, what, and what stands there instead. Rarer ones have tests of their own.
FAULTS: dict[str, tuple[Any, str, Any]] = {
    "longer without what a beginning needs": (decide, "extends", lambda *_: True),
    "parties decide": (approvals, "_party", lambda *_: ""),
    "no time grows": (decide, "_end", lambda ask, state, **_: state.now + ask.measure.ttl_seconds * SECOND * ask.verb.undoable),
}


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS.keys())
def test_a_fault_that_was_there_once_is_found_out(monkeypatch: pytest.MonkeyPatch, fault: tuple[Any, str, Any]) -> None:
    monkeypatch.setattr(*fault)
    with pytest.raises((AssertionError, BaseExceptionGroup)):
        walk(5_000)
