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
from typing import Any, Protocol

from aiokafka.errors import KafkaError as BrokerError

from connectors.kafka import Kafka, client, connected
from connectors.topics import Topics
from detector.config import Config
from detector.keeper import Fenced
from detector.sender import Sender, Undelivered

log = logging.getLogger("tocsin")

#: Exit codes: all is well; the configuration is wrong; the broker or an input cannot be had; the state or the log is refused, and to
#: start again would not help; someone else took over or a passing fault, start again.
OK, MISTAKE, UNREADABLE, REFUSED, AGAIN = 0, 2, 3, 4, 75
#: Seconds that a process has to drain and let go once it was asked to end: less than supervisors wait before they kill.
DRAIN_SECONDS = 7.0
LEAVE_SECONDS = 2.0


class Halt(Exception):
    """The process must end, with this exit code and this sentence."""

    def __init__(self, code: int, sentence: str) -> None:
        super().__init__(sentence)
        self.code = code


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


class Process:
    """Runs services over one connection to the broker until a signal or a fault ends it."""

    def __init__(self, config: Config, version: str, instance: str = "") -> None:
        self.config = config
        self.version = version
        self.kafka: Kafka = config.kafka
        self.topics = Topics(config.kafka.prefix)
        #: Stable over restarts, so that the broker knows it again; "" = a new member each time.
        self.instance = instance
        self.name = instance or f"{socket.gethostname()}-{os.getpid()}"
        self.began = time.time()
        self.client: dict[str, Any] = {}
        self.services: list[Service] = []
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
        return dict.fromkeys(topics, "")

    def fail(self, error: BaseException) -> None:
        """End the process because of ``error``. The first reason counts. Nothing is written after this."""
        halt = _halt(error)
        if self._end is not None and not self._end.done():
            log.error(str(halt), extra={"exit": halt.code}, exc_info=error if halt.code == AGAIN and _is_fault(error) else None)
            self._end.set_result(halt)

    async def run(self, make: Callable[[Process], list[Service]]) -> int:
        """Start the services that ``make`` gives, wait for the end. Returns the exit code."""
        loop = asyncio.get_running_loop()
        self._end = loop.create_future()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._asked)
        try:
            await connected(self.kafka, lambda line: log.warning(line))
            async with self._sending():
                self.services = make(self)
                return await self._serve()
        except Halt as halt:
            log.error(str(halt), extra={"exit": halt.code})
            return halt.code
        except ValueError as error:
            log.error(str(error), extra={"exit": UNREADABLE})
            return UNREADABLE

    def _asked(self) -> None:
        if self._end is not None and not self._end.done():
            log.info("asked to end: draining")
            self._end.set_result(None)

    @contextlib.asynccontextmanager
    async def _sending(self) -> AsyncIterator[None]:
        self.client = client(self.kafka)
        self.sender = Sender(self.client, self.fail, linger_ms=0, max_request_size=self.kafka.message_bytes)
        await self.sender.start()
        try:
            yield
        finally:
            # A broker that is gone must not keep a process that is about to end.
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
            halt = await end
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
        # Whoever does not get his answer in time is found out after the session's length.
        await asyncio.wait([asyncio.ensure_future(service.leave()) for service in started], timeout=LEAVE_SECONDS)
        log.info("drained")
        return OK

    async def _drain(self, started: list[Service]) -> None:
        # In the order of the way: what a stage sends while it drains, the next may still take.
        for service in started:
            await service.stop()


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
