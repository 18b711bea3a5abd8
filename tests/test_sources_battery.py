"""What every source must do, each check shown to fail on a source that does not.

A source is found by ``connectors.sources.available()``; one that comes new is tested without a change here. ``table`` reads its
example through the mapping it shows beside it, and is the one source that is never detected by its look.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from connectors.event import EARLIEST, LATEST, Action, Basis, Binding, Block, Outcome, Reject, Row, Stream, block_of
from connectors.names import KINDS, Names, clean, identity
from connectors.sources import INPUTS, LONGEST_RECORD, Decoded, Source
from tests.shared import samples
from tests.source_stage import DETECTED, DROP, ODD, SOURCES, decode, make, mutated, mutations, names_of, rows_of, said

#: One small record of each format of a later release. Real ones are in the shared samples.
LATER: dict[str, dict[str, Any]] = {
    "hubble": {
        "flow": {"verdict": "FORWARDED", "IP": {"source": "10.0.0.1", "destination": "10.0.0.2"}},
        "time": "2026-02-24T08:47:58Z",
    },
    "minio": {"EventName": "s3:ObjectAccessed:Get", "Key": "models/a", "Records": [{"eventSource": "minio:s3"}]},
    "cloudtrail": {
        "eventVersion": "1.11",
        "userIdentity": {"type": "AssumedRole"},
        "eventTime": "2026-01-02T09:18:24Z",
        "eventName": "ListTags",
    },
    "goflow2": {"type": "SFLOW_5", "sampling_rate": 100, "sampler_address": "192.168.0.1", "bytes": 1500, "src_addr": "fd01::1"},
    "sacct": {"jobs": [{"job_id": 1, "user": "alice"}], "meta": {"slurm": {"release": "26.05.5"}}},
    "nvtrust": {"sub": "NVIDIA-PLATFORM-ATTESTATION", "x-nvidia-overall-att-result": True, "iat": 1727387975},
}

BAD = [
    b"",
    b" ",
    b"{",
    b"[]",
    b"null",
    b'"text"',
    b"{}",
    b'{"a":1}',
    b"\xff\xfe\x00",
    b"[" * 5000,
    b'{"events":[1,{},null]}',
    b'{"items":[1,{}]}',
]

# --- the checks: each takes a source class and raises AssertionError


def describes_itself(source: type[Source]) -> None:
    assert source.title
    assert "\n" not in source.title + source.limits
    assert len(source.title) < 150
    assert source.limits
    assert source.feeds
    assert source.feeds <= INPUTS.keys()
    assert isinstance(json.loads(source.example), dict)


def reads_its_example(source: type[Source]) -> None:
    decoded = decode(make(source), [source.example.encode()])
    assert not decoded.rejects
    assert not decoded.skipped
    assert len(decoded.block) >= 1
    assert set(decoded.block.record.tolist()) == {0}


def feeds_what_it_says(source: type[Source]) -> None:
    """What its own example shows must be among what it says it feeds."""
    decoded = decode(make(source), [source.example.encode()])
    block = decoded.block
    shown = {"bindings"} if decoded.bindings else set()
    shown |= {"bytes"} if (~_nan(block.bytes_in) | ~_nan(block.bytes_out)).any() else set()
    shown |= {"gpus"} if (~_nan(block.gpus)).any() else set()
    assert shown <= source.feeds


def _nan(column: Any) -> Any:
    return column != column


def only_it_recognises_its_example(source: type[Source]) -> None:
    record = json.loads(source.example)
    mine = [name for name, other in DETECTED.items() if other is not source and other.recognises(record)]
    assert source.recognises(record)
    assert mine == []
    assert not any(source.recognises(json.loads(other.example)) for other in SOURCES.values() if other is not source)


def recognises_without_raising(source: type[Source]) -> None:
    for raw in (*mutations(source.example), b"{}"):
        try:
            record = json.loads(raw)
        except (ValueError, RecursionError):
            continue
        if isinstance(record, dict):
            try:
                assert source.recognises(record) in (True, False)
            except Exception as error:
                raise AssertionError(f"recognises raised {error!r:.200}") from error


def a_batch_is_each_record_alone(source: type[Source]) -> None:
    records = [source.example.encode(), *BAD, *mutations(source.example), source.example.encode()]
    rows: list[Any] = []
    rejects: list[Any] = []
    bindings: list[Any] = []
    for i, record in enumerate(records):
        more = said(decode(make(source), [record]), i)
        rows += more[0]
        rejects += more[1]
        bindings += more[2]
    assert said(decode(make(source), records)) == (rows, rejects, bindings)


def a_cut_changes_nothing(source: type[Source]) -> None:
    records = [source.example.encode(), *mutations(source.example), *BAD]
    whole = said(decode(make(source), records))
    for cut in (1, 7, len(records) - 1):
        stateful = make(source)
        first = said(decode(stateful, records[:cut]))
        second = said(decode(stateful, records[cut:]), cut)
        assert tuple(a + b for a, b in zip(first, second, strict=True)) == whole


def bad_records_leave_good_ones_alone(source: type[Source]) -> None:
    good = source.example.encode()
    records = [record for bad in BAD for record in (bad, good)]
    decoded = decode(make(source), records)
    one = [row[1:] for row in rows_of(decode(make(source), [good]))]
    rows = rows_of(decoded)
    for i in range(1, len(records), 2):
        assert [row[1:] for row in rows if row[0] == i] == one
    assert {reject.record for reject in decoded.rejects} == set(range(0, len(records), 2))


def keeps_the_order(source: type[Source]) -> None:
    decoded = decode(make(source), [source.example.encode(), *mutations(source.example), *BAD, source.example.encode()])
    for order in (decoded.block.record.tolist(), [r.record for r in decoded.rejects], [b.record for b in decoded.bindings]):
        assert order == sorted(order)


def every_record_is_accounted_for(source: type[Source]) -> None:
    fresh = make(source)
    for record in (source.example.encode(), *mutations(source.example), *BAD):
        decoded = decode(fresh, [record])
        assert len(decoded.block) or decoded.rejects or decoded.skipped or empty_envelope(record)


def empty_envelope(record: bytes) -> bool:
    """An envelope of nothing says nothing."""
    return re.search(rb'"(events|items)": ?\[\]', record) is not None


def columns_are_sound(source: type[Source]) -> None:
    decoded = decode(make(source), [source.example.encode(), *mutations(source.example)])
    assert len(decoded.block) > 0
    sound(decoded, 1 + sum(1 for _ in mutations(source.example)))


def sound(decoded: Decoded, records: int) -> None:
    """Raise AssertionError where columns, bindings or rejects break their contract."""
    block, values = decoded.block, names_of(decoded)
    n = len(block)
    assert len(block.uid) == n
    assert ((block.time >= EARLIEST) & (block.time < LATEST)).all()
    assert ((block.record >= 0) & (block.record < records)).all()
    for column, enum in ((block.stream, Stream), (block.action, Action), (block.outcome, Outcome), (block.bytes_basis, Basis)):
        assert set(column.tolist()) <= {int(member) for member in enum}
    for column, least in ((block.actor, 0), (block.object, 0), (block.via, -1), (block.detail, -1)):
        assert len(column) == n
        assert ((column >= least) & (column < len(values))).all()
    for column in (block.bytes_out, block.bytes_in, block.duration, block.gpus, block.gpu_seconds, block.count):
        assert (_nan(column) | ((column >= 0) & (column < math.inf))).all()
    known = ~_nan(block.bytes_out) | ~_nan(block.bytes_in)
    assert (block.bytes_basis[known] != Basis.none).all()
    for code in {*block.actor.tolist(), *block.object.tolist(), *block.via.tolist()} - {-1}:
        normal(values[code])
    for code in set(block.detail.tolist()) - {-1}:
        assert values[code] == clean(values[code])
        assert len(values[code].encode()) <= 128
    for binding in decoded.bindings:
        normal(binding.subject)
        if binding.target is not None:
            normal(binding.target)
        assert EARLIEST <= binding.time < LATEST
        assert 0 <= binding.record < records
    for reject in decoded.rejects:
        typed(reject, records)


def normal(text: str) -> None:
    kind, _, name = text.partition(":")
    assert kind in KINDS
    assert identity(kind, name) == text


def typed(reject: Reject, records: int) -> None:
    assert 0 <= reject.record < records
    assert re.fullmatch(r"[a-z-]+(:[\w.@\[\]/ -]{1,64})?", reject.reason), reject.reason
    assert reject.message
    assert len(reject.message) < 500
    assert reject.message.isprintable(), reject.message


def is_deterministic(source: type[Source]) -> None:
    records = [source.example.encode(), *mutations(source.example), *BAD]
    assert said(decode(make(source), records)) == said(decode(make(source), records))


def refuses_later_formats_by_name(source: type[Source]) -> None:
    decoded = decode(make(source), [json.dumps(record).encode() for record in LATER.values()])
    assert [reject.reason for reject in decoded.rejects] == [f"unsupported-format:{name}" for name in LATER]
    assert len(decoded.block) == 0
    assert not decoded.skipped


def refuses_what_is_too_long(source: type[Source]) -> None:
    good = source.example.encode()
    decoded = decode(make(source), [good + b" " * LONGEST_RECORD, good])
    assert [reject.reason for reject in decoded.rejects] == ["too-long"]
    assert set(decoded.block.record.tolist()) == {1}


Check = Callable[[type[Source]], None]
EVERY: list[Check] = [
    describes_itself,
    reads_its_example,
    feeds_what_it_says,
    recognises_without_raising,
    a_batch_is_each_record_alone,
    a_cut_changes_nothing,
    bad_records_leave_good_ones_alone,
    keeps_the_order,
    every_record_is_accounted_for,
    columns_are_sound,
    is_deterministic,
    refuses_what_is_too_long,
]
#: Not asked of ``table``: what it reads, and what it is read as, is its mapping's word.
DETECTABLE: list[Check] = [only_it_recognises_its_example, refuses_later_formats_by_name]


@pytest.mark.parametrize("check", EVERY, ids=lambda check: check.__name__)
@pytest.mark.parametrize("name", SOURCES)
def test_every_source(name: str, check: Check) -> None:
    check(SOURCES[name])


@pytest.mark.parametrize("check", DETECTABLE, ids=lambda check: check.__name__)
@pytest.mark.parametrize("name", DETECTED)
def test_every_source_that_is_detected(name: str, check: Check) -> None:
    check(SOURCES[name])


FUZZ = settings(
    max_examples=60, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large]
)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=12), inner, max_size=4),
    max_leaves=12,
)
CHANGES = st.lists(st.tuples(st.integers(0, 10_000), st.sampled_from([DROP, *ODD])), min_size=1, max_size=3)


@pytest.mark.parametrize("name", SOURCES)
def test_random_bytes_give_only_typed_rejects(name: str) -> None:
    @FUZZ
    @given(st.lists(st.binary(max_size=60), max_size=4))
    def run(records: list[bytes]) -> None:
        decoded = decode(make(SOURCES[name]), records)
        sound(decoded, len(records))
        assert len(decoded.block) == 0

    run()


@pytest.mark.parametrize("name", SOURCES)
def test_random_json_gives_only_typed_rejects(name: str) -> None:
    @FUZZ
    @given(st.lists(JSON, max_size=4))
    def run(values: list[Any]) -> None:
        sound(decode(make(SOURCES[name]), [json.dumps(value).encode() for value in values]), len(values))

    run()


@pytest.mark.parametrize("name", SOURCES)
def test_a_mutated_example_is_read_or_rejected_with_its_type(name: str) -> None:
    source = SOURCES[name]

    @FUZZ
    @given(CHANGES)
    def run(changes: list[tuple[int, Any]]) -> None:
        good = source.example.encode()
        decoded = decode(make(source), [good, mutated(source.example, changes), good])
        sound(decoded, 3)
        rows = rows_of(decoded)
        assert [row[1:] for row in rows if row[0] == 0] == [row[1:] for row in rows if row[0] == 2] != []

    run()


@pytest.mark.parametrize("name", DETECTED)
def test_real_records_of_later_formats_are_refused_by_name(name: str) -> None:
    folder = samples()
    records = {
        "hubble": (folder / "hubble_flow_1.19.jsonl").read_bytes().splitlines()[0],
        "sacct": (folder / "sacct_json_26.05.5_v0.0.45.json").read_bytes(),
    }
    for line in (folder / "misc_real_records.jsonl").read_bytes().splitlines():
        found = json.loads(line)
        for later in ("CloudTrail", "MinIO", "nvtrust", "goflow2"):
            if found["_src"].startswith(later):
                records[later.lower()] = json.dumps(found["record"]).encode()
    decoded = decode(make(SOURCES[name]), list(records.values()))
    assert [reject.reason for reject in decoded.rejects] == [f"unsupported-format:{later}" for later in records]
    assert set(records) == set(LATER)


# --- deliberately bad sources


class Good:
    """Passes every check: the others are this with one thing wrong."""

    title: ClassVar[str] = "a source for tests"
    feeds: ClassVar[frozenset[str]] = frozenset({"who-to-whom"})
    limits: ClassVar[str] = "none"
    times: ClassVar[dict[str, int]] = {"at": 1}
    example: ClassVar[str] = '{"at": 1795214848, "good-who": "alice", "what": "model"}'

    def __init__(self, names: Names) -> None:
        self.names = names
        self.seen = 0

    @classmethod
    def recognises(cls, record: dict[str, Any]) -> bool:
        return "good-who" in record

    def decode(self, records: Sequence[bytes]) -> Decoded:
        rows: list[Row] = []
        rejects: list[Reject] = []
        bindings: list[Binding] = []
        for i, record in enumerate(records):
            self.seen += 1
            problem = self.problem(record)
            if problem:
                rejects.append(Reject(i, problem, "cannot be read"))
            else:
                rows += self.rows(i, json.loads(record))
        return Decoded(self.block(rows), rejects, {}, bindings)

    def problem(self, record: bytes) -> str:
        if len(record) > LONGEST_RECORD:
            return "too-long"
        try:
            value = json.loads(record)
        except (ValueError, RecursionError):
            return "malformed-json"
        if not isinstance(value, dict):
            return "wrong-type:record"
        at = value.get("at")
        if isinstance(at, bool) or not isinstance(at, int | float) or not EARLIEST / 1e6 <= at < LATEST / 1e6:
            return next((f"unsupported-format:{name}" for name, known in LATER.items() if known == value), "bad-time:at")
        who = (value.get("good-who"), value.get("what"))
        bad = not all(isinstance(text, str) and self.names.of("user")[text] >= 0 for text in who)
        return "bad-identity:good-who" if bad else ""

    def rows(self, record: int, value: dict[str, Any]) -> list[Row]:
        actor, what = self.names.of("user")[value["good-who"]], self.names.of("model")[value["what"]]
        return [Row(record=record, time=int(value["at"] * 1e6), stream=Stream.auth, actor=actor, object=what)]

    def block(self, rows: list[Row]) -> Block:
        return block_of(self.names, "good", rows)


class Mute(Good):
    title: ClassVar[str] = ""


class Boastful(Good):
    feeds: ClassVar[frozenset[str]] = frozenset({"everything"})


class Deaf(Good):
    def problem(self, record: bytes) -> str:
        return "bad-time:at"


class Secretive(Good):
    def rows(self, record: int, value: dict[str, Any]) -> list[Row]:
        return [_with(row, gpus=8.0) for row in super().rows(record, value)]


class Modest(Good):
    @classmethod
    def recognises(cls, record: dict[str, Any]) -> bool:
        return not record


class Greedy(Good):
    @classmethod
    def recognises(cls, record: dict[str, Any]) -> bool:
        return bool(record)


class Jumpy(Good):
    @classmethod
    def recognises(cls, record: dict[str, Any]) -> bool:
        return record["good-who"].startswith("a") or True


class Mindful(Good):
    """Remembers from one batch to the next."""

    def rows(self, record: int, value: dict[str, Any]) -> list[Row]:
        return [_with(row, uid=str(self.seen)) for row in super().rows(record, value)]


class AllOrNothing(Good):
    def decode(self, records: Sequence[bytes]) -> Decoded:
        decoded = super().decode(records)
        return Decoded(self.block([]), decoded.rejects) if decoded.rejects else decoded


class Backward(Good):
    def block(self, rows: list[Row]) -> Block:
        return super().block(rows[::-1])


class Forgetful(Good):
    def decode(self, records: Sequence[bytes]) -> Decoded:
        return Decoded(super().decode(records).block)


class Raising(Good):
    def problem(self, record: bytes) -> str:
        return "" if json.loads(record) else "empty"


class Unclean(Good):
    def rows(self, record: int, value: dict[str, Any]) -> list[Row]:
        return [_with(row, actor=self.names.code("user:ALICE")) for row in super().rows(record, value)]


class Timeless(Good):
    def rows(self, record: int, value: dict[str, Any]) -> list[Row]:
        return [_with(row, time=0) for row in super().rows(record, value)]


class Negative(Good):
    def rows(self, record: int, value: dict[str, Any]) -> list[Row]:
        return [_with(row, bytes_in=-1.0, bytes_basis=Basis.payload) for row in super().rows(record, value)]


class Codeless(Good):
    def rows(self, record: int, value: dict[str, Any]) -> list[Row]:
        return [_with(row, object=-1) for row in super().rows(record, value)]


class Untyped(Good):
    def problem(self, record: bytes) -> str:
        return "Something went wrong!" if super().problem(record) else ""


class Fickle(Good):
    made = 0

    def __init__(self, names: Names) -> None:
        super().__init__(names)
        Fickle.made += 1

    def rows(self, record: int, value: dict[str, Any]) -> list[Row]:
        return [_with(row, uid=str(Fickle.made)) for row in super().rows(record, value)]


class Xenophile(Good):
    def problem(self, record: bytes) -> str:
        found = super().problem(record)
        return "bad-time:at" if found.startswith("unsupported") else found


class Boundless(Good):
    def problem(self, record: bytes) -> str:
        return super().problem(record[:LONGEST_RECORD])


def _with(row: Row, **fields: Any) -> Row:
    for name, value in fields.items():
        setattr(row, name, value)
    return row


FAILS: list[tuple[Check, type[Source]]] = [
    (describes_itself, Mute),
    (describes_itself, Boastful),
    (reads_its_example, Deaf),
    (feeds_what_it_says, Secretive),
    (only_it_recognises_its_example, Modest),
    (only_it_recognises_its_example, Greedy),
    (recognises_without_raising, Jumpy),
    (a_batch_is_each_record_alone, AllOrNothing),
    (a_batch_is_each_record_alone, Raising),
    (a_cut_changes_nothing, AllOrNothing),
    (a_batch_is_each_record_alone, Backward),
    (a_batch_is_each_record_alone, Mindful),
    (bad_records_leave_good_ones_alone, AllOrNothing),
    (bad_records_leave_good_ones_alone, Raising),
    (keeps_the_order, Backward),
    (every_record_is_accounted_for, Forgetful),
    (columns_are_sound, Unclean),
    (columns_are_sound, Timeless),
    (columns_are_sound, Negative),
    (columns_are_sound, Codeless),
    (columns_are_sound, Untyped),
    (is_deterministic, Fickle),
    (refuses_later_formats_by_name, Xenophile),
    (refuses_what_is_too_long, Boundless),
]


@pytest.mark.parametrize("check", [*EVERY, *DETECTABLE], ids=lambda check: check.__name__)
def test_a_good_source_passes(check: Check) -> None:
    check(Good)


@pytest.mark.parametrize(("check", "bad"), FAILS, ids=lambda part: part.__name__)
def test_a_bad_source_fails(check: Check, bad: type[Source]) -> None:
    with pytest.raises(AssertionError):
        check(bad)


def test_every_check_is_shown_to_fail() -> None:
    assert {check for check, _ in FAILS} == {*EVERY, *DETECTABLE}
