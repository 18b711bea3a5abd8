"""Workers as real processes on a real broker, with whatever befalls them: killed, frozen, ended, started again."""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Coroutine, Sequence
from pathlib import Path
from typing import Any

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewPartitions, NewTopic
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType

from connectors.cluster import create, places, topic_ids
from connectors.topics import Topics, planned
from detector.config import Config, read
from detector.process import AGAIN
from tests.traffic import Feed, flows

#: Seconds until a process is up and has opened its partitions: two on an idle machine, many times that on a busy one.
UP = 90.0
#: The order of the way, in which what is under way runs dry.
STAGES = ("ingest", "actor", "object", "fuse", "budget", "watch")
HERE = Path(__file__).resolve().parents[1]
READS = {"actor": "by_actor", "object": "by_object", "fuse": "evidence", "budget": "budget", "watch": "status"}
#: Heartbeats never end, so who reads them is never at the end of its log.
ENDLESS = ("watch",)
#: What a process says that was asked to end and is cut off by its limit.
LATE = "could not drain in time"


def until(true: Callable[[], object], what: str, seconds: float = UP, every: float = 0.1) -> None:
    """Wait until something holds. Fails with what did not come."""
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, f"not within {seconds:g} s: {what}"
        time.sleep(every)


def say(text: str) -> None:
    """A figure for whoever reads the output of a test."""
    sys.stdout.write(text + "\n")


class Member:
    """One worker process and its successors. ``exits``: how each has ended; -9 = killed."""

    def __init__(
        self, site: Site, name: str, stages: Sequence[str], *, instance: bool = True, module: str = "replay.cli", listen: str = ""
    ) -> None:
        self.site, self.name, self.stages, self.module, self.listen = site, name, tuple(stages), module, listen
        self.instance = name if instance else ""
        self.exits: list[int] = []
        self.wanted = True
        self.lives = 0
        self.process: subprocess.Popen[bytes] | None = None
        self.begin()

    @property
    def log(self) -> Path:
        """What all of its lives have said."""
        return self.site.folder / f"{self.name}.log"

    def begin(self) -> None:
        """Start the process."""
        command = [sys.executable, "-m", self.module, "worker", "--config", str(self.site.path), "--listen", self.listen]
        command += [part for stage in self.stages for part in ("--stage", stage)]
        if self.instance:
            command += ["--instance", self.instance]
        self.lives += 1
        self._opened_before = self.opened()
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(  # noqa: S603  our own command
                command, cwd=HERE, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=os.environ | self.site.environment
            )

    def said(self, text: str) -> int:
        """How often its log holds ``text``."""
        return self.log.read_text("utf-8", "replace").count(text) if self.log.exists() else 0

    def lines(self) -> list[dict[str, Any]]:
        """Its structured log."""
        raw = self.log.read_text("utf-8", "replace").splitlines() if self.log.exists() else []
        return [json.loads(line) for line in raw if line.startswith("{")]

    def why(self, code: int) -> str:
        """What it said when it ended with ``code``, whatever another of its partitions said after that."""
        return "\n".join(str(line["message"]) for line in self.lines() if line.get("exit") == code)

    def opened(self) -> int:
        """Partitions and raw logs opened over all lives."""
        return self.said(": open at ")

    def at_work(self) -> bool:
        """Whether the process that runs now has opened something."""
        return self.process is not None and self.process.poll() is None and self.opened() > self._opened_before

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to the process as it runs now."""
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(number)

    def kill(self) -> None:
        """Kill -9."""
        self.signal(signal.SIGKILL)

    def again(self) -> None:
        """Start a process that has ended, as an operator would."""
        self.begin()
        self.wanted = True

    def ended(self, seconds: float = UP) -> int:
        """Wait for the end of the process. Returns its exit code."""
        assert self.process is not None
        code = self.process.wait(seconds)
        self.wanted = False
        return code

    def resident_mb(self) -> float:
        """Resident memory of the process, MB; 0 where it is gone."""
        assert self.process is not None
        try:
            text = Path(f"/proc/{self.process.pid}/status").read_text()
        except OSError:
            return 0.0
        found = [line.split()[1] for line in text.splitlines() if line.startswith("VmRSS")]
        return int(found[0]) / 1024 if found else 0.0


class Site:
    """One installation: a prefix of its own on a broker, a configuration file, topics, processes, and who starts those again.

    ``raw``: topic -> (source, partitions). ``settings``: more lines of the configuration, in TOML with dotted keys.
    """

    def __init__(
        self,
        bootstrap: str,
        folder: Path,
        *,
        partitions: int = 4,
        raw: dict[str, tuple[str, int]] | None = None,
        settings: str = "",
        environment: dict[str, str] | None = None,
        topics: bool = True,
    ) -> None:
        self.bootstrap, self.folder = bootstrap, folder
        self.prefix = f"c{uuid.uuid4().hex[:8]}"
        self.environment = environment or {}
        self.raw = {f"{self.prefix}.{name}": how for name, how in (raw or {"zeek": ("zeek_conn", partitions)}).items()}
        listed = ", ".join(f'{{topic = "{topic}", source = "{source}"}}' for topic, (source, _) in self.raw.items())
        self.path = folder / "tocsin.toml"
        given = {
            "budget.alerts_per_day": "50",
            "kafka.bootstrap": f'["{bootstrap}"]',
            "kafka.prefix": f'"{self.prefix}"',
            "kafka.partitions": str(partitions),
            "kafka.raw": f"[{listed}]",
            "worker.checkpoint_seconds": "5",
            "worker.session_seconds": "10",
            "worker.tick_seconds": "0",
        }
        for line in filter(None, settings.splitlines()):
            key, _, value = line.partition("=")
            given[key.strip()] = value.strip()
        self.path.write_text("".join(f"{key} = {value}\n" for key, value in given.items()), "utf-8")
        self.config: Config = read(self.path)
        self.topics = Topics(self.prefix)
        self.members: dict[str, Member] = {}
        self._end = threading.Event()
        self._starting = threading.Lock()
        if topics:
            self.run(self._create())
        self._supervisor = threading.Thread(target=self._supervise, daemon=True)
        self._supervisor.start()

    def __enter__(self) -> Site:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Kill what still runs."""
        self._end.set()
        self._supervisor.join()
        for member in self.members.values():
            member.signal(signal.SIGKILL)
        for member in self.members.values():
            if member.process is not None:
                member.process.wait()

    @staticmethod
    def run(work: Coroutine[Any, Any, Any]) -> Any:
        """Run something that waits."""
        return asyncio.run(work)

    async def _create(self) -> None:
        await create(self.config.kafka)
        await self._admin(lambda admin: admin.create_topics([NewTopic(t, n, 1) for t, (_, n) in self.raw.items()]))

    def make_raw(self) -> None:
        """Make the raw topics."""
        self.admin(lambda admin: admin.create_topics([NewTopic(t, n, 1) for t, (_, n) in self.raw.items()]))

    def there(self, topic: str) -> str:
        """The UUID of a topic, "" where there is none."""
        return str(self.run(topic_ids(self.config.kafka, [topic])).get(topic, ""))

    def grow(self, topic: str, partitions: int) -> None:
        """Give a topic more partitions."""
        self.admin(lambda admin: admin.create_partitions({topic: NewPartitions(partitions)}))

    async def _admin(self, do: Callable[[Any], Any]) -> Any:
        admin = AIOKafkaAdminClient(bootstrap_servers=self.bootstrap)
        await admin.start()
        try:
            return await do(admin)
        finally:
            await admin.close()

    def admin(self, do: Callable[[Any], Any]) -> Any:
        """What an administrator of the broker does."""
        return self.run(self._admin(do))

    def command(self, *words: str, code: int = 0) -> str:
        """Run ``tocsin`` with the site's configuration to its end. Returns what it said."""
        line = [sys.executable, "-m", "replay.cli", *words, "--config", str(self.path)]
        done = subprocess.run(line, capture_output=True, text=True, timeout=UP, check=False, env=os.environ | self.environment)  # noqa: S603
        assert done.returncode == code, done.stdout + done.stderr
        return done.stdout + done.stderr

    # Processes

    def start(self, name: str, *stages: str, instance: bool = True, module: str = "replay.cli", listen: str = "") -> Member:
        """Start a worker of some stages (all, if none is named), and start it again whenever it is killed or asks for it. ``listen``:
        where its page is."""
        member = self.members[name] = Member(self, name, stages or STAGES, instance=instance, module=module, listen=listen)
        return member

    def separate(self, *, instance: bool = True) -> None:
        """Start one process for each stage, the judges, their budget and the watch in one, and let the first records go all the way."""
        for name in ("ingest", "actor", "object"):
            self.start(name, name, instance=instance)
        self.start("judges", "fuse", "budget", "watch", instance=instance)
        self.ready()
        self.warm()

    def _supervise(self) -> None:
        while not self._end.wait(0.05):
            for member in list(self.members.values()):
                with self._starting:
                    self._look_after(member)

    @staticmethod
    def _look_after(member: Member) -> None:
        code = None if member.process is None else member.process.poll()
        if code is None or not member.wanted:
            return
        member.exits.append(code)
        if code in (AGAIN, -signal.SIGKILL):
            member.begin()
        else:
            member.wanted = False

    def ready(self, many: int | None = None) -> None:
        """Wait until every partition of every stage that is run was opened."""
        stages = {each for member in self.members.values() for each in member.stages}
        of = {"budget": 1, "watch": 1, "ingest": sum(partitions for _, partitions in self.raw.values())}
        wanted = many or sum(of.get(stage, self.config.kafka.partitions) for stage in stages)
        until(lambda: sum(member.opened() for member in self.members.values()) >= wanted, f"{wanted} partitions open")

    def warm(self) -> None:
        """Let some records go all the way, so that everything is loaded and compiled before what is measured begins."""
        self.feed(2_000, 2_000, seed=99).done()
        until(self.at_the_end, "the first records have gone all the way", 240.0, 0.5)

    def kills(self, many: int, seed: int, seconds: tuple[float, float] = (0.1, 2.0)) -> dict[str, int]:
        """Kill members that are at work at random moments, drawn with ``seed``. Returns how often each was."""
        draw = random.Random(seed)
        killed: dict[str, int] = {}
        for _ in range(many):
            until(lambda: any(member.at_work() for member in self.members.values()), "somebody is at work")
            time.sleep(draw.uniform(*seconds))
            # Whoever was killed least, so that every stage has its turn.
            at_work = [member for member in self.members.values() if member.at_work()] or list(self.members.values())
            member = min(at_work, key=lambda each: (killed.get(each.name, 0), draw.random()))
            member.kill()
            killed[member.name] = killed.get(member.name, 0) + 1
        return killed

    def feed(self, many: int, rate: float, seed: int = 0) -> Feed:
        """Produce flows to the first raw topic of flows."""
        topic, partitions = next((topic, many) for topic, (source, many) in self.raw.items() if source == "zeek_conn")
        return Feed(self.bootstrap, topic, flows(many, seed), rate, partitions)

    def send(self, topic: str, partition: int, value: bytes) -> int:
        """Write one message. Returns its offset."""

        async def sent() -> int:
            producer = AIOKafkaProducer(bootstrap_servers=self.bootstrap)
            await producer.start()
            try:
                return int((await producer.send_and_wait(topic, value, partition=partition)).offset)
            finally:
                await producer.stop()

        return int(self.run(sent()))

    def limit(self, topic: str, most: int | None = None) -> None:
        """Let a topic of ours refuse messages of more than ``most`` bytes; None: as it was made."""
        wanted = next(each.settings() for each in planned(self.config.kafka) if each.name == topic)
        if most is not None:
            wanted |= {"max.message.bytes": str(most)}
        self.admin(lambda admin: admin.alter_configs([ConfigResource(ConfigResourceType.TOPIC, topic, wanted)]))

    # What is there

    def ends(self, *topics: str) -> dict[tuple[str, int], int]:
        """(topic, partition) -> end offset, of what is committed."""
        found: dict[tuple[str, int], int] = self.run(self._ends(topics))
        return found

    async def _ends(self, topics: Sequence[str]) -> dict[tuple[str, int], int]:
        consumer = AIOKafkaConsumer(bootstrap_servers=self.bootstrap)
        await consumer.start()
        try:
            there = await places(self.config.kafka, topics)
            found = await consumer.end_offsets([TopicPartition(topic, p) for topic in topics for p in range(there[topic].partitions)])
            return {(place.topic, place.partition): offset for place, offset in found.items()}
        finally:
            await consumer.stop()

    def committed(self, stage: str) -> dict[tuple[str, int], int]:
        """Where a stage stands, by what it has committed."""
        held = self.admin(lambda admin: admin.list_consumer_group_offsets(f"{self.prefix}.{stage}"))
        return {(place.topic, place.partition): kept.offset for place, kept in held.items()}

    def inputs(self, stage: str) -> dict[tuple[str, int], int]:
        """The ends of what a stage reads."""
        ends = self.ends(*(self.raw if stage == "ingest" else [getattr(self.topics, READS[stage])]))
        return {place: end for place, end in ends.items() if end}

    # The end

    def at_the_end(self, *named: str) -> bool:
        """Whether these stages (all that can be, if none is named) have checkpoints at the end of everything they read."""
        stages = named or [stage for stage in STAGES if stage not in ENDLESS]
        before = [self.inputs(stage) for stage in stages]
        held = [self.committed(stage) for stage in stages]
        done = all(kept.get(place, -1) == end for ends, kept in zip(before, held, strict=True) for place, end in ends.items())
        return done and before == [self.inputs(stage) for stage in stages]

    def finish(self, seconds: float = 240.0) -> float:
        """End every process by SIGTERM when all is read and every checkpoint stands at the end of its log; ingest, where it is alone,
        before the others. Returns the longest that an end has taken, seconds."""
        alone = [member for member in self.members.values() if member.wanted and member.stages == ("ingest",)]
        until(lambda: self.at_the_end("ingest"), "ingest has read everything", seconds, 0.5)
        longest = max(map(self.end, alone), default=0.0)
        until(lambda: self.at_the_end(), "every checkpoint stands at the end of its log", seconds, 0.5)
        return max([longest, *(self.end(member) for member in self.members.values() if member.wanted)])

    def end(self, member: Member) -> float:
        """End one process in good order. Returns the seconds it took."""
        # Whoever starts it again may not have seen yet that it has ended of itself.
        with self._starting:
            member.wanted = False
            gone = member.process is not None and member.process.poll() == AGAIN
        begun, late = member.at_work(), member.said(LATE)
        began = time.monotonic()
        member.signal(signal.SIGTERM)
        code = member.ended()
        # One that has not begun yet has nothing to let go; one that is cut off in time is in good order too.
        assert code == 0 or (code == -signal.SIGTERM and not begun) or (code == AGAIN and (gone or member.said(LATE) > late)), (
            f"{member.name} ended with {code}:\n{member.log.read_text('utf-8', 'replace')[-2000:]}"
        )
        return time.monotonic() - began
