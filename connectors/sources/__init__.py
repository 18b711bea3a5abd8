"""Sources: one file each, a batch of raw records in, event columns and typed rejects out.

**The contract.** A source is a module in this package with one class, found by the module's name; nothing is listed anywhere.
``decode`` is called once a batch, in order, by one thread. It must not raise on any bytes whatever: a record it cannot read becomes
a ``Reject`` and the rest of the batch goes on. It keeps no state between batches but caches, so the result for a record depends on
that record alone. What is *not* promised: that the rows are in order of time, or that one record gives exactly one row.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any, ClassVar, Protocol, runtime_checkable

from connectors.event import Binding, Block, Reject
from connectors.names import Names

#: Longest raw record, in bytes; a longer one is rejected unread.
LONGEST_RECORD = 1 << 20


@dataclass
class Decoded:
    """What came out of one batch.

    ``block``: rows in order of their records; ``block.record`` holds the *index in the batch* (the reader adds the offset).
    ``rejects``: what could not be read. ``skipped``: well-formed records that are none of this source's business, counted by what
    they are (``{"dns": 12}``). ``bindings``: in order of their records.
    """

    block: Block
    rejects: list[Reject] = field(default_factory=list)
    skipped: dict[str, int] = field(default_factory=dict)
    bindings: list[Binding] = field(default_factory=list)


@runtime_checkable
class Source(Protocol):
    """A source plug-in. Class attributes are its self-description, printed by ``tocsin sources``."""

    #: One line: what is read.
    title: ClassVar[str]
    #: What its records feed, by signal input: any of ``INPUTS``.
    feeds: ClassVar[frozenset[str]]
    #: What a user of this source must know that the records do not say (no reads, no bytes, ...).
    limits: ClassVar[str]
    #: Where a record holds its times: path (``*`` = any key, a list is every item of it) -> units a second where it is a number; ISO
    #: text says itself what it is. For playing records back at another time; empty = they cannot be.
    times: ClassVar[dict[str, int]]
    #: One record as it comes off the wire, decodable, for docs and tests.
    example: ClassVar[str]

    def __init__(self, names: Names) -> None: ...

    def decode(self, records: Sequence[bytes]) -> Decoded:
        """Decode a batch of raw records."""
        ...

    @classmethod
    def recognises(cls, record: dict[str, Any]) -> bool:
        """Whether a parsed JSON record looks like this source's. Used to detect the format of a file from its first records."""
        ...


#: What a source can feed: the inputs of the signals.
INPUTS: dict[str, str] = {
    "who-to-whom": "actor and object of each act (rarity, novelty)",
    "rate": "one record an act, as it happens (rates)",
    "bytes": "bytes moved (magnitude, egress)",
    "outcome": "whether it was allowed (denied ratio)",
    "reads": "reads of models and secrets, not only changes",
    "gpus": "GPUs and GPU-hours",
    "attestation": "what nodes attest, and work and keys that name the node",
    "bindings": "who is behind an address, pod, job or token",
}

#: Formats we recognise in order to refuse them by name: told apart by a key that no source of ours has.
_LATER: tuple[tuple[str, str], ...] = (
    ("hubble", "Cilium Hubble flows"),
    ("minio", "MinIO bucket events"),
    ("cloudtrail", "AWS CloudTrail"),
    ("goflow2", "NetFlow/IPFIX/sFlow from goflow2"),
    ("sacct", "sacct --json (use slurm_jobcomp, Slurm's Kafka job completion records)"),
    ("nvtrust", "NVIDIA attestation claims"),
)


def later(record: dict[str, Any]) -> tuple[str, str] | None:
    """(short name, title) of a known format that this release does not read; None for anything else."""
    flow = record.get("flow")
    keys = record.keys()
    found = ""
    if isinstance(flow, dict) and ("verdict" in flow or "IP" in flow):
        found = "hubble"
    elif record.get("eventSource") == "minio:s3" or ("EventName" in keys and "Records" in keys):
        found = "minio"
    elif "eventVersion" in keys and "userIdentity" in keys:
        found = "cloudtrail"
    elif "sampler_address" in keys and "sampling_rate" in keys:
        found = "goflow2"
    elif isinstance(record.get("jobs"), list) or ("association" in keys and "tres" in keys):
        found = "sacct"
    elif "x-nvidia-overall-att-result" in keys:
        found = "nvtrust"
    for name, title in _LATER:
        if name == found:
            return name, title
    return None


@cache
def available() -> dict[str, type[Source]]:
    """Every source by name, found by listing this package, in order of name. ``table`` is among them."""
    found: dict[str, type[Source]] = {}
    for module in sorted(info.name for info in pkgutil.iter_modules(__path__)):
        if module.startswith("_"):
            continue
        plugin = importlib.import_module(f"{__name__}.{module}").SOURCE
        found[module] = plugin
    return found
