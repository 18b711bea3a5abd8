"""Coding a column of short texts, in batches of thousands: what a dictionary does, at a fifth of its cost.

A Python dictionary of 100,000 addresses costs a cache miss for its entry and one for the text that is compared: a third of the
whole time to decode a flow. Here the text itself, 16 bytes at most, is the key and lies in the table. Longer texts (IPv6) and
texts seen for the first time are asked of ``code_of``.
"""

from __future__ import annotations

import secrets
import socket
from collections.abc import Callable

import numba
import numpy as np

from connectors.names import BadName, Names, identity

#: Longest text kept in the table, two 64-bit words. Every IPv4 address fits.
KEPT = 16
#: In place of a code: ask ``code_of``. (-1 is a code: "refused".)
_UNSEEN = -2
_NEWLINE = 10
#: Slots of a new table: a power of two, as all its sizes.
_SLOTS = 1 << 10


def _look_up(text: np.ndarray, keys: np.ndarray, codes: np.ndarray, salt: np.uint64, found: np.ndarray, words: np.ndarray) -> None:
    """Put the code of each line of ``text`` into ``found``, and the line as two words into ``words``.

    ``_UNSEEN`` where the table has none. Words (0, 0): the line cannot be a key (empty, too long, or with a NUL, which would vanish
    at the head of a word). The table is open addressing with linear probing, never full.
    """
    mask = np.int64(len(codes) - 1)
    row = 0
    size = 0
    low = np.uint64(0)
    high = np.uint64(0)
    for position in range(len(text) + 1):
        byte = text[position] if position < len(text) else _NEWLINE
        if byte == 0:
            size = KEPT
        if byte != _NEWLINE:
            if size < 8:
                low = low << np.uint64(8) | np.uint64(byte)
            else:
                high = high << np.uint64(8) | np.uint64(byte)
            size += 1
            continue
        if size > KEPT:
            low = np.uint64(0)
            high = np.uint64(0)
        words[row, 0] = low
        words[row, 1] = high
        found[row] = _UNSEEN
        if low != 0:
            slot = _slot(low, high, salt, mask)
            while keys[slot, 0] != 0:
                if keys[slot, 0] == low and keys[slot, 1] == high:
                    found[row] = codes[slot]
                    break
                slot = np.int64((slot + 1) & mask)
        row += 1
        size = 0
        low = np.uint64(0)
        high = np.uint64(0)


def _slot(low: np.uint64, high: np.uint64, salt: np.uint64, mask: np.int64) -> np.int64:
    # Two multiplications with odd constants (of the golden ratio, and a prime) spread neighbouring addresses over the table.
    mixed = (low ^ salt ^ (high * np.uint64(0x9E3779B97F4A7C15))) * np.uint64(0xD6E8FEB86659FD93)
    mixed = (mixed ^ (mixed >> np.uint64(32))) * np.uint64(0xD6E8FEB86659FD93)
    return np.int64((mixed ^ (mixed >> np.uint64(32))) & np.uint64(mask))


def _insert(words: np.ndarray, new: np.ndarray, keys: np.ndarray, codes: np.ndarray, salt: np.uint64) -> None:
    """Put the keys ``words`` with the codes ``new``; (0, 0) is passed over, a key that is there keeps its code."""
    mask = np.int64(len(codes) - 1)
    for row in range(len(new)):
        if words[row, 0] == 0:
            continue
        slot = _slot(words[row, 0], words[row, 1], salt, mask)
        while keys[slot, 0] != 0 and (keys[slot, 0] != words[row, 0] or keys[slot, 1] != words[row, 1]):
            slot = np.int64((slot + 1) & mask)
        if keys[slot, 0] == 0:
            keys[slot] = words[row]
            codes[slot] = new[row]


_slot = numba.njit(cache=True, inline="always")(_slot)
_look_up = numba.njit(cache=True)(_look_up)
_insert = numba.njit(cache=True)(_insert)


class ShortTexts:
    """Text -> code, batch by batch. ``code_of`` says what is not known yet; its answer must depend on the text and the epoch alone."""

    def __init__(
        self,
        code_of: Callable[[str], int],
        limit: int,
        codes_of: Callable[[list[str]], list[int]] | None = None,
        epoch: Callable[[], int] = lambda: 0,
    ) -> None:
        """``limit``: how many texts are kept before the table starts afresh. ``codes_of``: many at once, if there is a faster way.
        ``epoch``: whenever it has changed the table starts afresh."""
        self._code_of = code_of
        self._codes_of = codes_of if codes_of is not None else lambda texts: [code_of(text) for text in texts]
        self._limit = limit
        self._epoch_now = epoch
        self._epoch = epoch()
        # Neither codes nor anything else depends on the salt: it keeps a sender from choosing texts that all fall on one slot.
        self._salt = np.uint64(secrets.randbits(64))
        self._empty()

    def _empty(self) -> None:
        self._keys = np.zeros((_SLOTS, 2), np.uint64)
        self._codes = np.zeros(_SLOTS, np.int32)
        self._used = 0

    def codes(self, texts: list[str]) -> np.ndarray:
        """int32[n]: the code of each text."""
        if self._epoch_now() != self._epoch:
            self._epoch = self._epoch_now()
            self._empty()
        n = len(texts)
        joined = "\n".join(texts).encode("utf-8", "surrogatepass")
        if n == 0 or joined.count(b"\n") != n - 1:  # a text with a line break would shift all that follow
            return np.fromiter(map(self._code_of, texts), np.int32, n)
        found = np.empty(n, np.int32)
        words = np.empty((n, 2), np.uint64)
        _look_up(np.frombuffer(joined, np.uint8), self._keys, self._codes, self._salt, found, words)
        unseen = np.flatnonzero(found == _UNSEEN)
        if len(unseen):
            found[unseen] = self._codes_of([texts[row] for row in unseen.tolist()])
            # What is refused is not kept: it is rare, or hostile and then without end.
            self._keep(words[unseen], found[unseen], found[unseen] >= 0)
        return found

    def _keep(self, words: np.ndarray, codes: np.ndarray, good: np.ndarray) -> None:
        new = np.unique(np.column_stack([words[good], codes[good].astype(np.uint64)]), axis=0)
        new = new[new[:, 0] != 0]
        if self._used + len(new) > self._limit:
            self._empty()
            new = new[: self._limit]
        self._used += len(new)
        size = len(self._codes)
        while size < 2 * self._used:  # at most half full: a look-up then reads 1.5 slots on average
            size *= 2
        if size > len(self._codes):
            keys, kept = self._keys, self._codes
            self._keys = np.zeros((size, 2), np.uint64)
            self._codes = np.zeros(size, np.int32)
            _insert(keys, kept, self._keys, self._codes, self._salt)
        _insert(new[:, :2].copy(), new[:, 2].astype(np.int32), self._keys, self._codes, self._salt)


def addresses(names: Names) -> ShortTexts:
    """The codes of IP addresses in ``names``, -1 where a text is none: as ``names.of("ip")``."""
    coder = names.of("ip")

    def code_of(raw: str) -> int:
        if len(raw) > KEPT:
            return coder[raw]
        try:  # not through the coder, which would keep the text a second time
            return names.passing(identity("ip", raw))
        except BadName:
            return -1

    def codes_of(raws: list[str]) -> list[int]:
        # The usual form of IPv4 is its own normal form: most of what is new goes this way, without a call more than it needs.
        usual, ipv4, parse, code = names.passing, socket.AF_INET, socket.inet_pton, code_of
        out = []
        for raw in raws:
            try:
                parse(ipv4, raw)
            except (OSError, ValueError):
                out.append(code(raw))
            else:
                out.append(usual("ip:" + raw))
        return out

    return ShortTexts(code_of, names.limit, codes_of, lambda: names.epoch)
