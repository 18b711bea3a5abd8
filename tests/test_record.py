"""Recording and trace folders: what was recorded replays to the same alerts; what is damaged, foreign or newer is refused by name."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import orjson
import pyarrow as pa
import pyarrow.parquet
import pytest

from connectors.alert import Alert
from connectors.event import Block, block_of
from connectors.names import Names
from connectors.trace import TraceError
from detector.checkpoint import StateError
from detector.config import parse
from detector.identity import Bindings
from detector.pipeline import Pipeline
from detector.respond import observer
from replay.capture import capture
from replay.inputs import Pace, open_inputs, speed
from replay.play import Plan, Summary, play, tallies
from replay.pseudonyms import KeyProblem, Pseudonyms, read_key
from replay.record import Bounds, RawRecord, Recorder
from replay.traces import MANIFEST, Manifest, described, read_manifest, verify, write_manifest
from tests.logs import START, row
from tests.test_pipeline import CONFIG, Ear, office

LINES = office(2.0)
SOURCES = {"zeek": "zeek_conn"}


def records(lines: list[bytes] = LINES, partition: int = 0) -> list[RawRecord]:
    """Lines as a topic has them, each arriving a second after it happened."""
    return [
        RawRecord("zeek", partition, i, int(orjson.loads(line)["ts"] * 1e6) + 1_000_000, None, line) for i, line in enumerate(lines)
    ]


def recorded(folder: Path, items: list[RawRecord], **bounds: object) -> Recorder:
    with Recorder(folder, sources=SOURCES, bounds=Bounds(**({"roll_seconds": None} | bounds))) as recorder:  # type: ignore[arg-type]
        recorder.feed(items)
    return recorder


def replayed(*paths: Path, **plan: object) -> tuple[Summary, list[Alert]]:
    given = parse(CONFIG)
    ear = Ear()
    return play(Plan(paths=list(paths), config=given, version="0", **plan), observer(given.respond), ear), ear.alerts  # type: ignore[arg-type]


def anywhere(alerts: list[Alert]) -> list[object]:
    """Alerts without what their logs are called."""
    plain = msgspec.to_builtins(alerts)
    for alert in plain:
        for piece in alert["evidence"]:
            piece["partition"] = ""
    return list(plain)


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("log") / "conn.log"
    path.write_bytes(b"\n".join(LINES) + b"\n")
    return path


@pytest.fixture(scope="module")
def truth(log: Path) -> list[Alert]:
    alerts = replayed(log)[1]
    assert alerts
    return alerts


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    recorded(tmp_path / "raw", records(), roll_records=2000)
    return tmp_path / "raw"


def test_a_recorded_topic_replays_to_the_alerts_of_its_log_byte_for_byte(raw: Path, truth: list[Alert]) -> None:
    summary, alerts = replayed(raw)
    assert summary.events == len(LINES)
    assert anywhere(alerts) == anywhere(truth)
    assert {piece.partition for alert in alerts for piece in alert.evidence} == {"zeek-0"}
    assert len(read_manifest(raw).logs) == -(-len(LINES) // 2000)


def test_a_second_recording_of_a_topic_is_called_by_its_folder(tmp_path: Path) -> None:
    """Its offsets may be those of another day, another site, another topic of the same name."""
    for name in ("monday", "tuesday"):
        recorded(tmp_path / name, records()[: len(LINES) // 2])
    inputs = open_inputs([tmp_path / "monday", tmp_path / "tuesday"], None, None, Names(), 100)
    assert [log.path for log in inputs.logs] == ["zeek-0", f"{tmp_path}/tuesday/zeek-0"]


def test_evidence_of_a_recording_points_at_the_offsets_of_its_topic(tmp_path: Path) -> None:
    far = [record._replace(offset=record.offset * 3 + 1_000_000) for record in records()]
    recorded(tmp_path / "t", far)
    _, alerts = replayed(tmp_path / "t")
    offsets = {piece.offset for alert in alerts for piece in alert.evidence}
    assert offsets <= {record.offset for record in far}
    assert offsets


def test_partitions_of_a_topic_merge_by_arrival(tmp_path: Path, truth: list[Alert]) -> None:
    items = [record._replace(partition=record.offset % 2) for record in records()]
    recorded(tmp_path / "t", items)
    summary, alerts = replayed(tmp_path / "t")
    assert summary.events == len(LINES)
    assert [(alert.blamed, alert.time) for alert in alerts] == [(alert.blamed, alert.time) for alert in truth]


def test_arrival_rules_over_event_time_where_it_was_recorded(tmp_path: Path) -> None:
    late = [record._replace(partition=1, arrival=record.arrival + 10**12, offset=i) for i, record in enumerate(records()[:300])]
    recorded(tmp_path / "t", [*records()[300:900], *late])
    names = Names()
    inputs = open_inputs([tmp_path / "t"], None, None, names, 100)
    seen: list[int] = []

    class Tap:
        config = parse("")
        bindings = Bindings(100)

        def fold(self, block: Block, scores: object = None) -> list[Alert]:
            seen.extend(block.partition.tolist())
            return []

        def title(self, paths: tuple[str, ...]) -> None:
            assert paths == ("zeek-0", "zeek-1")

    list(tallies(Pipeline(Tap(), names=names), inputs))
    assert seen == [0] * 600 + [1] * 300


def test_a_recording_that_was_cut_off_goes_on_where_its_manifest_ends(tmp_path: Path) -> None:
    folder, bounds = tmp_path / "t", Bounds(roll_records=1000, roll_seconds=None)
    shard = folder / "zeek/0/00000000000000002000.part"
    with Recorder(tmp_path / "live", sources=SOURCES, bounds=bounds) as recorder:
        recorder.feed(records()[:2500])
        # What a process leaves that is gone at this moment.
        shutil.copytree(tmp_path / "live", folder)
    assert shard.exists()
    with Recorder(folder, sources=SOURCES, bounds=bounds) as again:
        assert again.positions == {("zeek", 0): 2000}
        assert not shard.exists()
        again.feed(records())
        assert again.ignored == 2000
    whole = pa.concat_tables([pyarrow.parquet.read_table(folder / entry.path) for entry in read_manifest(folder).logs])
    assert whole.column("value").to_pylist() == LINES
    assert whole.column("offset").to_pylist() == list(range(len(LINES)))


def test_an_error_while_recording_leaves_only_what_was_finished(tmp_path: Path) -> None:
    def broken() -> Iterator[RawRecord]:
        yield from records()[:1500]
        raise RuntimeError("the broker is gone")

    with (
        pytest.raises(RuntimeError),
        Recorder(tmp_path / "t", sources=SOURCES, bounds=Bounds(roll_records=1000, roll_seconds=None)) as recorder,
    ):
        recorder.feed(broken())
    manifest = read_manifest(tmp_path / "t")
    verify(tmp_path / "t", manifest)
    assert [entry.offsets for entry in manifest.logs] == [(0, 999)]
    assert [path.name for path in (tmp_path / "t/zeek/0").iterdir()] == ["00000000000000000000.parquet"]


@pytest.mark.parametrize(
    ("bounds", "why"), [({"records": 700}, "700 records"), ({"seconds": 3600.0}, "3600 seconds"), ({"bytes": 20_000}, "20,000 bytes")]
)
def test_a_recording_ends_at_its_bounds(tmp_path: Path, bounds: dict[str, object], why: str) -> None:
    recorder = recorded(tmp_path / "t", records(), **bounds)
    assert recorder.full == why
    assert 0 < recorder.records < len(LINES)
    if "bytes" in bounds:
        assert sum(entry.bytes for entry in recorder.manifest.logs) < 30_000


def test_files_are_rolled_by_recorded_time(tmp_path: Path) -> None:
    recorder = recorded(tmp_path / "t", records(), roll_seconds=6 * 3600.0)
    assert len(recorder.manifest.logs) == 8


def flip(path: Path, at: float) -> None:
    data = bytearray(path.read_bytes())
    data[int(len(data) * at)] ^= 0xFF
    path.write_bytes(data)


def manifest_with(change: Callable[[dict[str, object]], object]) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        path = folder / MANIFEST
        manifest = json.loads(path.read_bytes())
        change(manifest)
        path.write_text(json.dumps(manifest))

    return damage


FIRST = "zeek/0/00000000000000000000.parquet"


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda folder: flip(folder / FIRST, 0.3), f"{FIRST}: corrupt: its SHA-256 is not the manifest's; row group 0 of 1"),
        (lambda folder: (folder / FIRST).write_bytes((folder / FIRST).read_bytes()[:-9]), f"{FIRST}: truncated"),
        (lambda folder: (folder / FIRST).unlink(), f"{FIRST}: is missing"),
        (lambda folder: (folder / FIRST).write_bytes((folder / FIRST).read_bytes() + b"x"), "longer than recorded"),
        (lambda folder: (folder / MANIFEST).unlink(), "without manifest.json"),
        (lambda folder: (folder / MANIFEST).write_text("{"), "no manifest we can read"),
        (lambda folder: (folder / MANIFEST).write_text("[]"), "no manifest we can read"),
        (manifest_with(lambda held: held.update(kind="other")), "the manifest of something else"),
        (manifest_with(lambda held: held.update(version=2)), "manifest of version 2; this release reads 1 to 1"),
        (manifest_with(lambda held: held.update(schema=9)), "event schema of version 9"),
        (manifest_with(lambda held: held.update(logs=[])), "names no log"),
        (manifest_with(lambda held: held["logs"][0].update(path="../x")), "a relative path inside the folder"),  # type: ignore[index]
        (manifest_with(lambda held: held["logs"][0].update(path="/etc/passwd")), "a relative path inside the folder"),  # type: ignore[index]
        (manifest_with(lambda held: held["logs"][0].update(source="nosuch")), "no source is called 'nosuch'"),  # type: ignore[index]
        (manifest_with(lambda held: held["logs"][0].update(records="many")), "logs[0]"),  # type: ignore[index]
        (manifest_with(lambda held: held["logs"].append(held["logs"][0])), "is named twice"),  # type: ignore[attr-defined,index]
    ],
)
def test_a_trace_that_is_not_whole_is_refused_by_name_and_nothing_is_written(
    raw: Path, tmp_path: Path, damage: Callable[[Path], object], said: str
) -> None:
    damage(raw)
    with pytest.raises(TraceError) as refused:
        replayed(raw, alerts=tmp_path / "alerts.jsonl")
    assert said in str(refused.value)
    assert not (tmp_path / "alerts.jsonl").exists()


def test_a_parquet_file_of_something_else_is_foreign_even_under_a_manifest_that_fits(raw: Path) -> None:
    path = raw / FIRST
    pyarrow.parquet.write_table(pa.table({"a": [1]}), path)
    manifest = read_manifest(raw)
    entry = described(raw, FIRST, "zeek_conn", 1, None, None)
    manifest.logs[0].bytes, manifest.logs[0].sha256 = entry.bytes, entry.sha256
    write_manifest(raw, manifest)
    with pytest.raises(TraceError, match="a Parquet file of something else"):
        replayed(raw)


def test_a_folder_of_lines_replays_as_its_files_do(tmp_path: Path, log: Path, truth: list[Alert]) -> None:
    (tmp_path / "conn.log").write_bytes(log.read_bytes())
    (tmp_path / "empty.jsonl").touch()
    logs = [
        described(tmp_path, "conn.log", "zeek_conn", len(LINES), None, None),
        described(tmp_path, "empty.jsonl", "suricata_flow", 0, None, None),
    ]
    write_manifest(tmp_path, Manifest(logs=logs))
    assert msgspec.to_builtins(replayed(tmp_path)[1]) == msgspec.to_builtins(truth)
    with pytest.raises(TraceError, match="says itself what its logs are"):
        replayed(tmp_path, source="zeek_conn")


def captured(log: Path, folder: Path, pseudonyms: Pseudonyms | None = None) -> None:
    names = Names()
    inputs = open_inputs([log], None, None, names, 512)
    capture(
        inputs,
        names,
        parse(CONFIG),
        Recorder(folder, sources=None, titles=[log.name], bounds=Bounds(roll_seconds=None), pseudonyms=pseudonyms),
    )


def test_resolved_events_replay_to_the_same_alerts(tmp_path: Path, log: Path, truth: list[Alert]) -> None:
    captured(log, tmp_path / "t")
    summary, alerts = replayed(tmp_path / "t")
    assert summary.events == len(LINES)
    assert msgspec.to_builtins(alerts) == msgspec.to_builtins(truth)


def test_pseudonyms_change_every_name_and_no_alert(tmp_path: Path, log: Path, truth: list[Alert]) -> None:
    key = Pseudonyms(b"0123456789abcdef")
    captured(log, tmp_path / "t", key)
    _, alerts = replayed(tmp_path / "t")
    assert [(alert.blamed, alert.time, alert.score) for alert in alerts] == [
        (key.identity(alert.blamed), alert.time, alert.score) for alert in truth
    ]
    told = b"".join(path.read_bytes() for path in (tmp_path / "t").rglob("*") if path.is_file())
    table = pyarrow.parquet.read_table(tmp_path / "t" / read_manifest(tmp_path / "t").logs[0].path)
    given = set(table.column("actor").to_pylist()) | set(table.column("object").to_pylist())
    assert not {f"ip:{json.loads(line)['id.orig_h']}" for line in LINES} & given
    assert b"conn.log" not in told
    assert b"0123456789abcdef" not in told


def test_another_key_does_not_continue_a_recording(tmp_path: Path, log: Path) -> None:
    captured(log, tmp_path / "t", Pseudonyms(b"0123456789abcdef"))
    for other in (None, Pseudonyms(b"0123456789abcdeX")):
        with pytest.raises(TraceError, match=r"pseudonymised otherwise|another key"):
            captured(log, tmp_path / "t", other)


def test_pseudonyms_keep_kinds_neighbourhoods_and_namespaces() -> None:
    names = Pseudonyms(b"0123456789abcdef")
    one, two, three = (names.identity(f"ip:10.1.2.{i}") for i in (3, 4, 200))
    assert one.rpartition(".")[0] == two.rpartition(".")[0] == three.rpartition(".")[0] != "ip:10.1.2"
    assert len({one, two, three}) == 3
    assert one.startswith("ip:10.")
    assert not names.identity("ip:8.8.8.8").startswith(("ip:10.", "ip:192.168.", "ip:127."))
    train, other = names.identity("sa:team-a/trainer"), names.identity("sa:team-a/server")
    assert train.partition("/")[0] == other.partition("/")[0]
    assert train != other
    assert names.identity("node:gpu-07").endswith("-07")
    assert names.detail("443/tcp") == "443/tcp"
    assert names.detail("registry/llama:v2") != "registry/llama:v2"
    assert names.identity("ip:2a00::1") == Pseudonyms(b"0123456789abcdef").identity("ip:2a00::1")


def test_addresses_are_permuted_not_merged() -> None:
    names = Pseudonyms(b"0123456789abcdef")
    block = {names.identity(f"ip:10.9.{i // 256}.{i % 256}") for i in range(512)}
    assert len(block) == 512


def test_a_key_that_is_missing_or_short_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "key").write_bytes(b"short\n")
    monkeypatch.delenv("TOCSIN_PSEUDONYM_KEY", raising=False)
    for path in (tmp_path / "key", tmp_path / "none", None):
        with pytest.raises(KeyProblem):
            read_key(path)


def test_partitions_lay_the_work_out_and_keep_no_state(log: Path, tmp_path: Path) -> None:
    summary, alerts = replayed(log, partitions=4)
    assert summary.events == len(LINES)
    assert "ip:10.0.0.7" in {alert.blamed for alert in alerts}
    with pytest.raises(StateError, match="--partitions keeps no state file"):
        replayed(log, partitions=2, state=tmp_path / "state")


def test_a_pace_waits_until_events_are_due() -> None:
    names = Names()
    now, slept = [0.0], []

    def sleep(seconds: float) -> None:
        slept.append(seconds)
        now[0] += seconds

    pace = Pace(60.0, lambda: now[0], sleep)
    for time in (0.0, 600.0, 660.0):
        pace.wait(block_of(names, "made_up", [row(names, 0, START + int(time * 1e6), "ip:10.0.0.1", "ip:10.0.0.2")]))
    assert slept == [10.0, 1.0]


def test_a_speed_is_max_or_a_factor() -> None:
    assert speed("2.5x") == 2.5
    for wrong in ("fast", "0x", "-1", "nan"):
        with pytest.raises(ValueError, match="expected max or a factor"):
            speed(wrong)
