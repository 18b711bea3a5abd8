"""The cores as stages between logs: the same as the embedded detector, whatever crashes."""

from __future__ import annotations

import gc
import weakref

import pytest

from connectors import ocsf
from connectors.event import block_of
from connectors.names import Names
from connectors.wire import Tick, WireError, encode_tick, replayed
from detector.config import Config, parse
from detector.judges import FuseStage
from detector.pipeline import Cores
from detector.snapshot import digest
from tests.logs import START, cut, log, row
from tests.stage_logs import Logs, whole_records


def config() -> Config:
    return parse("budget.alerts_per_day = 2000\n")


def budgets(logs: Logs) -> set[float]:
    """Alerts a day that the judges' main lines are ready to give."""
    judges = [worker.stage for worker in logs.workers.values()]
    return {judge.judges["main"].state.budget.per_day for judge in judges if isinstance(judge, FuseStage)}


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


@pytest.mark.parametrize("seed", [1, 2])
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


def test_judges_of_a_backlog_need_not_wait_for_the_budget_that_they_share() -> None:
    given, block = parse("budget.alerts_per_day = 8\n"), log(1500, hours=400.0)
    heard = Logs(given, 2)
    for part in whole_records(block, 60):
        heard.ingest(part)
        heard.drain()
    logs = Logs(given, 2)
    away = logs.workers.pop(("budget", 0))
    for part in whole_records(block, 60):
        logs.ingest(part)
    logs.drain()
    opened, opened_heard = ({alert.blamed for alert in each.alerts} for each in (logs, heard))
    # A partition begins when it has seen enough by itself, which is later.
    assert len(opened) > 0.3 * len(opened_heard)
    assert len(opened & opened_heard) > 0.5 * len(opened)
    logs.workers["budget", 0] = away
    logs.drain()
    for key, fold in logs.folds().items():
        assert digest(logs.workers[key].stage) == digest(fold.stage), key


def test_a_configuration_of_the_log_holds_from_its_place_on_and_after_a_restart() -> None:
    given, block = config(), log(600, 5, hours=400.0)
    logs = Logs(given, 2)
    parts = list(whole_records(block, 50))
    for part in parts[:4]:
        logs.ingest(part)
    logs.drain()
    assert {worker.stage.control.version for worker in logs.workers.values()} == {0}
    logs.govern(1, "budget.alerts_per_day = 3\n")
    for part in parts[4:]:
        logs.ingest(part)
    logs.drain()
    assert budgets(logs) == {3.0}
    for worker in logs.workers.values():
        worker.begin_checkpoint()
        worker.end_checkpoint()
        before = digest(worker.stage)
        worker.open()
        assert digest(worker.stage) == before
    assert budgets(logs) == {3.0}
    logs.govern(1, "budget.alerts_per_day = 9\n")
    logs.drain()
    assert budgets(logs) == {3.0}


def test_a_configuration_that_would_change_what_profiles_mean_stops_the_worker() -> None:
    logs = Logs(config(), 1)
    logs.govern(1, "time.lateness_minutes = 5\n")
    with pytest.raises(WireError, match=r"changes \[signals\], \[calibration\] or \[time\]"):
        logs.drain()


def test_a_stage_refuses_a_block_of_a_newer_version_and_is_left_as_it_was() -> None:
    logs = Logs(config(), 1)
    logs.topics["by_actor", 0].append(encode_tick(Names(), Tick(0, 0)).replace(b'"version":1', b'"version":9'))
    worker = logs.workers["actor", 0]
    before = digest(worker.stage)
    with pytest.raises(WireError, match="block of version 9; this release reads 1 to 1"):
        worker.step()
    assert digest(worker.stage) == before


def test_rows_of_one_record_over_two_blocks_would_be_lost_which_is_why_nobody_splits_them() -> None:
    names = Names()
    rows = [row(names, 7, START + each, "user:ann", f"host:h{each}") for each in range(4)]
    whole, split = Logs(config(), 1), Logs(config(), 1)
    whole.ingest(block_of(names, "made_up", rows))
    for part in cut(block_of(names, "made_up", rows), [2]):
        split.ingest(part)
    for logs in (whole, split):
        logs.drain()
    assert [logs.workers["actor", 0].stage.rows for logs in (whole, split)] == [4, 2]


def test_a_suppressed_identity_opens_no_alert_until_its_time_is_over() -> None:
    block = log(3000)
    told = {ocsf.alert_of(each).blamed for each in embedded(block, config())}
    someone = min(told)
    until = "2024-06-01T00:00:00Z"
    text = f'[[suppressions]]\nreason = "a test"\nowner = "soc"\nscope = ["{someone}"]\nuntil = {until}\n'
    assert {ocsf.alert_of(each).blamed for each in embedded(block, parse("budget.alerts_per_day = 2000\n" + text))} >= told - {someone}
    assert someone not in {ocsf.alert_of(each).blamed for each in embedded(block, parse("budget.alerts_per_day = 2000\n" + text))}
    over = text.replace("2024-06-01", "2023-06-01")
    assert someone in {ocsf.alert_of(each).blamed for each in embedded(block, parse("budget.alerts_per_day = 2000\n" + over))}


def test_an_alert_that_played_back_records_had_a_part_in_says_so_and_no_other_does() -> None:
    live, played, both = Logs(config(), 1), Logs(config(), 1), Logs(config(), 1)
    parts = list(whole_records(log(3000), 130))
    for number, part in enumerate(parts):
        live.ingest(part.take(slice(None)))
        played.ingest(part.take(slice(None)), replayed("raw-0@id"))
        both.ingest(part, "raw-0@id" if number < len(parts) // 2 else replayed("raw-0@id"))
    for logs in (live, played, both):
        logs.drain()
    told = {name: [ocsf.alert_of(each) for each in logs.told()] for name, logs in (("live", live), ("played", played), ("both", both))}
    assert {alert.replayed for alert in told["live"]} == {False}
    assert {alert.replayed for alert in told["played"]} == {True}
    assert {alert.replayed for alert in told["both"]} == {False, True}
    seen: dict[str, bool] = {}
    for alert in sorted(told["both"], key=lambda each: each.revision):
        assert alert.replayed or not seen.get(alert.uid), "once played back, an alert stays so"
        seen[alert.uid] = alert.replayed
    # In everything else it is the same detector.
    for alert in told["played"]:
        alert.replayed = False
    assert told["played"] == told["live"]


def test_profiles_leave_memory_with_the_partition_they_are_of() -> None:
    logs = Logs(config(), 2)
    for part in whole_records(log(900), 50):
        logs.ingest(part)
    logs.drain()
    tables = [weakref.ref(table) for worker in logs.workers.values() for table in worker.stage.tables()]
    assert len(tables) > 10
    gc.collect()
    gc.disable()
    try:
        for worker in logs.workers.values():
            # Amid a checkpoint, of which a part is written.
            worker.begin_checkpoint()
            assert worker.snapshot is not None
            next(worker.snapshot.records())
            worker.open()
        del worker
        assert [table() for table in tables if table() is not None] == []
    finally:
        gc.enable()
