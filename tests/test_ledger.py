"""The ledger: what was written stays as it was written, or shows that it did not."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from detector.ledger import LEDGER_VERSION, RESULTS, Entry, History, Ledger, LedgerAway, LedgerFailed


def entry(i: int = 1, **changes: Any) -> Entry:
    values: dict[str, Any] = {
        "time": 1_000_000 * i,
        "alert": f"alert-{i}",
        "revision": 1,
        "action": f"action-{i}",
        "verb": "isolate_pod",
        "target": f"pod:a/p{i}",
        "owners": ["user:alice"],
        "rule": "r",
        "step": "decided",
        "mode": "observe",
        "result": "observed",
        "reason": "mode is observe",
    }
    return Entry(**(values | changes))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A ledger file of six rows, closed."""
    file = tmp_path / "ledger.sqlite"
    with Ledger.at(file) as ledger:
        for i in range(1, 7):
            ledger.append([entry(i)])
    return file


@pytest.fixture
def database(path: Path) -> Iterator[sqlite3.Connection]:
    """The same file as somebody with write access sees it."""
    connection = sqlite3.connect(path, isolation_level=None)
    yield connection
    connection.close()


def test_rows_come_back_as_they_were_written() -> None:
    whole = entry(
        1, step="intent", result="", due=99, snapshot={"uid": "u1", "label": None, "live": ["a", "b"]}, owners=["user:a", "sa:b/c"]
    )
    with Ledger() as ledger:
        ledger.append([entry(2), whole])
        assert list(ledger.entries()) == [entry(2), whole]
        assert ledger.verify_chain() is None


def test_a_ledger_goes_on_where_it_ended_and_remembers_the_same(path: Path) -> None:
    with Ledger.at(path) as first:
        first.append([entry(7, result="enforced", step="decided")])
        head, history = first.head, first.history
    with Ledger.at(path) as second:
        assert (second.head, second.history) == (head, history)
        second.append([entry(8)])
        assert second.head[0] == 8
        assert second.verify_chain() is None


def test_the_same_rows_give_the_same_hashes_and_other_rows_others(tmp_path: Path) -> None:
    heads = []
    for i, last in enumerate((entry(2), entry(2), entry(2, reason="because"))):
        with Ledger.at(tmp_path / f"{i}.sqlite") as ledger:
            ledger.append([entry(1), last])
            heads.append(ledger.head)
    assert heads[0] == heads[1] != heads[2]


@pytest.mark.parametrize("column", [*Entry.__struct_fields__, "prev_hash", "hash"])
def test_an_edit_of_any_column_breaks_the_chain(path: Path, database: sqlite3.Connection, column: str) -> None:
    database.execute(f"UPDATE ledger SET {column} = '77' WHERE seq = 3")  # noqa: S608  the column names are ours
    with Ledger.at(path) as ledger:
        broken = ledger.verify_chain()
    assert broken is not None
    assert broken.seq in (3, 4)


def test_a_changed_row_is_named(path: Path, database: sqlite3.Connection) -> None:
    database.execute("UPDATE ledger SET reason = 'mode is enforce' WHERE seq = 3")
    with Ledger.at(path) as ledger:
        assert ledger.verify_chain() == (3, "row 3 was changed")


def test_a_row_removed_in_the_middle_is_found(path: Path, database: sqlite3.Connection) -> None:
    database.execute("DELETE FROM ledger WHERE seq = 3")
    with Ledger.at(path) as ledger:
        assert ledger.verify_chain() == (3, "row 3 is missing")


def test_a_row_removed_and_the_rest_renumbered_is_found(path: Path, database: sqlite3.Connection) -> None:
    database.execute("DELETE FROM ledger WHERE seq = 3")
    database.execute("UPDATE ledger SET seq = seq - 1 WHERE seq > 3")
    with Ledger.at(path) as ledger:
        assert ledger.verify_chain() == (3, "row 3 does not follow row 2")


def test_rows_that_changed_places_are_found(path: Path, database: sqlite3.Connection) -> None:
    for old, new in ((3, 99), (4, 3), (99, 4)):
        database.execute("UPDATE ledger SET seq = ? WHERE seq = ?", (new, old))
    with Ledger.at(path) as ledger:
        assert ledger.verify_chain() == (3, "row 3 does not follow row 2")


def test_a_lost_tail_is_found_against_a_head_kept_elsewhere(path: Path, database: sqlite3.Connection) -> None:
    with Ledger.at(path) as ledger:
        anchor = ledger.head
        assert ledger.verify_chain(anchor) is None
        assert ledger.verify_chain((4, "another")) == (4, "row 4 is not the one that was anchored")
    database.execute("DELETE FROM ledger WHERE seq > 4")
    with Ledger.at(path) as ledger:
        assert ledger.verify_chain() is None
        assert ledger.verify_chain(anchor) == (5, "row 6 is missing")


def test_values_of_a_wrong_type_are_a_break_not_a_traceback(path: Path, database: sqlite3.Connection) -> None:
    for column, value in (("reason", b"\xff\x00"), ("time", "soon"), ("due", 1e300), ("snapshot", 7)):
        database.execute(f"UPDATE ledger SET {column} = ? WHERE seq = 2", (value,))  # noqa: S608  the column names are ours
        with Ledger.at(path) as ledger:
            broken = ledger.verify_chain()
            assert broken is not None
            assert broken.seq == 2


def test_a_damaged_row_is_refused_by_name_where_it_is_acted_on(path: Path, database: sqlite3.Connection) -> None:
    database.execute("UPDATE ledger SET owners = 'not json' WHERE seq = 2")
    with Ledger.at(path) as ledger:
        with pytest.raises(LedgerFailed, match="row 2 of the ledger is damaged"):
            ledger.append([entry(9)])
        assert ledger.head[0] == 6


def test_a_second_writer_fails_instead_of_forking_the_chain(path: Path) -> None:
    with Ledger.at(path) as ours, Ledger.at(path) as theirs:
        ours.append([entry(7)])
        with pytest.raises(LedgerFailed, match="cannot be written"):
            theirs.append([entry(8)])
        assert "action-8" not in theirs.history.decided
        assert ours.verify_chain() is None


def test_rows_are_written_all_or_none(path: Path, database: sqlite3.Connection) -> None:
    database.execute("CREATE TRIGGER no BEFORE INSERT ON ledger WHEN NEW.seq = 8 BEGIN SELECT RAISE(ABORT, 'no room'); END")
    with Ledger.at(path) as ledger:
        with pytest.raises(LedgerFailed, match="no room"):
            ledger.append([entry(7), entry(8)])
        assert ledger.head[0] == 6
        assert len(list(ledger.entries())) == 6


def test_a_locked_ledger_cannot_be_written(path: Path, database: sqlite3.Connection) -> None:
    with Ledger.at(path, wait_seconds=0.05) as ledger:
        database.execute("BEGIN EXCLUSIVE")
        with pytest.raises(LedgerFailed, match="locked"):
            ledger.append([entry(7)])


def test_what_is_no_ledger_is_refused_with_a_sentence(tmp_path: Path) -> None:
    text = tmp_path / "text"
    text.write_text("this is no database, but it is long enough to be taken for one" * 20)
    with pytest.raises(LedgerFailed, match="not a database"):
        Ledger.at(text)
    with pytest.raises(LedgerFailed, match="cannot be opened"):
        Ledger.at(tmp_path)
    with pytest.raises(LedgerFailed, match="cannot be opened"):
        Ledger.at(tmp_path / "no-such-folder" / "ledger")


def test_a_ledger_of_a_newer_release_is_refused(path: Path, database: sqlite3.Connection) -> None:
    database.execute("UPDATE ledger_version SET version = ?", (LEDGER_VERSION + 1,))
    with pytest.raises(LedgerFailed, match=f"version {LEDGER_VERSION + 1}; this release reads 1 to {LEDGER_VERSION}"):
        Ledger.at(path)


def test_hostile_text_is_stored_short_and_visible() -> None:
    hostile = "a\x00b\n\u202e\ud800" + "x" * 5_000
    with Ledger() as ledger:
        ledger.append([entry(1, reason=hostile, owners=[hostile], snapshot={"k": "a\x00\u202e"})])
        (stored,) = ledger.entries()
        assert stored.reason.startswith("a\\u0000b\\u000a\\u202e\\ud800xxx")
        assert stored.reason.isprintable()
        assert len(stored.reason) < 2_000
        assert stored.owners == [stored.reason]
        assert stored.snapshot == {"k": "a\x00\u202e"}
        assert ledger.verify_chain() is None


def test_a_snapshot_that_would_fill_the_disk_is_refused() -> None:
    with Ledger() as ledger:
        with pytest.raises(LedgerFailed, match="snapshot"):
            ledger.append([entry(1, snapshot={"k": "x" * (2 << 20)})])
        assert ledger.head[0] == 0


def test_counts_name_every_result_there_can_be() -> None:
    with Ledger() as ledger:
        assert ledger.counts() == dict.fromkeys(RESULTS, 0)
        ledger.append([entry(1), entry(2), entry(3, result="none")])
        assert ledger.counts() == dict.fromkeys(RESULTS, 0) | {"observed": 2, "none": 1}


def test_history_follows_an_action_from_decision_to_its_end() -> None:
    history = History()
    key = ("isolate_pod", "pod:a/p1")
    history.add(entry(1, result="enforced", due=500))
    assert (list(history.pending), history.holds, history.decided) == (["action-1"], {}, {"action-1": "enforced"})
    history.add(entry(1, step="intent", result="", due=500))
    history.add(entry(1, step="outcome", result="carried-out", due=500))
    assert (list(history.pending), history.holds[key].due) == (["action-1"], 500)
    history.add(entry(1, step="verify", result="unverified", due=500))
    assert (history.pending, history.holds[key].releasing) == ({}, False)
    history.add(entry(1, action="action-2", alert="alert-2", result="already-contained", due=900))
    assert history.holds[key].due == 900
    history.add(entry(1, step="undo-intent", result=""))
    assert history.holds[key].releasing
    history.add(entry(1, step="undo", result="undo-failed", due=1_200))
    assert (history.holds[key].releasing, history.holds[key].retry) == (False, 1_200)
    history.add(entry(1, step="undo", result="undone"))
    assert key in history.holds
    history.add(entry(1, step="undo-verify", result="undo-verified"))
    assert history.holds == {}


# One writer, and readers who are in nobody's way.


def test_one_responder_to_a_ledger_and_the_next_when_it_has_ended(path: Path) -> None:
    with Ledger.at(path) as ours, Ledger.at(path) as theirs:
        ours.claim()
        ours.append([entry(7)])
        with pytest.raises(LedgerAway, match="another responder uses this ledger"):
            theirs.claim()
        ours.close()
        theirs.claim()
        theirs.append([entry(8)])
        assert theirs.head[0] == 8, "it goes on after the rows that were written since it was opened"
        assert theirs.verify_chain() is None


@pytest.mark.parametrize("url", ["sqlite://", "sqlite:///:memory:", "sqlite:///file::memory:?uri=true"])
def test_a_ledger_in_memory_is_no_responders(url: str) -> None:
    with Ledger(url) as ledger, pytest.raises(ValueError, match="outlives the process"):
        ledger.claim()


def test_somebody_who_reads_slowly_keeps_nobody_from_writing(path: Path) -> None:
    with Ledger.at(path) as ledger:
        ledger.append([entry(i) for i in range(7, 500)])
    with Ledger.at(path, create=False) as reader, Ledger.at(path, wait_seconds=0.05) as writer:
        slow = reader.hashed()
        next(slow)
        writer.append([entry(500)])
        assert sum(1 for _ in slow) == 499


def test_a_ledger_that_is_only_away_is_told_from_one_that_is_damaged(path: Path, database: sqlite3.Connection) -> None:
    with Ledger.at(path, wait_seconds=0.05) as ledger:
        database.execute("BEGIN EXCLUSIVE")
        with pytest.raises(LedgerAway, match="locked"):
            ledger.append([entry(7)])
        database.execute("ROLLBACK")
        database.execute("DROP TABLE ledger")
        with pytest.raises(LedgerFailed) as failed:
            ledger.append([entry(7)])
    assert not isinstance(failed.value, LedgerAway)


@pytest.mark.parametrize("name", ["user:eve\u00a0x", "user:eve\u0378", "user:eve\u2003x", "pod:a/\\u00a0"])
def test_a_name_with_odd_characters_is_the_same_after_a_restart(tmp_path: Path, name: str) -> None:
    whole = entry(1, target=name, owners=[name], alert=name, result="enforced", due=99)
    with Ledger.at(tmp_path / "ledger") as ledger:
        ledger.append([whole, entry(2, target=name, owners=[name], step="outcome", result="carried-out", due=99)])
        live = ledger.history
    with Ledger.at(tmp_path / "ledger") as ledger:
        assert ledger.history == live
        assert list(ledger.history.holds) == [("isolate_pod", name)]
        assert ledger.verify_chain() is None


def test_what_is_remembered_is_what_was_stored_also_of_text_that_no_database_holds() -> None:
    with Ledger() as ledger:
        ledger.append([entry(1, alert="a\x00b\ud800", owners=["user:\ud800"], result="awaiting-approval", mode="approve")])
        (stored,) = ledger.entries()
        assert ledger.history.revisions == {"a\\u0000b\\ud800": 1}
        assert ledger.history.waiting["action-1"].entry == stored
