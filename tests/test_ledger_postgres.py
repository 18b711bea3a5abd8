"""The ledger in a real PostgreSQL: the same promises as in SQLite, and what only a server can do: go away."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import sqlalchemy as sa

from connectors.containment import Action, Applied
from connectors.containment.lab import Lab
from detector.ledger import LEDGER_VERSION, Ledger, LedgerAway, LedgerFailed
from detector.respond import Responder
from tests.alerts import made_alert
from tests.servers import Postgres, postgres, postgres_url
from tests.test_ledger import entry
from tests.test_respond import lab, table

__all__ = ["postgres", "postgres_url"]

pytestmark = pytest.mark.containment


@pytest.fixture
def database(postgres_url: str) -> Iterator[sa.Connection]:
    """The same database as somebody with write access sees it; six rows are in the ledger."""
    with Ledger(postgres_url) as ledger:
        for i in range(1, 7):
            ledger.append([entry(i)])
    engine = sa.create_engine(postgres_url, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        yield connection
    engine.dispose()


def test_rows_come_back_and_the_chain_goes_on_after_a_restart(postgres_url: str) -> None:
    hostile = entry(2, reason="a\x00b‮", snapshot={"k": "a\x00"}, person="user:ann")
    with Ledger(postgres_url) as ledger:
        ledger.append([entry(1), hostile])
        head, history = ledger.head, ledger.history
    with Ledger(postgres_url) as ledger:
        assert (ledger.head, ledger.history) == (head, history)
        ledger.append([entry(3)])
        assert ledger.verify_chain() is None
        assert [each.action for each in ledger.entries()] == ["action-1", "action-2", "action-3"]


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ("UPDATE ledger SET reason = 'x' WHERE seq = 3", "row 3 was changed"),
        ("DELETE FROM ledger WHERE seq = 3", "row 3 is missing"),
        ("DELETE FROM ledger WHERE seq > 4", "row 6 is missing"),
    ],
)
def test_edits_removals_and_a_lost_tail_are_found(postgres_url: str, database: sa.Connection, change: str, why: str) -> None:
    with Ledger(postgres_url) as ledger:
        head = ledger.head
    database.execute(sa.text(change))
    with Ledger(postgres_url) as ledger:
        broken = ledger.verify_chain(head)
    assert broken is not None
    assert broken.reason == why


def test_a_second_writer_fails_instead_of_forking_the_chain(postgres_url: str) -> None:
    with Ledger(postgres_url) as ours, Ledger(postgres_url) as theirs:
        ours.append([entry(1)])
        with pytest.raises(LedgerFailed, match="cannot be written"):
            theirs.append([entry(2)])
        assert ours.verify_chain() is None


def test_a_newer_ledger_is_refused_and_none_is_made_for_a_reader(postgres_url: str) -> None:
    with pytest.raises(LedgerFailed, match="there is none"):
        Ledger(postgres_url, create=False)
    with Ledger(postgres_url):
        pass
    engine = sa.create_engine(postgres_url)
    with engine.begin() as connection:
        connection.execute(sa.text("UPDATE ledger_version SET version = version + 1"))
    engine.dispose()
    with pytest.raises(LedgerFailed, match=f"version {LEDGER_VERSION + 1}"):
        Ledger(postgres_url)


class Untouchable(Lab):
    """Fails the test where anything but a look reaches the target."""

    def apply(self, action: Action) -> Applied:
        raise AssertionError("acted without a ledger row")


def test_a_locked_table_lets_nothing_happen(postgres_url: str, database: sa.Connection) -> None:
    world = Untouchable(lab().settings)
    before = world.target.dump()
    with Ledger(postgres_url) as ledger:
        responder = Responder(table("isolate_pod"), [world], ledger)
        locker = database.engine.connect().execution_options(isolation_level="READ COMMITTED")
        with locker, locker.begin():
            locker.execute(sa.text("LOCK TABLE ledger IN ACCESS EXCLUSIVE MODE"))
            with pytest.raises(LedgerFailed, match="the ledger cannot be"):
                responder.handle(made_alert())
    assert world.target.dump() == before


def test_a_database_that_goes_away_lets_nothing_happen_and_nothing_is_lost(postgres: Postgres, postgres_url: str) -> None:
    world = Untouchable(lab().settings)
    before = world.target.dump()
    with Ledger(postgres_url) as ledger:
        responder = Responder(table("isolate_pod"), [world], ledger)
        ledger.append([entry(1)])
        postgres.stop()
        try:
            with pytest.raises(LedgerFailed):
                responder.handle(made_alert(uid="alert-9"))
        finally:
            postgres.start()
    assert world.target.dump() == before
    real = lab()
    with Ledger(postgres_url) as ledger:
        assert ledger.head[0] == 1
        outcomes = Responder(table("isolate_pod"), [real], ledger).handle(made_alert(uid="alert-9"))
        assert [each.result for each in outcomes] == ["verified"]
        assert ledger.verify_chain() is None


def test_one_responder_to_a_ledger_and_the_next_when_it_has_ended(postgres_url: str) -> None:
    with Ledger(postgres_url) as ours, Ledger(postgres_url) as theirs:
        ours.claim()
        ours.append([entry(1)])
        with pytest.raises(LedgerAway, match="another responder uses this ledger"):
            theirs.claim()
        ours.close()
        theirs.claim()
        theirs.append([entry(2)])
        assert theirs.verify_chain() is None


def test_a_claim_that_was_lost_with_its_session_writes_nothing_more(postgres: Postgres, postgres_url: str) -> None:
    with Ledger(postgres_url) as ours:
        ours.claim()
        ours.append([entry(1)])
        postgres.stop()
        postgres.start()
        with pytest.raises(LedgerAway):
            ours.append([entry(2)])
        with Ledger(postgres_url) as theirs:
            theirs.claim()
            with pytest.raises(LedgerFailed):
                ours.append([entry(2)])
            assert theirs.head[0] == 1
