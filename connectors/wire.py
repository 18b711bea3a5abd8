"""What goes from stage to stage: blocks of events with what earlier visits found, ticks, and evidence for the judges.

A block is an Arrow IPC stream. Its schema's metadata says which version it is, which raw logs its rows come from (``partition`` of the
block is an index into these), and when the earliest of its records arrived. A tick is a block without rows that says what time it is.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import msgspec
import numpy as np
import pyarrow as pa

from connectors.event import SCHEMA, SCHEMA_VERSION, Block
from connectors.names import Names

#: Version of these records. A reader refuses a newer one.
WIRE_VERSION = 1
#: Header of every message of ours, with ``<what>/<version>`` as its value.
HEADER = "tocsin"

_META = b"tocsin.wire"
_COLUMNS = set(SCHEMA.names)


class WireError(ValueError):
    """A message that is not one of ours, or of a version that this release does not read."""


class Tick(msgspec.Struct, frozen=True):
    """It is ``clock`` (microseconds of event time) by now, although no event says so. ``sent``: microseconds, by the clock on the wall
    of ``process``."""

    clock: int
    sent: int
    process: str = ""


class Control(msgspec.Struct, frozen=True):
    """From here on this configuration holds: TOML laid over the default. ``version`` counts upwards; an older one changes nothing."""

    version: int = 0
    text: str = ""


class _Meta(msgspec.Struct):
    version: int
    logs: list[str] = []
    arrived: int = 0
    signals: list[str] = []
    tick: Tick | None = None
    control: Control | None = None


@dataclass(slots=True)
class Packet:
    """A block on its way. ``logs``: the raw log of each number in ``block.partition``. ``arrived``: microseconds, when the earliest of
    its records arrived, 0 = unknown. ``extra``: further columns by name, each [n] or [n, k]. ``signals``: which signals the actors'
    visit has asked, in order. ``tick``, ``control``: set where there are no rows."""

    block: Block
    logs: tuple[str, ...]
    arrived: int = 0
    extra: dict[str, np.ndarray] = field(default_factory=dict)
    signals: tuple[str, ...] = ()
    tick: Tick | None = None
    control: Control | None = None

    @property
    def passes(self) -> bool:
        """Whether it holds no rows and is to be handed on as it is."""
        return self.tick is not None or self.control is not None


def log_name(topic: str, partition: int, uuid: str) -> str:
    """What a raw log is called in marks: a topic that was made anew is another log, although its name is the same.

    >>> log_name("zeek.conn", 3, "p2Vx"), title(log_name("zeek.conn", 3, "p2Vx"))
    ('zeek.conn-3@p2Vx', 'zeek.conn-3')
    """
    return f"{topic}-{partition}@{uuid}"


def title(log: str) -> str:
    """What alerts call a raw log."""
    return log.rpartition("@")[0]


def encode(packet: Packet) -> bytes:
    """A packet as a message. Of its logs only those that its rows come from are sent."""
    used, index = np.unique(packet.block.partition, return_inverse=True)
    named = [packet.logs[number] for number in used.tolist()]
    packet.block.partition = index.astype(np.int32)
    return _message(packet.block, _Meta(WIRE_VERSION, named, packet.arrived, list(packet.signals)), packet.extra)


def encode_tick(names: Names, tick: Tick) -> bytes:
    """A tick as a message."""
    return _without_rows(names, _Meta(WIRE_VERSION, tick=tick))


def encode_control(names: Names, control: Control) -> bytes:
    """A configuration as a message."""
    return _without_rows(names, _Meta(WIRE_VERSION, control=control))


def _without_rows(names: Names, meta: _Meta) -> bytes:
    none: list[int] = []
    empty = Block(names, "", {"time": none, "stream": none, "actor": none, "object": none, "record": none})
    return _message(empty, meta, {})


def _message(block: Block, meta: _Meta, extra: Mapping[str, np.ndarray]) -> bytes:
    batch = block.to_arrow()
    arrays, fields = list(batch.columns), list(SCHEMA)
    for name, values in extra.items():
        array = pa.array(values) if values.ndim == 1 else pa.FixedSizeListArray.from_arrays(pa.array(values.ravel()), values.shape[1])
        arrays.append(array)
        fields.append(pa.field(name, array.type))
    schema = pa.schema(fields, {b"tocsin.event": str(SCHEMA_VERSION).encode(), _META: msgspec.json.encode(meta)})
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, schema) as writer:
        writer.write_batch(pa.RecordBatch.from_arrays(arrays, schema=schema))
    whole: bytes = sink.getvalue().to_pybytes()
    return whole


def decode(data: bytes, names: Names) -> Packet:
    """A message as a packet. Raises WireError, with a sentence, on what is not one or is newer than this release."""
    try:
        reader = pa.ipc.open_stream(data)
        meta = msgspec.json.decode((reader.schema.metadata or {}).get(_META, b"null"), type=_Meta)
    except (pa.ArrowException, OSError, msgspec.MsgspecError) as error:
        raise WireError(f"not a block of ours: {error!s:.200}") from None
    if not 1 <= meta.version <= WIRE_VERSION:
        raise WireError(f"block of version {meta.version}; this release reads 1 to {WIRE_VERSION}")
    try:
        batch = reader.read_next_batch()
        block = Block.from_arrow(batch, names)
        extra = {name: _values(batch.column(name)) for name in batch.schema.names if name not in _COLUMNS}
    except (pa.ArrowException, OSError, KeyError, ValueError, StopIteration) as error:
        raise WireError(f"a damaged block: {error!s:.200}") from None
    if len(block) and int(block.partition.max()) >= len(meta.logs):
        raise WireError("a damaged block: rows of a log that it does not name")
    return Packet(block, tuple(meta.logs), meta.arrived, extra, tuple(meta.signals), meta.tick, meta.control)


def _values(column: pa.Array) -> np.ndarray:
    if isinstance(column.type, pa.FixedSizeListType):
        flat: np.ndarray = column.flatten().to_numpy(zero_copy_only=False)
        return flat.reshape(-1, column.type.list_size).copy()
    plain: np.ndarray = column.to_numpy(zero_copy_only=False)
    return plain.copy()
