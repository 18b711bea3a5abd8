"""The vocabulary of Tocsin. Read this file first.

Raw telemetry is decoded into **events**. An event says: at this *time*, on this *stream*, this *actor* did this *action* to this
*object*, with this *outcome*. Events live in a **Block**: one numpy column per field, never one Python object per event.

============  ==========================================================================================================
Identity      ``kind:name`` string (``user:alice``, ``sa:team-a/trainer``, ``ip:10.1.2.3``), normalised once, at decode
              (``connectors.names``)
Event         what one record says, one row of a Block
Binding       "ip X was pod P from t1": comes out of job, pod and auth records, valid in event time
Principal     the most stable accountable identity behind an actor (user, else service account or workload, else IP)
Visit         an event seen from one entity: the actor's, then the object's
Profile       all that is remembered of one entity: one slot, a row in numpy columns
Signal        one question put to a profile; learner and view
Surprise      -ln p of the seen value under the profile *before* learning it, in nats
Evidence      an event whose combined surprise passed the floor
Blame         the endpoint an alert is about
Alert         one evolving finding per blamed identity (OCSF 2004)
Action        one bounded, reversible containment step, and what verifiably came of it
============  ==========================================================================================================
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from enum import IntEnum
from typing import Any, NamedTuple

import msgspec
import numpy as np
import pyarrow as pa

from connectors.names import Names

#: Version of the event columns. A reader refuses a newer one.
SCHEMA_VERSION = 1

SECOND = 1_000_000
MINUTE = 60 * SECOND
HOUR = 60 * MINUTE
DAY = 24 * HOUR

#: Event times outside [1990-01-01, 2100-01-01) UTC, in microseconds, are a clock fault and refused at decode.
EARLIEST = 631_152_000 * SECOND
LATEST = 4_102_444_800 * SECOND


class Stream(IntEnum):
    """Which kind of telemetry a row comes from."""

    flow = 0
    registry = 1
    job = 2
    auth = 3
    attestation = 4
    sensor = 5


class Action(IntEnum):
    """What the actor did. ``use`` is an identity seen behind an address or token, in the course of another action."""

    unknown = 0
    connect = 1
    pull = 2
    push = 3
    list = 4
    delete = 5
    create = 6
    update = 7
    read = 8
    submit = 9
    start = 10
    end = 11
    exec = 12
    login = 13
    logout = 14
    issue = 15
    use = 16
    admin = 17
    release_key = 18
    attest = 19


class Outcome(IntEnum):
    """How it ended. ``denied``: refused by policy or credentials; ``failed``: anything else that did not work."""

    unknown = 0
    ok = 1
    denied = 2
    failed = 3


class Basis(IntEnum):
    """What a byte count counts. Counts of different bases never share a baseline."""

    none = 0
    payload = 1
    ip = 2
    l2 = 3
    object = 4


class Binding(NamedTuple):
    """``subject`` stood for ``target`` from ``time`` (microseconds UTC) on; ``target`` None ends what held before.

    ``record`` is the index of the record that said so in its batch: rows of later records see the binding, earlier ones do not.
    Subject and target are normalised identities. Chains: ip -> pod -> sa or workload -> user; job -> user; token -> user.
    """

    record: int
    time: int
    subject: str
    target: str | None


class Reject(NamedTuple):
    """A record that could not be decoded.

    ``record``: index in its batch. ``reason``: stable, countable, low cardinality, ``<what>:<field>``
    (``wrong-type:orig_bytes``). ``message``: the sentence for people. ``raw``: the record's first KiB, added by the reader.
    """

    record: int
    reason: str
    message: str
    raw: bytes = b""


_COLUMNS: dict[str, Any] = {
    "time": np.int64,
    "stream": np.int8,
    "action": np.int8,
    "outcome": np.int8,
    "actor": np.int32,
    "object": np.int32,
    "via": np.int32,
    "detail": np.int32,
    "bytes_out": np.float64,
    "bytes_in": np.float64,
    "bytes_basis": np.int8,
    "duration": np.float64,
    "count": np.float64,
    "gpus": np.float64,
    "gpu_seconds": np.float64,
    "record": np.int64,
}
_DEFAULTS: dict[str, float] = {
    "action": Action.unknown,
    "outcome": Outcome.unknown,
    "via": -1,
    "detail": -1,
    "bytes_out": np.nan,
    "bytes_in": np.nan,
    "bytes_basis": Basis.none,
    "duration": np.nan,
    "count": 1.0,
    "gpus": np.nan,
    "gpu_seconds": np.nan,
}
_CODED = ("actor", "object", "via", "detail")


class Block:
    """A batch of events as columns of equal length ``n``, rows in log order.

    ================  =======  ======================================================================================
    time              int64    microseconds since 1970-01-01 UTC; when the fact was complete (end of a flow)
    stream            int8     ``Stream``
    action            int8     ``Action``
    outcome           int8     ``Outcome``
    actor, object     int32    codes into ``names``: identities, the principal after resolution
    via               int32    the identity the record itself named (pod, IP, token) where the actor was resolved or was
                               seen behind it; -1 = none. Containment acts on it
    detail            int32    low-cardinality facet of the object: service and port, verb, media class, image; -1 = none.
                               (object, action, detail) is what novelty is judged on
    bytes_out         float64  bytes from actor to object; NaN = the source does not say
    bytes_in          float64  bytes from object to actor; NaN = the source does not say
    bytes_basis       int8     ``Basis`` of both
    duration          float64  seconds; NaN = unknown
    count             float64  how many alike facts this row stands for, usually 1
    gpus              float64  GPUs asked for or held; NaN = unknown
    gpu_seconds       float64  GPUs times seconds; NaN = unknown
    record            int64    offset of the raw record in its partition; several rows may share one
    source            int16    index into ``sources``
    partition         int32    index of the raw partition; in embedded use the index of the input path
    uid               list     the sensor's own id of the record ("" = none)
    label             list     ground truth in recorded traces, or None. The engine never reads it
    ================  =======  ======================================================================================
    """

    __slots__ = (*_COLUMNS, "label", "names", "partition", "source", "sources", "uid")

    time: np.ndarray
    stream: np.ndarray
    action: np.ndarray
    outcome: np.ndarray
    actor: np.ndarray
    object: np.ndarray
    via: np.ndarray
    detail: np.ndarray
    bytes_out: np.ndarray
    bytes_in: np.ndarray
    bytes_basis: np.ndarray
    duration: np.ndarray
    count: np.ndarray
    gpus: np.ndarray
    gpu_seconds: np.ndarray
    record: np.ndarray
    source: np.ndarray
    partition: np.ndarray
    sources: tuple[str, ...]
    uid: list[str]
    label: list[str] | None
    names: Names

    def __init__(
        self,
        names: Names,
        source: str,
        columns: dict[str, Any],
        uid: list[str] | None = None,
        label: list[str] | None = None,
    ) -> None:
        """Make a block of one source from array-likes; columns left out take their "unknown".

        ``time``, ``stream``, ``actor``, ``object`` and ``record`` are required. Raises ValueError on an unknown column or on
        unequal lengths: a fault of the source, not of the data.
        """
        time = np.ascontiguousarray(columns["time"], dtype=np.int64)
        n = len(time)
        unknown = columns.keys() - _COLUMNS.keys()
        if unknown:
            raise ValueError(f"no such event column: {sorted(unknown)}")
        for name, dtype in _COLUMNS.items():
            if name in columns:
                value = columns[name]
                column = np.full(n, value, dtype) if np.isscalar(value) else np.ascontiguousarray(value, dtype=dtype)
            elif name in _DEFAULTS:
                column = np.full(n, _DEFAULTS[name], dtype)
            else:
                raise ValueError(f"event column {name} is required")
            if len(column) != n:
                raise ValueError(f"event column {name} has {len(column)} rows, time has {n}")
            setattr(self, name, column)
        self.names = names
        self.sources = (source,)
        self.source = np.zeros(n, np.int16)
        self.partition = np.zeros(n, np.int32)
        self.uid = [""] * n if uid is None else uid
        self.label = label
        if len(self.uid) != n or (label is not None and len(label) != n):
            raise ValueError("uid and label need one entry a row")

    def __len__(self) -> int:
        return len(self.time)

    def take(self, rows: np.ndarray | slice) -> Block:
        """The given rows (index array, mask or slice) as a block of their own."""
        out: Block = Block.__new__(Block)
        for name in (*_COLUMNS, "source", "partition"):
            setattr(out, name, getattr(self, name)[rows])
        if isinstance(rows, slice):
            out.uid = self.uid[rows]
            out.label = None if self.label is None else self.label[rows]
        else:
            index = np.flatnonzero(rows) if rows.dtype == np.bool_ else rows
            chosen = index.tolist()
            out.uid = [self.uid[i] for i in chosen]
            out.label = None if self.label is None else [self.label[i] for i in chosen]
        out.names = self.names
        out.sources = self.sources
        return out

    @staticmethod
    def concat(blocks: Sequence[Block]) -> Block:
        """One block of all rows, in the order given. All blocks must share one ``Names``."""
        if len(blocks) == 1:
            return blocks[0]
        out: Block = Block.__new__(Block)
        out.names = blocks[0].names
        if any(block.names is not out.names for block in blocks):
            raise ValueError("blocks of different Names cannot be joined")
        for name in (*_COLUMNS, "partition"):
            setattr(out, name, np.concatenate([getattr(block, name) for block in blocks]))
        sources: list[str] = []
        renumbered = []
        for block in blocks:
            for source in block.sources:
                if source not in sources:
                    sources.append(source)
            table = np.array([sources.index(s) for s in block.sources], np.int16)
            renumbered.append(table[block.source])
        out.source = np.concatenate(renumbered)
        out.sources = tuple(sources)
        out.uid = [uid for block in blocks for uid in block.uid]
        if any(block.label is not None for block in blocks):
            out.label = [label for block in blocks for label in (block.label if block.label is not None else [""] * len(block))]
        else:
            out.label = None
        return out

    def to_arrow(self) -> pa.RecordBatch:
        """The block as an Arrow record batch of ``SCHEMA`` (dictionaries local to the batch, in order of first use)."""
        arrays: list[pa.Array] = []
        for field in SCHEMA:
            if field.name in _CODED:
                codes = getattr(self, field.name)
                used, first, local = np.unique(codes, return_index=True, return_inverse=True)
                order = np.argsort(first, kind="stable")
                order = order[used[order] >= 0]
                position = np.full(len(used), -1, np.int32)
                position[order] = np.arange(len(order), dtype=np.int32)
                index = position[local]
                values = [self.names.values[code] for code in used[order].tolist()]
                arrays.append(
                    pa.DictionaryArray.from_arrays(pa.array(index, pa.int32(), mask=index < 0), pa.array(values, pa.string()))
                )
            elif field.name == "source":
                values = [self.sources[i] for i in self.source.tolist()]
                arrays.append(pa.array(values, pa.string()).dictionary_encode())
            elif field.name == "uid":
                arrays.append(pa.array(self.uid, pa.string()))
            elif field.name == "label":
                arrays.append(pa.array(self.label if self.label is not None else [None] * len(self), pa.string()))
            else:
                arrays.append(pa.array(getattr(self, field.name)))
        return pa.RecordBatch.from_arrays(arrays, schema=SCHEMA)

    @staticmethod
    def from_arrow(batch: pa.RecordBatch, names: Names) -> Block:
        """Read a batch written by ``to_arrow``. Raises ValueError, naming the versions, where it is newer than this reader."""
        version = int((batch.schema.metadata or {}).get(b"tocsin.event", b"0"))
        if version > SCHEMA_VERSION or version < 1:
            raise ValueError(f"event block of schema version {version}; this release reads 1 to {SCHEMA_VERSION}")
        columns: dict[str, Any] = {}
        for name in _COLUMNS:
            column = batch.column(name)
            if name in _CODED:
                local = np.array([names.passing(value) for value in column.dictionary.to_pylist()], np.int32)
                index = column.indices.fill_null(-1).to_numpy(zero_copy_only=False)
                columns[name] = np.append(local, np.int32(-1))[index]
            else:
                # A copy, because Arrow's memory may not be written to.
                columns[name] = column.to_numpy(zero_copy_only=False).copy()
        label = batch.column("label")
        block = Block(
            names,
            "",
            columns,
            uid=batch.column("uid").to_pylist(),
            label=None if label.null_count == len(label) else [value or "" for value in label.to_pylist()],
        )
        source = batch.column("source")
        block.sources = tuple(source.dictionary.to_pylist())
        block.source = source.indices.to_numpy(zero_copy_only=False).astype(np.int16)
        block.partition = batch.column("partition").to_numpy(zero_copy_only=False).copy()
        return block


def _arrow_type(name: str) -> pa.DataType:
    if name in _CODED:
        return pa.dictionary(pa.int32(), pa.string())
    return pa.from_numpy_dtype(_COLUMNS[name])


#: The wire form of a block.
SCHEMA = pa.schema(
    [
        *(pa.field(name, _arrow_type(name)) for name in _COLUMNS),
        pa.field("source", pa.dictionary(pa.int32(), pa.string())),
        pa.field("partition", pa.int32()),
        pa.field("uid", pa.string()),
        pa.field("label", pa.string()),
    ],
    metadata={"tocsin.event": str(SCHEMA_VERSION)},
)


class Row(msgspec.Struct, kw_only=True):
    """One event as an object, for sources of few records a second; hot sources build columns instead. Same fields as ``Block``."""

    record: int
    time: int
    stream: Stream
    actor: int
    object: int
    action: Action = Action.unknown
    outcome: Outcome = Outcome.unknown
    via: int = -1
    detail: int = -1
    bytes_out: float = np.nan
    bytes_in: float = np.nan
    bytes_basis: Basis = Basis.none
    duration: float = np.nan
    count: float = 1.0
    gpus: float = np.nan
    gpu_seconds: float = np.nan
    uid: str = ""
    label: str = ""


def block_of(names: Names, source: str, rows: Iterable[Row]) -> Block:
    """Columns from row objects, in order. ``label`` is kept only where a row has one."""
    listed = list(rows)
    columns = {name: [getattr(row, name) for row in listed] for name in _COLUMNS}
    labels = [row.label for row in listed]
    return Block(names, source, columns, uid=[row.uid for row in listed], label=labels if any(labels) else None)
