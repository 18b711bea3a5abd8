"""The two visits: the same result however rows are cut and wherever they run, and limits that forget only what may be forgotten."""

from __future__ import annotations

import dataclasses
import os
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from connectors.event import Action, Block, Stream, block_of
from connectors.names import Names, stable_hash
from detector.config import Config, ConfigError, parse
from detector.learned import dump, load
from detector.marks import Marks, outward
from detector.rows import facets
from detector.score import ActorVisit, ObjectVisit
from models.calibration import ROW
from models.profiles import Fields
from models.signals import Rows, Signal, Visit
from tests.logs import START, cut, log, row

LOG = log(700, seed=1)


def config(text: str = "", **limits: int) -> Config:
    made = parse(text)
    for name, limit in limits.items():
        setattr(made.limits, name, limit)
    return made


class Visits:
    """Both visits and what came out of them."""

    def __init__(self, given: Config) -> None:
        self.actor, self.object = ActorVisit(given), ObjectVisit(given)
        self.scores: list[np.ndarray] = []
        self.evidence: dict[str, list[np.ndarray]] = {"main": [], "slow": []}
        self.values: dict[str, list[np.ndarray]] = {"main": [], "slow": []}
        self.rows = {"main": 0, "slow": 0}

    def fold(self, block: Block) -> Visits:
        side = self.actor.visit(block)
        for found in self.object.visit(block, side, self.scores.append):
            rows = found.rows.copy()
            rows[:, ROW] += self.rows[found.line]
            self.rows[found.line] += len(found.block)
            self.evidence[found.line].append(rows)
            self.values[found.line].append(found.values)
        return self

    def whole(self) -> dict[str, bytes]:
        """Everything that may not depend on the cut: scores, evidence, state."""
        said = {"scores": np.concatenate(self.scores)}
        for line in self.rows:
            said[f"evidence:{line}"] = np.concatenate(self.evidence[line])
            said[f"values:{line}"] = np.concatenate(self.values[line])
        state = {f"{name} {number}": data for visit in (self.actor, self.object) for name, number, data in dump(visit)}
        return {name: each.tobytes() for name, each in said.items()} | state


def differing(a: Visits, b: Visits) -> list[str]:
    one, two = a.whole(), b.whole()
    return [name for name in one | two if one.get(name) != two.get(name)]


def kept(visits: Visits) -> dict[str, list[bytes]]:
    records: dict[str, list[bytes]] = {}
    for visit in (visits.actor, visits.object):
        for name, _, data in dump(visit):
            records.setdefault(name, []).append(data)
    return records


WHOLE = Visits(config()).fold(LOG)


def test_the_made_up_log_has_what_it_takes() -> None:
    scores = np.concatenate(WHOLE.scores)
    assert len(scores) == len(LOG)
    assert np.isfinite(scores).all()
    assert scores.max() > 4.0
    assert sum(len(found) for found in WHOLE.evidence["main"]) > 20
    assert WHOLE.object.late > 5


@settings(max_examples=15, deadline=None)
@given(st.lists(st.integers(1, len(LOG) - 1), max_size=40))
def test_scores_evidence_and_state_do_not_depend_on_how_rows_are_cut(places: list[int]) -> None:
    visits = Visits(config())
    for block in cut(LOG, places):
        visits.fold(block)
    assert differing(visits, WHOLE) == []


def test_rows_one_by_one_are_scored_as_in_one_block() -> None:
    visits = Visits(config())
    for block in cut(LOG, list(range(len(LOG)))):
        visits.fold(block)
    assert differing(visits, WHOLE) == []


def test_state_that_was_saved_and_loaded_goes_on_as_if_nothing_had_been() -> None:
    first, second = cut(LOG, [400])
    visits = Visits(config()).fold(first)
    fresh = Visits(config())
    records = kept(visits)
    load(fresh.actor, records)
    load(fresh.object, records)
    fresh.rows = dict(visits.rows)
    assert visits.fold(second).scores[-1].tobytes() == fresh.fold(second).scores[-1].tobytes()
    ours, theirs = visits.whole(), fresh.whole()
    assert all(theirs[name] == data for name, data in ours.items() if " " in name)


def test_arrays_as_the_last_version_kept_them_are_read_and_leave_nothing_of_what_was_there() -> None:
    records = kept(WHOLE)
    saved = msgspec.msgpack.decode(records["object.arrays"][0])
    whole = {name: (list(array.shape), array.tobytes()) for name, array in WHOLE.object.arrays().items()}
    assert sum(len(data) for _, data in whole.values()) > 20 * len(records["object.arrays"][0])
    records["object.arrays"] = [msgspec.msgpack.encode(saved | {"version": 2, "arrays": whole})]
    for other in (Visits(config()), Visits(config()).fold(log(50, seed=9))):
        load(other.object, records)
        assert list(dump(other.object)) == list(dump(WHOLE.object))
        # What is nothing here was something there.
        other.object.scales[0].arrays()["main.cells"][:] = -0.0
        assert list(dump(other.object)) != list(dump(WHOLE.object))
        load(other.object, kept(WHOLE))
        assert list(dump(other.object)) == list(dump(WHOLE.object))


@pytest.mark.parametrize(("version", "what"), [(4, "version 4, this release reads 2 to 3"), (1, "version 1")])
def test_arrays_of_another_version_are_refused(version: int, what: str) -> None:
    records = kept(WHOLE)
    saved = msgspec.msgpack.decode(records["object.arrays"][0])
    records["object.arrays"] = [msgspec.msgpack.encode(saved | {"version": version})]
    with pytest.raises(ValueError, match=what):
        load(ObjectVisit(config()), records)


@pytest.mark.parametrize("which", [[-1], [10_000], [1, 1], [2, 1], [0.5], ["1"], [1], []])
def test_arrays_of_places_that_are_not_there_or_of_another_length_are_damaged(which: list[object]) -> None:
    records = kept(WHOLE)
    saved = msgspec.msgpack.decode(records["object.arrays"][0])
    shape = saved["arrays"]["main.cells"][0]
    row = 8 * shape[1]
    # One value too few where the places are good.
    data = b"x" * (row * len(which) if which not in ([1], []) else row * len(which) + row - 8)
    saved["arrays"]["main.cells"] = (shape, which, data)
    records["object.arrays"] = [msgspec.msgpack.encode(saved)]
    with pytest.raises(ValueError, match="damaged"):
        load(ObjectVisit(config()), records)


def test_state_of_other_signals_is_refused_with_a_sentence() -> None:
    records = kept(WHOLE)
    other = parse('[signals.more]\nlearner = "rate"\nof = "actor"')
    turned = config()
    turned.signals = dict(reversed(turned.signals.items()))
    with pytest.raises(ValueError, match="made with other signals"):
        load(ObjectVisit(turned), records)
    with pytest.raises(ValueError, match="made with other signals"):
        load(ActorVisit(other), records)
    with pytest.raises(ValueError, match="made with other signals"):
        load(ObjectVisit(other), records)


def test_the_label_column_is_never_read() -> None:
    labelled = LOG.take(slice(0, len(LOG)))
    labelled.label = ["attack" if i % 3 else "" for i in range(len(LOG))]
    assert LOG.label is None
    assert differing(Visits(config()).fold(labelled), WHOLE) == []


def test_names_met_in_another_order_have_the_same_scores() -> None:
    other = Names()
    for text in sorted(LOG.names.values, reverse=True):
        other.code(text)
    assert differing(Visits(config()).fold(log(700, seed=1, names=other)), WHOLE) == []


_DIGEST = """
import hashlib, sys
from tests.test_score import WHOLE
whole = hashlib.sha256()
for name, data in sorted(WHOLE.whole().items()):
    whole.update(name.encode() + data)
print(whole.hexdigest())
"""


def test_nothing_depends_on_the_hash_seed() -> None:
    digests = set()
    for seed in ("1", "4242"):
        environment = os.environ | {"PYTHONHASHSEED": seed}
        ran = subprocess.run(  # noqa: S603  our own interpreter and script
            [sys.executable, "-c", _DIGEST], env=environment, cwd=Path(__file__).parents[1], capture_output=True, text=True, check=True
        )
        digests.add(ran.stdout)
    assert len(digests) == 1


def test_the_same_object_by_another_action_or_detail_is_another_endpoint() -> None:
    names = Names()
    rows = [
        row(names, 0, START, "user:a", "model:m", "json"),
        row(names, 1, START, "user:a", "model:m", "text"),
        row(names, 2, START, "user:a", "model:m", "json", action=Action.delete),
        row(names, 3, START, "user:a", "model:m", "json"),
    ]
    visits = Visits(config()).fold(block_of(names, "made_up", rows))
    assert visits.object.tables["endpoint"].used == 3
    assert visits.object.tables["object"].used == 1


# --- limits ---------------------------------------------------------------------------------------------------------------------------

SMALL: dict[str, Any] = {"actors": 40, "objects": 9, "endpoints": 12, "pairs": 90}
CROWDED = log(700, seed=5, actors=30, objects=14)


def test_at_a_limit_the_longest_idle_go_and_the_limit_is_kept() -> None:
    visits = Visits(config(**SMALL)).fold(CROWDED)
    tables = {**visits.actor.tables, **visits.object.tables}
    assert visits.actor.evicted > 0
    assert visits.object.evicted > 0
    assert all(table.used <= table.limit for table in tables.values())
    last = CROWDED.names.hashes[CROWDED.actor[-20:]]
    assert np.isin(last, visits.actor.tables["actor"].keys()).all()


def test_what_is_forgotten_does_not_depend_on_how_rows_are_cut() -> None:
    whole = Visits(config(**SMALL)).fold(CROWDED)
    rng = random.Random(3)
    for places in (list(range(len(CROWDED))), sorted(rng.sample(range(len(CROWDED)), 25))):
        visits = Visits(config(**SMALL))
        for block in cut(CROWDED, places):
            visits.fold(block)
        assert differing(visits, whole) == []


def test_which_profiles_are_kept_does_not_depend_on_how_rows_are_cut() -> None:
    whole = Visits(config(**SMALL)).fold(CROWDED)
    visits = Visits(config(**SMALL))
    for block in cut(CROWDED, list(range(len(CROWDED)))):
        visits.fold(block)
    for one, two in ((whole.actor, visits.actor), (whole.object, visits.object)):
        kept = [{name: table.keys().tolist() for name, table in visit.tables.items()} for visit in (one, two)]
        assert kept[0] == kept[1]
        assert one.evicted == two.evicted


def _crowd(first: str, many: int = 300) -> Block:
    names = Names()
    rows = [row(names, 0, START, "user:owner", first)]
    rows += [row(names, i, START + i * 60_000_000, f"user:u{i}", f"model:other/m{i}") for i in range(1, many)]
    return block_of(names, "made_up", rows)


def test_a_restricted_identity_is_never_forgotten() -> None:
    crown = np.uint64(stable_hash("model:crown/llama"))
    for restricted, kept in (('["model:crown/*"]', True), ("[]", False)):
        visits = Visits(config(f"[identities]\nrestricted = {restricted}", **SMALL))
        visits.fold(_crowd("model:crown/llama"))
        assert bool(np.isin(crown, visits.object.tables["object"].keys())) is kept


def test_a_limit_full_of_restricted_identities_is_a_sentence_not_an_endless_loop() -> None:
    visits = Visits(config('[identities]\nrestricted = ["model:other/*"]', **SMALL))
    with pytest.raises(ConfigError, match=r"^limits: all 9 profiles of object are restricted; raise the limit$"):
        visits.fold(_crowd("model:crown/llama"))


def test_what_is_known_of_a_restricted_model_outlives_the_crowd() -> None:
    visits = Visits(config('[identities]\nrestricted = ["model:crown/*"]', **SMALL))
    crowd = _crowd("model:crown/llama")
    endpoint = facets(crowd.take(slice(0, 1)))
    visits.fold(crowd)
    assert np.isin(endpoint, visits.object.tables["endpoint"].keys()).all()


# --- what a signal is shown -----------------------------------------------------------------------------------------------------------


class Witness(Signal, dict=True):
    """Says nothing and keeps what it was shown; counts the rows of each peer group, and of each at each endpoint."""

    at: str = "object"
    groups: bool = True

    @property
    def visit(self) -> Visit:
        return "actor" if self.at == "actor" else "object"

    def state(self) -> dict[str, Fields]:
        if not self.groups:
            return {}
        counted: Fields = (("rows", "u4"),)
        return {"peer": counted} if self.at == "actor" else {"peer": counted, "peer_pair": counted}

    def surprise(self, rows: Rows, tables: dict[str, np.ndarray], scalars: np.ndarray, out: np.ndarray) -> None:
        self.__dict__.setdefault("shown", []).append(rows)
        out[:] = np.nan
        for name, table in tables.items():
            np.add.at(table["rows"], rows.slots[name], 1)

    def text(self, seen: float, expected: float, usual: float, actor: str, object: str) -> str:
        raise AssertionError("it says nothing")


class Watched(Config):
    """A configuration with a witness at each visit."""

    groups = True

    def learners(self) -> dict[str, Signal]:
        # Each visit asks anew: it finds its witness in its own signals.
        return super().learners() | {side: Witness(at=side, groups=self.groups) for side in ("actor", "object")}


class WatchedAlone(Watched):
    groups = False


def watched(made: type[Watched] = Watched, **limits: int) -> Visits:
    return Visits(made(**msgspec.structs.asdict(config("", **limits))))


def test_signals_are_shown_every_column_of_the_event() -> None:
    names = Names()
    job: dict[str, Any] = {"stream": Stream.job, "action": Action.end, "gpus": 8.0, "gpu_seconds": 480.0, "via": names.code("job:7")}
    rows = [row(names, 0, START, "user:ann", "ip:203.0.113.9", "443/tcp"), row(names, 1, START + 1, "user:bob", "node:n1", **job)]
    visits = watched().fold(block_of(names, "made_up", rows))
    for visit in (visits.actor, visits.object):
        (shown,) = visit.signals[visit.side].__dict__["shown"]
        assert shown.stream.tolist() == [Stream.flow, Stream.job]
        assert shown.action.tolist() == [Action.connect, Action.end]
        assert shown.actor.tolist() == [stable_hash("user:ann"), stable_hash("user:bob")]
        assert shown.object.tolist() == [stable_hash("ip:203.0.113.9"), stable_hash("node:n1")]
        assert shown.via.tolist() == [0, stable_hash("job:7")]
        assert shown.detail.tolist() == [stable_hash("443/tcp"), 0]
        assert np.isnan(shown.gpus[0])
        assert (shown.gpus[1], shown.gpu_seconds[1]) == (8.0, 480.0)
        assert shown.outward.tolist() == [True, False]
        assert shown.pace.tolist() == [1.0, 1.0]
        assert all(
            len(getattr(shown, field.name)) == 2
            for field in dataclasses.fields(shown)
            if field.name not in ("counts", "slots", "actor_counts")
        )


@pytest.mark.parametrize(
    ("name", "outside"),
    [
        ("ip:8.8.8.8", True),
        ("ip:172.32.0.1", True),
        ("ip:192.0.2.7", True),
        ("ip:2001:4860::8888", True),
        ("ip:10.255.0.1", False),
        ("ip:172.31.255.255", False),
        ("ip:192.168.7.7", False),
        ("ip:100.127.1.1", False),
        ("ip:127.0.0.53", False),
        ("ip:169.254.169.254", False),
        ("ip:239.1.1.1", False),
        ("ip:255.255.255.255", False),
        ("ip:::1", False),
        ("ip:fd00::7", False),
        ("ip:fe80::1", False),
        ("ip:ff02::fb", False),
        ("host:example.org", False),
        ("node:8.8.8.8", False),
        ("ip:not an address", False),
    ],
)
def test_an_address_outside_the_site_is_one_of_the_internet(name: str, outside: bool) -> None:
    assert outward(name) is outside


def test_a_name_is_asked_for_its_mark_once_however_often_it_comes_and_anew_among_other_names() -> None:
    asked: list[str] = []

    def says(name: str) -> bool:
        asked.append(name)
        return name.endswith("!")

    marks, names = Marks(says), Names()
    codes = np.array([names.code(text) for text in ("a", "b!", "a", "c")], np.int32)
    assert marks.of(names, codes).tolist() == [False, True, False, False]
    for i in range(100):
        late = np.array([names.code(f"x{i}"), names.code(f"y{i}!"), 1])
        assert marks.of(names, late).tolist() == [False, True, True]
    assert marks.of(names, codes[:0]).tolist() == []
    assert len(asked) == len(set(asked)) == len(names)
    other = Names()
    assert marks.of(other, np.array([other.code("b"), other.code("a!")])).tolist() == [False, True]


def test_a_signal_may_keep_state_of_peer_groups_at_both_visits() -> None:
    asked = watched().fold(LOG)
    assert asked.actor.tables["peer"]["actor"]["rows"].tolist() == [len(LOG)] + [0] * 63
    assert asked.object.tables["peer"]["object"]["rows"].tolist() == [len(LOG)] + [0] * 63
    assert asked.object.tables["peer_pair"].used == asked.object.tables["endpoint"].used
    assert asked.object.tables["peer_pair"]["object"]["rows"].sum() == len(LOG)
    # A signal that says nothing changes nothing for the others.
    assert np.concatenate(asked.scores).tobytes() == np.concatenate(watched(WatchedAlone).fold(LOG).scores).tobytes()


def test_peer_groups_at_endpoints_are_bounded_and_the_longest_idle_go_however_rows_are_cut() -> None:
    whole = watched(**SMALL).fold(CROWDED)
    held = whole.object.tables["peer_pair"]
    assert held.used <= held.limit == SMALL["endpoints"]
    last = held["keeper"]["last"][: held.used]
    assert last.min() > 0
    assert last.max() == CROWDED.time.max() // 1_000_000
    visits = watched(**SMALL)
    for block in cut(CROWDED, list(range(len(CROWDED)))):
        visits.fold(block)
    assert differing(visits, whole) == []


def test_a_block_without_rows_changes_nothing() -> None:
    visits = Visits(config())
    visits.fold(LOG.take(slice(0, 0)))
    assert visits.rows == {"main": 0, "slow": 0}
