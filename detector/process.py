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
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from typing import Any, NamedTuple, Protocol

from aiokafka.errors import KafkaError as BrokerError

from connectors.cluster import MIGRATE, places, topic_ids
from connectors.kafka import Kafka, KafkaError, client, connected
from connectors.status import STATUS_VERSION, Heartbeat, Lag, Message, encode
from connectors.topics import Topics, planned
from detector.config import Config
from detector.health import Health
from detector.keeper import Fenced
from detector.metrics import Metrics
from detector.sender import Letter, Sender, Undelivered
from detector.warm import libraries, warm
from detector.watch import allowed

log = logging.getLogger("tocsin")

#: Exit codes: all is well; the configuration is wrong; the state or the log is refused, and to start again would not help; the broker
#: cannot be had; topics are missing or have another number of partitions; someone else took over or a passing fault, start again.
OK, MISTAKE, REFUSED, BROKER, TOPICS, AGAIN = 0, 2, 4, 6, 7, 75
#: Seconds that a process has to drain, to leave its groups and to close once it was asked to end: together less than the ten that
#: supervisors wait at least before they kill.
DRAIN_SECONDS, LEAVE_SECONDS, CLOSE_SECONDS = 7.0, 1.5, 1.0


class Halt(Exception):
    """The process must end, with this exit code and this sentence."""

    def __init__(self, code: int, sentence: str) -> None:
        super().__init__(sentence)
        self.code = code


class Beat(NamedTuple):
    """A service at a heartbeat. ``partitions``: those it has open, "topic/number". ``lag``: by topic. ``rows`` handled and ``repeats``
    dropped since the last; ``more``: further records for the status topic; ``assigned``: how many partitions the broker has given to
    it, None: those that are open."""

    partitions: list[str]
    lag: dict[str, Lag]
    rows: int
    repeats: int
    more: list[Message]
    assigned: int | None = None


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
        self._fault: Halt | None = None
        self.sender: Sender | None = None
        self._late: asyncio.Task[None] | None = None

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
        """End the process because of ``error``. The first reason counts, and every one is said, also of a process that is ending.
        Nothing is written after this, unless it was draining: then what is whole is kept."""
        halt = _halt(error)
        log.error(str(halt), extra={"exit": halt.code}, exc_info=error if halt.code == AGAIN and _is_fault(error) else None)
        self._fault = self._fault or halt
        if self._end is not None and not self._end.done():
            self._end.set_result(halt)

    def say(self, message: Message) -> None:
        """Write a record to the status topic."""
        self.out.put(Letter(self.topics.status, 0, None, encode(message), f"status/{STATUS_VERSION}"))

    def _missing(self) -> dict[str, str]:
        if not self._serving:
            return {"process": "it is connecting to the broker" if self.sender is None else "it is loading its kernels"}
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
            opened = len(beat.partitions)
            self.metrics.open.labels(service.name).set(opened)
            self.metrics.assigned.labels(service.name).set(opened if beat.assigned is None else beat.assigned)
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
            return await self._live(make)
        except Halt as halt:
            log.error(str(halt), extra={"exit": halt.code})
            return halt.code

    async def _live(self, make: Callable[[Process], list[Service]]) -> int:
        """Raises Halt where it cannot begin."""
        with _because(MISTAKE):
            if self.health is not None:
                await self.health.start()
            # Reads the secrets: a file that is not there is a mistake, a broker that is not there is none.
            self.client = client(self.kafka)
            if "ingest" in self.stages and not self.kafka.raw:
                raise ValueError("kafka.raw: names no topic, so there is nothing to read")
        with _because(BROKER):
            if not (await self._unless_asked(self._reached()) and await self._unless_asked(self._warmed())):
                return OK if self._fault is None else self._fault.code
        async with self._sending():
            with _because(MISTAKE):
                self.services = make(self)
            return await self._serve()

    async def _reached(self) -> None:
        """Return once the broker answers, has our topics as they must be, and takes messages. Raises Halt, KafkaError, BrokerError."""
        await connected(self.kafka, log.warning)
        await self._look_at_topics()
        compression = None if self.kafka.compression == "none" else self.kafka.compression
        settings = {"linger_ms": 0, "max_request_size": self.kafka.message_bytes, "compression_type": compression}
        self.sender = Sender(self.client, self.fail, **settings)
        await self.sender.start()

    async def _warmed(self) -> None:
        """Return once what the stages need is loaded; whoever asks after our health meanwhile has an answer."""
        await asyncio.to_thread(warm, self.config, self.stages)
        self._late = asyncio.create_task(asyncio.to_thread(libraries, self.stages))

    async def _unless_asked(self, work: Coroutine[Any, Any, None]) -> bool:
        """Whether ``work`` was done before the process was asked to end; else it is given up, and not waited for."""
        end = self._end
        if end is None:
            raise RuntimeError("not started")
        task = asyncio.ensure_future(work)
        both: list[asyncio.Future[Any]] = [task, end]
        await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            task.result()
        else:
            task.cancel()
        return task.done()

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
                    f" other partitions than they are in. Set kafka.partitions back, or: {MIGRATE}",
                )

    def _asked(self) -> None:
        if self._end is not None and not self._end.done():
            log.info("asked to end: draining")
            self._end.set_result(None)

    @contextlib.asynccontextmanager
    async def _sending(self) -> AsyncIterator[None]:
        yield
        if self._drained:
            # After a fault nothing is stopped: that would send what waits, although what was made before it may be lost, and whoever
            # reads it would take it for all there was.
            await _within(CLOSE_SECONDS, self.out.stop())

    async def _serve(self) -> int:
        started: list[Service] = []
        end = self._end
        if end is None:
            raise RuntimeError("not started")
        try:
            for service in self.services:
                started.append(service)
                if not await self._unless_asked(service.start()):
                    break
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
        drained = await _within(DRAIN_SECONDS, self._drain(started))
        if drained is not None:
            log.error(f"could not drain in time: {drained!r}; what was not kept is folded again")
            return AGAIN
        if self._fault is not None:
            return self._fault.code
        self._drained = True
        # Whoever does not get his answer in time is found out after the session's length.
        await _within(LEAVE_SECONDS, *(service.leave() for service in started))
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


async def _within(seconds: float, *works: Coroutine[Any, Any, None]) -> BaseException | None:
    """Wait for all of ``works``, so long at most. Returns what went wrong, None where nothing did.

    What is not done by then is left where it stands: to wait until it is cancelled would be to wait for a broker that may be gone.
    """
    tasks = [asyncio.ensure_future(work) for work in works]
    done, late = await asyncio.wait(tasks, timeout=seconds)
    found = [error for task in done if (error := task.exception()) is not None]
    return found[0] if found else TimeoutError(f"not within {seconds:g} seconds") if late else None


@contextlib.contextmanager
def _because(code: int) -> Iterator[None]:
    """What cannot be used so, or be reached, ends the process with this code and its own sentence."""
    try:
        yield
    except (ValueError, BrokerError, OSError) as error:
        raise Halt(code, str(error) or repr(error)) from None


def _is_fault(error: BaseException) -> bool:
    return not isinstance(error, Halt | Fenced | Undelivered)


def _halt(error: BaseException) -> Halt:
    if isinstance(error, Halt):
        return error
    if isinstance(error, Fenced | Undelivered | KafkaError | BrokerError | OSError):
        return Halt(AGAIN, f"{error}" or repr(error))
    if isinstance(error, ValueError):
        return Halt(REFUSED, str(error))
    return Halt(AGAIN, f"an unexpected fault: {error!r}")
