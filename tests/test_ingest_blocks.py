"""However many rows records bring, and however long their texts: what goes on fits into messages, and every row counts once."""

from __future__ import annotations

import asyncio
import json
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
from aiokafka import TopicPartition

from connectors.deadletter import decode as read_letter
from connectors.event import Block
from connectors.names import Names
from connectors.sources import available
from connectors.status import Canary
from connectors.topics import Topics
from connectors.wire import Tick, decode, encode_tick
from detector.agreed import Agreed, Sight
from detector.config import Config, parse
from detector.intake import STEP_BYTES, Intake, steps
from detector.lane import Lane
from detector.messages import Joined, read_messages
from detector.router import MOST_ROWS, by_actor, fitting, most_rows, pieces, runs
from detector.singles import STAGES
from detector.snapshot import digest
from detector.stage import Shared
from detector.worker import Worker
from tests.logs import log
from tests.stage_logs import Logs, whole_records

TP = TopicPartition("k8s", 0)
TIME = "2026-03-01T10:00:00.000000Z"


def events(many: int, seed: int = 0, name: str = "model-{}") -> bytes:
    """An EventList of requests, two rows each or more."""
    items = [
        {
            "kind": "Event",
            "apiVersion": "audit.k8s.io/v1",
            "level": "Metadata",
            "auditID": f"{seed}-{each}",
            "stage": "ResponseComplete",
            "requestURI": "/",
            "verb": "get",
            "user": {"username": f"user-{each % 40}"},
            "sourceIPs": ["10.0.0.9"],
            "objectRef": {"resource": "secrets", "namespace": "lab", "name": name.format(each % 60), "apiVersion": "v1"},
            "responseStatus": {"code": 200},
            "requestReceivedTimestamp": TIME,
            "stageTimestamp": TIME,
        }
        for each in range(many)
    ]
    return json.dumps({"kind": "EventList", "apiVersion": "audit.k8s.io/v1", "items": items}).encode()


def record(offset: int, value: bytes, *headers: tuple[str, bytes]) -> Any:
    return SimpleNamespace(offset=offset, value=value, headers=headers, timestamp=-1)


class Site:
    """An intake whose messages are kept. ``sent``: (topic, partition, value)."""

    def __init__(self, config: Config) -> None:
        self.sent: list[tuple[str, int | None, bytes]] = []
        self.said: list[Any] = []
        counter = SimpleNamespace(labels=lambda *_: SimpleNamespace(inc=lambda *_: None))
        self.process = SimpleNamespace(
            config=config,
            kafka=config.kafka,
            topics=Topics("tocsin"),
            name="ingest-0",
            out=SimpleNamespace(put=lambda letter: self.sent.append((letter.topic, letter.partition, letter.value or b""))),
            say=self.said.append,
            metrics=SimpleNamespace(events=counter, dead_letters=counter, reject=lambda *_: None),
        )
        names = Names()
        self.intake = Intake(cast(Any, self.process), names)
        source = available()["kubernetes_audit"](names)
        self.lane = Lane("k8s", 0, "u", "kubernetes_audit", source, Sight("k8s-0@u", Agreed(1_000), []), begun=True)

    def take(self, records: list[Any]) -> None:
        for step in steps({TP: records}):
            self.intake.take(step, {TP: self.lane})

    def of(self, name: str, partition: int | None = None) -> list[bytes]:
        return [value for topic, at, value in self.sent if topic == f"tocsin.{name}" and (partition is None or at == partition)]


def config(message_bytes: int = 8 << 20, partitions: int = 1) -> Config:
    return parse(f"kafka.message_bytes = {message_bytes}\nkafka.partitions = {partitions}\n")


def through(site: Site, messages: list[bytes]) -> tuple[Any, list[bytes]]:
    """(the actors' visit after these messages, what went on)."""
    shared = Shared(1)
    shared.router.message_bytes = site.process.kafka.message_bytes
    stage = STAGES["actor"](site.process.config, 0, 1, shared)
    went: list[bytes] = []
    for offset, message in enumerate(messages):
        stage.take(message, offset)
        if shared.router.full:
            went += [out.value for out in shared.flush()]
    return stage, went + [out.value for out in shared.flush()]


@pytest.mark.parametrize("message_bytes", [1 << 20, 8 << 20])
def test_a_poll_of_event_lists_goes_all_the_way_in_messages_that_the_broker_takes(message_bytes: int) -> None:
    site = Site(config(message_bytes))
    site.take([record(offset, events(400, offset)) for offset in range(25)])
    messages = site.of("by-actor")
    assert max(map(len, messages)) <= message_bytes // 2
    stage, went = through(site, messages)
    assert max(map(len, went)) < message_bytes
    rows = sum(len(decode(each, Names()).block) for each in messages)
    assert rows == stage.rows >= 10_000
    assert sum(len(decode(each, Names()).block) for each in went) == rows
    assert stage.dropped == 0


def test_rows_of_a_record_that_fits_into_no_block_all_count_and_are_known_again() -> None:
    site = Site(config(1 << 20))
    many = most_rows(1 << 20, 20) * 3
    value = events(many)
    site.take([record(0, events(5)), record(1, value), record(2, events(5, 2))])
    messages = site.of("by-actor")
    stage, _ = through(site, messages)
    assert stage.dropped == 0
    assert stage.rows >= many + 10
    assert [log for log in sorted(stage.marks) if "~" in log][:2] == ["k8s-0@u~1", "k8s-0@u~2"]
    # Sent again after a crash, in other company: nothing counts twice.
    rows = stage.rows
    again = Site(config(1 << 20))
    again.take([record(1, value)])
    for offset, message in enumerate(again.of("by-actor"), len(messages)):
        stage.take(message, offset)
    assert stage.rows == rows
    assert stage.dropped > many


def test_a_record_whose_texts_fit_into_no_message_goes_to_the_dead_letters_and_the_rest_goes_on() -> None:
    site = Site(config(1 << 20))
    bad = events(most_rows(1 << 20, 20) // 2, name="{:0>480}")
    bad = bad.replace(b"model", b"m")
    long = json.loads(bad)
    for number, item in enumerate(long["items"]):
        item["objectRef"]["name"] = f"{number:0>450}"
        item["user"]["username"] = f"{number:x>450}"
        item["auditID"] = f"{number:y>2000}"
    site.take([record(0, events(5)), record(1, json.dumps(long).encode()), record(2, events(5, 2))])
    (letter,) = [read_letter(each) for each in site.of("deadletter")]
    assert (letter.reason, letter.offset) == ("too-large", 1)  # type: ignore[union-attr]
    assert site.lane.counted.rejects == {"too-large": 1}
    offsets = {int(each) for message in site.of("by-actor") for each in decode(message, Names()).block.record}
    assert offsets == {0, 2}
    assert max(map(len, site.of("by-actor"))) <= 1 << 19


def block(sizes: list[int]) -> Block:
    names = Names()
    actor, host = names.code("user:a"), names.code("host:b")
    record = np.repeat(np.arange(len(sizes)), sizes)
    many = len(record)
    return Block(
        names, "made_up", {"time": [1] * many, "stream": [1] * many, "actor": [actor] * many, "object": [host] * many, "record": record}
    )


def test_pieces_hold_whole_records_and_cut_a_large_one_in_the_same_way_in_any_company() -> None:
    cut = [(piece.record.tolist(), part) for piece, part in pieces(block([2, 3, 12, 1, 4]), 5)]
    assert cut == [([0, 0, 1, 1, 1], 0), ([2] * 5, 0), ([2] * 5, 1), ([2] * 2, 2), ([3, 4, 4, 4, 4], 0)]
    alone = [(len(piece), part) for piece, part in pieces(block([12]), 5)]
    assert alone == [(5, 0), (5, 1), (2, 2)]
    assert runs(block([2, 3])).tolist() == [0, 2, 5]


def test_messages_are_halved_between_records_until_they_fit() -> None:
    def route(part: Block, logs: tuple[str, ...], arrived: int) -> list[tuple[int, bytes]]:
        return by_actor(part, logs, arrived, 2)

    whole = block([100] * 20)
    limit = max(len(data) for _, data in route(block([100] * 4), ("raw-0@u",), 0))
    messages, large = fitting(whole, ("raw-0@u",), 0, limit, route)
    assert large == []
    assert len(messages) > 3
    found = [int(each) for _, data in messages for each in decode(data, Names()).block.record]
    assert found == np.repeat(range(20), 100).tolist()


def test_what_is_decoded_at_once_is_bounded_by_bytes() -> None:
    size = STEP_BYTES // 3
    other = TopicPartition("k8s", 1)
    polled = {TP: [record(n, b"x" * size) for n in range(4)], other: [record(0, b"x" * 3 * size), record(1, b"")]}
    found = [{tp.partition: [each.offset for each in held] for tp, held in step.items()} for step in steps(polled)]
    assert found == [{0: [0, 1, 2]}, {0: [3]}, {1: [0, 1]}]


def test_a_router_sends_no_message_that_the_broker_refuses() -> None:
    logs = Logs(config(), 1)
    for part in whole_records(log(3_000), 150):
        logs.ingest(part)
    shared = Shared(1)
    stage = STAGES["actor"](logs.config, 0, 1, shared)
    shared.router.message_bytes = 400_000
    for offset, message in enumerate(logs.topics["by_actor", 0]):
        stage.take(message, offset)
    went = [out.value for out in shared.flush()]
    assert len(went) > 3
    assert max(map(len, went)) < 400_000
    seen = [set(decode(each, Names()).extra["offset"].tolist()) for each in went]
    assert sum(map(len, seen)) == len(set().union(*seen))
    assert sum(len(decode(each, Names()).block) for each in went) == len(log(3_000))
    assert most_rows(8 << 20, 20) <= MOST_ROWS


def test_a_full_router_is_emptied_although_a_timer_is_set() -> None:
    async def run() -> tuple[int, int]:
        worker = Worker.__new__(Worker)
        worker._flushed, worker._flush_due = asyncio.get_running_loop().time() + 100.0, None
        worker.config = parse("")
        worker._evidence = Joined()
        flushed: list[int] = []

        def flush() -> list[Any]:
            flushed.append(1)
            return []

        router = SimpleNamespace(full=False)
        worker.shared = cast(Any, SimpleNamespace(router=_Sized(router), flush=flush))
        worker._flush_soon()
        before = len(flushed)
        router.full = True
        worker._flush_soon()
        return before, len(flushed)

    assert asyncio.run(run()) == (0, 1)


class _Sized:
    def __init__(self, router: Any) -> None:
        self._router = router

    def __len__(self) -> int:
        return 1

    @property
    def full(self) -> bool:
        return bool(self._router.full)


# -- canaries ---------------------------------------------------------------------------------------------------------------------


def test_every_partition_has_a_canary_on_its_own_timer_and_a_quiet_one_hears_the_time(monkeypatch: pytest.MonkeyPatch) -> None:
    site = Site(config(partitions=2))
    now = 1_000.0
    monkeypatch.setattr("detector.intake.time.monotonic", lambda: now)
    site.intake.see(5_000_000, 0)
    for second in range(25):
        now = 1_000.0 + second
        site.intake._wrote[0] = now
        site.intake.sing(10.0)
    clocks = [[tick.clock for each in site.of("by-actor", p) if (tick := decode(each, Names()).tick) is not None] for p in (0, 1)]
    assert clocks[0] == [0, 0, 0]
    assert len(clocks[1]) == 3
    assert all(clock >= 5_000_000 for clock in clocks[1])
    assert [each.partition for each in site.said if isinstance(each, Canary)] == [0, 1] * 3


def test_a_busy_partition_s_canary_comes_through_and_changes_nothing_on_its_way() -> None:
    given = parse("budget.alerts_per_day = 2000\n")
    plain, canaries = Logs(given, 1), Logs(given, 1)
    parts = list(whole_records(log(3_000), 130))
    for number, part in enumerate(parts):
        for logs in (plain, canaries):
            logs.ingest(part)
        if number % 3 == 0:
            canaries.topics["by_actor", 0].append(encode_tick(Names(), Tick(0, number + 1, "ingest-0")))
    through: list[int] = []
    for key, worker in canaries.workers.items():
        if key[0] == "fuse":
            take = worker.stage.take

            def seen(*taken: Any, take: Any = take) -> Any:
                found = take(*taken)
                through.extend(tick.sent for tick in found.ticks)
                return found

            worker.stage.take = seen  # type: ignore[assignment,method-assign]
    for logs in (plain, canaries):
        logs.drain()
    assert through == list(range(1, len(parts) + 1, 3))
    assert len(plain.told()) > 5
    assert plain.told() == canaries.told()
    for name in ("actor", "object"):
        one, other = (logs.workers[name, 0].stage for logs in (plain, canaries))
        assert [list(table.dump()) for table in one.tables()] == [list(table.dump()) for table in other.tables()]


def test_a_canary_that_says_no_time_is_no_news_to_the_judges() -> None:
    stage = STAGES["object"](parse(""), 1, 2, Shared(2))
    before = digest(stage)
    (out,) = stage.take(encode_tick(Names(), Tick(0, 7, "ingest-0")), 0).outs
    assert (out.topic, out.partition) == ("evidence", 1)
    assert [message.items for message in read_messages(out.value)] == [[]]
    judge = STAGES["fuse"](parse(""), 1, 2, Shared(2))
    taken = judge.take(out.value, 0)
    assert [tick.sent for tick in taken.ticks] == [7]
    assert not taken.outs
    stage.applied = 0
    assert digest(stage) == before
