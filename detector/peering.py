"""Peer groups at the actors' visit: who is in which, and when the groups are formed anew.

An actor that is new takes the group of its label (kind and team); one that has shown enough is put where it behaves alike. Groups are
formed anew as the stream grows older, in the background. When that begins and when the new groups come into force are both times of the
stream, so that a replay forms the same and puts them in force at the same row.
"""

from __future__ import annotations

import math
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cache, lru_cache

import msgspec
import numpy as np
from numba import njit

from connectors.event import Block, Stream
from connectors.names import Names, stable_hash
from models import counts
from models.kernels import DAY, HOUR
from models.peers import Peers, features_of, label_of
from models.profiles import Fields, Table
from models.signals import Signal
from models.signals.denied import Denied
from models.signals.magnitude import Magnitude

#: What is kept of an actor for it: its group's slot (0 = none), its label's hash, hours in each stream, and the mean of where on the
#: clock they lie.
HABITS: Fields = (("group", "u1"), ("label", "u8"), ("streams", "u2", len(Stream)), ("cos", "f4"), ("sin", "f4"))
#: Hours after which the mean of the clock moves no slower, and most that are counted of a stream.
LONGEST, MOST = 200.0, 60_000
#: The first groups are formed when the stream is a day old; then at twice the age each time, and from a week on every week.
FIRST, SELDOMEST = 1.0 * DAY, 7.0 * DAY
#: Stream time from the training's begin until its groups are in force: hours of a live stream, and of a replay rarely a wait.
AFTER = 1.0 * HOUR


@cache
def _worker() -> ThreadPoolExecutor:
    """The one thread that trains: scikit-learn works outside the interpreter's lock."""
    return ThreadPoolExecutor(1, "peer-groups")


@njit(cache=True)
def _learn(
    time: np.ndarray,
    new_hour: np.ndarray,
    stream: np.ndarray,
    slot: np.ndarray,
    first: np.ndarray,
    label: np.ndarray,
    table: np.ndarray,
) -> None:
    for i in range(len(time)):
        row = table[slot[i]]
        if row.label == 0:
            row.label = label[i]
            row.group = first[i]
        if new_hour[i] == 0.0:
            continue
        total = 1.0
        for each in row.streams:
            total += each
        row.streams[stream[i]] = min(row.streams[stream[i]] + 1, MOST)
        angle = 2.0 * math.pi * (time[i] % DAY) / DAY
        weight = 1.0 / min(total, LONGEST)
        row.cos += weight * (math.cos(angle) - row.cos)
        row.sin += weight * (math.sin(angle) - row.sin)


class _Labels:
    """The hash of each name's label, by its code, worked out once."""

    def __init__(self) -> None:
        self._names: Names | None = None
        self._epoch = 0
        self._known = np.zeros(0, np.uint64)

    def of(self, names: Names, codes: np.ndarray) -> np.ndarray:
        """uint64[n], never 0."""
        epoch = getattr(names, "epoch", 0)
        if names is not self._names or epoch != self._epoch:
            self._names, self._epoch, self._known = names, epoch, np.zeros(0, np.uint64)
        if len(names) > len(self._known):
            longer = np.zeros(2 * len(names), np.uint64)
            longer[: len(self._known)] = self._known
            self._known = longer
        labels: np.ndarray = self._known[codes]
        if (labels == 0).any():
            for code in np.unique(codes[labels == 0]).tolist():
                self._known[code] = _hash(label_of(names.values[code]))
            labels = self._known[codes]
        return labels


@lru_cache(maxsize=1 << 16)
def _hash(label: str) -> int:
    return stable_hash(label) or 1


class _Saved(msgspec.Struct, array_like=True):
    due: float
    began: float
    ready: float
    peers: bytes
    coming: bytes


def _loaded(data: bytes) -> Peers:
    peers = Peers()
    peers.load(data)
    return peers


def _retrained(before: bytes, features: np.ndarray, label: np.ndarray, key: np.ndarray) -> Peers:
    peers = _loaded(before)
    peers.retrain(features, label, key)
    return peers


class Peering:
    """The groups of one partition of actors. Its state: HABITS in the actors' table, and ``dump()``."""

    def __init__(self, signals: dict[str, Signal]) -> None:
        self.peers = Peers()
        #: When the next training begins, or if one is on its way, when its groups come into force; when the stream began.
        self.due = 0.0
        self.began = 0.0
        self._ready = 0.0
        self._coming: Future[Peers] | None = None
        self._labels = _Labels()
        self._bytes = next((name for name, each in signals.items() if isinstance(each, Magnitude)), None)
        self._denied = next((name for name, each in signals.items() if isinstance(each, Denied)), None)

    def before_training(self, block: Block, clock: float) -> int:
        """How many rows of a block come before the groups are to be formed anew. ``clock``: the visit's own before the block."""
        if self.due == 0.0 and len(block):
            self.began = max(float(block.time[0]), clock)
            self.due = self.began + FIRST
        now = np.maximum.accumulate(np.maximum(block.time, int(clock)))
        return int(np.searchsorted(now, self._ready or self.due, side="left"))

    def learn(self, block: Block, out: np.ndarray, slots: np.ndarray, table: Table) -> np.ndarray:
        """int32[n]: the group's slot of each row's actor; learns the actors' habits. ``out``: what ``counts.count`` wrote."""
        label = self._labels.of(block.names, block.actor)
        first = (self.peers.of_label(label) + 1).astype(np.uint8) if self.peers.version else np.zeros(len(block), np.uint8)
        held = table["habits"]
        _learn(out[counts.TIME], out[counts.NEW_HOUR], block.stream, slots, first, label, held)
        groups: np.ndarray = held["group"][slots].astype(np.int32)
        return groups

    def step(self, table: Table, now: float) -> np.ndarray:
        """Begin to form the groups anew, or put those on their way in force. Returns the slots of groups that begin now: what was
        counted there before is not theirs."""
        features, label, key = self._shown(table)
        if self._coming is None:
            self._coming = _worker().submit(_retrained, self.peers.dump(), features, label, key)
            self._ready = now + AFTER
            return np.zeros(0, np.int64)
        self.peers = self._coming.result()
        self._coming, self._ready = None, 0.0
        table.change_all()
        table["habits"]["group"][: table.used] = self.peers.assign(features, label) + 1
        self.due = now + min(max(now - self.began, FIRST), SELDOMEST)
        fresh: np.ndarray = self.peers.fresh.astype(np.int64) + 1
        return fresh

    def _shown(self, table: Table) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """What everyone has shown so far: (features, hashes of labels, hashes of identities)."""
        used = table.used
        habits, owner = table["habits"][:used], table["owner"][:used]
        features = features_of(
            active_hours=owner["hours"],
            partner_days=owner["days"],
            partners=owner["partners"],
            ln_bytes=self._mean_bytes(table, used),
            refused=self._refused(table, used),
            streams=habits["streams"].astype(np.float64),
            hour_cos=habits["cos"].astype(np.float64),
            hour_sin=habits["sin"].astype(np.float64),
            rate=np.full(used, np.nan),
        )
        return features, np.ascontiguousarray(habits["label"]), table.keys()

    def _mean_bytes(self, table: Table, used: int) -> np.ndarray:
        if self._bytes is None:
            return np.full(used, np.nan)
        held = table[self._bytes][:used]
        return np.where(held["seen"] > 0, held["mean"], np.nan).astype(np.float64)

    def _refused(self, table: Table, used: int) -> np.ndarray:
        if self._denied is None:
            return np.full(used, np.nan)
        held = table[self._denied][:used]
        tried = held["tried"].astype(np.float64)
        shares: np.ndarray = np.divide(held["refused"].astype(np.float64), tried, out=np.full(used, np.nan), where=tried > 0.0)
        return shares

    @property
    def training(self) -> bool:
        """Whether groups are being formed this moment, so that ``dump`` would have to wait."""
        return self._coming is not None and not self._coming.done()

    def dump(self) -> bytes:
        """The state outside the table. Equal states give equal bytes."""
        coming = b"" if self._coming is None else self._coming.result().dump()
        return msgspec.msgpack.encode(_Saved(self.due, self.began, self._ready, self.peers.dump(), coming))

    def load(self, data: bytes) -> None:
        """Take over what ``dump`` gave. Raises ValueError with a sentence."""
        try:
            saved = msgspec.msgpack.decode(data, type=_Saved)
        except msgspec.MsgspecError as error:
            raise ValueError(f"state of peer groups: not a record of them ({error})") from None
        self.peers.load(saved.peers)
        self.due, self.began, self._ready, self._coming = saved.due, saved.began, saved.ready, None
        if saved.coming:
            self._coming = Future()
            self._coming.set_result(_loaded(saved.coming))
