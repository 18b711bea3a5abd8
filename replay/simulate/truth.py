"""What is true about a simulation: the attacks and their records, and the inventory of what there is to contain."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Literal

import msgspec

from connectors.event import SECOND

#: Version of ``truth.json`` and ``inventory.json``.
TRUTH_VERSION = 1
TRUTH, INVENTORY = "truth.json", "inventory.json"


class Attack(msgspec.Struct, kw_only=True):
    """One attack, or a hard case that is ``benign``. Identities are spelled as the sources spell them after decoding.

    ``first`` and ``last``: when its first and last record were written, microseconds UTC. ``actors``: the principals behind it,
    the accountable one first. ``via``: addresses, pods and tokens it used. ``objects``: what it touched. ``records``: by file, the
    numbers (from 0) of its records.
    """

    name: str
    instance: int = 1
    benign: bool = False
    slow: bool = False
    summary: str
    techniques: list[str]
    first: int
    last: int
    actors: list[str]
    via: list[str]
    objects: list[str]
    records: dict[str, list[int]]


class Truth(msgspec.Struct, kw_only=True):
    """What was simulated. ``records``: how many each file holds; ``spans``: when its first and last were written, and ``start`` and
    ``end``: microseconds UTC."""

    version: int = TRUTH_VERSION
    seed: int
    scale: float
    days: int
    start: int
    end: int
    records: dict[str, int]
    spans: dict[str, tuple[int | None, int | None]] = {}
    attacks: list[Attack]


class UserEntry(msgspec.Struct, kw_only=True):
    """A person or bot. ``tokens`` and ``sessions``: ids of all there ever were, oldest first."""

    name: str
    tokens: list[str]
    sessions: list[str]


class AccountEntry(msgspec.Struct, kw_only=True):
    """A service account. ``tokens``: ids of the credentials its pods held, oldest first."""

    namespace: str
    name: str
    tokens: list[str]


class PodEntry(msgspec.Struct, kw_only=True, rename={"begins": "from", "ends": "to"}):
    """A pod there was. ``from`` and ``to``: ISO 8601 UTC; ``to`` is null for one that is still there at the end."""

    namespace: str
    name: str
    uid: str
    ip: str
    service_account: str
    owner: str
    node: str
    user: str
    begins: str
    ends: str | None


class JobEntry(msgspec.Struct, kw_only=True):
    """A Slurm job as it is at the end. ``id``: the name of its identity, ``slurm/<cluster>/<number>``."""

    id: str
    user: str
    state: Literal["PENDING", "RUNNING", "COMPLETED", "FAILED"]


class Inventory(msgspec.Struct, kw_only=True):
    """All there is and was. Bots are among the users: Keycloak knows them by such a name."""

    version: int = TRUTH_VERSION
    users: list[UserEntry]
    service_accounts: list[AccountEntry]
    pods: list[PodEntry]
    jobs: list[JobEntry]


def moment(time: int) -> str:
    """Microseconds UTC as ISO 8601."""
    return datetime.fromtimestamp(time // SECOND, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
