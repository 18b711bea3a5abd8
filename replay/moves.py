"""Moving profiles between Kafka and a file.

With one partition the file is that of ``tocsin replay --state``: what was learned from a recorded month goes live, and what is live
can be replayed on. With several, the file keeps the records of each partition apart, for as many partitions under another prefix:
a pair's profile is kept under the hash of both its ends, so nobody can say which other partition it would belong to.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import msgspec
from aiokafka import AIOKafkaConsumer, TopicPartition

from connectors.cluster import places
from connectors.kafka import Kafka, client, connected
from connectors.topics import Topics
from connectors.wire import Control
from detector.agreed import Mark
from detector.checkpoint import Checkpoints, Progress, StateError, meaning
from detector.config import Config
from detector.follow import to_the_end
from detector.judges import FuseStage
from detector.keeper import Keeper
from detector.pipeline import Cores
from detector.singles import STAGES
from detector.snapshot import restore
from detector.stage import Shared, Stage
from detector.stages import ActorStage, ObjectStage
from detector.takeover import bindings_to
from models.signals import Line

#: Version of the file for several partitions. A reader refuses a newer one.
VERSION = 1
MOVED = ("actor", "object", "fuse")


def made(config: Config) -> Iterator[Stage]:
    """An empty stage for every partition that keeps profiles or judges."""
    many = config.kafka.partitions
    for name in MOVED:
        for partition in range(many):
            yield STAGES[name](config, partition, many, Shared(many))


async def filled(config: Config) -> list[Stage]:
    """Every stage with the state that the topics hold. Raises Refused, KafkaError."""
    given, topics = client(config.kafka), Topics(config.kafka.prefix)
    stages = []
    for stage in made(config):
        held, _ = await to_the_end(given, topics.state(stage.name), stage.partition, committed=True)
        records = {message.key.decode(): message.value for message in held}
        own = {key: value for key, value in records.items() if value is not None and not key.startswith("!")}
        restore(stage, own, meaning(config))
        stages.append(stage)
    return stages


async def export(config: Config, path: Path) -> int:
    """Write the state that the topics hold to a new file. Returns the profiles in it. Raises StateError, Refused, KafkaError."""
    await connected(config.kafka)
    stages = await filled(config)
    if config.kafka.partitions > 1:
        _write(path, config, stages)
    else:
        cores = _cores(config, stages)
        known = await bindings_to(client(config.kafka), Topics(config.kafka.prefix).bindings, config.limits.bindings, -1)
        cores.bindings = known.bindings
        with closing(Checkpoints(path, config)) as file:
            file.save(cores, Progress())
    return sum(stage.identities for stage in stages)


def _cores(config: Config, stages: list[Stage]) -> Cores:
    """The stages of one partition as the embedded detector."""
    cores = Cores(config)
    clocks: dict[Line, int] = {}
    for stage in stages:
        if isinstance(stage, ActorStage):
            cores.actors = stage.visit
        elif isinstance(stage, ObjectStage):
            cores.objects, clocks = stage.visit, stage.clocks
        elif isinstance(stage, FuseStage):
            cores.fusion, cores.slow = stage.judges["main"], stage.judges["slow"]
        cores.notices.told |= stage.notices.told
    # Judges between logs hear of the time when there is something to hear; embedded ones know that of the last row.
    for judge in (cores.fusion, cores.slow):
        judge.state.clock = max(judge.state.clock, clocks.get(judge.line, 0))
    return cores


def _write(path: Path, config: Config, stages: list[Stage]) -> None:
    with closing(sqlite3.connect(path, isolation_level=None)) as file:
        file.execute("BEGIN")
        file.execute("CREATE TABLE record (stage TEXT, partition INT, name TEXT, number INT, data BLOB)")
        file.execute("CREATE TABLE about (version INT, partitions INT, meaning TEXT)")
        file.execute("INSERT INTO about VALUES (?, ?, ?)", (VERSION, config.kafka.partitions, meaning(config)))
        for stage in stages:
            rows = [(table.name, number, data) for table in stage.tables() for number, data in enumerate(table.dump())]
            rows += [(name, 0, data) for name, data in stage.blobs()]
            file.executemany("INSERT INTO record VALUES (?, ?, ?, ?, ?)", [(stage.name, stage.partition, *row) for row in rows])
        file.execute("COMMIT")


async def import_(config: Config, path: Path, from_now: bool = False) -> int:
    """Put a file's state into topics that hold none. ``from_now``: ingest begins at the present end of the raw topics; else it reads
    all that they keep, and what the profiles have learned from that already they learn twice. Returns the profiles. Raises StateError,
    Refused, KafkaError.
    """
    await connected(config.kafka)
    if any(stage.applied or stage.identities for stage in await filled(config)):
        raise StateError(f"the topics of {config.kafka.prefix} hold profiles already; name another kafka.prefix")
    stages = _read(path, config)
    for stage in stages:
        # The logs begin anew: nothing has been taken in from them, and the versions of what is applied to them begin at 1 again.
        stage.marks, stage.applied, stage.control = {}, 0, Control()
        await _keep(config, stage)
    if from_now:
        await _begin_now(config.kafka)
    return sum(stage.identities for stage in stages)


async def _begin_now(kafka: Kafka) -> None:
    """Let ingest begin at the ends of the raw topics. What is not there yet is read from its beginning. Raises KafkaError."""
    there = await places(kafka, [raw.topic for raw in kafka.raw])
    logs = [TopicPartition(topic, partition) for topic, place in there.items() for partition in range(place.partitions)]
    consumer = AIOKafkaConsumer(group_id=f"{kafka.prefix}.ingest", enable_auto_commit=False, **client(kafka))
    await consumer.start()
    try:
        consumer.assign(logs)
        marks = {log: msgspec.json.encode(Mark(uuid=there[log.topic].uuid, clean=True)).decode() for log in logs}
        if logs:
            await consumer.commit({log: (end, marks[log]) for log, end in (await consumer.end_offsets(logs)).items()})
    finally:
        await consumer.stop()


async def _keep(config: Config, stage: Stage) -> None:
    topics = Topics(config.kafka.prefix)
    empty = STAGES[stage.name](config, stage.partition, stage.partitions, stage.shared)
    keeper = Keeper(client(config.kafka), topics.state(stage.name), f"{config.kafka.prefix}.{stage.name}", empty, meaning(config))
    await keeper.open()
    try:
        keeper.stage = stage
        await keeper.save(keeper.snapshot(), None)
    finally:
        await keeper.close()


def _read(path: Path, config: Config) -> list[Stage]:
    if not path.is_file():
        raise StateError(f"{path}: there is no such file")
    with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as file:
        try:
            tables = {name for (name,) in file.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
            if "about" in tables:
                return _several(path, config, file)
        except sqlite3.Error as error:
            raise StateError(f"{path}: is not a state file: {error}") from None
    if config.kafka.partitions != 1:
        raise StateError(f"{path}: holds one partition, kafka.partitions is {config.kafka.partitions}")
    cores = Cores(config)
    with closing(Checkpoints(path, config)) as checkpoints:
        checkpoints.restore(cores)
    return _stages(config, cores)


def _stages(config: Config, cores: Cores) -> list[Stage]:
    """The embedded detector as the stages of one partition. What it knows of who stands behind whom is said again by the raw logs."""
    shared = Shared(1)
    actor, object_, fuse = (ActorStage(config, 0, 1, shared), ObjectStage(config, 0, 1, shared), FuseStage(config, 0, 1, shared))
    actor.visit, object_.visit = cores.actors, cores.objects
    fuse.judges = {"main": cores.fusion, "slow": cores.slow}
    object_.clocks = {"main": cores.fusion.state.clock, "slow": cores.slow.state.clock}
    actor.notices.told = dict(cores.notices.told)
    return [actor, object_, fuse]


def _several(path: Path, config: Config, file: sqlite3.Connection) -> list[Stage]:
    version, partitions, made_with = file.execute("SELECT version, partitions, meaning FROM about").fetchone()
    if version != VERSION:
        raise StateError(f"{path}: state of version {version}, this release reads {VERSION}")
    if partitions != config.kafka.partitions:
        raise StateError(
            f"{path}: holds {partitions} partitions, kafka.partitions is {config.kafka.partitions}; profiles of pairs cannot be spread"
            " anew"
        )
    if made_with != meaning(config):
        raise StateError(f"{path}: made with other [signals], [calibration] or [time] settings; use that configuration")
    stages = list(made(config))
    for stage in stages:
        held: dict[str, list[bytes]] = {}
        wanted = "SELECT name, data FROM record WHERE stage = ? AND partition = ? ORDER BY name, number"
        for name, data in file.execute(wanted, (stage.name, stage.partition)):
            held.setdefault(name, []).append(data)
        try:
            stage.load(held)
        except (ValueError, KeyError, TypeError, msgspec.MsgspecError) as error:
            raise StateError(f"{path}: the state is damaged or foreign: {error}") from None
    return stages


def told(kafka: Kafka, profiles: int, path: Path) -> str:
    """One line on what was moved."""
    return f"{path}: {profiles:,} identities of {kafka.partitions} partition{'s' if kafka.partitions > 1 else ''}"
