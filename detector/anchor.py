"""The head of the ledger, signed and kept elsewhere at intervals: what shows a lost tail, or a chain that was written anew.

An anchor is one JSON line: number and hash of a row, when, a link to the anchor before it, a signature (``connectors.signing``).
Where it is kept is a function that takes bytes: a file here, a topic elsewhere.
"""

from __future__ import annotations

import errno
import hashlib
import logging
import os
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path

import msgspec

from connectors.event import SECOND
from connectors.signing import BadKey, Key
from detector.ledger import Ledger, LedgerFailed
from detector.policy import LedgerSettings

ANCHOR_VERSION = 1
log = logging.getLogger("tocsin.respond")

Sink = Callable[[bytes], None]


class AnchorFailed(RuntimeError):
    """An anchor that cannot be read, written or believed; the text says which and why."""


class AnchorAway(AnchorFailed):
    """The place of the anchors cannot be read or written at the moment; later it may."""


class Anchor(msgspec.Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """The head of a ledger at a time (microseconds). ``previous``: hash of the line before, "" in the first one."""

    version: int
    seq: int
    hash: str
    time: int
    previous: str
    signature: str = ""


def _content(anchor: Anchor) -> bytes:
    return msgspec.json.encode(["tocsin anchor", anchor.version, anchor.seq, anchor.hash, anchor.time, anchor.previous])


def _link(line: bytes) -> str:
    return hashlib.blake2b(line.strip(), digest_size=32).hexdigest()


def read(lines: Iterable[bytes], key: Key) -> list[Anchor]:
    """Every anchor, oldest first. Raises AnchorFailed at the first unsound one: unsigned, or not following the one before."""
    found: list[Anchor] = []
    previous = ""
    for number, line in enumerate(lines, 1):
        try:
            anchor = msgspec.json.decode(line, type=Anchor)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise AnchorFailed(f"anchor {number}: {error}") from None
        if anchor.version != ANCHOR_VERSION:
            raise AnchorFailed(f"anchor {number}: version {anchor.version}; this release reads {ANCHOR_VERSION}")
        if not key.signed(_content(anchor), anchor.signature):
            raise AnchorFailed(f"anchor {number} is not signed with this key")
        if anchor.previous != previous or (found and anchor.seq < found[-1].seq):
            raise AnchorFailed(f"anchor {number} does not follow anchor {number - 1}")
        previous = _link(line)
        found.append(anchor)
    return found


def read_file(path: Path, key: Key) -> list[Anchor]:
    """The anchors of a file. Raises AnchorFailed, also where it is missing. One that is only half there is not one yet."""
    try:
        return read(whole_lines(path.read_bytes())[0], key)
    except OSError as error:
        raise AnchorFailed(f"{path}: {error.strerror}") from None


def whole_lines(held: bytes) -> tuple[list[bytes], int]:
    """The whole lines, and how many bytes they are with their ends: what follows was being written when the power went."""
    whole = held.rfind(b"\n") + 1
    return [line for line in held[:whole].splitlines() if line.strip()], whole


def to_file(path: Path) -> Sink:
    """Appends to a file, a whole line or nothing, and waits until it is on the disk. What it is given raises AnchorAway."""

    def keep(line: bytes) -> None:
        try:
            with path.open("ab", buffering=0) as file:
                before = os.fstat(file.fileno()).st_size
                try:
                    if file.write(line) != len(line):
                        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
                    os.fsync(file.fileno())
                except OSError:
                    with suppress(OSError):
                        os.ftruncate(file.fileno(), before)
                    raise
        except OSError as error:
            raise AnchorAway(f"{path}: {error.strerror}") from None

    return keep


def key_of(settings: LedgerSettings) -> Key:
    """The key that anchors are signed with. Raises BadKey, NoSecret."""
    if settings.anchor_key is None:
        raise BadKey("respond.ledger.anchor_key: expected a table with 'file' or 'env', as the ledger is anchored")
    return Key(settings.anchor_key.read())


class Anchorer:
    """Anchors a ledger every ``rows`` rows, and after ``seconds`` where there are new ones. ``last``: the last line kept, or b""."""

    def __init__(self, ledger: Ledger, key: Key, keep: Sink, last: bytes = b"", *, rows: int = 100, seconds: int = 300) -> None:
        self._ledger, self._key, self._keep = ledger, key, keep
        self._rows, self._seconds = rows, seconds
        before = msgspec.json.decode(last, type=Anchor) if last else None
        self._previous = _link(last) if last else ""
        self._anchored = before.seq if before else 0
        self._time = before.time if before else 0

    @property
    def time(self) -> int:
        """When the last anchor was made, microseconds; 0 = there is none."""
        return self._time

    @property
    def ahead(self) -> int:
        """Rows after the last anchor."""
        return self._ledger.head[0] - self._anchored

    def tick(self, now: int, *, at_once: bool = False) -> bool:
        """Keep an anchor if one is due; whether one was. ``now``: microseconds. Raises AnchorFailed where it cannot be kept."""
        seq, hash_ = self._ledger.head
        new = seq - self._anchored
        first = not self._previous and not seq
        if not first and not new:
            return False
        if not (first or at_once or new >= self._rows or now - self._time >= self._seconds * SECOND):
            return False
        plain = Anchor(version=ANCHOR_VERSION, seq=seq, hash=hash_, time=now, previous=self._previous)
        try:
            signature = self._key.sign(_content(plain))
        except BadKey as error:
            raise AnchorFailed(str(error)) from None
        line = msgspec.json.encode(msgspec.structs.replace(plain, signature=signature)) + b"\n"
        self._keep(line)
        self._previous, self._anchored, self._time = _link(line), seq, now
        return True


def from_file(settings: LedgerSettings, book: Ledger) -> Anchorer | None:
    """What anchors a ledger in the configured file, after the anchors there have been compared with it; None where there is no file.

    A last line that was not written to its end is cut off, and the head anchored anew. Raises LedgerFailed where they do not fit,
    AnchorAway where the file or its folder cannot be reached, AnchorFailed, BadKey, NoSecret.
    """
    if not settings.anchor_file:
        return None
    key, path = key_of(settings), Path(settings.anchor_file)
    try:
        path.parent.stat()
        held = path.read_bytes() if path.exists() else b""
        lines, whole = whole_lines(held)
        torn = len(held) > whole
        if torn:
            read(lines, key)
            os.truncate(path, whole)
    except OSError as error:
        raise AnchorAway(f"{error.filename or path}: {error.strerror}") from None
    if torn:
        log.warning("%s: the last anchor was not written to its end; it was cut off, and the ledger is anchored anew", path)
    return compared(settings, book, lines, key, to_file(path), str(path), at_once=torn)


def compared(
    settings: LedgerSettings, book: Ledger, lines: list[bytes], key: Key, keep: Sink, where: str, *, at_once: bool = False
) -> Anchorer:
    """What goes on after these anchors, oldest first. Raises LedgerFailed where they do not fit the ledger, AnchorFailed."""
    found = read(lines, key)
    if not found and book.head[0]:
        raise LedgerFailed(f"{where} holds no anchor of a ledger of {book.head[0]} rows; make one with: tocsin ledger anchor")
    broken = book.verify_chain(*((each.seq, each.hash) for each in found))
    if broken is not None:
        raise LedgerFailed(f"the ledger does not verify against {where}: {broken.reason}")
    anchorer = Anchorer(book, key, keep, lines[-1] if lines else b"", rows=settings.anchor_rows, seconds=settings.anchor_seconds)
    # An empty ledger is anchored before its first row: then rows without any anchor are always a loss, never a process that was killed
    # between the two.
    try:
        anchorer.tick(book.history.now, at_once=at_once)
    except AnchorAway as error:
        if not anchorer.time:
            # Without a first anchor the next start could not tell a loss from a beginning.
            raise
        log.warning("an anchor of the ledger waits: %s", error)
    return anchorer
