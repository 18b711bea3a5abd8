"""What may be a secret, and that what may not is never said."""

from __future__ import annotations

from pathlib import Path

import pytest

from connectors.containment import Action, Trouble
from connectors.containment._http import Secret as OfAdapter
from connectors.containment.openbao import Openbao, OpenbaoSettings
from connectors.secret import NoSecret, Secret

HUSH = "hvs.SUPERSECRET"


@pytest.mark.parametrize(
    ("content", "secret"),
    [
        (HUSH, HUSH),
        (HUSH + "\n", HUSH),
        (HUSH + "\r\n", HUSH),
        ("a pass phrase\n", "a pass phrase"),
        (
            "-----BEGIN PRIVATE KEY-----\nMC4C\n-----END PRIVATE KEY-----\n",
            "-----BEGIN PRIVATE KEY-----\nMC4C\n-----END PRIVATE KEY-----",
        ),
    ],
)
def test_one_line_end_is_no_part_of_a_secret(tmp_path: Path, content: str, secret: str) -> None:
    path = tmp_path / "secret"
    path.write_bytes(content.encode())
    assert Secret(file=str(path)).read() == secret


BAD = [
    HUSH + " ",
    " " + HUSH,
    HUSH + "\t",
    HUSH + "\n\n",
    "hvs.\nSUPERSECRET",
    HUSH + "\0",
    "\ufeff" + HUSH,
    HUSH + "\u200b\n",
    HUSH + "\u00a0",
]


@pytest.mark.parametrize("content", BAD)
def test_what_no_header_may_hold_is_refused_and_not_quoted(tmp_path: Path, content: str) -> None:
    path = tmp_path / "secret"
    path.write_bytes(content.encode())
    with pytest.raises(NoSecret, match=r"secret file .* holds a ") as told:
        Secret(file=str(path)).read()
    assert "SUPERSECRET" not in str(told.value)


@pytest.mark.parametrize("content", BAD)
def test_an_adapter_with_such_a_token_fails_without_a_call_and_without_a_word_of_it(tmp_path: Path, content: str) -> None:
    path = tmp_path / "token"
    path.write_bytes(content.encode())
    adapter = Openbao(OpenbaoSettings(url="http://127.0.0.1:1", token=OfAdapter(file=str(path))))
    found = adapter.prepare(Action(id="a1", verb="disable_entity", target="user:alice"))
    assert (found.status, found.trouble) == ("failed", Trouble("unauthorised"))
    assert "SUPERSECRET" not in found.reason
    adapter.close()


def test_an_empty_or_missing_secret_is_told_by_its_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "empty").write_text("\n")
    monkeypatch.delenv("TOCSIN_NO_SUCH", raising=False)
    for secret in (Secret(file=str(tmp_path / "empty")), Secret(env="TOCSIN_NO_SUCH")):
        with pytest.raises(NoSecret, match="is empty or not set"):
            secret.read()
