"""The bindings topic holds what the map holds: repeats are not said, what is let go of is taken back, nothing waits in memory."""

from __future__ import annotations

import asyncio
import random
from types import SimpleNamespace
from typing import Any, cast

import msgspec
import pytest
from aiokafka import TopicPartition
from hypothesis import given, settings
from hypothesis import strategies as st

from connectors.event import HOUR, MINUTE, Binding, Block
from connectors.names import Names
from connectors.sources import Decoded
from detector import takeover
from detector.agreed import VERSION, Agreed, Damaged, Gone, Mark, Said, Sight, key_of, read_said
from detector.collect import Collector
from detector.identity import LONGEST_HISTORY, RENEWED, Bindings
from detector.lane import Lane, decoded

START = 1_800_000_000_000_000
LOG = "audit-0@u"


class Requests:
    """A source whose records are numbers: a request of the bound pod at that many microseconds from the start."""

    def __init__(self, names: Names) -> None:
        self.names = names

    def decode(self, records: list[bytes]) -> Decoded:
        """See ``connectors.sources.Source``."""
        times = [START + int(record) for record in records]
        pod, host = self.names.code("pod:a/p"), self.names.code("host:api")
        many = len(times)
        columns = {"time": times, "stream": [1] * many, "actor": [pod] * many, "object": [host] * many, "record": list(range(many))}
        return Decoded(
            Block(self.names, "made_up", columns), bindings=[Binding(i, at, "pod:a/p", "sa:a/x") for i, at in enumerate(times)]
        )


def message(offset: int, value: bytes) -> Any:
    return SimpleNamespace(offset=offset, value=value, headers=(), timestamp=-1)


def said(offset: int, time: int, subject: str, target: str | None) -> Said:
    return Said(VERSION, START + time, subject, target, LOG, offset)


def lane_over(agreed: Agreed, names: Names, own: list[Said], position: int = 0) -> Lane:
    lane = Lane("audit", 0, "u", "made_up", cast(Any, Requests(names)), Sight(LOG, agreed, own), begun=True)
    lane.position = position
    return lane


def read(lane: Lane, times: list[int], first: int) -> list[Said]:
    taken = decoded(lane, [message(first + i, b"%d" % at) for i, at in enumerate(times)], 10.0)
    for each in taken.said:
        lane.sight.say(each, bound=True)
    return taken.said


def test_a_thousand_requests_of_one_pod_within_an_hour_are_one_binding() -> None:
    told = read(lane_over(Agreed(100), Names(), []), [i * HOUR // 1_000 for i in range(1_000)], 0)
    assert [(each.time - START, each.subject, each.target) for each in told] == [(0, "pod:a/p", "sa:a/x")]


def test_one_that_lives_on_is_said_again_each_hour_so_that_it_is_not_the_first_to_go() -> None:
    told = read(lane_over(Agreed(100), Names(), []), [i * 10 * MINUTE for i in range(25)], 0)
    assert [each.time - START for each in told] == [0, HOUR, 2 * HOUR, 3 * HOUR, 4 * HOUR]


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 40), st.integers(0, 40))
def test_a_log_read_again_after_a_crash_says_the_same_again(seed: int, committed: int, in_force: int) -> None:
    """Whatever was in force with the commit, and whatever of the log's own lay beyond it."""
    rng = random.Random(seed)
    times = sorted(rng.randrange(6 * HOUR) for _ in range(60))
    times = [at - rng.randrange(HOUR) if rng.random() < 0.2 else at for at in times]
    topic: list[Said] = []
    first = lane_over(Agreed(100), Names(), [])
    topic += read(first, times[:committed], 0)
    # A commit: some of the topic is in force from here on.
    agreed = Agreed(100)
    for place, each in enumerate(topic):
        agreed.add(place, each)
    agreed.advance(min(in_force, len(topic)))
    first.sight.follow(agreed)
    then = read(first, times[committed:], committed)
    topic += then
    # The process dies; the next one reads the topic to its end and goes on from the commit.
    anew = Agreed(100)
    for place, each in enumerate(topic):
        anew.add(place, each)
    anew.advance(agreed.position)
    second = lane_over(anew, Names(), anew.beyond(LOG, committed), committed)
    assert read(second, times[committed:], committed) == then


def test_a_repeat_is_one_only_of_the_same_and_only_for_an_hour() -> None:
    held = Bindings(10)
    assert held.learn(Binding(0, START, "ip:10.0.0.1", "pod:a/p"))
    assert not held.learn(Binding(0, START + RENEWED - 1, "ip:10.0.0.1", "pod:a/p"))
    assert held.learn(Binding(0, START + RENEWED, "ip:10.0.0.1", "pod:a/p"))
    assert held.learn(Binding(0, START + 1, "ip:10.0.0.1", None))
    assert held.learn(Binding(0, START + 2, "ip:10.0.0.1", "pod:a/p"))
    assert held.learn(Binding(0, START - 1, "ip:10.0.0.1", "pod:a/p"))


def test_what_is_in_force_needs_not_be_kept_by_the_log_that_said_it() -> None:
    """Also what the map has let go of since: it would never be found there again."""
    agreed = Agreed(100)
    sight = Sight(LOG, agreed, [])
    for at in range(3 * LONGEST_HISTORY):
        each = said(at, at * HOUR, "ip:10.0.0.1", f"pod:a/p{at}")
        sight.view.bind(each.binding())
        sight.say(each, bound=True)
        agreed.add(at, each)
    agreed.advance(agreed.read)
    sight.follow(agreed)
    assert sight._own == []
    assert sight.view.principal("ip:10.0.0.1", START + 3 * LONGEST_HISTORY * HOUR)[0] == f"pod:a/p{3 * LONGEST_HISTORY - 1}"


def test_what_the_map_lets_go_of_is_owed_to_the_topic_until_it_is_taken_back() -> None:
    agreed = Agreed(2)
    for at, subject in enumerate(["ip:10.0.0.1", "ip:10.0.0.1", "ip:10.0.0.2", "ip:10.0.0.3"]):
        agreed.add(at, said(at, at * HOUR, subject, f"pod:a/p{at}"))
    agreed.advance(4)
    gone = [Gone("ip:10.0.0.1", START), Gone("ip:10.0.0.1", START + HOUR)]
    assert agreed.owed == dict.fromkeys(gone, LOG)
    for at, each in enumerate(gone, 4):
        agreed.add(at, read_said(key_of(*each), None))
    agreed.advance(6)
    assert agreed.owed == {}
    assert len(agreed.bindings) == 2


def test_an_empty_record_takes_a_binding_back_from_its_place_on() -> None:
    agreed = Agreed(10)
    agreed.add(0, said(0, 0, "ip:10.0.0.1", "pod:a/p"))
    agreed.add(1, Gone("ip:10.0.0.1", START))
    agreed.advance(1)
    assert agreed.bindings.principal("ip:10.0.0.1", START)[0] == "pod:a/p"
    agreed.advance(2)
    assert agreed.bindings.principal("ip:10.0.0.1", START)[0] == "ip:10.0.0.1"
    assert len(agreed.bindings) == 0


@pytest.mark.parametrize("key", [None, b"", b"ip:10.0.0.1", b"\x00123", b"ip:10.0.0.1\0soon"])
def test_an_empty_record_of_no_binding_is_damaged(key: bytes | None) -> None:
    with pytest.raises(Damaged, match="none of ours"):
        read_said(key, None)


def _topic(monkeypatch: pytest.MonkeyPatch, records: list[Said | Gone]) -> list[int]:
    """A bindings topic of these records in place of a broker's. Returns the list of where it was read from, each time."""
    reads: list[int] = []

    async def told(_: Any, __: str, tell: Any, ___: int = 0, start: int = 0, **____: Any) -> int:
        reads.append(start)
        for offset, each in enumerate(records[start:], start):
            value = None if isinstance(each, Gone) else msgspec.msgpack.encode(each)
            key = key_of(*each) if isinstance(each, Gone) else each.key
            tell(SimpleNamespace(offset=offset, key=key, value=value))
        return len(records)

    monkeypatch.setattr(takeover, "told_to_the_end", told)
    return reads


def test_a_topic_of_any_length_is_held_as_the_map_holds_it(monkeypatch: pytest.MonkeyPatch) -> None:
    most: list[int] = []
    add = Agreed.add

    def counted(self: Agreed, offset: int, each: Said | Gone) -> None:
        add(self, offset, each)
        most.append(len(self._beyond))

    monkeypatch.setattr(Agreed, "add", counted)
    _topic(monkeypatch, [said(at, at, f"ip:10.0.{at % 100}.1", f"pod:a/p{at}") for at in range(5_000)])
    agreed = asyncio.run(takeover.bindings_to({}, "tocsin.bindings", 50, 4_990))
    assert (max(most), len(agreed.bindings), agreed.position, agreed.read, len(agreed._beyond)) == (10, 50, 4_990, 5_000, 10)


def test_the_end_is_read_once_for_logs_that_were_committed_together(monkeypatch: pytest.MonkeyPatch) -> None:
    reads = _topic(monkeypatch, [said(at, at, "ip:10.0.0.1", f"pod:a/p{at}") for at in range(10)])
    places = {TopicPartition("audit", partition): (0, 50) for partition in range(6)}

    async def kept(_: Any) -> Any:
        return {tp: (40, Mark(bindings=4 if tp.partition < 5 else 3)) for tp in places}

    async def uuids(topics: list[str]) -> dict[str, str]:
        return dict.fromkeys(topics, "u")

    process = SimpleNamespace(
        uuids=uuids,
        out=SimpleNamespace(put=lambda _: None),
        topics=SimpleNamespace(control="control", bindings="bindings"),
        client={},
        config=SimpleNamespace(limits=SimpleNamespace(bindings=100)),
    )
    monkeypatch.setattr(takeover, "_kept", kept)
    agreed = Agreed(100)
    agreed.read = agreed.position = 8
    taken: Any = asyncio.run(
        takeover.taken_over(process, {"audit": ("made_up", Requests(Names()))}, places, agreed, {})  # type: ignore[arg-type,dict-item]
    )
    # What is missing of the shared ones, then from the beginning for each position.
    assert reads == [8, 0, 0]
    assert agreed.read == 10
    lanes = [lane for lane, _ in taken.values()]
    assert len({id(lane.sight.agreed) for lane in lanes}) == 2
    assert lanes[0].sight.view.principal("ip:10.0.0.1", START + 100)[0] == "pod:a/p9"


def test_a_process_without_logs_keeps_nothing_waiting() -> None:
    asyncio.run(_stands_by())


async def _stands_by() -> None:
    each = Collector.__new__(Collector)
    each.agreed, each.lanes, each._lock = Agreed(100), {}, asyncio.Lock()
    each.topics = SimpleNamespace(control="control")  # type: ignore[assignment]
    batches = [[said(at, at * HOUR, "ip:10.0.0.1", "pod:a/p")] for at in range(1_000)]

    class Tail:
        at = 0
        done = asyncio.Event()

        async def getmany(self, **_: Any) -> dict[Any, Any]:
            if self.at == len(batches):
                self.done.set()
                await asyncio.Event().wait()
            records = [SimpleNamespace(offset=self.at, key=one.key, value=msgspec.msgpack.encode(one)) for one in batches[self.at]]
            self.at += 1
            return {TopicPartition("bindings", 0): records}

    each._tail = Tail()
    task = asyncio.create_task(each._follow())
    await each._tail.done.wait()
    task.cancel()
    assert each.agreed._beyond == []
    assert each.agreed.position == 1_000
