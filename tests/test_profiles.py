"""Tables of profiles: slots in order of first sight, a bound that is kept, chunk records that are read or refused with a sentence."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.profiles import CHUNK_SLOTS, CHUNK_VERSION, Fields, Table

FIELDS: dict[str, Fields] = {"units": (("hours", "f4"), ("last", "f8")), "rate": (("sum", "f4"), ("days", "u1", 3), ("since", "u4"))}


def table(limit: int = 10_000, fields: dict[str, Fields] = FIELDS, name: str = "actor") -> Table:
    return Table(name, fields, limit)


def find(held: Table, keys: Iterable[int]) -> tuple[int, list[int]]:
    wanted = np.array(list(keys), np.uint64)
    out = np.full(len(wanted), -1, np.int32)
    done = held.find(wanted, out, 0, len(wanted))
    return done, out[:done].tolist()


def filled(keys: Iterable[int], limit: int = 10_000) -> Table:
    held = table(limit)
    find(held, keys)
    held["units"]["hours"][: held.used] = held.keys() * 10.0
    held["rate"]["sum"][: held.used] = held.keys() * 0.5
    held["rate"]["days"][: held.used] = np.arange(3 * held.used).reshape(-1, 3) % 256
    held["rate"]["since"][: held.used] = 4_000_000_000 + held.keys()
    return held


def load(held: Table, chunks: list[bytes]) -> Table:
    held.load(chunks)
    return held


def test_slots_are_given_in_order_of_first_sight() -> None:
    held = table()
    assert find(held, [50, 7, 50, 900, 7]) == (5, [0, 1, 0, 2, 1])
    assert find(held, [900, 3]) == (2, [2, 3])
    assert held.keys().tolist() == [50, 7, 900, 3]


def test_growing_keeps_what_is_known() -> None:
    held = filled(range(1, 1001))
    find(held, range(1, 9_999))
    assert held.keys()[:1000].tolist() == list(range(1, 1001))
    assert held["units"]["hours"][:1000].tolist() == [key * 10.0 for key in range(1, 1001)]
    assert not held["units"]["hours"][1000:].any()
    assert held["rate"]["days"][999].tolist() == [2997 % 256, 2998 % 256, 2999 % 256]
    assert not held["rate"]["days"][1000:].any()
    assert find(held, [1000, 1])[1] == [999, 0]


def test_a_table_stops_before_the_row_that_would_exceed_its_limit() -> None:
    held = table(limit=3)
    assert find(held, [1, 2, 1, 3, 2, 4, 1]) == (5, [0, 1, 0, 2, 1])
    assert held.used == 3
    assert find(held, [3, 1])[0] == 2


def test_a_table_takes_no_more_room_than_its_limit_asks_for() -> None:
    held = table(limit=5000)
    find(held, range(1, 5001))
    assert len(held["units"]) == 5000


def test_eviction_forgets_the_longest_idle_and_keeps_the_order_of_the_rest() -> None:
    held = filled([10, 20, 30, 40, 50], limit=5)
    assert held.evict(np.array([5.0, 1.0, 4.0, 2.0, 3.0]), share=0.4) == 2
    assert held.keys().tolist() == [10, 30, 50]
    assert held["units"]["hours"][:3].tolist() == [100.0, 300.0, 500.0]
    assert held["rate"]["days"][:3].tolist() == [[0, 1, 2], [6, 7, 8], [12, 13, 14]]
    assert not any(held[owner][name][3:].any() for owner, name in (("units", "hours"), ("rate", "days"), ("rate", "since")))
    assert find(held, [50, 20])[1] == [2, 3]


def test_eviction_breaks_ties_by_slot_and_forgets_one_at_least() -> None:
    held = filled([10, 20, 30], limit=3)
    assert held.evict(np.zeros(3)) == 1
    assert held.keys().tolist() == [20, 30]


def test_eviction_never_forgets_the_protected_however_idle() -> None:
    held = filled([10, 20, 30, 40], limit=4)
    held.protected[[0, 2]] = True
    assert held.evict(np.array([0.0, 9.0, 0.0, 8.0]), share=1.0) == 2
    assert held.keys().tolist() == [10, 30]
    assert held.protected[:2].all()
    assert not held.protected[2:].any()
    assert held.evict(np.zeros(2), share=1.0) == 0
    assert held.used == 2


def test_a_dump_is_read_back_whole_and_gives_the_same_bytes() -> None:
    held = filled(range(5, 5 + 2 * CHUNK_SLOTS + 17))
    held.protected[3] = True
    chunks = list(held.dump())
    assert len(chunks) == 3
    other = load(table(), chunks)
    assert other.keys().tolist() == held.keys().tolist()
    assert other.protected[: other.used].tolist() == held.protected[: held.used].tolist()
    assert all((other[owner][: other.used] == held[owner][: held.used]).all() for owner in FIELDS)
    assert list(other.dump()) == chunks
    assert find(other, [5, 9_999_999])[1] == [0, held.used]


def test_a_dump_does_not_depend_on_how_the_table_grew() -> None:
    slow = table()
    for key in range(1, 3000):
        find(slow, [key])
    fast = table()
    find(fast, range(1, 3000))
    assert list(slow.dump()) == list(fast.dump())


def test_an_empty_table_has_one_chunk() -> None:
    chunks = list(table().dump())
    assert len(chunks) == 1
    assert load(table(), chunks).used == 0


def _with_version(chunk: bytes, version: bytes) -> bytes:
    read = pa.ipc.open_stream(chunk).read_all()
    sink = pa.BufferOutputStream()
    schema = read.schema.with_metadata({**read.schema.metadata, b"tocsin.chunk": version})
    with pa.ipc.new_stream(sink, schema) as writer:
        for batch in read.to_batches():
            writer.write_batch(pa.RecordBatch.from_arrays(batch.columns, schema=schema))
    return bytes(sink.getvalue().to_pybytes())


def test_a_chunk_that_is_not_ours_is_refused_with_a_sentence() -> None:
    chunk = next(iter(filled([1, 2]).dump()))
    cases: list[tuple[Table, bytes, str]] = [
        (
            table(),
            _with_version(chunk, b"%d" % (CHUNK_VERSION + 1)),
            f"chunk version '{CHUNK_VERSION + 1}', this release reads {CHUNK_VERSION}",
        ),
        (table(), _with_version(chunk, b"1"), f"chunk version '1', this release reads {CHUNK_VERSION}"),
        (table(), _with_version(chunk, b"0"), "chunk version '0'"),
        (table(), _with_version(chunk, b"new"), "chunk version 'new'"),
        (table(fields={"units": FIELDS["units"]}), chunk, "made with other signals"),
        (table(fields=FIELDS | {"more": (("a", "f4"),)}), chunk, "made with other signals"),
        (table(name="pair"), chunk, "made with other signals"),
        (table(), b"", "not a chunk record"),
        (table(), b"not arrow at all, but long enough to look", "not a chunk record"),
        (table(), chunk[:200], "not a chunk record"),
        (table(), chunk[:-40], "not a chunk record"),
        (table(limit=1), chunk, "the configured limit is 1"),
    ]
    for held, data, expected in cases:
        with pytest.raises(ValueError, match=expected) as caught:
            held.load([data])
        assert str(caught.value).startswith(f"state of {held.name}")
        assert held.used == 0


def test_no_chunks_at_all_are_refused_with_a_sentence() -> None:
    with pytest.raises(ValueError, match="state of actor"):
        table().load([])


def test_missing_and_disordered_chunks_are_refused_and_leave_nothing_behind() -> None:
    chunks = list(filled(range(1, 2 * CHUNK_SLOTS + 10)).dump())
    for wrong in (chunks[1:], chunks[::-1], [chunks[0], chunks[2]], [chunks[0], chunks[0]]):
        held = table()
        with pytest.raises(ValueError, match="state of actor: a chunk is missing or out of order"):
            held.load(wrong)
        assert held.used == 0


@pytest.mark.parametrize(
    ("column", "other"),
    [
        ("rate.sum", pa.array(["x", "y"])),
        ("rate.days", pa.array([1, 2])),
        ("rate.since", pa.array([-1, 2])),
        ("key", pa.array([-1, 1])),
    ],
    ids=lambda value: value if isinstance(value, str) else str(value.type),
)
def test_a_chunk_with_columns_of_another_type_is_refused_with_a_sentence(column: str, other: pa.Array) -> None:
    read = pa.ipc.open_stream(next(iter(filled([1, 2]).dump()))).read_all()
    arrays = [other if name == column else read.column(name).combine_chunks() for name in read.schema.names]
    schema = pa.schema([pa.field(n, a.type) for n, a in zip(read.schema.names, arrays, strict=True)], read.schema.metadata)
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, schema) as writer:
        writer.write_batch(pa.RecordBatch.from_arrays(arrays, schema=schema))
    with pytest.raises(ValueError, match="state of actor"):
        table().load([sink.getvalue().to_pybytes()])


LIMIT = 12
_steps = st.lists(
    st.one_of(
        st.lists(st.integers(1, 30), min_size=1, max_size=8),
        st.sampled_from(["evict", "reload"]),
        st.tuples(st.just("protect"), st.integers(1, 30)),
    ),
    max_size=25,
)


@settings(max_examples=60, deadline=None)
@given(_steps)
def test_a_table_behaves_like_a_dict_with_a_bound(steps: list[object]) -> None:
    held = table(limit=LIMIT)
    model: dict[int, float] = {}
    kept: set[int] = set()
    clock = 0.0
    for step in steps:
        clock += 1.0
        if step == "evict":
            free = [key for key in model if key not in kept]
            many = min(max(int(LIMIT * 0.25), 1), len(free))
            assert held.evict(held["units"]["last"][: held.used].copy(), share=0.25) == many
            for key in sorted(free, key=lambda key: model[key])[:many]:
                del model[key]
        elif step == "reload":
            held = load(table(limit=LIMIT), list(held.dump()))
        elif isinstance(step, tuple):
            if step[1] in model:
                kept.add(step[1])
                held.protected[list(model).index(step[1])] = True
        elif isinstance(step, list):
            done, slots = find(held, step)
            for key, slot in zip(step, slots, strict=False):
                model[key] = clock
                held["units"]["last"][slot] = clock
            assert done == len(step) or (len(model) == LIMIT and step[done] not in model)
        kept &= model.keys()
        assert held.keys().tolist() == list(model)
        assert held["units"]["last"][: held.used].tolist() == list(model.values())
        assert {key for key, safe in zip(model, held.protected[: held.used].tolist(), strict=True) if safe} == kept
