"""Made-up logs of events for tests of the cores: deterministic, disordered in time, on several streams."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator
from typing import Any

import numpy as np

from connectors.event import HOUR, MINUTE, SECOND, Action, Basis, Block, Outcome, Row, Stream, block_of
from connectors.names import Names

#: Midnight of a Monday, 2024-01-01, in microseconds.
START = 1_704_067_200 * SECOND


def row(names: Names, record: int, time: int, actor: str, object: str, detail: str = "", **more: Any) -> Row:
    """An event of a flow, unless ``more`` says otherwise."""
    given: dict[str, Any] = {"stream": Stream.flow, "action": Action.connect, "outcome": Outcome.ok, "uid": f"u{record}"}
    return Row(
        record=record,
        time=time,
        actor=names.code(actor),
        object=names.code(object),
        detail=names.code(detail) if detail else -1,
        **(given | more),
    )


def log(n: int, seed: int = 0, actors: int = 12, objects: int = 8, hours: float = 60.0, names: Names | None = None) -> Block:
    """Events of people pulling models and of hosts talking: mostly alike, now and then large, refused, new, late or far too late."""
    rng = random.Random(seed)
    names = names if names is not None else Names()
    rows = []
    time = START
    for record in range(n):
        time += int(rng.expovariate(n / (hours * HOUR)))
        late = rng.choice([0, 0, 0, 0, 30 * SECOND, 20 * MINUTE, 3 * HOUR] if rng.random() < 0.3 else [0])
        who, what = int(actors * rng.random() ** 2), int(objects * rng.random() ** 2)
        size = rng.lognormvariate(18.0, 1.0) * (1e4 if rng.random() < 0.01 else 1.0)
        outcome = Outcome.denied if rng.random() < 0.05 else Outcome.ok
        if who % 2:
            pulled: dict[str, Any] = {"stream": Stream.registry, "action": Action.pull, "bytes_in": size, "bytes_basis": Basis.object}
            rows.append(row(names, record, time - late, f"user:u{who}", f"model:lab/m{what}", outcome=outcome, **pulled))
        else:
            sent: dict[str, Any] = {"bytes_out": size if rng.random() < 0.8 else np.nan, "bytes_basis": Basis.payload}
            port = rng.choice(["443/tcp", "443/tcp", "22/tcp"])
            rows.append(row(names, record, time - late, f"ip:10.0.0.{who}", f"host:h{what}", port, outcome=outcome, **sent))
        if rng.random() < 0.01:
            rows += [row(names, record, time, f"ip:10.9.{record % 250}.{k}", "host:h0", "8443/tcp") for k in range(12)]
    return block_of(names, "made_up", rows)


def cut(block: Block, places: list[int]) -> Iterator[Block]:
    """The same rows in several blocks, none of them empty."""
    for a, b in itertools.pairwise([0, *sorted({p for p in places if 0 < p < len(block)}), len(block)]):
        yield block.take(slice(a, b))
