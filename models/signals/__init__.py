"""Signals: one learner a file, each one question put to a profile.

**The contract.** ``surprise`` is called once per run of rows, in log order. For every row, in order, it writes how surprising the
row is under the profile *before* it (nats, >= 0, finite; NaN where the row does not say), together with the value seen, the value
expected and the largest value that would have been unremarkable (NaN where none is too large), and only then learns the row, and
only if ``rows.learn`` says so. It scores a row alike whether it learns it or not; where it says NaN it learns nothing.
It reads nothing but its arguments, keeps everything in the state it is handed, and so gives the same result however the rows are cut
into runs.

A learner is found by its file name; its msgspec fields are its settings in the configuration (``[signals.NAME] learner = "rate"``).
State lives in tables of slots, each slot of a signal a small packed record: ``state()`` names the tables and, per table, the fields
with their types (``("since", "u4")``, ``("mean", "f4")``, ``("hours", "u1", 48)``). A profile never seen before is all zeros. Keep
records small: there are a million identities and several times as many pairs. Times in records are whole seconds, ``u4``.
"""

from __future__ import annotations

import importlib
import pkgutil
from abc import abstractmethod
from dataclasses import dataclass
from functools import cache
from typing import ClassVar, Literal

import msgspec
import numpy as np

from models.profiles import Fields

#: Rows of the matrix that ``Signal.surprise`` writes.
SURPRISE, SEEN, EXPECTED, USUAL = range(4)

Visit = Literal["actor", "object"]
#: An alert line: each has its calibration and its budget of its own. The slow one is for what shows within days, not minutes.
Line = Literal["main", "slow"]

#: Tables a signal may keep state on, by visit. ``actor``, ``object``: the identity. ``endpoint``: object, action and detail together.
#: ``actor_pair``, ``pair``: actor with endpoint. ``peer``: the actor's peer group, slot 0 = no group, everyone. ``peer_pair``: peer
#: group with endpoint.
TABLES: dict[str, tuple[str, ...]] = {
    "actor": ("actor", "actor_pair", "peer"),
    "object": ("object", "endpoint", "pair", "peer", "peer_pair"),
}


@dataclass(slots=True)
class Rows:
    """A run of rows as one visit sees them; all arrays have one entry a row.

    ``time`` float64, microseconds, never behind the visited profile. ``learn`` bool: late rows are scored, not learned.
    ``counts`` float64[len(models.counts.OUTPUT), n]: the units as they were before each row; ``actor_counts`` the same from the
    actor's visit (object's visit only). ``slots`` int32: table name -> slot.
    ``moved`` bytes that left where they belong (sent by the actor of a flow, read out of a registry); NaN = unknown. ``answered``:
    those that went the other way. ``basis`` what they count: counts of different bases are never compared. ``model`` bool: the object
    is a model, so ``moved`` tells its size.
    ``refused`` 1 = denied or failed, 0 = allowed, NaN = unknown. ``weight`` how many alike facts the row stands for.
    ``stream``, ``action`` int8: ``connectors.event.Stream`` and ``Action`` as numbers. ``actor``, ``object``, ``via``, ``detail``
    uint64: stable hashes of the texts, 0 = none. ``gpus``, ``gpu_seconds`` float64, NaN = unknown. ``outward`` bool: the object is an
    address outside the site. ``pace`` float64: 1 usually, more inside an announced change: how many times faster to learn.
    """

    time: np.ndarray
    learn: np.ndarray
    counts: np.ndarray
    actor_counts: np.ndarray
    slots: dict[str, np.ndarray]
    moved: np.ndarray
    answered: np.ndarray
    basis: np.ndarray
    model: np.ndarray
    refused: np.ndarray
    weight: np.ndarray
    stream: np.ndarray
    action: np.ndarray
    actor: np.ndarray
    object: np.ndarray
    via: np.ndarray
    detail: np.ndarray
    gpus: np.ndarray
    gpu_seconds: np.ndarray
    outward: np.ndarray
    pace: np.ndarray

    def __len__(self) -> int:
        return len(self.time)


class Signal(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """What every learner is. ``weight``: its share of the false-alarm budget (0.03 means "3.5 nats stricter than 1")."""

    #: Whether the surprise drifts upwards while the population grows: its running mean is then taken out before calibration.
    drifts: ClassVar[bool] = False
    #: The unit of seen, expected and usual.
    unit: ClassVar[str] = ""
    #: What a source must say for it: one of the inputs that sources declare.
    needs: ClassVar[str] = "who-to-whom"
    #: Whether the state is all in the tables, so that it can be kept over a restart.
    durable: ClassVar[bool] = True

    weight: float = 1.0
    line: Line = "main"

    @property
    @abstractmethod
    def visit(self) -> Visit:
        """At whose visit it is asked."""

    def state(self) -> dict[str, Fields]:
        """Table -> fields kept per slot."""
        return {}

    def scalars(self) -> tuple[str, ...]:
        """Names of the stream-wide numbers kept."""
        return ()

    @abstractmethod
    def surprise(self, rows: Rows, tables: dict[str, np.ndarray], scalars: np.ndarray, out: np.ndarray) -> None:
        """Score, then learn. ``tables``: table -> records[slots], mutable; ``scalars``: float64; ``out``: float64[4, n]."""

    @abstractmethod
    def text(self, seen: float, expected: float, usual: float, actor: str, object: str) -> str:
        """One sentence for people: what was seen, what was expected, what would have been normal."""


@cache
def learners() -> dict[str, type[Signal]]:
    """Every learner by its file name, found by listing this package."""
    names = sorted(info.name for info in pkgutil.iter_modules(__path__) if not info.name.startswith("_"))
    return {name: importlib.import_module(f"{__name__}.{name}").LEARNER for name in names}


def amount(value: float) -> str:
    """Bytes for people.

    >>> amount(999), amount(2.2e6), amount(5e9)
    ('999 B', '2.1 MiB', '4.7 GiB')
    """
    for unit in ("B", "KiB", "MiB", "GiB"):
        if value < 1024 or unit == "GiB":
            break
        value /= 1024
    if value >= 1024:
        value, unit = value / 1024, "TiB"
    return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"


def number(value: float) -> str:
    """A count for people: up to three digits that mean something.

    >>> number(0.034), number(3.0), number(12345.6)
    ('0.034', '3', '12,346')
    """
    if value >= 100:
        return f"{value:,.0f}"
    return f"{value:.2g}" if value < 1 else f"{value:.3g}"
