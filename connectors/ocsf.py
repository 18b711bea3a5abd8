"""Alerts as OCSF 1.8.0 Detection Findings (class 2004), and findings read back into alerts.

A finding is made for two readers. A SIEM reads the OCSF attributes: every text in them is escaped and cut to a length, every caption
fits its id, every identity has one place (``_as_actor``, ``_as_target``). The responder reads only ``unmapped.tocsin``, the whole alert
with its version, and takes nothing from a record it does not find sound.

==================  ==================================================================================================
finding_info.uid    the alert's, the same over all revisions; ``metadata.uid`` adds the revision, the same on every run
time                of the revision; ``start_time`` and ``end_time`` span the activity; all in milliseconds
confidence_score    100 (1 - e^(-m/3) / 2), m = score over threshold in nats: 50 at the threshold, 82 three nats above it,
                    never over 99. Halved on probation
confidence          Low below 50 (so always on probation), Medium below 80, High from there
risk_score          100 E / (E + 20), E = the highest accumulated evidence in nats: half of the scale at 20
risk_level          the severity's, in the words of that scale
==================  ==================================================================================================
"""

from __future__ import annotations

import ipaddress
import math
import re
import sys
import tomllib
import unicodedata
from collections.abc import Iterable, Iterator
from functools import cache
from importlib import resources
from typing import Any

import msgspec
import orjson

from connectors.alert import ALERT_VERSION, Alert, Evidence, Reason
from connectors.event import EARLIEST, LATEST
from connectors.names import KINDS

SCHEMA = "1.8.0"
CLASS_UID = 2004
PRODUCT = "Tocsin"

#: Largest finding read, in bytes: ten pieces of evidence, each with at most one raw record's worth of texts (1 MiB), and room to spare.
LARGEST = 16 << 20
#: Longest text in an OCSF attribute, in characters. The whole text stands in ``unmapped``.
LONGEST_TEXT = 600
#: Longest name inside a sentence, in characters.
LONGEST_NAME = 80

_UNSHOWABLE = frozenset({"Cc", "Cf", "Cs", "Co", "Zl", "Zp"})
_ACTIVITIES = {"open": (1, "Create", 1, "New"), "update": (2, "Update", 2, "In Progress"), "close": (3, "Close", 4, "Resolved")}
_SEVERITIES = {1: "Informational", 2: "Low", 3: "Medium", 4: "High", 5: "Critical"}
_RISK_LEVELS = ("Info", "Low", "Medium", "High", "Critical")
_CONFIDENCES = {1: "Low", 2: "Medium", 3: "High"}
_ROLES = {1: "Target", 2: "Actor", 4: "Related"}
_USERS = {"user": (1, "User"), "sa": (4, "Service")}
_NAMESPACED = frozenset({"sa", "workload", "pod", "secret", "role"})
_TYPES = {
    "user": "User Account",
    "sa": "Service Account",
    "workload": "Workload",
    "pod": "Pod",
    "ns": "Namespace",
    "secret": "Secret",
    "role": "Role",
    "resource": "Resource",
    "ip": "IP Address",
    "mac": "MAC Address",
    "host": "Host",
    "node": "Node",
    "job": "Job",
    "queue": "Queue",
    "token": "Token",
    "session": "Session",
    "client": "Client",
    "realm": "Realm",
    "model": "AI Model",
    "site": "Site",
    "service": "Service",
    "sensor": "Sensor",
}
#: How each action reads in a sentence: as a fact, and after "tried to".
_VERBS = {
    "connect": ("connected to", "connect to"),
    "pull": ("pulled", "pull"),
    "push": ("pushed", "push"),
    "list": ("listed", "list"),
    "delete": ("deleted", "delete"),
    "create": ("created", "create"),
    "update": ("changed", "change"),
    "read": ("read", "read"),
    "submit": ("submitted work to", "submit work to"),
    "start": ("started work on", "start work on"),
    "end": ("ended work on", "end work on"),
    "exec": ("ran a command in", "run a command in"),
    "login": ("logged in to", "log in to"),
    "logout": ("logged out of", "log out of"),
    "issue": ("got a credential for", "get a credential for"),
    "use": ("was active at", "be active at"),
    "admin": ("changed rights of", "change rights of"),
    "release_key": ("had a key released for", "have a key released for"),
    "attest": ("attested to", "attest to"),
}


class NotAnAlert(ValueError):
    """A record that is no sound alert of ours; the message says what is wrong with it."""


# --- Words: what people read ---------------------------------------------------------------------------------------------------


def shown(text: str, most: int = LONGEST_TEXT) -> str:
    r"""``text`` as it may be shown to people: control, invisible and bidirectional characters as ``\u{...}``, and at most
    ``most`` characters long, cut in the middle.

    >>> print(shown("user:a" + chr(0x202E) + "b" + chr(0)), shown("model:" + "x" * 40 + "/7b", 16))
    user:a\u{202e}b\u{0} model:xx…xxxx/7b
    """
    if not text.isprintable():
        text = "".join(f"\\u{{{ord(each):x}}}" if unicodedata.category(each) in _UNSHOWABLE else each for each in text)
    if len(text) <= most:
        return text
    head = most // 2
    return f"{text[:head]}…{text[head + 1 - most :]}"


def deed(evidence: Evidence) -> str:
    """What a piece of evidence says happened, fit to be shown: "user:eve tried to pull model:x and was refused"."""
    fact, intent = _VERBS.get(evidence.action, ("acted on", "act on"))
    ending = {"denied": " and was refused", "failed": " and failed"}.get(evidence.outcome, "")
    verb = f"tried to {intent}" if ending else fact
    detail = f" ({shown(evidence.detail, LONGEST_NAME)})" if evidence.detail else ""
    return f"{shown(evidence.actor, LONGEST_NAME)} {verb} {shown(evidence.object, LONGEST_NAME)}{detail}{ending}"


def severity(alert: Alert) -> tuple[int, str]:
    """The alert's OCSF severity id and its caption."""
    return (alert.severity, _SEVERITIES[alert.severity]) if alert.severity in _SEVERITIES else (0, "Unknown")


def confidence(alert: Alert) -> tuple[int, str, int]:
    """OCSF confidence id, its caption, and the score 0 to 99: see the module's table."""
    margin = max(_finite(alert.score) - _finite(alert.threshold), 0.0)
    score = min(100.0 * (1.0 - 0.5 * math.exp(-margin / 3.0)), 99.0)
    score = int(score / 2.0 if alert.probation else score)
    level = 1 if score < 50 else 2 if score < 80 else 3
    return level, _CONFIDENCES[level], score


def risk(alert: Alert) -> int:
    """OCSF risk score, 0 to 100: see the module's table."""
    evidence = min(max(_finite(alert.evidence_peak), 0.0), 1e6)
    return round(100.0 * evidence / (evidence + 20.0))


# --- Techniques: what it may mean ----------------------------------------------------------------------------------------------


class Matrix(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A technique matrix and its version."""

    name: str
    version: str


class Entry(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One technique of a matrix: its name, and the id of the tactic in whose sense it is used here."""

    name: str
    tactic: str


class Rule(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What must hold of a piece of evidence for it to suggest these techniques. An empty list asks for nothing."""

    why: str
    techniques: list[str]
    streams: list[str] = []
    actions: list[str] = []
    outcomes: list[str] = []
    actors: list[str] = []
    objects: list[str] = []
    vias: list[str] = []
    details: list[str] = []
    signals: list[str] = []

    def fits(self, evidence: Evidence, signals: set[str]) -> bool:
        """Whether the rule holds of ``evidence``, in which ``signals`` took part."""
        return (
            _within(evidence.stream, self.streams)
            and _within(evidence.action, self.actions)
            and _within(evidence.outcome, self.outcomes)
            and _within(_split(evidence.actor)[0], self.actors)
            and _within(_split(evidence.object)[0], self.objects)
            and _within(_split(evidence.via)[0], self.vias)
            and _within(evidence.detail, self.details)
            and (not self.signals or not signals.isdisjoint(self.signals))
        )


class Techniques(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The whole of ``techniques.toml``; the file itself says what its keys mean."""

    nats: float
    matrices: dict[str, Matrix]
    tactics: dict[str, str]
    techniques: dict[str, Entry]
    rules: list[Rule]

    def matrix(self, technique: str) -> Matrix:
        """The matrix a technique id belongs to."""
        return self.matrices["atlas" if technique.startswith("AML.") else "attack"]

    def title(self, technique: str) -> str:
        """The technique's name, behind its parent's if it has one: "Remote Services: SSH"."""
        names = dict.fromkeys((self.techniques[parent_of(technique)].name, self.techniques[technique].name))
        return ": ".join(names)


@cache
def table() -> Techniques:
    """The techniques we know. Raises ValueError where the packed file is broken: a fault of the release, not of the data."""
    text = resources.files("connectors").joinpath("techniques.toml").read_text(encoding="utf-8")
    return msgspec.convert(tomllib.loads(text), Techniques)


def techniques(alert: Alert) -> list[str]:
    """Ids of the techniques that the evidence suggests, those of the strongest evidence first; none where no rule fits."""
    known = table()
    found: dict[str, None] = {}
    for evidence in alert.evidence:
        signals = {reason.signal for reason in evidence.reasons if reason.surprise >= known.nats}
        for rule in known.rules:
            if rule.fits(evidence, signals):
                found.update(dict.fromkeys(rule.techniques))
    return list(found)


def _within(word: str, wanted: list[str]) -> bool:
    return not wanted or any(word.startswith(each[:-1]) if each.endswith("*") else word == each for each in wanted)


def _attack(technique: str) -> dict[str, Any]:
    known = table()
    entry = known.techniques[technique]
    parent = parent_of(technique)
    out: dict[str, Any] = {
        "version": known.matrix(technique).version,
        "tactic": {"uid": entry.tactic, "name": known.tactics[entry.tactic]},
        "technique": {"uid": parent, "name": known.techniques[parent].name},
    }
    if parent != technique:
        out["sub_technique"] = {"uid": technique, "name": entry.name}
    return out


def parent_of(technique: str) -> str:
    """The technique a sub-technique belongs to: ``T1021`` of ``T1021.004``, ``AML.T0091`` of ``AML.T0091.000``; else itself."""
    return re.sub(r"(T\d+)\.\d+$", r"\1", technique)


# --- The finding ----------------------------------------------------------------------------------------------------------------


def finding(alert: Alert, product_version: str) -> dict[str, Any]:
    """One revision of an alert as an OCSF Detection Finding: plain data, in a fixed order of keys."""
    activity, activity_name, status, status_name = _ACTIVITIES[alert.activity]
    severity_id, severity_name = severity(alert)
    confidence_id, confidence_name, confidence_score = confidence(alert)
    involved = _resources(alert)
    risk_level = severity_id - 1 if severity_id else 0
    out: dict[str, Any] = {
        "activity_id": activity,
        "activity_name": activity_name,
        "category_uid": 2,
        "category_name": "Findings",
        "class_uid": CLASS_UID,
        "class_name": "Detection Finding",
        "type_uid": CLASS_UID * 100 + activity,
        "type_name": f"Detection Finding: {activity_name}",
        "time": alert.time // 1000,
        "start_time": alert.first // 1000,
        "end_time": alert.last // 1000,
        "timezone_offset": 0,
        "count": alert.events,
        "severity_id": severity_id,
        "severity": severity_name,
        "status_id": status,
        "status": status_name,
        "confidence_id": confidence_id,
        "confidence": confidence_name,
        "confidence_score": confidence_score,
        "risk_level_id": risk_level,
        "risk_level": _RISK_LEVELS[risk_level],
        "risk_score": risk(alert),
        "is_alert": True,
        "action_id": 3,
        "action": "Observed",
        "disposition_id": 19,
        "disposition": "Alert",
        "message": _message(alert),
        "metadata": {
            "version": SCHEMA,
            "uid": f"{alert.uid}-{alert.revision}",
            "correlation_uid": alert.uid,
            "sequence": alert.revision,
            "profiles": ["security_control"],
            "product": {"name": PRODUCT, "vendor_name": PRODUCT, "version": product_version},
            "log_name": "alerts",
        },
        "finding_info": _finding_info(alert, product_version),
        "resources": involved,
        "evidences": [_evidence(each) for each in alert.evidence],
        "anomaly_analyses": [_analysis(each) for each in alert.evidence if each.reasons],
        "observables": list(_observables(involved)),
        "unmapped": {"tocsin": {"version": ALERT_VERSION, "alert": msgspec.to_builtins(alert)}},
    }
    plain: dict[str, Any] = _plain({key: value for key, value in out.items() if value != []})
    return plain


def _message(alert: Alert) -> str:
    if alert.notice:
        return shown(alert.notice)
    prefix = "No more of this for hours: " if alert.activity == "close" else ""
    if not alert.evidence:
        return f"{prefix}{shown(alert.blamed, LONGEST_NAME)} departs from its past"
    strongest = alert.evidence[0]
    why = shown(strongest.reasons[0].text) if strongest.reasons else ""
    return f"{prefix}{deed(strongest)}{': ' if why else ''}{why}"


def title(alert: Alert) -> str:
    """What the alert is about in half a line, the same over all revisions of an alert."""
    if alert.notice:
        return f"Blind spot of the detector: {shown(alert.blamed, LONGEST_NAME)}"
    where = f"{shown(alert.streams[0], LONGEST_NAME)} " if alert.streams else ""
    link = "by" if alert.role == "actor" else "around"
    return f"Unusual {where}activity {link} {shown(alert.blamed, LONGEST_NAME)}"


def _finding_info(alert: Alert, product_version: str) -> dict[str, Any]:
    attacks = [_attack(each) for each in techniques(alert)]
    out: dict[str, Any] = {
        "uid": alert.uid,
        "title": title(alert),
        "types": ["Behavioural Anomaly", *dict.fromkeys(each["tactic"]["name"] for each in attacks)],
        "created_time": alert.opened // 1000,
        "modified_time": alert.time // 1000,
        "first_seen_time": alert.first // 1000,
        "last_seen_time": alert.last // 1000,
        "analytic": _analytic("behaviour", "Surprise at an identity's behaviour", product_version),
        "related_analytics": [_analytic(shown(each), shown(each), product_version) for each in alert.signals],
        "attacks": attacks,
        "data_sources": list(dict.fromkeys(shown(each.source) for each in alert.evidence)),
    }
    return {key: value for key, value in out.items() if value != []}


def _analytic(uid: str, name: str, product_version: str) -> dict[str, Any]:
    return {"type_id": 4, "type": "Learning (ML/DL)", "name": name, "uid": f"tocsin.{uid}", "version": product_version}


def _resources(alert: Alert) -> list[dict[str, Any]]:
    """Everybody and everything involved, each once, in its weightiest role: the blamed, who is behind it, what was touched."""
    roles: dict[str, int] = {alert.blamed: 2 if alert.role == "actor" else 1}
    for role, identities in (
        (2, alert.principals),
        (1, [each.object for each in alert.evidence]),
        (2, [each.actor for each in alert.evidence]),
        (4, alert.targets),
    ):
        for identity in identities:
            roles.setdefault(identity, role)
    return [_resource(identity, role) for identity, role in roles.items()]


def _resource(identity: str, role: int) -> dict[str, Any]:
    kind, name = _split(identity)
    out: dict[str, Any] = {"uid": shown(identity), "name": shown(name), "type": _TYPES.get(kind, "Other")}
    if kind in _NAMESPACED and "/" in name:
        out["namespace"] = shown(name.partition("/")[0])
    return {**out, **{key: value for key, value in _endpoint(identity).items() if key in ("ip", "hostname")}, **_role(role)}


def _role(role: int) -> dict[str, Any]:
    return {"role_id": role, "role": _ROLES[role]}


def _evidence(evidence: Evidence) -> dict[str, Any]:
    """One piece of evidence. OCSF asks for at least one of a list of attributes: ``data``, always there, is in that list."""
    out: dict[str, Any] = {
        "uid": shown(evidence.uid) or f"{shown(evidence.partition)}:{evidence.offset}",
        "name": deed(evidence),
        "data": {
            "source": shown(evidence.source),
            "partition": shown(evidence.partition),
            "offset": evidence.offset,
            "time": evidence.time // 1000,
            "stream": shown(evidence.stream),
            "outcome": shown(evidence.outcome),
            "detail": shown(evidence.detail),
            "score": evidence.score,
            "events": evidence.events,
            "lowered": [shown(each) for each in evidence.lowered],
        },
    }
    flow = re.fullmatch(r"([a-z]+)/(\d{1,5})", evidence.detail, re.ASCII) if evidence.stream == "flow" else None
    if evidence.stream == "flow":
        protocol = {"protocol_name": flow[1]} if flow else {}
        out["connection_info"] = {"direction_id": 0, "direction": "Unknown", **protocol}
    else:
        out["api"] = {"operation": shown(evidence.action)}
    _as_actor(evidence.actor, out)
    if evidence.via:
        _as_actor(evidence.via, out)
    _as_target(evidence.object, out)
    if flow and "dst_endpoint" in out and int(flow[2]) < 65536:
        out["dst_endpoint"]["port"] = int(flow[2])
    return out


def _as_actor(identity: str, out: dict[str, Any]) -> None:
    """Put an acting identity where OCSF looks for its kind, unless a weightier one stands there."""
    kind, name = _split(identity)
    text = shown(name)
    if kind in _USERS:
        out.setdefault("actor", {}).setdefault("user", _user(identity))
    elif kind == "session":
        out.setdefault("actor", {}).setdefault("session", {"uid": text})
    elif kind in ("workload", "service", "client"):
        out.setdefault("actor", {}).setdefault("app_name", text)
    elif kind == "token" and "api" in out:
        out["api"].setdefault("token", {"uid": text, "type_id": 0, "type": "Unknown"})
    elif kind == "pod":
        out.setdefault("container", {"name": text, "orchestrator": "Kubernetes"})
    elif kind == "job":
        out.setdefault("job", {"name": text})
    elif endpoint := _endpoint(identity):
        out.setdefault("src_endpoint", endpoint)
    else:
        out.setdefault("resources", []).append(_resource(identity, 2))


def _as_target(identity: str, out: dict[str, Any]) -> None:
    kind, name = _split(identity)
    if kind in _USERS:
        out["user"] = _user(identity)
    elif kind == "job" and "job" not in out:
        out["job"] = {"name": shown(name)}
    elif endpoint := _endpoint(identity):
        out["dst_endpoint"] = endpoint
    else:
        out.setdefault("resources", []).append(_resource(identity, 1))


def _user(identity: str) -> dict[str, Any]:
    kind, name = _split(identity)
    type_id, caption = _USERS[kind]
    return {"name": shown(name), "uid": shown(identity), "type_id": type_id, "type": caption}


def _endpoint(identity: str) -> dict[str, Any]:
    """The attributes of a network endpoint; {} where the identity is none, or is spelled as OCSF's types forbid."""
    kind, name = _split(identity)
    if kind in ("host", "node"):
        return {"hostname": shown(name)}
    if kind == "mac":
        mac = {"mac": name} if re.fullmatch(r"([0-9a-fA-F]{2}[:-]){5}[0-9a-fA-F]{2}", name) else {}
        return {"name": shown(name), **mac}
    if kind == "ip":
        try:
            return {"ip": str(ipaddress.ip_address(name.partition("%")[0]))}
        except ValueError:
            return {}
    return {}


def _analysis(evidence: Evidence) -> dict[str, Any]:
    """Seen against expected, signal by signal. OCSF wants values as texts."""
    targets = [
        {"name": shown(identity), "type": _TYPES.get(_split(identity)[0], "Other")} for identity in (evidence.actor, evidence.object)
    ]
    anomalies, baselines = [], []
    for reason in evidence.reasons:
        about = {"observation_parameter": shown(reason.signal), "observation_type": shown(reason.unit) or "surprise"}
        seen = f"{_value(reason.surprise)} nats of surprise" if reason.seen is None else _value(reason.seen)
        pattern = {"observed_pattern": shown(reason.text)} if reason.text else {}
        anomalies.append({**about, **pattern, "observations": [{"value": seen, "count": evidence.events}]})
        if reason.expected is not None or reason.usual is not None:
            baselines.append(_baseline(reason, about))
    return {"analysis_targets": targets, "anomalies": anomalies, **({"baselines": baselines} if baselines else {})}


def _baseline(reason: Reason, about: dict[str, Any]) -> dict[str, Any]:
    usual = "" if reason.usual is None else f"up to {_value(reason.usual)} is unremarkable; "
    value = reason.usual if reason.expected is None else reason.expected
    pattern = f"{usual}a share of {_value(reason.base_rate)} looks as strange"
    return {**about, "observed_pattern": pattern, "observations": [{"value": _value(value or 0.0)}]}


def _observables(involved: Iterable[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """What a SIEM looks up across records, each with the path of the attribute that holds it."""
    kinds = {"User Account": (4, "User Name"), "Service Account": (4, "User Name"), "Token": (19, "User Credential ID")}
    for i, resource in enumerate(involved):
        if "ip" in resource:
            attribute, type_id, caption = "ip", 2, "IP Address"
        elif "hostname" in resource:
            attribute, type_id, caption = "hostname", 1, "Hostname"
        elif resource["type"] == "MAC Address":
            attribute, type_id, caption = "name", 3, "MAC Address"
        elif resource["type"] in kinds:
            attribute, (type_id, caption) = "name", kinds[resource["type"]]
        else:
            attribute, type_id, caption = "uid", 10, "Resource UID"
        yield {"name": f"resources[{i}].{attribute}", "type_id": type_id, "type": caption, "value": resource[attribute]}


def _split(identity: str) -> tuple[str, str]:
    """(kind, name); ("", the whole) where it does not begin with a kind we know."""
    kind, colon, name = identity.partition(":")
    return (kind, name) if colon and kind in KINDS else ("", identity)


def _value(number: float) -> str:
    """A number as OCSF's text: all digits of a whole number, six of another."""
    number = _finite(number)
    return f"{number:.0f}" if number.is_integer() and abs(number) < 1e18 else f"{number:.6g}"


def _finite(number: float) -> float:
    """``number``; 0 for NaN, the largest there is for an infinity."""
    if math.isfinite(number):
        return float(number)
    return 0.0 if math.isnan(number) else math.copysign(sys.float_info.max, number)


def _plain(value: Any) -> Any:
    """``value`` with all floats finite and no lone surrogate, so that JSON can hold it."""
    if isinstance(value, dict):
        return {key: _plain(each) for key, each in value.items()}
    if isinstance(value, list):
        return [_plain(each) for each in value]
    if isinstance(value, float):
        return _finite(value)
    if isinstance(value, str) and not value.isascii():
        return value.encode("utf-8", "surrogatepass").decode("utf-8", "replace")
    return value


# --- On the wire ----------------------------------------------------------------------------------------------------------------


def encode(alert: Alert, product_version: str) -> bytes:
    """The finding as one line of JSON, its line feed included. Identical alerts give identical bytes.

    Characters that would confuse a terminal (control, bidirectional, invisible) are written as JSON escapes: the line can be shown.
    """
    text = orjson.dumps(finding(alert, product_version)).decode()
    if not text.isprintable():
        text = "".join(_escaped(each) if unicodedata.category(each) in _UNSHOWABLE else each for each in text)
    return text.encode() + b"\n"


def _escaped(character: str) -> str:
    """The JSON escape of a character: two of them beyond the basic plane."""
    units = character.encode("utf-16-be")
    return "".join(f"\\u{units[i]:02x}{units[i + 1]:02x}" for i in range(0, len(units), 2))


class _Product(msgspec.Struct):
    name: str


class _Metadata(msgspec.Struct):
    uid: str
    product: _Product


class _FindingInfo(msgspec.Struct):
    uid: str


class _Tocsin(msgspec.Struct):
    version: int
    alert: dict[str, Any]


class _Unmapped(msgspec.Struct):
    tocsin: _Tocsin


class _Finding(msgspec.Struct):
    """What is read of a finding besides the alert in it: what says whose it is, and what must agree with the alert."""

    class_uid: int
    type_uid: int
    severity_id: int
    metadata: _Metadata
    finding_info: _FindingInfo


class _Carrier(msgspec.Struct):
    unmapped: _Unmapped


def alert_of(data: bytes | dict[str, Any]) -> Alert:
    """The alert in one of our findings, given as JSON or as plain data.

    Raises NotAnAlert, and nothing else, where the record is malformed, is not ours, is of a newer version, contradicts itself, or
    holds what no alert of ours can hold: whoever acts on an alert need not check it again.
    """
    try:
        raw = _parsed(data) if isinstance(data, bytes) else data
        outer = msgspec.convert(raw, _Finding)
        if outer.class_uid != CLASS_UID or outer.metadata.product.name != PRODUCT:
            raise NotAnAlert(
                f"not a detection finding of {PRODUCT}: class {outer.class_uid}, {shown(outer.metadata.product.name, 60)!r}"
            )
        held = msgspec.convert(raw, _Carrier).unmapped.tocsin
        if not 1 <= held.version <= ALERT_VERSION:
            raise NotAnAlert(f"alert of version {held.version}; this release reads 1 to {ALERT_VERSION}")
        alert = msgspec.convert(held.alert, Alert)
        _check(alert)
    except NotAnAlert:
        raise
    except (ValueError, RecursionError) as error:  # msgspec's errors are ValueErrors
        raise NotAnAlert(f"not a finding we can read: {shown(str(error), 300)}") from None
    said = (outer.type_uid, outer.severity_id, outer.metadata.uid, outer.finding_info.uid)
    meant = (CLASS_UID * 100 + _ACTIVITIES[alert.activity][0], alert.severity, f"{alert.uid}-{alert.revision}", alert.uid)
    if said != meant:
        raise NotAnAlert("the finding contradicts the alert it carries (type_uid, severity_id, metadata.uid or finding_info.uid)")
    return alert


def _parsed(data: bytes) -> Any:
    if len(data) > LARGEST:
        raise NotAnAlert(f"record of {len(data)} bytes, at most {LARGEST} are read")
    return msgspec.json.decode(data)


def _check(alert: Alert) -> None:
    """Raises NotAnAlert on what the types cannot say."""
    if not re.fullmatch(r"[0-9A-Za-z._-]{1,128}", alert.uid):
        raise NotAnAlert("uid: 1 to 128 letters, digits, '.', '_' or '-' are expected")
    if alert.severity not in (2, 3, 4, 5):
        raise NotAnAlert(f"severity: 2 to 5 is expected, not {alert.severity}")
    times = [alert.time, alert.opened, alert.first, alert.last, *(each.time for each in alert.evidence)]
    if not all(EARLIEST <= time < LATEST for time in times):
        raise NotAnAlert("time: outside 1990 to 2100")
    for identity in (alert.blamed, *alert.principals, *alert.targets):
        if not _is_identity(identity):
            raise NotAnAlert(f"not an identity: {shown(identity, 60)!r}")
    for number in _numbers(msgspec.to_builtins(alert)):
        if not (math.isfinite(number) if isinstance(number, float) else abs(number) < 1 << 63):
            raise NotAnAlert("a number that is not finite or does not fit 64 bits")


def _is_identity(identity: str) -> bool:
    """Whether it is ``kind:name`` without anything that ``connectors.names`` refuses, but for the length: folding case may add some."""
    kind, name = _split(identity)
    parts = name.replace("\\", "/").split("/")
    refused = any(unicodedata.category(each) in _UNSHOWABLE for each in name)
    return bool(kind and name.strip(" ")) and not refused and ".." not in parts


def _numbers(value: Any) -> Iterator[int | float]:
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list):
        for each in value:
            yield from _numbers(each)
    elif isinstance(value, (int, float)):
        yield value
