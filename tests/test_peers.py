import os
import subprocess
import sys
from pathlib import Path

import msgspec
import numpy as np
import pytest
from sklearn.metrics import adjusted_rand_score

from connectors.names import stable_hash
from models.clusters import MOST_GROUPS, MOST_LABELS, SAMPLE, SAMPLE_OF_LABEL, matched, sampled
from models.peers import ENOUGH, FEATURES, FEWEST, STREAMS, Peers, features_of, label_of, lean

#: Two ways to live: a training job that pulls large models by night, and a person who tries things out by day.
TRAINER = {
    "active_hours": 400.0,
    "partners": 4.0,
    "ln_bytes": 24.0,
    "refused": 0.0,
    "flow": 20.0,
    "registry": 80.0,
    "hour": 2.0,
    "rate": 0.1,
}
PERSON = {
    "active_hours": 40.0,
    "partners": 25.0,
    "ln_bytes": 11.0,
    "refused": 0.08,
    "flow": 70.0,
    "registry": 10.0,
    "hour": 14.0,
    "rate": 3.0,
}


def living(way: dict[str, float], n: int, seed: int) -> np.ndarray:
    """Features of ``n`` identities that live one way, each a little differently."""
    random = np.random.default_rng(seed)
    vary = random.lognormal(0.0, 0.25, (4, n))
    streams = np.zeros((n, len(STREAMS)))
    streams[:, 0], streams[:, 1] = random.poisson(way["flow"], n), random.poisson(way["registry"], n)
    angle = (way["hour"] + random.normal(0.0, 1.0, n)) * np.pi / 12
    return features_of(
        active_hours=way["active_hours"] * vary[0],
        partner_days=way["partners"] * 3.0 * vary[1],
        partners=way["partners"] * vary[2],
        ln_bytes=way["ln_bytes"] + random.normal(0.0, 0.5, n),
        refused=np.clip(way["refused"] + random.normal(0.0, 0.01, n), 0.0, 1.0),
        streams=streams,
        hour_cos=0.8 * np.cos(angle),
        hour_sin=0.8 * np.sin(angle),
        rate=way["rate"] * vary[3],
    )


def hashes(names: list[str]) -> np.ndarray:
    return np.array([stable_hash(name) for name in names], np.uint64)


def two_ways(n: int = 300, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """(features, labels, keys, way of life) of n trainers of team-a and n people of team-b."""
    features = np.vstack([living(TRAINER, n, seed), living(PERSON, n, seed + 1)])
    names = [f"sa:team-a/trainer-{i}" for i in range(n)] + [f"user:person-{i}@b.org" for i in range(n)]
    return features, hashes([label_of(name) for name in names]), hashes(names), np.repeat([0, 1], n)


def trained(*args: np.ndarray) -> Peers:
    peers = Peers()
    peers.retrain(*args[:3])
    return peers


def newcomer(n: int = 1) -> np.ndarray:
    """Features of those of whom nothing is known."""
    return np.full((n, len(FEATURES)), np.nan)


@pytest.mark.parametrize("n", [20, 300, 3000])
def test_two_ways_of_life_are_two_groups(n: int) -> None:
    features, label, key, way = two_ways(n)
    group = trained(features, label, key).assign(features, label)
    assert adjusted_rand_score(way, group) > 0.98
    assert group.dtype == np.int16


def test_as_many_groups_are_found_as_there_are_ways_of_life() -> None:
    ways = [TRAINER | {"ln_bytes": each, "hour": hour} for each in (4.0, 12.0, 20.0) for hour in (2.0, 14.0)]
    features = np.vstack([living(way, 200, i) for i, way in enumerate(ways)])
    key = hashes([f"user:{i}" for i in range(len(features))])
    peers = trained(features, key % np.uint64(40), key)
    assert adjusted_rand_score(np.repeat(np.arange(6), 200), peers.assign(features, key)) > 0.95
    assert peers.ids.tolist() == list(range(6))


def test_a_newcomer_is_in_the_group_of_its_label_until_it_has_shown_enough() -> None:
    features, label, key, _ = two_ways()
    peers = trained(features, label, key)
    trainers, people = peers.assign(features, label)[[0, -1]].tolist()
    new = hashes([label_of("sa:team-a/brand-new"), label_of("user:eve@b.org"), label_of("sa:team-z/unheard-of")])
    assert peers.of_label(new).tolist() == [trainers, people, -1]
    little = living(PERSON, 3, 9)
    little[:, 0] = np.log1p(ENOUGH) - 0.01
    for unknown in (newcomer(3), little):
        assert peers.assign(unknown, new).tolist() == [trainers, people, -1]
    little[:, 0] = np.log1p(ENOUGH) + 0.01
    assert peers.assign(little, new).tolist() == [people] * 3


def test_a_label_without_a_majority_says_nothing() -> None:
    features, _, key, _ = two_ways()
    mixed = hashes(["x"] * len(key))
    mixed[:200] = 7
    peers = trained(features, mixed, key)
    # 7 is carried by trainers only; the other by 100 trainers and 300 people.
    assert peers.of_label(np.array([7, mixed[-1]], np.uint64)).tolist() == peers.assign(features, mixed)[[0, -1]].tolist()
    thirds = np.vstack([features, living(TRAINER | {"ln_bytes": 2.0, "rate": 40.0}, 300, 5)])
    peers = trained(thirds, hashes(["x"] * 900), hashes([f"u{i}" for i in range(900)]))
    assert len(peers.ids) == 3
    assert peers.of_label(hashes(["x"])).tolist() == [-1]


@pytest.mark.parametrize("n", [0, 1, FEWEST - 1])
def test_among_few_identities_there_are_no_groups(n: int) -> None:
    features, label, key, _ = two_ways()
    peers = trained(features[::2][:n], label[::2][:n], key[::2][:n])
    assert peers.version == 0
    assert peers.assign(features, label).tolist() == [-1] * len(label)
    assert peers.of_label(label).tolist() == [-1] * len(label)


def test_identities_that_have_shown_too_little_form_no_groups() -> None:
    features, label, key, _ = two_ways()
    features[:, 0] = np.log1p(ENOUGH) - 0.01
    assert trained(features, label, key).version == 0


def test_where_all_behave_alike_there_are_no_groups() -> None:
    features, label, key, _ = two_ways()
    assert trained(np.tile(features[0], (len(key), 1)), label, key).version == 0


def test_groups_stay_when_too_few_are_left_to_form_new_ones() -> None:
    features, label, key, _ = two_ways()
    peers = trained(features, label, key)
    before = peers.dump()
    peers.retrain(features[:5], label[:5], key[:5])
    assert peers.dump() == before


def test_group_numbers_stay_with_those_who_drift_slowly() -> None:
    ways = [TRAINER, PERSON, TRAINER | {"ln_bytes": 8.0, "hour": 12.0}, PERSON | {"ln_bytes": 2.0, "rate": 50.0}]
    peers = Peers()
    first: list[int] = []
    for week in range(20):
        # Everyone grows busier and later, until the first week's trainers would be elsewhere.
        moved = [way | {"active_hours": way["active_hours"] * 1.1**week, "hour": way["hour"] + week * 0.3} for way in ways]
        features = np.vstack([living(way, 150, 10 * week + i) for i, way in enumerate(moved)])
        key = hashes([f"user:{i}" for i in range(600)])
        peers.retrain(features, key % np.uint64(30), key)
        group = peers.assign(features, key)
        now = [int(np.bincount(group[i * 150 : (i + 1) * 150]).argmax()) for i in range(4)]
        assert adjusted_rand_score(np.repeat(np.arange(4), 150), group) > 0.95
        assert now == (first := first or now)
        assert peers.fresh.tolist() == ([] if week else sorted(now))
    assert peers.version == 20


def test_a_group_that_comes_takes_a_free_number_and_one_that_goes_frees_its_own() -> None:
    features, label, key, way = two_ways()
    peers = trained(features, label, key)
    trainers, people = peers.assign(features, label)[[0, -1]].tolist()
    third = living(TRAINER | {"ln_bytes": 2.0, "rate": 40.0, "registry": 0.0}, 300, 7)
    names = hashes([f"job:slurm/{i}" for i in range(300)])
    peers.retrain(np.vstack([features, third]), np.r_[label, names % np.uint64(9)], np.r_[key, names])
    jobs = int(peers.assign(third, names)[0])
    assert sorted({trainers, people, jobs}) == peers.ids.tolist()
    assert peers.fresh.tolist() == [jobs]
    assert peers.assign(features, label)[[0, -1]].tolist() == [trainers, people]
    # The people leave; whoever stays keeps the number.
    peers.retrain(np.vstack([features[way == 0], third]), np.r_[label[way == 0], names % np.uint64(9)], np.r_[key[way == 0], names])
    assert peers.ids.tolist() == sorted({trainers, jobs})
    assert peers.fresh.tolist() == []
    assert peers.assign(features[:1], label[:1]).tolist() == [trainers]


def apart(*rows: list[float]) -> np.ndarray:
    """Distances of old centres 4, 9, ... from the new ones."""
    far = np.full((MOST_GROUPS, len(rows[0])), np.inf)
    far[[4, 9][: len(rows)]] = rows
    return far


def test_of_a_group_that_splits_the_part_that_stays_where_it_was_keeps_the_number() -> None:
    before = np.repeat([4, 9], [100, 50])
    now = np.repeat([0, 1, 2], [60, 40, 50])
    assert matched(before, now, apart([2.0, 1.0, 7.0], [6.0, 6.0, 0.5])).tolist() == [0, 4, 9]


def test_of_groups_that_become_one_the_nearer_gives_the_number() -> None:
    assert matched(np.repeat([4, 9], [100, 50]), np.zeros(150, np.int64), apart([3.0], [1.0])).tolist() == [9]


def test_a_near_group_of_others_does_not_get_the_number() -> None:
    # 4 emptied into the far group 1; whoever is now where it was are others.
    before, now = np.repeat([4, 9], [100, 50]), np.repeat([1, 0], [100, 50])
    assert matched(before, now, apart([0.5, 2.0], [3.0, 3.5])).tolist() == [9, 4]


def test_a_number_just_freed_is_used_again_only_when_no_other_is_free() -> None:
    old = np.repeat(np.arange(MOST_GROUPS), 10)
    far = np.where(np.eye(MOST_GROUPS) > 0, 0.1, 5.0)
    now = old.copy()
    # Group 31 goes over to 0, and its centre turns to newcomers whom the old groups knew nothing of.
    now[old == 31] = 0
    before, now = np.r_[old, np.full(10, -1)], np.r_[now, np.full(10, 31)]
    assert matched(before, now, far).tolist() == list(range(MOST_GROUPS))
    # With 3 free all the time, it is 3.
    known = before != 3
    before, now, far[3] = before[known], now[known], np.inf
    now = np.where(now > 3, now - 1, now)
    assert matched(before, now, np.delete(far, 3, axis=1)).tolist() == [0, 1, 2, *range(4, 31), 3]


def test_the_order_of_rows_does_not_matter() -> None:
    features, label, key, _ = two_ways(2000)
    one, other = Peers(), Peers()
    for seed in range(2):
        order = np.random.default_rng(seed).permutation(len(key))
        one.retrain(features, label, key)
        other.retrain(features[order], label[order], key[order])
        assert one.dump() == other.dump()


def test_neither_the_hash_seed_nor_the_number_of_threads_matters() -> None:
    script = (
        "from connectors.names import stable_hash; from tests.test_peers import two_ways, trained; "
        "print(stable_hash(trained(*two_ways(1500)).dump().hex()))"
    )
    printed = {
        subprocess.run(  # noqa: S603 - our own interpreter
            [sys.executable, "-c", script],
            check=True,
            capture_output=True,
            text=True,
            cwd=Path(__file__).parents[1],
            env=os.environ | {"PYTHONHASHSEED": seed, "OMP_NUM_THREADS": threads, "OPENBLAS_NUM_THREADS": threads},
        ).stdout
        for seed, threads in (("0", "1"), ("4711", "2"))
    }
    assert len(printed) == 1


@pytest.mark.parametrize("size", [1e9, 1e300])
def test_a_poisoned_minority_does_not_move_the_groups_of_the_rest(size: float) -> None:
    features, label, key, way = two_ways()
    random = np.random.default_rng(3)
    bad = size * random.choice([-1.0, 1.0], (30, len(FEATURES))) * random.lognormal(0.0, 1.0, (30, len(FEATURES)))
    bad[:, 0] = np.abs(bad[:, 0])
    names = hashes([f"user:bad-{i}@b.org" for i in range(30)])
    clean = trained(features, label, key)
    poisoned = trained(np.vstack([features, bad]), np.r_[label, np.full(30, label[-1])], np.r_[key, names])
    group = poisoned.assign(features, label)
    assert adjusted_rand_score(clean.assign(features, label), group) > 0.98
    assert adjusted_rand_score(way, group) > 0.98


def test_a_flood_of_new_names_from_one_place_does_not_move_the_groups_of_the_rest() -> None:
    features, label, key, way = two_ways()
    flood = living({**PERSON, "partners": 1.0, "ln_bytes": 5.0, "rate": 30.0}, 50_000, 4)
    names = np.random.default_rng(1).integers(1, 2**63, 50_000).astype(np.uint64)
    peers = trained(np.vstack([features, flood]), np.r_[label, np.full(50_000, 99, np.uint64)], np.r_[key, names])
    assert adjusted_rand_score(way, peers.assign(features, label)) > 0.98


def test_of_one_label_the_sample_holds_a_bounded_part() -> None:
    random = np.random.default_rng(2)
    key = random.integers(1, 2**63, 60_000).astype(np.uint64)
    flooded = np.where(np.arange(60_000) < 59_500, 5, np.arange(60_000)).astype(np.uint64)
    taken = flooded[sampled(flooded, key)]
    assert np.count_nonzero(taken == 5) == SAMPLE_OF_LABEL[0]
    assert np.count_nonzero(taken != 5) == 500
    few = (np.arange(60_000) % 20).astype(np.uint64)
    whole = sampled(few, key)
    assert len(whole) == len(np.unique(whole)) == SAMPLE
    assert np.bincount(few[whole].astype(np.int64)).max() <= SAMPLE_OF_LABEL[1]


def test_labels_remembered_are_bounded_and_the_common_ones_stay() -> None:
    many = MOST_LABELS + 5000
    features = np.vstack([living(TRAINER, many, 0), living(PERSON, 1000, 1)])
    label = np.r_[np.arange(10, many + 10), np.repeat([1, 2], 500)].astype(np.uint64)
    peers = trained(features, label, np.random.default_rng(1).integers(1, 2**63, len(label)).astype(np.uint64))
    assert len(peers.labels) == MOST_LABELS
    assert peers.of_label(np.array([1, 2], np.uint64)).tolist() == peers.assign(features[-1:], label[-1:]).tolist() * 2
    assert len(peers.dump()) < 1_000_000


def test_unknown_features_count_as_the_usual_ones() -> None:
    features, label, key, way = two_ways()
    features[::30, 3] = np.nan
    features[:, 4] = np.nan
    peers = trained(features, label, key)
    assert adjusted_rand_score(way, peers.assign(features, label)) > 0.95
    assert np.isfinite(peers.centres).all()
    usual = features.copy()
    usual[:, 4] = peers.shift[4]
    assert peers.assign(features, label).tolist() == peers.assign(usual, label).tolist()


def test_infinite_features_are_unknown_ones() -> None:
    features, label, key, _ = two_ways()
    unknown, infinite = features.copy(), features.copy()
    unknown[5::7, 3], infinite[5::7, 3] = np.nan, np.inf
    assert trained(unknown, label, key).dump() == trained(infinite, label, key).dump()


def test_state_comes_back_the_same() -> None:
    features, label, key, _ = two_ways()
    peers = trained(features, label, key)
    again = Peers()
    again.load(peers.dump())
    assert again.dump() == peers.dump()
    assert again.assign(features, label).tolist() == peers.assign(features, label).tolist()
    more = np.vstack([features + 0.05]), label, key
    peers.retrain(*more)
    again.retrain(*more)
    assert again.dump() == peers.dump()
    assert again.version == 2
    untrained = Peers()
    untrained.load(Peers().dump())
    assert untrained.version == 0


def damaged(**change: object) -> bytes:
    return msgspec.msgpack.encode(msgspec.msgpack.decode(trained(*two_ways()).dump()) | change)


@pytest.mark.parametrize(
    "change",
    [
        {"ids": b"\0"},
        {"ids": b"\0\0\0\0"},
        {"ids": np.array([0, 32], "<i2").tobytes()},
        {"ids": np.array([-1, 0], "<i2").tobytes()},
        {"centres": b""},
        {"centres": np.full(2 * len(FEATURES), np.nan).tobytes()},
        {"shift": np.zeros(3).tobytes()},
        {"scale": np.zeros(len(FEATURES)).tobytes()},
        {"labels": b""},
        {"labels": np.array([2, 1], "<u8").tobytes()},
        {"label_group": np.array([0, 31], "<i2").tobytes()},
        {"fresh": np.array([31], "<i2").tobytes()},
        {"version": "one"},
        {"version": -1},
        {"ids": 5},
    ],
)
def test_damaged_state_is_refused_whole(change: dict[str, object]) -> None:
    peers = trained(*two_ways())
    before = peers.dump()
    with pytest.raises(ValueError, match="state of peer groups: "):
        peers.load(damaged(**change))
    assert peers.dump() == before


@pytest.mark.parametrize("data", [b"", b"\x80", b"garbage", b"\xc1"])
def test_foreign_bytes_are_refused(data: bytes) -> None:
    with pytest.raises(ValueError, match="state of peer groups: not a record of them"):
        Peers().load(data)


def test_a_newer_format_is_refused_with_a_sentence_even_if_its_fields_are_others() -> None:
    with pytest.raises(ValueError, match="format 2, this release reads 1"):
        Peers().load(msgspec.msgpack.encode({"format": 2, "forest": b""}))


@pytest.mark.parametrize(
    "name", ["x" * 10_000, "sa:" + "a/" * 5000, "user:\0@\0", "ip:::::", "ip:", "ip:10", ":", "", "user:\ud800", "sa:../x"]
)
def test_a_hostile_name_has_a_label_and_leaves_no_text_behind(name: str) -> None:
    features, label, key, _ = two_ways()
    label[:4] = stable_hash(label_of(name))
    peers = trained(features, label, key)
    assert peers.of_label(label[:1]).tolist() == peers.assign(features, label)[:1].tolist()
    assert len(peers.dump()) < 5000
    assert label_of(name).encode("utf-8", "surrogatepass") not in peers.dump() or len(label_of(name)) < 3


@pytest.mark.parametrize(
    ("identity", "label"),
    [
        ("sa:team-a/trainer", "sa:team-a"),
        ("pod:team-a/train-0", "pod:team-a"),
        ("job:slurm/8812", "job:slurm"),
        ("job:k8s/team-a/train", "job:k8s/team-a"),
        ("model:registry/llama-70b", "model:registry"),
        ("model:registry/team-a/big/llama-70b", "model:registry/team-a"),
        ("user:alice", "user:"),
        ("user:alice@corp.com", "user:@corp.com"),
        ("user:a@b@corp.com", "user:@corp.com"),
        ("ip:10.1.2.3", "ip:10.1.2"),
        ("ip:2001:db8:1:2:3::4", "ip:2001:db8:1:2::"),
        ("ip:2001:db8:1:2:ffff::", "ip:2001:db8:1:2::"),
        ("ip:2001:db8:1:3::1", "ip:2001:db8:1:3::"),
        ("node:gpu-07", "node:gpu"),
        ("node:gpu07", "node:gpu"),
        ("host:login", "host:login"),
        ("host:gpu-07.hpc.corp.com", "host:.hpc.corp.com"),
        ("token:sha256/0123", "token:sha256"),
        ("queue:batch", "queue:"),
    ],
)
def test_a_label_is_the_kind_and_the_team_of_a_name(identity: str, label: str) -> None:
    assert label_of(identity) == label


def test_features_say_nothing_where_the_columns_say_nothing() -> None:
    unknown = np.full(2, np.nan)
    columns = ("active_hours", "partner_days", "partners", "ln_bytes", "refused", "hour_cos", "hour_sin", "rate")
    made = features_of(**dict.fromkeys(columns, unknown), streams=np.zeros((2, 6)))
    assert made.shape == (2, len(FEATURES))
    assert np.isnan(made).all()
    seen = features_of(**dict.fromkeys(columns, np.array([0.0, -1.0])), streams=np.array([[1, 3, 0, 0, 0, 0]] * 2))
    assert seen[0].tolist() == [0, 0, 0, 0, 0, 0.25, 0.75, 0, 0, 0, 0, 0, 0, 0]
    assert [feature.name for feature in FEATURES][5:11] == [f"stream_{stream}" for stream in STREAMS]
    # A count below nothing is none.
    assert seen[1, [0, 1, 2, -1]].tolist() == [0.0] * 4


def test_an_estimate_leans_on_its_prior_the_less_the_more_is_known() -> None:
    assert lean(0.0, 9.0, 9.0, 2.0, 0.5, 3.0) == (2.0, 0.5)
    means, variances = zip(*(lean(float(n), 10.0, 4.0, 2.0, 1.0, 3.0) for n in (0, 1, 3, 30, 3000)), strict=True)
    assert means == tuple(sorted(means))
    assert variances == tuple(sorted(variances))
    assert lean(3.0, 10.0, 4.0, 2.0, 1.0, 3.0) == (6.0, 2.5)
    assert means[-1] == pytest.approx(10.0, abs=0.01)
    assert lean(0.0, 10.0, 4.0, 2.0, 1.0, 0.0) == (2.0, 1.0)
    assert lean(7.0, 2.1, 0.3, 2.1, 0.3, 3.0) == (2.1, 0.3)


def test_scikit_learn_is_imported_only_for_training() -> None:
    script = """
import sys
import numpy as np
from models.peers import FEATURES, Peers
peers = Peers()
few = np.ones((3, len(FEATURES))), np.ones(3, np.uint64), np.arange(3, dtype=np.uint64)
peers.retrain(*few)
peers.assign(*few[:2])
other = Peers()
other.load(peers.dump())
assert not [name for name in sys.modules if name.split(".")[0] == "sklearn"]
"""
    subprocess.run([sys.executable, "-c", script], check=True, cwd=Path(__file__).parents[1])  # noqa: S603 - our own interpreter
