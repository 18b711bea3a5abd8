"""What every containment adapter must do, each check shown to fail on an adapter that does not."""

from __future__ import annotations

import copy
from collections.abc import Callable

import msgspec
import pytest

from connectors.containment import Action, Adapter, Applied, Prepared, Rehearsal, Snapshot, Undone, Verb, Verified, available, offered
from connectors.containment.lab import QUARANTINE, Lab
from connectors.names import KINDS

Rehearse = Callable[[], Rehearsal]
Check = Callable[[Rehearse, Verb, str], None]


def prepared(stage: Rehearsal, verb: Verb, target: str, action: str = "a1") -> Action:
    first = Action(id=action, verb=verb.name, target=target)
    ready = stage.adapter.prepare(first)
    assert ready.status == "ready", ready
    assert ready.snapshot is not None
    return msgspec.structs.replace(first, snapshot=ready.snapshot)


def applied(stage: Rehearsal, verb: Verb, target: str, action: str = "a1") -> Action:
    ready = prepared(stage, verb, target, action)
    assert stage.adapter.apply(ready).status == "applied"
    return ready


def cycle(adapter: Adapter, verb: str, target: str) -> str:
    """All five calls; "" where each came to its end, else what the first that did not said."""
    action = Action(id="a1", verb=verb, target=target)
    ready = adapter.prepare(action)
    if ready.status != "ready":
        return f"prepare: {ready}"
    action = msgspec.structs.replace(action, snapshot=ready.snapshot)
    done, seen = adapter.apply(action), adapter.verify(action)
    if done.status != "applied" or seen.status != "verified":
        return f"apply: {done} {seen}"
    if not next(one for one in adapter.verbs if one.name == verb).undoable:
        return ""
    undone, left = adapter.undo(action), adapter.verify_undone(action)
    return "" if (undone.status, left.status) == ("undone", "verified") else f"undo: {undone} {left}"


def shown(verb: Verb) -> str:
    """What ``verify`` says of an effect that is there."""
    return "unverified" if verb.blind else "verified"


def describes_itself(rehearse: Rehearse, verb: Verb, target: str) -> None:
    stage = rehearse()
    assert stage.adapter.title
    assert stage.adapter.Settings.__struct_config__.forbid_unknown_fields
    assert verb.kinds
    assert set(verb.kinds) <= KINDS.keys()
    assert target.partition(":")[0] in verb.kinds
    assert verb.residual.endswith(".")
    assert verb.needs


def prepare_changes_nothing(rehearse: Rehearse, verb: Verb, target: str) -> None:
    stage = rehearse()
    before = copy.deepcopy(stage.state())
    prepared(stage, verb, target)
    assert stage.state() == before


def takes_effect_and_shows_it(rehearse: Rehearse, verb: Verb, target: str) -> None:
    stage = rehearse()
    before = copy.deepcopy(stage.state())
    ready = prepared(stage, verb, target)
    assert stage.adapter.verify(ready).status != "verified"
    assert stage.adapter.apply(ready).status == "applied"
    assert stage.state() != before
    assert stage.adapter.verify(ready).status == shown(verb)


def undo_restores_exactly(rehearse: Rehearse, verb: Verb, target: str) -> None:
    stage = rehearse()
    before = copy.deepcopy(stage.state())
    action = applied(stage, verb, target)
    if not verb.undoable:
        contained = copy.deepcopy(stage.state())
        assert stage.adapter.undo(action).status == "failed"
        assert stage.state() == contained
        return
    assert stage.adapter.verify_undone(action).status == ("unverified" if verb.blind else "not-effective")
    assert stage.adapter.undo(action).status == "undone"
    assert stage.state() == before
    assert stage.adapter.verify_undone(action).status == shown(verb)


def twice_is_once(rehearse: Rehearse, verb: Verb, target: str) -> None:
    stage = rehearse()
    action = applied(stage, verb, target)
    contained = copy.deepcopy(stage.state())
    assert stage.adapter.apply(action).status in ("applied", "already")
    assert stage.state() == contained
    if not verb.undoable:
        return
    assert stage.adapter.undo(action).status == "undone"
    free = copy.deepcopy(stage.state())
    assert stage.adapter.undo(action).status == ("undone" if verb.blind else "already")
    assert stage.state() == free


def already_so_is_success_and_not_ours(rehearse: Rehearse, verb: Verb, target: str) -> None:
    if verb.blind:
        # Each action is a message of its own; nobody knows what the receiver has made of those before.
        return
    stage = rehearse()
    late = prepared(stage, verb, target, "a2")
    applied(stage, verb, target, "a1")
    contained = copy.deepcopy(stage.state())
    second = Action(id="a3", verb=verb.name, target=target)
    found = stage.adapter.prepare(second)
    if found.status != "already" and not verb.undoable:
        # The instance is used up: nothing is there, or another that nobody has acted on.
        assert (found.trouble and found.trouble.kind == "gone") or found.snapshot != late.snapshot
    else:
        assert found.status == "already"
        assert stage.adapter.verify(second).status == "verified"
    assert stage.adapter.apply(late).status == "already"
    assert stage.adapter.undo(late).status in ("already", "failed")
    assert stage.state() == contained


def unknown_is_not_success(rehearse: Rehearse, verb: Verb, target: str) -> None:
    stage = rehearse()
    before = copy.deepcopy(stage.state())
    snapshot = prepared(stage, verb, target).snapshot
    foreign = next(kind for kind in KINDS if kind not in verb.kinds)
    # Whoever only sends messages does not know who is there.
    absent = [f"{kind}:no-such/thing-0" for kind in verb.kinds if not verb.blind]
    for name in (*absent, f"{foreign}:thing", "no identity at all"):
        action = Action(id="a1", verb=verb.name, target=name)
        found = stage.adapter.prepare(action)
        assert (found.status, found.snapshot) == ("failed", None)
        assert found.reason
        assert stage.adapter.verify(action).status != "verified"
        assert stage.adapter.undo(action).status != "undone"
        assert stage.adapter.apply(action).status == "failed"
    assert stage.adapter.apply(Action(id="a1", verb="no_such_verb", target=target, snapshot=snapshot)).status == "failed"
    assert stage.state() == before


def snapshot_survives_json(rehearse: Rehearse, verb: Verb, target: str) -> None:
    stage = rehearse()
    before = copy.deepcopy(stage.state())
    action = applied(stage, verb, target)
    read_back = msgspec.json.decode(msgspec.json.encode(action), type=Action)
    assert read_back == action
    assert stage.adapter.verify(read_back).status == shown(verb)
    if verb.undoable:
        assert stage.adapter.undo(read_back).status == "undone"
        assert stage.state() == before


CHECKS: tuple[Check, ...] = (
    describes_itself,
    prepare_changes_nothing,
    takes_effect_and_shows_it,
    undo_restores_exactly,
    twice_is_once,
    already_so_is_success_and_not_ours,
    unknown_is_not_success,
    snapshot_survives_json,
)

CASES = [
    pytest.param(adapter.rehearsal, verb, target, id=f"{name}-{verb.name}-{target}")
    for name, adapter in available().items()
    for verb in adapter.verbs
    for target in adapter.rehearsal().targets.get(verb.name, ("none:rehearsed",))
]


@pytest.mark.parametrize("check", CHECKS)
@pytest.mark.parametrize(("rehearse", "verb", "target"), CASES)
def test_every_adapter_passes_every_check(check: Check, rehearse: Rehearse, verb: Verb, target: str) -> None:
    check(rehearse, verb, target)


def test_every_verb_is_rehearsed_and_has_one_name() -> None:
    assert "lab" in available()
    for adapter in available().values():
        names = [verb.name for verb in adapter.verbs]
        assert len(names) == len(set(names))
        assert set(adapter.rehearsal().targets) == set(names)
        assert set(names) <= offered().keys()


class Silent(Lab):
    """Has no sentence on what stays open."""

    verbs = tuple(msgspec.structs.replace(verb, residual="") for verb in Lab.verbs)


class Eager(Lab):
    """Acts while it only should look."""

    def prepare(self, action: Action) -> Prepared:
        ready = super().prepare(action)
        super().apply(msgspec.structs.replace(action, snapshot=ready.snapshot))
        return ready


class Boaster(Lab):
    """Says success, does nothing, and believes itself."""

    def apply(self, action: Action) -> Applied:
        return Applied("applied", "done")

    def verify(self, action: Action) -> Verified:
        return Verified("verified", "done")


class Leaver(Lab):
    """Undoes without undoing."""

    def undo(self, action: Action) -> Undone:
        return Undone("undone", "done")


class Marker(Lab):
    """Leaves another mark at every call."""

    def apply(self, action: Action) -> Applied:
        done = super().apply(action)
        if done.status != "failed":
            for pod in self.target.state.pods.values():
                pod.labels["touched"] = pod.labels.get("touched", "") + "x"
        return done


class Usurper(Lab):
    """Takes what is already so for its own work, and undoes other actions' work."""

    def prepare(self, action: Action) -> Prepared:
        return Prepared("ready", "", {"uid": "u0", "label": None})

    def undo(self, action: Action) -> Undone:
        for pod in self.target.state.pods.values():
            pod.labels.pop(QUARANTINE, None)
        return Undone("undone", "")


class Optimist(Lab):
    """What it does not know, it calls done."""

    def prepare(self, action: Action) -> Prepared:
        found = super().prepare(action)
        return Prepared("already", "surely") if found.status == "failed" else found


class Bytes(Lab):
    """Keeps state that JSON gives back as something else."""

    def prepare(self, action: Action) -> Prepared:
        found = super().prepare(action)
        snapshot: Snapshot | None = found.snapshot and {**found.snapshot, "raw": b"\x00"}
        return Prepared(found.status, found.reason, snapshot)


BAD: list[tuple[Check, type[Lab]]] = [
    (describes_itself, Silent),
    (prepare_changes_nothing, Eager),
    (takes_effect_and_shows_it, Boaster),
    (undo_restores_exactly, Leaver),
    (twice_is_once, Marker),
    (already_so_is_success_and_not_ours, Usurper),
    (unknown_is_not_success, Optimist),
    (snapshot_survives_json, Bytes),
]


@pytest.mark.parametrize(("check", "adapter"), BAD)
def test_every_check_fails_an_adapter_that_is_bad_in_its_way(check: Check, adapter: type[Lab]) -> None:
    verb = next(verb for verb in adapter.verbs if verb.name == "isolate_pod")
    with pytest.raises(AssertionError):
        check(adapter.rehearsal, verb, "pod:team-a/trainer-0")


def test_every_check_is_shown_to_fail() -> None:
    assert {check for check, _ in BAD} == set(CHECKS)
