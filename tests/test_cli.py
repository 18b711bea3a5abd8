"""The command as its users meet it: good runs, machine output, and every kind of bad input without a traceback."""

from __future__ import annotations

import gzip
import json
import os
import random
import subprocess
import sys
from pathlib import Path

import pytest

from tests.test_pipeline import conn, office


@pytest.fixture(scope="module")
def trace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("cli") / "conn.log"
    path.write_bytes(b"\n".join(office(2.0)) + b"\n")
    return path


@pytest.fixture
def tocsin(tmp_path: Path):  # type: ignore[no-untyped-def]
    """Run the command in a process of its own; never lets a traceback pass."""

    def run(*arguments: object, code: int = 0) -> subprocess.CompletedProcess[str]:
        environment = os.environ | {"XDG_STATE_HOME": str(tmp_path / "home"), "COLUMNS": "200"}
        command = [sys.executable, "-m", "replay.cli", *map(str, arguments)]
        done = subprocess.run(  # noqa: S603
            command, capture_output=True, text=True, errors="replace", env=environment, check=False, stdin=subprocess.DEVNULL
        )
        assert "Traceback" not in done.stderr + done.stdout, done.stderr
        assert done.returncode == code, (done.returncode, done.stderr, done.stdout)
        return done

    return run


def last_json(done: subprocess.CompletedProcess[str]) -> dict[str, object]:
    found: dict[str, object] = json.loads(done.stdout.splitlines()[-1])
    return found


def test_replay_prints_a_summary_for_machines_on_its_last_line(trace: Path, tocsin) -> None:  # type: ignore[no-untyped-def]
    summary = last_json(tocsin("replay", trace, "--json"))
    wanted = {"events", "identities", "rejected", "late", "alerts", "alerts_per_day", "actions", "state_digest", "events_per_second"}
    assert wanted <= summary.keys()
    assert summary["events"] == len(office(2.0))
    assert summary["rejected"] == {}
    assert isinstance(summary["actions"], dict)


def test_replay_says_what_it_took_a_file_for_and_sums_up(trace: Path, tocsin) -> None:  # type: ignore[no-untyped-def]
    done = tocsin("replay", trace)
    assert "read as zeek_conn" in done.stderr
    for word in ("events", "identities", "rejected", "late", "alerts", "actions", "state"):
        assert f"\n{word} " in done.stdout


def test_alerts_go_to_standard_output_as_ocsf_findings(trace: Path, tocsin) -> None:  # type: ignore[no-untyped-def]
    done = tocsin("replay", trace, "--alerts", "-", "--json")
    *findings, summary = [json.loads(line) for line in done.stdout.splitlines()]
    assert findings
    assert {finding["class_uid"] for finding in findings} == {2004}
    assert summary["alerts"] == sum(finding["activity_id"] == 1 for finding in findings)


def test_an_alert_of_the_last_run_is_explained_by_the_beginning_of_its_id(trace: Path, tocsin) -> None:  # type: ignore[no-untyped-def]
    done = tocsin("replay", trace, "--alerts", "-", "--json")
    uid = json.loads(done.stdout.splitlines()[0])["finding_info"]["uid"]
    text = tocsin("explain", uid[:10]).stdout
    assert uid in text
    assert "would be normal" in text
    tocsin("explain", "ffffffffffffffffffffffff", code=5)
    tocsin("explain", uid, "--alerts", trace.parent / "absent.jsonl", code=3)


def test_what_is_no_alert_of_ours_is_passed_over_by_explain(trace: Path, tmp_path: Path, tocsin) -> None:  # type: ignore[no-untyped-def]
    alerts = tmp_path / "alerts.jsonl"
    tocsin("replay", trace, "--alerts", alerts, "--json")
    uid = json.loads(alerts.read_text().splitlines()[0])["finding_info"]["uid"]
    alerts.write_bytes(b"\x00garbage\n{}\n" + alerts.read_bytes())
    done = tocsin("explain", uid, "--alerts", alerts)
    assert "2 lines are not alerts of ours" in done.stderr


def test_sources_lists_each_source_with_what_it_can_and_cannot_feed(tocsin) -> None:  # type: ignore[no-untyped-def]
    text = tocsin("sources").stdout
    for name in ("zeek_conn", "suricata_flow", "oci_notifications", "harbor", "mlflow_webhook", "slurm_jobcomp", "kubernetes_audit"):
        assert f"{name}: " in text
    assert text.count("\n    cannot ") == text.count("\n    feeds ") >= 9
    harbor = text[text.index("harbor: ") : text.index("keycloak_events: ")]
    assert "actor_at_object" in harbor[: harbor.index("cannot")]
    assert "egress" in harbor[harbor.index("cannot") :]


@pytest.mark.slow
def test_check_names_file_key_and_what_was_expected(tmp_path: Path, tocsin) -> None:  # type: ignore[no-untyped-def]
    good = tmp_path / "good.toml"
    good.write_text("[budget]\nalerts_per_day = 3\n")
    assert "good" in tocsin("check", good).stdout
    for text, wanted in (
        ("[budget]\nalerts_per_day = 'many'\n", "budget.alerts_per_day: expected `float`"),
        ("[budget]\nalerts = 3\n", "budget: object contains unknown field `alerts`"),
        ("[signals.x]\nlearner = 'oracle'\n", "signals.x.learner: expected one of"),
        ("[respond]\nmode = 'attack'\n", "respond.mode"),
        ("= 3\n", "not valid TOML"),
    ):
        bad = tmp_path / "bad.toml"
        bad.write_text(text)
        assert f"{bad}: {wanted}" in tocsin("check", bad, code=2).stderr
    tocsin("check", tmp_path / "absent.toml", code=2)


@pytest.mark.slow
def test_inputs_that_are_no_traces_get_a_sentence_and_their_exit_code(tmp_path: Path, tocsin) -> None:  # type: ignore[no-untyped-def]
    empty = tmp_path / "empty.log"
    empty.touch()
    binary = tmp_path / "binary.log"
    binary.write_bytes(random.Random(1).randbytes(5000))
    zeros = tmp_path / "zeros.log"
    zeros.write_bytes(b"\0" * 5000)
    hubble = tmp_path / "hubble.jsonl"
    hubble.write_text('{"flow":{"verdict":"FORWARDED","IP":{"source":"10.0.0.1","destination":"10.0.0.2"}},"node_name":"n"}\n')
    for path in (empty, binary, zeros, tmp_path, tmp_path / "absent", hubble):
        done = tocsin("replay", path, code=3)
        assert str(path) in done.stderr
    assert "Hubble" in tocsin("replay", hubble, code=3).stderr
    assert "--source: expected one of" in tocsin("replay", binary, "--source", "oracle", code=2).stderr


def test_a_gzip_cut_short_is_read_up_to_the_cut(tmp_path: Path, tocsin) -> None:  # type: ignore[no-untyped-def]
    whole = gzip.compress(b"\n".join(office(1.0)) + b"\n")
    path = tmp_path / "cut.log.gz"
    path.write_bytes(whole[: len(whole) * 2 // 3])
    summary = last_json(tocsin("replay", path, "--json"))
    assert summary["rejected"] == {"truncated-file": 1}
    assert 500 < int(str(summary["events"])) < len(office(1.0))


def test_every_bad_record_is_counted_with_its_reason_and_the_good_ones_score_as_without(tmp_path: Path, tocsin) -> None:  # type: ignore[no-untyped-def]
    lines = office(1.0)
    good = tmp_path / "good.log"
    good.write_bytes(b"\n".join(lines) + b"\n")
    base = 1_772_409_600.0 + 1000
    bad = {
        b'{"ts":1,': "malformed-json",
        b"[1,2,3]": "wrong-type:record",
        b'{"pad":"' + b"x" * 10_000_000 + b'"}': "too-long",
        conn(base, "10.0.0.1", "10.0.1.1", orig_bytes="many"): "wrong-type:orig_bytes",
        conn(base, "10.0.0.1", "10.0.1.1", orig_bytes=-5): "negative:orig_bytes",
        conn(base, "10.0.0.1", "10.0.1.1").replace(b'"orig_bytes":500', b'"orig_bytes":NaN'): "malformed-json",
        conn(base, "10.0.0.1", "10.0.1.1").replace(b'"ts":', b'"was":'): "missing:ts",
        conn(0.0, "10.0.0.1", "10.0.1.1"): "time-out-of-range:ts",
        conn(4_102_444_800.0, "10.0.0.1", "10.0.1.1"): "time-out-of-range:ts",
        conn(base + 365 * 86_400, "10.0.0.1", "10.0.1.1"): "time-ahead",
        conn(base, "10.0.0.1\x00", "10.0.1.1"): "bad-identity:id.orig_h",
        conn(base, "\u202e10.0.0.1", "10.0.1.1"): "bad-identity:id.orig_h",
        conn(base, "../10.0.0.1", "10.0.1.1"): "bad-identity:id.orig_h",
    }
    mixed = list(lines)
    for place, record in enumerate(bad):
        mixed.insert(100 + 150 * place, record)
    path = tmp_path / "mixed.log"
    path.write_bytes(b"\n".join(mixed) + b"\n")
    letters = tmp_path / "dead.jsonl"
    whole = last_json(tocsin("replay", good, "--json"))
    summary = last_json(tocsin("replay", path, "--json", "--deadletter", letters))
    expected: dict[str, int] = {}
    for reason in bad.values():
        expected[reason] = expected.get(reason, 0) + 1
    assert summary["rejected"] == dict(sorted(expected.items()))
    for same in ("events", "identities", "late", "alerts"):
        assert summary[same] == whole[same]
    dead = [json.loads(line) for line in letters.read_text().splitlines()]
    assert sorted(letter["reason"] for letter in dead) == sorted(bad.values())
    assert {letter["record"] for letter in dead} == {100 + 150 * place for place in range(len(bad))}
    assert all(letter["message"] and letter["path"] == str(path) and len(letter["raw"]) <= 1024 for letter in dead)
    assert {"[1,2,3]", '{"ts":1,'} <= {letter["raw"] for letter in dead}


def test_an_unknown_option_or_command_is_a_usage_error(trace: Path, tocsin) -> None:  # type: ignore[no-untyped-def]
    tocsin("replay", trace, "--speed", "9", code=2)
    tocsin("detect", code=2)
    tocsin("replay", trace, "--limit", "0", code=2)


@pytest.mark.slow
def test_no_output_is_ever_written_over_an_input(trace: Path, tmp_path: Path, tocsin) -> None:  # type: ignore[no-untyped-def]
    before = trace.read_bytes()
    (tmp_path / "link.log").symlink_to(trace)
    for option in ("--alerts", "--deadletter", "--state"):
        for path in (trace, tmp_path / "link.log"):
            assert "may not write to it" in tocsin("replay", trace, option, path, code=3).stderr
    assert "named twice" in tocsin("replay", trace, trace, code=3).stderr
    assert "--alerts already" in tocsin("replay", trace, "--alerts", tmp_path / "o", "--deadletter", tmp_path / "o", code=3).stderr
    assert trace.read_bytes() == before


def test_a_state_that_cannot_be_used_has_its_own_exit_code(trace: Path, tmp_path: Path, tocsin) -> None:  # type: ignore[no-untyped-def]
    state = tmp_path / "state"
    state.write_bytes(b"no database" * 1000)
    assert str(state) in tocsin("replay", trace, "--state", state, code=4).stderr


@pytest.mark.slow
def test_the_demo_catches_contains_and_sums_up(tmp_path: Path, tocsin) -> None:  # type: ignore[no-untyped-def]
    done = tocsin("demo", "--out", tmp_path / "demo")
    assert "verified" in done.stdout
    assert "ledger      intact" in done.stdout
    # The drip begins twenty hours before the week ends: no one is slow by then.
    for attack in ("bulk-pull", "stolen-token", "lateral-movement"):
        line = next(line for line in done.stdout.splitlines() if line.startswith(f"  {attack}"))
        assert "min after it began" in line, done.stdout
    assert (tmp_path / "demo" / "alerts.jsonl").stat().st_size > 0
