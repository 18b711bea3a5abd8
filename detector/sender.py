"""Sending, in order, and knowing when all of it has arrived.

Everything a process sends goes through one queue, so that a partition gets its messages in the order in which they were made. A message
that cannot be delivered ends the process: what came after it must not be taken for all there was.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Any, NamedTuple

from aiokafka import AIOKafkaProducer

from connectors.wire import HEADER

#: Messages that may wait or be on their way before whoever makes more has to wait. They are blocks, so this is memory: some 50 MB.
MOST_WAITING = 400


class Letter(NamedTuple):
    """A message with its topic by its full name. ``what``: its schema, ``<name>/<version>``."""

    topic: str
    partition: int | None
    key: bytes | None
    value: bytes | None
    what: str
    more: tuple[tuple[str, bytes], ...] = ()


class Undelivered(RuntimeError):
    """A message could not be delivered."""


class Sender:
    """Sends letters through an idempotent producer. ``on_failure`` is called once, with the reason."""

    def __init__(self, client: dict[str, Any], on_failure: Callable[[Exception], None], **settings: Any) -> None:
        self._producer = AIOKafkaProducer(enable_idempotence=True, acks="all", **client, **settings)
        self._on_failure = on_failure
        self._queue: deque[Letter] = deque()
        self._flying: set[asyncio.Future[Any]] = set()
        self._work = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._sent = self._made = 0
        self.failed: Exception | None = None
        self.bytes = 0

    async def start(self) -> None:
        """Connect."""
        await self._producer.start()
        self._task = asyncio.create_task(self._run(), name="sender")

    async def stop(self) -> None:
        """Let go of the connection; what has not arrived by now is given up."""
        if self._task is not None:
            self._task.cancel()
        await self._producer.stop()

    def put(self, letter: Letter) -> None:
        """Send a letter after all that were put before it."""
        self._queue.append(letter)
        self._made += 1
        self._work.set()

    @property
    def waiting(self) -> int:
        """Letters that have not arrived yet."""
        return len(self._queue) + len(self._flying)

    async def room(self) -> None:
        """Wait until there is room for more. Raises Undelivered."""
        while self.waiting > MOST_WAITING:
            await self._progress()
        self._check()

    async def settle(self) -> None:
        """Wait until all that was put before this call has arrived. Raises Undelivered."""
        upto = self._made
        while self._sent < upto:
            self._check()
            await asyncio.sleep(0.001)
        flying = list(self._flying)
        if flying:
            await asyncio.wait(flying)
        self._check()

    async def _progress(self) -> None:
        self._check()
        flying = list(self._flying)
        if flying:
            await asyncio.wait(flying, return_when=asyncio.FIRST_COMPLETED)
        else:
            await asyncio.sleep(0.001)

    def _check(self) -> None:
        if self.failed is not None:
            raise Undelivered(f"a message could not be delivered: {self.failed}") from self.failed

    async def _run(self) -> None:
        try:
            while True:
                await self._work.wait()
                while self._queue:
                    letter = self._queue.popleft()
                    headers = [(HEADER, letter.what.encode()), *letter.more]
                    future = await self._producer.send(
                        letter.topic, letter.value, letter.key, partition=letter.partition, headers=headers
                    )
                    self.bytes += len(letter.value or b"")
                    self._flying.add(future)
                    future.add_done_callback(self._landed)
                    self._sent += 1
                self._work.clear()
        except Exception as error:
            # Everything: a sender that has died in silence would look like a broker that never answers.
            self._fail(error)

    def _landed(self, future: asyncio.Future[Any]) -> None:
        self._flying.discard(future)
        if not future.cancelled() and (error := future.exception()) is not None:
            self._fail(error if isinstance(error, Exception) else RuntimeError(str(error)))

    def _fail(self, error: Exception) -> None:
        if self.failed is None:
            self.failed = error
            self._on_failure(error)
