"""Dead letters: records that could not become events, each with its reason and where the whole record lies.

The dead-letter topic holds two kinds of JSON records. A ``DeadLetter`` says what could not be read; a ``Retried`` says that one of them
was given back to its raw topic, so that it is given back once. The letter holds the first KiB of the record, for people; whoever tries
again reads the whole from the raw topic. ``raw`` is hostile: show it through ``preview``.

>>> letter = DeadLetter(reason="not-json", message="not JSON", source="zeek_conn", topic="zeek.conn", partition=0, offset=7, raw=b"{")
>>> decode(encode(letter)) == letter, letter.place
(True, 'zeek.conn/0/7')
"""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

#: Version of these records. A reader refuses a newer one.
LETTER_VERSION = 1
#: What their header says they are.
LETTER_SCHEMA = f"deadletter/{LETTER_VERSION}"
#: Bytes of the record that are kept: enough to see what it is.
LETTER_BYTES = 1024
#: Header of a record that was given back to its raw topic: the place of the record that it repeats.
RETRIED_FROM = "tocsin.retried-from"


class LetterError(ValueError):
    """A record of the dead-letter topic that cannot be read, in one sentence."""


class DeadLetter(msgspec.Struct, kw_only=True, frozen=True, tag_field="kind", tag="deadletter"):
    """One record that could not be decoded.

    ``reason``: stable, countable (``wrong-type:orig_bytes``); ``message``: the sentence for people. ``source``: the plug-in that read
    it, or the mapping file of a table. ``arrived``: when the record came to its topic, microseconds UTC, 0 = unknown.
    ``retried_from``: the place that the record's own header ``tocsin.retried-from`` names, "" = it had none.
    """

    version: int = LETTER_VERSION
    reason: str
    message: str
    source: str
    topic: str
    partition: int
    offset: int
    arrived: int = 0
    raw: bytes = b""
    retried_from: str = ""

    @property
    def place(self) -> str:
        """Where the record lies: ``topic/partition/offset``."""
        return place(self.topic, self.partition, self.offset)


class Retried(msgspec.Struct, kw_only=True, frozen=True, tag_field="kind", tag="retried"):
    """The record at ``place`` was given back to its topic, at ``time`` (microseconds UTC)."""

    version: int = LETTER_VERSION
    place: str
    time: int


def place(topic: str, partition: int, offset: int) -> str:
    """How a record's position is written, in letters and in the header ``tocsin.retried-from``."""
    return f"{topic}/{partition}/{offset}"


def retried_from(headers: Iterable[tuple[str, bytes]]) -> str:
    """The place that a record's headers say it repeats, "" if none. Of what a foreign producer may write there, 300 bytes."""
    for name, value in headers:
        if name == RETRIED_FROM:
            return value[:300].decode("utf-8", "replace")
    return ""


def preview(raw: bytes, most: int = 80) -> str:
    r"""The beginning of a record as printable ASCII: everything else is written as an escape.

    >>> preview(bytes([27]) + b"[2Jabc" + bytes([226, 128, 174]))
    '\\x1b[2Jabc\\xe2\\x80\\xae'
    """
    shown = "".join(chr(byte) if 32 <= byte < 127 else f"\\x{byte:02x}" for byte in raw[: most + 1])
    return shown if len(shown) <= most and len(raw) <= most else f"{shown[:most]}…"


class _Version(msgspec.Struct):
    version: int


_ENCODER = msgspec.json.Encoder()
_DECODER: msgspec.json.Decoder[DeadLetter | Retried] = msgspec.json.Decoder(DeadLetter | Retried)
_VERSIONS = msgspec.json.Decoder(_Version)


def encode(letter: DeadLetter | Retried) -> bytes:
    """One record as JSON; of the raw bytes the first KiB (base64)."""
    if isinstance(letter, DeadLetter) and len(letter.raw) > LETTER_BYTES:
        letter = msgspec.structs.replace(letter, raw=letter.raw[:LETTER_BYTES])
    return _ENCODER.encode(letter)


def decode(data: bytes) -> DeadLetter | Retried:
    """One record. Raises LetterError for what is none of ours, or is of a newer version."""
    try:
        version = _VERSIONS.decode(data).version
        if not 1 <= version <= LETTER_VERSION:
            raise LetterError(f"dead letter of version {version}; this release reads 1 to {LETTER_VERSION}")
        return _DECODER.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise LetterError(f"not a dead letter: {error}") from None
