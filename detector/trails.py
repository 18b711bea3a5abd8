"""What is remembered of each identity's evidence. There may be many, few of them at work: what rests is kept as it is written, so that
writing all of it down is copying."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from typing import Any

import msgspec

from detector.evidence import Piece

#: Trails that are written down at once.
PART = 500
#: Trails at work, at most: they are written down while everyone waits when a copy is taken. So many of them begin to rest at once.
AT_WORK, TO_REST = 2_500, 500


class Trail(msgspec.Struct):
    """What is remembered of one identity's evidence: its leaking sum with its time, and the strongest pieces."""

    nats: float = 0.0
    time: float = 0.0
    pieces: list[Piece] = []


class _When(msgspec.Struct):
    time: float = 0.0


_trail = msgspec.msgpack.Decoder(Trail)
_when = msgspec.msgpack.Decoder(_When)


class Trails:
    """The trails of a state: ``held`` is its dictionary, identity -> ``Trail``, or ``msgspec.Raw`` while it rests."""

    def __init__(self, held: dict[str, msgspec.Raw]) -> None:
        # What was read refers to the whole message that it came in.
        self.held: dict[str, Any] = held
        for name, one in self.held.items():
            if isinstance(one, msgspec.Raw):
                self.held[name] = one.copy()
        #: In the order in which they began to work.
        self._at_work = {name: None for name, one in self.held.items() if isinstance(one, Trail)}

    def get(self, name: str) -> Trail | None:
        """The trail of an identity, to be changed at will."""
        one = self.held.get(name)
        if isinstance(one, msgspec.Raw):
            one = _trail.decode(one)
            self.put(name, one)
        return one

    def put(self, name: str, trail: Trail) -> None:
        """Begin a trail, or let it begin to work."""
        if len(self._at_work) >= AT_WORK:
            self._rest(list(itertools.islice(self._at_work, TO_REST)))
        self.held[name] = trail
        self._at_work[name] = None

    def __getitem__(self, name: str) -> Trail:
        """The same, of an identity that has one."""
        trail = self.get(name)
        if trail is None:
            raise KeyError(name)
        return trail

    def drop(self, name: str) -> None:
        """Forget a trail."""
        del self.held[name]
        self._at_work.pop(name, None)

    def time(self, name: str) -> float:
        """When an identity's evidence was last strengthened."""
        one = self.held[name]
        return _when.decode(one).time if isinstance(one, msgspec.Raw) else float(one.time)

    def rest(self) -> None:
        """Write down all that is at work."""
        self._rest(list(self._at_work))

    def _rest(self, names: list[str]) -> None:
        for name in names:
            self.held[name] = msgspec.Raw(msgspec.msgpack.encode(self.held[name]))
            del self._at_work[name]


def written(held: Mapping[str, msgspec.Raw]) -> Iterator[bytes]:
    """A dictionary of what rests as MessagePack has it, as it is now, in parts that are made when they are asked for."""
    items = list(held.items())
    many = len(items)
    head = bytes([0x80 | many]) if many < 16 else b"\xde" + many.to_bytes(2) if many < 1 << 16 else b"\xdf" + many.to_bytes(4)
    # The head of a map of a part is left out: 1, 3 or 5 bytes.
    parts = (
        msgspec.msgpack.encode(dict(items[start : start + PART]))[1 if many - start < 16 else 3 :] for start in range(0, many, PART)
    )
    return itertools.chain([head], parts)
