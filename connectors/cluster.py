"""The topics on the brokers: what is there, what is wrong with it and how to put it right, what can be made and altered.

What is wrong comes as data (``Mismatch``), never as a silent repair: a partition count that changed would send identities to other
profiles, a retention that is too short would lose what a checkpoint still needs.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from typing import NamedTuple

from aiokafka import errors
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from aiokafka.client import AIOKafkaClient

from connectors.kafka import Kafka, KafkaError, client
from connectors.metadata import Metadata, Placed, placed
from connectors.topics import HOUR_MS, Topic, planned

#: Where a setting comes from (Kafka's ConfigSource): 1 = set on the topic itself.
_OF_TOPIC = 1
#: CreateTopics: somebody else has made it meanwhile, which is as good.
_EXISTS = 36
#: What was made is on every broker within a moment; a busy cluster has this many seconds.
_SPREAD_SECONDS = 15.0
#: How to get to another number of partitions: the only way there is, as a sentence and its commands.
MIGRATE = (
    "profiles lie in the partition of their identity and cannot be spread anew, so begin beside the old installation: a configuration"
    " with another kafka.prefix and the new kafka.partitions, 'tocsin topics --config NEW', 'tocsin worker --config NEW', which reads"
    " the raw topics from their beginning and learns anew; when it has learned (a week), stop the old workers"
)

#: The keys of the configuration that decide a setting, for the one who reads what is wrong.
_KEYS = {
    "retention.ms": "kafka.retention_hours, kafka.alerts_retention_hours",
    "min.compaction.lag.ms": "kafka.bindings_lag_hours",
    "max.message.bytes": "kafka.message_bytes",
    "min.insync.replicas": "kafka.min_insync_replicas",
}


class Mismatch(NamedTuple):
    """One thing that is not as it must be. ``remedy``: what to do. ``alter``: settings that put it right, empty where none can."""

    topic: str
    what: str
    remedy: str
    alter: dict[str, str]

    def __str__(self) -> str:
        return f"{self.topic}: {self.what}. {self.remedy}"


class Found(NamedTuple):
    """A topic as it is. ``settings``: all in force; ``own``: those set on the topic itself."""

    placed: Placed
    settings: dict[str, str]
    own: dict[str, str]


@asynccontextmanager
async def _admin(settings: Kafka) -> AsyncIterator[AIOKafkaAdminClient]:
    given = client(settings)
    admin = AIOKafkaAdminClient(**given)
    try:
        await admin.start()
        yield admin
    except (errors.KafkaError, TimeoutError) as error:
        raise KafkaError(f"kafka.bootstrap: {', '.join(settings.bootstrap)}: {str(error) or type(error).__name__}") from None
    finally:
        await admin.close()


async def places(settings: Kafka, topics: Sequence[str]) -> dict[str, Placed]:
    """UUID, partitions and replication of each topic that exists. Raises KafkaError."""
    asking = AIOKafkaClient(**client(settings))
    where = f"kafka.bootstrap: {', '.join(settings.bootstrap)}"
    try:
        await asking.bootstrap()
        answer = await asking.send(asking.get_random_node(), Metadata(list(topics)))
    except (NotImplementedError, errors.IncompatibleBrokerVersion):
        raise KafkaError(f"{where}: too old a broker; Apache Kafka 3.1 or newer tells the UUIDs of its topics") from None
    except (errors.KafkaError, TimeoutError) as error:
        raise KafkaError(f"{where}: {str(error) or type(error).__name__}") from None
    finally:
        await asking.close()
    found, failed = placed(answer)
    for topic, code in sorted(failed.items()):
        raise KafkaError(f"{topic}: {errors.for_code(code).__name__}; this user needs the right to Describe it")
    return found


async def topic_ids(settings: Kafka, topics: Sequence[str]) -> dict[str, str]:
    """The UUID of each topic that exists, by name. A topic made anew under its old name has another one. Raises KafkaError."""
    return {name: place.uuid for name, place in (await places(settings, topics)).items()}


async def examine(settings: Kafka, topics: Sequence[str]) -> dict[str, Found]:
    """Each topic that exists, with its settings. Raises KafkaError, also where this user may not read them."""
    there = await places(settings, topics)
    if not there:
        return {}
    async with _admin(settings) as admin:
        answers = await admin.describe_configs([ConfigResource(ConfigResourceType.TOPIC, name) for name in there])
    found: dict[str, Found] = {}
    for code, message, _, name, entries in (resource for answer in answers for resource in answer.resources):
        if code:
            raise KafkaError(f"{name}: its settings cannot be read: {message or errors.for_code(code).__name__}")
        known = {entry[0]: entry[1] or "" for entry in entries}
        own = {entry[0]: entry[1] or "" for entry in entries if entry[3] == _OF_TOPIC}
        found[name] = Found(there[name], known, own)
    return found


async def mismatches(settings: Kafka, raw: bool = True) -> list[Mismatch]:
    """What is not as it must be: of our topics everything, of the raw ones (if asked) that they exist. Raises KafkaError."""
    plan = planned(settings)
    outside = [each.topic for each in settings.raw] if raw else []
    found = await examine(settings, [*(topic.name for topic in plan), *outside])
    wrong = [each for topic in plan for each in judge(settings, topic, found.get(topic.name))]
    missing = [name for name in outside if name not in found]
    return wrong + [
        Mismatch(name, "does not exist (kafka.raw)", "Have its producer make it, or 'tocsin topics --raw'", {}) for name in missing
    ]


def judge(settings: Kafka, topic: Topic, found: Found | None) -> list[Mismatch]:
    """What is wrong with one of our topics as it was found; None = not there."""
    if found is None:
        return [Mismatch(topic.name, "does not exist", "Make it: 'tocsin topics'", {})]
    wrong = []
    if found.placed.partitions != topic.partitions:
        wrong.append(_repartitioned(topic, found.placed.partitions))
    if found.placed.replication < topic.replication:
        what = f"{found.placed.replication} replicas, kafka.replication says {topic.replication}"
        wrong.append(Mismatch(topic.name, what, "Add replicas with kafka-reassign-partitions.sh", {}))
    for key, value in topic.exact.items():
        if (given := found.settings.get(key, "")) != value:
            wrong.append(_altered(settings, topic, key, f"{key} is {given!r}, needed is {value!r}", value))
    for key, least in topic.at_least.items():
        if not _enough(given := found.settings.get(key, ""), least):
            named = f" ({_KEYS[key]})" if key in _KEYS else ""
            what = f"{key} is {_measured(key, given)}, needed is at least {_measured(key, str(least))}{named}"
            wrong.append(_altered(settings, topic, key, what, str(least)))
    return wrong


def _enough(given: str, least: int) -> bool:
    """Whether a limit is as large as needed; -1 is no limit."""
    try:
        value = int(given)
    except ValueError:
        return False
    return value == -1 or (least != -1 and value >= least)


def _measured(key: str, value: str) -> str:
    if value == "-1":
        return "no limit"
    if key.endswith(".ms") and value.isdigit():
        return f"{value} ({int(value) / HOUR_MS:g} h)"
    return value or "not set"


def _repartitioned(topic: Topic, there: int) -> Mismatch:
    remedy = f"This is never altered in place. If the topics were made so, set kafka.partitions = {there}; else: {MIGRATE}"
    if topic.partitions == 1:
        remedy = "Its order is that of its one partition: stop the workers, delete it with kafka-topics.sh, then 'tocsin topics'"
    return Mismatch(topic.name, f"{there} partitions, {topic.partitions} expected", remedy, {})


def _altered(settings: Kafka, topic: Topic, key: str, what: str, value: str) -> Mismatch:
    command = (
        f"kafka-configs.sh --bootstrap-server {settings.bootstrap[0]} --alter --entity-type topics --entity-name {topic.name} "
        f"--add-config {key}={value}"
    )
    return Mismatch(topic.name, what, f"Put it right with 'tocsin topics --fix', or with {command}", {key: value})


async def create(settings: Kafka, raw: bool = False) -> list[str]:
    """Make what is missing, with ``raw`` the raw topics too (as the broker's own defaults have it). Returns the names of what was made.

    What exists is left as it is. Raises KafkaError naming the topic and what the broker said.
    """
    wanted = [NewTopic(each.name, each.partitions, each.replication, topic_configs=each.settings()) for each in planned(settings)]
    if raw:
        wanted += [NewTopic(each.topic, settings.partitions, settings.replication) for each in settings.raw]
    there = await places(settings, [each.name for each in wanted])
    missing = [each for each in wanted if each.name not in there]
    if not missing:
        return []
    async with _admin(settings) as admin:
        answer = await admin.create_topics(missing)
    for name, code, *message in answer.topic_errors:
        if code not in (0, _EXISTS):
            said = (message[0] if message else "") or errors.for_code(code).__name__
            raise KafkaError(f"{name}: cannot be made: {said}")
    made = [each.name for each in missing]
    await _spread(settings, made)
    return made


async def _spread(settings: Kafka, names: list[str]) -> None:
    loop = asyncio.get_running_loop()
    deadline = loop.time() + _SPREAD_SECONDS
    while missing := set(names) - set(await places(settings, names)):
        if loop.time() > deadline:
            raise KafkaError(f"{min(missing)}: was made, but is still not known to the brokers after {_SPREAD_SECONDS:g} seconds")
        await asyncio.sleep(0.1)


async def alter(settings: Kafka, wrong: Iterable[Mismatch]) -> list[str]:
    """Put right what altering can. Returns what was altered, as ``topic: key=value``. Raises KafkaError."""
    changes: dict[str, dict[str, str]] = {}
    for each in wrong:
        if each.alter:
            changes.setdefault(each.topic, {}).update(each.alter)
    if not changes:
        return []
    found = await examine(settings, list(changes))
    # The request replaces everything that was set on the topic: what it leaves out falls back to the broker's default.
    asked = [ConfigResource(ConfigResourceType.TOPIC, name, found[name].own | change) for name, change in changes.items()]
    async with _admin(settings) as admin:
        answers = await admin.alter_configs(asked)
    for code, message, _, name in (resource for answer in answers for resource in answer.resources):
        if code:
            raise KafkaError(f"{name}: cannot be altered: {message or errors.for_code(code).__name__}")
    return [f"{name}: {key}={value}" for name, change in changes.items() for key, value in change.items()]
