"""Scenarios: found by name, each plays anywhere, only adds, and its label names exactly its records."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from connectors.event import DAY, Outcome
from connectors.names import Names
from connectors.sources import Decoded
from connectors.sources import available as sources
from replay.simulate import FILES, Attack, Truth, simulate
from replay.simulate import scenarios as package
from replay.simulate.journal import SOURCES
from replay.simulate.scenarios import available

NAMES = list(available())
SCALE, DAYS = 0.1, 3
#: The issue's families, each with the scenario that plays it.
WANTED = {
    "token stolen and used elsewhere": "stolen-token",
    "slow drip of weights over days": "weight-drip",
    "bulk pull at night": "bulk-pull",
    "restricted-repository probing": "registry-probing",
    "lateral movement across pods": "lateral-movement",
    "mining job under a stolen account": "stolen-account-mining",
    "GPU hoarding": "gpu-hoarding",
    "unseen image with exec": "unseen-image",
    "C2 beacon": "c2-beacon",
    "credential stuffing": "credential-stuffing",
    "insider with rights who collects before leaving": "leaving-insider",
    "poisoning of the baseline, then exfiltration": "boiling-frog",
    "job on an unattested node": "unattested-node",
    "agent gone astray": "stray-agent",
    "reorganisation": "reorganisation",
    "new model release day": "release-day",
    "node failure storm": "node-failures",
}


def lines(folder: Path, name: str) -> list[bytes]:
    return (folder / name).read_bytes().splitlines(keepends=True)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("scenarios")


@pytest.fixture(scope="module")
def truth(folder: Path) -> Truth:
    return simulate(folder, days=DAYS, scale=SCALE, attacks=NAMES)


@pytest.fixture(scope="module")
def decoded(folder: Path, truth: Truth) -> dict[str, Decoded]:
    assert truth.attacks
    return {name: sources()[source](Names()).decode(lines(folder, name)) for name, source in SOURCES.items()}


def of(truth: Truth, name: str) -> Attack:
    return next(attack for attack in truth.attacks if attack.name == name)


def test_every_family_has_a_file_and_hard_cases_are_benign() -> None:
    assert set(WANTED.values()) <= set(NAMES)
    assert {name for name in NAMES if available()[name].benign} == {"reorganisation", "release-day", "node-failures"}
    files = {path.stem for path in Path(package.__path__[0]).glob("*.py")} - {"__init__"}
    assert {file.replace("_", "-") for file in files} == set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_an_attack_has_technique_ids_and_a_hard_case_has_none(name: str) -> None:
    scenario = available()[name]
    assert bool(scenario.techniques) != scenario.benign
    assert len(set(scenario.techniques)) == len(scenario.techniques)
    assert all(re.fullmatch(r"(AML\.)?T\d{4}(\.\d{3})?", technique) for technique in scenario.techniques)


def test_everything_decodes(decoded: dict[str, Decoded]) -> None:
    assert all(result.rejects == [] for result in decoded.values())


@pytest.mark.parametrize("name", NAMES)
def test_a_label_has_records_times_and_somebody(truth: Truth, name: str) -> None:
    attack = of(truth, name)
    scenario = available()[name]
    assert attack.actors
    assert attack.summary
    assert set(attack.records) == set(scenario.needs)
    assert truth.start <= attack.first <= attack.last < truth.end
    begins = max(0, DAYS - 1 - scenario.lead)
    assert (attack.first - truth.start) // DAY >= begins
    for file, numbers in attack.records.items():
        assert numbers == sorted(set(numbers))
        assert numbers[-1] < truth.records[file]


@pytest.mark.parametrize("name", NAMES)
def test_whoever_a_label_names_is_in_its_records(truth: Truth, decoded: dict[str, Decoded], name: str) -> None:
    attack = of(truth, name)
    seen: set[str] = set()
    for file, numbers in attack.records.items():
        block = decoded[file].block
        rows = np.isin(block.record, numbers)
        for column in (block.actor, block.object, block.via):
            seen |= {block.names.values[code] for code in column[rows].tolist() if code >= 0}
    resolved = {link.subject for result in decoded.values() for link in result.bindings if link.target in attack.actors}
    assert set(attack.actors) & seen or resolved & seen or set(attack.via) & seen
    assert set(attack.objects) <= seen


def test_scenarios_only_add(tmp_path: Path, folder: Path, truth: Truth) -> None:
    simulate(tmp_path, days=DAYS, scale=SCALE, attacks=())
    for file in FILES:
        theirs = {number for attack in truth.attacks for number in attack.records.get(file, ())}
        assert lines(tmp_path, file) == [line for number, line in enumerate(lines(folder, file)) if number not in theirs]


@pytest.mark.parametrize("name", ["unseen-image", "gpu-hoarding"])
def test_a_scenario_is_the_same_alone_and_among_others(tmp_path: Path, folder: Path, truth: Truth, name: str) -> None:
    (alone,) = simulate(tmp_path, days=DAYS, scale=SCALE, attacks=[name]).attacks
    among = of(truth, name)
    for file, numbers in alone.records.items():
        ours, theirs = lines(tmp_path, file), lines(folder, file)
        assert [ours[number] for number in numbers] == [theirs[number] for number in among.records[file]]


def test_a_name_given_twice_happens_twice_and_differently(tmp_path: Path) -> None:
    truth = simulate(tmp_path, days=1, scale=SCALE, attacks=["c2-beacon", "c2-beacon"])
    first, second = truth.attacks
    assert (first.instance, second.instance) == (1, 2)
    assert first.objects != second.objects
    assert not set(first.records["conn.log"]) & set(second.records["conn.log"])


def test_scenarios_of_a_day_take_turns_over_the_last_days(tmp_path: Path) -> None:
    truth = simulate(tmp_path, days=4, scale=SCALE, attacks=["c2-beacon", "lateral-movement", "stolen-token"], spread=3)
    assert sorted((attack.first - truth.start) // DAY for attack in truth.attacks) == [1, 2, 3]


def test_what_takes_days_begins_days_before(tmp_path: Path) -> None:
    truth = simulate(tmp_path, days=6, scale=SCALE, attacks=["weight-drip"])
    (attack,) = truth.attacks
    assert (attack.first - truth.start) // DAY == 1
    assert attack.last - attack.first > 4 * DAY


def test_the_frog_is_boiled_slowly_and_then_all_is_taken(truth: Truth, decoded: dict[str, Decoded]) -> None:
    block = decoded["conn.log"].block
    rows = np.isin(block.record, of(truth, "boiling-frog").records["conn.log"])
    days = (block.time[rows] - truth.start) // DAY
    sent = [block.bytes_out[rows][days == day].sum() for day in sorted(set(days.tolist()))]
    assert sent[0] < sent[1] < sent[-1] / 10
    assert sent[-1] > 50e9


def test_stuffed_credentials_are_refused_until_one_fits(truth: Truth, decoded: dict[str, Decoded]) -> None:
    block = decoded["keycloak.jsonl"].block
    rows = np.isin(block.record, of(truth, "credential-stuffing").records["keycloak.jsonl"])
    outcomes = block.outcome[rows].tolist()
    assert outcomes.count(Outcome.denied) + outcomes.count(Outcome.failed) >= 240
    assert Outcome.ok in outcomes[240:]


def test_an_unattested_node_fails_before_work_starts_on_it(truth: Truth, decoded: dict[str, Decoded]) -> None:
    attack = of(truth, "unattested-node")
    node = attack.objects[0]
    claims = decoded["attestation.jsonl"].block
    told = [i for i in range(len(claims)) if claims.names.values[claims.object[i]] == node]
    assert {int(claims.outcome[i]) for i in told} == {Outcome.denied}
    jobs = decoded["slurm.jsonl"].block
    started = [int(jobs.time[i]) for i in range(len(jobs)) if jobs.names.values[jobs.object[i]] == node]
    assert started
    assert max(int(claims.time[i]) for i in told) < min(started)


def test_an_unseen_image_is_run_by_nobody_else(truth: Truth, decoded: dict[str, Decoded]) -> None:
    attack = of(truth, "unseen-image")
    block = decoded["kubernetes.jsonl"].block
    image = next(name for name in attack.objects if name.startswith("resource:image/"))
    users = [int(block.record[i]) for i in range(len(block)) if block.names.values[block.object[i]] == image]
    assert users
    assert set(users) <= set(attack.records["kubernetes.jsonl"])
    pods = [block.names.values[code] for code in block.object.tolist() if block.names.values[code].startswith("resource:image/")]
    assert len(set(pods)) > 3


@pytest.mark.parametrize("seed", [2, 3])
def test_any_seed_has_room_for_every_scenario(tmp_path: Path, seed: int) -> None:
    truth = simulate(tmp_path, days=1, scale=0.001, seed=seed, attacks=NAMES)
    assert {attack.name for attack in truth.attacks} == set(NAMES)
