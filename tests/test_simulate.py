"""The simulator: reproducible, in the sources' own formats, attacks that only add, and a background with a life of its own."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from datetime import date
from itertools import pairwise
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import orjson
import pytest

from connectors.event import DAY, HOUR, SECOND, Block
from connectors.names import Names
from connectors.sources import Decoded, available
from connectors.sources._records import iso_time
from replay.simulate import (
    ATTACKS,
    ATTESTATION,
    CONN,
    FILES,
    INVENTORY,
    KEYCLOAK,
    KUBERNETES,
    REGISTRY,
    SLURM,
    TRUTH,
    Attack,
    Inventory,
    Truth,
    simulate,
)
from replay.simulate.journal import SOURCES, Journal
from tests.shared import samples

DAYS, SCALE = 2, 0.2


def lines(folder: Path, name: str) -> list[bytes]:
    return (folder / name).read_bytes().splitlines(keepends=True)


def records(folder: Path, name: str) -> list[dict[str, Any]]:
    return [orjson.loads(line) for line in lines(folder, name)]


def digests(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.iterdir())}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("factory")
    simulate(out, days=DAYS, scale=SCALE)
    return out


@pytest.fixture(scope="module")
def truth(folder: Path) -> Truth:
    return msgspec.json.decode((folder / TRUTH).read_bytes(), type=Truth)


@pytest.fixture(scope="module")
def inventory(folder: Path) -> Inventory:
    return msgspec.json.decode((folder / INVENTORY).read_bytes(), type=Inventory)


@pytest.fixture(scope="module")
def decoded(folder: Path) -> dict[str, Decoded]:
    return {name: available()[source](Names()).decode(lines(folder, name)) for name, source in SOURCES.items()}


def test_two_processes_with_other_hash_seeds_write_the_same_bytes(tmp_path: Path, folder: Path) -> None:
    script = (
        "import sys; from pathlib import Path; from replay.simulate import simulate; simulate(Path(sys.argv[1]), days=2, scale=0.2)"
    )
    for hash_seed in ("0", "4711"):
        out = tmp_path / hash_seed
        environment = {**os.environ, "PYTHONHASHSEED": hash_seed}
        subprocess.run([sys.executable, "-c", script, str(out)], check=True, env=environment, cwd=Path(__file__).parents[1])  # noqa: S603 - our own interpreter
        assert digests(out) == digests(folder)


def test_another_seed_is_another_factory(tmp_path: Path, folder: Path) -> None:
    simulate(tmp_path, days=DAYS, scale=SCALE, seed=2)
    here, there = digests(tmp_path), digests(folder)
    assert all(here[name] != there[name] for name in (*FILES, TRUTH, INVENTORY))


def _conn_written(record: dict[str, Any]) -> float:
    return float(round(record["ts"] * SECOND) + round(record.get("duration", 0) * SECOND))


WRITTEN: dict[str, Callable[[dict[str, Any]], float]] = {
    CONN: _conn_written,
    REGISTRY: lambda record: iso_time(record["events"][0]["timestamp"], "timestamp"),
    SLURM: lambda record: iso_time(record.get("@end", record["@start"]), "@start"),
    KUBERNETES: lambda record: iso_time(record["stageTimestamp"], "stageTimestamp"),
    KEYCLOAK: lambda record: record["time"] * 1000,
    ATTESTATION: lambda record: record["claims"]["iat"] * SECOND,
}


@pytest.mark.parametrize("name", FILES)
def test_a_file_is_in_the_order_its_records_are_written(folder: Path, truth: Truth, name: str) -> None:
    times = [WRITTEN[name](record) for record in records(folder, name)]
    assert times
    assert all(before <= after for before, after in pairwise(times))
    assert truth.start - SECOND <= times[0]
    assert times[-1] < truth.end
    assert truth.records[name] == len(times)


@pytest.mark.parametrize("name", FILES)
def test_every_record_decodes(decoded: dict[str, Decoded], truth: Truth, name: str) -> None:
    result = decoded[name]
    assert result.rejects == []
    # The API server reports the beginning of an exec as well as its end; only the end is an event.
    assert set(result.skipped) <= ({"ResponseStarted"} if name == KUBERNETES else set())
    assert len(set(result.block.record.tolist())) + sum(result.skipped.values()) == truth.records[name]


@pytest.mark.parametrize("name", FILES)
def test_a_file_is_recognised_by_its_source_alone(folder: Path, name: str) -> None:
    record = records(folder, name)[0]
    assert [source for source, plugin in available().items() if plugin.recognises(record)] == [SOURCES[name]]


def test_our_records_have_no_field_that_real_ones_lack(folder: Path) -> None:
    def fields(path: Path) -> set[str]:
        return {key for line in path.read_bytes().splitlines() for key in orjson.loads(line)}

    for ours, real in ((SLURM, "slurm_jobcomp_kafka_26.05.5.jsonl"), (KUBERNETES, "kube_audit_real.jsonl")):
        assert fields(folder / ours) <= fields(samples() / real)
    event = {key for record in records(folder, REGISTRY) for key in record["events"][0]}
    target = {key for record in records(folder, REGISTRY) for key in record["events"][0]["target"]}
    for line in (samples() / "oci_distribution_2.8.2_notifications.jsonl").read_bytes().splitlines():
        event -= orjson.loads(line)["events"][0].keys()
        target -= orjson.loads(line)["events"][0]["target"].keys()
    assert not event
    assert not target


def test_without_the_attacks_exactly_the_background_is_left(tmp_path: Path, folder: Path, truth: Truth) -> None:
    quiet = simulate(tmp_path, days=DAYS, scale=SCALE, attacks=())
    assert quiet.attacks == []
    for name in FILES:
        malicious = {number for attack in truth.attacks for number in attack.records.get(name, [])}
        background = [line for number, line in enumerate(lines(folder, name)) if number not in malicious]
        assert background == lines(tmp_path, name)
    assert any(attack.records.get(CONN) for attack in truth.attacks)


def test_an_attack_is_the_same_whether_alone_or_among_others(tmp_path: Path, folder: Path, truth: Truth) -> None:
    alone = simulate(tmp_path, days=DAYS, scale=SCALE, attacks=["slow-drip"])
    (drip,) = alone.attacks
    among = next(attack for attack in truth.attacks if attack.name == "slow-drip")
    theirs, ours = lines(folder, CONN), lines(tmp_path, CONN)
    assert [ours[number] for number in drip.records[CONN]] == [theirs[number] for number in among.records[CONN]]


def test_no_record_carries_a_label(folder: Path) -> None:
    for name in FILES:
        content = (folder / name).read_bytes()
        assert not any(attack.encode() in content for attack in (*ATTACKS, "attack", "malicious", "truth"))


def involved(block: Block, numbers: list[int]) -> tuple[set[str], set[str], set[str]]:
    """Actors, vias and objects of the rows of some records."""
    rows = np.isin(block.record, numbers)
    names = block.names.values
    actors, vias, objects = (
        {names[code] for code in column[rows].tolist() if code >= 0} for column in (block.actor, block.via, block.object)
    )
    return actors, vias, objects


@pytest.mark.parametrize("position", range(len(ATTACKS)), ids=ATTACKS)
def test_the_records_of_an_attack_are_its_actors(decoded: dict[str, Decoded], truth: Truth, position: int) -> None:
    attack = truth.attacks[position]
    known = {*attack.actors, *attack.via}
    # A login names the account by its number.
    numbers = {link.subject for link in decoded[KEYCLOAK].bindings if link.target in attack.actors}
    touched: set[str] = set()
    for name, records_ in attack.records.items():
        actors, vias, objects = involved(decoded[name].block, records_)
        assert actors <= known | numbers, name
        if name in (REGISTRY, KUBERNETES):
            assert vias <= known, name
        touched |= objects
    assert set(attack.objects) <= touched


@pytest.mark.parametrize("position", range(len(ATTACKS)), ids=ATTACKS)
def test_an_attack_begins_and_ends_with_its_records_on_the_last_day(folder: Path, truth: Truth, position: int) -> None:
    attack = truth.attacks[position]
    times = []
    for name, numbers in attack.records.items():
        content = records(folder, name)
        assert numbers == sorted(set(numbers))
        times += [WRITTEN[name](content[number]) for number in numbers]
    # Slurm and Keycloak cut their times to seconds and milliseconds.
    assert abs(min(times) - attack.first) < SECOND
    assert abs(max(times) - attack.last) < SECOND
    assert truth.end - DAY <= attack.first < attack.last < truth.end


def attack_of(truth: Truth, name: str) -> Attack:
    return next(attack for attack in truth.attacks if attack.name == name)


def test_the_bulk_pull_takes_what_its_user_never_took(decoded: dict[str, Decoded], truth: Truth) -> None:
    attack = attack_of(truth, "bulk-pull")
    block = decoded[REGISTRY].block
    names, malicious = block.names.values, set(attack.records[REGISTRY])
    loot = {name for name in attack.objects if name.startswith("model:")}
    before = {
        names[o]
        for a, o, number in zip(block.actor.tolist(), block.object.tolist(), block.record.tolist(), strict=True)
        if names[a] == attack.actors[0] and number not in malicious
    }
    assert len(loot) == 25
    assert not loot & before
    assert HOUR / 2 < attack.last - attack.first < 2 * HOUR


def test_the_bulk_pull_sends_out_what_it_took(folder: Path, truth: Truth) -> None:
    attack = attack_of(truth, "bulk-pull")
    conn, registry = records(folder, CONN), records(folder, REGISTRY)
    outside = attack.objects[-1].removeprefix("ip:")
    sent = sum(conn[number]["orig_bytes"] for number in attack.records[CONN] if conn[number]["id.resp_h"] == outside)
    targets = [registry[number]["events"][0] for number in attack.records[REGISTRY]]
    pulled = sum(event["target"]["size"] for event in targets if event["request"]["method"] == "GET")
    assert sent == pytest.approx(pulled, rel=0.02)
    assert sent > 50e9


def test_the_stolen_token_is_refused_most_secrets(folder: Path, truth: Truth) -> None:
    attack = attack_of(truth, "stolen-token")
    audit = records(folder, KUBERNETES)
    codes = Counter(audit[number]["responseStatus"]["code"] for number in attack.records[KUBERNETES])
    assert codes[200] >= 2
    assert codes[403] >= 3
    assert attack.actors[0].partition("/")[0] != attack.actors[1].partition("/")[0]


def test_the_slow_drip_is_slow(folder: Path, truth: Truth) -> None:
    attack = attack_of(truth, "slow-drip")
    everything = records(folder, CONN)
    conn = [everything[number] for number in attack.records[CONN]]
    assert 17 * HOUR < attack.last - attack.first < 19 * HOUR
    assert all(15e6 <= record["orig_bytes"] < 40e6 for record in conn)
    assert {record["id.resp_h"] for record in conn} == {attack.objects[0].removeprefix("ip:")}


def test_lateral_movement_reaches_a_dozen_neighbours_on_four_ports(tmp_path: Path) -> None:
    # At the usual size: a small factory has fewer neighbours.
    (attack,) = simulate(tmp_path, days=1, scale=0.5, attacks=["lateral-movement"]).attacks
    conn = records(tmp_path, CONN)
    tried = {(conn[number]["id.resp_h"], conn[number]["id.resp_p"]) for number in attack.records[CONN]}
    assert len({host for host, port in tried if port == 22}) >= 12
    assert {port for _, port in tried} >= {22, 445, 5985, 10250}


def test_attackers_come_from_where_nobody_else_goes(folder: Path, truth: Truth) -> None:
    malicious = {number for attack in truth.attacks for number in attack.records.get(CONN, [])}
    outside = {number for number, record in enumerate(records(folder, CONN)) if record["id.resp_h"].startswith("192.0.2.")}
    assert outside
    assert outside <= malicious
    strangers = [
        name for attack in truth.attacks for name in attack.objects if name.startswith("ip:") and not name.startswith("ip:10.")
    ]
    assert len(strangers) == 2
    assert all(name.startswith("ip:192.0.2.") for name in strangers)


def test_an_address_passes_from_pod_to_pod(inventory: Inventory) -> None:
    owners: dict[str, set[str]] = {}
    for pod in inventory.pods:
        owners.setdefault(pod.ip, set()).add(pod.service_account)
    assert sum(len(accounts) > 1 for accounts in owners.values()) >= 3


def test_an_address_belongs_to_one_pod_at_a_time(inventory: Inventory) -> None:
    lives: dict[str, list[tuple[str, str]]] = {}
    for pod in inventory.pods:
        lives.setdefault(pod.ip, []).append((pod.begins, pod.ends or "9999"))
    for intervals in lives.values():
        assert all(before[1] < after[0] for before, after in pairwise(sorted(intervals)))


def test_a_pods_address_is_silent_unless_the_pod_lives(tmp_path: Path) -> None:
    # Large and long enough that several services are rolled out in full work.
    simulate(tmp_path, days=3)
    inventory = msgspec.json.decode((tmp_path / INVENTORY).read_bytes(), type=Inventory)
    lives: dict[str, list[tuple[int, float]]] = {}
    for pod in inventory.pods:
        end = iso_time(pod.ends, "to") + SECOND if pod.ends else float("inf")
        lives.setdefault(pod.ip, []).append((iso_time(pod.begins, "from"), end))
    for record in records(tmp_path, CONN):
        for place in (record["id.orig_h"], record["id.resp_h"]):
            if place.startswith("10.42."):
                begins, ends = round(record["ts"] * SECOND), _conn_written(record)
                assert any(born <= begins and ends <= dies for born, dies in lives[place]), record


def test_a_pull_has_its_connection_with_room_for_its_bytes(folder: Path) -> None:
    carried = Counter[tuple[str, int]]()
    for record in records(folder, CONN):
        carried[record["id.orig_h"], record["id.orig_p"]] += record.get("orig_bytes", 0) + record.get("resp_bytes", 0)
    moved = Counter[tuple[str, int]]()
    last = max(_conn_written(record) for record in records(folder, CONN))
    for record in records(folder, REGISTRY):
        event = record["events"][0]
        place, _, port = event["request"]["addr"].partition(":")
        # A session that is still open when the simulation ends has no connection yet.
        if event["request"]["method"] != "HEAD" and WRITTEN[REGISTRY](record) < last - 2 * HOUR:
            moved[place, int(port)] += event["target"]["size"] if "references" not in event["target"] else 0
    assert len(moved) > 50
    assert all(carried[peer] >= size for peer, size in moved.items())


def test_people_are_quiet_at_night_and_on_weekends(tmp_path: Path) -> None:
    simulate(tmp_path, days=2, scale=0.5, attacks=(), start=date(2026, 3, 6))
    by_hour, by_day = Counter[int](), Counter[int]()
    for record in records(tmp_path, CONN):
        if record["id.orig_h"].startswith(("10.20.", "10.30.")):
            hour = int(record["ts"]) // 3600
            by_hour[hour % 24] += 1
            by_day[hour // 24] += 1
    friday, saturday = (count for _, count in sorted(by_day.items()))
    assert sum(by_hour[hour] for hour in range(9, 15)) > 5 * sum(by_hour[hour] for hour in range(6))
    assert friday > 3 * saturday


def test_somebody_starts_on_the_third_day(tmp_path: Path) -> None:
    simulate(tmp_path, days=3, scale=SCALE, attacks=())
    firsts: dict[str, int] = {}
    for record in records(tmp_path, KEYCLOAK):
        if record["type"] == "LOGIN":
            firsts.setdefault(record["details"]["username"], record["time"] // 86_400_000)
    began = min(firsts.values())
    inventory = msgspec.json.decode((tmp_path / INVENTORY).read_bytes(), type=Inventory)
    newest = [user.name for user in inventory.users if not user.name.startswith("service-account-")][-1]
    assert firsts[newest] == began + 2


def test_the_scanner_scans_every_night_and_is_no_attack(folder: Path, truth: Truth) -> None:
    malicious = {number for attack in truth.attacks for number in attack.records.get(CONN, [])}
    scans = [(number, record) for number, record in enumerate(records(folder, CONN)) if record["id.orig_h"] == "10.10.2.200"]
    assert {int(record["ts"] * SECOND - truth.start) // DAY for _, record in scans} == set(range(DAYS))
    assert not malicious & {number for number, _ in scans}


def test_what_an_attack_used_can_be_contained(truth: Truth, inventory: Inventory) -> None:
    pods = {f"pod:{pod.namespace}/{pod.name}" for pod in inventory.pods}
    users = {f"user:{user.name}" for user in inventory.users}
    accounts = {f"sa:{account.namespace}/{account.name}": account.tokens for account in inventory.service_accounts}
    for attack in truth.attacks:
        assert {name for name in attack.via if name.startswith("pod:")} <= pods
        assert set(attack.actors) <= users | accounts.keys()
    robbed = attack_of(truth, "stolen-token")
    (token,) = (name.removeprefix("token:") for name in robbed.via if name.startswith("token:"))
    assert token in accounts[robbed.actors[0]]


def test_jobs_and_tokens_of_the_inventory_are_those_of_the_logs(decoded: dict[str, Decoded], inventory: Inventory) -> None:
    owners = {link.subject: link.target for link in decoded[SLURM].bindings}
    assert {f"job:{job.id}": f"user:{job.user}" for job in inventory.jobs if job.state != "PENDING"} == owners
    held = {link.subject for link in decoded[KEYCLOAK].bindings}
    listed = {f"token:{token}" for user in inventory.users for token in user.tokens}
    listed |= {f"session:{session}" for user in inventory.users for session in user.sessions}
    # A log-in of a late shift may fall after the end, and then is in no log.
    assert {name for name in held if not name.startswith("user:")} <= listed
    assert len(held) > 100


def test_the_smallest_factory_has_room_for_every_attack(tmp_path: Path) -> None:
    truth = simulate(tmp_path, days=1, scale=0.001, seed=5)
    assert [attack.name for attack in truth.attacks] == list(ATTACKS)
    assert all(sum(map(len, attack.records.values())) > 10 for attack in truth.attacks)


@pytest.mark.parametrize("seed", range(3, 9))
def test_any_seed_makes_a_factory_with_every_attack(tmp_path: Path, seed: int) -> None:
    truth = simulate(tmp_path, days=1, scale=0.1, seed=seed)
    assert [attack.name for attack in truth.attacks] == list(ATTACKS)


def test_a_larger_factory_writes_more(tmp_path: Path, truth: Truth) -> None:
    larger = simulate(tmp_path, days=DAYS, scale=4 * SCALE)
    assert all(larger.records[name] > 1.5 * truth.records[name] for name in FILES)


def test_the_example_of_the_document_runs(tmp_path: Path) -> None:
    document = (Path(__file__).parents[1] / "docs" / "simulator.md").read_text()
    example = document.partition("```python\n")[2].partition("```")[0]
    done = subprocess.run([sys.executable, "-c", example], check=True, cwd=tmp_path, capture_output=True, text=True)  # noqa: S603 - ditto
    assert [line.partition(" ")[0] for line in done.stdout.splitlines()] == list(ATTACKS)
    assert {path.name for path in (tmp_path / "factory").iterdir()} == {*FILES, TRUTH, INVENTORY}


def test_progress_rises_to_one(tmp_path: Path) -> None:
    shares: list[float] = []
    simulate(tmp_path, days=1, scale=0.1, progress=shares.append)
    assert shares == sorted(shares)
    assert shares[-1] == 1.0
    assert len(shares) > 5


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        ({"days": 0}, "days"),
        ({"days": -3}, "days"),
        ({"scale": 0.0}, "scale"),
        ({"scale": -1.0}, "scale"),
        ({"scale": float("nan")}, "scale"),
        ({"scale": float("inf")}, "scale"),
        ({"seed": -1}, "seed"),
        ({"attacks": ["bulk-pull", "ransom"]}, "ransom"),
        ({"start": date(1970, 1, 1)}, "start"),
        ({"start": date(2099, 12, 31), "days": 400}, "start"),
    ],
)
def test_an_argument_that_cannot_be_is_refused_before_anything_is_written(tmp_path: Path, arguments: dict[str, Any], word: str) -> None:
    out = tmp_path / "out"
    with pytest.raises(ValueError, match=word):
        simulate(out, **arguments)
    assert not out.exists()


def test_records_of_one_time_keep_the_order_they_came_in(tmp_path: Path) -> None:
    with Journal(tmp_path) as journal:
        journal.extend(CONN, (3, 1, 3), (b"a\n", b"b\n", b"c\n"))
        journal.add(CONN, 9, b"later\n")
        journal.add(CONN, 3, b"d\n", "theft")
        journal.settle(9)
        journal.add(CONN, 9, b"last\n")
        journal.settle(10)
    assert (tmp_path / CONN).read_bytes() == b"b\na\nc\nd\nlater\nlast\n"
    assert journal.marked["theft"].records == {CONN: [3]}


def test_a_record_that_comes_too_late_is_refused(tmp_path: Path) -> None:
    with Journal(tmp_path) as journal:
        journal.settle(100)
        with pytest.raises(ValueError, match=CONN):
            journal.add(CONN, 99, b"{}\n")
