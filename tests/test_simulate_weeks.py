"""What a simulated fortnight has beside office hours: new colleagues, on-call nights, weekly maintenance."""

from __future__ import annotations

from collections import Counter
from datetime import date
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import orjson
import pytest

from connectors.event import DAY, HOUR, MINUTE, SECOND
from connectors.names import Names
from connectors.sources import available
from connectors.sources._records import iso_time
from replay.simulate import ATTESTATION, CONN, INVENTORY, KEYCLOAK, KUBERNETES, SLURM, START, Inventory, Truth, simulate
from replay.simulate.factory import build
from replay.simulate.journal import SOURCES, Sheet
from replay.simulate.schedule import Call, Window, call, window, windows
from replay.simulate.world import World, randomness

DAYS = 16
#: The Thursdays of a simulation that begins on a Monday.
THURSDAYS = (3, 10)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("weeks")


@pytest.fixture(scope="module")
def truth(folder: Path) -> Truth:
    return simulate(folder, days=DAYS, scale=0.2, attacks=["boiling-frog"])


@pytest.fixture(scope="module")
def world(truth: Truth) -> World:
    return World(build(randomness(truth.seed, "factory"), truth.scale, DAYS), truth.seed, truth.start, DAYS, Sheet())


def records(folder: Path, name: str) -> list[dict[str, Any]]:
    return [orjson.loads(line) for line in (folder / name).read_bytes().splitlines()]


def test_every_record_of_a_fortnight_decodes(folder: Path, truth: Truth) -> None:
    for name, source in SOURCES.items():
        decoded = available()[source](Names()).decode((folder / name).read_bytes().splitlines())
        assert decoded.rejects == []
        assert len(set(decoded.block.record.tolist())) + sum(decoded.skipped.values()) == truth.records[name]


def test_new_colleagues_come_in_each_week_as_far_as_there_is_time(folder: Path, truth: Truth, world: World) -> None:
    firsts: dict[str, int] = {}
    for record in records(folder, KEYCLOAK):
        if record["type"] == "LOGIN":
            firsts.setdefault(record["details"]["username"], (record["time"] * 1000 - truth.start) // DAY)
    newest = world.factory.users[-3:]
    assert [user.joins for user in newest] == [15, 8, 2]
    assert all(firsts[user.name] >= user.joins for user in newest)
    assert [firsts[user.name] for user in newest[1:]] == [8, 2]
    assert [sum(bool(user.joins) for user in build(randomness(1, "factory"), 0.2, days).users) for days in (1, 8, 9, 15, 16)] == [
        *(1, 1, 2, 2, 3)
    ]


def calls(world: World) -> list[tuple[int, Call]]:
    return [(day, found) for day in range(DAYS) if (found := call(world, day)) is not None]


def test_one_engineer_a_week_is_called_on_some_nights(folder: Path, world: World) -> None:
    found = calls(world)
    assert 2 <= len(found) <= 12
    assert {len({each.user.name for day, each in found if day // 7 == week}) for week in range(2)} <= {0, 1}
    logins = [
        (record["details"]["username"], record["time"] * 1000) for record in records(folder, KEYCLOAK) if record["type"] == "LOGIN"
    ]
    audit = records(folder, KUBERNETES)
    for _, each in found:
        assert 30 <= (each.begins + each.user.offset * MINUTE) % DAY // MINUTE < 270
        assert any(name == each.user.name and abs(time - each.begins) < 5 * MINUTE for name, time in logins)
        asked = [record for record in audit if record["user"]["username"] == each.user.name and record["sourceIPs"] == [each.user.vpn]]
        during = [record for record in asked if each.begins <= iso_time(record["stageTimestamp"], "t") < each.ends + HOUR]
        assert {"list"} <= {record["verb"] for record in during}


def test_what_is_started_again_at_night_has_its_pod(folder: Path, world: World) -> None:
    again = [each for _, each in calls(world) if each.again is not None]
    assert again
    inventory = msgspec.json.decode((folder / INVENTORY).read_bytes(), type=Inventory)
    owners = {pod.owner: pod for pod in inventory.pods}
    for each in again:
        pod = owners[f"Job/evaluate-again-{(each.again or 0) // MINUTE}"]
        assert abs(iso_time(pod.begins, "from") - (each.again or 0)) < MINUTE


def turns(world: World) -> list[tuple[int, int, Window]]:
    return [(day, node, turn) for day in range(DAYS) for node, turn in windows(world, day).items()]


def test_every_node_has_its_turn_every_fourth_week_on_a_thursday(world: World) -> None:
    assert {day for day, _, _ in turns(world)} == set(THURSDAYS)
    long = World(world.factory, 1, world.start, 28, Sheet())
    assert Counter(node for day in range(28) for node in windows(long, day)) == Counter(range(len(world.factory.nodes)))
    day, node, turn = turns(world)[0]
    assert window(world, node, 0 * DAY + world.start, world.end) == turn
    assert window(world, node, turn.ends, world.midnight(day + 20)) is None


def test_a_node_that_is_drained_has_no_pod_and_is_silent_while_it_reboots(folder: Path, world: World) -> None:
    inventory = msgspec.json.decode((folder / INVENTORY).read_bytes(), type=Inventory)
    conn, attested = records(folder, CONN), records(folder, ATTESTATION)
    moved = 0
    for _, node, turn in turns(world):
        name, place = world.factory.nodes[node], world.factory.node_address(node)
        there = [pod for pod in inventory.pods if pod.node == name]
        lives = [(iso_time(pod.begins, "from"), iso_time(pod.ends, "to") if pod.ends else world.end) for pod in there]
        assert not [life for life in lives if life[0] < turn.ends and life[1] > turn.down]
        moved += sum(turn.begins < life[1] < turn.down for life in lives)
        for record in conn:
            begins = record["ts"] * SECOND
            if record["id.orig_h"] == place:
                assert not turn.down <= begins < turn.up
            if record["id.resp_h"] == place and turn.down <= begins < turn.up:
                assert record["conn_state"] == "S0"
        up = [record["claims"]["iat"] * SECOND for record in attested if record["node"] == name]
        assert [time for time in up if turn.up <= time < turn.up + 3 * MINUTE]
        assert not [time for time in up if turn.down <= time < turn.up]
    assert moved


def test_an_administrator_cordons_nodes_and_evicts_their_pods(folder: Path, world: World) -> None:
    audit = records(folder, KUBERNETES)
    evicted = [record for record in audit if record["objectRef"].get("subresource") == "eviction"]
    cordoned = [record for record in audit if record["objectRef"]["resource"] == "nodes"]
    assert evicted
    assert len(cordoned) == 2 * len(turns(world))
    admins = {user.name for user in world.factory.users if user.admin}
    assert {record["user"]["username"] for record in (*evicted, *cordoned)} <= admins
    assert {"namespace" in record["objectRef"] for record in cordoned} == {False}
    assert cordoned[0]["requestURI"] == f"/api/v1/nodes/{cordoned[0]['objectRef']['name']}"
    days = {(iso_time(record["stageTimestamp"], "t") - world.start) // DAY for record in evicted}
    assert days <= set(THURSDAYS)


def test_jobs_that_maintenance_stops_begin_anew_elsewhere(tmp_path: Path) -> None:
    # Thursday and the day before; large enough that there are jobs at four in the morning.
    simulate(tmp_path, days=3, scale=1.0, attacks=(), start=date(2026, 3, 4))
    jobs = records(tmp_path, SLURM)
    stopped = [record for record in jobs if record["state"] == "REQUEUED"]
    assert stopped
    for first in stopped:
        starts = [record for record in jobs if record["jobid"] == first["jobid"] and record["state"] is None]
        assert len(starts) == 2
        assert starts[1]["@start"] > first["@end"]
        assert starts[0]["@submit"] == starts[1]["@submit"]
    numbers = [job.id for job in msgspec.json.decode((tmp_path / INVENTORY).read_bytes(), type=Inventory).jobs]
    assert len(numbers) == len(set(numbers))
    ended = [(record["nodes"], record["@start"], record["@end"]) for record in jobs if record["state"] is not None]
    assert all(begin < end for _, begin, end in ended)


@pytest.mark.parametrize("start", [START, date(2026, 3, 4), date(2026, 3, 7)])
def test_an_attack_of_several_days_uses_a_pod_that_no_maintenance_ends(tmp_path: Path, start: date) -> None:
    truth = simulate(tmp_path, days=11, scale=0.1, attacks=["boiling-frog"], start=start)
    (attack,) = truth.attacks
    inventory = msgspec.json.decode((tmp_path / INVENTORY).read_bytes(), type=Inventory)
    (pod,) = (pod for pod in inventory.pods if f"pod:{pod.namespace}/{pod.name}" in attack.via)
    assert iso_time(pod.begins, "from") < attack.first
    assert pod.ends is None or iso_time(pod.ends, "to") > attack.last


def test_addresses_speak_only_for_living_pods_through_a_window(tmp_path: Path) -> None:
    simulate(tmp_path, days=2, scale=0.5, attacks=(), start=date(2026, 3, 4))
    inventory = msgspec.json.decode((tmp_path / INVENTORY).read_bytes(), type=Inventory)
    lives: dict[str, list[tuple[int, float]]] = {}
    for pod in inventory.pods:
        end = iso_time(pod.ends, "to") + SECOND if pod.ends else float("inf")
        lives.setdefault(pod.ip, []).append((iso_time(pod.begins, "from"), end))
    checked = 0
    for record in records(tmp_path, CONN):
        for place in (record["id.orig_h"], record["id.resp_h"]):
            if place.startswith("10.42."):
                begins = round(record["ts"] * SECOND)
                ends = begins + round(record.get("duration", 0) * SECOND)
                assert any(born <= begins and ends <= dies for born, dies in lives[place]), record
                checked += 1
    assert checked > 1000
    assert len({pod.ip for pod in inventory.pods}) < len(inventory.pods)


def test_the_plan_is_the_same_whoever_asks(world: World) -> None:
    assert [call(world, day) for day in range(DAYS)] == [call(world, day) for day in range(DAYS)]
    assert all(np.diff([turn.begins, turn.down, turn.up, turn.ends]).min() > 0 for _, _, turn in turns(world))
