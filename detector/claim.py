"""Who may write a ledger, and which refusals of its database pass by themselves."""

from __future__ import annotations

import fcntl
import os
import sqlite3

import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError, SQLAlchemyError

#: What passes by itself, of SQLite's primary error codes; there is none for a file that cannot be opened when one begins.
_PASSING = frozenset(
    {
        sqlite3.SQLITE_BUSY,
        sqlite3.SQLITE_LOCKED,
        sqlite3.SQLITE_NOMEM,
        sqlite3.SQLITE_READONLY,
        sqlite3.SQLITE_INTERRUPT,
        sqlite3.SQLITE_IOERR,
        sqlite3.SQLITE_FULL,
        sqlite3.SQLITE_CANTOPEN,
        sqlite3.SQLITE_PROTOCOL,
    }
)
#: Held while somebody writes: by the number of the table, so that two ledgers in one database do not meet.
_CLAIM = "SELECT pg_try_advisory_lock((1953460082::bigint << 32) | 'ledger'::regclass::oid::bigint)"
_TAKEN = "another responder uses this ledger; there is one to a ledger"


class LedgerFailed(RuntimeError):
    """The ledger cannot be read or written. Nothing may be done without it."""


class LedgerAway(LedgerFailed):
    """It cannot be read or written at the moment: unreachable, locked, full, or another's. Nothing is damaged; later it may work."""


def claimed_file(engine: sa.Engine) -> int:
    """Lock the file beside an SQLite ledger; the open handle holds the lock. Raises LedgerAway while another has it, LedgerFailed,
    SQLAlchemyError, ValueError where the ledger would not outlive the process."""
    with engine.connect() as connection:
        path = next((row[2] for row in connection.exec_driver_sql("PRAGMA database_list") if row[1] == "main"), "")
    if not path:
        raise ValueError("respond.ledger.url: expected a ledger that outlives the process; this one is in memory")
    try:
        handle = os.open(f"{path}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise LedgerFailed(f"the ledger cannot be claimed: {path}.lock: {error.strerror}") from None
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(handle)
        if isinstance(error, BlockingIOError):
            raise LedgerAway(_TAKEN) from None
        raise LedgerFailed(f"the ledger cannot be claimed: {path}.lock: {error.strerror}") from None
    return handle


def claimed_session(engine: sa.Engine) -> sa.Connection:
    """A session of PostgreSQL's that holds the claim: what is written through it is written by whoever has it. Raises LedgerAway
    while another has it, SQLAlchemyError."""
    connection = engine.connect()
    mine = connection.execute(sa.text(_CLAIM)).scalar()
    connection.commit()
    if not mine:
        connection.close()
        raise LedgerAway(_TAKEN)
    return connection


def released(session: sa.Connection) -> None:
    """Give a session's claim back. Raises SQLAlchemyError where it was lost before."""
    try:
        if not session.invalidated:
            session.execute(sa.text("SELECT pg_advisory_unlock_all()"))
            session.commit()
    finally:
        # Not into the pool.
        session.invalidate()
        session.close()


def failed(done: str, error: SQLAlchemyError) -> LedgerFailed:
    """What the database's refusal means. ``done``: what could not be (opened, claimed, read, written)."""
    kind = LedgerAway if _passes(error, opening=done == "opened") else LedgerFailed
    return kind(f"the ledger cannot be {done}: {_why(error)}")


def _passes(error: SQLAlchemyError, *, opening: bool) -> bool:
    """Whether the same may work later, with nobody repairing anything."""
    origin = error.orig if isinstance(error, DBAPIError) else None
    if isinstance(origin, sqlite3.Error):
        code = getattr(origin, "sqlite_errorcode", 0) & 0xFF
        return code in _PASSING and not (opening and code == sqlite3.SQLITE_CANTOPEN)
    # 25006: the server has become one that only reads, as in the middle of a takeover.
    return isinstance(error, (OperationalError, InterfaceError, sa.exc.TimeoutError)) or getattr(origin, "sqlstate", "") == "25006"


def _why(error: SQLAlchemyError) -> str:
    """The database's own words, without the statement and its values."""
    return str(getattr(error, "orig", None) or error).splitlines()[0][:300]
