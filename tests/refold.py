"""What Kafka holds after a test, compared with what the stages make of each log when it is folded anew from its beginning."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from importlib import metadata
from typing import Any, NamedTuple

import numpy as np
from aiokafka import AIOKafkaConsumer, TopicPartition

from connectors import ocsf
from connectors.cluster import places, topic_ids
from connectors.event import Block
from connectors.names import Names
from connectors.sources import available
from connectors.wire import Packet, log_name
from detector.checkpoint import meaning
from detector.keeper import SKIP
from detector.messages import apart
from detector.rows import ActorSide
from detector.singles import SINGLE, STAGES
from detector.snapshot import digest, restore
from detector.stage import Out, Shared, Stage
from tests.chaos import ENDLESS, READS, Site, say


class Message(NamedTuple):
    """A record of a topic."""

    offset: int
    key: bytes | None
    value: bytes | None
    time: int
    headers: tuple[tuple[str, bytes], ...]


async def _read(site: Site, topic: str) -> dict[int, list[Message]]:
    consumer = AIOKafkaConsumer(
        bootstrap_servers=site.bootstrap,
        enable_auto_commit=False,
        auto_offset_reset="earliest",
        isolation_level="read_committed",
        max_partition_fetch_bytes=8 << 20,
    )
    await consumer.start()
    try:
        there = await places(site.config.kafka, [topic])
        logs = [TopicPartition(topic, partition) for partition in range(there[topic].partitions)]
        consumer.assign(logs)
        await consumer.seek_to_beginning(*logs)
        ends = await consumer.end_offsets(logs)
        found: dict[int, list[Message]] = {place.partition: [] for place in logs}
        while any([await consumer.position(place) < ends[place] for place in logs]):
            for place, messages in (await consumer.getmany(timeout_ms=200)).items():
                found[place.partition] += [Message(m.offset, m.key, m.value, m.timestamp * 1000, tuple(m.headers)) for m in messages]
        return found
    finally:
        await consumer.stop()


def read_topic(site: Site, topic: str) -> dict[int, list[Message]]:
    """Every committed record of a topic, by partition."""
    found: dict[int, list[Message]] = site.run(_read(site, topic))
    return found


class Counted(Shared):
    """Counts the rows that a stage takes in, by the raw record they come from, and keeps nothing to be sent."""

    def __init__(self, partitions: int) -> None:
        super().__init__(partitions)
        self.rows: dict[str, list[np.ndarray]] = defaultdict(list)
        self.last: Packet | None = None
        self.router.add = self._add  # type: ignore[method-assign]

    def packet(self, data: bytes, waiting: Sequence[Block] = ()) -> Packet:
        """See the base class."""
        self.last = super().packet(data, waiting)
        return self.last

    def count(self, block: Any, logs: tuple[str, ...]) -> None:
        """These rows were taken in."""
        for number, log in enumerate(logs):
            self.rows[log].append(block.record[block.partition == number])

    def _add(self, packet: Packet, side: ActorSide, partition: int, offsets: np.ndarray) -> None:
        self.count(packet.block, packet.logs)


class Fold:
    """A stage's fold of the log of one partition: ``outs`` and ``alerts`` it makes, ``rows`` it takes in."""

    def __init__(self, site: Site, name: str, partition: int, messages: list[Message], upto: int, skips: set[int]) -> None:
        self.shared = Counted(site.config.kafka.partitions)
        self.stage: Stage = STAGES[name](site.config, partition, site.config.kafka.partitions, self.shared)
        self.outs: list[Out] = []
        self.alerts: list[bytes] = []
        self.digest = digest(self.stage) if upto == 0 else ""
        if name == "object":
            self._count_visits()
        version = metadata.version("tocsin")
        for message in messages:
            if name in ENDLESS and self.stage.applied >= upto:
                # The log goes on: what it would tell of the rest is nobody's yet.
                break
            if message.offset in skips:
                self.stage.applied = message.offset + 1
                continue
            taken = self.stage.take(message.value or b"", message.offset, message.time)
            self.outs += taken.outs
            self.alerts += [ocsf.encode(alert, version) for alert in taken.alerts]
            if self.stage.applied == upto:
                self.digest = digest(self.stage)
        self.rows = self.shared.rows

    def _count_visits(self) -> None:
        visit = self.stage.visit  # type: ignore[attr-defined]
        judge = visit.visit

        def counted(block: Any, side: Any, *more: Any) -> Any:
            assert self.shared.last is not None
            self.shared.count(block, self.shared.last.logs)
            return judge(block, side, *more)

        visit.visit = counted


class Refold:
    """Everything a site has left on its topics, and its folds."""

    def __init__(self, site: Site) -> None:
        self.site = site
        self.many = site.config.kafka.partitions
        self.topics = {name: read_topic(site, getattr(site.topics, name)) for name in READS.values()}
        self.alerts = [m for messages in read_topic(site, site.topics.alerts).values() for m in messages]
        self.letters = [m for messages in read_topic(site, site.topics.deadletter).values() for m in messages]
        self.live: dict[tuple[str, int], Stage] = {}
        self.skips: dict[tuple[str, int], set[int]] = {}
        for name in READS:
            self._open(name)
        self.expected = self._expected()
        self.fold()

    def fold(self) -> None:
        """Fold every log anew, as it stands in ``topics``."""
        self.folds = {
            key: Fold(self.site, *key, self.topics[READS[key[0]]][key[1]], live.applied, self.skips[key])
            for key, live in self.live.items()
        }

    def _open(self, name: str) -> None:
        """Fill a fresh stage from each partition of the state topic, as who opens it next would."""
        held = read_topic(self.site, self.site.topics.state(name))
        for partition in range(1 if name in SINGLE else self.many):
            records: dict[str, bytes] = {}
            for message in held[partition]:
                key = (message.key or b"").decode()
                if message.value is None:
                    records.pop(key, None)
                else:
                    records[key] = message.value
            self.skips[name, partition] = {int(key.removeprefix(SKIP)) for key in records if key.startswith(SKIP)}
            stage = STAGES[name](self.site.config, partition, self.many, Shared(self.many))
            restore(stage, {key: data for key, data in records.items() if not key.startswith("!")}, meaning(self.site.config))
            self.live[name, partition] = stage

    def problems(self) -> list[str]:
        """What is not as it must be, one sentence each: empty when everything counts once and every state is its log's fold."""
        found = []
        for (name, partition), fold in self.folds.items():
            live = self.live[name, partition]
            last = self.topics[READS[name]][partition]
            end = last[-1].offset + 1 if last else 0
            if live.applied != end and name not in ENDLESS:
                found.append(f"{name} {partition}: the state stands at {live.applied}, its log ends at {end}")
            if digest(live) != fold.digest:
                found.append(f"{name} {partition}: the state at {live.applied} is not the fold of the log")
        return found + self._counts("actor") + self._counts("object") + self._sent() + self._told()

    def _expected(self) -> dict[str, np.ndarray]:
        """Rows that each record of each raw log yields, as its source reads it: log -> int64[records]."""
        uuids = self.site.run(topic_ids(self.site.config.kafka, list(self.site.raw)))
        out = {}
        for topic, (source, _) in self.site.raw.items():
            for partition, messages in read_topic(self.site, topic).items():
                rows = [
                    np.bincount(available()[source](Names()).decode(part).block.record, minlength=len(part))
                    for part in (
                        [message.value or b"" for message in messages[start : start + 4096]] for start in range(0, len(messages), 4096)
                    )
                ]
                out[log_name(topic, partition, uuids[topic])] = np.concatenate([np.zeros(0, np.int64), *rows])
        return out

    def counted(self, name: str) -> dict[str, np.ndarray]:
        """How many rows of each record of each raw log the stage took in: log -> int64[records]."""
        out = {log: np.zeros(len(rows), np.int64) for log, rows in self.expected.items()}
        for (stage, _), fold in self.folds.items():
            for log, parts in fold.rows.items() if stage == name else ():
                for part in parts:
                    # Further parts of large records are logs of their own in marks.
                    np.add.at(out[re.sub(r"~[0-9]+", "", log)], part, 1)
        return out

    def _counts(self, name: str) -> list[str]:
        found = []
        for log, rows in self.counted(name).items():
            wanted = self.expected[log]
            lost, doubled = int((wanted - rows).clip(0).sum()), int((rows - wanted).clip(0).sum())
            if lost or doubled:
                first = int(np.flatnonzero(rows != wanted)[0])
                found.append(f"{name}: of {log} {lost} rows are lost, {doubled} counted twice; the first at {first} of {len(rows)}")
        return found

    def _sent(self) -> list[str]:
        """What the folds send on is what the next topic holds, nothing missing and nothing besides; repeats with the same bytes."""
        found = []
        for topic, partitions in (("evidence", self.many), ("budget", 1)):
            for partition in range(partitions):
                made = {o.value for f in self.folds.values() for o in f.outs if o.topic == topic and (o.partition or 0) == partition}
                there = {message.value for message in self.topics[topic][partition]}
                if topic == "evidence":
                    # Who sends joins what leaves together.
                    there = {each for data in there if data is not None for each in apart(data)}
                if made - there or there - made:
                    found.append(f"{topic} {partition}: {len(made - there)} messages are missing, {len(there - made)} are besides")
        return found

    def _told(self) -> list[str]:
        made = {alert for fold in self.folds.values() for alert in fold.alerts}
        there = {message.value for message in self.alerts if message.value is not None}
        found = []
        if made - there or there - made:
            found.append(f"alerts: {len(made - there)} are missing, {len(there - made)} are besides")
        revisions = Counter((a.uid, a.revision) for a in map(ocsf.alert_of, there))
        if twice := [key for key, many in revisions.items() if many > 1]:
            found.append(f"alerts: {twice[:3]} came with different bytes")
        return found

    def summary(self) -> str:
        """Figures for people."""
        events = sum(map(len, self.expected.values()))
        dropped = {name: sum(f.stage.dropped for (n, _), f in self.folds.items() if n == name) for name in READS}
        unique = len({message.value for message in self.alerts})
        return f"{events} records, {unique} revisions of alerts ({len(self.alerts)} with repeats), repeated rows known again: {dropped}"


def exact(site: Site) -> Refold:
    """Fails unless everything counts once, every state is the fold of its log, and the alerts are those of the folds."""
    refold = Refold(site)
    say(refold.summary())
    problems = refold.problems()
    assert not problems, "\n".join(map(str, problems))
    return refold
