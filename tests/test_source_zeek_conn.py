import gzip
import json
import math
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from connectors.event import Action, Basis, Outcome, Reject, Stream
from connectors.names import Names
from connectors.sources import LONGEST_RECORD, Decoded, available
from connectors.sources.zeek_conn import SOURCE, ZeekConn
from tests.shared import data, samples

GOOD: dict[str, Any] = json.loads(ZeekConn.example)
UNDERSCORED = {key.replace("id.", "id_"): value for key, value in GOOD.items()}
#: The same connection in every way Zeek's shippers write it.
SPELLINGS: dict[str, dict[str, Any]] = {
    "untagged": GOOD,
    "underscored": UNDERSCORED,
    "tagged": {"conn": GOOD},
    "tagged and extended": {"conn": GOOD, "site": "a"},
    "tagged with a number": {"conn-2": GOOD},
    "stream": {"@stream": "conn", **UNDERSCORED},
    "path": {"_path": "conn", "_write_ts": "2020-06-05T14:40:00Z", **GOOD},
    "milliseconds": {**GOOD, "ts": 1591367999430},
    "iso": {**GOOD, "ts": "2020-06-05T14:39:59.430166Z"},
    "tagged iso": {"conn": {**GOOD, "ts": "2020-06-05T14:39:59.430166Z"}},
    "tagged underscored": {"conn": UNDERSCORED},
    "null for absent": {**GOOD, "service": None, "local_orig": None},
}


def raw(record: Any) -> bytes:
    return json.dumps(record).encode()


def decode(*records: Any) -> Decoded:
    return ZeekConn(Names()).decode([record if isinstance(record, bytes) else raw(record) for record in records])


def row(decoded: Decoded, i: int = 0) -> dict[str, Any]:
    """Row ``i`` with names in place of codes and None in place of NaN."""
    block = decoded.block
    out: dict[str, Any] = {"uid": block.uid[i]}
    for name in ("time", "stream", "action", "outcome", "bytes_out", "bytes_in", "bytes_basis", "duration", "count", "record"):
        value = getattr(block, name)[i].item()
        out[name] = None if value != value else value
    for name in ("actor", "object", "via", "detail"):
        code = int(getattr(block, name)[i])
        out[name] = block.names.values[code] if code >= 0 else None
    return out


def reasons(decoded: Decoded) -> list[tuple[int, str]]:
    return [(reject.record, reject.reason) for reject in decoded.rejects]


def test_every_field_of_the_documented_records_is_read() -> None:
    decoded = decode(*(samples() / "zeek_conn_docs.jsonl").read_bytes().splitlines())
    common = {"stream": Stream.flow, "action": Action.connect, "bytes_basis": Basis.payload, "count": 1.0, "via": None}
    assert decoded.rejects == []
    assert [row(decoded, i) for i in range(4)] == [
        common
        | {
            "record": 0,
            "time": 1591367999305988 + 66852,
            "uid": "CMdzit1AMNsmfAIiQc",
            "actor": "ip:192.168.4.76",
            "object": "ip:192.168.4.1",
            "detail": "udp/53",
            "outcome": Outcome.ok,
            "bytes_out": 62.0,
            "bytes_in": 141.0,
            "duration": 0.06685185432434082,
        },
        common
        | {
            "record": 1,
            "time": 1591367999430166 + 254115,
            "uid": "C5bLoe2Mvxqhawzqqd",
            "actor": "ip:192.168.4.76",
            "object": "ip:31.3.245.133",
            "detail": "tcp/80",
            "outcome": Outcome.ok,
            "bytes_out": 77.0,
            "bytes_in": 295.0,
            "duration": 0.25411510467529297,
        },
        common
        | {
            "record": 2,
            "time": 1748470563240134,
            "uid": "234567",
            "actor": "ip:192.168.1.20",
            "object": "ip:192.168.2.30",
            "detail": "tcp/7680",
            "outcome": Outcome.failed,
            "bytes_out": None,
            "bytes_in": None,
            "duration": None,
        },
        common
        | {
            "record": 3,
            "time": 1543380638834880 + 4537,
            "uid": "CX6jut3BmNwFdYkgrk",
            "actor": "ip:fc00::165",
            "object": "ip:fc00::1",
            "detail": "udp/53",
            "outcome": Outcome.ok,
            "bytes_out": 55.0,
            "bytes_in": 55.0,
            "duration": 0.004537,
        },
    ]


@pytest.mark.parametrize("name", SPELLINGS)
def test_every_spelling_of_a_connection_gives_the_same_event(name: str) -> None:
    expected = row(decode(GOOD))
    found = row(decode(SPELLINGS[name]))
    if name == "milliseconds":
        expected["time"] -= 166
    assert found == expected


def test_a_batch_of_all_spellings_gives_what_each_gives_alone() -> None:
    records = [*SPELLINGS.values(), GOOD, {"@stream": "dns", "ts": 1}, {**GOOD, "orig_bytes": -1}]
    together = decode(*records)
    alone = [row(decode(record)) for record in [*SPELLINGS.values(), GOOD]]
    assert [row(together, i) for i in range(len(alone))] == [one | {"record": i} for i, one in enumerate(alone)]
    assert together.skipped == {"dns": 1}
    assert reasons(together) == [(len(records) - 1, "negative:orig_bytes")]


def test_recorded_logs_of_all_types_give_their_connections_and_count_the_others() -> None:
    for day, conns in (("day1", 613), ("day2", 1172)):
        with gzip.open(data() / f"apt29-zeek-{day}.jsonl.gz") as file:
            records = [line.rstrip(b"\n") for line in file]
        decoded = ZeekConn(Names()).decode(records)
        types = [json.loads(record)["@stream"] for record in records]
        assert (len(decoded.block), decoded.rejects) == (conns, [])
        assert decoded.skipped == {kind: types.count(kind) for kind in set(types) - {"conn"}}
        for i in (0, 100, conns - 1):
            record = json.loads(records[decoded.block.record[i]])
            assert row(decoded, i)["time"] == round(record["ts"] * 1e6) + round(record.get("duration", 0) * 1e6)
            assert row(decoded, i)["actor"] == f"ip:{record['id_orig_h']}"
            assert row(decoded, i)["bytes_out"] == record.get("orig_bytes")


@pytest.mark.parametrize(
    ("state", "outcome"),
    [
        *((state, "ok") for state in ("SF", "S1", "S2", "S3", "RSTO", "RSTR")),
        ("REJ", "denied"),
        *((state, "failed") for state in ("S0", "RSTOS0", "RSTRH", "SH", "SHR")),
        *((state, "unknown") for state in ("OTH", "NEW", "")),
    ],
)
def test_the_connection_state_says_how_it_ended(state: str, outcome: str) -> None:
    assert Outcome(decode({**GOOD, "conn_state": state}).block.outcome[0]).name == outcome


@pytest.mark.parametrize(
    ("change", "detail"),
    [
        ({"id.resp_p": 443}, "tcp/443"),
        ({"id.resp_p": 0}, "tcp/0"),
        ({"id.resp_p": 32767}, "tcp/32767"),
        ({"id.resp_p": 32768}, "tcp/ephemeral"),
        ({"id.resp_p": 65535, "proto": "udp"}, "udp/ephemeral"),
        ({"id.resp_p": 3, "proto": "icmp"}, "icmp"),
        ({"id.resp_p": 0, "proto": "unknown_transport"}, "unknown_transport/0"),
        ({"id.resp_p": 9, "proto": "made-up"}, "other/9"),
    ],
)
def test_services_are_protocol_and_port_with_the_ephemeral_range_as_one(change: dict[str, Any], detail: str) -> None:
    assert row(decode({**GOOD, **change}))["detail"] == detail


def test_a_connection_is_complete_at_its_end() -> None:
    one = decode({**GOOD, "ts": 1600000000.5, "duration": 3600.25}, {key: GOOD[key] for key in GOOD if key != "duration"})
    assert one.block.time[0] == 1600003600750000
    assert (one.block.time[1], math.isnan(one.block.duration[1])) == (1591367999430166, True)


def test_null_stands_for_an_absent_field() -> None:
    assert row(decode({**GOOD, "orig_bytes": None, "duration": None}))["bytes_out"] is None
    assert reasons(decode({**GOOD, "ts": None})) == [(0, "missing:ts")]


def test_an_unmarked_record_of_another_log_is_a_reject_not_a_connection() -> None:
    dns = {"ts": 1591367999.3, "uid": "C1", "id.orig_h": "10.0.0.1", "id.orig_p": 5, "id.resp_h": "10.0.0.2", "id.resp_p": 53}
    decoded = decode({**dns, "proto": "udp", "trans_id": 4, "query": "a.b"}, {**dns, "proto": "udp", "history": "Dd"})
    assert reasons(decoded) == [(0, "missing:conn_state")]
    assert row(decoded)["outcome"] == Outcome.unknown


def test_other_logs_are_skipped_by_a_bounded_set_of_names() -> None:
    decoded = decode({"_path": "conn_long", **GOOD}, {"http": {"ts": 1}}, {"_path": "made-up-17"}, {"@stream": "x" * 500})
    assert decoded.skipped == {"conn_long": 1, "http": 1, "other": 2}
    assert (len(decoded.block), decoded.rejects) == (0, [])


@pytest.mark.parametrize(
    ("record", "reason"),
    [
        ({**GOOD, "orig_bytes": -1}, "negative:orig_bytes"),
        ({**GOOD, "resp_bytes": -0.5}, "negative:resp_bytes"),
        ({**GOOD, "duration": -1e-9}, "negative:duration"),
        ({**GOOD, "duration": 1e300}, "time-out-of-range:ts"),
        ({**GOOD, "id.resp_p": 65536}, "out-of-range:id.resp_p"),
        ({**GOOD, "id.resp_p": -1}, "out-of-range:id.resp_p"),
        ({**GOOD, "id.resp_p": 53.5}, "out-of-range:id.resp_p"),
        ({**GOOD, "id.resp_p": 10**30}, "out-of-range:id.resp_p"),
        ({**GOOD, "id.resp_p": "53"}, "wrong-type:id.resp_p"),
        ({**GOOD, "orig_bytes": "77"}, "wrong-type:orig_bytes"),
        ({**GOOD, "orig_bytes": True}, "wrong-type:orig_bytes"),
        (raw(GOOD).replace(b'"orig_bytes": 77', b'"orig_bytes": 1e999'), "wrong-type:orig_bytes"),
        (raw(GOOD).replace(b'"orig_bytes": 77', b'"orig_bytes": NaN'), "malformed-json"),
        (raw(GOOD).replace(b'"orig_bytes": 77', b'"orig_bytes": Infinity'), "malformed-json"),
        ({**GOOD, "ts": 0}, "time-out-of-range:ts"),
        ({**GOOD, "ts": 4102444800.0}, "time-out-of-range:ts"),
        ({**GOOD, "ts": -1e300}, "time-out-of-range:ts"),
        ({**GOOD, "ts": "yesterday"}, "bad-time:ts"),
        ({**GOOD, "ts": "1970-01-01T00:00:00Z"}, "time-out-of-range:ts"),
        ({**GOOD, "ts": True}, "wrong-type:ts"),
        ({**GOOD, "id.orig_h": "10.0.0"}, "bad-identity:id.orig_h"),
        ({**GOOD, "id.resp_h": "10.0.0.\u202e1"}, "bad-identity:id.resp_h"),
        ({**GOOD, "id.orig_h": "10.0.0.1\n"}, "bad-identity:id.orig_h"),
        ({**GOOD, "id.orig_h": "\x0010.0.0.1"}, "bad-identity:id.orig_h"),
        ({**GOOD, "id.resp_h": ""}, "bad-identity:id.resp_h"),
        ({**GOOD, "id.resp_h": 5}, "wrong-type:id.resp_h"),
        ({key: GOOD[key] for key in GOOD if key != "id.resp_h"}, "missing:id.resp_h"),
        ({key: GOOD[key] for key in GOOD if key != "ts"}, "missing:ts"),
        ({}, "missing:ts"),
        ([], "wrong-type:record"),
        (b"", "empty"),
        (b" ", "empty"),
        (raw(GOOD)[:-5], "malformed-json"),
        (b"\xff\xfe\x00", "malformed-json"),
        (b"[" * 100_000, "malformed-json"),
        (raw({**GOOD, "history": "x" * LONGEST_RECORD}), "too-long"),
        ({"flow": {"verdict": "FORWARDED", "IP": {}}}, "unsupported-format:hubble"),
        ({"sampler_address": "10.0.0.1", "sampling_rate": 1, "bytes": 5}, "unsupported-format:goflow2"),
    ],
)
def test_a_bad_record_is_one_typed_reject_and_its_neighbours_are_kept(record: Any, reason: str) -> None:
    decoded = decode(GOOD, record, {**GOOD, "uid": "after"})
    assert reasons(decoded) == [(1, reason)]
    assert decoded.block.record.tolist() == [0, 2]
    assert decoded.block.uid == [GOOD["uid"], "after"]
    assert reasons(decode(record)) == [(0, reason)]


def test_every_later_format_among_the_samples_is_refused_by_name() -> None:
    records = [json.loads(line)["record"] for line in (samples() / "misc_real_records.jsonl").read_bytes().splitlines()]
    records += [json.loads(line) for line in (samples() / "hubble_flow_1.19.jsonl").read_bytes().splitlines()]
    decoded = decode(*records)
    assert len(decoded.block) == 0
    found = {reason for _, reason in reasons(decoded)}
    assert {"unsupported-format:hubble", "unsupported-format:goflow2", "unsupported-format:nvtrust"} <= found


def test_a_text_with_a_line_break_does_not_shift_its_neighbours() -> None:
    records = [{**GOOD, "id.orig_h": host} for host in ("10.0.0.1", "10.0.0.2\n10.0.0.3", "10.0.0.4", "10.0.0.5")]
    decoded = decode(*records)
    assert [row(decoded, i)["actor"] for i in range(3)] == ["ip:10.0.0.1", "ip:10.0.0.4", "ip:10.0.0.5"]


def test_both_spellings_in_one_record_are_read_the_same_in_any_company() -> None:
    both = {**UNDERSCORED, **GOOD, "id_orig_h": "10.9.9.9"}
    assert row(decode(both))["actor"] == row(decode(UNDERSCORED, both), 1)["actor"] == row(decode(GOOD, both), 1)["actor"]


def test_spellings_of_one_address_share_one_code() -> None:
    decoded = decode(*({**GOOD, "id.orig_h": host} for host in ("010.1.2.3", "10.1.2.3", "::ffff:10.1.2.3", "10.1.2.3")))
    assert len(set(decoded.block.actor.tolist())) == 1


def test_more_addresses_than_fit_the_table_keep_their_codes() -> None:
    names = Names(limit=500)
    source = ZeekConn(names)
    hosts = [f"10.{i >> 8}.{i & 255}.1" for i in range(3000)]
    for _ in range(2):
        decoded = source.decode([raw({**GOOD, "id.orig_h": host}) for host in hosts])
        assert [names.values[code] for code in decoded.block.actor.tolist()] == [f"ip:{host}" for host in hosts]


def test_an_empty_batch_gives_an_empty_block() -> None:
    decoded = decode()
    assert (len(decoded.block), decoded.rejects, decoded.skipped) == (0, [], {})


def test_zeek_records_are_recognised_and_others_are_not() -> None:
    recognised: list[dict[str, Any]] = [{"@stream": "capture_loss", "ts": 1}, {"dns": {"ts": 1}}]
    assert all(SOURCE.recognises(record) for record in [*SPELLINGS.values(), *recognised])
    others: list[dict[str, Any]] = [
        {},
        {"ts": 1},
        {"flow": {"verdict": "X"}},
        {"event_type": "flow", "timestamp": "x"},
        {"conn": 5},
        {"made_up": {"ts": 1}},
    ]
    assert not any(SOURCE.recognises(record) for record in others)
    assert available()["zeek_conn"] is SOURCE


def same(left: Decoded, i: int, right: Decoded, j: int) -> bool:
    return row(left, i) | {"record": 0} == row(right, j) | {"record": 0}


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**20), 10**20) | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


@st.composite
def mutated(draw: st.DrawFn) -> bytes:
    """A good record with a field changed or removed, or with bytes cut, doubled or replaced."""
    record = dict(draw(st.sampled_from(list(SPELLINGS.values()))))
    target = record["conn"] if isinstance(record.get("conn"), dict) and draw(st.booleans()) else record
    key = draw(st.sampled_from([*target, "@stream", "_path", "conn", "ts"]))
    changed = {**target, key: draw(JSON)} if draw(st.booleans()) else {k: v for k, v in target.items() if k != key}
    text = bytearray(msgspec.json.encode(changed) if draw(st.booleans()) else raw(changed))
    for _ in range(draw(st.integers(0, 2))):
        at = draw(st.integers(0, len(text)))
        text[at : at + draw(st.integers(0, 9))] = draw(st.binary(max_size=3))
    return bytes(text)


def test_a_mark_outside_the_tag_says_the_same_in_a_batch_of_one_and_of_many() -> None:
    odd = raw(SPELLINGS["tagged"])[:-1] + b', "@stream": "0"}'
    assert decode(odd).skipped == decode(odd, raw(SPELLINGS["untagged"])).skipped == {"other": 1}


@settings(max_examples=250, deadline=None)
@given(st.lists(st.binary(max_size=40) | mutated(), max_size=6), st.lists(st.sampled_from(list(SPELLINGS)), min_size=1, max_size=3))
def test_whatever_comes_gives_typed_rejects_and_leaves_the_others_as_they_are(bad: list[bytes], good: list[str]) -> None:
    records = [raw(SPELLINGS[good[0]]), *bad, *(raw(SPELLINGS[name]) for name in good[1:])]
    together = decode(*records)
    alone = [decode(record) for record in records]
    rows = {int(record): i for i, record in enumerate(together.block.record)}
    for i, one in enumerate(alone):
        assert len(one.block) + len(one.rejects) + sum(one.skipped.values()) == 1
        assert (i in rows) == (len(one.block) == 1)
        if i in rows:
            assert same(together, rows[i], one, 0)
    expected = [Reject(i, one.rejects[0].reason, one.rejects[0].message) for i, one in enumerate(alone) if one.rejects]
    assert together.rejects == expected
    assert all(reject.reason and len(reject.reason) < 100 and reject.message for reject in together.rejects)
    assert np.all(np.diff(together.block.record) > 0)
