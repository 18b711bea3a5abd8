"""The ledger's head kept elsewhere: what the chain itself cannot show."""

from __future__ import annotations

import os
import sqlite3
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from connectors.event import SECOND
from connectors.secret import Secret
from connectors.signing import BadKey, Key
from detector.anchor import AnchorAway, Anchorer, AnchorFailed, from_file, read, read_file, to_file
from detector.ledger import Ledger, LedgerFailed
from detector.policy import LedgerSettings
from tests.test_ledger import entry

SHARED = "a shared key that is long enough to be one"


def pair() -> tuple[str, str]:
    private = Ed25519PrivateKey.generate()
    signs = private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()
    return signs, private.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()


@pytest.fixture
def anchored(tmp_path: Path) -> Path:
    """A ledger of seven rows with an anchor after every two."""
    with Ledger.at(tmp_path / "ledger") as ledger:
        anchorer = Anchorer(ledger, Key(SHARED), to_file(tmp_path / "anchors"), rows=2)
        for i in range(1, 8):
            ledger.append([entry(i)])
            anchorer.tick(i)
    return tmp_path


def heads(folder: Path) -> list[tuple[int, str]]:
    return [(each.seq, each.hash) for each in read_file(folder / "anchors", Key(SHARED))]


def test_an_anchor_follows_every_so_many_rows_and_fits_the_ledger(anchored: Path) -> None:
    assert [seq for seq, _ in heads(anchored)] == [2, 4, 6]
    with Ledger.at(anchored / "ledger") as ledger:
        assert ledger.verify_chain(*heads(anchored)) is None


def test_a_lost_tail_shows_against_the_anchors(anchored: Path) -> None:
    with sqlite3.connect(anchored / "ledger") as database:
        database.execute("DELETE FROM ledger WHERE seq > 3")
    database.close()
    with Ledger.at(anchored / "ledger") as ledger:
        assert ledger.verify_chain() is None
        broken = ledger.verify_chain(*heads(anchored))
    assert broken is not None
    assert broken.reason == "row 4 is missing"


def test_a_ledger_written_anew_from_its_beginning_shows_against_the_anchors(anchored: Path) -> None:
    with Ledger.at(anchored / "other") as forged:
        forged.append([entry(i, reason="nothing happened") for i in range(1, 7)])
        assert forged.verify_chain() is None
        broken = forged.verify_chain(*heads(anchored))
    assert broken == (2, "row 2 is not the one that was anchored")


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda lines: lines[:1] + lines[2:], "anchor 2 does not follow anchor 1"),
        (lambda lines: lines[1:], "anchor 1 does not follow anchor 0"),
        (lambda lines: [lines[1], lines[0], lines[2]], "anchor 1 does not follow anchor 0"),
        (lambda lines: [lines[0].replace(b'"seq":2', b'"seq":1'), *lines[1:]], "anchor 1 is not signed with this key"),
        (lambda lines: [*lines, b"{}\n"], "anchor 4: "),
    ],
)
def test_an_anchor_that_was_changed_removed_or_moved_is_refused(anchored: Path, change: object, why: str) -> None:
    lines = (anchored / "anchors").read_bytes().splitlines(keepends=True)
    assert callable(change)
    with pytest.raises(AnchorFailed, match=why):
        read(change(lines), Key(SHARED))


def test_anchors_go_on_after_a_restart(anchored: Path) -> None:
    path = anchored / "anchors"
    with Ledger.at(anchored / "ledger") as ledger:
        last = path.read_bytes().splitlines()[-1]
        anchorer = Anchorer(ledger, Key(SHARED), to_file(path), last, rows=100, seconds=60)
        assert anchorer.tick(61 * SECOND), "one row more, a minute later"
        assert not anchorer.tick(1_000 * SECOND), "nothing new"
    assert [seq for seq, _ in heads(anchored)] == [2, 4, 6, 7]


def test_who_checks_with_a_public_key_cannot_sign(tmp_path: Path) -> None:
    signs, checks = pair()
    with Ledger.at(tmp_path / "ledger") as ledger:
        ledger.append([entry(1)])
        Anchorer(ledger, Key(signs), to_file(tmp_path / "anchors")).tick(1, at_once=True)
        assert len(read_file(tmp_path / "anchors", Key(checks))) == 1
        with pytest.raises(AnchorFailed, match="a public key checks"):
            Anchorer(ledger, Key(checks), to_file(tmp_path / "anchors")).tick(1, at_once=True)
    with pytest.raises(AnchorFailed, match="not signed with this key"):
        read_file(tmp_path / "anchors", Key(pair()[1]))


@pytest.mark.parametrize("text", ["", "short", "-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----"])
def test_a_text_that_is_no_key_is_refused_without_being_shown(text: str) -> None:
    with pytest.raises(BadKey) as refused:
        Key(text)
    assert "AAAA" not in str(refused.value)


def settings_of(folder: Path) -> LedgerSettings:
    (folder / "key").write_text(SHARED)
    return LedgerSettings(anchor_file=str(folder / "anchors"), anchor_key=Secret(file=str(folder / "key")))


@pytest.mark.parametrize("torn", [b'{"version":1,"se', b"\x00\x00", b"{}"])
def test_an_anchor_that_was_not_written_to_its_end_is_cut_off_and_made_anew(
    anchored: Path, caplog: pytest.LogCaptureFixture, torn: bytes
) -> None:
    with (anchored / "anchors").open("ab") as file:
        file.write(torn)
    assert [seq for seq, _ in heads(anchored)] == [2, 4, 6], "whoever checks meanwhile passes over it"
    with Ledger.at(anchored / "ledger") as ledger:
        assert from_file(settings_of(anchored), ledger) is not None
    assert [seq for seq, _ in heads(anchored)] == [2, 4, 6, 7]
    assert "the last anchor was not written to its end" in caplog.text


def test_a_disk_that_is_full_leaves_no_half_of_an_anchor(anchored: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = (anchored / "anchors").read_bytes()

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    with Ledger.at(anchored / "ledger") as ledger:
        anchorer = from_file(settings_of(anchored), ledger)
        assert anchorer is not None
        monkeypatch.setattr(os, "fsync", full)
        with pytest.raises(AnchorAway, match="No space left"):
            anchorer.tick(0, at_once=True)
        assert (anchored / "anchors").read_bytes() == before
        monkeypatch.undo()
        assert anchorer.tick(0, at_once=True), "it goes on when there is room"
    assert [seq for seq, _ in heads(anchored)] == [2, 4, 6, 7]


def test_a_folder_of_anchors_that_is_not_there_is_away_and_a_file_that_is_not_there_is_a_loss(anchored: Path) -> None:
    with Ledger.at(anchored / "ledger") as ledger:
        settings = settings_of(anchored)
        with pytest.raises(AnchorAway):
            from_file(LedgerSettings(anchor_file=str(anchored / "gone" / "anchors"), anchor_key=settings.anchor_key), ledger)
        (anchored / "anchors").unlink()
        with pytest.raises(LedgerFailed, match="holds no anchor"):
            from_file(settings, ledger)
