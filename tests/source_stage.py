"""What tests of sources share: decode records by a source's name, rows in words, and an example with odd values in it."""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from connectors.event import Action, Basis, Outcome, Stream
from connectors.names import Names
from connectors.sources import Decoded, Source, available
from connectors.sources.table import parse_mapping

SOURCES = available()
DETECTED = {name: source for name, source in SOURCES.items() if not hasattr(source, "example_mapping")}

#: Values put in place of others. ``RAW`` stands for JSON no encoder writes.
RAW = {
    "@nan@": "NaN",
    "@infinity@": "-Infinity",
    "@overflow@": "1e400",
    "@large@": "9" * 400,
    "@huge-int@": str(2**64),
    "@deep@": "[" * 3000 + "]" * 3000,
    "@deep-object@": '{"a":' * 3000 + "1" + "}" * 3000,
    "@surrogate@": '"\\ud800"',
    "@nul@": '"a\\u0000b"',
}
ODD: list[Any] = [
    *RAW,
    None,
    True,
    -1,
    -0.5,
    0,
    1e300,
    1795214848306,
    "",
    " ",
    "other",
    "\u202ecod.exe",
    "x" * 10_000,
    "../../etc/passwd",
    "\u0301",
    "1970-01-01T00:00:00Z",
    "9999-12-31T23:59:59Z",
    "2026-13-45T99:99:99Z",
    "system:serviceaccount::",
    "fe80::1%eth0",
    [],
    [None],
    {},
    {"a": []},
    "{",
]
DROP = object()


_FIELDS = (
    *("record", "time", "stream", "action", "outcome", "bytes_basis", "actor", "object", "via", "detail"),
    *("bytes_out", "bytes_in", "duration", "count", "gpus", "gpu_seconds", "uid"),
)
_ENUMS: dict[str, Any] = {"stream": Stream, "action": Action, "outcome": Outcome, "bytes_basis": Basis}


class Text(dict[str, Any]):
    """An object that stands in its record as text."""


def make(source: type[Source]) -> Source:
    mapping = getattr(source, "example_mapping", None)
    if mapping is None:
        return source(Names())
    build: Callable[..., Source] = source
    return build(Names(), parse_mapping(mapping, "example_mapping"))


def decode(source: Source, records: Sequence[bytes]) -> Decoded:
    """Decode, with any exception as a failed assertion."""
    try:
        return source.decode(records)
    except Exception as error:
        raise AssertionError(f"decode raised {error!r:.200}") from error


def names_of(decoded: Decoded) -> list[str]:
    return decoded.block.names.values


def rows_of(decoded: Decoded, shift: int = 0) -> list[tuple[Any, ...]]:
    """Rows with texts in place of codes and None in place of NaN, their records moved by ``shift``."""
    block, values = decoded.block, names_of(decoded)
    numbers = (block.bytes_out, block.bytes_in, block.duration, block.count, block.gpus, block.gpu_seconds)
    return [
        (
            int(block.record[i]) + shift,
            int(block.time[i]),
            *(int(column[i]) for column in (block.stream, block.action, block.outcome, block.bytes_basis)),
            *(values[column[i]] if column[i] >= 0 else None for column in (block.actor, block.object, block.via, block.detail)),
            *(None if math.isnan(column[i]) else float(column[i]) for column in numbers),
            block.uid[i],
        )
        for i in range(len(block))
    ]


def events(decoded: Decoded) -> list[dict[str, Any]]:
    """Rows in words, without what they do not say."""
    found = []
    for row in rows_of(decoded):
        named = dict(zip(_FIELDS, row, strict=True))
        named |= {name: enum(named[name]).name for name, enum in _ENUMS.items()}
        silent = {"count": 1.0, "bytes_basis": "none", "uid": ""}
        found.append({name: value for name, value in named.items() if value is not None and silent.get(name) != value})
    return found


def reasons(decoded: Decoded) -> list[tuple[int, str]]:
    return [(reject.record, reject.reason) for reject in decoded.rejects]


def fresh(name: str, *records: dict[str, Any] | bytes) -> Decoded:
    """Records, as objects or as they come off the wire, decoded by the source of that name."""
    return decode(make(SOURCES[name]), [record if isinstance(record, bytes) else json.dumps(record).encode() for record in records])


def said(decoded: Decoded, shift: int = 0) -> tuple[list[Any], list[Any], list[Any]]:
    rejects = [reject._replace(record=reject.record + shift) for reject in decoded.rejects]
    bindings = [binding._replace(record=binding.record + shift) for binding in decoded.bindings]
    return rows_of(decoded, shift), rejects, bindings


def tree(value: Any) -> Any:
    """``value`` with objects in texts opened."""
    if isinstance(value, str) and value.startswith("{"):
        return Text(tree(json.loads(value)))
    if isinstance(value, dict):
        return {key: tree(item) for key, item in value.items()}
    return [tree(item) for item in value] if isinstance(value, list) else value


def encoded(value: Any) -> bytes:
    def plain(item: Any) -> Any:
        if isinstance(item, dict):
            inner = {key: plain(inside) for key, inside in item.items()}
            return _json(inner) if isinstance(item, Text) else inner
        return [plain(inside) for inside in item] if isinstance(item, list) else item

    return _json(plain(value)).encode()


def _json(value: Any) -> str:
    text = json.dumps(value)
    for mark, raw in RAW.items():
        text = text.replace(f'"{mark}"', raw)
    return text


def places(value: Any) -> list[tuple[Any, Any]]:
    """(container, key) of everything inside a tree."""
    found: list[tuple[Any, Any]] = []
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in items:
        found.append((value, key))
        found += places(item)
    return found


def mutated(example: str, changes: Sequence[tuple[int, Any]]) -> bytes:
    """The example with values at the given places replaced or dropped."""
    record = tree(json.loads(example))
    for place, odd in changes:
        there = places(record)
        if not there:
            break
        container, key = there[place % len(there)]
        if odd is DROP:
            del container[key]
        else:
            container[key] = copy.deepcopy(odd)  # a list put into itself has no end
    return encoded(record)


def mutations(example: str) -> Iterator[bytes]:
    """Every place of the example dropped, and with a few odd values."""
    for place in range(len(places(tree(json.loads(example))))):
        for odd in (DROP, None, -1, 1e300, "", "@nul@", "x" * 10_000, [], {}):
            yield mutated(example, [(place, odd)])
