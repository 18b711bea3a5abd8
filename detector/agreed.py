"""What all ingest processes agree on of who stands behind whom: the bindings topic up to a position, and each raw log's view over it.

A row must resolve the same way twice: after a crash its log is read again from the last commit, and a row that now went to another
partition would be lost or counted twice. So a log's rows see their own log's bindings at once, because reading it again tells them
again, and everyone else's only up to a position of the bindings topic that is written down with each commit and moves only there.

The topic holds what the map holds, and no more for long: what repeats a binding in force is not said (``Bindings.learn``), and what the
map lets go of, because there is too much of it, is taken back by an empty record under its key, which compaction does away with. Such a
record takes effect at its position like every other.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import msgspec

from connectors.event import Binding
from detector.identity import Bindings, View

#: Version of the records here. A reader refuses a newer one.
VERSION = 1


class Said(msgspec.Struct, array_like=True, frozen=True):
    """A record of the bindings topic: a binding, and the record of the raw log that said so."""

    version: int
    time: int
    subject: str
    target: str | None
    log: str
    offset: int

    @property
    def key(self) -> bytes:
        """The key under which the topic keeps the latest: what was said of a subject at a time."""
        return key_of(self.subject, self.time)

    def binding(self) -> Binding:
        """As the resolver takes it."""
        return Binding(self.offset, self.time, self.subject, self.target)


class Gone(NamedTuple):
    """An empty record of the bindings topic: what was said of a subject for a time is not kept any more."""

    subject: str
    time: int


class Mark(msgspec.Struct):
    """What is kept with the committed offset of a raw log: the position of the bindings topic in force, which topic it was, whether
    whoever committed had nothing more under way, and the latest event time with the time on the wall then (microseconds)."""

    version: int = VERSION
    bindings: int = 0
    uuid: str = ""
    clean: bool = False
    clock: int = 0
    wall: int = 0


class Damaged(ValueError):
    """A record that is none of ours, or newer than this release."""


_said = msgspec.msgpack.Decoder(Said)


def key_of(subject: str, time: int) -> bytes:
    """The key of what was said of a subject for a time.

    >>> read_said(key_of("ip:10.0.0.1", 1_700_000_000_000_000), None)
    Gone(subject='ip:10.0.0.1', time=1700000000000000)
    """
    return f"{subject}\0{time}".encode()


def read_said(key: bytes | None, data: bytes | None) -> Said | Gone:
    """A record of the bindings topic. Raises Damaged."""
    if data is None:
        subject, _, time = (key or b"").decode("utf-8", "replace").rpartition("\0")
        if not subject or not time.removeprefix("-").isdecimal():
            raise Damaged(f"an empty record under a key that is none of ours: {(key or b'')[:80]!r}")
        return Gone(subject, int(time))
    try:
        said = _said.decode(data)
    except msgspec.MsgspecError as error:
        raise Damaged(f"not a binding: {error}") from None
    if not 1 <= said.version <= VERSION:
        raise Damaged(f"a binding of version {said.version}; this release reads 1 to {VERSION}")
    return said


def read_mark(data: str) -> Mark:
    """What was kept with a commit. Raises Damaged."""
    try:
        mark = msgspec.json.decode(data, type=Mark)
    except msgspec.MsgspecError as error:
        raise Damaged(f"not what ingest keeps with a commit: {error}") from None
    if not 1 <= mark.version <= VERSION:
        raise Damaged(f"a commit of version {mark.version}; this release reads 1 to {VERSION}")
    return mark


class Agreed:
    """Bindings up to a position of the topic, and those read beyond it that are not in force yet."""

    def __init__(self, limit: int) -> None:
        self.bindings = Bindings(limit)
        self.position = 0
        self._beyond: list[tuple[int, Said | Gone]] = []
        #: The position after the last record read.
        self.read = 0
        #: By log, the highest offset of which something is in force.
        self.told: dict[str, int] = {}
        #: What the map has let go of and the topic still holds: key -> the log whose binding it had to go for.
        self.owed: dict[Gone, str] = {}

    def add(self, offset: int, said: Said | Gone) -> None:
        """A record of the topic, in order; it is not in force yet."""
        self._beyond.append((offset, said))
        self.read = offset + 1

    @property
    def pending(self) -> bool:
        """Whether something was read that is not in force."""
        return bool(self._beyond)

    def advance(self, position: int) -> None:
        """Put everything before ``position`` in force."""
        due = [said for offset, said in self._beyond if offset < position]
        if due:
            self._beyond = [each for each in self._beyond if each[0] >= position]
        for said in due:
            if isinstance(said, Gone):
                self.bindings.unbind(*said)
                self.owed.pop(said, None)
                continue
            self.owed.pop(Gone(said.subject, said.time), None)
            for gone in self.bindings.bind(said.binding()):
                self.owed[Gone(*gone)] = said.log
            self.told[said.log] = max(self.told.get(said.log, -1), said.offset)
        self.position = max(self.position, position)

    def beyond(self, log: str, offset: int) -> list[Said]:
        """What is not in force and was said by ``log`` before its ``offset``."""
        return [said for _, said in self._beyond if isinstance(said, Said) and said.log == log and said.offset < offset]


class Sight:
    """How the rows of one raw log see the bindings: what is agreed, and over it what the log itself has said."""

    def __init__(self, log: str, agreed: Agreed, own: Iterable[Said]) -> None:
        self.log = log
        self.agreed = agreed
        self.view = View(agreed.bindings)
        self._own: list[Said] = []
        for said in own:
            self.say(said, bound=False)

    def say(self, said: Said, *, bound: bool) -> None:
        """The log has said so. ``bound``: the view was told already."""
        self._own.append(said)
        if not bound:
            self.view.bind(said.binding())

    def follow(self, agreed: Agreed) -> None:
        """What is agreed has moved on, or is another: begin from there."""
        self.agreed = agreed
        # A log's bindings stand in the topic in its order. Of the last record in force a part may still be missing.
        told = agreed.told.get(self.log, -1)
        self._own = [said for said in self._own if said.offset > told or (said.offset == told and not _within(said, agreed))]
        self.view.reset(agreed.bindings)
        for said in self._own:
            self.view.bind(said.binding())


def _within(said: Said, agreed: Agreed) -> bool:
    """Whether what is agreed holds this very binding."""
    history = agreed.bindings.history(said.subject)
    return history is not None and (said.time, said.target) in zip(*history, strict=True)
