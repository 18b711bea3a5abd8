"""The benchmark of scale on a small site: its figures are there, add up, and measure what they say."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from benchmarks.scale import RARE, SERVING, STRANGER, Site, bound, by_owner, fold, lines, measure, tables
from benchmarks.throughput import BATCH
from connectors.names import Names
from detector.config import parse
from detector.pipeline import Cores
from models import counts
from models.profiles import record


@pytest.fixture(scope="module")
def figures() -> dict[str, Any]:
    return measure(sizes=(1_000, 2_000), events=2 * BATCH, rounds=1, newcomers=3 * BATCH, limit=2_000)


@pytest.fixture(scope="module")
def cores() -> Cores:
    made = Cores(parse(""))
    fold(made, Site(Names(), 2_000).everyone())
    return made


def test_every_figure_is_there(figures: dict[str, Any]) -> None:
    assert set(figures) == {"cost", "memory", "flood", "spread", "recovery", "model", "speed", "machine", "versions"}
    assert list(figures["cost"]) == ["1000", "2000"]
    assert all(set(cost) == {"microseconds_per_event", "ratio"} for cost in figures["cost"].values())
    assert figures["cost"]["1000"]["ratio"] == 1.0
    assert {"identities", "pairs", "tables_gb", "bytes_per_identity", "rss_profiles_gb", "rss_gb", "by_owner"} <= set(figures["memory"])
    assert {"ratio_to_half_space_trees", "microseconds_per_event", "signals"} <= set(figures["speed"])
    assert all(float(figures["speed"][name]) > 0 for name in ("ratio_to_half_space_trees", "events"))
    text = "\n".join(lines(figures))
    assert "flood.evicted" in text
    assert "memory.by_owner.actor.actor/keeper" in text


def test_spread_over_partitions_every_stage_has_its_share(figures: dict[str, Any]) -> None:
    assert list(figures["spread"]) == ["1", "2", "4", "8"]
    for many, each in figures["spread"].items():
        assert all(each["microseconds_per_event"][name] > 0.0 for name in ("ingest", "actor", "object"))
        assert 1.0 <= each["busiest"]["actor"] <= int(many)
        assert each["bytes_per_event"]["object"] > each["bytes_per_event"]["actor"] > 0.0
    assert figures["spread"]["1"]["busiest"] == {"actor": 1.0, "object": 1.0, "fuse": 1.0}
    assert figures["recovery"]["identities"] == 1_800
    plan = figures["model"]["at_events_per_second"]
    # Both are rounded to a tenth of a core, on a fast machine a good part of the smaller one.
    assert plan["1000000"]["cores"] == pytest.approx(100 * plan["10000"]["cores"], abs=5.1)


def test_everyone_is_remembered_with_two_pairs_each(figures: dict[str, Any]) -> None:
    assert figures["memory"]["identities"] == 2_000
    assert figures["memory"]["pairs"] == 2 * 1_800


def test_bytes_are_those_of_the_records_counted_by_hand(cores: Cores) -> None:
    owners = by_owner(cores)
    # An 8-byte clock; hour and day taught and decayed days of 4 bytes each; the bit whether it is restricted, in a byte.
    assert owners["actor.actor/keeper"] == {"record": 8, "records": 1_800, "bytes": 14_400}
    assert owners["object.pair/units"] == {"record": 12, "records": 3_600, "bytes": 43_200}
    assert owners["object.pair/protected"] == {"record": 1, "records": 3_600, "bytes": 3_600}
    assert owners["actor.actor/owner"]["record"] == record(counts.OWNER).itemsize == 38
    # Places of 8 bytes of key and 4 of number, at most three in five of them used: 1,800 fit 4,096. And each slot's key, 8 bytes.
    assert (owners["actor.actor/index"]["bytes"] - 8 * 1_800) % (12 * 4_096) == 0
    assert sum(owner["bytes"] for owner in owners.values()) == sum(table.nbytes for table in tables(cores))


def test_the_bound_counts_every_slot_that_the_limits_allow() -> None:
    made = Cores(parse("[limits]\nactors = 1000\nobjects = 1000\nendpoints = 1000\npairs = 1000\n"))
    smaller = Cores(parse("[limits]\nactors = 900\nobjects = 1000\nendpoints = 1000\npairs = 1000\n"))
    row = 1 + sum(kind.itemsize for kind in made.actors.tables["actor"].records.values())
    assert bound(made) - bound(smaller) == 100 * row


def test_the_hot_set_is_the_same_however_many_identities_there_are() -> None:
    acts = []
    for size in (1_000, 20_000):
        site = Site(Names(), size)
        (block,) = site.day(BATCH)
        names = [(site.names.values[a], site.names.values[o]) for a, o in zip(block.actor.tolist(), block.object.tolist(), strict=True)]
        acts.append({pair for pair in names if int(pair[0].removeprefix("user:u")) < 10})
    assert len(acts[0]) > 10
    assert acts[0] == acts[1]


def test_days_follow_one_another_and_repeat_known_pairs_only() -> None:
    site = Site(Names(), 1_000)
    made = Cores(parse(""))
    blocks = [*site.everyone(), *site.day(3 * BATCH)]
    times = np.concatenate([block.time for block in blocks])
    assert (np.diff(times) >= 0).all()
    for block in blocks:
        made.fold(block)
    assert made.objects.tables["pair"].used == 2 * 900


def test_a_flood_is_folded_whole_forgets_newcomers_keeps_the_restricted_and_is_told(figures: dict[str, Any]) -> None:
    flood = figures["flood"]
    assert flood["identities"] == 3 * BATCH
    assert flood["evicted"] > 0
    assert flood["tables_before_mb"] < flood["tables_after_mb"] <= flood["tables_bound_mb"]
    assert flood["profile_kept"] == {SERVING: True, RARE: True, STRANGER: False}
    assert flood["notices"] >= 1
    assert "2,000" in flood["notice"]
    assert flood["usual_act_after"] < flood["same_act_by_a_newcomer"]


def test_the_dictionary_stays_within_its_limit_and_a_batch_in_a_flood(figures: dict[str, Any]) -> None:
    flood = figures["flood"]
    assert flood["names_restarts"] >= 2
    assert flood["names_most_held"] <= flood["names_limit"] + 2 * BATCH
