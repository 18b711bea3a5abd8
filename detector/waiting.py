"""Messages that have come to a stage and wait for their turn: what waits of a partition is taken in together."""

from __future__ import annotations

import asyncio
from collections import deque

from detector.engine import BUFFER
from detector.stage import Note

#: Bytes that wait, before no more are let in; and that are taken in together, before someone else has a turn.
WAITING_BYTES, RUN_BYTES = 32 << 20, 1 << 19
#: Faust gives out a message every few turns of the loop: after so many without one there is none for now.
PATIENCE = 8


class Waiting:
    """Messages of a stage's logs, by partition."""

    def __init__(self) -> None:
        self._runs: dict[int, deque[Note]] = {}
        self._many = self._bytes = 0
        self._come, self._gone = asyncio.Event(), asyncio.Event()

    async def put(self, partition: int, note: Note) -> None:
        """Let a message wait, when there is room."""
        while self._many >= BUFFER or self._bytes >= WAITING_BYTES:
            self._gone.clear()
            await self._gone.wait()
        self._runs.setdefault(partition, deque()).append(note)
        self._many, self._bytes = self._many + 1, self._bytes + len(note.data)
        self._come.set()

    async def round(self) -> list[tuple[int, list[Note]]]:
        """(partition, what is to be taken in next of it), of each that has any; waits for something."""
        while not self._many:
            self._come.clear()
            await self._come.wait()
        # What one fetch has brought comes message by message.
        known, quiet = self._many, 0
        while quiet < PATIENCE and self._many < BUFFER:
            await asyncio.sleep(0)
            known, quiet = self._many, 0 if self._many > known else quiet + 1
        out = []
        for partition, waiting in list(self._runs.items()):
            run = [waiting.popleft()]
            size = len(run[0].data)
            while waiting and (size := size + len(waiting[0].data)) <= RUN_BYTES:
                run.append(waiting.popleft())
            if not waiting:
                del self._runs[partition]
            out.append((partition, run))
            self._many, self._bytes = self._many - len(run), self._bytes - sum(len(note.data) for note in run)
        self._gone.set()
        return out
