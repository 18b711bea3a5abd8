"""What goes from stage to stage: blocks of events with what earlier visits found, ticks, and evidence for the judges.

A block is an Arrow IPC stream. Its schema's metadata says which version it is, which raw logs its rows come from (``partition`` of the
block is an index into these), and when the earliest of its records arrived. A tick is a block without rows that says what time it is.

Blocks are small when things are quiet, and then an Arrow column costs as much as fifty rows of it. So all numbers of a row stand in one
column of fixed-size records, and the texts of all columns in the one dictionary of ``actor``: a tenth of the time for twenty rows.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa

from connectors.event import SCHEMA, Block
from connectors.names import Names

#: Version of these records. A reader refuses a newer one.
WIRE_VERSION = 1
#: Header of every message of ours, with ``<what>/<version>`` as its value.
HEADER = "tocsin"

#: Header of a raw record that was played back from a recording, and of every alert that such records had a part in.
REPLAYED = "tocsin.replay"
#: Before the number of a further part of a record that has more rows than a block may have.
_PART = "~"
#: Ends the name of a log's played-back records: in marks they are a log of their own, so that every row says which kind it is.
_PLAYED_BACK = "~replay"

_META = b"tocsin.wire"
#: Columns of numbers, with their types, little-endian; and those besides the actor that hold texts.
_PLAIN = {each.name: f"<{np.dtype(each.type.to_pandas_dtype()).str[1:]}" for each in SCHEMA if pa.types.is_primitive(each.type)} | {
    "source": "<i2"
}
_OTHERS = ("object", "via", "detail")


class WireError(ValueError):
    """A message that is not one of ours, or of a version that this release does not read."""


class Tick(msgspec.Struct, frozen=True):
    """It is ``clock`` (microseconds of event time) by now, although no event says so; 0 = this says nothing of the time, and only sees
    whether the way is open. ``sent``: microseconds, by the clock on the wall of ``process``."""

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
    sources: list[str] = []
    extra: list[tuple[str, str, int]] = []


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


def replayed(log: str) -> str:
    """What the played-back records of a raw log are called in marks.

    >>> is_replayed(replayed("zeek.conn-3@p2Vx")), is_replayed("zeek.conn-3@p2Vx"), title(replayed("zeek.conn-3@p2Vx"))
    (True, False, 'zeek.conn-3')
    """
    return log + _PLAYED_BACK


def part_of(log: str, part: int) -> str:
    """What part ``part`` of the records that have more rows than fit into a block is called in marks: rows of one offset that come in
    another message would be dropped as seen, so that each part is a log of its own.

    >>> part_of("k8s-0@p2Vx", 0), part_of("k8s-0@p2Vx", 2), part_of(replayed("k8s-0@p2Vx"), 1)
    ('k8s-0@p2Vx', 'k8s-0@p2Vx~2', 'k8s-0@p2Vx~1~replay')
    """
    if part == 0:
        return log
    return replayed(part_of(log.removesuffix(_PLAYED_BACK), part)) if is_replayed(log) else f"{log}{_PART}{part}"


def is_replayed(log: str) -> bool:
    """Whether a raw log's name stands for records that were played back. No topic id has this character."""
    return log.endswith(_PLAYED_BACK)


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
    meta.sources = list(block.sources)
    meta.extra = [(name, values.dtype.str, values.shape[1] if values.ndim == 2 else 0) for name, values in extra.items()]
    rows = np.empty(len(block), _packed(tuple(meta.extra)))
    for name in _PLAIN:
        rows[name] = getattr(block, name)
    for name, values in extra.items():
        rows[name] = values
    actor, *others, texts = _coded(block)
    for name, index in zip(_OTHERS, others, strict=True):
        rows[name] = index
    columns = {
        "row": pa.FixedSizeBinaryArray.from_buffers(pa.binary(rows.dtype.itemsize), len(rows), [None, pa.py_buffer(rows)]),
        "actor": pa.DictionaryArray.from_arrays(pa.array(actor), pa.array(texts, pa.string())),
        "uid": pa.array(block.uid, pa.string()),
    }
    if block.label is not None:
        columns["label"] = pa.array(block.label, pa.string())
    schema = pa.schema([(name, array.type) for name, array in columns.items()], {_META: msgspec.json.encode(meta)})
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, schema) as writer:
        writer.write_batch(pa.RecordBatch.from_arrays(list(columns.values()), schema=schema))
    whole: bytes = sink.getvalue().to_pybytes()
    return whole


def _coded(block: Block) -> tuple[Any, ...]:
    """int32[n] of each coded column: indices into the texts of this block, -1 = none; last those texts, in order of first use."""
    coded = pa.array(np.concatenate([getattr(block, name) for name in ("actor", *_OTHERS)])).dictionary_encode()
    used = coded.dictionary.to_numpy()
    place = np.where(used >= 0, np.cumsum(used >= 0) - 1, -1).astype(np.int32)
    texts = [block.names.values[code] for code in used[used >= 0].tolist()]
    return (*place[coded.indices.to_numpy()].reshape(1 + len(_OTHERS), len(block)), texts)


@functools.lru_cache(64)
def _packed(extra: tuple[tuple[str, str, int], ...]) -> np.dtype[np.void]:
    """The record of a row: the columns that every event has, and ``extra`` ones (name, type, width; width 0 = a plain number)."""
    if not all(re.fullmatch(r"[<|][if][1248]", kind) and 0 <= width < 10_000 for _, kind, width in extra):
        raise ValueError("columns of other types than this release knows")
    more = [(name, kind, (width,)) if width else (name, kind) for name, kind, width in extra]
    return np.dtype([*_PLAIN.items(), *((name, "<i4") for name in _OTHERS), *more])


def row_bytes(extra: tuple[tuple[str, str, int], ...]) -> int:
    """Bytes of a row with these further columns (name, type, width), besides its texts."""
    # The record, the index of the actor, the offset of the uid.
    return _packed(extra).itemsize + 8


def decode(data: bytes, names: Names) -> Packet:
    """A message as a packet. Raises WireError, with a sentence, on what is not one or is newer than this release."""
    try:
        reader = pa.ipc.open_stream(data)
        meta = msgspec.json.decode((reader.schema.metadata or {}).get(_META, b"null"), type=_Meta)
    except (pa.ArrowException, OSError, ValueError, msgspec.MsgspecError) as error:
        raise WireError(f"not a block of ours: {error!s:.200}") from None
    if not 1 <= meta.version <= WIRE_VERSION:
        raise WireError(f"block of version {meta.version}; this release reads 1 to {WIRE_VERSION}")
    try:
        batch = reader.read_next_batch()
        batch.validate(full=True)
        block, extra = _unpacked(batch, meta, names)
    except (pa.ArrowException, OSError, KeyError, IndexError, TypeError, ValueError, StopIteration) as error:
        raise WireError(f"a damaged block: {error!s:.200}") from None
    if len(block) and not 0 <= int(block.partition.min()) <= int(block.partition.max()) < len(meta.logs):
        raise WireError("a damaged block: rows of a log that it does not name")
    return Packet(block, tuple(meta.logs), meta.arrived, extra, tuple(meta.signals), meta.tick, meta.control)


def _unpacked(batch: pa.RecordBatch, meta: _Meta, names: Names) -> tuple[Block, dict[str, np.ndarray]]:
    packed, actor = batch.column("row"), batch.column("actor")
    kind, n = _packed(tuple(meta.extra)), batch.num_rows
    if packed.type != pa.binary(kind.itemsize) or any(column.null_count for column in batch.columns):
        raise ValueError("rows of another form than it says")
    rows = np.frombuffer(packed.buffers()[1], kind, n) if n else np.empty(0, kind)
    codes = names.passing_all(actor.dictionary.to_pylist())
    # The last one is what -1 stands for.
    code = np.array([*codes, -1], np.int32)
    # A copy each, because the message's memory may not be written to.
    columns = {name: rows[name].copy() for name in _PLAIN}
    columns["actor"] = code[actor.indices.to_numpy()]
    for name in _OTHERS:
        columns[name] = code[rows[name]]
    source, partition = columns.pop("source"), columns.pop("partition")
    label = batch.column("label").to_pylist() if "label" in batch.schema.names else None
    block = Block(names, "", columns, batch.column("uid").to_pylist(), label)
    block.source, block.partition, block.sources = source, partition, tuple(meta.sources)
    return block, {name: rows[name].copy() for name, *_ in meta.extra}
