"""The recorded data sets as the detector sees them, and apart from that what is known about them.

Files are read by the product's own reader with the mappings of ``docs/mappings``. A file of the same family (``darpa98-july.csv.gz``)
is read with the mapping of its family. Labels leave the block here: nothing that scores ever holds them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np

from connectors.event import Block
from connectors.names import Names
from connectors.sources.table import MappingError, read_mapping
from connectors.trace import TraceError, open_trace

MAPPINGS = Path(__file__).resolve().parent.parent / "docs" / "mappings"

#: Short name -> file, without endings. What is absent of these is said.
KNOWN = {
    "darpa98-june": "darpa98-june",
    "westermo-left": "westermo-left",
    "westermo-right": "westermo-right",
    "westermo-bottom": "westermo-bottom",
    "apt29-zeek-day1": "apt29-zeek-day1",
    "gentd26": "gentd26-model-access",
    "lcg2005": "lcg2005-jobs",
    "dlrm2025": "dlrm2025-pods",
}

#: Truth of a row that is no attack, and of one that is neither (DARPA's "ignore").
BENIGN, NEITHER = -1, -2
#: The label of rows that are neither.
IGNORED = "ignore"

#: Floods and scans, which any counter sees: hard mode does without them. By the names of MIT's evaluation, whatever the file.
FLOODS = frozenset(
    """neptune smurf snmpgetattack snmpguess pod mailbomb teardrop back apache2 neptunettl smurfttl satan mscan ipsweep portsweep saint
    nmap dict processtable udpstorm land""".split()  # noqa: SIM905 - names in a row read better
)

#: What the emulation of the first day did, by (actor, object, details), as read by hand (the data's README).
STEPS: dict[str, dict[str, tuple[str, str, tuple[str, ...]]]] = {
    "apt29-zeek-day1": {
        "exfiltration": ("ip:10.0.1.4", "ip:192.168.0.4", ("tcp/80",)),
        "lateral movement": ("ip:10.0.1.4", "ip:10.0.1.6", ("tcp/5985", "tcp/445", "tcp/135", "tcp/ephemeral")),
        "beacon": ("ip:10.0.1.6", "ip:192.168.0.4", ("tcp/8443",)),
    }
}


class Unusable(ValueError):
    """A file that is no data set; the message says why."""


@dataclass(frozen=True)
class DataSet:
    """Rows in order of time, ``record`` being the place, and the truth about each: BENIGN, NEITHER or its place in ``attacks``."""

    name: str
    block: Block
    attacks: tuple[str, ...]
    truth: np.ndarray
    rejected: int = 0

    def __len__(self) -> int:
        return len(self.block)

    @property
    def days(self) -> float:
        """From the first row to the last."""
        return float(self.block.time[-1] - self.block.time[0]) / 86_400e6 if len(self) else 0.0

    @property
    def attacked(self) -> bool:
        """Whether any row is an attack's."""
        return bool((self.truth >= 0).any())

    def where(self, rows: np.ndarray, name: str) -> DataSet:
        """The rows of a mask as a data set of their own."""
        block = self.block.take(rows)
        block.record = np.arange(len(block))
        return DataSet(name, block, self.attacks, self.truth[rows], self.rejected)


def find(folder: Path) -> dict[str, Path | None]:
    """Every data set of a folder by name, the known first; None for one that is absent."""
    families = {stem.partition("-")[0] for stem in KNOWN.values()}
    files: dict[str, Path] = {}
    for path in sorted(folder.iterdir()) if folder.is_dir() else []:
        stem = path.name.partition(".")[0]
        if path.is_file() and path.suffix != ".md" and stem.partition("-")[0] in families:
            files.setdefault(stem, path)
    found: dict[str, Path | None] = {name: files.pop(stem, None) for name, stem in KNOWN.items()}
    return found | {name: path for name, path in files.items() if not name.startswith("apt29") or name in STEPS}


def load(name: str, path: Path) -> DataSet:
    """Read one data set. Raises Unusable."""
    names = Names()
    try:
        blocks, rejected = _blocks(path, _mapping(path), names)
    except (MappingError, TraceError) as error:
        raise Unusable(f"{name}: {error}") from None
    if not blocks:
        raise Unusable(f"{name}: {path}: no usable row")
    block = Block.concat(blocks)
    block = block.take(np.argsort(block.time, kind="stable"))
    labels = _steps(name, block) if block.label is None else block.label
    block.label = None
    block.record = np.arange(len(block))
    attacks = tuple(sorted({label for label in labels if label not in ("", IGNORED)}))
    codes = {"": BENIGN, IGNORED: NEITHER} | {attack: code for code, attack in enumerate(attacks)}
    return DataSet(name, block, attacks, np.array([codes[label] for label in labels], np.int32), rejected)


def _mapping(path: Path) -> Path | None:
    stem = path.name.partition(".")[0]
    own = MAPPINGS / f"{stem}.toml"
    return own if own.is_file() else next(iter(sorted(MAPPINGS.glob(f"{stem.partition('-')[0]}-*.toml"))), None)


def _blocks(path: Path, mapping_file: Path | None, names: Names) -> tuple[list[Block], int]:
    mapping = None if mapping_file is None else read_mapping(mapping_file)
    try:
        trace = open_trace(path, None, mapping, names, 65_536)
    except TraceError:
        if mapping is None or not mapping.label:
            raise
        # A file without its labels can be scored, though not judged.
        trace = open_trace(path, None, msgspec.structs.replace(mapping, label=""), names, 65_536)
    blocks, rejected = [], 0
    for decoded in trace:
        rejected += len(decoded.rejects)
        if len(decoded.block):
            blocks.append(decoded.block)
    return blocks, rejected


def _steps(name: str, block: Block) -> Sequence[str]:
    """Labels of a set whose attack is known by its edges."""
    labels = np.full(len(block), "", object)
    for step, (actor, other, details) in STEPS.get(name, {}).items():
        of_edge = (block.actor == block.names.find(actor)) & (block.object == block.names.find(other))
        labels[of_edge & np.isin(block.detail, [block.names.find(detail) or -2 for detail in details])] = step
    found: list[str] = labels.tolist()
    return found
