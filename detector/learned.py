"""What a visit has learned, as records: the chunks of its tables, and the rest beside them."""

from __future__ import annotations

from collections.abc import Iterator

import msgspec
import numpy as np

from detector.score import ActorVisit, ObjectVisit

#: Version of the record of what is in no table. A reader refuses a newer one.
VERSION = 3


def dump(visit: ActorVisit | ObjectVisit) -> Iterator[tuple[str, int, bytes]]:
    """A visit's state as records (table, chunk number, bytes). Equal states give equal bytes."""
    for table in visit.tables.values():
        for number, chunk in enumerate(table.dump()):
            yield table.name, number, chunk
    for name, data in others(visit):
        yield name, 0, data


def others(visit: ActorVisit | ObjectVisit) -> Iterator[tuple[str, bytes]]:
    """What of a visit's state is not in tables, as records."""
    if isinstance(visit, ActorVisit):
        yield "actor.peering", visit.peering.dump()
    if isinstance(visit, ObjectVisit):
        for scale in visit.scales:
            yield f"object.drift.{scale.line}", scale.drift.dump()
    arrays = {name: _packed(array) for name, array in sorted(visit.arrays().items())}
    yield f"{visit.side}.arrays", msgspec.msgpack.encode({"version": VERSION, "evicted": visit.evicted, "arrays": arrays})


def _packed(array: np.ndarray) -> tuple[list[int], list[int], bytes]:
    """(shape, the first indices that hold anything, what they hold): most kinds of identity have no events on most streams, and what is
    kept of each is large."""
    rows = _rows(array)
    held = _held(rows)
    return list(array.shape), held.tolist(), rows[held].tobytes()


def _rows(array: np.ndarray) -> np.ndarray:
    """An array as one of two dimensions that shares its memory."""
    return array.reshape(len(array), array.size // max(len(array), 1))


def _held(rows: np.ndarray) -> np.ndarray:
    """Which rows hold anything, by their bits: a negative zero is something."""
    return np.flatnonzero(rows.view(np.uint64).any(axis=1))


def load(visit: ActorVisit | ObjectVisit, records: dict[str, list[bytes]]) -> None:
    """Take over what ``dump`` gave. Raises ValueError with a sentence on another version or configuration."""
    for name, table in visit.tables.items():
        table.load(records[f"{visit.side}.{name}"])
    saved = msgspec.msgpack.decode(records[f"{visit.side}.arrays"][0])
    if not 2 <= saved["version"] <= VERSION:
        raise ValueError(f"state of the {visit.side}'s visit: version {saved['version']}, this release reads 2 to {VERSION}")
    if isinstance(visit, ActorVisit):
        visit.peering.load(records["actor.peering"][0])
    if isinstance(visit, ObjectVisit):
        for scale in visit.scales:
            scale.drift.load(records[f"object.drift.{scale.line}"][0])
    visit.evicted = saved["evicted"]
    for name, array in visit.arrays().items():
        shape, *held, data = saved["arrays"].get(name, ([], b""))
        if shape != list(array.shape):
            raise ValueError(f"state of the {visit.side}'s visit was made with other signals than the configuration names ({name})")
        # Version 2 held all of it.
        which = held[0] if held else list(range(len(array)))
        rows = _rows(array)
        places = set(range(len(array)))
        if len(held) > 1 or which != sorted(places.intersection(which)) or len(data) != 8 * len(which) * rows.shape[1]:
            raise ValueError(f"state of the {visit.side}'s visit is damaged ({name})")
        rows[_held(rows)] = 0.0
        rows[which] = np.frombuffer(data).reshape(len(which), rows.shape[1])
