import io
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from connectors.event import SCHEMA, SCHEMA_VERSION, Action, Basis, Block, Outcome, Row, Stream, block_of
from connectors.names import Names

COLUMNS = [field.name for field in SCHEMA if field.name not in ("source", "partition", "uid", "label")]
CODED = ("actor", "object", "via", "detail")


def block(names: Names, source: str = "zeek_conn", n: int = 4, label: bool = True) -> Block:
    """Rows that differ in every column; ``via`` and ``detail`` are there in every second one."""
    made = block_of(
        names,
        source,
        [
            Row(
                record=i * 2,
                time=1_700_000_000_000_000 + i,
                stream=Stream.flow,
                actor=names.code(f"user:u{i % 2}"),
                object=names.code(f"model:m{i}"),
                action=Action.pull,
                outcome=Outcome.ok,
                via=names.code(f"pod:p{i}") if i % 2 else -1,
                detail=names.code("tcp/443") if i % 2 else -1,
                bytes_out=float(i) if i else np.nan,
                bytes_in=5.0,
                bytes_basis=Basis.object,
                duration=0.5,
                count=2.0,
                gpus=8.0,
                gpu_seconds=16.0,
                uid=f"id{i}",
                label="attack" if label and i == 1 else "",
            )
            for i in range(n)
        ],
    )
    made.partition = np.arange(n, dtype=np.int32)
    return made


def rows(made: Block) -> list[dict[str, Any]]:
    """Rows with texts in place of codes and None in place of NaN."""
    out = []
    for i in range(len(made)):
        row: dict[str, Any] = {"uid": made.uid[i], "label": made.label[i] if made.label else "", "partition": int(made.partition[i])}
        row["source"] = made.sources[made.source[i]]
        for name in COLUMNS:
            value = getattr(made, name)[i].item()
            if name in CODED:
                value = made.names.values[value] if value >= 0 else None
            row[name] = None if value != value else value
        out.append(row)
    return out


def test_columns_left_out_take_their_unknown() -> None:
    names = Names()
    made = Block(names, "s", {"time": [1, 2], "stream": Stream.auth, "actor": [0, 0], "object": [1, 1], "record": [0, 1]})
    assert (made.action.tolist(), made.outcome.tolist(), made.via.tolist(), made.detail.tolist()) == (
        [0, 0],
        [0, 0],
        [-1, -1],
        [-1, -1],
    )
    assert (made.count.tolist(), made.bytes_basis.tolist(), made.uid, made.label) == ([1.0, 1.0], [Basis.none] * 2, ["", ""], None)
    assert all(np.isnan(getattr(made, name)).all() for name in ("bytes_out", "bytes_in", "duration", "gpus", "gpu_seconds"))
    assert made.time.dtype == np.int64
    assert made.stream.tolist() == [Stream.auth] * 2


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"colour": [1, 2]}, "no such event column"),
        ({"actor": [0]}, "event column actor has 1 rows, time has 2"),
        ({"object": None}, "event column object is required"),
    ],
)
def test_columns_that_do_not_fit_are_a_fault_of_the_source(change: dict[str, Any], says: str) -> None:
    columns: dict[str, Any] = {"time": [1, 2], "stream": 0, "actor": [0, 0], "object": [1, 1], "record": [0, 1], **change}
    with pytest.raises(ValueError, match=says):
        Block(Names(), "s", {name: value for name, value in columns.items() if value is not None})


def test_uids_and_labels_need_one_entry_a_row() -> None:
    columns: dict[str, Any] = {"time": [1, 2], "stream": 0, "actor": [0, 0], "object": [1, 1], "record": [0, 1]}
    with pytest.raises(ValueError, match="one entry a row"):
        Block(Names(), "s", columns, uid=["a"])
    with pytest.raises(ValueError, match="one entry a row"):
        Block(Names(), "s", columns, label=["a"])


@pytest.mark.parametrize("index", [slice(1, 3), np.array([1, 2]), np.array([False, True, True, False])])
def test_taking_rows_takes_all_their_columns(index: np.ndarray | slice) -> None:
    made = block(Names())
    assert rows(made.take(index)) == rows(made)[1:3]


def test_taking_rows_keeps_the_order_asked_for() -> None:
    made = block(Names())
    assert rows(made.take(np.array([3, 0]))) == [rows(made)[3], rows(made)[0]]
    assert len(made.take(np.zeros(0, np.int64))) == 0


def test_joined_blocks_are_all_their_rows_in_order_with_their_sources() -> None:
    names = Names()
    parts = [block(names), block(names, "table", 2, label=False), block(names, "zeek_conn", 1, label=False)]
    joined = Block.concat(parts)
    assert rows(joined) == [row for part in parts for row in rows(part)]
    assert joined.sources == ("zeek_conn", "table")
    assert joined.label == ["", "attack", "", "", "", "", ""]
    assert Block.concat(parts[1:]).label is None


def test_blocks_of_different_names_cannot_be_joined() -> None:
    with pytest.raises(ValueError, match="different Names"):
        Block.concat([block(Names()), block(Names())])


@pytest.mark.parametrize("label", [True, False])
def test_a_block_comes_back_from_arrow_as_it_went(label: bool) -> None:
    names = Names()
    joined = Block.concat([block(names, label=label), block(names, "table", label=label)]).take(np.array([5, 0, 7, 3]))
    sink = io.BytesIO()
    with pa.ipc.new_stream(sink, SCHEMA) as writer:
        writer.write_batch(joined.to_arrow())
    read = pa.ipc.open_stream(sink.getvalue()).read_next_batch()
    other = Names()
    other.code("user:somebody-else")
    back = Block.from_arrow(read, other)
    assert rows(back) == rows(joined)
    assert (back.label is None) == (not label)
    assert [getattr(back, name).dtype for name in COLUMNS] == [getattr(joined, name).dtype for name in COLUMNS]


def test_an_empty_block_comes_back_from_arrow() -> None:
    empty = block(Names()).take(slice(0, 0))
    assert len(Block.from_arrow(empty.to_arrow(), Names())) == 0


def test_only_texts_that_rows_use_go_to_arrow() -> None:
    names = Names()
    names.code("user:unused")
    batch = block(names).take(slice(0, 1)).to_arrow()
    assert batch.column("actor").dictionary.to_pylist() == ["user:u0"]
    assert batch.column("via").null_count == 1


@pytest.mark.parametrize("version", [str(SCHEMA_VERSION + 1), "0", "999"])
def test_a_block_of_another_version_is_refused_with_both_versions(version: str) -> None:
    batch = block(Names()).to_arrow().replace_schema_metadata({"tocsin.event": version})
    with pytest.raises(ValueError, match=f"schema version {version}; this release reads 1 to {SCHEMA_VERSION}"):
        Block.from_arrow(batch, Names())


def test_a_batch_without_a_version_is_refused() -> None:
    with pytest.raises(ValueError, match="schema version 0"):
        Block.from_arrow(block(Names()).to_arrow().replace_schema_metadata(None), Names())
