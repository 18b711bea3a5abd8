"""``labels.jsonl`` of a trace: which records belong to what. For measuring; the engine never reads it."""

from __future__ import annotations

from pathlib import Path

import msgspec

from connectors.trace import TraceError

#: Version of a line. A reader refuses a newer one.
LABEL_VERSION = 1
LABELS = "labels.jsonl"


class Label(msgspec.Struct, kw_only=True):
    """One instance of a scenario. Identities are spelled as the sources spell them after decoding.

    ``benign``: a hard case of everyday life: an alert on it is a false one. ``slow``: built to stay below every hour's notice.
    ``techniques``: ATT&CK and ATLAS ids. ``principals``: who is behind it, the accountable one first; ``via``: addresses, pods and
    tokens used; ``objects``: what was touched. ``first`` and ``last``: when its first and last record were written, ISO 8601 UTC, and
    the same as microseconds in ``first_us`` and ``last_us``. ``records``: by log, the numbers (from 0) of its records, rising.
    """

    version: int = LABEL_VERSION
    scenario: str
    instance: int = 1
    benign: bool = False
    slow: bool = False
    summary: str = ""
    techniques: list[str] = []
    principals: list[str] = []
    via: list[str] = []
    objects: list[str] = []
    first: str
    last: str
    first_us: int
    last_us: int
    records: dict[str, list[int]]


def read_labels(path: Path) -> list[Label]:
    """The labels of a trace. Raises TraceError, naming the file and the line."""
    found = []
    try:
        with path.open("rb") as file:
            for number, line in enumerate(file, start=1):
                if not line.strip():
                    continue
                try:
                    label = msgspec.json.decode(line, type=Label)
                except (ValueError, RecursionError) as error:
                    raise TraceError(f"{path}: line {number}: no label: {str(error)[:200]}") from None
                if not 1 <= label.version <= LABEL_VERSION:
                    raise TraceError(
                        f"{path}: line {number}: label of version {label.version}; this release reads 1 to {LABEL_VERSION}"
                    )
                found.append(label)
    except OSError as error:
        raise TraceError(f"{path}: cannot be read: {error.strerror}") from None
    return found


def write_labels(path: Path, labels: list[Label]) -> None:
    """Write labels, one a line. Raises OSError."""
    path.write_bytes(b"".join(msgspec.json.encode(label) + b"\n" for label in labels))
