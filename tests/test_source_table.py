import csv
import gzip
import io
import json
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from connectors.event import Action, Basis, Outcome, Reject, Stream
from connectors.names import Names
from connectors.sources import Decoded, available
from connectors.sources.table import Mapping, MappingError, Table, parse_mapping, read_mapping
from connectors.trace import open_trace
from tests.shared import data
from tests.test_source_zeek_conn import JSON, raw, reasons, row

MAPPINGS = Path(__file__).resolve().parents[1] / "docs" / "mappings"

WHOLE = """
title = "all of it"
stream = "flow"
bytes_out = "sent"
bytes_in = "got"
bytes_basis = "ip"
duration = "seconds"
count = "n"
gpus = "gpus"
gpu_seconds = "gpu_s"
uid = "id"
label = "attack"
benign = ["-"]
unknown = ["-1", "n/a"]
integers = ["dport"]
action = { column = "verb", values = { get = "read", put = "push" }, otherwise = "connect" }
outcome = { column = "state", values = { done = "ok", refused = "denied" } }
actor = { column = "src", kind = "ip" }
object = { column = "host", kind = "host", prefix = "Lab/" }
via = { column = "pod", kind = "pod" }
detail = { columns = ["proto", "dport"], join = ":", ports = ["dport"] }

[time]
column = ["ts", "created"]
format = "s"
epoch = "2025-01-01"
add_duration = true
"""
JOBS = """
stream = "job"
action = "end"
time = { column="t", format="ms", end="e" }
actor = { column = "u", kind = "user" }
object = { constant = "queue:gpu" }
"""
HEADER = next(csv.reader(["ts,created,seconds,src,host,pod,verb,state,proto,dport,sent,got,n,gpus,gpu_s,id,attack"]))
GOOD = next(csv.reader(["10.5,,2.25,010.0.0.1,Web,ns/p,get,done,tcp,443.0,100,200.5,3,8,64,r1,smurf"]))
BARE = next(csv.reader([",7,,10.0.0.2,Web,,zap,n/a,tcp,50000,n/a,-1,,,,,-"]))


def table(text: str = WHOLE, header: list[str] | None = HEADER) -> Table:
    made = Table(Names(), parse_mapping(text, "test.toml"))
    if header is not None:
        made.read_header(",".join(header).encode())
    return made


def line(cells: list[str]) -> bytes:
    out = io.StringIO()
    csv.writer(out, lineterminator="").writerow(cells)
    return out.getvalue().encode()


def changed(column: str, cell: str) -> list[str]:
    return [cell if name == column else old for name, old in zip(HEADER, GOOD, strict=True)]


def from_csv(rows: list[list[str]]) -> Decoded:
    return table().decode([line(cells) for cells in rows])


def from_json(rows: list[list[str]]) -> Decoded:
    return table(header=None).decode([raw(dict(zip(HEADER, cells, strict=True))) for cells in rows])


def from_arrow(rows: list[list[str]]) -> Decoded:
    columns = (
        [pa.array(column, pa.string()) for column in zip(*rows, strict=True)] if rows else [pa.array([], pa.string())] * len(HEADER)
    )
    return table().decode_batch(pa.RecordBatch.from_arrays(columns, names=HEADER))


WAYS: list[Callable[[list[list[str]]], Decoded]] = [from_csv, from_json, from_arrow]


@pytest.mark.parametrize("read", WAYS)
def test_every_key_of_a_mapping_is_read_from_csv_json_and_arrow(read: Callable[[list[list[str]]], Decoded]) -> None:
    decoded = read([GOOD, BARE])
    year = 1735689600_000_000
    assert decoded.rejects == []
    assert row(decoded, 0) == {
        "record": 0,
        "time": year + 12_750_000,
        "stream": Stream.flow,
        "action": Action.read,
        "outcome": Outcome.ok,
        "actor": "ip:10.0.0.1",
        "object": "host:lab/web",
        "via": "pod:ns/p",
        "detail": "tcp:443",
        "bytes_out": 100.0,
        "bytes_in": 200.5,
        "bytes_basis": Basis.ip,
        "duration": 2.25,
        "count": 3.0,
        "uid": "r1",
    }
    assert (decoded.block.gpus[0], decoded.block.gpu_seconds[0]) == (8.0, 64.0)
    assert row(decoded, 1) | {"bytes_basis": Basis.ip} == {
        "record": 1,
        "time": year + 7_000_000,
        "stream": Stream.flow,
        "action": Action.connect,
        "outcome": Outcome.unknown,
        "actor": "ip:10.0.0.2",
        "object": "host:lab/web",
        "via": None,
        "detail": "tcp:ephemeral",
        "bytes_out": None,
        "bytes_in": None,
        "bytes_basis": Basis.ip,
        "duration": None,
        "count": 1.0,
        "uid": "",
    }
    assert decoded.block.label == ["smurf", ""]


@pytest.mark.parametrize("read", WAYS)
@pytest.mark.parametrize(
    ("column", "cell", "reason"),
    [
        ("ts", "soon", "bad-time:ts"),
        ("ts", "nan", "bad-time:ts"),
        ("ts", "inf", "time-out-of-range:ts"),
        ("ts", "-1e12", "time-out-of-range:ts"),
        ("ts", "1e300", "time-out-of-range:ts"),
        ("ts", "", "missing:ts"),
        ("seconds", "-2", "negative:seconds"),
        ("seconds", "1e300", "time-out-of-range:ts"),
        ("sent", "-5", "negative:sent"),
        ("sent", "nan", "not-finite:sent"),
        ("got", "-inf", "not-finite:got"),
        ("got", "1e999", "not-finite:got"),
        ("sent", "12k", "wrong-type:sent"),
        ("gpus", "0x10", "wrong-type:gpus"),
        ("gpu_s", "1_000", "wrong-type:gpu_s"),
        ("src", "10.0.0.256", "bad-identity:src"),
        ("src", "", "missing:src"),
        ("host", "a/../b", "bad-identity:host"),
        ("host", "a\u202eb", "bad-identity:host"),
        ("host", "x" * 600, "bad-identity:host"),
        ("host", "n/a", "missing:host"),
        ("pod", "a\x01b", "bad-identity:pod"),
        ("proto", "t\x7fcp", "bad-detail:proto"),
    ],
)
def test_a_bad_cell_is_one_typed_reject_and_its_neighbours_are_kept(
    read: Callable[[list[list[str]]], Decoded], column: str, cell: str, reason: str
) -> None:
    decoded = read([GOOD, changed(column, cell), BARE])
    assert reasons(decoded) == [(1, reason)]
    assert decoded.block.record.tolist() == [0, 2]
    assert decoded.block.label == ["smurf", ""]


def test_lines_with_the_wrong_number_of_columns_or_no_text_are_counted_and_passed_over() -> None:
    good = line(GOOD)
    stray = b'1"' + good
    lines = [good, b"1,2,3", good + b",more", b"\xff\xfe" + good, b'"never closed', good, stray, b"", good]
    decoded = table().decode(lines)
    assert [reason for _, reason in reasons(decoded)] == [
        "wrong-columns",
        "wrong-columns",
        "malformed-csv",
        "malformed-csv",
        "bad-time:ts",
        "wrong-columns",
    ]
    assert decoded.block.record.tolist() == [0, 5, 8]


def test_quoted_cells_hold_the_delimiter() -> None:
    assert row(table().decode([line(changed("host", 'a,"b'))]))["object"] == 'host:lab/a,"b'


def test_another_delimiter_is_taken_from_the_mapping() -> None:
    made = Table(Names(), parse_mapping(Table.example_mapping + 'delimiter = "\\t"', "test.toml"))
    made.read_header(b"ts\tsrc\tdst\tsent\tstate\tunread")
    decoded = made.decode([b"1767225600\t10.0.0.1\t10.0.0.2\t\tdone\tx,y"])
    assert (len(decoded.block), decoded.rejects) == (1, [])


def test_json_names_reach_into_nested_objects() -> None:
    text = Table.example_mapping.replace('"src"', '"who.ip"')
    made = Table(Names(), parse_mapping(text, "test.toml"))
    record = json.loads(Table.example)
    nested = {key: value for key, value in record.items() if key != "src"}
    decoded = made.decode([raw({**nested, "who": {"ip": "10.0.0.1"}}), raw({**nested, "who": 5}), raw({**nested, "who": {"ip": []}})])
    assert reasons(decoded) == [(1, "missing:who.ip"), (2, "wrong-type:who.ip")]
    assert row(decoded)["actor"] == "ip:10.0.0.1"


def test_typed_parquet_columns_are_read_as_what_they_are() -> None:
    text = JOBS.replace('"ms", end="e"', '"iso"') + 'gpus="g"'
    batch = pa.RecordBatch.from_pydict(
        {"t": pa.array([1700000000123456], pa.timestamp("us")), "u": pa.array([7]), "g": pa.array([2.5])},
    )
    decoded = Table(Names(), parse_mapping(text, "x")).decode_batch(batch)
    found = row(decoded)
    assert (found["time"], found["actor"], found["object"]) == (1700000000123456, "user:7", "queue:gpu")
    assert decoded.block.gpus[0] == 2.5


def test_the_end_is_the_time_where_a_column_names_it() -> None:
    rows = [{"t": 1_700_000_000_000, "e": 1_700_000_001_500, "u": "a"}, {"t": 1_700_000_000_000, "e": None, "u": "a"}]
    backwards = {"t": 1_700_000_000_000, "e": 1_699_999_999_000, "u": "a"}
    decoded = Table(Names(), parse_mapping(JOBS, "x")).decode([raw(one) for one in [*rows, backwards]])
    assert decoded.block.time.tolist() == [1_700_000_001_500_000, 1_700_000_000_000_000]
    assert decoded.block.duration[0] == 1.5
    assert math.isnan(decoded.block.duration[1])
    assert reasons(decoded) == [(2, "negative:e")]


def test_without_a_mapping_every_record_is_refused_with_what_to_do() -> None:
    decoded = Table(Names()).decode([b"{}", b"x"])
    assert [(reject.record, reject.reason) for reject in decoded.rejects] == [(0, "no-mapping"), (1, "no-mapping")]
    assert "--mapping FILE" in decoded.rejects[0].message
    assert not Table.recognises({"ts": 1})
    assert available()["table"] is Table


def test_the_example_decodes_with_its_mapping() -> None:
    decoded = Table(Names(), parse_mapping(Table.example_mapping, "example")).decode([Table.example.encode()])
    assert (len(decoded.block), decoded.rejects, decoded.block.outcome[0]) == (1, [], Outcome.ok)


def test_the_mapping_in_the_module_docstring_is_valid() -> None:
    import connectors.sources.table as module

    block = re.search(r"toml\n\n(.*?)\n\nA row", module.__doc__ or "", re.DOTALL)
    assert block is not None
    text = "\n".join(part.removeprefix("    ") for part in block[1].splitlines())
    assert parse_mapping(text, "docstring").object.prefix == "lab/"


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ('stream = "flow"', 'stream = "flows"', "stream: expected one of flow, registry, job, auth, attestation, sensor, got 'flows'"),
        ('stream = "flow"', "", "stream: Object missing required field"),
        ('stream = "flow"', 'stream = "flow"\ncolour = "red"', "colour: Object contains unknown field"),
        ('format = "s"', 'format = "s"\nzone = "x"', "time.zone: Object contains unknown field"),
        ('format = "s"', 'format = "seconds"', "time.format: expected one of s, ms, us, iso"),
        ('format = "s"', 'format = "iso"', "time.epoch: expected only where numbers count"),
        ('epoch = "2025-01-01"', 'epoch = "Monday"', "time.epoch: expected a day as 2025-01-01"),
        ('epoch = "2025-01-01"', "epoch = 2025-01-01", "time.epoch: Expected `str`"),
        ('epoch = "2025-01-01"', 'end = "z"', "time.add_duration: expected either this or time.end"),
        ('duration = "seconds"', "", "time.add_duration: has no meaning without duration"),
        ('kind = "ip"', 'kind = "address"', "actor.kind: expected one of user, sa"),
        ('column = "src", kind = "ip"', 'kind = "ip"', "actor: expected either column (with kind) or constant"),
        ('column = "src", kind = "ip"', 'constant = "gateway"', "actor.constant: expected an identity as service:gateway"),
        ('column = "src", kind = "ip"', 'constant = "ip:1.2.3"', "actor.constant: expected an identity"),
        ('get = "read"', 'get = "reed"', "action.values.'get': expected one of unknown, connect"),
        ('otherwise = "connect"', 'otherwise = "?"', "action.otherwise: expected one of"),
        ('bytes_basis = "ip"', "", "bytes_basis: expected payload, ip, l2 or object, as there are bytes"),
        ('bytes_basis = "ip"', "bytes_basis = 5", "bytes_basis: Expected `str`, got `int`"),
        ('integers = ["dport"]', 'integers = ["port"]', "integers: expected columns this mapping reads, got 'port'"),
        ('ports = ["dport"]', 'ports = ["sport"]', "detail.ports: expected some of detail.columns"),
        ('columns = ["proto", "dport"]', "columns = []", "detail.columns: expected at least one column"),
        ('label = "attack"', "", "benign: has no meaning without label"),
        ('title = "all of it"', 'delimiter = ";;"', "delimiter: expected one ASCII character"),
        ('title = "all of it"', "title = ", "not TOML"),
    ],
)
def test_a_mistake_in_a_mapping_names_file_key_and_what_was_expected(old: str, new: str, says: str) -> None:
    assert old in WHOLE
    with pytest.raises(MappingError) as error:
        parse_mapping(WHOLE.replace(old, new, 1), "my.toml")
    assert str(error.value).startswith("my.toml: ")
    assert says in str(error.value)


def test_a_mapping_that_cannot_be_read_says_so(tmp_path: Path) -> None:
    (tmp_path / "latin.toml").write_bytes(b"title = '\xe9'")
    for name, says in (("missing.toml", "No such file"), ("latin.toml", "not UTF-8"), (".", "directory")):
        with pytest.raises(MappingError, match=says):
            read_mapping(tmp_path / name)


def test_a_header_must_hold_every_mapped_column_once() -> None:
    for header in (HEADER[1:], [*HEADER, "src"]):
        with pytest.raises(MappingError, match="times, expected once; there are: "):
            table(header=header)


def test_a_nested_column_is_refused_with_its_type() -> None:
    made = Table(Names(), parse_mapping(Table.example_mapping, "x"))
    columns = {name: pa.array([["a"]]) for name in ("ts", "src", "dst", "sent", "state")}
    with pytest.raises(MappingError, match=r"column 'ts' is of type list<.*>: text, numbers or times are expected"):
        made.decode_batch(pa.RecordBatch.from_pydict(columns))


@pytest.mark.parametrize("path", sorted(MAPPINGS.glob("*.toml")), ids=lambda path: path.stem)
def test_the_mappings_in_docs_are_valid(path: Path) -> None:
    assert read_mapping(path).title


@pytest.mark.parametrize("name", [path.stem for path in sorted(MAPPINGS.glob("*.toml"))])
def test_every_recorded_table_is_read_with_its_mapping(name: str) -> None:
    path = data() / f"{name}.csv.gz"
    mapping = read_mapping(MAPPINGS / f"{name}.toml")
    with gzip.open(path, "rt") as file:
        rows = list(csv.DictReader(file))
    first: Decoded | None = None
    events, rejected = 0, {"missing:model": 25} if name == "gentd26-model-access" else {}
    found: dict[str, int] = {}
    for decoded in open_trace(path, None, mapping, Names(), 16384):
        first = first or decoded
        events += len(decoded.block)
        for reject in decoded.rejects:
            found[reject.reason] = found.get(reject.reason, 0) + 1
    assert (events, found) == (len(rows) - sum(rejected.values()), rejected)
    assert first is not None
    check_first(name, rows[0], row(first), first)


def check_first(name: str, cells: dict[str, str], found: dict[str, Any], decoded: Decoded) -> None:
    """The first row of each data set, by hand."""
    family = name.split("-")[0]
    if family == "darpa98":
        expected: dict[str, Any] = {
            "time": 896687700_000_000,
            "actor": "ip:172.16.112.20",
            "object": "ip:192.168.1.10",
            "bytes_out": None,
        }
        assert decoded.block.label is not None
        assert decoded.block.label[0] == ""
    elif family == "westermo":
        expected = {"actor": "mac:b8:27:eb:15:88:9c", "object": "mac:ff:ff:ff:ff:ff:ff", "detail": "ARP", "bytes_basis": Basis.l2}
        expected |= {"bytes_out": float(cells["out_bytes"]), "time": 1678440574_000_000 + round(float(cells["ts"][19:]) * 1e6 - 0.5)}
        expected["time"] += round(float(cells["dur"]) * 1e6)
    elif family == "gentd26":
        expected = {
            "time": 1738403902_000_000,
            "actor": "user:g0000",
            "object": "model:M0000",
            "detail": "TXT_2_IMG",
            "outcome": Outcome.ok,
        }
        expected |= {"duration": 32.0, "action": Action.read, "stream": Stream.registry}
    elif family == "dlrm2025":
        expected = {"time": 1735689600_000_000 + 623_000_000, "actor": "service:app_22", "object": "role:CN", "uid": "instance_7280"}
        assert decoded.block.gpus[0] == 0.0
    else:
        expected = {"time": 1132444800_000_000, "actor": "user:lcg/1", "object": "site:lcg/1", "uid": "1", "action": Action.submit}
    assert {key: found[key] for key in expected} == expected


CELLS = st.sampled_from(
    ["", "-1", "n/a", "1e5", "nan", "+1", " 7 ", "1.", "10.0.0.9", "a\nb", "\x00", "..", '"', "\u202e", "é", "9" * 400]
)


@settings(max_examples=150, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(HEADER), CELLS | st.text(max_size=12)), max_size=5), st.sampled_from(WAYS))
def test_whatever_a_cell_holds_gives_typed_rejects_and_leaves_the_others_as_they_are(
    changes: list[tuple[str, str]], read: Callable[[list[list[str]]], Decoded]
) -> None:
    if read is from_csv:
        changes = [(column, cell.replace("\n", " ").replace("\r", " ")) for column, cell in changes]  # a record is one line
    rows = [GOOD, *(changed(column, cell) for column, cell in changes), BARE]
    together = read(rows)
    alone = [read([cells]) for cells in rows]
    places = {int(record): i for i, record in enumerate(together.block.record)}
    for i, one in enumerate(alone):
        assert len(one.block) + len(one.rejects) == 1
        assert (i in places) == (len(one.block) == 1)
        if i in places:
            assert row(together, places[i]) | {"record": 0} == row(one)
    assert together.rejects == [Reject(i, one.rejects[0].reason, one.rejects[0].message) for i, one in enumerate(alone) if one.rejects]
    assert {0, len(rows) - 1} <= places.keys()


@settings(max_examples=150, deadline=None)
@given(st.lists(st.binary(max_size=60) | st.dictionaries(st.sampled_from(HEADER), JSON).map(raw), max_size=6), st.booleans())
def test_whatever_bytes_come_give_typed_rejects(bad: list[bytes], as_csv: bool) -> None:
    if as_csv:
        bad = [record.replace(b"\n", b"") for record in bad]
    good = line(GOOD) if as_csv else raw(dict(zip(HEADER, GOOD, strict=True)))
    made = table(header=HEADER if as_csv else None)
    decoded = made.decode([good, *bad, good])
    seen = [*decoded.block.record.tolist(), *(reject.record for reject in decoded.rejects)]
    assert sorted(seen) == list(range(len(bad) + 2))
    assert {0, len(bad) + 1} <= set(decoded.block.record.tolist())
    assert all(re.fullmatch(r"[a-z-]+(:[^\n]{1,64})?", reject.reason) for reject in decoded.rejects)


def test_mapping_is_what_the_module_exports() -> None:
    assert isinstance(parse_mapping(WHOLE, "x"), Mapping)
    assert np.isnan(table().decode([line(BARE)]).block.gpus[0])
