"""The adapters on live targets of yours: named by TOCSIN_LIVE, a TOML file; without it only the fakes are tried, by the same test.

Each table ``[<adapter>]`` holds its settings as under ``[respond.adapters.<adapter>]``, and ``try = { <verb> = [<target>, ...] }``:
things that may be contained, looked at, and let go again. What cannot be taken back is done too where it is named.
"""

from __future__ import annotations

import os
import time
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from connectors.containment import Action, Adapter, Verb, available
from tests.weather import ADAPTERS

#: Longest that an effect may take to show, in seconds: pods have 30 seconds to end.
PATIENCE = 60


def rehearsed() -> Iterator[Any]:
    """(adapter, verb, target) of every fake; the adapter is made when asked for."""
    for name, made in ADAPTERS.items():
        for verb in made.verbs:
            for target in made.rehearsal().targets[verb.name]:
                yield pytest.param(lambda made=made: made.rehearsal().adapter, verb, target, id=f"fake-{name}-{verb.name}-{target}")


def live() -> Iterator[Any]:
    """The same of what the file names."""
    named = os.environ.get("TOCSIN_LIVE")
    for name, table in tomllib.loads(Path(named).read_text(encoding="utf-8")).items() if named else ():
        made = available()[name]
        wanted = table.pop("try")
        settings = msgspec.convert(table, made.Settings)
        for verb in made.verbs:
            for target in wanted.get(verb.name, ()):
                yield pytest.param(lambda made=made, given=settings: made(given), verb, target, id=f"live-{name}-{verb.name}-{target}")


def there_and_back(adapter: Adapter, verb: Verb, target: str) -> None:
    """The contract on one thing: contained once, seen, and let go where that can be."""
    first = Action(id=f"live-{os.getpid()}-{time.time_ns()}", verb=verb.name, target=target)
    ready = adapter.prepare(first)
    assert ready.status == "ready", ready
    action = msgspec.structs.replace(first, snapshot=msgspec.json.decode(msgspec.json.encode(ready.snapshot)))
    done = adapter.apply(action)
    try:
        assert done.status == "applied", done
        end = time.monotonic() + PATIENCE
        while (seen := adapter.verify(action)).status == "not-effective" and time.monotonic() < end:
            time.sleep(max(seen.again, 0.2))
        assert seen.status in ("verified", "unverified"), seen
        assert adapter.apply(action).status == "already"
    finally:
        undone = adapter.undo(action)
    if verb.undoable:
        assert undone.status == "undone", undone
        assert adapter.verify_undone(action).status == "verified"
        assert adapter.undo(action).status == "already"
        assert adapter.prepare(first).snapshot == ready.snapshot


@pytest.mark.parametrize(("made", "verb", "target"), [*rehearsed(), *live()])
def test_a_target_keeps_the_contract(made: Callable[[], Adapter], verb: Verb, target: str) -> None:
    adapter = made()
    try:
        there_and_back(adapter, verb, target)
    finally:
        adapter.close()
