"""How late alerts come: at a steady rate beside a relay with as many hops, and in a burst."""

from __future__ import annotations

import asyncio
import signal
import statistics
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import msgspec
from aiokafka.admin import AIOKafkaAdminClient, NewTopic

from benchmarks.kafka_alerts import alerted
from benchmarks.kafka_figures import delays, quantile, summary
from benchmarks.kafka_load import START, Load, Sent
from benchmarks.kafka_reference import Heard, Reference
from benchmarks.kafka_site import Site, Watch, Worker, loaded, loading, reference

if TYPE_CHECKING:
    from benchmarks.kafka import Sizes

#: Processes between a raw record and an alert: ingest, actor, object, fuse.
HOPS = 4
#: Markers a second at so many events a second: relays are measured by them. To us they are records like others, though strange ones,
#: as long as they are few: what comes as often as the budget has alerts is nothing strange any more.
MARKERS, STRANGE, AT_RATE = 5.0, 0.5, 5_000.0
#: Seconds of event time to one on the clock: alerts come within a budget of event time.
SPEED = 240.0


class Engine:
    """All stages as processes of their own, with some history behind them. Keeps count of event time and of markers."""

    def __init__(self, site: Site, sizes: Sizes, origin: float = START) -> None:
        self.site, self.sizes, self.origin = site, sizes, origin
        #: Events to a second of event time: as many in the history, so that everyone keeps to the rate that he is known for.
        self.pace = sizes.rate / SPEED
        self.clock, self.number, self.sent, self.turn = 0.0, 0, 0, 0
        self.workers: dict[str, Worker] = {}
        #: What was sent before a worker began to count.
        self.before: dict[str, int] = {}

    def start(self) -> None:
        """Start everything, and give it its history."""
        for name, stages in (("ingest", ["ingest"]), ("actor", ["actor"]), ("object", ["object"]), ("fuse", ["fuse", "budget"])):
            self.workers[name] = self.site.start(name, *stages)
        history = self.sizes.history
        self.account(self.site.load(records=history, identities=self.sizes.identities, pace=self.pace, origin=self.origin))
        self.drained()

    def account(self, sent: Sent) -> Sent:
        """Note what was sent."""
        self.clock, self.sent, self.number = sent.ended, self.sent + sent.records, self.number + len(sent.markers)
        return sent

    def drained(self) -> None:
        """Wait until every event that was sent has been scored, and everything that was found has been judged."""
        for name in ("ingest", "actor", "object"):
            self.site.wait([self.workers[name]], self.sent - self.before.get(name, 0))
        self.site.wait([self.workers["fuse"]], self.site.ends(self.site.topics.evidence))

    def settings(self, phases: list[tuple[float, float]], markers: float = STRANGE) -> dict[str, Any]:
        """Of the next load."""
        self.turn += 1
        markers *= self.sizes.rate / AT_RATE
        more = {"speed": SPEED, "origin": self.origin, "began": self.clock, "markers": markers, "first": self.number, "seed": self.turn}
        return {"identities": self.sizes.identities, "phases": phases, **more}

    @property
    def pids(self) -> dict[str, int]:
        """Our processes."""
        return {name: worker.process.pid for name, worker in self.workers.items()}


class Relay:
    """A chain of relays. ``each``: every record stays a message of its own; else as few messages as ingest would make of them."""

    def __init__(self, site: Site, *, each: bool) -> None:
        self.site, self.name = site, "each" if each else "blocks"
        self.topics = [f"{site.prefix}.relay-{self.name}-{hop}" for hop in range(HOPS + 1)]
        asyncio.run(_created(site.bootstrap, self.topics, site.partitions))
        self.processes = [
            reference(
                "relay",
                Reference(
                    bootstrap=site.bootstrap,
                    reads=[self.topics[hop]],
                    writes=self.topics[hop + 1],
                    partitions=site.partitions,
                    joins=hop == 0,
                    each=each,
                ),
            )
            for hop in range(HOPS)
        ]

    @property
    def pids(self) -> dict[str, int]:
        """Its processes."""
        return {f"relay-{self.name}-{hop}": process.pid for hop, process in enumerate(self.processes)}

    def end(self) -> None:
        """End it, and throw away what it has written."""
        for process in self.processes:
            process.kill()
            process.wait()
        asyncio.run(_deleted(self.site.bootstrap, self.topics))


@contextmanager
def listening(site: Site, topics: Sequence[str] = ()) -> Iterator[Heard]:
    """Listen to alerts, and for markers in topics with as many partitions as the site. What was heard is there when this is left."""
    heard = Heard()
    out = site.folder / "heard.json"
    out.unlink(missing_ok=True)
    alerts = site.topics.alerts
    given = Reference(bootstrap=site.bootstrap, reads=[alerts, *topics], partitions=site.partitions, out=str(out), alerts=alerts)
    process = reference("listen", given)
    try:
        if process.stdout is None or process.stdout.readline() != "listening\n":
            raise RuntimeError("the listener has not started: see above")
        yield heard
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(60)
    whole = msgspec.json.decode(out.read_bytes(), type=Heard)
    heard.markers, heard.alerts = whole.markers, whole.alerts


def measured(bootstrap: str, broker: int, sizes: Sizes, parts: set[str]) -> Iterator[tuple[str, dict[str, Any]]]:
    """The third and the fourth figure."""
    with Site(bootstrap, partitions=sizes.partitions, settings=sizes.settings) as site:
        engine = Engine(site, sizes)
        engine.start()
        if "latency" in parts:
            yield "latency", latency(engine, broker)
        if "burst" in parts:
            yield "burst", burst(engine, broker)


def latency(engine: Engine, broker: int) -> dict[str, Any]:
    """Raw record to alert beside the relays, in turns."""
    site, sizes = engine.site, engine.sizes
    relays = [Relay(site, each=False), Relay(site, each=True)]
    sent: dict[str, list[Sent]] = {"alerts": [], "blocks": [], "each": []}
    watch = Watch(engine.pids | relays[0].pids | relays[1].pids | {"broker": broker})
    try:
        with listening(site, [relay.topics[-1] for relay in relays]) as heard:
            # The first turn is not counted: the broker's own compiler is at work.
            for _ in range(1 + sizes.turns):
                for relay in relays:
                    load = Load(
                        bootstrap=site.bootstrap,
                        topic=relay.topics[0],
                        partitions=site.partitions,
                        **(engine.settings([(sizes.rate, sizes.seconds)], MARKERS) | {"first": 10_000 * engine.turn}),
                    )
                    sent[relay.name].append(loaded(loading(load)))
                sent["alerts"].append(engine.account(site.load(**engine.settings([(sizes.rate, sizes.seconds)]))))
                engine.drained()
        used = watch.taken()
    finally:
        for relay in relays:
            relay.end()
    found = {"alerts": [alerted(site.raw, turn, heard.alerts, turn.began_at + sizes.settle) for turn in sent["alerts"][1:]]}
    for relay in relays:
        markers = heard.markers[relay.topics[-1]]
        found[relay.name] = [delays(turn.markers, markers, turn.began_at + sizes.settle) for turn in sent[relay.name][1:]]
    return _beside(found) | {"cpu": used, "rate": sizes.rate, "markers_a_second": MARKERS}


def _beside(found: dict[str, list[list[float]]]) -> dict[str, Any]:
    """Figures of all turns; ratios are medians over turns."""
    out: dict[str, Any] = {}
    for share, name in ((0.5, "p50"), (0.99, "p99")):
        ours = [quantile(values, share) for values in found["alerts"]]
        for rival, label in (("blocks", "relay"), ("each", "relay_of_records")):
            theirs = [quantile(values, share) for values in found[rival]]
            out[f"ratio_to_{label}_{name}"] = round(statistics.median(a / b for a, b in zip(ours, theirs, strict=True)), 2)
    for name, turns in found.items():
        out["alerts" if name == "alerts" else f"relay_of_{name}"] = summary([value for values in turns for value in values])
    return out


def burst(engine: Engine, broker: int) -> dict[str, Any]:
    """A steady rate, ten times as much, and the steady rate again."""
    sizes, site = engine.sizes, engine.site
    calm = max(sizes.burst / 3, 3.0)
    phases = [(sizes.rate, calm), (10 * sizes.rate, sizes.burst), (sizes.rate, calm)]
    watch = Watch(engine.pids | {"broker": broker})
    with listening(site) as heard:
        sent = engine.account(site.load(**engine.settings(phases)))
        engine.drained()
    used = watch.taken()
    begin = sent.began_at + calm
    done = {name: engine.workers[name].done for name in ("ingest", "actor", "object")}
    return {
        "before": summary(alerted(site.raw, sent, heard.alerts, sent.began_at, begin)),
        "during_and_after": summary(alerted(site.raw, sent, heard.alerts, begin)),
        "events_in_burst": int(10 * sizes.rate * sizes.burst),
        "produced_late_by_seconds": round(sent.late, 2),
        "sent": engine.sent,
        # Fewer than were sent would have been waited for in vain, which ends the run; more are counted twice.
        "lost_or_doubled": sum(abs(engine.sent - engine.before.get(name, 0) - many) for name, many in done.items()),
        "handled": done,
        **used,
    }


async def _created(bootstrap: str, topics: list[str], partitions: int) -> None:
    admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap)
    await admin.start()
    try:
        await admin.create_topics([NewTopic(topic, partitions, 1) for topic in topics])
    finally:
        await admin.close()


async def _deleted(bootstrap: str, topics: list[str]) -> None:
    admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap)
    await admin.start()
    try:
        await admin.delete_topics(topics)
    finally:
        await admin.close()
