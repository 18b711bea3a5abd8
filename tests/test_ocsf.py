from __future__ import annotations

import copy
import json
import math
import re
import tomllib
import unicodedata
from functools import cache
from importlib import resources
from typing import Any

import jsonschema
import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from ocsf_json_schema import OcsfJsonSchemaEmbedded, get_ocsf_schema

from connectors.alert import ALERT_VERSION, Alert, Evidence, Reason
from connectors.event import EARLIEST, LATEST, Action, Outcome, Stream
from connectors.names import KINDS
from connectors.ocsf import LARGEST, NotAnAlert, alert_of, confidence, deed, encode, finding, risk, shown, table, techniques

#: 2026-11-20 22:50:00 UTC, in microseconds.
NIGHT = 1_795_215_000_000_000
HOSTILE = "a\x00b\x1b[31m\u202egpj.exe\u2028</script>\"'\ud800" + "x" * 10_000


def reason(**changes: Any) -> Reason:
    """A reason of the magnitude signal, with ``changes``."""
    values: dict[str, Any] = {
        "signal": "bytes_out",
        "surprise": 7.74,
        "seen": 150_538_000_000.0,
        "expected": 1_181_000_000.0,
        "usual": 3_221_000_000.0,
        "unit": "bytes",
        "base_rate": 0.000435,
        "text": "140.2 GiB moved, about 1.1 GiB expected between these two, up to 3.0 GiB would be normal",
    }
    return Reason(**(values | changes))


def piece(**changes: Any) -> Evidence:
    """A piece of evidence: a bulk pull by night, with ``changes``."""
    values: dict[str, Any] = {
        "time": NIGHT,
        "stream": "registry",
        "action": "pull",
        "outcome": "ok",
        "actor": "user:mallory",
        "object": "model:registry/llama-70b",
        "via": "ip:10.20.0.15",
        "detail": "layer",
        "score": 12.1,
        "reasons": [reason()],
        "source": "oci_notifications",
        "partition": "registry.jsonl",
        "offset": 1841,
        "uid": "ev-7f3a",
        "events": 12,
        "lowered": [],
    }
    return Evidence(**(values | changes))


def an_alert(**changes: Any) -> Alert:
    """An alert on that pull, with ``changes``."""
    values: dict[str, Any] = {
        "uid": "5c1f0b3a9d2e4f6871a0c3d5",
        "revision": 1,
        "activity": "open",
        "time": NIGHT + 490_000_000,
        "opened": NIGHT,
        "first": NIGHT - 60_000_000,
        "last": NIGHT + 490_000_000,
        "blamed": "user:mallory",
        "role": "actor",
        "principals": ["user:mallory"],
        "targets": ["user:mallory", "ip:10.20.0.15"],
        "score": 12.1,
        "threshold": 8.4,
        "evidence_now": 31.0,
        "evidence_peak": 34.2,
        "severity": 3,
        "events": 37,
        "partners": 9,
        "signals": ["bytes_out", "actor_at_object"],
        "streams": ["registry"],
        "actions": ["pull"],
        "evidence": [piece()],
        "probation": False,
    }
    return Alert(**(values | changes))


@cache
def official() -> Any:
    return get_ocsf_schema("1.8.0")


@cache
def validator() -> Any:
    schema = OcsfJsonSchemaEmbedded(official()).get_class_schema("detection_finding", ["security_control"])
    return jsonschema.Draft202012Validator(schema)


def faults(record: dict[str, Any]) -> list[str]:
    """What the official schema has against a finding: shape, required and at-least-one attributes, captions that belie ids."""
    found = [f"{error.json_path}: {error.message[:200]}" for error in validator().iter_errors(record)]
    return found + list(captions("$", record, official()["classes"]["detection_finding"]["attributes"]))


def captions(path: str, record: dict[str, Any], attributes: dict[str, Any]) -> Any:
    for name, value in record.items():
        about = attributes.get(name)
        if about is None:
            continue
        for i, each in enumerate(value if isinstance(value, list) else [value]):
            if about["type"] == "object_t" and isinstance(each, dict):
                yield from captions(f"{path}.{name}[{i}]", each, official()["objects"][about["object_type"]]["attributes"])
        sibling = about.get("sibling") or name.removesuffix("_id").removesuffix("_uid")
        if about.get("enum") and name.endswith(("_id", "_uid")) and sibling in record:
            caption = about["enum"][str(value)]["caption"]
            if value != 99 and record[sibling] != caption:
                yield f"{path}.{sibling}: {record[sibling]!r} is not the caption of {name} {value}, {caption!r}"


def record_of(alert: Alert) -> dict[str, Any]:
    parsed: dict[str, Any] = json.loads(encode(alert, "0.1.0"))
    return parsed


def harmless(text: str) -> bool:
    """Whether a terminal can be shown ``text``: no control, invisible or bidirectional character, no line separator."""
    return not any(unicodedata.category(each) in {"Cc", "Cf", "Cs", "Co", "Zl", "Zp"} for each in text)


NAMES = {
    "ip": ["10.1.2.3", "2001:db8::7", "::", "fe80::1", "255.255.255.255"],
    "mac": ["00:11:22:aa:bb:cc", "0011.22aa.bbcc"],
    "sa": ["team-a/trainer"],
    "pod": ["team-a/train-0", "loose"],
}


@pytest.mark.parametrize("kind", sorted(KINDS))
@pytest.mark.parametrize("stream", ["flow", "registry", "job", "auth"])
@pytest.mark.parametrize("role", ["actor", "object"])
def test_a_finding_about_any_kind_of_identity_fits_the_official_schema(kind: str, stream: str, role: str) -> None:
    for name in NAMES.get(kind, ["some/thing-1"]):
        me = f"{kind}:{name}"
        pieces = [
            piece(stream=stream, actor=me, object="model:m", via="", detail="tcp/22"),
            piece(stream=stream, actor="user:u", object=me, via="pod:a/b"),
            piece(stream=stream, actor="pod:a/b", object="node:gpu-1", via=me, uid=""),
        ]
        record = record_of(an_alert(blamed=me, role=role, principals=[me, "sa:x/y"], targets=[me, "token:t"], evidence=pieces))
        assert faults(record) == []
        assert record["resources"][0]["uid"] == me
        assert record["resources"][0]["role"] == ("Actor" if role == "actor" else "Target")


def test_every_kind_of_identity_has_a_type_of_its_own() -> None:
    types = {kind: finding(an_alert(blamed=f"{kind}:x"), "1")["resources"][0]["type"] for kind in KINDS}
    assert "Other" not in types.values()
    assert len(set(types.values())) == len(KINDS)


@pytest.mark.parametrize(
    ("activity", "type_uid", "status"), [("open", 200401, "New"), ("update", 200402, "In Progress"), ("close", 200403, "Resolved")]
)
def test_revisions_share_the_finding_and_differ_in_the_record(activity: str, type_uid: int, status: str) -> None:
    first = record_of(an_alert())
    record = record_of(an_alert(activity=activity, revision=7))
    assert faults(record) == []
    assert (record["type_uid"], record["status"]) == (type_uid, status)
    assert record["finding_info"]["uid"] == first["finding_info"]["uid"]
    assert record["metadata"]["uid"] != first["metadata"]["uid"]


def test_times_are_milliseconds_and_of_this_revision() -> None:
    record = record_of(an_alert())
    assert (record["time"], record["start_time"], record["end_time"]) == (1_795_215_490_000, 1_795_214_940_000, 1_795_215_490_000)
    assert record["finding_info"]["created_time"] == 1_795_215_000_000


ODD_ALERTS = {
    "no evidence": an_alert(evidence=[], signals=[], streams=[]),
    "no reasons": an_alert(evidence=[piece(reasons=[])]),
    "reasons without numbers": an_alert(evidence=[piece(reasons=[reason(seen=None, expected=None, usual=None, unit="")])]),
    "numbers out of this world": an_alert(
        score=math.inf,
        threshold=-math.inf,
        evidence_peak=math.nan,
        evidence=[piece(score=math.nan, reasons=[reason(seen=math.inf, expected=1e300, usual=-0.0, base_rate=0.0)])],
    ),
    "a stream and an action from later": an_alert(evidence=[piece(stream="dns", action="resolve", outcome="odd")]),
    "a plug-in's signal": an_alert(evidence=[piece(reasons=[reason(signal="river:HalfSpaceTrees", unit="", text="")])]),
    "no known kind": an_alert(blamed="nonsense", principals=["also nonsense"], evidence=[piece(actor="x", object="", via=":")]),
    "an address that is none": an_alert(evidence=[piece(stream="flow", actor="ip:no", object="ip:1.2.3.4%eth0", detail="tcp/99999")]),
    "hostile texts": an_alert(
        blamed=f"user:{HOSTILE}",
        principals=[f"user:{HOSTILE}", HOSTILE],
        signals=[HOSTILE],
        streams=[HOSTILE],
        evidence=[
            piece(
                actor=f"user:{HOSTILE}",
                object=f"host:{HOSTILE}",
                via=f"token:{HOSTILE}",
                detail=HOSTILE,
                uid=HOSTILE,
                source=HOSTILE,
                partition=HOSTILE,
                lowered=[HOSTILE],
                reasons=[reason(signal=HOSTILE, unit=HOSTILE, text=HOSTILE)],
            )
        ],
    ),
}


@pytest.mark.parametrize("name", ODD_ALERTS)
def test_odd_alerts_still_make_findings_that_fit_the_schema(name: str) -> None:
    assert faults(record_of(ODD_ALERTS[name])) == []


def break_caption(record: dict[str, Any]) -> None:
    record["severity"] = "High"


def break_nested_caption(record: dict[str, Any]) -> None:
    record["resources"][0]["role"] = "Related"


def break_required(record: dict[str, Any]) -> None:
    del record["finding_info"]["uid"]


def break_at_least_one(record: dict[str, Any]) -> None:
    record["evidences"][0] = {"container": {"name": "c"}}


def break_value(record: dict[str, Any]) -> None:
    record["anomaly_analyses"][0]["anomalies"][0]["observations"][0]["value"] = 4.0


def break_attribute(record: dict[str, Any]) -> None:
    record["verdict_id"] = 2


@pytest.mark.parametrize(
    "broken",
    [break_caption, break_nested_caption, break_required, break_at_least_one, break_value, break_attribute],
    ids=lambda f: f.__name__,
)
def test_the_check_against_the_schema_sees_a_broken_finding(broken: Any) -> None:
    record = record_of(an_alert())
    assert faults(record) == []
    broken(record)
    assert len(faults(record)) > 0


def test_every_observable_points_at_the_value_it_names() -> None:
    record = record_of(an_alert(targets=["ip:10.20.0.15", "node:gpu-7", "pod:a/b", "token:sha256/9f", "mac:00:11:22:33:44:55"]))
    assert {each["type"] for each in record["observables"]} >= {"User Name", "IP Address", "Hostname", "Resource UID", "MAC Address"}
    for each in record["observables"]:
        match = re.fullmatch(r"resources\[(\d+)\]\.(\w+)", each["name"])
        assert match is not None
        assert record["resources"][int(match[1])][match[2]] == each["value"]


def test_the_message_says_who_did_what_and_why_that_is_strange() -> None:
    assert record_of(an_alert())["message"] == (
        "user:mallory pulled model:registry/llama-70b (layer): 140.2 GiB moved, about 1.1 GiB expected between these two, "
        "up to 3.0 GiB would be normal"
    )


def test_a_refused_act_is_told_as_a_try() -> None:
    assert deed(piece(outcome="denied", detail="")) == "user:mallory tried to pull model:registry/llama-70b and was refused"


def test_every_action_has_words() -> None:
    told = [deed(piece(action=action.name)) for action in Action if action is not Action.unknown]
    assert not any("acted on" in each for each in told)


def test_expected_and_seen_stand_side_by_side_as_texts() -> None:
    analysis = record_of(an_alert())["anomaly_analyses"][0]
    assert analysis["anomalies"][0]["observations"] == [{"value": "150538000000", "count": 12}]
    assert analysis["baselines"][0]["observations"] == [{"value": "1181000000"}]
    assert "3221000000" in analysis["baselines"][0]["observed_pattern"]


def test_confidence_grows_with_the_margin_and_stays_low_on_probation() -> None:
    margins = [confidence(an_alert(threshold=8.0, score=8.0 + m))[2] for m in (0.0, 1.0, 3.0, 9.0, 1e9)]
    assert margins == [50, 64, 81, 97, 99]
    assert confidence(an_alert(score=1e9))[:2] == (3, "High")
    assert confidence(an_alert(score=1e9, probation=True))[:2] == (1, "Low")


def test_risk_grows_with_the_evidence_and_stays_within_its_scale() -> None:
    assert [risk(an_alert(evidence_peak=nats)) for nats in (-1.0, 0.0, 20.0, 180.0, math.inf)] == [0, 0, 50, 90, 100]


def test_identical_alerts_are_identical_bytes_on_one_line() -> None:
    line = encode(an_alert(), "0.1.0")
    assert line == encode(an_alert(), "0.1.0")
    assert line.count(b"\n") == 1
    assert line.endswith(b"\n")


def test_a_finding_never_shows_a_raw_control_or_bidirectional_character() -> None:
    line = encode(ODD_ALERTS["hostile texts"], "0.1.0").decode()
    assert harmless(line[:-1])
    record = json.loads(line)
    del record["unmapped"]
    assert "\u202e" not in json.dumps(record, ensure_ascii=False)
    assert json.loads(line)["unmapped"]["tocsin"]["alert"]["evidence"][0]["detail"].startswith("a\x00b\x1b[31m\u202e")


def test_a_character_beyond_the_basic_plane_survives_its_escape() -> None:
    tagged = "a\U000e0041z😀"
    assert alert_of(encode(an_alert(evidence=[piece(detail=tagged)]), "1")).evidence[0].detail == tagged


def test_a_shown_text_keeps_its_two_ends() -> None:
    assert shown("abcdefghij", 5) == "ab…ij"
    assert len(shown("é\u200b" * 1000, 50)) == 50


# --- Reading back -------------------------------------------------------------------------------------------------------------


def test_an_alert_comes_back_whole() -> None:
    alert = an_alert(evidence=[piece(), piece(reasons=[reason(seen=None)], lowered=["late"])])
    assert alert_of(encode(alert, "0.1.0")) == alert
    assert alert_of(finding(alert, "0.1.0")) == alert


IDENTITIES = st.builds(
    lambda kind, name: f"{kind}:{name}", st.sampled_from(sorted(KINDS)), st.from_regex(r"[a-zß-ɏ0-9/@-]{1,40}", fullmatch=True)
)
NUMBERS = st.floats(allow_nan=False, allow_infinity=False)
TIMES = st.integers(EARLIEST, LATEST - 1)
#: No lone surrogates: those become U+FFFD on the wire.
TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)
REASONS = st.builds(
    Reason,
    signal=TEXTS,
    surprise=NUMBERS,
    seen=st.none() | NUMBERS,
    expected=st.none() | NUMBERS,
    usual=st.none() | NUMBERS,
    unit=TEXTS,
    base_rate=NUMBERS,
    text=TEXTS,
)
PIECES = st.builds(
    Evidence,
    time=TIMES,
    stream=st.sampled_from([*Stream.__members__, "dns"]),
    action=st.sampled_from([*Action.__members__, "resolve"]),
    outcome=st.sampled_from(list(Outcome.__members__)),
    actor=IDENTITIES,
    object=IDENTITIES,
    via=st.just("") | IDENTITIES,
    detail=TEXTS | st.sampled_from(["tcp/22", "tcp/ephemeral", "udp/70000"]),
    score=NUMBERS,
    reasons=st.lists(REASONS, max_size=3),
    source=TEXTS,
    partition=TEXTS,
    offset=st.integers(0, 2**63 - 1),
    uid=TEXTS,
    events=st.integers(1, 10**6),
    lowered=st.lists(TEXTS, max_size=2),
)
ALERTS = st.builds(
    Alert,
    uid=st.from_regex(r"[0-9a-f]{24}", fullmatch=True),
    revision=st.integers(1, 1000),
    activity=st.sampled_from(["open", "update", "close"]),
    time=TIMES,
    opened=TIMES,
    first=TIMES,
    last=TIMES,
    blamed=IDENTITIES,
    role=st.sampled_from(["actor", "object"]),
    principals=st.lists(IDENTITIES, max_size=4),
    targets=st.lists(IDENTITIES, max_size=4),
    score=NUMBERS,
    threshold=NUMBERS,
    evidence_now=NUMBERS,
    evidence_peak=NUMBERS,
    severity=st.integers(2, 5),
    events=st.integers(0, 10**9),
    partners=st.integers(0, 10**6),
    signals=st.lists(TEXTS, max_size=3),
    streams=st.lists(st.sampled_from(list(Stream.__members__)), max_size=3),
    actions=st.lists(st.sampled_from(list(Action.__members__)), max_size=3),
    evidence=st.lists(PIECES, max_size=3),
    probation=st.booleans(),
)


@given(ALERTS)
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_any_alert_makes_a_valid_finding_and_comes_back_whole(alert: Alert) -> None:
    line = encode(alert, "0.1.0")
    assert alert_of(line) == alert
    assert faults(json.loads(line)) == []


def changed(path: str, value: Any) -> dict[str, Any]:
    record = copy.deepcopy(finding(an_alert(), "0.1.0"))
    spot: Any = record
    *parents, last = path.split(".")
    for name in parents:
        spot = spot[name]
    spot[last] = value
    return record


@pytest.mark.parametrize(
    ("path", "value", "says"),
    [
        (
            "unmapped.tocsin.version",
            ALERT_VERSION + 1,
            f"alert of version {ALERT_VERSION + 1}; this release reads 1 to {ALERT_VERSION}",
        ),
        ("unmapped.tocsin.version", 0, "alert of version 0"),
        ("unmapped.tocsin", {}, "missing required field"),
        ("unmapped", "x", "Expected `object`"),
        ("metadata.product.name", "Falco\u202e", "not a detection finding of Tocsin: class 2004, 'Falco\\\\u{202e}'"),
        ("class_uid", 2001, "class 2001"),
        ("type_uid", 200403, "contradicts"),
        ("severity_id", 5, "contradicts"),
        ("finding_info.uid", "other", "contradicts"),
        ("metadata.uid", "other", "contradicts"),
        ("unmapped.tocsin.alert.surprise", 1, "unknown field `surprise`"),
        ("unmapped.tocsin.alert.uid", "../../etc/passwd", "uid: "),
        ("unmapped.tocsin.alert.severity", 6, "severity: 2 to 5"),
        ("unmapped.tocsin.alert.activity", "delete", "Invalid enum value"),
        ("unmapped.tocsin.alert.last", 0, "outside 1990 to 2100"),
        ("unmapped.tocsin.alert.score", math.nan, "not finite"),
        ("unmapped.tocsin.alert.score", "9", "Expected `float`"),
        ("unmapped.tocsin.alert.events", 10**30, "64 bits"),
        ("unmapped.tocsin.alert.blamed", "mallory", "not an identity"),
        ("unmapped.tocsin.alert.blamed", "user: ", "not an identity"),
        ("unmapped.tocsin.alert.principals", ["user:a\u202eb"], "not an identity"),
        ("unmapped.tocsin.alert.targets", ["pod:../../kube-system/x"], "not an identity"),
        ("unmapped.tocsin.alert.targets", ["pod:a\x00b"], "not an identity"),
    ],
)
def test_a_record_that_is_no_sound_alert_is_refused_with_a_sentence(path: str, value: Any, says: str) -> None:
    with pytest.raises(NotAnAlert) as refused:
        alert_of(changed(path, value))
    assert says in str(refused.value)
    assert harmless(str(refused.value))


@pytest.mark.parametrize(
    "data",
    [b"", b"{", b"null", b"[]", b"\xff\xfe", b"[" * 200_000, b"{" + b'"a":{' * 200_000, b"9" * 10_000, b" " * (LARGEST + 1)],
    ids=len,
)
def test_bytes_that_are_no_finding_are_refused(data: bytes) -> None:
    with pytest.raises(NotAnAlert):
        alert_of(data)


def refusal(data: Any) -> str:
    """Why ``alert_of`` refuses ``data``; "" where it does not. Any other error fails the test."""
    try:
        alert_of(data)
    except NotAnAlert as error:
        return str(error)
    return ""


@given(st.data())
@settings(max_examples=150, deadline=None)
def test_hostile_bytes_only_ever_give_the_one_error(data: st.DataObject) -> None:
    line = bytearray(encode(an_alert(), "0.1.0"))
    for _ in range(data.draw(st.integers(1, 4))):
        start = data.draw(st.integers(0, len(line)))
        line[start : start + data.draw(st.integers(0, 60))] = data.draw(st.binary(max_size=20))
    assert harmless(refusal(bytes(line)))


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)
PLACES = [(), ("unmapped",), ("unmapped", "tocsin"), ("unmapped", "tocsin", "alert"), ("metadata",), ("finding_info",)]
WITHIN = ("unmapped", "tocsin", "alert")


@given(st.data(), JSON)
@settings(max_examples=200, deadline=None)
def test_hostile_values_only_ever_give_the_one_error(data: st.DataObject, value: Any) -> None:
    record = finding(an_alert(), "0.1.0")
    spot: Any = record
    for name in data.draw(st.sampled_from([*PLACES, (*WITHIN, "evidence", 0), (*WITHIN, "evidence", 0, "reasons", 0)])):
        spot = spot[name]
    spot[data.draw(st.sampled_from(sorted(spot)))] = value
    assert harmless(refusal(record))


# --- Techniques ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("evidence", "suggested"),
    [
        (piece(), ["AML.T0035", "AML.T0025", "T1213"]),
        (piece(reasons=[reason(signal="actor_at_object")]), ["AML.T0035", "T1213"]),
        (piece(action="push", reasons=[]), ["AML.T0018", "T1525"]),
        (piece(action="pull", outcome="denied", reasons=[reason(signal="denied_ratio")]), ["AML.T0007", "T1526"]),
        (piece(stream="flow", action="connect", detail="tcp/22", reasons=[reason(signal="object_at_actor")]), ["T1021.004"]),
        (piece(stream="flow", action="connect", detail="tcp/445", reasons=[reason(signal="object_at_actor")]), ["T1021"]),
        (piece(stream="flow", action="connect", detail="tcp/2222", reasons=[reason(signal="object_at_actor")]), []),
        (piece(stream="flow", action="connect", detail="tcp/443", reasons=[reason(signal="egress")]), ["AML.T0025", "T1048"]),
        (piece(stream="flow", action="connect", detail="tcp/443", reasons=[reason(signal="pair_rate")]), []),
        (piece(stream="auth", action="login", reasons=[reason(signal="actor_at_object")]), ["T1078", "AML.T0012"]),
        (
            piece(stream="auth", action="use", via="token:sha256/9f", reasons=[reason(signal="actor_at_object")]),
            ["T1078", "AML.T0012", "T1550.001", "AML.T0091.000"],
        ),
        (piece(stream="auth", action="login", reasons=[reason(signal="denied_ratio")]), ["T1110"]),
        (piece(stream="auth", action="exec", object="pod:a/b", reasons=[]), ["T1609"]),
        (piece(stream="auth", action="read", object="secret:a/b", reasons=[]), ["T1552.007", "AML.T0055"]),
        (piece(stream="auth", action="admin", object="role:cluster-admin", reasons=[]), ["T1098.006"]),
        (piece(stream="job", action="submit", object="queue:gpu", reasons=[reason(signal="actor_rate")]), ["T1496.001"]),
        (piece(reasons=[reason(signal="river:HalfSpaceTrees")]), []),
        (piece(reasons=[reason(surprise=1.2)]), []),
    ],
)
def test_what_was_seen_suggests_techniques(evidence: Evidence, suggested: list[str]) -> None:
    assert techniques(an_alert(evidence=[evidence])) == suggested


def test_a_finding_with_no_fitting_technique_names_none() -> None:
    record = record_of(an_alert(evidence=[piece(reasons=[])]))
    assert "attacks" not in record["finding_info"]
    assert record["finding_info"]["types"] == ["Behavioural Anomaly"]


def test_a_sub_technique_stands_under_its_technique_with_tactic_and_version() -> None:
    ssh = piece(stream="flow", action="connect", detail="tcp/22", reasons=[reason(signal="object_at_actor")])
    assert record_of(an_alert(evidence=[ssh]))["finding_info"]["attacks"] == [
        {
            "version": "18.1",
            "tactic": {"uid": "TA0008", "name": "Lateral Movement"},
            "technique": {"uid": "T1021", "name": "Remote Services"},
            "sub_technique": {"uid": "T1021.004", "name": "SSH"},
        }
    ]


def loose_ends(known: Any, kinds: set[str], signals: set[str]) -> list[str]:
    """What a table of techniques names without telling what it is, and what it tells without any use."""
    used = {each for rule in known.rules for each in rule.techniques}
    needed = used | {re.sub(r"(T\d+)\.\d+$", r"\1", each) for each in used}
    out = [f"technique without name: {each}" for each in sorted(needed - known.techniques.keys())]
    out += [f"technique without use: {each}" for each in sorted(known.techniques.keys() - needed)]
    out += [f"tactic without name: {e.tactic}" for e in known.techniques.values() if e.tactic not in known.tactics]
    out += [f"tactic without use: {t}" for t in known.tactics if t not in {e.tactic for e in known.techniques.values()}]
    out += [
        f"tactic of the other matrix: {t}" for t, e in known.techniques.items() if t.startswith("AML.") != e.tactic.startswith("AML.")
    ]
    for rule in known.rules:
        out += [f"no such stream: {each}" for each in rule.streams if each not in Stream.__members__]
        out += [f"no such action: {each}" for each in rule.actions if each not in Action.__members__]
        out += [f"no such outcome: {each}" for each in rule.outcomes if each not in Outcome.__members__]
        out += [f"no such kind: {each}" for each in (*rule.actors, *rule.objects, *rule.vias) if each not in kinds]
        out += [f"no such signal: {each}" for each in rule.signals if each not in signals]
    return out


def shipped_signals() -> set[str]:
    return set(tomllib.loads(resources.files("detector").joinpath("default.toml").read_text(encoding="utf-8"))["signals"])


def test_every_technique_used_has_name_tactic_and_version_and_every_word_is_known() -> None:
    known = table()
    assert loose_ends(known, set(KINDS), shipped_signals()) == []
    assert {name: matrix.version for name, matrix in known.matrices.items()} == {"attack": "18.1", "atlas": "5.6.0"}
    for each in known.techniques:
        assert re.fullmatch(r"T\d{4}(\.\d{3})?|AML\.T\d{4}(\.\d{3})?", each)
        assert known.matrix(each).name


def test_the_check_of_the_table_sees_a_loose_end() -> None:
    text = resources.files("connectors").joinpath("techniques.toml").read_text(encoding="utf-8")
    for good, bad, says in [
        ("T1525 = {", "T1526x = {", "technique without name: T1525"),
        ('techniques = ["T1609"]', 'techniques = ["T1613"]', "technique without use: T1609"),
        ('objects = ["role"]', 'objects = ["rule"]', "no such kind: rule"),
        ('"tcp/22"]\nsignals = ["actor_at_object"', '"tcp/22"]\nsignals = ["actor_at_objekt"', "no such signal: actor_at_objekt"),
        ('tactic = "TA0040" }\nT1496', 'tactic = "TA0041" }\nT1496', "tactic without name: TA0041"),
    ]:
        assert good in text
        broken = msgspec.convert(tomllib.loads(text.replace(good, bad, 1)), type(table()))
        assert says in loose_ends(broken, set(KINDS), shipped_signals())


def test_an_unknown_key_in_the_table_is_refused() -> None:
    text = resources.files("connectors").joinpath("techniques.toml").read_text(encoding="utf-8")
    with pytest.raises(ValueError, match="colour"):
        msgspec.convert(tomllib.loads(text + '\ncolour = "red"\n'), type(table()))
