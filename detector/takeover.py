"""Taking a raw log over from whoever read it last: where he was, in the light of what he resolved, and what he may still have sent."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from aiokafka import TopicPartition
from aiokafka.admin import AIOKafkaAdminClient

from connectors.sources import Source
from connectors.wire import log_name
from detector.agreed import Agreed, Damaged, Gone, Mark, Said, Sight, read_mark, read_said
from detector.follow import told_to_the_end
from detector.lane import Lane
from detector.process import REFUSED, Halt, Process
from detector.sender import Letter

#: Records of one raw log that may be read beyond its last commit: what a process that is taken for dead may still have under way.
AHEAD = 20_000
#: Before a raw topic's name: the key under which the control topic keeps the id that it had when it was first read. The broker forgets
#: what was committed of a topic together with the topic.
KNOWN = b"raw:"
#: What the header of such a record says that it is.
KNOWN_SCHEMA = "raw/1"


async def taken_over(
    process: Process,
    sources: Mapping[str, tuple[str, Source]],
    spans: Mapping[TopicPartition, tuple[int, int]],
    agreed: Agreed,
    known: dict[str, str],
) -> dict[TopicPartition, tuple[Lane, Mark]]:
    """A lane for each raw log in ``spans`` (with its first offset and its end now), and what was kept of it. Raises Halt.

    ``sources``: by topic. ``known``: topic -> its id when it was first read; new ones are added.
    """
    if not spans:
        return {}
    uuids = await process.uuids(sorted({tp.topic for tp in spans}))
    for topic, uuid in uuids.items():
        if known.setdefault(topic, uuid) != uuid:
            raise Halt(REFUSED, made_anew(topic, known[topic], uuid))
        process.out.put(Letter(process.topics.control, 0, KNOWN + topic.encode(), uuid.encode(), KNOWN_SCHEMA))
    kept = await _kept(process)
    # What the last owner has said before its last commit is in the topic; whether we have read it yet is another matter.
    await caught_up(process, agreed)
    known_by = {agreed.position: agreed}
    lanes = {}
    for tp, (begin, end) in spans.items():
        uuid = uuids.get(tp.topic, "")
        name = log_name(tp.topic, tp.partition, uuid)
        where = (tp.topic, tp.partition, uuid, *sources[tp.topic])
        if tp not in kept:
            lanes[tp] = Lane(*where, Sight(name, agreed, []), begun=False), Mark()
            continue
        offset, mark = kept[tp]
        if end < offset:
            raise Halt(REFUSED, ran_back(tp, offset, end))
        own = known_by.get(mark.bindings)
        if own is None:
            # Logs of one owner are mostly committed together, so this is read once and not for each.
            own = known_by[mark.bindings] = await agreed_to(process, mark.bindings)
        lane = Lane(*where, Sight(name, own, own.beyond(name, offset)), begun=True)
        lane.position = max(offset, begin)
        lane.committed = offset
        lane.lost = max(begin - offset, 0)
        # Up to here the last owner may have sent rows, in the light of what was agreed then.
        lane.hold = offset if mark.clean else min(end, offset + AHEAD)
        lanes[tp] = lane, mark
    return lanes


def made_anew(topic: str, before: str, now: str) -> str:
    """What is to be said of a raw topic that has another id than when it was first read."""
    return (
        f"the topic {topic} was made anew since we first read it (its id was {before}, now it is {now}): its offsets"
        f" begin again at 0. If that is as it should be, let ingest begin there: tocsin accept-topic {topic}"
    )


def ran_back(tp: TopicPartition, read: int, end: int) -> str:
    """What is to be said of a raw log that was read to ``read`` and ends, or goes on, at ``end`` before that, under the same id."""
    return (
        f"{tp.topic} {tp.partition}: was read up to {read}, and the broker has it at {end}: its newest records were lost with a leader"
        " (unclean.leader.election.enable), and what comes now carries offsets that were counted already: it would be dropped as seen."
        f" Make the topic anew, then let ingest begin there: tocsin accept-topic {tp.topic}"
    )


async def _kept(process: Process) -> dict[TopicPartition, tuple[int, Mark]]:
    """What the last owners have committed."""
    admin = AIOKafkaAdminClient(**process.client)
    await admin.start()
    try:
        held = await admin.list_consumer_group_offsets(f"{process.kafka.prefix}.ingest")
        return {tp: (each.offset, read_mark(each.metadata)) for tp, each in held.items() if each.offset >= 0}
    except Damaged as error:
        raise Halt(REFUSED, str(error)) from error
    finally:
        await admin.close()


async def agreed_to(process: Process, position: int) -> Agreed:
    """The bindings topic read to its present end, in force up to ``position``; -1 = all of it."""
    return await bindings_to(process.client, process.topics.bindings, process.config.limits.bindings, position)


async def bindings_to(client: dict[str, Any], topic: str, limit: int, position: int) -> Agreed:
    """The same of any bindings topic; ``limit``: as for ``Agreed``. What is in force takes what the map takes, however long the topic
    is."""
    agreed = Agreed(limit)

    def tell(message: Any) -> None:
        agreed.add(message.offset, heard(message))
        if position < 0 or message.offset < position:
            agreed.advance(message.offset + 1)

    end = await told_to_the_end(client, topic, tell)
    agreed.read = max(agreed.read, end)
    agreed.advance(end if position < 0 else position)
    return agreed


async def caught_up(process: Process, agreed: Agreed) -> None:
    """Read the bindings topic on to its present end; nothing of it takes effect yet."""
    end = await told_to_the_end(
        process.client, process.topics.bindings, lambda message: agreed.add(message.offset, heard(message)), start=agreed.read
    )
    agreed.read = max(agreed.read, end)


def heard(message: Any) -> Said | Gone:
    """A message of the bindings topic. Raises Halt."""
    try:
        return read_said(message.key, message.value)
    except Damaged as error:
        raise Halt(REFUSED, f"the bindings topic holds {error}") from error
