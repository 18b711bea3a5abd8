"""A process of the distributed engine: what all of them have, whatever stages they run.

It ends in one of a few ways, each with an exit code that says whether it helps to start it again.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import socket
import time
from collections.abc import AsyncIterator, Callable
from typing import Any, NamedTuple, Protocol

from aiokafka.errors import KafkaError as BrokerError

from connectors.cluster import places, topic_ids
from connectors.kafka import Kafka, client, connected
from connectors.status import STATUS_VERSION, Heartbeat, Lag, Message, encode
from connectors.topics import Topics, planned
from detector.config import Config
from detector.health import Health
from detector.keeper import Fenced
from detector.metrics import Metrics
from detector.sender import Letter, Sender, Undelivered
from detector.watch import allowed

log = logging.getLogger("tocsin")

#: Exit codes: all is well; the configuration is wrong; the state or the log is refused, and to start again would not help; the broker
#: cannot be had; topics are missing or have another number of partitions; someone else took over or a passing fault, start again.
OK, MISTAKE, REFUSED, BROKER, TOPICS, AGAIN = 0, 2, 4, 6, 7, 75
#: Seconds that a process has to drain and let go once it was asked to end: less than supervisors wait before they kill.
DRAIN_SECONDS = 7.0
LEAVE_SECONDS = 2.0


class Halt(Exception):
    """The process must end, with this exit code and this sentence."""

    def __init__(self, code: int, sentence: str) -> None:
        super().__init__(sentence)
        self.code = code


class Beat(NamedTuple):
    """A service at a heartbeat. ``partitions``: those it has open, "topic/number". ``lag``: by topic. ``rows`` handled and ``repeats``
    dropped since the last; ``more``: further records for the status topic."""

    partitions: list[str]
    lag: dict[str, Lag]
    rows: int
    repeats: int
    more: list[Message]


class Service(Protocol):
    """A part of a process."""

    #: What it is called in logs and on the health page.
    name: str

    async def start(self) -> None:
        """Begin to work, and return."""
        ...

    async def stop(self) -> None:
        """Finish what is begun and keep what must be kept; take nothing more."""
        ...

    async def leave(self) -> None:
        """Tell the broker that we are gone, so that others need not wait for it to find out."""
        ...

    def ready(self) -> dict[str, str]:
        """What is not ready yet, and why; empty where all is."""
        ...

    def beat(self) -> Beat:
        """What it says of itself at a heartbeat."""
        ...


class Process:
    """Runs services over one connection to the broker until a signal or a fault ends it."""

    def __init__(self, config: Config, version: str, instance: str = "", listen: str = "", stages: tuple[str, ...] = ()) -> None:
        """``instance``: a name that stays over restarts. ``listen``: where the health page is, "" = nowhere. ``stages``: what it
        runs."""
        self.config = config
        self.version = version
        self.kafka: Kafka = config.kafka
        self.topics = Topics(config.kafka.prefix)
        #: Stable over restarts, so that the broker knows it again; "" = a new member each time.
        self.instance = instance
        self.name = instance or f"{socket.gethostname()}-{os.getpid()}"
        self.stages = stages
        self.began = time.time_ns() // 1000
        self.metrics = Metrics(version, stages)
        self.health = Health(self.metrics, self._missing, listen) if listen else None
        self.client: dict[str, Any] = {}
        self.services: list[Service] = []
        self._serving = self._drained = False
        self._end: asyncio.Future[Halt | None] | None = None
        self.sender: Sender | None = None

    @property
    def out(self) -> Sender:
        """Where messages are sent from."""
        if self.sender is None:
            raise RuntimeError("not started")
        return self.sender

    async def uuids(self, topics: list[str]) -> dict[str, str]:
        """The ids of topics: one that was made anew has another, although it is called the same."""
        return await topic_ids(self.kafka, topics)

    def fail(self, error: BaseException) -> None:
        """End the process because of ``error``. The first reason counts. Nothing is written after this."""
        halt = _halt(error)
        if self._end is not None and not self._end.done():
            log.error(str(halt), extra={"exit": halt.code}, exc_info=error if halt.code == AGAIN and _is_fault(error) else None)
            self._end.set_result(halt)

    def say(self, message: Message) -> None:
        """Write a record to the status topic."""
        self.out.put(Letter(self.topics.status, 0, None, encode(message), f"status/{STATUS_VERSION}"))

    def _missing(self) -> dict[str, str]:
        if not self._serving:
            return {"process": "it is connecting to the broker"}
        return {name: why for service in self.services for name, why in service.ready().items()}

    async def _pulse(self) -> None:
        """Say every few seconds that we are there, and how far we are."""
        every = self.config.watch.heartbeat_seconds
        while True:
            self._beat(every)
            await asyncio.sleep(every)

    def _beat(self, every: float, *, stopping: bool = False) -> None:
        partitions: list[str] = []
        lag: dict[str, Lag] = {}
        rates: dict[str, float] = {}
        repeats = 0
        for service in self.services:
            beat = service.beat()
            partitions += beat.partitions
            lag |= beat.lag
            rates[service.name] = round(beat.rows / every, 1)
            repeats += beat.repeats
            for message in beat.more:
                self.say(message)
        heartbeat = Heartbeat(
            process=self.name,
            stage="+".join(self.stages),
            host=socket.gethostname(),
            time=time.time_ns() // 1000,
            started=self.began,
            stopping=stopping,
            partitions=sorted(partitions),
            lag=lag,
            rates=rates,
            repeats=repeats,
            allowed=allowed(self.config),
        )
        self.say(heartbeat)

    async def run(self, make: Callable[[Process], list[Service]]) -> int:
        """Start the services that ``make`` gives, wait for the end. Returns the exit code."""
        loop = asyncio.get_running_loop()
        self._end = loop.create_future()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._asked)
        try:
            if self.health is not None:
                await self.health.start()
            await connected(self.kafka, log.warning)
            await self._look_at_topics()
            async with self._sending():
                self.services = make(self)
                return await self._serve()
        except Halt as halt:
            log.error(str(halt), extra={"exit": halt.code})
            return halt.code
        except ValueError as error:
            log.error(str(error), extra={"exit": BROKER})
            return BROKER

    async def _look_at_topics(self) -> None:
        """Raises Halt where a topic that we need is not there, or is spread over more or fewer partitions than profiles are."""
        found = await places(self.kafka, [*(topic.name for topic in planned(self.kafka)), *(raw.topic for raw in self.kafka.raw)])
        missing = [topic.name for topic in planned(self.kafka) if topic.name not in found]
        missing += [raw.topic for raw in self.kafka.raw if raw.topic not in found]
        if missing:
            raise Halt(TOPICS, f"{len(missing)} topics are missing ({', '.join(missing[:3])}...): make them with tocsin topics --raw")
        for topic in planned(self.kafka):
            there = found[topic.name].partitions
            if there != topic.partitions:
                raise Halt(
                    TOPICS,
                    f"{topic.name} has {there} partitions, the configuration says {topic.partitions}: profiles would be looked for in"
                    " other partitions than they are in. Set kafka.partitions back, or begin under another kafka.prefix",
                )

    def _asked(self) -> None:
        if self._end is not None and not self._end.done():
            log.info("asked to end: draining")
            self._end.set_result(None)

    @contextlib.asynccontextmanager
    async def _sending(self) -> AsyncIterator[None]:
        self.client = client(self.kafka)
        self.sender = Sender(self.client, self.fail, linger_ms=0, max_request_size=self.kafka.message_bytes)
        await self.sender.start()
        yield
        if self._drained:
            # A broker that is gone must not keep a process that is about to end. After a fault nothing is stopped: that would send what
            # waits, although what was made before it may be lost, and whoever reads it would take it for all there was.
            with contextlib.suppress(TimeoutError, BrokerError):
                await asyncio.wait_for(self.sender.stop(), 5.0)

    async def _serve(self) -> int:
        started: list[Service] = []
        end = self._end
        if end is None:
            raise RuntimeError("not started")
        try:
            for service in self.services:
                started.append(service)
                task = asyncio.ensure_future(service.start())
                both: list[asyncio.Future[Any]] = [task, end]
                await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
                if end.done():
                    task.cancel()
                    break
                task.result()
            self._serving = True
            pulse = asyncio.create_task(self._guarded_pulse())
            halt = await end
            pulse.cancel()
        except (Halt, BrokerError, OSError, ValueError) as error:
            halt = _halt(error)
            log.error(str(halt), extra={"exit": halt.code})
        if halt is not None:
            # What is in memory may be wrong or owned by someone else: nothing of it is kept.
            return halt.code
        try:
            await asyncio.wait_for(self._drain(started), DRAIN_SECONDS)
        except (TimeoutError, BrokerError, Halt, Undelivered, Fenced) as error:
            log.error(f"could not drain in time: {error!r}; what was not kept is folded again")
            return AGAIN
        self._drained = True
        # Whoever does not get his answer in time is found out after the session's length.
        await asyncio.wait([asyncio.ensure_future(service.leave()) for service in started], timeout=LEAVE_SECONDS)
        log.info("drained")
        return OK

    async def _guarded_pulse(self) -> None:
        try:
            await self._pulse()
        except Exception as error:
            self.fail(error)

    async def _drain(self, started: list[Service]) -> None:
        # In the order of the way: what a stage sends while it drains, the next may still take.
        for service in started:
            await service.stop()
        self._beat(self.config.watch.heartbeat_seconds, stopping=True)
        await self.out.settle()


def _is_fault(error: BaseException) -> bool:
    return not isinstance(error, Halt | Fenced | Undelivered)


def _halt(error: BaseException) -> Halt:
    if isinstance(error, Halt):
        return error
    if isinstance(error, Fenced | Undelivered | BrokerError | OSError):
        return Halt(AGAIN, f"{error}" or repr(error))
    if isinstance(error, ValueError):
        return Halt(REFUSED, str(error))
    return Halt(AGAIN, f"an unexpected fault: {error!r}")
