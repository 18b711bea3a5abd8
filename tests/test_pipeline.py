"""The embedded pipeline: the same log gives the same bytes, however it is cut, restarted or seeded."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import orjson
import pytest

from connectors.alert import Alert
from detector.checkpoint import Checkpoints, StateError
from detector.config import parse
from detector.pipeline import Cores, Tally
from detector.respond import observer
from replay.play import Plan, Summary, Watcher, play

CONFIG = """
[budget]
alerts_per_day = 20
"""


class Ear(Watcher):
    """Keeps what it hears."""

    def __init__(self) -> None:
        self.alerts: list[Alert] = []
        self.ticks: list[Tally] = []

    def alert(self, alert: Alert) -> None:
        self.alerts.append(alert)


def conn(time: float, actor: str, object_: str, port: int = 443, sent: int = 500, state: str = "SF", **more: object) -> bytes:
    record = {
        "ts": time,
        "uid": f"C{time:.6f}{actor}",
        "id.orig_h": actor,
        "id.orig_p": 40000,
        "id.resp_h": object_,
        "id.resp_p": port,
        "proto": "tcp",
        "duration": 0.5,
        "orig_bytes": sent,
        "resp_bytes": 900,
        "conn_state": state,
    }
    return orjson.dumps(record | more)


def office(days: float = 3.0, seed: int = 7) -> list[bytes]:
    """A small network with habits; on its last afternoon one host sweeps the others and sends a lot to a stranger."""
    draw = np.random.default_rng(seed)
    start = 1_772_409_600.0
    moments = np.sort(draw.random(int(3000 * days)) * days * 86_400.0) + start
    lines = []
    for moment in moments.tolist():
        actor = int(draw.integers(1, 25))
        server = int(draw.choice([1, 2, 3, 10 + actor % 5]))
        lines.append(conn(moment, f"10.0.0.{actor}", f"10.0.1.{server}", sent=int(draw.lognormal(6, 1))))
    attack = start + days * 86_400.0 - 7_200.0
    sweep = [conn(attack + i, "10.0.0.7", f"10.0.2.{i + 1}", 445, 60, "REJ") for i in range(60)]
    sweep += [conn(attack + 600 + i * 20, "10.0.0.7", "203.0.113.9", 8443, 90_000_000) for i in range(20)]
    return sorted(lines + sweep, key=lambda line: orjson.loads(line)["ts"])


@pytest.fixture(scope="module")
def trace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("trace") / "conn.log"
    path.write_bytes(b"\n".join(office()) + b"\n")
    return path


def run(paths: list[Path], config: str = CONFIG, **plan: object) -> tuple[Summary, list[Alert]]:
    given = parse(config)
    ear = Ear()
    summary = play(Plan(paths=paths, config=given, version="test", **plan), observer(given.respond), ear)  # type: ignore[arg-type]
    return summary, ear.alerts


def test_a_sweep_and_a_large_upload_are_blamed_on_the_host_behind_them(trace: Path) -> None:
    summary, alerts = run([trace])
    opened = [alert for alert in alerts if alert.activity == "open"]
    assert "ip:10.0.0.7" in {alert.blamed for alert in opened}
    assert summary.alerts == len(opened) <= 60
    assert summary.events == len(office())
    assert all(alert.evidence and alert.evidence[0].reasons for alert in opened)


@pytest.mark.parametrize("records", [1, 7, 1000, 10**6])
def test_blocks_of_any_size_give_identical_alert_bytes_and_state(trace: Path, tmp_path: Path, records: int) -> None:
    whole, _ = run([trace], alerts=tmp_path / "whole", batch_records=4096)
    cut, _ = run([trace], alerts=tmp_path / "cut", batch_records=records)
    assert whole.alerts > 0
    assert (tmp_path / "cut").read_bytes() == (tmp_path / "whole").read_bytes()
    assert cut.state_digest == whole.state_digest


def test_several_logs_merge_the_same_way_in_any_cut(tmp_path: Path) -> None:
    lines = office(2.0)
    paths = [tmp_path / "a.log", tmp_path / "b.log", tmp_path / "c.log"]
    for i, path in enumerate(paths):
        path.write_bytes(b"\n".join(lines[i::3]) + b"\n")
    digests = {run(paths, batch_records=records)[0].state_digest for records in (1, 7, 1000, 10**6)}
    assert len(digests) == 1
    single = tmp_path / "all.log"
    single.write_bytes(b"\n".join(lines) + b"\n")
    # The same alerts as from one log; only the pointers to their records differ.
    assert [(a.uid, a.revision) for a in run([single])[1]] == [(a.uid, a.revision) for a in run(paths)[1]]


@pytest.mark.slow
def test_the_hash_seed_changes_nothing(trace: Path, tmp_path: Path) -> None:
    seen = set()
    for seed in ("1", "4711"):
        out = tmp_path / f"alerts-{seed}"
        environment = os.environ | {"PYTHONHASHSEED": seed, "XDG_STATE_HOME": str(tmp_path)}
        command = [sys.executable, "-m", "replay.cli", "replay", str(trace), "--json", "--alerts", str(out)]
        done = subprocess.run(command, env=environment, capture_output=True, check=True)  # noqa: S603
        seen.add((json.loads(done.stdout.splitlines()[-1])["state_digest"], out.read_bytes()))
    assert len(seen) == 1


@pytest.mark.parametrize("stop", [1, 500, 4095, 7000])
def test_a_restart_in_the_middle_gives_the_same_alerts_and_state(trace: Path, tmp_path: Path, stop: int) -> None:
    whole, _ = run([trace], alerts=tmp_path / "whole")
    state = tmp_path / "state.sqlite"
    first, _ = run([trace], state=state, alerts=tmp_path / "parts", limit=stop)
    second, _ = run([trace], state=state, alerts=tmp_path / "parts")
    assert first.events == stop
    assert first.events + second.events == whole.events
    assert second.state_digest == whole.state_digest
    assert (tmp_path / "parts").read_bytes() == (tmp_path / "whole").read_bytes()


def test_a_finished_log_is_not_read_twice(trace: Path, tmp_path: Path) -> None:
    state = tmp_path / "state.sqlite"
    first, _ = run([trace], state=state)
    again, alerts = run([trace], state=state)
    assert (again.events, alerts) == (0, [])
    assert again.state_digest == first.state_digest


def test_two_halves_of_a_log_give_the_alerts_of_the_whole(tmp_path: Path) -> None:
    lines = office(2.0)
    state = tmp_path / "state.sqlite"
    paths = []
    for name, part in (("one", lines[:2500]), ("two", lines[2500:]), ("all", lines)):
        paths.append(tmp_path / name)
        paths[-1].write_bytes(b"\n".join(part) + b"\n")
    _, early = run(paths[:1], state=state)
    _, later = run(paths[1:2], state=state)
    _, alerts = run(paths[2:])
    assert [(a.uid, a.revision) for a in early + later] == [(a.uid, a.revision) for a in alerts]


def test_a_run_that_is_killed_goes_on_from_its_last_checkpoint(trace: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("replay.play.CHECKPOINT_EVENTS", 2000)
    whole, _ = run([trace], alerts=tmp_path / "whole")
    state, out = tmp_path / "state.sqlite", tmp_path / "alerts"

    class Killed(Ear):
        def tick(self, tally: Tally, traces: object) -> None:
            if tally.events > 5000:
                raise KeyboardInterrupt

    given = parse(CONFIG)
    plan = Plan(paths=[trace], config=given, version="test", alerts=out, state=state, batch_records=500)
    with pytest.raises(KeyboardInterrupt):
        play(plan, observer(given.respond), Killed())
    rest, _ = run([trace], state=state, alerts=out)
    assert 0 < rest.events < whole.events
    assert rest.state_digest == whole.state_digest
    assert out.read_bytes() == (tmp_path / "whole").read_bytes()


def test_one_record_dated_next_year_changes_nothing_for_the_good_ones(tmp_path: Path) -> None:
    lines = office(2.0)
    good = tmp_path / "good.log"
    good.write_bytes(b"\n".join(lines) + b"\n")
    whole, alerts = run([good])
    for place in (0, 1, 1234, len(lines)):
        bad = tmp_path / f"bad-{place}.log"
        wrong = conn(1_772_409_600.0 + 365 * 86_400, "10.0.0.3", "10.0.1.1")
        bad.write_bytes(b"\n".join([*lines[:place], wrong, *lines[place:]]) + b"\n")
        summary, heard = run([bad])
        assert summary.rejected == {"time-ahead": 1}, place
        # Record numbers after it move up by one; everything else stays.
        assert [(a.uid, a.revision, a.score, a.evidence_peak) for a in heard] == [
            (a.uid, a.revision, a.score, a.evidence_peak) for a in alerts
        ], place
        assert (summary.events, summary.identities, summary.late) == (whole.events, whole.identities, whole.late)
        assert [e.score for e in summary.strongest] == [e.score for e in whole.strongest]


def test_the_label_of_a_recorded_trace_is_never_read(tmp_path: Path) -> None:
    rows = ["ts,src,dst,label"]
    rows += [f"{1_772_409_600 + i * 30},10.0.0.{i % 9},10.0.1.{i % 4},{'evil' if i % 7 == 0 else '-'}" for i in range(3000)]
    mapping = tmp_path / "map.toml"
    head = 'stream = "flow"\naction = "connect"\n[time]\ncolumn = "ts"\nformat = "s"\n'
    who = '[actor]\ncolumn = "src"\nkind = "ip"\n[object]\ncolumn = "dst"\nkind = "ip"\n'
    digests = set()
    from connectors.sources.table import read_mapping

    for label in ('label = "label"\n', ""):
        mapping.write_text(label + head + who)
        path = tmp_path / "t.csv"
        path.write_text("\n".join(rows if label else [row.rpartition(",")[0] for row in rows]) + "\n")
        digests.add(run([path], mapping=read_mapping(mapping))[0].state_digest)
    assert len(digests) == 1


def test_a_state_of_another_configuration_or_kind_is_refused_with_a_sentence(trace: Path, tmp_path: Path) -> None:
    state = tmp_path / "state.sqlite"
    run([trace], state=state, limit=100)
    with pytest.raises(StateError, match=r"made with other \[signals\]"):
        run([trace], config="[signals.bytes_out]\nweight = 0.5\n", state=state)
    foreign = tmp_path / "foreign"
    foreign.write_text("not a database, whatever its name says" * 50)
    with pytest.raises(StateError, match="cannot be used as a state file"):
        run([trace], state=foreign)
    river = '[signals.trees]\nlearner = "river_detector"\n'
    with pytest.raises(StateError, match=r"signals\.trees"):
        Checkpoints(tmp_path / "other", parse(river))


def test_a_state_of_a_newer_release_is_refused(trace: Path, tmp_path: Path) -> None:
    import sqlite3

    state = tmp_path / "state.sqlite"
    run([trace], state=state, limit=100)
    with sqlite3.connect(state) as file:
        file.execute("UPDATE meta SET value = '99' WHERE key = 'version'")
    file.close()
    with pytest.raises(StateError, match="version 99"):
        run([trace], state=state)


def test_a_budget_may_change_under_a_state(trace: Path, tmp_path: Path) -> None:
    state = tmp_path / "state.sqlite"
    run([trace], state=state, limit=4000)
    summary, _ = run([trace], config="[budget]\nalerts_per_day = 1\n", state=state)
    assert summary.events == len(office()) - 4000


def test_identities_are_counted_once_over_both_visits() -> None:
    assert Cores(parse("")).identities == 0
