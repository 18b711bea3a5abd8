"""Zeek ``conn`` as JSON: one row per connection, written by Zeek when the connection ends.

Read: untagged, tagged by zeek-kafka (``{"conn": {...}}``), marked by ``_path`` or ``@stream``; ids spelled ``id.orig_h`` or
``id_orig_h``; ``ts`` as seconds, as milliseconds, or as ISO 8601. Other Zeek logs in the same stream are skipped and counted.

============  ==========================================================================================================
time          ``ts`` + ``duration`` (0 where absent): ``ts`` is the first packet, the fact is complete at the end
actor         ``ip`` of the originator (Zeek has resolved the direction)
object        ``ip`` of the responder
outcome       from ``conn_state``: see ``_OUTCOMES``
bytes         ``orig_bytes``, ``resp_bytes``: payload, from TCP sequence numbers; absent on connections of a single packet
detail        ``tcp/443``; ports from 32768 up are one port, ``tcp/ephemeral``; ICMP has types, not ports: ``icmp``
============  ==========================================================================================================

This is the hot path of the whole product. A batch is decoded record by record into a typed struct of the one shape its stream
has, and turned into columns without a Python statement per row; only a batch in which something does not fit is looked at
record by record. Each record fits at most one shape, so what it gives does not depend on its neighbours.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from operator import attrgetter
from typing import Any, ClassVar, Literal

import msgspec
import numpy as np

from connectors.event import EARLIEST, LATEST, SECOND, Action, Basis, Block, Outcome, Reject, Stream
from connectors.names import Names
from connectors.sources import LONGEST_RECORD, Decoded
from connectors.sources._iso import iso_column
from connectors.sources._records import BadRecord, explain
from connectors.sources._services import Services, impossible
from connectors.sources._short import ShortTexts, addresses

NAN = float("nan")

#: A ``ts`` from here up counts milliseconds: as seconds it would be in the year 5138, as milliseconds it is in 1973.
_MILLIS = 1e11
#: No connection is older than the longest time there is, in seconds; keeps the sum below from overflowing.
_LONGEST = (LATEST - EARLIEST) / SECOND


#: How many spellings of states are kept at once: there are thirteen.
_STATES = 64
#: Answered and ended in whatever way (a reset after data is how much software hangs up): ok. Refused by the responder: denied.
#: Attempts that got no answer or were abandoned half-open: failed, if there was a handshake to fail: a datagram without an answer is
#: how broadcasts and syslog look. OTH (joined in the middle), absent and new states: unknown.
_OUTCOMES = {
    **dict.fromkeys(("SF", "S1", "S2", "S3", "RSTO", "RSTR"), Outcome.ok),
    "REJ": Outcome.denied,
    **dict.fromkeys(("S0", "RSTOS0", "RSTRH", "SH", "SHR"), Outcome.failed),
}

#: The usual logs of Zeek and of Corelight's sensors. Counted by name when skipped; any other name counts as "other", so that
#: a sender cannot make up counters.
_LOGS = frozenset(
    """analyzer broker capture_loss cluster conn_agg conn_long conn_red dce_rpc dhcp dnp3 dns dns_red dpd files files_red ftp http
    http2 http_red intel ipsec irc kerberos known_certs known_devices known_hosts known_modbus known_services known_users ldap
    ldap_search loaded_scripts modbus modbus_register_change mqtt_connect mqtt_publish mqtt_subscribe mysql netcontrol notice
    notice_alarm ntlm ntp ocsp packet_filter pe postgresql quic radius rdp redis reporter rfb signatures sip smb_cmd smb_files
    smb_mapping smtp snmp socks software ssh ssl ssl_red stats suricata_corelight syslog telemetry traceroute tunnel
    unknown_protocols vpn weird weird_red weird_stats websocket wireguard x509 x509_red""".split()  # noqa: SIM905 - reads better
)
#: Fields only ``conn`` has: an unmarked record with one of them is one, with or without a state.
_OWN = ("conn_state", "history", "missed_bytes", "orig_pkts", "orig_ip_bytes", "orig_bytes", "resp_bytes", "duration")
_IDS = {"id_orig_h": "id.orig_h", "id_resp_h": "id.resp_h", "id_resp_p": "id.resp_p"}
_CONN = re.compile(r"conn(-\d{1,4})?", re.ASCII)


class _Conn(msgspec.Struct, kw_only=True, gc=False, rename=_IDS):
    """The fields read of a record marked ``conn`` or not marked at all. Names without a dot stand for the dotted ones.

    Numbers are floats, the port too, so that no integer of whatever length can overflow a column.
    """

    ts: float | str
    uid: str = ""
    id_orig_h: str
    id_resp_h: str
    id_resp_p: float
    proto: str
    duration: float = NAN
    orig_bytes: float = NAN
    resp_bytes: float = NAN
    conn_state: str = ""


#: Marks of a record, or of what is around it, when it is a connection.
_MARKED: tuple[tuple[str, Any, Any], ...] = (
    ("stream", Literal["conn"], msgspec.field(name="@stream", default="conn")),
    ("path", Literal["conn"], msgspec.field(name="_path", default="conn")),
)


def _shape(clock: type, spelling: dict[str, str]) -> type[msgspec.Struct]:
    """The strict form of ``_Conn`` with one kind of time and one spelling of ids.

    It fails on a record that has the other spelling, or a mark other than ``conn``, or no state.
    """
    optional = ("uid", "duration", "orig_bytes", "resp_bytes")
    fields: list[tuple[str, Any] | tuple[str, Any, Any]] = []
    for name, kind in _Conn.__annotations__.items():
        typed = clock if name == "ts" else {"str": str, "float": float}[kind]
        fields.append((name, typed, "" if typed is str else NAN) if name in optional else (name, typed))
    other = "id_orig_h" if spelling else "id.orig_h"
    fields += [("other", None, msgspec.field(name=other, default=None)), *_MARKED]
    return msgspec.defstruct("Conn", fields, kw_only=True, gc=False, rename=spelling)


def _plain(struct: type[msgspec.Struct]) -> Callable[[Sequence[bytes]], list[Any]]:
    decode = msgspec.json.Decoder(struct).decode
    return lambda records: [decode(record) for record in records]


def _tagged(struct: type[msgspec.Struct]) -> Callable[[Sequence[bytes]], list[Any]]:
    # A mark outside the tag goes before it, as in ``_one``: other marks do not fit this shape.
    wrapper = msgspec.defstruct("Tagged", [("conn", struct), ("ts", None, None), *_MARKED], gc=False)
    decode = msgspec.json.Decoder(wrapper).decode
    inner = attrgetter("conn")
    return lambda records: [inner(decode(record)) for record in records]


#: Every strict shape: at most one of them fits a record. In order of how common they are.
_SHAPES = tuple(form(_shape(clock, spelling)) for form in (_plain, _tagged) for spelling in (_IDS, {}) for clock in (float, str))


class _Marks(msgspec.Struct, gc=False):
    stream: str = msgspec.field(name="@stream", default="")
    path: str = msgspec.field(name="_path", default="")


_marks = msgspec.json.Decoder(_Marks).decode
_exact = msgspec.json.Decoder(_Conn).decode
_any = msgspec.json.Decoder().decode
_UNREADABLE = (ValueError, RecursionError, OverflowError)


class ZeekConn:
    """Zeek conn.log in JSON. See the module."""

    title: ClassVar[str] = "Zeek conn as JSON: untagged, tagged by zeek-kafka, or marked by _path or @stream"
    feeds: ClassVar[frozenset[str]] = frozenset({"who-to-whom", "rate", "bytes", "outcome"})
    limits: ClassVar[str] = (
        "a connection is seen when it ends, so a transfer of hours is reported hours after it began; actors are addresses; "
        "bytes are payload by TCP sequence numbers and may be wrong for very large connections"
    )
    times: ClassVar[dict[str, int]] = {"ts": 1, "*.ts": 1}
    example: ClassVar[str] = (
        '{"ts":1591367999.430166,"uid":"C5bLoe2Mvxqhawzqqd","id.orig_h":"192.168.4.76","id.orig_p":46378,"id.resp_h":"31.3.245.133",'
        '"id.resp_p":80,"proto":"tcp","service":"http","duration":0.254115,"orig_bytes":77,"resp_bytes":295,"conn_state":"SF",'
        '"missed_bytes":0,"history":"ShADadFf","orig_pkts":6,"orig_ip_bytes":397,"resp_pkts":7,"resp_ip_bytes":511}'
    )

    def __init__(self, names: Names) -> None:
        self._names = names
        self._addresses = addresses(names)
        self._services = Services(names)
        self._outcomes = ShortTexts(lambda text: _OUTCOMES.get(text, Outcome.unknown), _STATES)
        self._last_shape = _SHAPES[0]

    @classmethod
    def recognises(cls, record: dict[str, Any]) -> bool:
        """Whether this is a Zeek record: marked or tagged as any of Zeek's logs, or unmarked with what only ``conn`` has."""
        body, log = _unwrap(record)
        if "ts" not in body:
            return False
        if log:
            return log in _LOGS or _CONN.fullmatch(log) is not None
        return ("id.orig_h" in body or "id_orig_h" in body) and any(name in body for name in _OWN)

    def decode(self, records: Sequence[bytes]) -> Decoded:
        """Decode a batch. Reasons: ``missing``, ``wrong-type``, ``bad-time``, ``time-out-of-range``, ``bad-identity``, ``negative``
        and ``out-of-range`` with the field, ``malformed-json``, ``too-long``, ``empty``, ``unsupported-format``."""
        items = self._all_alike(records) if max(map(len, records), default=0) <= LONGEST_RECORD else None
        if items is not None:
            return self._decoded(items, None, [], {})
        found: list[Any] = []
        index: list[int] = []
        rejects: list[Reject] = []
        skipped: dict[str, int] = {}
        for i, record in enumerate(records):
            try:
                item = self._one(record)
            except _UNREADABLE as error:
                rejects.append(explain(i, record, error))
                continue
            if isinstance(item, str):
                skipped[item] = skipped.get(item, 0) + 1
            else:
                found.append(item)
                index.append(i)
        return self._decoded(found, np.array(index, np.int64), rejects, skipped)

    def _all_alike(self, records: Sequence[bytes]) -> list[Any] | None:
        """The batch in the shape of its first record; None unless every record has it."""
        for shape in (self._last_shape, *_SHAPES):
            try:
                shape(records[:1])
            except _UNREADABLE:
                continue
            self._last_shape = shape
            try:
                return shape(records)
            except _UNREADABLE:
                return None
        return None

    def _one(self, record: bytes) -> Any:
        """One record by itself: its fields, or the name under which it is skipped. Raises what ``explain`` explains."""
        if len(record) > LONGEST_RECORD:
            raise BadRecord("too-long", f"record of {len(record)} bytes, at most {LONGEST_RECORD} are read")
        try:
            marks = _marks(record)
        except _UNREADABLE:
            marks = _Marks()
        log = marks.stream or marks.path
        if log and not _CONN.fullmatch(log):
            return log if log in _LOGS else "other"
        for shape in (self._last_shape, *_SHAPES):
            try:
                return shape((record,))[0]
            except _UNREADABLE:
                continue
        return _loose(record)

    def _decoded(self, items: list[Any], index: np.ndarray | None, rejects: list[Reject], skipped: dict[str, int]) -> Decoded:
        """Columns of ``items``, which are records ``index`` (None: each its own position)."""
        n = len(items)
        rows = np.arange(n) if index is None else index
        start, problems = _starts(items, alike=index is None)
        duration, out, into, port = (
            np.fromiter(map(attrgetter(name), items), np.float64, n) for name in ("duration", "orig_bytes", "resp_bytes", "id_resp_p")
        )
        actor = self._addresses.codes(list(map(attrgetter("id_orig_h"), items)))
        responder = self._addresses.codes(list(map(attrgetter("id_resp_h"), items)))
        lasted = np.where(duration > 0, np.minimum(duration, _LONGEST), 0.0)
        time = start + np.rint(lasted * SECOND).astype(np.int64)
        bad: dict[int, BadRecord] = problems
        for reason, mask in (
            ("time-out-of-range:ts", (start < EARLIEST) | (time >= LATEST)),
            ("bad-identity:id.orig_h", actor < 0),
            ("bad-identity:id.resp_h", responder < 0),
            ("out-of-range:id.resp_p", impossible(port)),
            ("negative:duration", duration < 0),
            ("negative:orig_bytes", out < 0),
            ("negative:resp_bytes", into < 0),
        ):
            if mask.any():
                for row in np.flatnonzero(mask).tolist():
                    bad.setdefault(row, self._problem(reason, items[row]))
        if bad:
            keep = [row for row in range(n) if row not in bad]
            rejects += [Reject(int(rows[row]), error.reason, str(error)) for row, error in bad.items()]
            rejects.sort()
            return self._decoded([items[row] for row in keep], rows[keep], rejects, skipped)
        outcome = self._outcomes.codes(list(map(attrgetter("conn_state"), items)))
        for row in np.flatnonzero(outcome == Outcome.failed).tolist():
            if items[row].proto != "tcp":
                outcome[row] = Outcome.unknown
        block = Block(
            self._names,
            "zeek_conn",
            {
                "time": time,
                "stream": Stream.flow,
                "action": Action.connect,
                "outcome": outcome,
                "actor": actor,
                "object": responder,
                "detail": self._services.codes(list(map(attrgetter("proto"), items)), port),
                "bytes_out": out,
                "bytes_in": into,
                "bytes_basis": Basis.payload,
                "duration": duration,
                "record": rows,
            },
            uid=list(map(attrgetter("uid"), items)),
        )
        return Decoded(block, rejects, skipped)

    def _problem(self, reason: str, item: Any) -> BadRecord:
        field = reason.partition(":")[2]
        value = getattr(item, field.replace(".", "_"))
        why = self._names.of("ip").problem(value) if reason.startswith("bad-identity") else reason.partition(":")[0].replace("-", " ")
        return BadRecord(reason, f"{field}: {why}: {value!r:.80}" if not isinstance(value, str) else f"{field}: {why}")


def _starts(items: list[Any], alike: bool) -> tuple[np.ndarray, dict[int, BadRecord]]:
    """(int64[n] microseconds of ``ts``, 0 where it is none; what is wrong with which). ``alike``: all are of one type."""
    if alike and items and isinstance(items[0].ts, float):
        return _from_numbers(np.fromiter(map(attrgetter("ts"), items), np.float64, len(items))), {}
    stamps = [item.ts for item in items]
    times = np.zeros(len(stamps), np.int64)
    texts = [row for row, stamp in enumerate(stamps) if isinstance(stamp, str)]
    numbers = [row for row, stamp in enumerate(stamps) if not isinstance(stamp, str)]
    times[texts], problems = iso_column([stamps[row] for row in texts], "ts")
    times[numbers] = _from_numbers(np.array([stamps[row] for row in numbers], np.float64))
    return times, {texts[row]: error for row, error in problems.items()}


def _from_numbers(stamps: np.ndarray) -> np.ndarray:
    """Microseconds of seconds or milliseconds since 1970; 0, which is out of range, for what no int64 holds."""
    scale = np.where(stamps >= _MILLIS, SECOND / 1000, SECOND)
    micro = np.rint(stamps * scale)
    return np.where(np.abs(micro) < 2.0**62, micro, 0.0).astype(np.int64)


def _unwrap(record: dict[str, Any]) -> tuple[dict[str, Any], str]:
    """(the record itself, the name of its log or ""). A root with ``ts`` is the record; else an object under its log's name is."""
    if "ts" in record:
        marks = [mark for mark in (record.get("@stream"), record.get("_path")) if isinstance(mark, str)]
        return record, next((mark for mark in marks if mark), "")
    tags = [key for key, value in record.items() if isinstance(value, dict) and "ts" in value]
    conns = [key for key in tags if _CONN.fullmatch(key)]
    if conns or len(tags) == 1:
        tag = (conns or tags)[0]
        return record[tag], tag
    return record, ""


def _loose(record: bytes) -> _Conn | str:
    """A record that fits no strict shape: null for absent, no state, both spellings, a tag with a number, or another log."""
    try:
        parsed = _any(record)
    except msgspec.ValidationError:  # a number beyond float64: the typed decoder names its field
        _exact(record)
        raise
    if not isinstance(parsed, dict):
        raise BadRecord("wrong-type:record", f"a JSON object is expected, this is a {type(parsed).__name__}")
    body, log = _unwrap(parsed)
    if log and not _CONN.fullmatch(log) and (log in _LOGS or body is parsed):
        return log if log in _LOGS else "other"
    fields = {
        _IDS.get(key, key): value
        for key, value in body.items()
        if value is not None and (_IDS.get(key, key) == key or _IDS[key] not in body)
    }
    item = msgspec.convert(fields, _Conn)
    if not log and not any(name in fields for name in _OWN):
        raise BadRecord("missing:conn_state", "unmarked, and has none of the fields that tell a conn record from Zeek's other logs")
    return item


SOURCE = ZeekConn
