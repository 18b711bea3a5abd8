"""What a person decided about an action, as a record: dropped into a folder, or sent to a topic.

A record counts where it is known who made it: the channel vouches for the person (the owner of the file), or the person has signed it.
"""

from __future__ import annotations

import uuid
from typing import Literal

import msgspec

from connectors.names import BadName, identity
from connectors.signing import Key

#: Version of these records. A reader refuses a newer one.
DECISION_VERSION = 1
#: Largest record read, in bytes: a sentence, and room to spare.
LARGEST = 16_384

#: ``approve`` and ``deny`` what waits; ``release`` a containment before its time.
Word = Literal["approve", "deny", "release"]


class NotADecision(ValueError):
    """A record that is no sound decision; the message says what is wrong with it."""


class PersonDecision(msgspec.Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """One person's word on one action. ``time``: microseconds; ``id``: unique, so that it counts once."""

    version: int = DECISION_VERSION
    id: str
    action: str
    word: Word
    #: An identity: "user:alice".
    person: str
    time: int
    reason: str = ""
    signature: str = ""


def made(action: str, word: Word, person: str, time: int, reason: str = "", key: Key | None = None) -> PersonDecision:
    """A new record, signed where there is a key. Raises BadKey where the key cannot sign."""
    plain = PersonDecision(id=uuid.uuid4().hex, action=action, word=word, person=person, time=time, reason=reason)
    return plain if key is None else msgspec.structs.replace(plain, signature=key.sign(content(plain)))


def content(decision: PersonDecision) -> bytes:
    """The bytes that are signed: everything but the signature, in a fixed order."""
    given = [getattr(decision, name) for name in PersonDecision.__struct_fields__ if name != "signature"]
    return msgspec.json.encode(["tocsin decision", *given])


def encode(decision: PersonDecision) -> bytes:
    """One line of JSON."""
    return msgspec.json.encode(decision) + b"\n"


def decode(record: bytes) -> PersonDecision:
    """A sound record. Raises NotADecision."""
    if len(record) > LARGEST:
        raise NotADecision(f"a record of {len(record)} bytes; at most {LARGEST} are read")
    try:
        decision = msgspec.json.decode(record, type=PersonDecision)
        kind, _, name = decision.person.partition(":")
        person = identity(kind, name)
    except (msgspec.DecodeError, UnicodeDecodeError, BadName, KeyError) as error:
        raise NotADecision(f"no decision of this release: {error}") from None
    if decision.version != DECISION_VERSION:
        raise NotADecision(f"version {decision.version}; this release reads {DECISION_VERSION}")
    if person != decision.person or kind != "user":
        raise NotADecision(f"the person is spelled {decision.person!r}; expected an identity such as user:alice")
    if not 1 <= len(decision.id) <= 128 or not decision.id.isascii() or not decision.id.isprintable():
        raise NotADecision("the id: expected 1 to 128 printable characters")
    return decision
