"""What goes to the judges and to the budget: records of the evidence and of the budget topic."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

import msgspec

from connectors.wire import Control, Tick, WireError
from detector.evidence import Item
from detector.fuse import Role
from models.budget import Budget
from models.signals import Line

#: Version of these records and of the stages' own state. A reader refuses a newer one.
VERSION = 1


class Judged(msgspec.Struct, array_like=True):
    """An item that was blamed in one partition and is counted in another."""

    line: Line
    blamed: str
    role: Role
    item: Item


class Message(msgspec.Struct, array_like=True):
    """What one message of ``stage``'s ``partition`` at ``offset`` gave rise to for a partition of judges. A record of the evidence
    topic holds one or more of them. ``reckoned``: the event time of a threshold, 0 = unknown."""

    version: int
    stage: Literal["object", "fuse", "budget"]
    partition: int
    offset: int
    arrived: int = 0
    items: list[tuple[Line, list[Item]]] = []
    judged: list[Judged] = []
    threshold: dict[Line, float] = {}
    tick: Tick | None = None
    control: Control | None = None
    reckoned: float = 0.0


class Share(msgspec.Struct, array_like=True):
    """A record of the budget topic: what a partition's judge of a line has granted and spent, as of an offset of its log."""

    version: int
    partition: int
    line: Line
    offset: int
    budget: Budget


_messages = msgspec.msgpack.Decoder(list[Message])
_message = msgspec.msgpack.Decoder(Message)
_apart = msgspec.msgpack.Decoder(list[msgspec.Raw])


def record_of(message: Message) -> bytes:
    """A message as a record of the evidence topic by itself."""
    return msgspec.msgpack.encode((message,))


def read_messages(data: bytes) -> list[Message]:
    """The messages of a record of the evidence topic. Raises WireError with a sentence."""
    try:
        messages = _messages.decode(data)
    except msgspec.MsgspecError as error:
        try:
            # Before several could leave together, each was a record.
            messages = [_message.decode(data)]
        except msgspec.MsgspecError:
            raise WireError(f"not a record of evidence: {error}") from None
    for message in messages:
        check_version(message.version, "record of evidence")
    return messages


def apart(data: bytes) -> list[bytes]:
    """A record of the evidence topic as the records that were joined to it."""
    return [msgspec.msgpack.encode((message,)) for message in _apart.decode(data)]


class Joined:
    """Records of evidence that leave together: who judges pays for records, not for what is in them, and of every partition of objects
    comes one for every partition of judges."""

    def __init__(self) -> None:
        self._held: dict[int, list[tuple[bytes, bool]]] = {}

    def __len__(self) -> int:
        return len(self._held)

    def add(self, partition: int, record: bytes, *, alone: bool = False) -> None:
        """Let a record wait for others; one that goes ``alone`` only keeps its place among them."""
        self._held.setdefault(partition, []).append((record, alone))

    def flush(self, most: int) -> Iterator[tuple[int, bytes]]:
        """(partition, record) of all that waits, each of ``most`` bytes at most, or one that is larger by itself."""
        held, self._held = self._held, {}
        for partition, records in held.items():
            run: list[bytes] = []
            size, last = 0, False
            for record, alone in records:
                if run and (alone or last or size + len(record) > most):
                    yield partition, _join(run)
                    run, size = [], 0
                run.append(record)
                size, last = size + len(record), alone
            yield partition, _join(run)


def _join(records: list[bytes]) -> bytes:
    if len(records) == 1:
        return records[0]
    return msgspec.msgpack.encode([message for record in records for message in _apart.decode(record)])


def check_version(version: int, what: str) -> None:
    """Raises WireError where a record is of a version that this release does not read."""
    if not 1 <= version <= VERSION:
        raise WireError(f"{what} of version {version}; this release reads 1 to {VERSION}")
