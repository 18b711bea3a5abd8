"""Several partitions in one process as a replay needs them: ``detector.partitions`` with bindings, titles and figures."""

from __future__ import annotations

import hashlib
from collections.abc import Callable

import msgspec
import numpy as np

from connectors.alert import Alert, Evidence
from connectors.event import Block
from detector.config import Config
from detector.fuse import SHOWN
from detector.identity import Bindings
from detector.learned import dump
from detector.partitions import Partitions
from detector.score import ActorVisit, ObjectVisit


class Spread(Partitions):
    """The layout of the distributed engine in one process. It keeps no state file and tells of no blind spots."""

    def __init__(self, config: Config, many: int) -> None:
        super().__init__(config, many)
        self.bindings = Bindings(config.limits.bindings)

    def fold(self, block: Block, scores: Callable[[np.ndarray], None] | None = None) -> list[Alert]:
        """See ``Partitions.fold``."""
        out = super().fold(block, scores)
        for visit in (*self.actors, *self.objects):
            visit.full.clear()
        return out

    def title(self, paths: tuple[str, ...]) -> None:
        """See ``detector.pipeline.Cores``."""
        for judges in self.judges.values():
            for each in judges:
                each.paths = paths

    @property
    def identities(self) -> int:
        """Distinct identities with a profile, as actor or object."""
        tables = [visit.tables["actor"] for visit in self.actors] + [visit.tables["object"] for visit in self.objects]
        return len(np.unique(np.concatenate([table.keys() for table in tables])))

    @property
    def late(self) -> int:
        """Rows scored but not learned."""
        return max(sum(visit.late for visit in self.actors), sum(visit.late for visit in self.objects))

    @property
    def evicted(self) -> int:
        """Profiles forgotten at a limit."""
        return sum(visit.evicted for visit in (*self.actors, *self.objects))

    @property
    def strongest(self) -> list[Evidence]:
        """The strongest evidence of the main line over all partitions."""
        found = [piece for judge in self.judges["main"] for piece in judge.strongest]
        return sorted(found, key=lambda piece: (-piece.score, piece.time))[:SHOWN]

    def digest(self) -> str:
        """A hash of the whole state."""
        whole = hashlib.blake2b(digest_size=16)
        visits: list[ActorVisit | ObjectVisit] = [*self.actors, *self.objects]
        for visit in visits:
            for name, number, data in dump(visit):
                whole.update(f"{name} {number} {len(data)}\n".encode())
                whole.update(data)
        for judge in (each for judges in self.judges.values() for each in judges):
            whole.update(judge.dump())
        whole.update(msgspec.msgpack.encode(self.bindings.dump()))
        return whole.hexdigest()
