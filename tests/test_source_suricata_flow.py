import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from connectors.event import Action, Basis, Outcome, Reject, Stream
from connectors.names import Names
from connectors.sources import LONGEST_RECORD, Decoded
from connectors.sources.suricata_flow import SOURCE, SuricataFlow
from tests.shared import samples
from tests.test_source_zeek_conn import JSON, raw, reasons, row

GOOD: dict[str, Any] = json.loads(SuricataFlow.example)
MODULE: dict[str, Any] = {
    "@timestamp": "2026-11-20T22:50:00.010Z",
    "event": {"start": "2026-11-20T22:50:00.010Z", "end": "2026-11-20T22:50:04.479996Z", "duration": 4469996000},
    "source": {"ip": "10.20.0.15", "port": 41234, "bytes": 58430, "packets": 45},
    "destination": {"ip": "203.0.113.9", "port": 443, "bytes": 2522, "packets": 43},
    "network": {"transport": "tcp"},
    "suricata": {"eve": {"event_type": "flow", "flow_id": 42951310067632, "flow": {"state": "closed"}, "tcp": {"tcp_flags_tc": "1b"}}},
}
SPELLINGS: dict[str, dict[str, Any]] = {
    "plain": GOOD,
    "filebeat": {"@timestamp": "2026-11-20T22:51:00.000Z", "log": {"offset": 5}, "message": json.dumps(GOOD)},
    "fluent bit": {"log": json.dumps(GOOD) + "\n", "stream": "stdout"},
    "filebeat's module": MODULE,
    "eve within the module": {"@timestamp": "2026-11-20T22:51:00Z", "suricata": {"eve": GOOD}},
}


def decode(*records: Any) -> Decoded:
    return SuricataFlow(Names()).decode([record if isinstance(record, bytes) else raw(record) for record in records])


def changed(flow: dict[str, Any] | None = None, **fields: Any) -> dict[str, Any]:
    return {**GOOD, **fields, "flow": {**GOOD["flow"], **(flow or {})}}


EXPECTED = {
    "record": 0,
    "time": 1795215004479996,
    "stream": Stream.flow,
    "action": Action.connect,
    "outcome": Outcome.ok,
    "actor": "ip:10.20.0.15",
    "object": "ip:203.0.113.9",
    "via": None,
    "detail": "tcp/443",
    "bytes_out": 58430.0,
    "bytes_in": 2522.0,
    "bytes_basis": Basis.l2,
    "duration": 4.469996,
    "count": 1.0,
    "uid": "42951310067632",
}


def test_every_field_of_the_recorded_flow_is_read() -> None:
    decoded = decode((samples() / "suricata_8.0.7_eve_flow.jsonl").read_bytes().strip())
    assert (row(decoded), decoded.rejects) == (EXPECTED, [])


@pytest.mark.parametrize("name", SPELLINGS)
def test_plain_and_wrapped_flows_give_the_same_event(name: str) -> None:
    assert row(decode(SPELLINGS[name])) == EXPECTED
    assert row(decode(GOOD, SPELLINGS[name], GOOD), 1) == EXPECTED | {"record": 1}
    assert SOURCE.recognises(SPELLINGS[name])


def test_other_event_types_are_skipped_by_a_bounded_set_of_names() -> None:
    kinds = ["alert", "dns", "netflow", "netflow", "made-up", "x" * 300]
    decoded = decode(*({**GOOD, "event_type": kind} for kind in kinds), {"message": json.dumps({**GOOD, "event_type": "tls"})})
    assert decoded.skipped == {"alert": 1, "dns": 1, "netflow": 2, "other": 2, "tls": 1}
    assert (len(decoded.block), decoded.rejects) == (0, [])


@pytest.mark.parametrize(
    ("record", "outcome"),
    [
        (changed({"action": "drop"}), Outcome.denied),
        (changed({"pkts_toclient": 0, "state": "new"}), Outcome.failed),
        (changed(tcp={"tcp_flags_tc": "14"}), Outcome.denied),
        (changed(tcp={"tcp_flags_tc": "1e"}), Outcome.ok),
        (changed(tcp={"tcp_flags_tc": "zz"}), Outcome.ok),
        (changed({"pkts_toclient": None, "state": "new"}, tcp=None), Outcome.unknown),
        (changed({"pkts_toclient": None, "state": "established"}, tcp=None), Outcome.ok),
    ],
)
def test_state_flags_and_answers_say_how_a_flow_ended(record: dict[str, Any], outcome: Outcome) -> None:
    assert decode(record).block.outcome[0] == outcome


def test_what_a_flow_does_not_say_is_unknown() -> None:
    bare = {key: GOOD[key] for key in ("timestamp", "event_type", "src_ip", "dest_ip")}
    found = row(decode({**bare, "proto": "IPv6-ICMP", "flow": {}}))
    assert found == EXPECTED | {
        "time": 1795215000010000,
        "outcome": Outcome.unknown,
        "detail": "icmp",
        "bytes_out": None,
        "bytes_in": None,
        "duration": None,
        "uid": "",
    }


@pytest.mark.parametrize(
    ("record", "reason"),
    [
        (changed({"bytes_toserver": -1}), "negative:flow.bytes_toserver"),
        (changed({"bytes_toclient": -1}), "negative:flow.bytes_toclient"),
        (changed({"bytes_toclient": "2522"}), "wrong-type:flow.bytes_toclient"),
        (changed({"end": "2026-11-20T22:49:00.010000+0000"}), "negative:duration"),
        (changed({"end": "soon"}), "bad-time:flow.end"),
        (changed({"start": "20/11/2026"}), "bad-time:flow.start"),
        (changed({"end": "1970-01-01T00:00:00+0000"}), "time-out-of-range:flow.end"),
        (changed(dest_port=70000), "out-of-range:dest_port"),
        (changed(dest_port=10**40), "out-of-range:dest_port"),
        (changed(src_ip="10.20.0.300"), "bad-identity:src_ip"),
        (changed(dest_ip="../etc"), "bad-identity:dest_ip"),
        ({key: GOOD[key] for key in GOOD if key != "flow"}, "missing:flow"),
        ({key: GOOD[key] for key in GOOD if key != "dest_ip"}, "missing:dest_ip"),
        ({"message": "Nov 20 host kernel: up"}, "malformed-json"),
        ({"message": json.dumps({"message": json.dumps(GOOD)})}, "missing:timestamp"),
        ({}, "missing:timestamp"),
        (b"", "empty"),
        (b"\x00", "malformed-json"),
        (b'{"a":' * 50_000, "malformed-json"),
        (raw(changed(x="y" * LONGEST_RECORD)), "too-long"),
        ({"flow": {"verdict": "DROPPED", "IP": {}}}, "unsupported-format:hubble"),
    ],
)
def test_a_bad_record_is_one_typed_reject_and_its_neighbours_are_kept(record: Any, reason: str) -> None:
    decoded = decode(GOOD, record, GOOD)
    assert reasons(decoded) == [(1, reason)]
    assert decoded.block.record.tolist() == [0, 2]
    assert reasons(decode(record)) == [(0, reason)]


def test_times_in_any_zone_are_read_as_utc() -> None:
    decoded = decode(*[changed({"end": end}) for end in ("2026-11-20T22:50:04.479996Z", "2026-11-21T00:50:04.479996+0200")] * 20)
    assert decoded.block.time.tolist() == [EXPECTED["time"]] * 40


@st.composite
def mutated(draw: st.DrawFn) -> bytes:
    """A good record with a field changed or removed, or with bytes cut, doubled or replaced."""
    record = dict(draw(st.sampled_from(list(SPELLINGS.values()))))
    inner = draw(st.sampled_from([None, "flow", "suricata", "source", "tcp"]))
    target = record[inner] if isinstance(record.get(inner or ""), dict) else record
    key = draw(st.sampled_from([*target, "flow", "message", "suricata", "event_type"]))
    new = {**target, key: draw(JSON)} if draw(st.booleans()) else {k: v for k, v in target.items() if k != key}
    text = bytearray(raw(new if target is record else {**record, inner: new}))
    for _ in range(draw(st.integers(0, 2))):
        at = draw(st.integers(0, len(text)))
        text[at : at + draw(st.integers(0, 9))] = draw(st.binary(max_size=3))
    return bytes(text)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.binary(max_size=40) | mutated(), max_size=6), st.sampled_from(list(SPELLINGS)))
def test_whatever_comes_gives_typed_rejects_and_leaves_the_others_as_they_are(bad: list[bytes], good: str) -> None:
    records = [raw(SPELLINGS[good]), *bad, raw(GOOD)]
    together = decode(*records)
    alone = [decode(record) for record in records]
    rows = {int(record): i for i, record in enumerate(together.block.record)}
    for i, one in enumerate(alone):
        assert len(one.block) + len(one.rejects) + sum(one.skipped.values()) == 1
        assert (i in rows) == (len(one.block) == 1)
        if i in rows:
            assert row(together, rows[i]) | {"record": 0} == row(one)
    assert together.rejects == [Reject(i, one.rejects[0].reason, one.rejects[0].message) for i, one in enumerate(alone) if one.rejects]
    assert all(reject.reason and len(reject.reason) < 100 and reject.message for reject in together.rejects)
