"""Moving a raw record to another time: its own time fields, as its source names them, all by the same whole number of seconds.

Whole seconds, so that fractions stay digit for digit and fields of different resolution keep their order. What is no record of its
source (poison among them) stays byte for byte.
"""

from __future__ import annotations

import re
from datetime import datetime, timedelta
from typing import Any

import msgspec
import orjson

from connectors.sources import available

#: Texts that hold a record as JSON of its own: what shippers and delivery logs put around one.
_WRAPPERS = ("message", "log", "body")
#: Year to second, and what follows: fraction and zone, which stay.
_ISO = re.compile(r"(\d{4}-\d\d-\d\d)([T ])(\d\d:\d\d:\d\d)(.*)", re.DOTALL)


class Unshiftable(ValueError):
    """A source whose records cannot be moved in time: one sentence."""


class Shift:
    """Moves records of one source by ``seconds``. ``moved``: fields so far; ``kept``: records without any."""

    def __init__(self, source: str, seconds: int) -> None:
        """Raises Unshiftable, naming the source, unless there is nothing to move."""
        plugin = available().get(source)
        times = plugin.times if plugin is not None else {}
        if not times and seconds:
            raise Unshiftable(f"{source}: records of this source cannot be moved in time, it names no time fields")
        self._paths = [(tuple(path.split(".")), units) for path, units in times.items()]
        self._seconds = seconds
        self.moved = self.kept = 0

    def __call__(self, record: bytes) -> bytes:
        """The record at its new time."""
        if self._seconds == 0:
            return record
        try:
            value = msgspec.json.decode(record)
            before = self.moved
            self._whole(value)
            if self.moved > before:
                return orjson.dumps(value)
        except (ValueError, RecursionError, TypeError):
            pass  # poison goes as poison
        self.kept += 1
        return record

    def _whole(self, value: Any) -> None:
        if not isinstance(value, dict):
            return
        for path, units in self._paths:
            self._walk(value, path, units)
        for wrapper in _WRAPPERS:
            text = value.get(wrapper)
            if isinstance(text, str) and text.lstrip().startswith("{"):
                inner = msgspec.json.decode(text.encode())
                before = self.moved
                self._whole(inner)
                if self.moved > before:
                    value[wrapper] = orjson.dumps(inner).decode()

    def _walk(self, value: Any, path: tuple[str, ...], units: int) -> None:
        if isinstance(value, list):
            for each in value:
                self._walk(each, path, units)
            return
        if not isinstance(value, dict):
            return
        keys = list(value) if path[0] == "*" else [path[0]] if path[0] in value else []
        for key in keys:
            if len(path) > 1:
                self._walk(value[key], path[1:], units)
            else:
                value[key] = self._moved(value[key], units)

    def _moved(self, value: Any, units: int) -> Any:
        if isinstance(value, bool):
            return value
        if isinstance(value, (int, float)):
            self.moved += 1
            # Microseconds are what any source of ours gives; a sum of floats would show more digits.
            return value + self._seconds * units if isinstance(value, int) else round(value + self._seconds * units, 6)
        found = _ISO.fullmatch(value) if isinstance(value, str) else None
        if found is None:
            return value
        day, joint, clock, rest = found.groups()
        try:
            moment = datetime.fromisoformat(f"{day}T{clock}") + timedelta(seconds=self._seconds)
        except (ValueError, OverflowError):
            return value
        self.moved += 1
        return f"{moment:%Y-%m-%d}{joint}{moment:%H:%M:%S}{rest}"
