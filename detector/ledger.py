"""The ledger: one append-only, hash-chained row for every step of every decision, decisions not to act included.

What has been done and what is left to do follows from the rows alone: ``History`` is their fold, built the same way while running and
after a restart. A row is written before the step it announces; what cannot be written is not done.
"""

from __future__ import annotations

import hashlib
import unicodedata
from collections.abc import Iterable, Iterator
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, NamedTuple, Self

import msgspec
import sqlalchemy as sa
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.pool import StaticPool

from connectors.event import HOUR

#: Version of the tables and of the bytes that are hashed. A reader refuses a newer one.
LEDGER_VERSION = 1

#: Every result a row can state, with its meaning; ``Responder.counts`` counts rows by these words. Stable: scripts read them.
RESULTS: dict[str, str] = {
    "none": "decided: nothing to do, because no rule matches or the evidence holds no target for it",
    "unchanged": "decided: a later revision of an alert brought nothing new to decide",
    "observed": "decided: the mode is observe; this would have been done",
    "proposed": "decided: the mode is propose; a person is told",
    "awaiting-approval": "decided: the mode is approve; waits for a person",
    "protected": "decided: the target, or an identity behind it, is protected",
    "limited": "decided: the hourly limit is reached",
    "already-contained": "decided: an earlier action holds the target; its end was moved out",
    "enforced": "decided: to be carried out",
    "carried-out": "the target accepted the action",
    "already-so": "it was so without us; nothing to take back",
    "failed": "the target refused, or does not know the identity",
    "withdrawn": "decided earlier, interrupted, and no longer allowed when taken up again",
    "verified": "the effect was seen",
    "unverified": "the effect could not be seen",
    "not-effective": "the effect was looked for and is missing",
    "undone": "taken back when its time was up",
    "undo-already": "nothing of ours was left to take back",
    "undo-failed": "could not be taken back; tried again later",
    "undo-verified": "nothing of the action is left in the target",
    "undo-unverified": "taken back, but that could not be seen",
}

Step = Literal["decided", "intent", "outcome", "verify", "undo-intent", "undo", "undo-verify"]

#: Longest reason and snapshot kept, in characters: a hostile target must not fill the disk.
_LONGEST_REASON = 1_000
_LONGEST_SNAPSHOT = 1 << 20
#: What comes before the first row.
_GENESIS = "0" * 64

_metadata = sa.MetaData()
_version = sa.Table("ledger_version", _metadata, sa.Column("version", sa.Integer, primary_key=True))
_rows = sa.Table(
    "ledger",
    _metadata,
    # The primary key and the unique link make a second writer fail instead of forking the chain.
    sa.Column("seq", sa.BigInteger().with_variant(sa.Integer, "sqlite"), primary_key=True, autoincrement=False),
    sa.Column("time", sa.BigInteger, nullable=False),
    sa.Column("alert", sa.Text, nullable=False),
    sa.Column("revision", sa.BigInteger, nullable=False),
    sa.Column("action", sa.Text, nullable=False),
    sa.Column("verb", sa.Text, nullable=False),
    sa.Column("target", sa.Text, nullable=False),
    sa.Column("owners", sa.Text, nullable=False),
    sa.Column("rule", sa.Text, nullable=False),
    sa.Column("step", sa.Text, nullable=False),
    sa.Column("mode", sa.Text, nullable=False),
    sa.Column("result", sa.Text, nullable=False),
    sa.Column("reason", sa.Text, nullable=False),
    sa.Column("due", sa.BigInteger, nullable=False),
    sa.Column("snapshot", sa.Text, nullable=True),
    sa.Column("prev_hash", sa.Text, nullable=False, unique=True),
    sa.Column("hash", sa.Text, nullable=False),
)
_HASHED = [column.name for column in _rows.columns if column.name != "hash"]


class LedgerFailed(RuntimeError):
    """The ledger cannot be read or written. Nothing may be done without it."""


class Entry(msgspec.Struct, kw_only=True, frozen=True):
    """What one row says. Times are microseconds of stream time."""

    time: int
    alert: str
    revision: int
    #: Action id; "" where a whole alert is meant.
    action: str
    verb: str
    target: str
    #: The accountable identities the target belongs to: protecting one of them protects the target.
    owners: list[str]
    rule: str
    step: Step
    mode: str
    #: One of ``RESULTS``; "" where the row announces a call.
    result: str
    reason: str
    #: When the containment ends, or when a failed undo is tried again; 0 = not applicable.
    due: int = 0
    #: What ``prepare`` read, for the way back.
    snapshot: dict[str, Any] | None = None


class Hold(msgspec.Struct):
    """A containment in force: the row that began it, and when it ends. ``releasing``: its undo has begun and not ended."""

    entry: Entry
    due: int
    #: Not before this time is a failed undo tried again.
    retry: int = 0
    releasing: bool = False


class History(msgspec.Struct):
    """What the rows add up to. It grows with the number of alerts, which the alert budget bounds."""

    #: Latest time of any row: time never runs back.
    now: int = 0
    #: Alert -> its latest decided revision.
    revisions: dict[str, int] = {}
    #: Action -> the latest decision on it.
    decided: dict[str, str] = {}
    #: Time and verb of what was decided to be carried out within the last hour.
    attempts: list[tuple[int, str]] = []
    #: (verb, target) -> the containment in force.
    holds: dict[tuple[str, str], Hold] = {}
    #: Action -> the latest row of one that is not at its end.
    pending: dict[str, Entry] = {}

    def add(self, entry: Entry) -> None:
        """Fold one row in."""
        self.now = max(self.now, entry.time)
        key = (entry.verb, entry.target)
        hold = self.holds.get(key)
        if entry.step == "decided":
            self._decided(entry, hold)
        elif entry.step == "intent" or entry.result in ("carried-out", "already-so"):
            self.pending[entry.action] = entry
            if entry.result == "carried-out" and entry.due:
                self.holds[key] = Hold(entry, max(entry.due, hold.due if hold else 0))
        elif entry.step in ("outcome", "verify"):
            self.pending.pop(entry.action, None)
        elif hold is not None and entry.step == "undo-intent":
            hold.releasing = True
        elif hold is not None and entry.result == "undo-failed":
            hold.releasing, hold.retry = False, entry.due
        elif entry.step == "undo-verify":
            self.holds.pop(key, None)

    def _decided(self, entry: Entry, hold: Hold | None) -> None:
        self.revisions[entry.alert] = max(entry.revision, self.revisions.get(entry.alert, entry.revision))
        if entry.action:
            self.decided[entry.action] = entry.result
        if entry.result == "enforced":
            self.pending[entry.action] = entry
            self.attempts = [(time, verb) for time, verb in self.attempts if time > entry.time - HOUR]
            self.attempts.append((entry.time, entry.verb))
        elif entry.result == "already-contained" and hold is not None:
            hold.due = max(hold.due, entry.due)


class Broken(NamedTuple):
    """Where the chain breaks first."""

    seq: int
    reason: str


class Ledger:
    """The rows in a database. In memory unless a URL names another; ``Ledger.at`` opens a file.

    Raises LedgerFailed where the database cannot be read or written, is none, or was written by a newer release.
    """

    def __init__(self, url: str | sa.URL = "sqlite://", wait_seconds: float = 5.0) -> None:
        """``wait_seconds``: how long to wait for a lock that another process holds."""
        parsed = sa.make_url(url)
        options: dict[str, Any] = {}
        if parsed.get_backend_name() == "sqlite":
            options["connect_args"] = {"timeout": wait_seconds}
            if not parsed.database:
                # An in-memory database lives in its one connection.
                options["poolclass"] = StaticPool
        self._engine = sa.create_engine(parsed, **options)
        self._head = (0, _GENESIS)
        try:
            self._open()
        except SQLAlchemyError as error:
            self.close()
            raise LedgerFailed(f"the ledger cannot be opened: {_why(error)}") from None
        except LedgerFailed:
            self.close()
            raise

    @classmethod
    def at(cls, path: Path, wait_seconds: float = 5.0) -> Self:
        """The ledger in an SQLite file, made where there is none."""
        return cls(sa.URL.create("sqlite", database=str(path)), wait_seconds)

    def _open(self) -> None:
        _metadata.create_all(self._engine)
        with self._engine.begin() as connection:
            found = connection.execute(sa.select(sa.func.max(_version.c.version))).scalar()
            if found is None:
                connection.execute(sa.insert(_version).values(version=LEDGER_VERSION))
            elif not 1 <= found <= LEDGER_VERSION:
                raise LedgerFailed(f"a ledger of version {found}; this release reads 1 to {LEDGER_VERSION}")
            head = connection.execute(sa.select(_rows.c.seq, _rows.c.hash).order_by(_rows.c.seq.desc()).limit(1)).first()
        if head is not None:
            self._head = (head.seq, head.hash)

    @cached_property
    def history(self) -> History:
        """The fold of all rows. Read when first needed: a damaged ledger can still be opened and checked. Raises LedgerFailed."""
        history = History()
        for entry in self.entries():
            history.add(entry)
        return history

    def close(self) -> None:
        """Give the database connection back."""
        self._engine.dispose()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def head(self) -> tuple[int, str]:
        """Number and hash of the last row: kept elsewhere, it shows a lost tail."""
        return self._head

    def append(self, entries: Iterable[Entry]) -> None:
        """Write rows, all or none. Raises LedgerFailed."""
        written, history = list(entries), self.history
        seq, previous = self._head
        values = []
        for entry in written:
            seq += 1
            row = _stored(entry, seq, previous)
            previous = row["hash"] = _digest(row)
            values.append(row)
        if not values:
            return
        try:
            with self._engine.begin() as connection:
                connection.execute(sa.insert(_rows), values)
        except SQLAlchemyError as error:
            raise LedgerFailed(f"the ledger cannot be written: {_why(error)}") from None
        self._head = (seq, previous)
        for entry in written:
            history.add(entry)

    def entries(self) -> Iterator[Entry]:
        """Every row, oldest first. Raises LedgerFailed."""
        for row in self._read():
            try:
                plain = {name: row[name] for name in Entry.__struct_fields__}
                plain["owners"] = msgspec.json.decode(row["owners"])
                plain["snapshot"] = None if row["snapshot"] is None else msgspec.json.decode(row["snapshot"])
                entry = msgspec.convert(plain, Entry)
            except (ValueError, TypeError) as error:
                raise LedgerFailed(f"row {row['seq']} of the ledger is damaged: {error}") from None
            yield entry

    def counts(self) -> dict[str, int]:
        """How many rows state each result, of all runs there ever were; every word of ``RESULTS`` is there."""
        found = dict.fromkeys(RESULTS, 0)
        for row in self._read():
            if row["result"] in found:
                found[row["result"]] += 1
        return found

    def verify_chain(self, anchor: tuple[int, str] | None = None) -> Broken | None:
        """The first break of the chain: an edit, a row removed or moved; None where it is whole.

        A tail cut off leaves a whole chain: give a ``head`` that was kept elsewhere as ``anchor`` to find that too.
        """
        previous, seq, anchored = _GENESIS, 0, ""
        for row in self._read():
            seq += 1
            if row["seq"] != seq:
                return Broken(seq, f"row {seq} is missing")
            if row["prev_hash"] != previous:
                return Broken(seq, f"row {seq} does not follow row {seq - 1}")
            if _digest(row) != row["hash"]:
                return Broken(seq, f"row {seq} was changed")
            previous = row["hash"]
            if anchor is not None and seq == anchor[0]:
                anchored = previous
        if anchor is not None and anchor[0] and anchored != anchor[1]:
            what = "is missing" if seq < anchor[0] else "is not the one that was anchored"
            return Broken(min(seq + 1, anchor[0]), f"row {anchor[0]} {what}")
        return None

    def _read(self) -> Iterator[dict[str, Any]]:
        try:
            with self._engine.connect() as connection:
                for row in connection.execute(sa.select(_rows).order_by(_rows.c.seq)):
                    yield dict(row._mapping)
        except SQLAlchemyError as error:
            raise LedgerFailed(f"the ledger cannot be read: {_why(error)}") from None


def _stored(entry: Entry, seq: int, previous: str) -> dict[str, Any]:
    row: dict[str, Any] = {"seq": seq, "prev_hash": previous}
    for name in Entry.__struct_fields__:
        value = getattr(entry, name)
        row[name] = _text(value) if isinstance(value, str) else value
    row["owners"] = msgspec.json.encode([_text(owner) for owner in entry.owners]).decode()
    if entry.snapshot is not None:
        row["snapshot"] = msgspec.json.encode(entry.snapshot, order="deterministic").decode()
        if len(row["snapshot"]) > _LONGEST_SNAPSHOT:
            raise LedgerFailed(f"a snapshot of {len(row['snapshot'])} characters; at most {_LONGEST_SNAPSHOT} are kept")
    return row


def _text(text: str) -> str:
    """Text as any database takes it and any terminal shows it: short, and invisible characters written out."""
    cut = text[:_LONGEST_REASON]
    if cut.isprintable():
        return cut
    return "".join(f"\\u{ord(c):04x}" if unicodedata.category(c).startswith(("C", "Z")) and c != " " else c for c in cut)


def _digest(row: dict[str, Any]) -> str:
    """Hash over the canonical bytes of a row and the hash of the row before it, which is one of its columns."""
    # Damaged rows may hold any type a database can: they must give another hash, not an error.
    canonical = msgspec.json.encode([LEDGER_VERSION, *(row[name] for name in _HASHED)], enc_hook=repr)
    return hashlib.blake2b(canonical, digest_size=32).hexdigest()


def _why(error: SQLAlchemyError) -> str:
    """The database's own words, without the statement and its values."""
    return str(getattr(error, "orig", None) or error).splitlines()[0][:300]
