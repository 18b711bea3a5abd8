"""Suricata EVE ``flow``: one row per connection, both directions in one record, written when the flow ends.

Read: a plain EVE line; one wrapped as text by a shipper (Filebeat's ``message``, Fluent Bit's ``log``); and what Filebeat's Suricata
module makes of it: ``suricata.eve`` with whatever EVE fields are still there, the rest from ``source``, ``destination``,
``network.transport``, ``event.start`` and ``event.end`` (ECS). Other event types are skipped and counted; so is ``netflow``,
which would count each connection a second time, once per direction.

============  ==========================================================================================================
time          ``flow.end``, or ``timestamp`` where it is absent
actor         ``ip`` of ``src_ip``: who sent the first packet
object        ``ip`` of ``dest_ip``
outcome       denied: dropped by Suricata (``flow.action``), or answered with a TCP reset before any SYN; failed: no packet came back;
              ok: established, closed, or answered; unknown: the record does not say
bytes         ``flow.bytes_toserver``, ``flow.bytes_toclient``: whole frames, 14 bytes of Ethernet a packet included
duration      ``flow.end`` - ``flow.start`` (``flow.age`` is whole seconds, so not used)
detail        ``tcp/443``; ports from 32768 up are one port; ``icmp``
============  ==========================================================================================================
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from operator import attrgetter
from typing import Any, ClassVar, Literal

import msgspec
import numpy as np

from connectors.event import SECOND, Action, Basis, Block, Outcome, Reject, Stream
from connectors.names import Names
from connectors.sources import LONGEST_RECORD, Decoded
from connectors.sources._iso import iso_column
from connectors.sources._records import BadRecord, explain
from connectors.sources._services import Services, impossible
from connectors.sources._short import addresses

NAN = float("nan")

#: Suricata's event types. Counted by name when skipped; any other name counts as "other", so that a sender cannot make up counters.
_TYPES = frozenset(
    """alert anomaly arp bittorrent_dht dcerpc dhcp dnp3 dns drop enip engine file fileinfo frame ftp ftp_data http http2 ike ikev2 krb5
    ldap mdns metadata modbus mqtt netflow nfs pgsql pop3 quic rdp rfb sip smb smtp snmp ssh stats tftp tls websocket""".split()  # noqa: SIM905 - reads better
)
_SYN = 0x02
_RESET = 0x04


class _Flow(msgspec.Struct, kw_only=True, gc=False):
    start: str | None = None
    end: str | None = None
    bytes_toserver: float | None = None
    bytes_toclient: float | None = None
    pkts_toclient: float | None = None
    state: str | None = None
    action: str | None = None


class _Tcp(msgspec.Struct, kw_only=True, gc=False):
    tcp_flags_tc: str | None = None


class _Eve(msgspec.Struct, kw_only=True, gc=False):
    """The fields read of a flow record. Numbers are floats so that no integer of whatever length can overflow a column.

    The fields of wrappers are here to say that a plain record has none.
    """

    timestamp: str
    event_type: Literal["flow"]
    src_ip: str
    dest_ip: str
    dest_port: float | None = None
    proto: str
    flow: _Flow
    tcp: _Tcp | None = None
    flow_id: int | str = ""
    suricata: None = None


class _Marks(msgspec.Struct, gc=False):
    event_type: str = ""


_plain = msgspec.json.Decoder(_Eve).decode
_marks = msgspec.json.Decoder(_Marks).decode
_any = msgspec.json.Decoder().decode
_UNREADABLE = (ValueError, RecursionError, OverflowError)


class SuricataFlow:
    """Suricata flow records. See the module."""

    title: ClassVar[str] = "Suricata EVE flow: plain, wrapped as text by a shipper, or parsed by Filebeat's Suricata module"
    feeds: ClassVar[frozenset[str]] = frozenset({"who-to-whom", "rate", "bytes", "outcome"})
    limits: ClassVar[str] = (
        "a flow is seen when it ends or times out; actors are addresses; bytes are whole frames, so more than the payload "
        "other sensors count; flow_id is unique within one sensor process only"
    )
    times: ClassVar[dict[str, int]] = {
        "timestamp": 1,
        "@timestamp": 1,
        "flow.start": 1,
        "flow.end": 1,
        "event.start": 1,
        "event.end": 1,
    }
    example: ClassVar[str] = (
        '{"timestamp":"2026-11-20T22:50:00.010000+0000","flow_id":42951310067632,"event_type":"flow","src_ip":"10.20.0.15","src_port":41234,'
        '"dest_ip":"203.0.113.9","dest_port":443,"proto":"TCP","flow":{"pkts_toserver":45,"pkts_toclient":43,"bytes_toserver":58430,'
        '"bytes_toclient":2522,"start":"2026-11-20T22:50:00.010000+0000","end":"2026-11-20T22:50:04.479996+0000","age":4,"state":"closed",'
        '"reason":"shutdown","alerted":false},"tcp":{"tcp_flags":"1b","tcp_flags_ts":"1b","tcp_flags_tc":"1b"}}'
    )

    def __init__(self, names: Names) -> None:
        self._names = names
        self._addresses = addresses(names)
        self._services = Services(names)

    @classmethod
    def recognises(cls, record: dict[str, Any]) -> bool:
        """Whether this is an EVE record of any type, plain or wrapped."""
        for key in ("message", "log"):
            text = record.get(key)
            if isinstance(text, str) and text.lstrip().startswith("{"):
                try:
                    inner = _any(text)
                except _UNREADABLE:
                    return False
                return isinstance(inner, dict) and _is_eve(inner)
        return _is_eve(_module_parsed(record) or record)

    def decode(self, records: Sequence[bytes]) -> Decoded:
        """Decode a batch. Reasons: ``missing``, ``wrong-type``, ``bad-time``, ``time-out-of-range``, ``bad-identity``, ``negative``
        and ``out-of-range`` with the field, ``malformed-json``, ``too-long``, ``empty``, ``unsupported-format``."""
        if max(map(len, records), default=0) <= LONGEST_RECORD:
            try:
                return self._decoded([_plain(record) for record in records], np.arange(len(records)), [], {})
            except _UNREADABLE:
                pass
        items: list[_Eve] = []
        index: list[int] = []
        rejects: list[Reject] = []
        skipped: dict[str, int] = {}
        for i, record in enumerate(records):
            try:
                item = _one(record)
            except _UNREADABLE as error:
                rejects.append(explain(i, record, error))
                continue
            if isinstance(item, str):
                skipped[item] = skipped.get(item, 0) + 1
            else:
                items.append(item)
                index.append(i)
        return self._decoded(items, np.array(index, np.int64), rejects, skipped)

    def _decoded(self, items: list[_Eve], rows: np.ndarray, rejects: list[Reject], skipped: dict[str, int]) -> Decoded:
        """Columns of ``items``, which are the records ``rows``."""
        flows = list(map(attrgetter("flow"), items))
        ends = [flow.end or item.timestamp for flow, item in zip(flows, items, strict=True)]
        time, problems = iso_column(ends, "flow.end")
        # Where there is no start the end stands in, for which every check holds; no duration follows from it.
        start, more = iso_column([flow.start or end for flow, end in zip(flows, ends, strict=True)], "flow.start")
        duration = np.where([bool(flow.start and flow.end) for flow in flows], (time - start) / SECOND, np.nan)
        out, into = (_numbers(flows, name) for name in ("bytes_toserver", "bytes_toclient"))
        port = _numbers(items, "dest_port")
        actor = self._addresses.codes([item.src_ip for item in items])
        server = self._addresses.codes([item.dest_ip for item in items])
        bad = {**more, **problems}
        for reason, mask in (
            ("bad-identity:src_ip", actor < 0),
            ("bad-identity:dest_ip", server < 0),
            ("out-of-range:dest_port", impossible(port)),
            ("negative:duration", duration < 0),
            ("negative:flow.bytes_toserver", out < 0),
            ("negative:flow.bytes_toclient", into < 0),
        ):
            for row in np.flatnonzero(mask).tolist():
                bad.setdefault(row, self._problem(reason, items[row]))
        if bad:
            keep = [row for row in range(len(items)) if row not in bad]
            rejects += [Reject(int(rows[row]), error.reason, str(error)) for row, error in bad.items()]
            rejects.sort()
            return self._decoded([items[row] for row in keep], rows[keep], rejects, skipped)
        block = Block(
            self._names,
            "suricata_flow",
            {
                "time": time,
                "stream": Stream.flow,
                "action": Action.connect,
                "outcome": np.fromiter(map(_outcome, items), np.int8, len(items)),
                "actor": actor,
                "object": server,
                "detail": self._services.codes([item.proto for item in items], port),
                "bytes_out": out,
                "bytes_in": into,
                "bytes_basis": Basis.l2,
                "duration": duration,
                "record": rows,
            },
            uid=[str(item.flow_id) for item in items],
        )
        return Decoded(block, rejects, skipped)

    def _problem(self, reason: str, item: _Eve) -> BadRecord:
        what, _, field = reason.partition(":")
        if what == "bad-identity":
            return BadRecord(reason, f"{field}: {self._names.of('ip').problem(getattr(item, field))}")
        if field == "duration":
            return BadRecord(reason, f"duration: flow.end {item.flow.end!r:.40} is before flow.start {item.flow.start!r:.40}")
        return BadRecord(reason, f"{field}: {what.replace('-', ' ')}: {attrgetter(field)(item)!r:.40}")


def _numbers(items: Sequence[object], name: str) -> np.ndarray:
    """float64[n], NaN for None."""
    read: Callable[[object], float | None] = attrgetter(name)
    return np.array(list(map(read, items)), np.float64)


def _outcome(item: _Eve) -> Outcome:
    flow = item.flow
    if flow.action in ("drop", "reject"):
        return Outcome.denied
    if flow.pkts_toclient is not None and flow.pkts_toclient <= 0:
        return Outcome.failed
    if item.tcp is not None and item.tcp.tcp_flags_tc is not None:
        try:
            flags = int(item.tcp.tcp_flags_tc[:4], 16)  # hexadecimal text, two digits
        except ValueError:
            flags = _SYN
        if flags & _RESET and not flags & _SYN:
            return Outcome.denied
    if flow.state in ("established", "closed") or flow.pkts_toclient is not None:
        return Outcome.ok
    return Outcome.unknown


def _one(record: bytes, wrapped: bool = False) -> _Eve | str:
    """One record by itself: its fields, or the type under which it is skipped. Raises what ``explain`` explains."""
    if len(record) > LONGEST_RECORD:
        raise BadRecord("too-long", f"record of {len(record)} bytes, at most {LONGEST_RECORD} are read")
    try:
        return _plain(record)
    except _UNREADABLE:
        pass
    try:
        kind = _marks(record).event_type
    except _UNREADABLE:
        kind = ""
    if kind and kind != "flow":
        return kind if kind in _TYPES else "other"
    try:
        parsed = _any(record)
    except msgspec.ValidationError:  # a number beyond float64: the typed decoder names its field
        _plain(record)
        raise
    if not isinstance(parsed, dict):
        raise BadRecord("wrong-type:record", f"a JSON object is expected, this is a {type(parsed).__name__}")
    body = _module_parsed(parsed)
    if body is None:
        for key in ("message", "log"):
            text = parsed.get(key)
            if isinstance(text, str) and "event_type" not in parsed and not wrapped:
                return _one(text.encode("utf-8", "surrogatepass"), wrapped=True)
        body = parsed
    inner = body.get("event_type")
    if isinstance(inner, str) and inner != "flow":
        return inner if inner in _TYPES else "other"
    return msgspec.convert(body, _Eve)


def _is_eve(record: dict[str, Any]) -> bool:
    kind = record.get("event_type")
    return isinstance(kind, str) and "timestamp" in record and (kind == "flow" or kind in _TYPES)


def _module_parsed(record: dict[str, Any]) -> dict[str, Any] | None:
    """The EVE record behind Filebeat's ECS form: its own fields, and those the module has moved; None for any other record."""
    eve = _inside(record, "suricata", "eve")
    if not isinstance(eve, dict):
        return None
    flow = eve.get("flow") if isinstance(eve.get("flow"), dict) else {}
    moved_flow = {
        "start": _inside(record, "event", "start"),
        "end": _inside(record, "event", "end"),
        "bytes_toserver": _inside(record, "source", "bytes"),
        "bytes_toclient": _inside(record, "destination", "bytes"),
        "pkts_toclient": _inside(record, "destination", "packets"),
    }
    moved = {
        "timestamp": record.get("@timestamp"),
        "src_ip": _inside(record, "source", "ip"),
        "dest_ip": _inside(record, "destination", "ip"),
        "dest_port": _inside(record, "destination", "port"),
        "proto": _inside(record, "network", "transport"),
    }
    return {**_present(moved), **_present(eve), "flow": {**_present(moved_flow), **_present(flow or {})}}


def _inside(record: dict[str, Any], outer: str, inner: str) -> Any:
    value = record.get(outer)
    return value.get(inner) if isinstance(value, dict) else None


def _present(fields: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in fields.items() if value is not None}


SOURCE = SuricataFlow
