"""An installation for ``benchmarks.kafka``: a broker, topics of its own, and our workers as the processes that users run."""

# ruff: noqa: S603  what is run here is written here

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import msgspec
from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient

from benchmarks.kafka_figures import Machine, Sample, cpu
from benchmarks.kafka_load import Load, Sent
from benchmarks.kafka_reference import Reference
from connectors.cluster import create
from connectors.status import Heartbeat, StatusError, decode
from connectors.topics import Topics
from detector.config import Config, read

#: Seconds until a process is up, and until what it was given is done: many times what it takes on idle cores.
UP, DONE = 120.0, 900.0
#: Seconds between heartbeats, which say how much a process has done: the shortest that the configuration allows.
HEARTBEAT = 1.0


def until(true: Callable[[], object], what: str, seconds: float = UP, every: float = 0.05) -> None:
    """Wait until something holds. Raises TimeoutError with what did not come."""
    deadline = time.monotonic() + seconds
    while not true():
        if time.monotonic() > deadline:
            raise TimeoutError(f"not within {seconds:g} s: {what}")
        time.sleep(every)


@contextmanager
def broker(bootstrap: str) -> Iterator[tuple[str, int]]:
    """(address, process) of a broker: the one that is named (process 0), or one of our own for as long as this is open."""
    if bootstrap:
        yield bootstrap, 0
        return
    # Benchmarks import nothing of the tests; a broker is what one of these gives when it is run.
    holder = subprocess.Popen([sys.executable, "-m", "tests.broker", "--heap-mb", "1024"], stdout=subprocess.PIPE, text=True)
    try:
        address = (holder.stdout.readline() if holder.stdout else "").strip()
        if not address:
            raise RuntimeError("no broker could be had: see above, or name one with --bootstrap")
        yield address, _java_of(holder.pid)
    finally:
        holder.send_signal(signal.SIGTERM)
        holder.wait(60)


def _java_of(parent: int) -> int:
    """The child of a process that is the broker; 0 where it runs elsewhere (in a container)."""
    for child in Path(f"/proc/{parent}/task/{parent}/children").read_text().split():
        with suppress(OSError):
            if Path(f"/proc/{child}/comm").read_text().strip() == "java":
                return int(child)
    return 0


class Worker:
    """A ``tocsin worker``. ``samples``: what it has used and done at each of its heartbeats."""

    def __init__(self, site: Site, name: str, stages: Sequence[str]) -> None:
        self.name, self.stages = name, tuple(stages)
        self.log = site.folder / f"{name}.{uuid.uuid4().hex[:4]}.log"
        command = [sys.executable, "-m", "replay.cli", "worker", "--config", str(site.path), "--listen", "", "--instance", name]
        command += [part for stage in stages for part in ("--stage", stage)]
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        self.samples: list[Sample] = []

    def lines(self) -> list[dict[str, Any]]:
        """Its structured log."""
        return [json.loads(line) for line in self.log.read_text("utf-8", "replace").splitlines() if line.startswith("{")]

    def opened(self) -> int:
        """Partitions that it has opened."""
        if self.process.poll() is not None:
            raise RuntimeError(
                f"{self.name} has ended with {self.process.returncode}: {self.log.read_text('utf-8', 'replace')[-2000:]}"
            )
        return self.log.read_text("utf-8", "replace").count(": open at ")

    @property
    def done(self) -> int:
        """Events it has handled, as far as it has said."""
        return self.samples[-1].done if self.samples else 0

    def heard(self, beat: Heartbeat) -> None:
        """Take in a heartbeat; what it counts is what was done since the last, by the first of its stages."""
        many = round(beat.rates.get(self.stages[0], 0.0) * HEARTBEAT)
        with suppress(OSError):
            self.samples.append(Sample(time.monotonic(), cpu(self.process.pid), self.done + many))

    def end(self) -> float:
        """SIGTERM. Returns the seconds it took."""
        began = time.monotonic()
        self.process.send_signal(signal.SIGTERM)
        code = self.process.wait(UP)
        if code != 0:
            raise RuntimeError(f"{self.name} has ended with {code}: {self.log.read_text('utf-8', 'replace')[-2000:]}")
        return time.monotonic() - began

    def kill(self) -> None:
        """Be rid of it."""
        self.process.kill()
        self.process.wait()


class Site:
    """Topics under a prefix of their own, and workers on them. ``settings``: more of the configuration, TOML with dotted keys.

    ``raw``: the raw topic; another site's may be read again.
    """

    def __init__(self, bootstrap: str, *, partitions: int = 4, raw: str = "", settings: dict[str, str] | None = None) -> None:
        self.bootstrap, self.partitions = bootstrap, partitions
        self._folder = tempfile.TemporaryDirectory(prefix="tocsin-benchmark-")
        self.folder = Path(self._folder.name)
        self.prefix = f"b{uuid.uuid4().hex[:8]}"
        self.raw = raw or f"{self.prefix}.raw"
        self.path = self.folder / "tocsin.toml"
        self.settings = {
            "kafka.bootstrap": f'["{bootstrap}"]',
            "kafka.prefix": f'"{self.prefix}"',
            "kafka.partitions": str(partitions),
            "kafka.raw": f'[{{topic = "{self.raw}", source = "zeek_conn"}}]',
            "watch.heartbeat_seconds": str(HEARTBEAT),
            "worker.session_seconds": "60",
        }
        self.config = self.configure(settings or {})
        self.topics = Topics(self.prefix)
        self.workers: list[Worker] = []
        asyncio.run(create(self.config.kafka, raw=True))
        self._end = threading.Event()
        self._hearing = threading.Thread(target=lambda: asyncio.run(self._hear()), daemon=True)
        self._hearing.start()

    def configure(self, settings: dict[str, str]) -> Config:
        """The configuration with these over what it was before: for workers that are started from now on."""
        self.settings |= settings
        self.path.write_text("".join(f"{key} = {value}\n" for key, value in self.settings.items()), "utf-8")
        return read(self.path)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._end.set()
        self._hearing.join()
        for worker in self.workers:
            worker.kill()
        with suppress(Exception):
            # What one part leaves behind would cost the next one memory and disk.
            asyncio.run(self._delete())
        self._folder.cleanup()

    async def _delete(self) -> None:
        admin = AIOKafkaAdminClient(bootstrap_servers=self.bootstrap)
        await admin.start()
        try:
            await admin.delete_topics([*self.topics.all(), *([self.raw] if self.raw.startswith(self.prefix) else [])])
        finally:
            await admin.close()

    async def _hear(self) -> None:
        consumer = AIOKafkaConsumer(bootstrap_servers=self.bootstrap, auto_offset_reset="earliest", enable_auto_commit=False)
        await consumer.start()
        consumer.assign([TopicPartition(self.topics.status, 0)])
        while not self._end.is_set():
            for messages in (await consumer.getmany(timeout_ms=200)).values():
                for message in messages:
                    self._heartbeat(message.value)
        await consumer.stop()

    def _heartbeat(self, data: bytes) -> None:
        with suppress(StatusError):
            said = decode(data)
            if isinstance(said, Heartbeat):
                for worker in self.workers:
                    if worker.name == said.process and worker.process.poll() is None:
                        worker.heard(said)

    def launch(self, name: str, *stages: str) -> Worker:
        """A worker that begins to start."""
        worker = Worker(self, name, stages)
        self.workers.append(worker)
        return worker

    def start(self, name: str, *stages: str) -> Worker:
        """A worker that has opened all partitions of its stages (ingest those of the raw topic)."""
        worker = self.launch(name, *stages)
        wanted = sum(1 if stage == "budget" else self.partitions for stage in stages)
        until(lambda: worker.opened() >= wanted, f"{name} has opened {wanted} partitions")
        return worker

    def wait(self, workers: Sequence[Worker], many: int) -> None:
        """Until workers have handled so many events together."""

        def done() -> bool:
            return min(worker.opened() for worker in workers) >= 0 and sum(worker.done for worker in workers) >= many

        until(done, f"{many} events are handled by {', '.join(worker.name for worker in workers)}", DONE)

    def ends(self, topic: str) -> int:
        """How many messages were ever written to one of our topics, all partitions."""
        return asyncio.run(self._ends(topic))

    async def _ends(self, topic: str) -> int:
        consumer = AIOKafkaConsumer(bootstrap_servers=self.bootstrap)
        await consumer.start()
        try:
            return sum((await consumer.end_offsets([TopicPartition(topic, each) for each in range(self.partitions)])).values())
        finally:
            await consumer.stop()

    def load(self, **settings: Any) -> Sent:
        """Produce to the raw topic, to the end."""
        return loaded(self.loading(**settings))

    def loading(self, **settings: Any) -> subprocess.Popen[str]:
        """Begin to produce to the raw topic."""
        given: dict[str, Any] = {"bootstrap": self.bootstrap, "topic": self.raw, "partitions": self.partitions}
        return loading(Load(**(given | settings)))


def still(state: Callable[[], int | None], quiet: float, longest: float) -> bool:
    """Wait until something is there and has been the same for so many seconds. Returns whether it came to that in time."""
    began = since = time.monotonic()
    known = None
    while known is None or time.monotonic() - since < quiet:
        if time.monotonic() - began > longest:
            return False
        if (now := state()) != known:
            known, since = now, time.monotonic()
        time.sleep(0.5)
    return True


def loading(load: Load) -> subprocess.Popen[str]:
    """Begin to produce."""
    return _run("benchmarks.kafka_load", msgspec.json.encode(load).decode())


def loaded(process: subprocess.Popen[str]) -> Sent:
    """What was produced, when all is."""
    out, _ = process.communicate(timeout=DONE)
    if process.returncode:
        raise RuntimeError("the load could not be produced: see above")
    return msgspec.json.decode(out, type=Sent)


def reference(what: str, given: Reference) -> subprocess.Popen[str]:
    """Begin one of ``benchmarks.kafka_reference``."""
    return _run("benchmarks.kafka_reference", what, msgspec.json.encode(given).decode())


def samples(process: subprocess.Popen[str]) -> list[Sample]:
    """The samples of a reference, when it has ended."""
    out, _ = process.communicate(timeout=DONE)
    found = re.search(r"^\[\[.*\]\]$", out, re.MULTILINE)
    if found is None:
        raise RuntimeError("a reference has measured nothing: see above")
    return msgspec.json.decode(found[0], type=list[Sample])


def _run(module: str, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen([sys.executable, "-m", module, *arguments], stdout=subprocess.PIPE, text=True, env=dict(os.environ))


class Watch:
    """What a part has used: of the machine, and of it who. ``processes``: name -> process id, 0 = nowhere to be seen."""

    def __init__(self, processes: dict[str, int]) -> None:
        self._processes = {name: pid for name, pid in processes.items() if pid}
        self._machine = Machine.now()
        self._began = {name: cpu(pid) for name, pid in self._processes.items()}

    def taken(self, more: float = 0.0) -> dict[str, Any]:
        """Seconds of processor by process, and the share of the cores that went to others. ``more``: seconds of ours besides."""
        used = {name: round(cpu(pid) - self._began[name], 2) for name, pid in self._processes.items()}
        now = Machine.now()
        return {"cpu_seconds": used, "cores_to_others": round(now.others(self._machine, sum(used.values()) + more), 2)}
