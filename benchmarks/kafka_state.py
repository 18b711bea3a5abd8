"""Many identities: how fast their states are opened, and what it costs to keep them while alerts are wanted."""

from __future__ import annotations

import asyncio
import gc
import itertools
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from benchmarks.kafka_figures import quantile, summary
from benchmarks.kafka_live import SPEED, Engine
from benchmarks.kafka_load import Sent, Traffic
from benchmarks.kafka_site import Site, Watch, Worker
from connectors.kafka import client
from connectors.names import Names
from connectors.sources.zeek_conn import ZeekConn
from detector.checkpoint import meaning
from detector.follow import told_to_the_end
from detector.ingest import restart
from detector.keeper import Keeper
from detector.messages import read_messages
from detector.pipeline import quiet_collector
from detector.router import by_actor
from detector.singles import STAGES
from detector.stage import Shared, Stage

if TYPE_CHECKING:
    from benchmarks.kafka import Sizes

#: Records folded at once.
BATCH = 16_000
#: Both visits keep profiles; the judges keep what is surprising.
KEPT = ("actor", "object")
#: Checkpoints within a span of load.
CHECKPOINTS = 3


def folded(site: Site, identities: int, pace: float) -> tuple[list[Stage], float]:
    """Both visits of all partitions as they are when everyone has been seen twice; and the event time by then."""
    many = site.partitions
    shared = {name: Shared(many) for name in KEPT}
    stages = {name: [STAGES[name](site.config, each, many, shared[name]) for each in range(many)] for name in KEPT}
    traffic, names = Traffic(identities), Names()
    source = ZeekConn(names)
    with quiet_collector():
        everyone, made = traffic.everyone(0.0, pace), 0
        while batch := list(itertools.islice(everyone, BATCH)):
            if names.full:
                restart(names, [])
            block = source.decode(batch).block
            block.record += made
            made += len(batch)
            for partition, data in by_actor(block, ("made-up-0@benchmark",), 0, many):
                _take(stages["actor"][partition], data)
            for out in shared["actor"].flush():
                _take(stages["object"][out.partition or 0], out.value)
    whole = stages["actor"] + stages["object"]
    for stage in whole:
        # What comes now is the beginning of other logs.
        stage.applied, stage.marks = 0, {}
    return whole, 2 * traffic.hosts / pace


def _take(stage: Stage, data: bytes) -> None:
    stage.take(data, stage.applied)


def keeper(site: Site, stage: Stage) -> Keeper:
    """Who keeps a stage of a site."""
    group = f"{site.prefix}.{stage.name}"
    return Keeper(client(site.config.kafka), site.topics.state(stage.name), group, stage, meaning(site.config))


async def kept(site: Site, stages: list[Stage]) -> int:
    """Write states. Returns their bytes."""
    wrote = 0
    for stage in stages:
        held = keeper(site, stage)
        await held.open()
        wrote += await held.save(held.snapshot(), None)
        await held.close()
    return wrote


async def opened(site: Site) -> dict[str, Any]:
    """The sixth figure: open every partition of both visits, one after the other."""
    many, identities, records = site.partitions, 0, 0
    wall, processor = time.perf_counter(), time.process_time()
    for name in KEPT:
        for partition in range(many):
            stage = STAGES[name](site.config, partition, many, Shared(many))
            held = keeper(site, stage)
            records += await held.open()
            identities += stage.identities
            await held.close()
    wall, processor = time.perf_counter() - wall, time.process_time() - processor
    return {
        "identities": identities,
        "identities_per_second": round(identities / wall),
        "identities_per_core_second": round(identities / processor),
        "seconds": round(wall, 2),
        "cpu_seconds": round(processor, 2),
        "records": records,
    }


def measured(bootstrap: str, broker: int, sizes: Sizes, parts: set[str]) -> Iterator[tuple[str, dict[str, Any]]]:
    """The sixth and the seventh figure."""
    settings = sizes.settings | {"worker.checkpoint_seconds": "3600", "worker.checkpoint_megabytes": "100_000"}
    with Site(bootstrap, partitions=sizes.partitions, settings=settings) as site:
        stages, clock = folded(site, sizes.kept, sizes.rate / SPEED)
        wrote = asyncio.run(kept(site, stages))
        del stages
        gc.collect()
        if "recovery" in parts:
            watch = Watch({"broker": broker})
            began = time.process_time()
            found = asyncio.run(opened(site)) | {"bytes": wrote}
            yield "recovery", found | watch.taken(time.process_time() - began)
        if "checkpoints" in parts:
            yield "checkpoints", checkpoints(site, sizes, clock, broker)


def checkpoints(site: Site, sizes: Sizes, clock: float, broker: int) -> dict[str, Any]:
    """The seventh figure: a span of load without checkpoints, then one with some."""
    engine = Engine(site, sizes._replace(identities=sizes.kept))
    engine.clock = clock
    engine.start()
    opening = {name: _seconds(engine.workers[name], ": open at ") for name in KEPT}
    before, _ = _span(engine, broker)
    ends = [_restarted(engine, {"worker.checkpoint_seconds": str(max(sizes.loaded / CHECKPOINTS, 1.0))})]
    during, used = _span(engine, broker)
    taken = {name: _checkpoints(engine.workers[name]) for name in KEPT}
    ends.append({name: round(engine.workers[name].end(), 2) for name in KEPT})
    with_, without = (quantile(values, 0.99) for values in (during, before))
    return {
        "identities": sizes.kept,
        "workers_opened_in_seconds": opening,
        "without": summary(before),
        "with": summary(during),
        "ratio_p99_with_to_without": round(with_ / without, 2),
        **taken,
        "sigterm_seconds": max(seconds for each in ends for seconds in each.values()),
        "sigterm": {"after_no_checkpoint": ends[0], "after_some": ends[1]},
        **used,
    }


def _span(engine: Engine, broker: int) -> tuple[list[float], dict[str, Any]]:
    """Load for a while. Returns how late its evidence came to the judges, and what was used: judges that have just begun open no alerts
    to speak of, and what is kept here is what comes before them."""
    sizes = engine.sizes
    watch = Watch(engine.pids | {"broker": broker})
    sent: Sent = engine.account(engine.site.load(**engine.settings([(sizes.rate, sizes.loaded)])))
    engine.drained()
    used = watch.taken()
    return asyncio.run(_evidenced(engine.site, sent.began_at + sizes.settle, sent.ended_at)), used


async def _evidenced(site: Site, since: float, until: float) -> list[float]:
    """From the arrival of the earliest record behind a message to the judges until it left, for those that left in a span: seconds."""
    out: list[float] = []

    def tell(record: Any) -> None:
        left = record.timestamp / 1000
        if since <= left < until:
            # What judges hand to each other came to them before.
            told = [each for each in read_messages(record.value) if each.stage == "object" and each.arrived]
            out.extend(left - each.arrived / 1e6 for each in told)

    for partition in range(site.partitions):
        await told_to_the_end(client(site.config.kafka), site.topics.evidence, tell, partition)
    return out


def _restarted(engine: Engine, settings: dict[str, str]) -> dict[str, float]:
    """End both visits and start them with other settings. Returns how long each took to end."""
    ends = {name: round(engine.workers[name].end(), 2) for name in KEPT}
    engine.site.configure(settings)
    for name in KEPT:
        # A worker counts from its beginning.
        engine.before[name] = engine.sent
        engine.workers[name] = engine.site.start(name, name)
    return ends


def _seconds(worker: Worker, text: str) -> list[float]:
    """The seconds in a worker's lines that hold ``text``, as in "open at 0 after 1.25 s"."""
    said = [line["message"] for line in worker.lines() if text in line["message"]]
    return [float(message.partition(" after ")[2].partition(" ")[0]) for message in said]


def _checkpoints(worker: Worker) -> dict[str, Any]:
    """What a worker's checkpoints have cost, by its own log; each is one of a partition."""
    taken = [line for line in worker.lines() if "stall" in line]
    return {
        "checkpoints": len(taken),
        "megabytes_each": [round(line["bytes"] / 1e6, 1) for line in taken],
        "seconds_each": [line["seconds"] for line in taken],
        "longest_stall_ms": round(max((line["stall"] for line in taken), default=0.0) * 1000, 1),
    }
