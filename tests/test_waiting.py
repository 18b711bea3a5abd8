"""Messages that wait for a stage: no more than there is room for, in order, and together when they have come together."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Coroutine, Sequence
from typing import Any

import pytest

from detector.collect import LONGEST_LINGER, SCARCE, pause
from detector.engine import BUFFER
from detector.stage import Note
from detector.waiting import RUN_BYTES, WAITING_BYTES, Waiting


def on_loop(work: Coroutine[Any, Any, None]) -> None:
    async def run() -> None:
        await asyncio.wait_for(work, 30.0)

    asyncio.run(run())


async def turns(many: int = 200) -> None:
    for _ in range(many):
        await asyncio.sleep(0)


def offsets(taken: Sequence[tuple[int, Sequence[Note]]]) -> list[tuple[int, list[int]]]:
    return [(partition, [note.offset for note in run]) for partition, run in taken]


@pytest.mark.parametrize(("size", "room", "freed"), [(1, BUFFER, BUFFER), (WAITING_BYTES // 4, 4, 1)])
def test_no_more_come_in_than_there_is_room_for_and_others_when_some_were_taken(size: int, room: int, freed: int) -> None:
    async def check() -> None:
        waiting, come, data = Waiting(), itertools.count(), bytes(size)
        last = -1

        async def fill() -> None:
            nonlocal last
            for offset in come:
                await waiting.put(0, Note(offset, data))
                last = offset

        filling = asyncio.create_task(fill())
        await turns()
        assert last == room - 1
        assert offsets(await waiting.round()) == [(0, list(range(freed)))]
        await turns()
        assert last == room + freed - 1
        filling.cancel()

    on_loop(check())


def test_a_round_takes_what_waits_of_each_partition_in_its_order() -> None:
    async def check() -> None:
        waiting = Waiting()
        for partition, offset in ((2, 7), (0, 3), (2, 8), (1, 0), (0, 4), (2, 10)):
            await waiting.put(partition, Note(offset, b"x"))
        assert offsets(await waiting.round()) == [(2, [7, 8, 10]), (0, [3, 4]), (1, [0])]
        await waiting.put(1, Note(1, b"x"))
        assert offsets(await waiting.round()) == [(1, [1])]

    on_loop(check())


def test_a_run_ends_before_it_is_too_large_and_what_is_larger_goes_alone() -> None:
    async def check() -> None:
        waiting, half = Waiting(), bytes(RUN_BYTES // 2)
        for offset, data in enumerate([half, half, b"x", bytes(RUN_BYTES + 1), b"x", b"x"]):
            await waiting.put(0, Note(offset, data))
        await waiting.put(1, Note(0, b"x"))
        rounds = [offsets(await waiting.round()) for _ in range(4)]
        assert rounds == [[(0, [0, 1]), (1, [0])], [(0, [2])], [(0, [3])], [(0, [4, 5])]]

    on_loop(check())


def test_what_comes_turn_by_turn_is_taken_together_and_nobody_waits_for_more_than_there_is_room_for() -> None:
    async def check() -> None:
        waiting = Waiting()

        async def give(many: int) -> None:
            for offset in range(many):
                await turns(5)
                await waiting.put(0, Note(offset, b"x"))

        # What comes is waited for, however late it is.
        giving = asyncio.create_task(give(10))
        assert offsets(await waiting.round()) == [(0, list(range(10)))]
        assert giving.done()
        giving = asyncio.create_task(give(10 * BUFFER))
        assert offsets(await waiting.round()) == [(0, list(range(BUFFER)))]
        giving.cancel()

    on_loop(check())


def test_rows_wait_longer_where_who_sleeps_wakes_late_but_not_for_long_and_never_less_than_they_are_told_to() -> None:
    assert [pause(linger, 0.0) for linger in (0.0, 0.005, 1.0)] == [0.0, 0.005, 1.0]
    assert pause(0.005, 0.001) == pytest.approx(0.005 + SCARCE * 0.001)
    assert pause(0.005, 1.0) == LONGEST_LINGER
    assert pause(1.0, 1.0) == 1.0
    # A clock that is read a moment too early.
    assert pause(0.005, -0.001) == 0.005
