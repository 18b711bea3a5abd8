"""Before a worker takes its share of the work: whatever the first records would else wait for."""

from __future__ import annotations

import contextlib
from collections.abc import Collection

from connectors.event import Block
from connectors.names import Names
from connectors.sources import Source, available
from detector.config import Config
from detector.router import by_actor
from detector.stage import Shared
from detector.stages import ActorStage, ObjectStage

#: Stages that score.
_VISITS = frozenset({"actor", "object"})


def warm(config: Config, stages: Collection[str]) -> None:
    """Load the compiled kernels that ``stages`` are going to need. It takes a second, for which a worker that is at work already would
    keep its partitions waiting."""
    if "ingest" in stages:
        for name in {raw.source for raw in config.kafka.raw} & available().keys():
            _decoded(available()[name])
    # What is wrong with a configuration is said where it is used.
    if not _VISITS.isdisjoint(stages):
        with contextlib.suppress(Exception):
            _visit(config, stages)


def _decoded(source: type[Source]) -> Block:
    return source(Names()).decode([source.example.encode()]).block


def _visit(config: Config, stages: Collection[str]) -> None:
    block = _decoded(available()["zeek_conn"])
    shared = Shared(1)
    actor, object_ = ActorStage(config, 0, 1, shared), ObjectStage(config, 0, 1, shared)
    for offset, (_, data) in enumerate(by_actor(block, ("warm-0@",), 0, 1)):
        actor.take(data, offset)
    if "object" in stages:
        for offset, out in enumerate(shared.flush()):
            object_.take(out.value, offset)


def libraries(stages: Collection[str]) -> None:
    """Import what is needed hours after the start, by a thread that nobody waits for, and not in the middle of the work."""
    if "actor" in stages:
        import sklearn.cluster  # noqa: F401  for peer groups
    if "object" in stages:
        import river.drift  # noqa: F401  for levels that move
