"""One bad clock must not age every profile, several logs become one in order of time, and neither depends on the batches."""

from __future__ import annotations

import itertools
import random

import numpy as np
import pytest

from connectors.event import DAY, HOUR, MINUTE, SECOND, Binding, Block, Reject, block_of
from connectors.names import Names
from connectors.sources import Decoded
from detector.ingest import WITNESSES, Merge, TimeGuard, restart
from tests.logs import START, row

YEAR = 365 * DAY


def decoded(names: Names, times: list[int], first: int = 0, records: list[int] | None = None) -> Decoded:
    """One row a record unless ``records`` says otherwise; times relative to START."""
    numbers = records if records is not None else list(range(first, first + len(times)))
    return Decoded(
        block_of(names, "made_up", [row(names, r, START + t, "user:a", "model:m") for r, t in zip(numbers, times, strict=True)])
    )


def admitted(times: list[int], batch: int, records: list[int] | None = None, extra: list[Decoded] | None = None) -> list[Decoded]:
    """What comes out of a guard for a log read in batches of so many records; ``extra`` goes with the batches, in order."""
    names = Names()
    numbers = records if records is not None else list(range(len(times)))
    guard = TimeGuard(24.0)
    out: list[Decoded] = []
    for number, start in enumerate(range(0, numbers[-1] + 1, batch)):
        chosen = [i for i, record in enumerate(numbers) if start <= record < start + batch]
        part = decoded(names, [times[i] for i in chosen], records=[numbers[i] for i in chosen])
        if extra is not None and number < len(extra):
            part.rejects, part.skipped, part.bindings = extra[number].rejects, extra[number].skipped, extra[number].bindings
        out += guard.admit(part)
    out += guard.admit(None)
    assert guard.waiting == 0
    return out


def kept(out: list[Decoded]) -> list[int]:
    return [int(t) - START for part in out for t in part.block.time.tolist()]


def rejected(out: list[Decoded]) -> list[int]:
    return [reject.record for part in out for reject in part.rejects]


STEADY = [i * 20 * SECOND for i in range(200)]
BATCHES = pytest.mark.parametrize("batch", [1, 7, 33, 64, 1000])


@BATCHES
def test_a_steady_log_passes_untouched(batch: int) -> None:
    out = admitted(STEADY, batch)
    assert kept(out) == STEADY
    assert rejected(out) == []


@BATCHES
@pytest.mark.parametrize("places", [[0], [100], [199], [100, 101], [0, 1], [40, 41, 42, 90, 150]], ids=str)
def test_records_dated_next_year_are_taken_out_wherever_they_stand(batch: int, places: list[int]) -> None:
    times = [t + YEAR if i in places else t for i, t in enumerate(STEADY)]
    out = admitted(times, batch)
    assert kept(out) == [t for i, t in enumerate(STEADY) if i not in places]
    assert rejected(out) == places
    reject = next(reject for part in out for reject in part.rejects)
    assert reject.reason == "time-ahead"
    assert reject.message.startswith("time 2024-12-31T")
    assert "more than 24 h ahead of the records around it" in reject.message


@BATCHES
@pytest.mark.parametrize("place", [1, 100, 199 - WITNESSES])
def test_a_real_gap_of_three_days_passes(batch: int, place: int) -> None:
    times = [t + 3 * DAY if i >= place else t for i, t in enumerate(STEADY)]
    out = admitted(times, batch)
    assert kept(out) == times
    assert rejected(out) == []


@BATCHES
def test_a_gap_and_a_bad_clock_in_it_are_told_apart(batch: int) -> None:
    times = [t + (3 * DAY if i >= 100 else 0) + (YEAR if i in (98, 105) else 0) for i, t in enumerate(STEADY)]
    out = admitted(times, batch)
    assert rejected(out) == [98, 105]


@BATCHES
def test_rows_that_run_behind_pass(batch: int) -> None:
    rng = random.Random(4)
    times = [max(t - rng.choice([0, 0, HOUR, 2 * DAY]), 0) for t in STEADY]
    assert kept(admitted(times, batch)) == times


def test_a_log_of_one_record_passes_whatever_its_time() -> None:
    assert kept(admitted([YEAR], 1)) == [YEAR]


@BATCHES
def test_the_rows_of_one_record_stay_or_go_together(batch: int) -> None:
    records = [i // 4 for i in range(200)]
    times = [t + YEAR if i == 101 else t for i, t in enumerate(STEADY)]
    out = admitted(times, batch, records)
    assert rejected(out) == [25]
    assert kept(out) == [t for t, r in zip(STEADY, records, strict=True) if r != 25]
    for part in out:
        others = {r for other in out if other is not part for r in other.block.record.tolist()}
        assert others.isdisjoint(part.block.record.tolist())


@BATCHES
def test_a_record_of_many_rows_is_no_witness_of_its_own_time(batch: int) -> None:
    records = [*range(100), *[100] * 40, *range(101, 161)]
    times = [t + YEAR if r == 100 else t for t, r in zip(STEADY, records, strict=True)]
    assert rejected(admitted(times, batch, records)) == [100]


@BATCHES
def test_rejects_and_bindings_go_with_their_records_and_a_bad_record_s_bindings_with_it(batch: int) -> None:
    names = Names()
    times = [t + YEAR if i == 20 else t for i, t in enumerate(STEADY)]
    parts = []
    for start in range(0, 200, batch):
        here = range(start, min(start + batch, 200))
        part = Decoded(block_of(names, "x", []))
        part.rejects = [Reject(r, "wrong-type:x", "no") for r in here if r in (3, 150)]
        part.bindings = [Binding(r, START, "ip:10.0.0.1", f"pod:a/p{r}") for r in here if r in (0, 20, 21, 199)]
        parts.append(part)
    out = admitted(times, batch, extra=parts)
    assert sorted(rejected(out)) == [3, 20, 150]
    assert [binding.record for part in out for binding in part.bindings] == [0, 21, 199]


@pytest.mark.parametrize("batch", [1, 7])
def test_what_was_skipped_is_counted_once(batch: int) -> None:
    names = Names()
    parts = [Decoded(block_of(names, "x", []), skipped={"dns": 3}) for _ in range(0, 200, batch)]
    out = admitted(STEADY, batch, extra=parts)
    assert sum(part.skipped.get("dns", 0) for part in out) == 3 * len(parts)


def test_a_guard_goes_on_from_the_clock_it_is_given() -> None:
    guard = TimeGuard(24.0)
    guard.clock = START
    times = [5 * MINUTE] * 5 + [YEAR] + [6 * MINUTE] * 40
    out = guard.admit(decoded(Names(), times)) + guard.admit(None)
    assert kept(out) == [t for t in times if t < YEAR]


# --- several logs as one --------------------------------------------------------------------------------------------------------------


class Logs:
    """Several logs with one Names; each a list of (minute, binding target or None)."""

    def __init__(self, minutes: list[list[float]], bindings: list[list[tuple[int, str]]] | None = None) -> None:
        self.names = Names()
        self.minutes = minutes
        self.bindings = bindings or [[] for _ in minutes]

    def batches(self, lane: int, size: int) -> list[Decoded]:
        out = []
        times = [START + int(m * MINUTE) for m in self.minutes[lane]]
        for start in range(0, len(times), size):
            here = range(start, min(start + size, len(times)))
            rows = [row(self.names, i, times[i], f"user:l{lane}", f"model:r{i}") for i in here]
            bindings = [Binding(i, times[i], "ip:10.0.0.1", target) for i, target in self.bindings[lane] if i in here]
            out.append(Decoded(block_of(self.names, "made_up", rows), bindings=bindings))
        return out

    def merged(self, size: int) -> tuple[list[tuple[int, int]], list[tuple[int, str | None]]]:
        """((lane, record) of each row in order, (rows before it, target) of each binding)."""
        merge = Merge(len(self.minutes))
        waiting = [iter(self.batches(lane, size)) for lane in range(len(self.minutes))]
        rows: list[tuple[int, int]] = []
        placed: list[tuple[int, str | None]] = []
        while (lane := merge.next_lane()) is not None:
            part = next(waiting[lane], None)
            if part is None:
                merge.end(lane)
            else:
                merge.add(lane, part)
            block, upcoming = merge.take()
            placed += [(len(rows) + at, binding.target) for at, binding in upcoming]
            if block is not None:
                rows += zip(block.partition.tolist(), block.record.tolist(), strict=True)
        return rows, placed


THREE = Logs([[0, 2, 4, 6, 8, 10], [1, 2, 3, 9], [2, 2, 5, 5.5]])


@pytest.mark.parametrize("size", [1, 2, 3, 100])
def test_logs_are_merged_by_time_and_ties_go_by_their_order(size: int) -> None:
    rows, _ = THREE.merged(size)
    expected = sorted(
        ((minute, lane, record) for lane, minutes in enumerate(THREE.minutes) for record, minute in enumerate(minutes)),
    )
    assert rows == [(lane, record) for _, lane, record in expected]


@pytest.mark.parametrize("seed", range(6))
def test_each_log_keeps_its_own_order_however_disordered_its_times(seed: int) -> None:
    rng = random.Random(seed)
    logs = Logs([[rng.uniform(0, 30) + i for i in range(40)] for _ in range(3)], [[(5, "a"), (20, "b")], [], [(0, "c"), (39, "d")]])
    whole = logs.merged(1000)
    for lane in range(3):
        assert [record for where, record in whole[0] if where == lane] == list(range(40))
    for size in (1, 3, 17):
        assert logs.merged(size) == whole


@pytest.mark.parametrize("size", [1, 2, 100])
def test_a_binding_takes_effect_after_the_row_of_its_record(size: int) -> None:
    logs = Logs([[0, 2, 4, 6], [1, 3, 5, 7]], [[(1, "pod:a/x")], [(0, "pod:a/y"), (3, "pod:a/z")]])
    rows, placed = logs.merged(size)
    assert rows == [(0, 0), (1, 0), (0, 1), (1, 1), (0, 2), (1, 2), (0, 3), (1, 3)]
    assert placed == [(2, "pod:a/y"), (3, "pod:a/x"), (8, "pod:a/z")]


def _bindings_first(names: Names, at: int) -> Decoded:
    return Decoded(Block.concat([block_of(names, "made_up", [])]), bindings=[Binding(0, START + at, "ip:10.0.0.1", "pod:a/x")])


def test_a_binding_before_the_first_row_takes_effect_before_it_in_one_batch_as_in_two() -> None:
    names = Names()
    later = decoded(names, [0, MINUTE], first=1)
    together = Decoded(later.block, bindings=[Binding(0, START + HOUR, "ip:10.0.0.1", "pod:a/x")])
    placed = []
    for batches in ([together], [_bindings_first(names, HOUR), decoded(names, [0, MINUTE], first=1)]):
        merge, rows = Merge(1), 0
        for batch in batches:
            merge.add(0, batch)
            block, upcoming = merge.take()
            placed += [rows + at for at, _ in upcoming]
            rows += 0 if block is None else len(block)
    assert placed == [0, 0]


def test_nothing_leaves_while_a_log_may_still_bring_an_earlier_row() -> None:
    logs = Logs([[0, 1, 2], [0.5, 1.5]])
    merge = Merge(2)
    merge.add(0, logs.batches(0, 10)[0])
    assert merge.take() == (None, [])
    assert merge.next_lane() == 1
    merge.add(1, logs.batches(1, 1)[0])
    block, _ = merge.take()
    assert block is not None
    assert list(zip(block.partition.tolist(), block.record.tolist(), strict=True)) == [(0, 0)]
    merge.end(1)
    merge.end(0)
    block, _ = merge.take()
    assert block is not None
    assert len(block) == 3
    assert merge.next_lane() is None


def test_an_empty_log_holds_nobody_up() -> None:
    logs = Logs([[0, 1, 2], [], [0.5]])
    assert [lane for lane, _ in logs.merged(2)[0]] == [0, 2, 0, 0]


def test_one_log_alone_leaves_at_once_and_in_its_order() -> None:
    merge = Merge(1)
    merge.add(0, decoded(Names(), [0, 5 * MINUTE, MINUTE]))
    block, _ = merge.take()
    assert block is not None
    assert (np.diff(block.record) == 1).all()
    assert [b - a for a, b in itertools.pairwise(block.time.tolist())] == [5 * MINUTE, -4 * MINUTE]


# --- the dictionary of names starts afresh --------------------------------------------------------------------------------------------


def test_blocks_that_wait_keep_their_names_when_the_dictionary_starts_afresh() -> None:
    names = Names()
    users = names.of("user")
    for i in range(100):
        users[f"gone{i}"]  # texts of blocks long folded
    guard, merge = TimeGuard(24.0), Merge(2)
    rows = [row(names, i, START + i * MINUTE, "user:a", "model:m") for i in range(10)]
    for i, each in enumerate(rows):
        each.actor, each.object, each.via = users[f"a{i}"], names.passing(f"model:m{i}"), users["via"] if i % 2 else -1
    block = block_of(names, "made_up", rows)
    merge.add(0, Decoded(block.take(slice(0, 6))))
    merge.add(1, Decoded(block.take(slice(3, 4))))
    first, _ = merge.take()
    assert first is not None
    assert guard.admit(Decoded(block.take(slice(6, 10))))[0].block.time.tolist() == []
    assert (sum(map(len, merge.blocks)), sum(map(len, guard.blocks))) == (4, guard.waiting)
    restart(names, [*merge.blocks, *guard.blocks])
    assert names.held < 30
    merge.end(0)
    merge.end(1)
    (rest,) = [part.block for part in guard.admit(None)]
    merged, _ = merge.take()
    assert merged is not None
    for got, records in ((merged, [3, 3, 4, 5]), (rest, [6, 7, 8, 9])):
        assert got.record.tolist() == records
        for column, text in (("actor", "user:a"), ("object", "model:m")):
            assert [names.values[code] for code in getattr(got, column).tolist()] == [f"{text}{i}" for i in records]
        assert [names.values[code] if code >= 0 else "" for code in got.via.tolist()] == ["user:via" if i % 2 else "" for i in records]
        assert got.detail.tolist() == [-1] * len(records)


def test_a_restart_with_nothing_waiting_empties_the_dictionary() -> None:
    names = Names()
    names.of("user")["a"]
    restart(names, [])
    assert (names.held, names.values) == (0, [])
