"""Records at another time: every source's own time fields, and nothing besides."""

from __future__ import annotations

import json

import numpy as np
import pytest

from connectors.event import SECOND
from connectors.names import Names
from connectors.shift import Shift, Unshiftable
from connectors.sources import available

MOVABLE = sorted(name for name, source in available().items() if source.times)
YEAR = 31_536_123


@pytest.mark.parametrize("name", MOVABLE)
def test_a_shifted_record_is_the_same_event_at_the_other_time(name: str) -> None:
    source = available()[name]
    record = source.example.encode()
    moved = Shift(name, YEAR)(record)
    before, after = (source(Names()).decode([each]) for each in (record, moved))
    assert len(before.block) == len(after.block) > 0
    assert after.rejects == []
    assert np.array_equal(after.block.time, before.block.time + YEAR * SECOND)
    for column in ("stream", "action", "outcome", "bytes_out", "bytes_in", "duration", "gpus", "gpu_seconds"):
        assert np.allclose(getattr(before.block, column), getattr(after.block, column), equal_nan=True), column
    assert [b.time + YEAR * SECOND for b in before.bindings] == [b.time for b in after.bindings]


def plain(record: bytes) -> object:
    """A record, and what is JSON in its texts, whatever their blanks."""
    value = json.loads(record)
    return {key: json.loads(each) if key == "body" else each for key, each in value.items()}


@pytest.mark.parametrize("name", MOVABLE)
def test_nothing_but_times_differs_and_back_again_is_the_record(name: str) -> None:
    record = available()[name].example.encode()
    there_and_back = Shift(name, -YEAR)(Shift(name, YEAR)(record))
    assert plain(there_and_back) == plain(record)
    assert Shift(name, 0)(record) is record


@pytest.mark.parametrize("wrapped", ["message", "log"])
def test_a_record_in_a_text_of_its_shipper_is_shifted_there(wrapped: str) -> None:
    inner = available()["suricata_flow"].example
    moved = json.loads(Shift("suricata_flow", 60)(json.dumps({wrapped: inner, "host": "a"}).encode()))
    assert json.loads(moved[wrapped])["flow"]["end"] == "2026-11-20T22:51:04.479996+0000"
    assert moved["host"] == "a"


def test_a_tagged_zeek_record_is_shifted_under_its_tag() -> None:
    assert json.loads(Shift("zeek_conn", 60)(b'{"conn":{"ts":1591367999.430166,"uid":"C5"}}'))["conn"]["ts"] == 1591368059.430166


@pytest.mark.parametrize(
    "poison", [b"", b"{", b"\xff\xfe", b"[]", b"7", b'{"ts":null}', b'{"ts":"yesterday"}', b"[" * 5000, b'{"ts":true}']
)
def test_poison_stays_as_it_is(poison: bytes) -> None:
    shift = Shift("zeek_conn", 60)
    assert shift(poison) == poison
    assert shift.kept == 1


def test_a_source_without_time_fields_is_refused_by_name() -> None:
    with pytest.raises(Unshiftable, match=r"^table: records of this source cannot be moved"):
        Shift("table", 1)
