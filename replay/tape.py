"""Messages of Kafka as records of a recording: raw ones as they are, blocks of the by-actor log without what is in it twice."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import pyarrow.parquet
from aiokafka import ConsumerRecord

from connectors.names import Names
from connectors.trace import TraceError
from connectors.wire import WireError, decode, title
from detector.ingest import restart
from replay.pseudonyms import Pseudonyms
from replay.record import BlockRecord, RawRecord, Recorder

Form = Literal["raw", "by-actor"]


class Tape:
    """Puts messages of either form into a recorder, and knows what of a by-actor log was there before."""

    def __init__(self, recorder: Recorder, form: Form, pseudonyms: Pseudonyms | None) -> None:
        self.recorder = recorder
        self._form = form
        self._pseudonyms = pseudonyms
        self._names = Names()
        self._logs: list[str] = recorder.manifest.made_by.setdefault("logs", [])
        self._marks = self._remembered() if form == "by-actor" else {}
        #: Rows that ingest has sent twice, and records of ours that are no events (ticks, configurations).
        self.repeated = self.passed = 0

    def topic(self, name: str) -> str:
        """What the recording calls a topic."""
        return name if self._pseudonyms is None else self._pseudonyms.topic(name)

    def position(self, topic: str, partition: int) -> int | None:
        """The offset to read on from; None where nothing is recorded yet."""
        return self.recorder.positions.get((self.topic(topic), partition))

    def put(self, message: ConsumerRecord) -> bool:
        """Take one message. Returns False once the recording is full. Raises TraceError on what is no block of ours."""
        arrival = message.timestamp * 1000
        if self._form == "raw":
            return self.recorder.put(RawRecord(message.topic, message.partition, message.offset, arrival, message.key, message.value))
        block = self._block(message)
        if block is None:
            return True
        return self.recorder.put(BlockRecord(self.topic(message.topic), message.partition, message.offset, arrival, block))

    def _block(self, message: ConsumerRecord) -> Any:
        """The rows of a message that were not there before, under the numbers that the manifest gives their logs; None without any."""
        if self._names.full:
            restart(self._names, [])
        try:
            packet = decode(message.value or b"", self._names)
        except WireError as error:
            raise TraceError(f"{message.topic} {message.partition} at {message.offset}: {error}") from None
        if packet.passes or message.offset < (self.position(message.topic, message.partition) or 0):
            self.passed += packet.passes
            return None
        block = packet.block
        numbers = np.array([self._number(log) for log in packet.logs], np.int32)
        # As the stages do: by the marks as they are before this message.
        keep = np.ones(len(block), np.bool_)
        for local, number in enumerate(numbers.tolist()):
            mine, key = block.partition == local, (self.topic(message.topic), message.partition, number)
            keep &= ~mine | (block.record > self._marks.get(key, -1))
            if mine.any():
                self._marks[key] = max(self._marks.get(key, -1), int(block.record[mine].max()))
        self.repeated += len(block) - int(np.count_nonzero(keep))
        if not keep.any():
            return None
        block.partition = numbers[block.partition]
        return block.take(keep).to_arrow()

    def _number(self, log: str) -> int:
        """The number of a raw log in this recording; under pseudonyms it is kept by its pseudonym."""
        known = self._pseudonyms.uid(log) if self._pseudonyms is not None else log
        if known not in self._logs:
            self._logs.append(known)
            name = f"log-{len(self._logs) - 1}" if self._pseudonyms is not None else title(log)
            self.recorder.manifest.titles.append(name)
        return self._logs.index(known)

    def _remembered(self) -> dict[tuple[str, int, int], int]:
        """(topic, partition, number of the raw log) -> the highest of its offsets that is recorded."""
        marks: dict[tuple[str, int, int], int] = {}
        for entry in self.recorder.manifest.logs:
            table = pyarrow.parquet.read_table(self.recorder.folder / entry.path, columns=["partition", "record"])
            highest = table.group_by("partition").aggregate([("record", "max")])
            for number, record in zip(*(column.to_pylist() for column in highest.select(["partition", "record_max"])), strict=True):
                key = (entry.topic, entry.partition, number)
                marks[key] = max(marks.get(key, -1), record)
        return marks
