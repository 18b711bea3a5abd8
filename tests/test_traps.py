"""The 32 traps that others fell into: where each is tested, and those of the responder that have no better place."""

from __future__ import annotations

import re
import socket
from pathlib import Path
from typing import Any

import msgspec
import pytest
from msgspec.structs import replace

from connectors.containment import available
from connectors.containment.lab import Lab
from connectors.event import MINUTE, SECOND
from detector.decide import decide
from detector.history import History
from detector.ledger import Ledger
from detector.policy import Measure, Respond, Rule
from detector.respond import Responder
from detector.wishes import Policy
from tests.alerts import T0, made_alert
from tests.checkout import ROOT
from tests.test_respond import lab, table

#: Trap -> the file with its test, or who covers it. Numbers as in the list of traps.
COVER: dict[int, str] = {
    1: "tests/test_traps_workload.py",
    2: "tests/test_traps_workload.py",
    3: "tests/test_traps_workload.py",
    4: "tests/test_traps_workload.py",
    5: "tests/test_responder.py",
    6: "tests/test_traps.py",
    7: "tests/test_kill.py",
    8: "tests/test_responder.py",
    9: "tests/test_traps.py",
    10: "tests/test_policy.py",
    11: "tests/test_responder.py",
    12: "tests/test_respond.py",
    13: "issue 2: tests/test_pipeline.py, state after a restart",
    14: "issue 2: tests/test_profiles.py, late events",
    15: "tests/test_responder.py",
    16: "issue 5: a failure to score",
    17: "issue 2: tests/test_names.py, hostile names",
    18: "issue 2: tests/test_profiles.py, cardinality flood",
    19: "issue 5: overload",
    20: "issue 7: suppressions",
    21: "tests/test_responder.py",
    22: "issue 2: tests/test_sources_battery.py, default scope",
    23: "issue 2: scored at the start of a job",
    24: "tests/test_traps.py",
    25: "tests/test_traps_workload.py",
    26: "tests/test_traps.py",
    27: "issue 7: an edit of a list is an event",
    28: "issue 2: tests/test_fuse.py, scores are immutable",
    29: "issue 2: tests/test_peers.py",
    30: "tests/test_traps.py",
    31: "issue 5: dead letters",
    32: "issue 5: dead-man's switch",
}


def test_every_trap_has_its_place_and_every_named_test_is_there() -> None:
    assert sorted(COVER) == list(range(1, 33))
    for number, place in COVER.items():
        if place.endswith(".py") and place.startswith("tests/"):
            assert re.search(rf"def test_t{number}_", (ROOT / place).read_text(encoding="utf-8")), f"T{number} in {place}"


#: A field of the policy, another value, and what it changes of what is decided on one alert; everything else stays as it was.
FIELDS: list[tuple[str, dict[str, Any], dict[str, Any], set[str]]] = [
    ("max_per_hour of all", {"max_per_hour": 0}, {}, {"result", "reason", "due"}),
    ("max_concurrent of all", {"max_concurrent": 0}, {}, {"result", "reason", "due"}),
    ("mode", {"mode": "observe"}, {}, {"mode", "result", "reason", "due"}),
    ("kill switch", {"kill_switch": True}, {}, {"result", "reason", "due"}),
    ("protected", {"protected": ["pod:*"]}, {}, {"result", "reason", "due"}),
    ("min_signals of all", {"min_signals": 9}, {}, {"result", "reason", "due"}),
    ("max_per_hour of the verb", {}, {"max_per_hour": 0}, {"result", "reason", "due"}),
    ("max_concurrent of the verb", {}, {"max_concurrent": 0}, {"result", "reason", "due"}),
    ("min_signals of the verb", {}, {"min_signals": 9}, {"result", "reason", "due"}),
    ("approvals", {}, {"approvals": 2}, {"result", "reason", "due"}),
    ("ttl", {}, {"ttl_seconds": 60}, {"due"}),
    ("escalate", {}, {"escalate": 2.0}, set()),
    ("cooldown", {}, {"cooldown_seconds": 9}, set()),
    ("approval_seconds", {"approval_seconds": 60}, {}, set()),
    ("max_age_seconds", {"max_age_seconds": 60}, {}, set()),
]


@pytest.mark.parametrize(("name", "of_all", "of_one", "changed"), FIELDS, ids=[each[0] for each in FIELDS])
def test_t6_each_setting_changes_only_what_it_is_for(name: str, of_all: Any, of_one: Any, changed: set[str]) -> None:
    def decided(respond: Respond) -> dict[str, Any]:
        (decision,) = decide(made_alert(), Policy(respond), History(), T0)
        plain: dict[str, Any] = msgspec.to_builtins(decision)
        return plain

    measure = Measure(verb="isolate_pod", mode="enforce")
    usual = Respond(mode="enforce", rules=[Rule(name="r", actions=[measure])])
    other = replace(usual, rules=[Rule(name="r", actions=[replace(measure, **of_one)])], **of_all)
    before, after = decided(usual), decided(other)
    assert {key for key in before if before[key] != after[key]} == changed, name


def test_t9_a_hundred_attackers_under_one_rule_are_all_contained_and_each_ends_by_itself() -> None:
    state = lab().target.state
    pod = state.pods["pod:team-a/trainer-0"]
    state.pods = {f"pod:team-a/p{i}": replace(pod, uid=f"u{i}", ip=f"10.1.0.{i}", labels={"pod": f"p{i}"}) for i in range(100)}
    world = Lab.rehearsal().adapter
    assert isinstance(world, Lab)
    world.target.state = state
    measure = Measure(verb="isolate_pod", mode="enforce", ttl_seconds=600, max_per_hour=100, max_concurrent=100)
    respond = Respond(mode="enforce", max_per_hour=100, max_concurrent=100, rules=[Rule(name="r", actions=[measure])])
    with Ledger() as ledger:
        responder = Responder(respond, [world], ledger)
        for i in range(100):
            alert = made_alert(uid=f"a{i}", targets=[f"pod:team-a/p{i}"], time=T0 + i * SECOND)
            assert [each.result for each in responder.handle(alert)] == ["verified"]
        assert not any(world.target.can_connect(name) for name in state.pods)
        for i in range(100):
            ended = responder.expire(T0 + 10 * MINUTE + i * SECOND)
            assert [(each.target, each.result) for each in ended] == [(f"pod:team-a/p{i}", "undo-verified")]


def test_t24_nothing_we_say_claims_that_an_action_prevents_anything() -> None:
    said = [ROOT / "docs" / "containment.md", *sorted((ROOT / "connectors" / "containment").glob("*.py"))]
    for path in said:
        assert not re.search(r"\bprevent(s|ed|ing)?\b", path.read_text(encoding="utf-8"), re.IGNORECASE), path


def test_t26_what_stays_open_stands_in_the_ledger_with_every_action() -> None:
    with Ledger() as ledger:
        Responder(table(), [lab()], ledger).handle(made_alert())
        carried = [entry.reason for entry in ledger.entries() if entry.result == "carried-out"]
    assert len(carried) == 3
    assert all("; left open: " in reason for reason in carried)


def test_t30_no_adapter_has_a_secret_of_its_own_or_a_place_to_write_one() -> None:
    for name, adapter in available().items():
        for field in msgspec.structs.fields(adapter.Settings):
            word = field.encode_name
            if re.search(r"password|secret|token|key\b", word) and not word.endswith(("_file", "_url", "_path")):
                assert field.type is not str, f"{name}.{word} must be a Secret"


def test_t8_the_responder_opens_no_door(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("the responder listens")

    monkeypatch.setattr(socket.socket, "listen", refuse)
    from tests.test_responder import Stage

    assert Stage(table("isolate_pod"), tmp_path).alert() == ["verified"]
