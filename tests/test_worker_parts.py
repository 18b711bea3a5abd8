"""A worker's partitions without a broker: what must not be kept is not kept, what was counted is told, who is dead is found out."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterator, Sequence
from types import SimpleNamespace
from typing import Any

import pytest
from aiokafka import TopicPartition
from aiokafka.errors import GroupAuthorizationFailedError, TopicAuthorizationFailedError

from connectors import deadletter
from connectors.wire import WireError
from detector import stage
from detector import worker as module
from detector.config import parse
from detector.engine import fault
from detector.messages import VERSION, Message, apart, record_of
from detector.part import Part
from detector.process import AGAIN, REFUSED, Halt, Process
from detector.sender import Letter
from detector.snapshot import Snapshot
from detector.stage import Note
from detector.worker import Worker

PLACE = "tocsin.by-actor"


class Stage:
    """Counts its messages; the one called ``bad`` makes it raise. ``whole``: before anything is known of the others of its run."""

    partition, partitions, name = 0, 4, "actor"

    def __init__(self) -> None:
        self.trying = -1
        self.applied = self.rows = self.dropped = self.late = self.identities = 0
        self.bad: Exception | None = None
        self.whole = False
        #: What comes of each message.
        self.outs: list[stage.Out] = []
        self.runs: list[list[int]] = []

    def quick(self) -> bool:
        return True

    def takes(self, run: Sequence[Note]) -> Iterator[Any]:
        self.runs.append([note.offset for note in run])
        if self.whole and self.bad is not None and any(note.data == b"bad" for note in run):
            self.trying = run[-1].offset
            raise self.bad
        yield from stage.Stage.takes(self, run)  # type: ignore[arg-type]

    def take(self, data: bytes, offset: int, time: int = 0) -> Any:
        self.rows += 1
        if data == b"bad" and self.bad is not None:
            raise self.bad
        self.applied = offset + 1
        return SimpleNamespace(outs=self.outs, alerts=[], arrived=0, ticks=())


class Keeper:
    """Remembers what was kept. ``fails``: how many checkpoints are refused first; ``upto``: where the last crash has been; ``times``:
    how often."""

    def __init__(self, stage: Stage) -> None:
        self.stage, self.saved, self.skips, self.fails = stage, 0, set[int](), 0
        self.upto, self.times = -1, 1
        self.crashes: list[tuple[int, int]] = []
        self.heads: list[int] = []
        self.closed = False
        self.leisure: list[float] = []
        self.seen: Callable[[], object] = lambda: None
        self.copied: list[object] = []
        self.begun, self.hurried = asyncio.Event(), asyncio.Event()

    def snapshot(self) -> Any:
        self.copied.append(self.seen())
        return SimpleNamespace(head=SimpleNamespace(applied=self.stage.applied))

    async def save(self, snapshot: Snapshot, source: TopicPartition, leisure: float = 0.0) -> int:
        await asyncio.sleep(0.01)
        self.leisure.append(leisure)
        self.begun.set()
        if leisure:
            await self.hurried.wait()
        if self.fails:
            self.fails -= 1
            raise OSError("the broker does not take it")
        self.saved = snapshot.head.applied
        self.heads.append(self.saved)
        return 1

    def hurry(self) -> None:
        self.hurried.set()

    def alone(self, offset: int) -> bool:
        return offset <= self.upto

    async def crashed(self, offset: int, upto: int) -> int:
        self.crashes.append((offset, upto))
        return self.times

    async def close(self) -> None:
        self.closed = True


class Out:
    """A sender that has delivered everything."""

    def __init__(self) -> None:
        self.letters: list[Letter] = []

    async def settle(self) -> None:
        await asyncio.sleep(0)

    async def room(self) -> None:
        pass

    def put(self, letter: Letter) -> None:
        self.letters.append(letter)


class Bench:
    """A worker of the actors' stage with partition 0 open, and what its process was told has gone wrong."""

    def __init__(self) -> None:
        self.process = Process(parse(""), "0", stages=("actor",))
        self.out = Out()
        self.process.sender = self.out  # type: ignore[assignment]
        self.failed: list[BaseException] = []
        self.process.fail = self.failed.append  # type: ignore[method-assign,assignment]
        self.worker = Worker(self.process, "actor")
        self.sought: list[int] = []
        self.worker.app = SimpleNamespace(consumer=SimpleNamespace(highwater=lambda _: None, seek=self._seek))
        self.stage = Stage()
        self.keeper = Keeper(self.stage)
        self.part = Part(self.stage, self.keeper)  # type: ignore[arg-type]
        self.worker.parts[0] = self.part
        self.worker._assigned, self.worker._joined = {0}, True

    async def take(self, *messages: tuple[int, bytes]) -> None:
        for offset, data in messages:
            await self.together((offset, data))

    async def together(self, *messages: tuple[int, bytes]) -> None:
        await self.worker._take(0, [Note(offset, data, 1) for offset, data in messages])

    async def _seek(self, _: Any, offset: int) -> None:
        self.sought.append(offset)


def on_bench(check: Callable[[Bench], Coroutine[Any, Any, None]]) -> None:
    async def run() -> None:
        await check(Bench())

    asyncio.run(run())


def test_a_checkpoint_that_failed_is_not_followed_by_one_that_lacks_what_it_was_to_write() -> None:
    async def check(bench: Bench) -> None:
        bench.keeper.fails = 1
        bench.part.saved_at = -1e9
        await bench.take((0, b"x"), (1, b"x"))
        assert bench.part.saving is not None
        # The process is asked to end while this checkpoint, which has time, is being refused.
        await bench.worker.stop()
        assert [str(error) for error in bench.failed] == ["the broker does not take it"]
        assert bench.keeper.heads == []
        assert bench.keeper.closed

    on_bench(check)


def test_a_checkpoint_has_time_until_someone_waits_for_the_partition() -> None:
    async def check(bench: Bench) -> None:
        bench.part.saved_at = -1e9
        await bench.take((0, b"x"))
        await bench.keeper.begun.wait()
        await bench.take((1, b"x"))
        await bench.worker.stop()
        assert bench.keeper.heads == [1, 2]
        assert bench.keeper.leisure == [bench.worker.config.worker.checkpoint_seconds / 2, 0.0]

    on_bench(check)


def test_a_last_checkpoint_that_failed_is_not_tried_a_second_time() -> None:
    async def check(bench: Bench) -> None:
        bench.keeper.fails = 1
        await bench.take((0, b"x"))
        with pytest.raises(OSError, match="does not take it"):
            await bench.worker.stop()
        # A rebalance meets the end.
        await bench.worker._release(0)
        assert bench.keeper.heads == []

    on_bench(check)


@pytest.mark.parametrize(("raised", "code"), [(ZeroDivisionError(), AGAIN), (WireError("newer"), REFUSED)])
def test_a_state_that_a_block_has_half_changed_is_not_kept_by_a_checkpoint_that_had_not_begun(raised: Exception, code: int) -> None:
    async def check(bench: Bench) -> None:
        bench.stage.bad = raised
        await bench.take((0, b"x"))
        bench.part.saved_at = -1e9
        bench.worker._maybe_save(bench.part, 0)
        # The checkpoint's task is made, and its turn comes when the block has raised.
        assert bench.part.saving is not None
        with pytest.raises(Halt) as halt:
            await bench.take((1, b"bad"))
        assert halt.value.code == code
        await bench.worker.stop()
        assert bench.keeper.heads == []

    on_bench(check)


EVIDENCE = stage.Out("evidence", 2, None, record_of(Message(VERSION, "object", 0, 7)))


def sent(bench: Bench) -> list[int]:
    """How many messages each record of evidence holds that has left."""
    return [len(apart(letter.value or b"")) for letter in bench.out.letters if letter.what == "evidence/2"]


def test_a_checkpoint_is_taken_when_all_evidence_that_has_come_of_it_is_on_its_way() -> None:
    async def check(bench: Bench) -> None:
        bench.stage.outs = [EVIDENCE]
        await bench.take((0, b"x"), (1, b"x"))
        assert sent(bench) == []
        bench.keeper.seen = lambda: sent(bench)
        await bench.worker.stop()
        assert bench.keeper.heads == [2]
        assert bench.keeper.copied == [[2]]

    on_bench(check)


def test_evidence_leaves_together_when_a_round_is_over_and_waits_no_longer_than_the_linger_where_it_is_not() -> None:
    async def check(bench: Bench) -> None:
        bench.stage.outs = [EVIDENCE]
        await bench.take((0, b"x"), (1, b"x"))
        # The next partition of the round is still to be opened.
        bench.worker._flush_soon(over=False)
        assert sent(bench) == []
        await asyncio.sleep(2 * bench.worker.config.worker.linger_ms / 1000)
        assert sent(bench) == [2]
        bench.worker._flushed = -1e9
        await bench.take((2, b"x"))
        bench.worker._flush_soon(over=False)
        bench.worker._flush_soon()
        assert sent(bench) == [2, 1]
        await asyncio.sleep(2 * bench.worker.config.worker.linger_ms / 1000)
        assert sent(bench) == [2, 1]

    on_bench(check)


def test_a_worker_is_not_ready_before_the_broker_has_spoken() -> None:
    async def check(bench: Bench) -> None:
        bench.worker._joined = False
        assert list(bench.worker.ready()) == ["actor"]
        await bench.worker._on_assigned(None, [TopicPartition(PLACE, 0), TopicPartition("else", 1)])
        assert bench.worker.ready() == {}

    on_bench(check)


def test_what_a_partition_counted_is_told_although_it_was_let_go() -> None:
    async def check(bench: Bench) -> None:
        await bench.take((0, b"x"), (1, b"x"))
        assert bench.worker.beat().rows == 2
        await bench.take((2, b"x"))
        await bench.worker.stop()
        assert bench.worker.beat().rows == 1
        assert bench.worker.beat().rows == 0
        page = bench.process.metrics.render()[0].decode()
        assert 'tocsin_visits_total{stage="actor"} 3.0' in page

    on_bench(check)


def test_a_partition_of_which_nothing_was_read_yet_is_behind_since_it_was_opened() -> None:
    async def check(bench: Bench) -> None:
        bench.worker.app.consumer.highwater = lambda _: 7
        bench.part.log_time -= 5_000_000
        (lag,) = bench.worker.beat().lag.values()
        assert lag.records == 7
        assert 5.0 <= lag.seconds < 60.0

    on_bench(check)


def test_a_message_that_comes_too_early_twice_has_the_log_looked_at_and_those_on_their_way_have_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def check(bench: Bench) -> None:
        looked: list[int] = []

        async def still_there(_: Process, __: TopicPartition, applied: int) -> None:
            looked.append(applied)
            if len(looked) > 1:
                raise Halt(REFUSED, "it is gone")

        monkeypatch.setattr(module, "still_there", still_there)
        await bench.take((0, b"x"), (5, b"x"), (6, b"x"), (7, b"x"))
        assert (bench.sought, looked) == ([1], [])
        await bench.take((1, b"x"), (9, b"x"), (10, b"x"), (9, b"x"))
        assert (bench.sought, looked) == ([1, 2, 2], [2])
        with pytest.raises(Halt, match="it is gone"):
            await bench.take((9, b"x"))

    on_bench(check)


def test_of_a_run_that_is_partly_known_only_the_rest_is_taken_in() -> None:
    async def check(bench: Bench) -> None:
        await bench.together((0, b"x"), (1, b"x"), (2, b"x"))
        await bench.together((1, b"x"), (2, b"x"), (3, b"x"), (4, b"x"))
        assert bench.stage.runs == [[0, 1, 2], [3, 4]]
        assert bench.stage.applied == 5

    on_bench(check)


def test_a_gap_in_a_run_is_read_again_and_nothing_behind_it_is_taken_in() -> None:
    async def check(bench: Bench) -> None:
        await bench.together((0, b"x"), (1, b"x"), (4, b"x"), (5, b"x"))
        assert (bench.stage.runs, bench.sought) == ([[0, 1]], [2])
        await bench.together(*((offset, b"x") for offset in range(2, 6)))
        assert (bench.stage.runs, bench.sought) == ([[0, 1], [2, 3, 4, 5]], [2])

    on_bench(check)


@pytest.mark.parametrize(("upto", "runs"), [(-1, [[0, 1], [3, 4]]), (3, [[0], [1], [3], [4]])])
def test_a_message_of_a_run_that_someone_passes_over_is_put_aside_once_and_those_beside_it_are_taken_in(
    upto: int, runs: list[list[int]]
) -> None:
    async def check(bench: Bench) -> None:
        bench.keeper.skips, bench.keeper.upto = {2}, upto
        run = [(offset, b"at %d" % offset) for offset in range(5)]
        await bench.together(*run)
        await bench.together(*run)
        assert bench.stage.runs == runs
        (letter,) = bench.out.letters
        aside = deadletter.decode(letter.value or b"")
        assert isinstance(aside, deadletter.DeadLetter)
        assert (aside.place, aside.raw) == (f"{PLACE}/0/2", b"at 2")

    on_bench(check)


def test_of_a_run_that_crashes_the_whole_is_noted_and_nobody_is_told_to_pass_over_its_first() -> None:
    async def check(bench: Bench) -> None:
        bench.stage.bad, bench.stage.whole, bench.keeper.times = ZeroDivisionError(), True, 7
        with pytest.raises(Halt, match="one of the blocks at 0 to 2 made the core raise ZeroDivisionError") as halt:
            await bench.together((0, b"x"), (1, b"bad"), (2, b"x"))
        assert (halt.value.code, "tocsin skip" in str(halt.value)) == (AGAIN, False)
        assert (bench.keeper.crashes, bench.part.spoilt) == ([(0, 2)], True)

    on_bench(check)


@pytest.mark.parametrize(("times", "code", "said"), [(2, AGAIN, "the block at 1 made"), (3, REFUSED, "raise 3 times: .* actor 0 1$")])
def test_after_a_crash_of_a_run_its_messages_go_one_by_one_until_it_is_found(times: int, code: int, said: str) -> None:
    async def check(bench: Bench) -> None:
        bench.stage.bad, bench.stage.whole = ZeroDivisionError(), True
        bench.keeper.upto, bench.keeper.times = 2, times
        with pytest.raises(Halt, match=said) as halt:
            await bench.together((0, b"x"), (1, b"bad"), (2, b"x"), (3, b"x"), (4, b"x"))
        assert (halt.value.code, bench.keeper.crashes, bench.stage.runs) == (code, [(1, 1)], [[0], [1]])
        bench.part.spoilt, bench.stage.bad = False, None
        await bench.together((1, b"bad"), (2, b"x"), (3, b"x"), (4, b"x"))
        assert bench.stage.runs[2:] == [[1], [2], [3, 4]]

    on_bench(check)


def test_a_message_that_a_run_refuses_is_named_and_what_came_before_it_counts() -> None:
    async def check(bench: Bench) -> None:
        bench.stage.bad = WireError("newer")
        with pytest.raises(Halt, match=rf"^{PLACE} 0 at 2: newer\. .*: tocsin skip actor 0 2$") as halt:
            await bench.together((0, b"x"), (1, b"x"), (2, b"bad"), (3, b"x"))
        assert (halt.value.code, bench.stage.applied, bench.part.spoilt) == (REFUSED, 2, True)
        assert bench.keeper.crashes == []

    on_bench(check)


def test_what_cannot_be_sent_on_is_laid_to_its_own_message(monkeypatch: pytest.MonkeyPatch) -> None:
    async def check(bench: Bench) -> None:
        sent: list[int] = []

        def send(*_: Any) -> None:
            sent.append(bench.stage.applied)
            if len(sent) == 2:
                raise ZeroDivisionError

        monkeypatch.setattr(bench.worker, "_send", send)
        with pytest.raises(Halt, match="the block at 1 made the core raise"):
            await bench.together((0, b"x"), (1, b"x"), (2, b"x"))
        assert bench.keeper.crashes == [(1, 1)]

    on_bench(check)


def app(**given: Any) -> Any:
    """Faust's services, all alive but for what is given."""
    alive = SimpleNamespace(crashed=False, crash_reason=None)
    coordinator = SimpleNamespace(_pending_exception=given.get("pending"), _coordination_task=given.get("task"))
    thread = SimpleNamespace(crashed=False, crash_reason=None, _consumer=SimpleNamespace(_coordinator=coordinator))
    consumer = SimpleNamespace(crashed=False, crash_reason=None, _thread=thread)
    fetcher = given.get("fetcher", alive)
    return SimpleNamespace(crashed=False, crash_reason=None, consumer=consumer, _fetcher=fetcher)


def test_a_dead_consumer_is_found_out_and_one_that_a_rebalance_starts_again_is_not_dead() -> None:
    async def run() -> None:
        assert fault(app()) is None
        refused = TopicAuthorizationFailedError("tocsin.by-actor")
        assert fault(app(fetcher=SimpleNamespace(crashed=True, crash_reason=refused))) is refused
        assert fault(app(fetcher=SimpleNamespace(crashed=True, crash_reason=asyncio.CancelledError()))) is None
        group = GroupAuthorizationFailedError("tocsin.actor")
        assert fault(app(pending=group)) is group
        ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        assert fault(app(task=ended)) is None
        ended.set_exception(GroupAuthorizationFailedError("tocsin.actor"))
        assert isinstance(fault(app(task=ended)), GroupAuthorizationFailedError)

    asyncio.run(run())


def test_a_dead_consumer_ends_the_process(monkeypatch: pytest.MonkeyPatch) -> None:
    async def check(bench: Bench) -> None:
        monkeypatch.setattr(module, "fault", lambda _: TopicAuthorizationFailedError(PLACE))
        await asyncio.wait_for(bench.worker._look_after(), 60.0)
        (error,) = bench.failed
        assert isinstance(error, Halt)
        assert error.code == AGAIN
        assert "tocsin.by-actor cannot be read any more: TopicAuthorizationFailedError" in str(error)

    on_bench(check)
