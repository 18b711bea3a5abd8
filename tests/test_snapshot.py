"""A copy of a stage's tables that is taken piece by piece is what they were at its beginning, whatever happens meanwhile."""

from __future__ import annotations

import random
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest

from detector.snapshot import HEAD, Snapshot
from detector.stage import Stage
from models.profiles import CHUNK_SLOTS, Table

LIMIT = 6 * CHUNK_SLOTS


class Site:
    """A table that is used at random, in a stage that has nothing else."""

    def __init__(self, seed: int) -> None:
        self.draw = random.Random(seed)
        self.table = Table("t", {"rate": (("n", "f8"), ("hours", "u1", 24)), "visit": (("last", "f8"),)}, LIMIT)
        self.known = 0
        self.written: dict[str, bytes] = {}

    def stage(self) -> Stage:
        empty: Iterator[Any] = iter(())
        made = SimpleNamespace(name="s", partitions=1, applied=7, tables=lambda: [self.table], copies=lambda: empty)
        return cast(Stage, made)

    def work(self, most: int, *, forget: bool = False) -> None:
        """What a visit does: find rows, some of them new, and write to them; sometimes make room."""
        if forget:
            self.table.evict(np.arange(self.table.used, 0, -1, dtype=np.float64), share=0.3)
        # Mostly known ones, the same row several times in a block.
        keys = [self.draw.randrange(1, self.known + 60) for _ in range(self.draw.randrange(1, most))]
        self.known = max(self.known, *keys)
        wanted = np.array(keys, np.uint64) * np.uint64(0x9E3779B97F4A7C15)
        slots = np.zeros(len(wanted), np.int32)
        done = self.table.find(wanted, slots, 0, len(wanted))
        for slot in slots[:done].tolist():
            self.table["rate"]["n"][slot] += self.draw.random()
            self.table["rate"]["hours"][slot, self.draw.randrange(24)] += 1
            self.table["visit"]["last"][slot] = self.draw.random()
            self.table.protected[slot] |= self.draw.random() < 0.01

    def filled(self) -> Site:
        while self.table.used < 4 * CHUNK_SLOTS + 300:
            self.work(300)
        return self


def taken(site: Site, between: dict[int, bool]) -> dict[str, bytes]:
    """A copy, with work before each record; ``between``: for which records rows are forgotten as well."""
    out: dict[str, bytes] = {}
    records = Snapshot(site.stage(), "m", site.written).records()
    for number in range(100):
        for _ in range(3):
            site.work(200)
        if between.get(number):
            site.work(200, forget=True)
        each = next(records, None)
        if each is None:
            break
        out[each[0]] = each[1]
    return out


def whole(site: Site) -> dict[str, bytes]:
    return {f"t/{number}": data for number, data in enumerate(site.table.dump())}


@pytest.mark.parametrize("forgets", [{}, {0: True}, {2: True}, {1: True, 3: True}])
@pytest.mark.parametrize("seed", range(3))
def test_a_copy_is_what_was_there_when_it_was_begun(seed: int, forgets: dict[int, bool]) -> None:
    site = Site(seed).filled()
    for _ in range(3):
        # Only what has changed since the last copy is in it; all that was kept together is the state.
        before = whole(site)
        copy = taken(site, forgets)
        assert copy.pop(HEAD)
        assert copy
        assert copy == {key: before[key] for key in copy}
        assert site.table.before_change is None
        site.work(300)


def test_a_second_copy_holds_what_has_changed_since_the_first_was_begun_and_nothing_else() -> None:
    site = Site(5).filled()
    kept = dict(Snapshot(site.stage(), "m", site.written).records())
    assert set(kept) == {HEAD, *whole(site)}
    slot = 2 * CHUNK_SLOTS + 5
    site.table.find(site.table.keys()[slot : slot + 1], np.zeros(1, np.int32), 0, 1)
    site.table["rate"]["n"][slot] = -1.0
    second = dict(Snapshot(site.stage(), "m", site.written).records())
    assert set(second) == {HEAD, "t/2"}
    assert second["t/2"] != kept["t/2"]
    assert kept | second == whole(site) | {HEAD: second[HEAD]}


def test_rows_that_change_are_put_aside_once_and_not_their_whole_chunk() -> None:
    site = Site(6).filled()
    snapshot = Snapshot(site.stage(), "m", site.written)
    (aside,) = snapshot._tables
    for _ in range(20):
        site.work(50)
    assert 0 < aside._held < 1_000
    list(snapshot.records())
