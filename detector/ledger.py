"""The ledger: one append-only, hash-chained row for every step of every decision, decisions not to act included.

What has been done and what is left to do follows from the rows alone (``detector.history``). A row is written before the step it
announces; what cannot be written is not done. One process writes (``Ledger.claim``); a second one that did not ask fails instead of
forking the chain.
"""

from __future__ import annotations

import hashlib
import os
import unicodedata
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple, Self

import msgspec
import sqlalchemy as sa
from sqlalchemy.exc import OperationalError, SQLAlchemyError
from sqlalchemy.pool import StaticPool

from detector.claim import LedgerAway, LedgerFailed, claimed_file, claimed_session, failed, released
from detector.history import RESULTS, Entry, Facts, History, Hold

__all__ = ["LEDGER_VERSION", "RESULTS", "Broken", "Entry", "Facts", "History", "Hold", "Ledger", "LedgerAway", "LedgerFailed"]

#: Version of the tables and of the bytes that are hashed. A reader refuses a newer one, and brings an older one up to date.
LEDGER_VERSION = 2

#: Longest reason and snapshot kept, in characters: a hostile target must not fill the disk.
_LONGEST_REASON = 1_000
_LONGEST_SNAPSHOT = 1 << 20
#: Longest name kept as it is, in characters: an identity has at most 512 bytes.
_LONGEST_NAME = 4_096
#: Rows read at a time: whoever reads holds no lock while they make something of them.
_PAGE = 200
#: Columns that other rows and the policy are compared with: kept to the letter, and made visible only where they are shown.
_NAMES = frozenset({"alert", "action", "verb", "target", "rule", "person"})
#: What a row of the first version does not have.
_LATER = {"person": "", "again": 0, "facts": None}
#: What comes before the first row.
_GENESIS = "0" * 64

METADATA = sa.MetaData()
_version = sa.Table("ledger_version", METADATA, sa.Column("version", sa.Integer, primary_key=True))
_rows = sa.Table(
    "ledger",
    METADATA,
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
    # Since version 2.
    sa.Column("version", sa.Integer, nullable=False, server_default="1"),
    sa.Column("person", sa.Text, nullable=False, server_default=""),
    sa.Column("again", sa.BigInteger, nullable=False, server_default="0"),
    sa.Column("facts", sa.Text, nullable=True),
)
#: Columns that are hashed, by the version of the row.
_HASHED = {
    version: [column.name for column in _rows.columns if column.name != "hash" and (version > 1 or column.name not in later)]
    for version, later in ((1, {"version", *_LATER}), (2, set()))
}


class Broken(NamedTuple):
    """Where the chain breaks first."""

    seq: int
    reason: str


class Ledger:
    """The rows in a database. In memory unless a URL names another; ``Ledger.at`` opens a file.

    Raises LedgerFailed where the database cannot be read or written, is none, or was written by a newer release.
    """

    def __init__(self, url: str | sa.URL = "sqlite://", wait_seconds: float = 5.0, *, create: bool = True) -> None:
        """``wait_seconds``: how long to wait for a lock that another process holds. ``create``: make it where there is none."""
        self._head = (0, _GENESIS)
        self._memory = False
        self._lock = -1
        self._holding: sa.Connection | None = None
        try:
            self._engine = sa.create_engine(sa.make_url(url), **self._options(sa.make_url(url), wait_seconds, create))
        except (SQLAlchemyError, ImportError) as error:
            raise LedgerFailed(f"the ledger cannot be opened: {str(error).splitlines()[0]}") from None
        try:
            self._open(create)
        except SQLAlchemyError as error:
            self.close()
            raise failed("opened", error) from None
        except LedgerFailed:
            self.close()
            raise

    @classmethod
    def at(cls, path: Path, wait_seconds: float = 5.0, *, create: bool = True) -> Self:
        """The ledger in an SQLite file."""
        return cls(sa.URL.create("sqlite", database=str(path)), wait_seconds, create=create)

    def _options(self, url: sa.URL, wait_seconds: float, create: bool) -> dict[str, Any]:
        if url.get_backend_name() == "postgresql":
            # A row that the server says it has must outlive the server, whatever its own settings: the call comes after it.
            wait = "-c synchronous_commit=on "
            wait += f"-c lock_timeout={int(wait_seconds * 1000)} -c statement_timeout={int(wait_seconds * 4000)} "
            # A claim ends within a minute where the machine that holds it is gone without a word.
            wait += "-c tcp_keepalives_idle=20 -c tcp_keepalives_interval=10 -c tcp_keepalives_count=3"
            # A connection that was lost meanwhile is noticed before it is used, not by the row it swallows.
            return {"connect_args": {"connect_timeout": max(2, int(wait_seconds)), "options": wait}, "pool_pre_ping": True}
        if url.database and not create and not Path(url.database).exists():
            raise LedgerFailed(f"the ledger cannot be opened: no file {url.database}")
        if not url.database:
            # An in-memory database lives in its one connection, which whoever serves may use from a thread of theirs, one at a time.
            self._memory = True
            return {"connect_args": {"timeout": wait_seconds, "check_same_thread": False}, "poolclass": StaticPool}
        return {"connect_args": {"timeout": wait_seconds}}

    def _open(self, create: bool) -> None:
        if self._memory:
            METADATA.create_all(self._engine)
        with self._engine.connect() as connection:
            found = _version_of(connection)
        if found is not None and not 1 <= found <= LEDGER_VERSION:
            raise LedgerFailed(f"a ledger of version {found}; this release reads 1 to {LEDGER_VERSION}")
        if not self._memory and found != LEDGER_VERSION:
            if found is None and not create:
                raise LedgerFailed("the ledger cannot be opened: there is none in this database")
            # Takes long to import, and is needed once in the life of a ledger.
            from detector.migrations import migrate

            migrate(self._engine, found)
        if create and not self._memory and self._engine.dialect.name == "sqlite":
            # Whoever reads does not keep the writer out. Where the file system cannot do it, it stays as it was.
            with self._engine.connect() as connection, suppress(OperationalError):
                connection.exec_driver_sql("PRAGMA journal_mode = WAL")
        self._read_head()

    def _read_head(self) -> None:
        with self._engine.connect() as connection:
            head = connection.execute(sa.select(_rows.c.seq, _rows.c.hash).order_by(_rows.c.seq.desc()).limit(1)).first()
        self._head = (0, _GENESIS) if head is None else (head.seq, head.hash)

    def claim(self) -> None:
        """Become the one who writes, until it is closed. Raises LedgerAway while another is, LedgerFailed, ValueError where it would
        not outlive the process."""
        try:
            if self._engine.dialect.name == "sqlite":
                self._lock = claimed_file(self._engine)
            elif self._engine.dialect.name == "postgresql":
                # The rows are written through the very connection that holds the claim: where it is lost, nothing is written.
                self._holding = claimed_session(self._engine)
            # Another may have written since it was opened.
            self.__dict__.pop("history", None)
            self._read_head()
        except SQLAlchemyError as error:
            raise failed("claimed", error) from None

    @cached_property
    def history(self) -> History:
        """The fold of all rows. Read when first needed: a damaged ledger can still be opened and checked. Raises LedgerFailed."""
        history = History()
        for entry in self.entries():
            history.add(entry)
        return history

    def close(self) -> None:
        """Give the database connection, and the claim, back."""
        if self._holding is not None:
            with suppress(SQLAlchemyError):
                released(self._holding)
            self._holding = None
        self._engine.dispose()
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1

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
            with self._writing() as connection:
                connection.execute(sa.insert(_rows), values)
        except SQLAlchemyError as error:
            raise failed("written", error) from None
        self._head = (seq, previous)
        for row in values:
            # What is remembered is what was stored: a restart reads nothing else.
            history.add(_entry(row))

    def _writing(self) -> AbstractContextManager[sa.Connection]:
        return self._engine.begin() if self._holding is None else _transaction(self._holding)

    def entries(self) -> Iterator[Entry]:
        """Every row, oldest first. Raises LedgerFailed."""
        return (entry for entry, _ in self.hashed())

    def hashed(self) -> Iterator[tuple[Entry, str]]:
        """Every row with its hash, oldest first. Raises LedgerFailed."""
        for row in self._read():
            yield _entry(row), str(row["hash"])

    def counts(self) -> dict[str, int]:
        """How many rows state each result, of all runs there ever were; every word of ``RESULTS`` is there."""
        found = dict.fromkeys(RESULTS, 0)
        for row in self._read():
            if row["result"] in found:
                found[row["result"]] += 1
        return found

    def verify_chain(self, *anchors: tuple[int, str]) -> Broken | None:
        """The first break of the chain: an edit, a row removed or moved; None where it is whole.

        A tail cut off, or a chain written anew, is a whole chain: give every ``head`` that was kept elsewhere to find that too.
        """
        previous, seq = _GENESIS, 0
        kept = dict(anchors)
        for row in self._read():
            seq += 1
            if row["seq"] != seq:
                return Broken(seq, f"row {seq} is missing")
            if row["prev_hash"] != previous:
                return Broken(seq, f"row {seq} does not follow row {seq - 1}")
            if _digest(row) != row["hash"] or _embellished(row):
                return Broken(seq, f"row {seq} was changed")
            previous = row["hash"]
            if kept.pop(seq, previous) != previous:
                return Broken(seq, f"row {seq} is not the one that was anchored")
        missing = min((each for each in kept if each > 0), default=0)
        return Broken(min(seq + 1, missing), f"row {missing} is missing") if missing else None

    def _read(self) -> Iterator[dict[str, Any]]:
        query, page = sa.select(_rows).order_by(_rows.c.seq).limit(_PAGE), [{"seq": None}] * _PAGE
        while len(page) == _PAGE:
            after = page[-1]["seq"]
            try:
                with self._engine.connect() as connection:
                    found = connection.execute(query if after is None else query.where(_rows.c.seq > after))
                    page = [dict(row._mapping) for row in found]
            except SQLAlchemyError as error:
                raise failed("read", error) from None
            yield from page


@contextmanager
def _transaction(connection: sa.Connection) -> Iterator[sa.Connection]:
    if connection.invalidated:
        # It would connect anew, and the new session holds nothing.
        raise LedgerAway("the ledger cannot be written: the session that held the claim was lost")
    with connection.begin():
        yield connection


def _version_of(connection: sa.Connection) -> int | None:
    """Version of the ledger that is there; None where there is none."""
    if not sa.inspect(connection).has_table("ledger_version"):
        return None
    found = connection.execute(sa.select(sa.func.max(_version.c.version))).scalar()
    return None if found is None else int(found)


def _stored(entry: Entry, seq: int, previous: str) -> dict[str, Any]:
    row: dict[str, Any] = {"seq": seq, "prev_hash": previous, "version": LEDGER_VERSION}
    for name in Entry.__struct_fields__:
        value = getattr(entry, name)
        row[name] = _name(value) if name in _NAMES else _text(value) if isinstance(value, str) else value
    row["owners"] = msgspec.json.encode([_name(owner) for owner in entry.owners]).decode()
    row["facts"] = None if entry.facts is None else msgspec.json.encode(entry.facts).decode()
    if entry.snapshot is not None:
        row["snapshot"] = msgspec.json.encode(entry.snapshot, order="deterministic").decode()
        if len(row["snapshot"]) > _LONGEST_SNAPSHOT:
            raise LedgerFailed(f"a snapshot of {len(row['snapshot'])} characters; at most {_LONGEST_SNAPSHOT} are kept")
    return row


def _entry(row: dict[str, Any]) -> Entry:
    """What a row says. Raises LedgerFailed where it is damaged."""
    try:
        plain = {name: row[name] for name in Entry.__struct_fields__}
        plain["owners"] = msgspec.json.decode(row["owners"])
        for name in ("snapshot", "facts"):
            plain[name] = None if row[name] is None else msgspec.json.decode(row[name])
        entry = msgspec.convert(plain, Entry)
    except (ValueError, TypeError) as error:
        raise LedgerFailed(f"row {row['seq']} of the ledger is damaged: {error}") from None
    if _embellished(row):
        raise LedgerFailed(f"row {row['seq']} of the ledger is damaged: it says what rows of its version did not")
    return entry


def _embellished(row: dict[str, Any]) -> bool:
    """Whether an old row holds what was not hashed then."""
    return row["version"] == 1 and any(row[name] != value for name, value in _LATER.items())


def _name(text: str) -> str:
    """A name to the letter, wherever a database can hold it: a name that changed on its way would be another's."""
    odd = len(text) > _LONGEST_NAME or "\x00" in text or any("\ud800" <= c <= "\udfff" for c in text)
    return _text(text) if odd else text


def _text(text: str) -> str:
    """Text as any database takes it and any terminal shows it: short, and invisible characters written out."""
    cut = text[:_LONGEST_REASON]
    if cut.isprintable():
        return cut
    return "".join(f"\\u{ord(c):04x}" if unicodedata.category(c).startswith(("C", "Z")) and c != " " else c for c in cut)


def _digest(row: dict[str, Any]) -> str:
    """Hash over the canonical bytes of a row and the hash of the row before it, which is one of its columns."""
    # Damaged rows may hold any type a database can: they must give another hash, not an error.
    version = row["version"] if row["version"] in _HASHED else LEDGER_VERSION
    canonical = msgspec.json.encode([version, *(row[name] for name in _HASHED[version])], enc_hook=repr)
    return hashlib.blake2b(canonical, digest_size=32).hexdigest()
