"""The dictionary of names is bounded, and when it starts afresh changes no result."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import orjson
import pytest

from connectors import ocsf
from connectors.event import SECOND, Block, Stream
from connectors.names import Names
from connectors.sources import Decoded, available
from connectors.trace import open_trace
from detector.checkpoint import digest
from detector.config import parse
from detector.ingest import restart
from detector.marks import Marks
from detector.pipeline import Cores, Log, Pipeline
from replay.simulate import FILES, simulate

#: Restricted identities, a change and a tight time guard: all that is remembered by code takes part.
CONFIG = """
[budget]
alerts_per_day = 50
[time]
ahead_hours = 1
[identities]
restricted = ["model:*", "ip:10.*.*.7"]
[[changes]]
name = "roll-out"
since = 2026-03-02T06:00:00Z
until = 2026-03-02T18:00:00Z
scope = ["sa:*", "user:a*"]
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small factory's day in five logs, in some of which a clock is wrong now and then, so that rows wait for their witnesses."""
    out = tmp_path_factory.mktemp("factory")
    simulate(out, days=1, seed=3, scale=0.02)
    conn = (out / "conn.log").read_bytes().splitlines()
    for place in range(50, len(conn), 200):
        wrong = orjson.loads(conn[place])
        conn[place] = orjson.dumps(wrong | {"ts": wrong["ts"] + 30 * 86_400})
    (out / "conn.log").write_bytes(b"\n".join(conn) + b"\n")
    return out


class Watched(Names):
    """Notes how many texts the waiting rows held on to at each restart."""

    def __init__(self, limit: int) -> None:
        super().__init__(limit)
        self.waited: list[int] = []

    def restart(self, keep: np.ndarray) -> np.ndarray:
        self.waited.append(int(np.count_nonzero(keep >= 0)))
        return super().restart(keep)


#: What a run gives: alert bytes, state digest, rejects, the dictionary at the end.
Outcome = tuple[bytes, str, dict[str, int], Watched]


def run(folder: Path, limit: int, batch: int) -> Outcome:
    names = Watched(limit)
    logs: list[Log] = [open_trace(folder / name, None, None, names, batch) for name in FILES]
    cores = Cores(parse(CONFIG))
    alerts: list[bytes] = []
    pipeline = Pipeline(cores, names=names, on_alert=lambda alert: alerts.append(ocsf.encode(alert, "test")))
    for _ in pipeline.run(logs):
        pass
    return b"".join(alerts), digest(cores), pipeline.tally.rejected, names


@pytest.fixture(scope="module")
def unlimited(folder: Path) -> Outcome:
    return run(folder, 10**9, 500)


@pytest.mark.parametrize("batch", [33, 500, 4096])
def test_when_names_are_let_go_of_changes_neither_alerts_nor_state(folder: Path, unlimited: Outcome, batch: int) -> None:
    alerts, state, rejected, names = run(folder, 50, batch)
    assert unlimited[0].count(b"\n") > 10
    assert rejected == unlimited[2]
    assert rejected["time-ahead"] > 10
    assert unlimited[3].epoch == 0
    assert names.epoch > 3
    assert sum(many > 0 for many in names.waited) > 2
    assert alerts == unlimited[0]
    assert state == unlimited[1]


def test_a_restart_that_numbers_waiting_rows_wrongly_would_be_seen(
    folder: Path, unlimited: Outcome, monkeypatch: pytest.MonkeyPatch
) -> None:
    def wrong(names: Names, waiting: list[Block]) -> None:
        restart(names, waiting)
        for block in waiting:
            block.actor = block.object

    monkeypatch.setattr("detector.pipeline.restart", wrong)
    assert run(folder, 50, 500)[:2] != unlimited[:2]


class Flood:
    """A log in which ever new users, each with a token of its own, pull one model; ``held`` notes how large the dictionary became."""

    path = "flood"

    def __init__(self, names: Names, batches: int, each: int) -> None:
        self.names = names
        self._batches = batches
        self._each = each
        self.held: list[int] = []

    def __iter__(self) -> Iterator[Decoded]:
        users, tokens, models = (self.names.of(kind) for kind in ("user", "token", "model"))
        for start in range(0, self._batches * self._each, self._each):
            numbers = range(start, start + self._each)
            columns = {
                "time": 1_772_409_600 * SECOND + np.arange(start, start + self._each) * 1000,
                "stream": Stream.registry,
                "actor": [users[f"u{i}"] for i in numbers],
                "object": models["lab/m"],
                "via": [tokens[f"t{i}"] for i in numbers],
                "record": np.arange(start, start + self._each),
            }
            self.held.append(self.names.held)
            yield Decoded(Block(self.names, "flood", columns))


def test_a_flood_of_new_names_never_makes_the_dictionary_larger_than_its_limit_and_a_batch() -> None:
    names = Names(1000)
    flood = Flood(names, batches=40, each=300)
    for _ in Pipeline(Cores(parse("")), names=names).run([flood]):
        pass
    assert max(flood.held) <= 1000 + 2 * 300 + 1
    assert len(names) <= 1000 + 2 * 300 + 1
    assert names.epoch > 10


def test_what_is_marked_by_code_is_asked_anew_after_a_restart() -> None:
    names = Names()
    marks = Marks(lambda name: int(name.endswith("7")))
    before = np.array([names.passing(f"t{i}") for i in range(10)], np.int32)
    assert marks.of(names, before).tolist() == [0, 0, 0, 0, 0, 0, 0, 1, 0, 0]
    names.restart(before[8:])
    after = np.array([names.passing(f"t{i}") for i in (7, 8, 9, 17)], np.int32)
    assert marks.of(names, after).tolist() == [1, 0, 0, 1]


@pytest.mark.parametrize("source", ["zeek_conn", "suricata_flow"])
def test_a_flood_of_spoofed_addresses_never_makes_the_dictionary_larger_than_its_limit_and_a_batch(source: str) -> None:
    names = Names(1000)
    decoder = available()[source](names)
    addressed = orjson.loads(decoder.example)
    held = []

    class Spoofed:
        path = "flood"

        def __iter__(self) -> Iterator[Decoded]:
            for start in range(0, 12_000, 300):
                lines = []
                for i in range(start, start + 300):
                    spoofed = {"id.orig_h": f"10.{i >> 8}.{i & 255}.1", "src_ip": f"10.{i >> 8}.{i & 255}.1"}
                    ports = {"id.resp_p": i % 30_000, "dest_port": i % 30_000}
                    lines.append(orjson.dumps(addressed | {key: v for key, v in (spoofed | ports).items() if key in addressed}))
                decoded = decoder.decode(lines)
                decoded.block.record += start
                assert [names.values[code] for code in decoded.block.actor.tolist()] == [
                    f"ip:10.{i >> 8}.{i & 255}.1" for i in range(start, start + 300)
                ]
                held.append(names.held)
                yield decoded

    for _ in Pipeline(Cores(parse("")), names=names).run([Spoofed()]):
        pass
    assert max(held) <= 1000 + 3 * 300
    assert names.epoch > 10
