"""Taking a raw log over from whoever read it last: where he was, in the light of what he resolved, and what he may still have sent."""

from __future__ import annotations

from collections.abc import Mapping

from aiokafka import TopicPartition
from aiokafka.admin import AIOKafkaAdminClient

from connectors.sources import Source
from connectors.wire import log_name
from detector.agreed import Agreed, Damaged, Mark, Said, Sight, read_mark, read_said
from detector.follow import to_the_end
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
    ends: Mapping[TopicPartition, int],
    agreed: Agreed,
    known: dict[str, str],
) -> dict[TopicPartition, tuple[Lane, Mark]]:
    """A lane for each raw log in ``ends`` (with its end now), and what was kept of it. Raises Halt.

    ``sources``: by topic. ``known``: topic -> its id when it was first read; new ones are added.
    """
    if not ends:
        return {}
    uuids = await process.uuids(sorted({tp.topic for tp in ends}))
    for topic, uuid in uuids.items():
        if known.setdefault(topic, uuid) != uuid:
            raise Halt(
                REFUSED,
                f"the topic {topic} was made anew since we first read it (its id was {known[topic]}, now it is {uuid}): its offsets"
                f" begin again at 0. If that is as it should be, let ingest begin there: tocsin accept-topic {topic}",
            )
        process.out.put(Letter(process.topics.control, 0, KNOWN + topic.encode(), uuid.encode(), KNOWN_SCHEMA))
    kept = await _kept(process)
    lanes = {}
    for tp, end in ends.items():
        uuid = uuids.get(tp.topic, "")
        name = log_name(tp.topic, tp.partition, uuid)
        where = (tp.topic, tp.partition, uuid, *sources[tp.topic])
        if tp not in kept:
            lanes[tp] = Lane(*where, Sight(name, agreed, []), begun=False), Mark()
            continue
        offset, mark = kept[tp]
        own = agreed if mark.bindings == agreed.position else await agreed_to(process, mark.bindings)
        lane = Lane(*where, Sight(name, own, own.beyond(name, offset)), begun=True)
        lane.position = lane.committed = offset
        # Up to here the last owner may have sent rows, in the light of what was agreed then.
        lane.hold = offset if mark.clean else min(end, offset + AHEAD)
        lanes[tp] = lane, mark
    return lanes


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
    agreed = Agreed(process.config.limits.bindings)
    held, end = await to_the_end(process.client, process.topics.bindings)
    for message in held:
        agreed.add(message.offset, heard(message.value))
    agreed.read = max(agreed.read, end)
    agreed.advance(end if position < 0 else position)
    return agreed


def heard(data: bytes) -> Said:
    """A record of the bindings topic. Raises Halt."""
    try:
        return read_said(data)
    except Damaged as error:
        raise Halt(REFUSED, f"the bindings topic holds {error}") from error
