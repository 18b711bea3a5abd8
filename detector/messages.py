"""What goes to the judges and to the budget: records of the evidence and of the budget topic."""

from __future__ import annotations

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
    """A record of the evidence topic: what one message of ``stage``'s ``partition`` at ``offset`` gave rise to for this partition."""

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


class Share(msgspec.Struct, array_like=True):
    """A record of the budget topic: what a partition's judge of a line has granted and spent, as of an offset of its log."""

    version: int
    partition: int
    line: Line
    offset: int
    budget: Budget


_message = msgspec.msgpack.Decoder(Message)


def read_message(data: bytes) -> Message:
    """A record of the evidence topic. Raises WireError with a sentence."""
    try:
        message = _message.decode(data)
    except msgspec.MsgspecError as error:
        raise WireError(f"not a record of evidence: {error}") from None
    check_version(message.version, "record of evidence")
    return message


def check_version(version: int, what: str) -> None:
    """Raises WireError where a record is of a version that this release does not read."""
    if not 1 <= version <= VERSION:
        raise WireError(f"{what} of version {version}; this release reads 1 to {VERSION}")
