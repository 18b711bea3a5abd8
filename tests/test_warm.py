"""A worker has loaded what its stages need before it takes its share of the work."""

from __future__ import annotations

import subprocess
import sys

import pytest

#: Run in a process of its own, where nothing is loaded yet: how many kernels the first event loads, and whether it imports anything.
FIRST = """
import sys
from connectors.names import Names
from connectors.sources import available
from detector.config import parse
from detector.router import by_actor
from detector.stage import Shared
from detector.stages import ActorStage, ObjectStage
from detector.warm import libraries, warm
from numba.core.dispatcher import Dispatcher
stages = sys.argv[1:]
config = parse('[kafka]\\nraw = [{topic = "flows", source = "zeek_conn"}]')
warm(config, stages)
libraries(stages)
before, loaded = set(sys.modules), []
whole = Dispatcher.compile
Dispatcher.compile = lambda self, *given: (loaded.append(self.__name__), whole(self, *given))[1]
flows = available()["zeek_conn"]
block = flows(Names()).decode([flows.example.encode()]).block
shared = Shared(1)
visits = {"actor": ActorStage(config, 0, 1, shared), "object": ObjectStage(config, 0, 1, shared)}
for _, data in by_actor(block, ("flows-0@",), 0, 1):
    visits["actor"].take(data, 0)
for out in shared.flush():
    visits["object"].take(out.value, 0)
import river.drift, sklearn.cluster
fresh = {name.partition(".")[0] for name in set(sys.modules) - before}
print(len(loaded), *sorted(fresh & {"scipy", "river", "sklearn"}))
"""


def first(*stages: str) -> list[str]:
    """Kernels that the first event loads, and what is imported for the first time."""
    done = subprocess.run([sys.executable, "-c", FIRST, *stages], capture_output=True, text=True, check=True)  # noqa: S603
    return done.stdout.split()


def test_the_first_event_loads_and_imports_nothing() -> None:
    assert first("ingest", "actor", "object") == ["0"]


@pytest.mark.parametrize("stages", [(), ("fuse", "watch")])
def test_who_scores_nothing_loads_nothing(stages: tuple[str, ...]) -> None:
    kernels, *libraries = first(*stages)
    assert int(kernels) > 10
    assert {"river", "scipy"} <= set(libraries)
