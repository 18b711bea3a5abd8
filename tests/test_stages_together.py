"""What comes of a message is the same, to the byte, whatever it is taken in with."""

from __future__ import annotations

import itertools
import random
from collections.abc import Collection, Iterator
from typing import Any, NamedTuple

import msgspec
import numpy as np
import pytest

from connectors import ocsf
from connectors.event import Block
from connectors.names import Names
from connectors.wire import Control, Tick, WireError, decode, encode_control, encode_tick, replayed
from detector.config import parse
from detector.messages import VERSION, Joined, Message, apart, read_messages, record_of
from detector.router import most_coming, most_rows
from detector.singles import STAGES
from detector.snapshot import digest
from detector.stage import Note, Out, Shared, Taken
from detector.stages import ActorStage, ObjectStage, VisitStage
from models.calibration import OBJECT_STRANGE
from tests.logs import log
from tests.stage_logs import READS, Logs, whole_records

#: Tables that are so small that they forget all the time, so that a visit goes in several runs of rows.
TIGHT = "".join(f"limits.{each} = 100\n" for each in ("actors", "objects", "endpoints", "pairs"))
MESSAGE_BYTES = 8 << 20


def recorded(seed: int, partitions: int, settings: str = "") -> Logs:
    """All topics, after rows of several raw logs, some of them sent again, in whole or in part, with ticks and a configuration in
    between."""
    draw = random.Random(seed)
    logs = Logs(parse("budget.alerts_per_day = 2000\n" + settings), partitions, seed)
    parts = list(whole_records(log(700, seed, hours=300.0), 9))
    raw = [draw.choice(("raw-0@id", "raw-1@id", replayed("raw-1@id"))) for _ in parts]
    for number, part in enumerate(parts):
        logs.ingest(part.take(slice(None)), raw[number], 1_000 + number)
        what, back = draw.random(), draw.randint(0, min(number, 5))
        if what < 0.1:
            logs.ingest(parts[number - back].take(slice(None)), raw[number - back], 5_000 + number)
        elif what < 0.2 and number + 1 < len(parts):
            raw[number + 1] = raw[number]
            logs.ingest(Block.concat([part.take(slice(None)), parts[number + 1].take(slice(None))]), raw[number], 0)
        elif what < 0.25:
            logs.tick(int(part.time.max()) + draw.choice((0, 3_600_000_000)))
        if number == len(parts) // 2:
            logs.govern(1, "budget.alerts_per_day = 1000\n" + settings)
    logs.drain()
    return logs


class Folded(NamedTuple):
    """What came of a log: evidence and rows sent on to each partition, the arrival and the tick of each message, alerts, the state
    after each message at which a run has ended, and how many rows were counted."""

    sent: dict[tuple[str, int], list[Any]]
    taken: list[Any]
    alerts: list[bytes]
    digests: dict[int, str]
    counted: tuple[int, int]


def rows_of(data: bytes) -> Iterator[Any]:
    """The rows of a block on its way to the objects' visit, wherever it was cut; a message without rows as it is."""
    packet = decode(data, Names())
    if packet.passes:
        yield data
    block, names = packet.block, packet.block.names.values
    for row in range(len(block)):
        texts = [names[getattr(block, column)[row]] for column in ("actor", "object")]
        extra = {name: values[row].tobytes() for name, values in packet.extra.items()}
        yield packet.logs[block.partition[row]], block.record[row], block.time[row], block.uid[row], texts, extra, packet.signals


def folded(
    logs: Logs, name: str, partition: int, draw: random.Random | None = None, names_limit: int = 2_000_000, looked: Collection[int] = ()
) -> tuple[Folded, int]:
    """A log in runs of random length, or message by message (the state at ``looked`` only); and how often names have started afresh."""
    shared = Shared(logs.partitions, names_limit)
    stage = STAGES[name](logs.config, partition, logs.partitions, shared)
    notes = [Note(offset, data) for offset, data in enumerate(logs.topics[READS[name], partition])]
    out = Folded({}, [], [], {0: digest(stage)}, (0, 0))

    def send(outs: list[Out]) -> None:
        for each in outs:
            told = rows_of(each.value) if each.topic == "by_object" else [each.value]
            out.sent.setdefault((each.topic, each.partition or 0), []).extend(told)

    while stage.applied < len(notes):
        run = notes[stage.applied :][: draw.choice((1, 2, 5, 40)) if draw else 1]
        for taken in stage.takes(run):
            send(taken.outs)
            out.taken.append((taken.arrived, taken.ticks))
            out.alerts.extend(ocsf.encode(alert, "0") for alert in taken.alerts)
        assert stage.applied == run[-1].offset + 1
        if draw or stage.applied in looked:
            out.digests[stage.applied] = digest(stage)
        if draw is None or draw.random() < 0.3:
            send(shared.flush())
    send(shared.flush())
    return out._replace(counted=(stage.rows, stage.dropped)), shared.names.epoch


@pytest.mark.parametrize(("seed", "partitions", "settings"), [(1, 1, ""), (2, 3, ""), (3, 1, TIGHT), (4, 3, TIGHT)])
def test_what_comes_of_a_message_does_not_depend_on_what_it_is_taken_in_with(seed: int, partitions: int, settings: str) -> None:
    logs = recorded(seed, partitions, settings)
    alerts = {"actor": 0, "object": 0, "fuse": 0, "budget": 0}
    dropped = restarts = 0
    for name, partition in logs.workers:
        together, epoch = folded(logs, name, partition, random.Random(seed), 5)
        alone, _ = folded(logs, name, partition, looked=together.digests)
        assert together.digests == alone.digests, (name, partition)
        assert together == alone, (name, partition)
        assert digest(logs.workers[name, partition].stage) == max(alone.digests.items())[1]
        alerts[name] += len(alone.alerts)
        dropped, restarts = dropped + alone.counted[1], restarts + epoch
    assert alerts["fuse"] > 0
    # Tables that are full are told of.
    assert (alerts["actor"] + alerts["object"] > 0) == (settings == TIGHT)
    assert min(dropped, restarts) > 5


class Watched:
    """A stage that takes in a whole log as one run; ``visits``: rows of each visit."""

    def __init__(self, logs: Logs, made: type[VisitStage[Any]], message_bytes: int = MESSAGE_BYTES) -> None:
        self.shared = Shared(logs.partitions)
        self.shared.router.message_bytes = message_bytes
        self.stage = made(logs.config, 0, logs.partitions, self.shared)
        self.notes = [Note(offset, data) for offset, data in enumerate(logs.topics[READS[made.name], 0])]
        self.visits: list[int] = []
        self.bad = -1
        visit = self.stage.visit.visit

        def watched(block: Block, *more: Any) -> Any:
            self.visits.append(len(block))
            if len(self.visits) == self.bad:
                raise ZeroDivisionError
            return visit(block, *more)

        self.stage.visit.visit = watched


def quiet(size: int, many: int = 400) -> Logs:
    """One partition, whose messages have ``size`` rows or a few more, without ticks."""
    logs = Logs(parse(""), 1)
    for part in whole_records(log(many, hours=10.0), size):
        logs.ingest(part)
        logs.drain()
    return logs


@pytest.mark.parametrize("made", [ActorStage, ObjectStage])
def test_messages_are_visited_together_up_to_as_many_rows_as_go_on_in_one_message(made: type[VisitStage[Any]]) -> None:
    logs, least = quiet(8), 60_000
    whole, small = Watched(logs, made), Watched(logs, made, least)
    assert list(whole.stage.takes(whole.notes)) == list(small.stage.takes(small.notes))
    asked = logs.config.asked_of_actors()
    most = most_rows(least, asked)
    assert whole.visits == [sum(small.visits)]
    longest = max(len(decode(note.data, Names()).block) for note in small.notes)
    assert longest < most < sum(small.visits)
    # As many as fit.
    assert all(most - longest < rows <= most for rows in small.visits[:-1])
    sent = [[out.value for out in each.shared.flush()] for each in (whole, small)]
    assert all(len(data) <= least for data in sent[1])
    rows = [[row for data in each for row in rows_of(data)] for each in sent]
    assert rows[0] == rows[1]
    assert digest(whole.stage) == digest(small.stage)


def test_messages_are_visited_together_up_to_half_of_what_fits_into_one_message() -> None:
    logs = quiet(1, 60)
    sizes = [len(data) for data in logs.topics["by_actor", 0]]
    rows = [len(decode(data, Names()).block) for data in logs.topics["by_actor", 0]]
    least = 6 * max(sizes)
    watched = Watched(logs, ActorStage, least)
    watched.stage._most_rows = sum(rows)
    list(watched.stage.takes(watched.notes))
    assert 1 < len(watched.visits) < len(sizes)
    ends = np.searchsorted(np.cumsum(rows), np.cumsum(watched.visits)) + 1
    for start, end in itertools.pairwise([0, *ends.tolist()]):
        assert sum(sizes[start:end]) <= most_coming(least)
        # As many as fit.
        assert end == len(sizes) or sum(sizes[start : end + 1]) > most_coming(least)


@pytest.mark.parametrize("made", [ActorStage, ObjectStage])
def test_what_has_made_a_stage_crash_is_between_what_is_taken_in_and_what_is_tried(made: type[VisitStage[Any]]) -> None:
    watched = Watched(quiet(8), made, 60_000)
    watched.bad = 3
    taken: list[Taken] = []
    with pytest.raises(ZeroDivisionError):
        taken.extend(watched.stage.takes(watched.notes))
    visited = sum(len(decode(note.data, Names()).block) for note in watched.notes[: watched.stage.applied])
    assert visited == sum(watched.visits[:2])
    tried = watched.notes[watched.stage.applied : watched.stage.trying + 1]
    assert sum(len(decode(note.data, Names()).block) for note in tried) == watched.visits[2]


def test_a_message_whose_reading_crashes_is_among_what_is_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    watched = Watched(quiet(8), ActorStage)
    packet = watched.shared.packet

    def crashing(data: bytes, *more: Any) -> Any:
        if data == watched.notes[4].data:
            raise ZeroDivisionError
        return packet(data, *more)

    monkeypatch.setattr(watched.shared, "packet", crashing)
    with pytest.raises(ZeroDivisionError):
        list(watched.stage.takes(watched.notes))
    assert watched.stage.applied <= 4 <= watched.stage.trying


@pytest.mark.parametrize("made", [ActorStage, ObjectStage])
def test_what_came_before_a_message_that_is_refused_is_taken_in(made: type[VisitStage[Any]]) -> None:
    logs = quiet(8)
    whole, cut = Watched(logs, made), Watched(logs, made)
    cut.notes[5] = Note(5, b"none of ours")
    before = list(whole.stage.takes(whole.notes[:5]))
    taken: list[Taken] = []
    with pytest.raises(WireError, match="not a block of ours"):
        taken.extend(cut.stage.takes(cut.notes))
    assert (taken, cut.stage.applied, len(cut.visits)) == (before, 5, 1)
    assert digest(cut.stage) == digest(whole.stage)


@pytest.mark.parametrize("seed", [1, 2])
@pytest.mark.parametrize("most", [30_000, 1 << 20])
def test_records_of_evidence_that_are_joined_say_the_same(seed: int, most: int) -> None:
    logs = recorded(seed, 1, "")
    told = []
    for joins in (False, True):
        stage = STAGES["fuse"](logs.config, 0, 1, Shared(1))
        joined = Joined()
        for data in logs.topics["evidence", 0]:
            for record in apart(data):
                joined.add(0, record)
        log = [data for _, data in joined.flush(most if joins else 1)]
        assert [record for data in log for record in apart(data)] == [r for data in logs.topics["evidence", 0] for r in apart(data)]
        assert not joined
        alerts: list[bytes] = []
        ticks: list[Tick] = []
        for offset, data in enumerate(log):
            taken = stage.take(data, offset)
            alerts += [ocsf.encode(alert, "0") for alert in taken.alerts]
            ticks += taken.ticks
        stage.applied = 0
        told.append((alerts, ticks, digest(stage)))
        # Again, as after a crash of who sent it: nothing counts twice.
        assert not any(stage.take(data, len(log) + offset).alerts for offset, data in enumerate(log))
        if joins:
            assert len(log) < sum(len(apart(data)) for data in log)
            assert all(len(data) <= most or len(apart(data)) == 1 for data in log)
    assert told[0] == told[1]
    assert told[0][0]


def test_a_configuration_leaves_alone_and_in_its_place() -> None:
    """Who puts the record of it aside puts nothing else aside; and nobody who puts another aside loses it."""
    stage = STAGES["object"](parse(""), 0, 2, Shared(2))
    tick, control = encode_tick(Names(), Tick(9, 0)), encode_control(Names(), Control(1, ""))
    joined = Joined()
    for offset, data in enumerate((tick, tick, control, tick, tick, control)):
        for out in stage.take(data, offset).outs:
            joined.add(out.partition or 0, out.value, alone=out.alone)
    found = [[message.offset for message in read_messages(data)] for partition, data in joined.flush(1 << 20) if partition == 0]
    assert found == [[0, 1], [2], [3, 4], [5]]


def test_what_joined_records_hand_to_another_partition_goes_in_one_message() -> None:
    """It is known again by the offset of what it came of: a second message with the same one would count as a repeat."""
    logs = recorded(2, 3, "")
    handed = several = 0
    for partition in range(3):
        stage = STAGES["fuse"](logs.config, partition, 3, Shared(3))
        joined = Joined()
        for data in logs.topics["evidence", partition]:
            for message in read_messages(data):
                for item in (item for _, items in message.items for item in items if item.row):
                    # The object met more strangers than its actor did: it is to blame, wherever it lives.
                    item.row[OBJECT_STRANGE] = 99.0
                joined.add(0, record_of(message))
        for offset, (_, data) in enumerate(joined.flush(100_000)):
            wanted = [out.partition for out in stage.take(data, offset).outs if out.topic == "evidence"]
            assert len(wanted) == len(set(wanted))
            handed += len(wanted)
            several += len(wanted) > 0 and sum(len(message.items) > 0 for message in read_messages(data)) > 1
    assert handed > 3
    assert several > 3


def test_an_odd_record_of_evidence_is_refused() -> None:
    fine = record_of(Message(VERSION, "object", 0, 0))
    newer = record_of(Message(VERSION + 1, "object", 0, 0))
    joined = Joined()
    for record in (fine, newer):
        joined.add(0, record)
    ((_, both),) = joined.flush(1 << 20)
    for data, why in ((newer, "of version"), (both, "of version"), (b"", "not a record"), (msgspec.msgpack.encode(7), "not a record")):
        with pytest.raises(WireError, match=why):
            read_messages(data)
    assert len(read_messages(fine)) == 1
    # Of before several could leave together.
    assert read_messages(msgspec.msgpack.encode(Message(VERSION, "object", 3, 7))) == [Message(VERSION, "object", 3, 7)]


def test_an_alert_is_as_old_as_what_it_came_of_and_not_as_what_that_came_with() -> None:
    logs = recorded(2, 1, "")
    stage, told = STAGES["fuse"](logs.config, 0, 1, Shared(1)), 0
    at = itertools.count()
    for data in logs.topics["evidence", 0]:
        offset, joined = next(at), Joined()
        # An hour old, and says nothing new.
        joined.add(0, record_of(Message(VERSION, "object", 9, offset, arrived=1)))
        joined.add(0, data)
        (message,) = read_messages(data)
        ((_, both),) = joined.flush(1 << 20)
        taken = stage.take(both, offset)
        assert taken.arrived == (message.arrived if taken.alerts else 0)
        told += len(taken.alerts) > 0
    assert told > 10
