"""An older ledger becomes one of this release and keeps its chain."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import msgspec
import pytest
import sqlalchemy as sa

from detector import ledger as module
from detector.ledger import LEDGER_VERSION, Ledger, LedgerFailed
from detector.migrations import migrate
from tests.test_ledger import entry


def columns(engine: sa.Engine) -> dict[str, tuple[str, bool]]:
    """Name -> type and nullability of the ledger's columns."""
    return {each["name"]: (str(each["type"]), bool(each["nullable"])) for each in sa.inspect(engine).get_columns("ledger")}


def first_release(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A ledger of three rows as release 0.1 wrote it: no revisions, no later columns, hashes over the columns there were."""
    engine = sa.create_engine(f"sqlite:///{path}")
    migrate(engine, None)
    engine.dispose()
    with Ledger.at(path) as ledger:
        monkeypatch.setattr(module, "LEDGER_VERSION", 1)
        ledger.append([entry(1), entry(2), entry(3)])
        monkeypatch.undo()
    with sqlite3.connect(path) as database:
        for name in ("version", "person", "again", "facts"):
            database.execute(f"ALTER TABLE ledger DROP COLUMN {name}")
        database.execute("UPDATE ledger_version SET version = 1")
        database.execute("DROP TABLE alembic_version")
    database.close()


def test_a_ledger_made_by_the_revisions_has_the_tables_of_one_made_at_once(tmp_path: Path) -> None:
    made = sa.create_engine(f"sqlite:///{tmp_path / 'made'}")
    module.METADATA.create_all(made)
    migrated = sa.create_engine(f"sqlite:///{tmp_path / 'migrated'}")
    migrate(migrated, None)
    assert columns(made) == columns(migrated)
    made.dispose()
    migrated.dispose()


def test_a_ledger_of_the_first_release_is_brought_up_to_date_and_stays_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "ledger"
    first_release(path, monkeypatch)
    with Ledger.at(path) as ledger:
        assert ledger.verify_chain() is None
        assert [each.action for each in ledger.entries()] == ["action-1", "action-2", "action-3"]
        ledger.append([entry(4, person="user:ann")])
        assert ledger.verify_chain() is None
    with sqlite3.connect(path) as database:
        assert database.execute("SELECT version FROM ledger_version").fetchone() == (LEDGER_VERSION,)
        database.execute("UPDATE ledger SET reason = 'x' WHERE seq = 2")
    database.close()
    with Ledger.at(path) as ledger:
        assert ledger.verify_chain() == (2, "row 2 was changed")


def test_an_old_row_cannot_be_given_what_it_did_not_have(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "ledger"
    first_release(path, monkeypatch)
    with Ledger.at(path) as ledger:
        ledger.append([entry(4)])
    with sqlite3.connect(path) as database:
        database.execute("UPDATE ledger SET version = 1 WHERE seq = 4")
    database.close()
    with Ledger.at(path) as ledger:
        assert ledger.verify_chain() == (4, "row 4 was changed")


def test_no_import_path_stands_in_a_ledger(tmp_path: Path) -> None:
    with Ledger.at(tmp_path / "ledger") as ledger:
        ledger.append([entry(1, facts=None, snapshot={"a": 1})])
    stored = (tmp_path / "ledger").read_bytes()
    assert b"detector." not in stored
    assert b"alembic.operations" not in stored
    assert msgspec.json.encode("detector.ledger")[1:-1] not in stored


@pytest.mark.parametrize("change", ["person = 'user:ann'", "again = 5", "facts = '{}'"])
def test_what_was_put_into_an_old_row_afterwards_is_found_and_not_acted_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    path = tmp_path / "ledger"
    first_release(path, monkeypatch)
    Ledger.at(path).close()
    with sqlite3.connect(path) as database:
        database.execute(f"UPDATE ledger SET {change} WHERE seq = 2")  # noqa: S608  the changes are ours
    database.close()
    with Ledger.at(path) as ledger:
        assert ledger.verify_chain() == (2, "row 2 was changed")
        with pytest.raises(LedgerFailed, match="row 2 of the ledger is damaged"):
            list(ledger.entries())
