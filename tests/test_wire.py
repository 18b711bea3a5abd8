"""Messages between stages: what goes in comes out, and what is damaged is told apart from what is not."""

from __future__ import annotations

import random

import numpy as np
import pyarrow as pa
import pytest

from connectors.event import SCHEMA, Action, Block, Outcome, Stream, block_of
from connectors.names import Names
from connectors.wire import Control, Packet, Tick, WireError, decode, encode, encode_control, encode_tick
from tests.logs import START, row


def block(names: Names, rows: int = 3) -> Block:
    """Rows of two sources and two logs; some name nobody behind them, one text is both an actor and an object."""
    first = block_of(names, "made_up", [row(names, 7 + n, START + n, f"user:u{n % 2}", "host:h") for n in range(rows)])
    columns = {"time": [START], "stream": Stream.auth, "action": Action.login, "outcome": Outcome.denied, "record": [1 << 40]}
    codes = {"actor": [names.passing("host:h")], "object": [names.passing("user:u0")], "via": [names.passing("ip:10.0.0.1")]}
    second = Block(names, "other", columns | codes | {"bytes_out": [1.5], "detail": [names.passing("tcp/1")]}, uid=["C\u00e9"])
    second.partition[:] = 1
    return Block.concat([first, second])


def cells(block: Block) -> dict[str, list[object]]:
    """A block as columns of plain values, texts instead of codes."""
    out: dict[str, list[object]] = {"uid": list(block.uid), "sources": [block.sources[each] for each in block.source.tolist()]}
    for name in set(SCHEMA.names) - {"uid", "label", "source"}:
        values = getattr(block, name)
        coded = name in ("actor", "object", "via", "detail")
        out[name] = [block.names.values[code] if code >= 0 else None for code in values] if coded else list(map(repr, values.tolist()))
    return out


def test_a_block_comes_through_with_its_texts_numbers_and_findings_bit_for_bit() -> None:
    sent = block(Names())
    extra = {
        "counts": np.array([[np.nan, 0.1], [-0.0, np.inf], [1e300, 2.0], [3.0, 4.0]]),
        "peer": np.arange(4, dtype=np.int32),
        "alone": np.ones((4, 1)),
    }
    names = Names()
    names.passing("someone:else")
    got = decode(encode(Packet(sent, ("raw-0@a", "raw-1@a"), 5, extra, ("rate",))), names)
    assert cells(got.block) == cells(sent)
    assert (got.logs, got.arrived, got.signals, got.block.label) == (("raw-0@a", "raw-1@a"), 5, ("rate",), None)
    for name, values in extra.items():
        assert got.extra[name].dtype == values.dtype
        assert got.extra[name].shape == values.shape
        assert got.extra[name].tobytes() == values.tobytes()
    got.block.time[0] = 1  # what comes out may be written to


def test_a_label_comes_through_and_its_absence_too() -> None:
    sent = block(Names())
    sent.label = ["", "attack", "", ""]
    assert decode(encode(Packet(sent, ("a-0@x", "a-1@x"))), Names()).block.label == ["", "attack", "", ""]


def test_equal_rows_give_equal_bytes_whatever_their_process_has_seen_before() -> None:
    names = Names()
    for other in range(50, 0, -1):
        names.passing(f"user:u{other}")
    assert encode(Packet(block(names), ("a-0@x", "a-1@x"))) == encode(Packet(block(Names()), ("a-0@x", "a-1@x")))


def test_only_logs_that_rows_come_from_are_named() -> None:
    sent = block(Names()).take(np.array([3]))
    got = decode(encode(Packet(sent, ("a-0@x", "a-1@x"))), Names())
    assert got.logs == ("a-1@x",)
    assert got.block.partition.tolist() == [0]


def test_ticks_and_configurations_come_through_without_rows() -> None:
    tick, control = Tick(5, 6, "p"), Control(3, "x = 1")
    assert decode(encode_tick(Names(), tick), Names()).tick == tick
    got = decode(encode_control(Names(), control), Names())
    assert got.control == control
    assert got.passes
    assert len(got.block) == 0


@pytest.mark.parametrize("data", [b"", b"nonsense", b"\xff\xff\xff\xff" + bytes(40)])
def test_what_is_no_block_is_refused(data: bytes) -> None:
    with pytest.raises(WireError, match="not a block of ours"):
        decode(data, Names())


def test_a_block_that_arrow_reads_but_we_did_not_write_is_refused() -> None:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, SCHEMA) as writer:
        writer.write_batch(block(Names()).to_arrow())
    with pytest.raises(WireError, match="not a block of ours"):
        decode(sink.getvalue().to_pybytes(), Names())


def test_damage_gives_a_packet_or_a_sentence_and_never_another_error() -> None:
    whole = encode(Packet(block(Names()), ("a-0@x", "a-1@x"), 5, {"peer": np.arange(4, dtype=np.int32)}))
    draw = random.Random(1)
    refused = 0
    for _ in range(1000):
        damaged = bytearray(whole)
        for _ in range(draw.randint(1, 3)):
            damaged[draw.randrange(len(damaged))] = draw.randrange(256)
        try:
            decode(bytes(damaged), Names())
        except WireError:
            refused += 1
    assert refused > 100
    for length in range(0, len(whole) - 8, 97):
        with pytest.raises(WireError):
            decode(whole[:length], Names())


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b'["peer","<i4",0]', b'["peer","<i8",0]'),
        (b'["peer","<i4",0]', b'["peer","|O4",0]'),
        (b'"logs":["a-0@x","a-1@x"]', b'"logs":["a-0@x-a-1@x--"]'),
    ],
)
def test_rows_that_are_not_as_they_are_described_are_refused(old: bytes, new: bytes) -> None:
    whole = encode(Packet(block(Names()), ("a-0@x", "a-1@x"), 5, {"peer": np.arange(4, dtype=np.int32)}))
    assert whole.count(old) == 1
    with pytest.raises(WireError, match="a damaged block"):
        decode(whole.replace(old, new.ljust(len(old))), Names())
