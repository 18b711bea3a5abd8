"""What a keeper notes of crashes: those that may be of one message count together, also after a restart."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

from detector import keeper as module
from detector.keeper import CRASH, Crash, Keeper


class Broker:
    """A state topic in memory, and the producer that writes to it."""

    def __init__(self) -> None:
        self.records: list[SimpleNamespace] = []
        self.within = False

    async def start(self) -> None:
        pass

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[None]:
        self.within = True
        yield
        self.within = False

    async def send(self, _: str, value: bytes | None, key: bytes, **__: Any) -> asyncio.Future[None]:
        assert self.within
        self.records.append(SimpleNamespace(key=key, value=value))
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        done.set_result(None)
        return done

    async def keeper(self) -> Keeper:
        """As a process that has just begun opens it."""
        found = Keeper({}, "tocsin.actor.state", "tocsin.actor", SimpleNamespace(partition=0, applied=0), "")  # type: ignore[arg-type]
        await found.open()
        return found


@pytest.fixture
def broker(monkeypatch: pytest.MonkeyPatch) -> Broker:
    made = Broker()

    async def to_the_end(*_: Any, **__: Any) -> tuple[list[SimpleNamespace], int]:
        return made.records, 0

    monkeypatch.setattr(module, "AIOKafkaProducer", lambda **_: made)
    monkeypatch.setattr(module, "to_the_end", to_the_end)
    return made


def on_loop(check: Callable[[], Coroutine[Any, Any, None]]) -> None:
    asyncio.run(check())


@pytest.mark.parametrize(
    "crashes",
    [
        # (offset, upto, which one it is)
        [(5, 10, 1), (7, 7, 2), (7, 7, 3)],
        [(5, 10, 1), (10, 10, 2), (11, 11, 1)],
        [(5, 10, 1), (3, 5, 2), (6, 9, 1)],
        [(5, 10, 1), (11, 20, 1), (15, 15, 2), (5, 14, 1)],
        [(0, 0, 1), (0, 0, 2), (1, 1, 1), (0, 0, 1)],
    ],
)
@pytest.mark.parametrize("again", [False, True])
def test_crashes_that_may_be_of_one_message_count_on_and_others_begin_at_one(
    broker: Broker, crashes: list[tuple[int, int, int]], *, again: bool
) -> None:
    async def check() -> None:
        keeper = await broker.keeper()
        for offset, upto, times in crashes:
            assert await keeper.crashed(offset, upto) == times
            keeper = await broker.keeper() if again else keeper

    on_loop(check)


def test_everything_up_to_the_end_of_what_has_crashed_goes_by_itself(broker: Broker) -> None:
    async def check() -> None:
        keeper = await broker.keeper()
        assert not keeper.alone(0)
        await keeper.crashed(5, 10)
        for each in (keeper, await broker.keeper()):
            assert [offset for offset in range(15) if each.alone(offset)] == list(range(11))

    on_loop(check)


@pytest.mark.parametrize(("offset", "upto", "times"), [(7, 7, 3), (5, 9, 3), (8, 9, 1), (0, 6, 1)])
def test_a_crash_noted_by_an_older_release_counts_on_at_its_offset(broker: Broker, offset: int, upto: int, times: int) -> None:
    async def check() -> None:
        broker.records.append(SimpleNamespace(key=CRASH.encode(), value=b'{"offset":7,"times":2}'))
        keeper = await broker.keeper()
        assert [offset for offset in range(15) if keeper.alone(offset)] == list(range(8))
        assert await keeper.crashed(offset, upto) == times
        assert msgspec.json.decode(broker.records[-1].value, type=Crash) == Crash(offset, times, upto)

    on_loop(check)


class Clock:
    """A time that passes only when someone sleeps or works; ``naps``: how long everyone slept."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 100.0
        self.naps: list[float] = []
        monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: self.now))
        monkeypatch.setattr(module, "asyncio", SimpleNamespace(sleep=self.sleep, gather=asyncio.gather))

    async def sleep(self, seconds: float) -> None:
        self.naps.append(round(seconds, 6))
        self.now += seconds

    def work(self, many: int, seconds: float) -> Any:
        """A copy of so many records that each take so long."""

        def records() -> Iterator[tuple[str, bytes]]:
            for number in range(many):
                self.now += seconds
                yield f"x/{number}", b"data"

        return SimpleNamespace(records=records, head=SimpleNamespace(records={"x": many}, applied=7))


@pytest.mark.parametrize(
    ("seconds", "leisure", "hurried", "naps"),
    [
        (0.02, 10.0, False, [0.08] * 4),
        (1.0, 10.0, False, [0.2] * 4),
        (0.04, 0.3, False, [0.16, 0.16, 0.04, 0.04]),
        (0.04, 0.1, False, [0.16, 0.0, 0.0, 0.0]),
        (0.04, 0.14, False, [0.16, 0.04, 0.0, 0.0]),
        (1.0, 0.0, False, [0.0] * 4),
        (1.0, 10.0, True, [0.0] * 4),
    ],
)
def test_a_copy_leaves_most_of_the_time_to_others_until_it_has_taken_long_enough_or_someone_waits(
    broker: Broker, monkeypatch: pytest.MonkeyPatch, seconds: float, leisure: float, hurried: bool, naps: list[float]
) -> None:
    async def check() -> None:
        keeper = await broker.keeper()
        clock = Clock(monkeypatch)
        if hurried:
            # Before the copy is begun: what was sent is waited for first.
            keeper.hurry()
        await keeper.save(clock.work(4, seconds), None, leisure)
        assert clock.naps == naps
        assert [record.key for record in broker.records] == [f"x/{number}".encode() for number in range(4)]

    on_loop(check)


def test_a_copy_that_is_waited_for_in_the_middle_hurries(broker: Broker, monkeypatch: pytest.MonkeyPatch) -> None:
    async def check() -> None:
        keeper = await broker.keeper()
        clock = Clock(monkeypatch)
        sleep = clock.sleep

        async def waited_for(seconds: float) -> None:
            await sleep(seconds)
            if len(clock.naps) == 2:
                keeper.hurry()

        monkeypatch.setattr(module, "asyncio", SimpleNamespace(sleep=waited_for, gather=asyncio.gather))
        await keeper.save(clock.work(4, 1.0), None, 1e6)
        assert clock.naps == [0.2, 0.2, 0.0, 0.0]

    on_loop(check)
