"""The lines of a text file with their numbers: plain, gzip or zstandard, told apart by the first bytes.

Memory is bounded whatever the file holds: a line that is too long is passed over in chunks, what is compressed is unpacked in steps.
"""

from __future__ import annotations

import io
import zlib
from collections.abc import Iterator
from operator import itemgetter
from pathlib import Path
from typing import IO

import numpy as np
import zstandard

from connectors.event import Reject
from connectors.sources import LONGEST_RECORD

#: How much text is split into lines at a time: large against a line, small against memory and the processor's cache.
CHUNK_BYTES = 1 << 20
#: How much compressed zstandard is taken at a time. 4 bytes of it can stand for a block of 128 KiB, so this bounds what one step
#: gives to 64 MiB, whoever made the file.
_ZSTD_BYTES = 2048
#: A line shorter than this may be blank; no record is that makes an event.
_SHORT = 8

#: How many lines tell JSON from CSV: more than one, so that a single bad line does not make a log a table.
_LOOK = 50

_GZIP = b"\x1f\x8b"
_ZSTD = b"\x28\xb5\x2f\xfd"
_BOM = b"\xef\xbb\xbf"


_bare = itemgetter(slice(None, -1))


class _CutShortError(Exception):
    """Compressed data that ends early or is damaged: ``reason`` is the reject's."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


class Lines:
    """The lines of one file. Read once, in one go, within ``with``.

    A file that was cut short ends in one reject; what there is of its last line is not among the lines.
    """

    def __init__(self, path: Path) -> None:
        self.text_read = 0
        #: Whether none of the first lines begins as JSON does; None until a line was read.
        self.is_csv: bool | None = None
        self._file: IO[bytes] = path.open("rb")
        #: Number of the next line, and how much of it has gone by if it is too long.
        self._next = 0
        self._passed = 0

    def __enter__(self) -> Lines:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    @property
    def bytes_read(self) -> int:
        """How much of the file, as it lies on disk, has been read."""
        return self._file.tell()

    def batches(self, size: int) -> Iterator[tuple[np.ndarray, list[bytes], list[Reject]]]:
        """(int64 line numbers from 0, at most ``size`` lines that are not blank, rejects of other lines among them)."""
        lines: list[bytes] = []
        numbers = np.zeros(0, np.int64)
        rejects: list[Reject] = []
        for more_numbers, more, found in self._chunks():
            if self.is_csv is None and more:
                self.is_csv = not any(line.lstrip()[:1] in (b"{", b"[") for line in more[:_LOOK])
            rejects += found
            lines = lines + more
            numbers = np.concatenate([numbers, more_numbers])
            start = 0
            while len(lines) - start >= size:
                end = start + size
                mine = [reject for reject in rejects if reject.record < numbers[end - 1]]
                rejects = rejects[len(mine) :]
                yield numbers[start:end], lines[start:end], mine
                start = end
            lines, numbers = lines[start:], numbers[start:]
        if lines or rejects:
            yield numbers, lines, rejects

    def _chunks(self) -> Iterator[tuple[np.ndarray, list[bytes], list[Reject]]]:
        """Numbers and lines that are complete and not blank, and rejects, chunk by chunk."""
        none = np.zeros(0, np.int64)
        tail = b""
        try:
            for chunk in self._texts():
                text = chunk.removeprefix(_BOM) if self.text_read == 0 else chunk
                self.text_read += len(chunk)
                rejects: list[Reject] = []
                if self._passed:
                    text = self._pass_over(text, rejects)
                    if self._passed:
                        continue
                lines, tail = _lines(tail, text)
                if len(tail) > LONGEST_RECORD:
                    self._passed, tail = len(tail), b""
                yield self._sifted(lines, rejects)
        except _CutShortError as cut:
            yield none, [], [Reject(self._next, cut.reason, str(cut))]
            return
        if self._passed:
            yield none, [], [_too_long(self._next, self._passed)]
        elif tail:
            yield self._sifted([tail], [])

    def _pass_over(self, text: bytes, rejects: list[Reject]) -> bytes:
        """What follows in ``text`` after the line that is too long; the reject once that line has ended."""
        head, newline, rest = text.partition(b"\n")
        self._passed += len(head)
        if newline:
            rejects.append(_too_long(self._next, self._passed))
            self._next += 1
            self._passed = 0
        return rest

    def _sifted(self, lines: list[bytes], rejects: list[Reject]) -> tuple[np.ndarray, list[bytes], list[Reject]]:
        numbers = np.arange(self._next, self._next + len(lines))
        self._next += len(lines)
        if not lines:
            return numbers, lines, rejects
        lengths = np.fromiter(map(len, lines), np.int64, len(lines))
        rejects += [_too_long(int(numbers[row]), int(lengths[row])) for row in np.flatnonzero(lengths > LONGEST_RECORD).tolist()]
        if lines[0].endswith(b"\r"):
            lines = [line.removesuffix(b"\r") for line in lines]
        if lengths.min() < _SHORT:
            lengths = np.where([bool(line.strip()) for line in lines], lengths, 0)
        keep = (lengths > 0) & (lengths <= LONGEST_RECORD)
        if not keep.all():
            chosen = np.flatnonzero(keep)
            return numbers[chosen], [lines[row] for row in chosen.tolist()], rejects
        return numbers, lines, rejects

    def _texts(self) -> Iterator[bytes]:
        """The text in pieces, none empty. Raises _CutShortError where compressed data ends early, after all that came before."""
        magic = self._file.read(4)
        self._file.seek(0)
        if magic.startswith(_GZIP):
            yield from _gunzip(self._file)
        elif magic == _ZSTD:
            yield from _unzstd(self._file)
        else:
            while chunk := self._file.read(CHUNK_BYTES):
                yield chunk


def _gunzip(file: IO[bytes]) -> Iterator[bytes]:
    """The contents of all members; zero bytes after a member are padding."""
    member = zlib.decompressobj(wbits=31)
    inside = True
    while packed := file.read(CHUNK_BYTES // 8):
        while packed:
            if not inside:
                packed = packed.lstrip(b"\0")
                if not packed:
                    break
                member, inside = zlib.decompressobj(wbits=31), True
            before = member.copy()
            try:
                text = member.decompress(packed, CHUNK_BYTES)
            except zlib.error as error:
                yield from _salvage(before, packed)
                raise _CutShortError("corrupt-file", f"gzip data is damaged: {error}") from None
            if text:
                yield text
            inside = not member.eof
            packed = member.unconsumed_tail if inside else member.unused_data
    if inside:
        raise _CutShortError("truncated-file", "gzip data ends in the middle: the file was cut short")


def _salvage(member: zlib._Decompress, packed: bytes) -> Iterator[bytes]:
    """What can be read of ``packed`` before the damage in it: byte by byte, as a call that fails gives nothing."""
    for position in range(len(packed)):
        try:
            text = member.decompress(packed[position : position + 1])
        except zlib.error:
            return
        if text:
            yield text


def _unzstd(file: IO[bytes]) -> Iterator[bytes]:
    """The contents of all frames, in pieces of a chunk."""
    parts: list[bytes] = []
    size = 0
    cut: _CutShortError | None = None
    texts = _frames(file)
    while True:
        try:
            text = next(texts, None)
        except _CutShortError as error:
            cut, text = error, None
        if text is not None:
            parts.append(text)
            size += len(text)
        if size and (text is None or size >= CHUNK_BYTES):
            yield b"".join(parts)
            parts, size = [], 0
        if text is None:
            break
    if cut is not None:
        raise cut


def _frames(file: IO[bytes]) -> Iterator[bytes]:
    frame = zstandard.ZstdDecompressor().decompressobj()
    inside = False
    left = b""
    while packed := left or file.read(_ZSTD_BYTES):
        try:
            text = frame.decompress(packed)
        except zstandard.ZstdError as error:
            raise _CutShortError("corrupt-file", f"zstandard data is damaged: {error}") from None
        inside = not frame.eof
        left = b"" if inside else frame.unused_data
        if not inside:
            frame = zstandard.ZstdDecompressor().decompressobj()
        yield text
    if inside:
        raise _CutShortError("truncated-file", "zstandard data ends in the middle: the file was cut short")


def _lines(head: bytes, text: bytes) -> tuple[list[bytes], bytes]:
    """(complete lines of ``head + text`` without their breaks, what follows the last break).

    Reading lines from memory looks for the break with memchr; ``bytes.split`` looks at every byte and takes twice as long.
    """
    if not text:
        return [], head
    pieces = list(io.BytesIO(text))
    pieces[0] = head + pieces[0]
    tail = b"" if pieces[-1].endswith(b"\n") else pieces.pop()
    return list(map(_bare, pieces)), tail


def _too_long(record: int, size: int) -> Reject:
    return Reject(record, "too-long", f"line of {size} bytes, at most {LONGEST_RECORD} are read")
