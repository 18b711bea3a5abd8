"""All stages between logs in memory: what Kafka does with them, with a crash or a zombie wherever a test wants one."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Iterable, Iterator

from connectors import ocsf
from connectors.alert import Alert
from connectors.event import Block
from connectors.names import Names
from connectors.wire import Control, Tick, encode_control, encode_tick
from detector.checkpoint import meaning
from detector.config import Config
from detector.messages import Joined
from detector.router import by_actor
from detector.singles import STAGES
from detector.snapshot import Snapshot, restore
from detector.stage import Note, Out, Shared, Stage

READS = {"actor": "by_actor", "object": "by_object", "fuse": "evidence", "budget": "budget"}


def whole_records(block: Block, size: int) -> Iterator[Block]:
    """A block in parts of at least ``size`` rows, no raw record split over two."""
    start = 0
    while start < len(block):
        stop = min(start + size, len(block))
        while stop < len(block) and block.record[stop] == block.record[stop - 1]:
            stop += 1
        yield block.take(slice(start, stop))
        start = stop


class Worker:
    """One stage of one partition as a process would run it: it reads its log, sends, keeps checkpoints."""

    def __init__(self, logs: Logs, name: str, partition: int) -> None:
        self.logs, self.name, self.partition = logs, name, partition
        self.open()

    def open(self) -> None:
        """Begin as a new process: with the last checkpoint."""
        config, many = self.logs.config, self.logs.partitions
        self.shared = Shared(many, self.logs.names_limit)
        self.evidence = Joined()
        self.stage: Stage = STAGES[self.name](config, self.partition, many, self.shared)
        self.written = restore(self.stage, self.logs.states[self.name, self.partition], meaning(config))
        self.snapshot: Snapshot | None = None

    @property
    def log(self) -> list[bytes]:
        return self.logs.topics[READS[self.name], self.partition]

    def step(self) -> bool:
        """Take in a message, or several together. False where there is none."""
        stage, at = self.stage, self.stage.applied
        if at >= len(self.log):
            return False
        many = self.logs.draw.choice((1, 1, 2, 5, 40))
        for taken in stage.takes([Note(at + number, data) for number, data in enumerate(self.log[at : at + many])]):
            self.logs.alerts += taken.alerts
            for out in taken.outs:
                if out.topic == "evidence":
                    self.evidence.add(out.partition or 0, out.value, alone=out.alone)
                else:
                    self.logs.send([out])
        if self.logs.draw.random() < 0.5:
            self.flush()
        return True

    @property
    def waits(self) -> bool:
        """Whether something is to be sent."""
        return bool(self.shared.router or self.evidence)

    def flush(self) -> None:
        self.logs.send(self.shared.flush())
        most = self.logs.draw.choice((1, 2_000, 1 << 20))
        self.logs.send(Out("evidence", partition, None, record) for partition, record in self.evidence.flush(most))

    def begin_checkpoint(self) -> None:
        """Copy what must be copied at once; the rest is taken later."""
        self.flush()
        self.snapshot = Snapshot(self.stage, meaning(self.logs.config), self.written)

    def end_checkpoint(self) -> None:
        """Write the checkpoint, all of it or nothing."""
        if self.snapshot is not None:
            self.logs.states[self.name, self.partition].update(dict(self.snapshot.records()))
            self.snapshot = None


class Logs:
    """The topics, and the workers on them."""

    def __init__(self, config: Config, partitions: int, seed: int = 0, names_limit: int = 2_000_000) -> None:
        self.config, self.partitions, self.names_limit = config, partitions, names_limit
        self.draw = random.Random(seed)
        self.topics: dict[tuple[str, int], list[bytes]] = defaultdict(list)
        self.states: dict[tuple[str, int], dict[str, bytes]] = defaultdict(dict)
        self.alerts: list[Alert] = []
        self.mute = False
        wanted = [(name, partition) for name in ("actor", "object", "fuse") for partition in range(partitions)] + [("budget", 0)]
        self.workers = {key: Worker(self, *key) for key in wanted}

    def send(self, outs: Iterable[Out]) -> None:
        for out in [] if self.mute else outs:
            self.topics[out.topic, out.partition or 0].append(out.value)

    def ingest(self, block: Block, log: str = "raw-0@id", arrived: int = 0) -> None:
        for partition, data in by_actor(block, (log,), arrived, self.partitions):
            self.topics["by_actor", partition].append(data)

    def tick(self, clock: int) -> None:
        for partition in range(self.partitions):
            self.topics["by_actor", partition].append(encode_tick(Names(), Tick(clock, 0)))

    def govern(self, version: int, text: str) -> None:
        for partition in range(self.partitions):
            self.topics["by_actor", partition].append(encode_control(Names(), Control(version, text)))

    def drain(self) -> None:
        """Run all workers, in a shuffled order, until no log has anything left."""
        busy = True
        while busy:
            keys = list(self.workers)
            self.draw.shuffle(keys)
            busy = False
            for key in keys:
                worker = self.workers[key]
                for _ in range(self.draw.randint(1, 4)):
                    busy |= worker.step()
                if worker.waits:
                    worker.flush()
                    busy = True

    def told(self) -> list[bytes]:
        """Every revision of every alert, in order of time, without those that came twice alike."""
        return sorted({ocsf.encode(alert, "0") for alert in self.alerts})

    def chaos(self, many: int) -> None:
        """Do ``many`` things in a random order: messages, checkpoints begun and ended, crashes, zombies that go on for a while."""
        zombies: list[Worker] = []
        for _ in range(many):
            worker = self.draw.choice(list(self.workers.values()))
            what = self.draw.random()
            if what < 0.70:
                worker.step()
            elif what < 0.76:
                worker.flush()
            elif what < 0.82 and worker.snapshot is None:
                worker.begin_checkpoint()
            elif what < 0.88:
                worker.end_checkpoint()
            elif what < 0.93:
                worker.open()
            elif what < 0.96:
                # Frozen, and taken for dead: another process takes over, and then the old one wakes up.
                zombies.append(worker)
                self.workers[worker.name, worker.partition] = Worker(self, worker.name, worker.partition)
            elif zombies:
                zombie = self.draw.choice(zombies)
                zombie.step()
                zombie.flush()
                if self.draw.random() < 0.3:
                    zombies.remove(zombie)

    def folds(self) -> dict[tuple[str, int], Worker]:
        """Each log folded anew from its beginning, sending to nobody."""
        aside = Logs(self.config, self.partitions)
        aside.topics = self.topics
        out = {}
        for key in self.workers:
            worker = out[key] = Worker(aside, *key)
            aside.mute = True
            while worker.step():
                pass
        self.fold_alerts = aside.told()
        return out
