"""Profiles: what is remembered of each entity or pair, as rows of numpy arrays.

A ``Table`` maps 64-bit keys (stable hashes of identities) to slots and holds, per owner (a signal, or the visit itself), one array of
packed records. No Python object per entity, no names: a table of a million entities is a few arrays.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from models.kernels import FULLEST, contains, find_or_add, index_all

#: Version of the chunk records. A reader refuses a newer one.
CHUNK_VERSION = 2
#: Slots in a chunk record: keeps one well below a broker's default message limit.
CHUNK_SLOTS = 1000
#: Slots set aside at first. Zero pages take no memory until they are written, and a table that need not grow need not be copied.
FIRST_SLOTS = 1 << 18

#: Fields of a record: name, numpy type, and for an array inside the record its length.
Fields = tuple[tuple[str, str] | tuple[str, str, int], ...]


def record(fields: Fields) -> np.dtype:
    """The packed numpy type of a record.

    >>> record((("since", "u4"), ("hours", "u1", 48))).itemsize
    52
    """
    return np.dtype([(name, kind, *([(length[0],)] if length else [])) for name, kind, *length in fields])


class Table:
    """Slots by key with a bound on their number.

    ``fields``: owner -> the fields of its records. ``limit``: most slots. The slot order is the order of first sight.
    """

    def __init__(self, name: str, fields: Mapping[str, Fields], limit: int) -> None:
        self.name = name
        self.records = {owner: record(each) for owner, each in fields.items()}
        self.limit = limit
        self.used = 0
        self._keys = np.zeros(2048, np.uint64)
        self._slots = np.zeros(2048, np.int32)
        #: uint64[capacity]: the key of each slot.
        self._key_of = np.zeros(min(FIRST_SLOTS, limit), np.uint64)
        #: bool[chunks]: which chunks may have changed since they were last cleared.
        self.changed = np.zeros(min(FIRST_SLOTS, limit) // CHUNK_SLOTS + 1, np.bool_)
        #: Called with slots, some perhaps several times, just before they may change; None = any may.
        self.before_change: Callable[[np.ndarray | None], None] | None = None
        self.columns = {owner: np.zeros(min(FIRST_SLOTS, limit), each) for owner, each in self.records.items()}
        self.protected = np.zeros(min(FIRST_SLOTS, limit), np.bool_)

    def __getitem__(self, owner: str) -> np.ndarray:
        """records[capacity] of one owner. Growing replaces it: fetch it anew for each block."""
        return self.columns[owner]

    @property
    def nbytes(self) -> int:
        """Bytes held: index, and the columns as far as they are used."""
        row = 9 + sum(each.itemsize for each in self.records.values())
        return self._keys.nbytes + self._slots.nbytes + self.used * row

    def find(self, wanted: np.ndarray, out: np.ndarray, start: int, stop: int) -> int:
        """Slots of ``wanted[start:stop]`` into ``out``, adding new keys. Returns the row before which the limit was met, or stop."""
        room = self.used + stop - start
        if room > FULLEST * len(self._keys):
            self._reindex(room, self.keys())
        before = self.used
        done, self.used = find_or_add(self._keys, self._slots, wanted, out, start, stop, self.used, self.limit)
        self._hold(self.used)
        found = out[start:done]
        if self.used > before:
            fresh = found >= before
            # Key 0 marks a free place of the index, which keeps it as 1.
            self._key_of[found[fresh]] = np.maximum(wanted[start:done][fresh], np.uint64(1))
        if self.before_change is not None and len(found):
            self.before_change(found)
        self.changed[found // CHUNK_SLOTS] = True
        return done

    def change_all(self) -> None:
        """Note that any slot may be about to change: for whoever writes to slots that he did not find in this block."""
        if self.before_change is not None:
            self.before_change(None)
        self.changed[: self.chunks] = True

    @property
    def chunks(self) -> int:
        """How many chunk records the table takes, at least one."""
        return max(-(-self.used // CHUNK_SLOTS), 1)

    def known(self, wanted: np.ndarray) -> np.ndarray:
        """bool[n]: which of the keys have a slot."""
        out = np.empty(len(wanted), np.bool_)
        contains(self._keys, wanted, out)
        return out

    def look(self, wanted: np.ndarray) -> int:
        """The slot of the one key in ``wanted``, adding nothing: for an unknown key the slot it would get, still all zeros."""
        out = np.full(1, self.used, np.int32)
        # With no room beyond what is used, an unknown key is not added.
        find_or_add(self._keys, self._slots, wanted, out, 0, 1, self.used, self.used)
        self._hold(self.used + 1)
        return int(out[0])

    def _named(self) -> Iterator[tuple[str, str]]:
        """Every field as (owner, name)."""
        for owner, each in self.records.items():
            for name in each.names or ():
                yield owner, name

    def _hold(self, slots: int) -> None:
        """Make the columns long enough for so many slots."""
        if slots <= len(self.protected):
            return
        # Fresh zero pages cost nothing until they are used, so doubling is cheaper than it looks.
        capacity = max(min(2 * len(self.protected), self.limit), slots)
        for owner, column in self.columns.items():
            self.columns[owner] = longer(column, capacity)
        self.protected = longer(self.protected, capacity)
        self._key_of = longer(self._key_of, capacity)
        self.changed = longer(self.changed, capacity // CHUNK_SLOTS + 1)

    def keys(self) -> np.ndarray:
        """uint64[used]: the key of each slot."""
        return self._key_of[: self.used].copy()

    def _reindex(self, room: int, keys: np.ndarray) -> None:
        size = 2048
        while room > FULLEST * size:
            size *= 2
        self._keys = np.zeros(size, np.uint64)
        self._slots = np.zeros(size, np.int32)
        index_all(self._keys, self._slots, keys, len(keys))

    def evict(self, last: np.ndarray, share: float = 1 / 16) -> int:
        """Make room: forget the ``share`` of the limit that has been idle longest, the protected never. Returns how many.

        ``last``: float64[used], the time each slot was last seen or last gave cause for worry; ties go by slot. What stays keeps its
        order and moves up.
        """
        self.change_all()
        candidates = np.flatnonzero(~self.protected[: self.used])
        many = min(max(int(self.limit * share), 1), len(candidates))
        idle = candidates[np.argsort(last[candidates], kind="stable")[:many]]
        keep = np.ones(self.used, np.bool_)
        keep[idle] = False
        keys = self.keys()[keep]
        for column in map(plain, self.columns.values()):
            column[: len(keys)] = column[: self.used][keep]
            column[len(keys) : self.used] = np.zeros((), column.dtype)
        self.protected[: len(keys)] = self.protected[: self.used][keep]
        self.protected[len(keys) : self.used] = False
        self.used = len(keys)
        self._key_of[: self.used] = keys
        self._reindex(self.used, keys)
        return many

    def dump(self) -> Iterator[bytes]:
        """The table as chunk records (Arrow IPC streams), each of at most CHUNK_SLOTS slots, in slot order. At least one."""
        for number in range(self.chunks):
            yield self.chunk(number).encode()

    def chunk(self, number: int, used: int | None = None) -> Chunk:
        """A copy of one chunk, which is no longer part of the table. ``used``: as if the table had so many slots."""
        rows = slice(number * CHUNK_SLOTS, min((number + 1) * CHUNK_SLOTS, self.used if used is None else used))
        columns = {owner: plain(column[rows]).copy().view(column.dtype) for owner, column in self.columns.items()}
        return Chunk(self.name, rows.start, self._key_of[rows].copy(), self.protected[rows].copy(), columns)

    def rows(self) -> Iterator[np.ndarray]:
        """What every slot has, as plain bytes that share the table's memory: its key, whether it is protected, its records."""
        for column in (self._key_of, self.protected, *self.columns.values()):
            yield plain(column)

    def load(self, chunks: list[bytes]) -> None:
        """Take over what ``dump`` gave, in order, whole or not at all. Raises ValueError, with a sentence, on another version, table
        or set of fields, on a chunk that is missing or out of order, and on foreign bytes."""
        batches: list[pa.Table] = []
        expected = ["key", "protected", *(f"{owner}.{name}" for owner, name in self._named())]
        for chunk in chunks:
            try:
                table = pa.ipc.open_stream(chunk).read_all()
            except (pa.ArrowException, OSError) as error:
                raise ValueError(f"state of {self.name}: not a chunk record ({error})") from None
            metadata = table.schema.metadata or {}
            version = metadata.get(b"tocsin.chunk", b"0").decode("ascii", "replace")
            if not version.isdigit() or int(version) != CHUNK_VERSION:
                raise ValueError(f"state of {self.name}: chunk version {version!r}, this release reads {CHUNK_VERSION}")
            if table.schema.names != expected or metadata.get(b"table", b"").decode() != self.name:
                raise ValueError(f"state of {self.name} was made with other signals than the configuration names")
            if metadata.get(b"start") != str(sum(batch.num_rows for batch in batches)).encode():
                raise ValueError(f"state of {self.name}: a chunk is missing or out of order")
            batches.append(table)
        try:
            whole = pa.concat_tables(batches)
            columns = {named: _numpy(whole.column(".".join(named)), self.records[named[0]][named[1]]) for named in self._named()}
            keys = whole.column("key").cast(pa.uint64()).to_numpy()
            protected = whole.column("protected").cast(pa.bool_()).to_numpy()
        except (pa.ArrowException, ValueError, AttributeError) as error:
            raise ValueError(f"state of {self.name}: not what a dump holds ({error})") from None
        used = whole.num_rows
        if used > self.limit:
            raise ValueError(f"state of {self.name} holds {used} profiles, the configured limit is {self.limit}")
        capacity = max(1024, used)
        self.used = used
        self.protected = longer(protected, capacity)
        self._key_of = longer(keys, capacity)
        self.changed = np.zeros(capacity // CHUNK_SLOTS + 1, np.bool_)
        self.columns = {owner: np.zeros(capacity, each) for owner, each in self.records.items()}
        for (owner, name), values in columns.items():
            self.columns[owner][name][:used] = values
        self._reindex(used, keys)


def plain(column: np.ndarray) -> np.ndarray:
    """Records as so many bytes each: numpy copies what has fields field by field, at fifteen times the cost."""
    return column.view(f"V{column.dtype.itemsize}")


class Chunk(NamedTuple):
    """A copy of some slots of a table, from slot ``start`` on, which can be put into bytes at leisure."""

    table: str
    start: int
    keys: np.ndarray
    protected: np.ndarray
    columns: dict[str, np.ndarray]

    def rows(self) -> Iterator[np.ndarray]:
        """As of a table."""
        for column in (self.keys, self.protected, *self.columns.values()):
            yield plain(column)

    def encode(self) -> bytes:
        """The chunk as a record: an Arrow IPC stream."""
        arrays = [pa.array(self.keys), pa.array(self.protected)]
        names = ["key", "protected"]
        for owner, column in self.columns.items():
            for name in column.dtype.names or ():
                names.append(f"{owner}.{name}")
                arrays.append(_arrow(np.ascontiguousarray(column[name])))
        metadata = {"tocsin.chunk": str(CHUNK_VERSION), "table": self.table, "start": str(self.start)}
        schema = pa.schema([pa.field(name, array.type) for name, array in zip(names, arrays, strict=True)], metadata)
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, schema) as writer:
            writer.write_batch(pa.RecordBatch.from_arrays(arrays, schema=schema))
        whole: bytes = sink.getvalue().to_pybytes()
        return whole


def longer(values: np.ndarray, capacity: int) -> np.ndarray:
    """The same values with zeros behind them."""
    out = np.zeros(max(capacity, len(values)), values.dtype)
    plain(out)[: len(values)] = plain(values)
    return out


def _arrow(values: np.ndarray) -> pa.Array:
    """A field of many slots as an Arrow array; one that is an array itself as a list of fixed size."""
    if values.ndim == 1:
        return pa.array(values)
    return pa.FixedSizeListArray.from_arrays(pa.array(values.ravel()), values.shape[1])


def _numpy(column: pa.ChunkedArray, kind: np.dtype) -> np.ndarray:
    """The inverse of ``_arrow``. Raises ArrowException or ValueError where the column is of another kind."""
    whole = column.combine_chunks()
    if kind.subdtype is None:
        plain: np.ndarray = whole.cast(pa.from_numpy_dtype(kind)).to_numpy(zero_copy_only=False)
        return plain
    base, shape = kind.subdtype
    nested: np.ndarray = whole.flatten().cast(pa.from_numpy_dtype(base)).to_numpy(zero_copy_only=False).reshape(-1, *shape)
    return nested
