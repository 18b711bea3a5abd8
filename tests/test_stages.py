"""The cores as stages between logs: the same as the embedded detector, whatever crashes."""

from __future__ import annotations

import pytest

from connectors import ocsf
from detector.config import Config, parse
from detector.pipeline import Cores
from detector.snapshot import digest
from tests.logs import cut, log
from tests.stage_logs import Logs, whole_records


def config() -> Config:
    return parse("budget.alerts_per_day = 2000\n")


def embedded(block, given: Config) -> list[bytes]:  # type: ignore[no-untyped-def]
    cores = Cores(given)
    cores.fusion.paths = cores.slow.paths = ("raw-0",)
    return sorted({ocsf.encode(alert, "0") for part in cut(block, [700, 1500]) for alert in cores.fold(part)})


def test_one_partition_gives_the_alerts_of_the_embedded_detector_byte_for_byte() -> None:
    given = config()
    block = log(3000)
    logs = Logs(given, 1)
    for part in whole_records(block, 130):
        logs.ingest(part)
    logs.drain()
    assert len(logs.told()) > 5
    assert logs.told() == embedded(block, given)


@pytest.mark.parametrize("seed", (1, 2))
def test_whatever_crashes_every_event_counts_once_and_every_state_is_the_fold_of_its_log(seed: int) -> None:
    given, block = config(), log(900, seed, hours=400.0)
    logs = Logs(given, 3, seed, names_limit=60)
    for part in whole_records(block, 17):
        logs.ingest(part)
        logs.chaos(12)
    logs.tick(int(block.time.max()) + 7 * 24 * 3_600_000_000)
    logs.chaos(300)
    logs.drain()
    for key, fold in logs.folds().items():
        assert digest(logs.workers[key].stage) == digest(fold.stage), key
    assert logs.told() == logs.fold_alerts
    assert len({(ocsf.alert_of(said).uid, ocsf.alert_of(said).revision) for said in logs.told()}) == len(logs.told()) > 1
    calm = Logs(given, 3)
    for part in whole_records(block, 17):
        calm.ingest(part)
    calm.drain()
    for partition in range(3):
        # The first counter of a visit's pairs: how often each actor has met each endpoint, whatever order the logs were in.
        seen = [
            sum(int(t["units"]["days"].sum()) for t in each.workers["actor", partition].stage.tables() if t.name == "actor.actor_pair")
            for each in (calm, logs)
        ]
        assert seen[0] == seen[1]
