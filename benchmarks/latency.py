"""From a raw record's production to its alert, on a real broker, in good weather and in bad.

``python -m benchmarks.latency [--parts steady,burst,...] [--partitions N] [--quick] [--bootstrap HOST:PORT] [--json FILE]
[--plot FILE]``; minutes, on one machine: the broker, the load and our workers share its cores.

``steady``  an even rate, in turns with a bare relay of as many aiokafka hops (``benchmarks.kafka_live``): its ratio is of this run
``burst``   ten times as much, and the even rate again until all is drained
``crash``   one worker after the other is killed (-9) and started again while the load goes on
``late``    a third besides comes up to two lateness bounds behind its time, in no order
``poison``  as many records besides that no source can read: each a dead letter
``action``  on to containment: a responder that may do everything tells a receiver of each alert, by a signed call

Measured is from when the producer sends a record to when a consumer of ``tocsin.alerts`` has the alert that this record has opened:
each alert names it. That nothing is lost in such weather is not for here: the battery of ``pytest -m kafka`` counts every record.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import random
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import plotly.graph_objects as go  # type: ignore[import-untyped]
from aiokafka import AIOKafkaProducer

from benchmarks.kafka import PARTITIONS, QUICK, Sizes, about
from benchmarks.kafka_alerts import alerted, opened
from benchmarks.kafka_figures import delays, lines, quantile, summary
from benchmarks.kafka_live import MARKERS, SPEED, Engine, Relay, listening
from benchmarks.kafka_load import Load, Sent, Traffic
from benchmarks.kafka_site import Site, Watch, broker, loaded, loading, still
from benchmarks.latency_action import acting

PARTS = ("steady", "burst", "crash", "late", "poison", "action")
#: A load is over when no alert has come for so many seconds; after a crash a start of Python and a takeover lie between two. It ends in
#: any case after the third number: what has not come by then is not counted.
QUIET, QUIET_CRASH, LONGEST = 5.0, 30.0, 180.0
#: What no source can read, each of another kind.
POISON = (b"", b"{", b"\xff\xfe\x00", b'{"ts":"soon"}', b'{"ts":1e400}', b"[" * 2_000, b'{"a":' * 500)
#: Event time begins so long ago, in seconds, that no part comes to the present; and so old is what the responder is to act upon.
AGO, ACTED_AGE = 100 * 3600.0, 16 * 3600.0
#: Shares of the delays that are printed besides those of ``summary``, as quantiles.
TAIL = (0.9, 0.95, 0.999)


class Beside:
    """Produces something besides the load, ``rate`` records a second, for as long as it is open. ``sent``: how many."""

    def __init__(self, site: Site, rate: float, make: Callable[[float], bytes]) -> None:
        self.site, self.rate, self.make = site, rate, make
        self.sent = 0
        self._end = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()), daemon=True)

    def __enter__(self) -> Beside:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        self._thread.join()

    async def _run(self) -> None:
        producer = AIOKafkaProducer(bootstrap_servers=self.site.bootstrap, acks=1, linger_ms=5)
        await producer.start()
        began = time.monotonic()
        while not self._end.is_set():
            passed = time.monotonic() - began
            while self.sent < self.rate * passed:
                await producer.send(self.site.raw, self.make(passed), partition=self.sent % self.site.partitions)
                self.sent += 1
            await asyncio.sleep(0.02)
        await producer.stop()


def steady(engine: Engine, broker_pid: int) -> dict[str, Any]:
    """Ours and a relay's, in turns."""
    site, sizes = engine.site, engine.sizes
    relay = Relay(site, each=False)
    ours: list[float] = []
    theirs: list[float] = []
    watch = Watch(engine.pids | relay.pids | {"broker": broker_pid})
    try:
        with listening(site, [relay.topics[-1]]) as heard:
            turns: list[tuple[Sent, Sent]] = []
            for _ in range(sizes.turns):
                settings = engine.settings([(sizes.rate, sizes.seconds)], MARKERS) | {"first": 10_000_000 * engine.turn}
                load = Load(bootstrap=site.bootstrap, topic=relay.topics[0], partitions=site.partitions, **settings)
                relayed = loaded(loading(load))
                turns.append((relayed, engine.account(site.load(**engine.settings([(sizes.rate, sizes.seconds)])))))
            settled(site)
        used = watch.taken()
    finally:
        relay.end()
    for relayed, sent in turns:
        theirs += delays(relayed.markers, heard.markers[relay.topics[-1]], relayed.began_at + sizes.settle)
        ours += alerted(site.raw, sent, heard.alerts, sent.began_at + sizes.settle)
    ratios = {
        f"ratio_to_relay_{name}": round(quantile(ours, at) / quantile(theirs, at), 2) for name, at in (("p50", 0.5), ("p99", 0.99))
    }
    return told(ours) | ratios | {"relay": told(theirs), **used, "delays": ours, "relay_delays": theirs}


def weather(
    engine: Engine, phases: list[tuple[float, float]], during: Callable[[], None] | None = None, quiet: float = QUIET
) -> dict[str, Any]:
    """A load, with something that happens meanwhile."""
    with listening(engine.site) as heard:
        running = engine.site.loading(**engine.settings(phases))
        if during is not None:
            during()
        sent = engine.account(loaded(running))
        settled(engine.site, quiet)
    found = alerted(engine.site.raw, sent, heard.alerts)
    return told(found) | {"produced_late_by_seconds": round(sent.late, 2), "delays": found}


def told(found: list[float]) -> dict[str, Any]:
    """Percentiles, and of how many."""
    return summary(found) | {f"p{100 * share:g}_ms".replace(".", "_", 1): round(quantile(found, share) * 1000, 1) for share in TAIL}


def burst(engine: Engine, _: int) -> dict[str, Any]:
    """Ten times as much."""
    rate, calm = engine.sizes.rate, max(engine.sizes.burst / 3, 3.0)
    return weather(engine, [(rate, calm), (10 * rate, engine.sizes.burst), (rate, calm)])


def crash(engine: Engine, _: int) -> dict[str, Any]:
    """Each of the four workers is killed once."""
    names = list(engine.workers)
    # Each comes up before the next goes; a start takes seconds where cores are shared.
    seconds = max(engine.sizes.seconds, 5.0) * len(names)

    def during() -> None:
        for name in names:
            time.sleep(3.0)
            stages = engine.workers[name].stages
            engine.workers[name].kill()
            engine.site.workers.remove(engine.workers[name])
            engine.workers[name] = engine.site.start(name, *stages)

    return weather(engine, [(engine.sizes.rate / 2, seconds)], during, QUIET_CRASH)


def late(engine: Engine, _: int) -> dict[str, Any]:
    """A third besides is late and in no order."""
    draw, traffic = random.Random(7), Traffic(engine.sizes.identities, 777, engine.origin)
    bound = 2 * engine.site.config.time.lateness_minutes * 60

    def make(passed: float) -> bytes:
        return traffic.ordinary(max(engine.clock + passed * SPEED - draw.random() * bound, 0.0))

    with Beside(engine.site, engine.sizes.rate / 3, make) as beside:
        found = weather(engine, [(engine.sizes.rate, engine.sizes.seconds)])
    return found | {"late_records": beside.sent}


def poison(engine: Engine, _: int) -> dict[str, Any]:
    """As many records besides that cannot be read."""
    before = engine.site.ends(engine.site.topics.deadletter)
    with Beside(engine.site, engine.sizes.rate, lambda passed: POISON[int(passed * 1e6) % len(POISON)]) as beside:
        found = weather(engine, [(engine.sizes.rate, engine.sizes.seconds)])
    until = time.monotonic() + LONGEST
    while (letters := engine.site.ends(engine.site.topics.deadletter) - before) < beside.sent and time.monotonic() < until:
        time.sleep(1.0)
    return found | {"poison_records": beside.sent, "dead_letters": letters}


def action(engine: Engine, _: int) -> dict[str, Any]:
    """From the record to the call at the receiver."""
    # The responder acts on nothing that is a day old.
    engine.clock = max(engine.clock, time.time() - ACTED_AGE - engine.origin)
    with acting(engine.site) as called, listening(engine.site) as heard:
        sent = engine.account(engine.site.load(**engine.settings([(engine.sizes.rate, engine.sizes.seconds)])))
        settled(engine.site)
    site, begin = engine.site, sent.began_at + engine.sizes.settle
    alerts = alerted(site.raw, sent, heard.alerts, begin)
    calls = alerted(site.raw, sent, [(called[uid], text) for uid, text in opened(heard.alerts) if uid in called], begin)
    return told(calls) | {"alerts": told(alerts), "alerts_without_call": len(alerts) - len(calls), "delays": calls}


def settled(site: Site, quiet: float = QUIET) -> None:
    """Return when no alert has come for a while: everything that was produced is judged, or it will not be."""
    still(lambda: site.ends(site.topics.alerts), quiet, LONGEST)


RUN: dict[str, Callable[[Engine, int], dict[str, Any]]] = {
    "steady": steady,
    "burst": burst,
    "late": late,
    "poison": poison,
    "crash": crash,
    "action": action,
}


def measured(parts: set[str], sizes: Sizes, bootstrap: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """(part, figures with all delays), each as soon as it is there. The crash comes late: it leaves workers that are new."""
    with broker(bootstrap) as (address, pid), installed(address, sizes) as engine:
        for name, run in RUN.items():
            if name in parts:
                yield name, run(engine, pid)


@contextmanager
def installed(address: str, sizes: Sizes) -> Iterator[Engine]:
    """All stages, with some history behind them."""
    with Site(address, partitions=sizes.partitions, settings=sizes.settings) as site:
        engine = Engine(site, sizes, time.time() - AGO)
        engine.start()
        # The judges come last, and a short history gives them most to do.
        settled(site)
        yield engine


def plot(figures: dict[str, Any], path: Path) -> None:
    """How many alerts had come after so long, as one HTML file that loads nothing."""
    figure = go.Figure()
    for name in PARTS:
        for label, key in ((name, "delays"), (f"relay beside {name}", "relay_delays")):
            found = sorted(figures.get(name, {}).get(key, []))
            if found:
                share = [(place + 1) / len(found) for place in range(len(found))]
                figure.add_scatter(x=[1000 * each for each in found], y=share, mode="lines", name=label, line_shape="hv")
    figure.update_xaxes(type="log", title="milliseconds from the record's production to its alert")
    figure.update_yaxes(title="share of the alerts", tickformat=".0%")
    figure.update_layout(template="plotly_white", title=f"Tocsin, record to alert: {figures['machine']}")
    figure.write_html(path, include_plotlyjs=True, full_html=True)


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", default=",".join(PARTS), help="some of them, with commas between")
    parser.add_argument("--partitions", type=int, default=Sizes().partitions, help=PARTITIONS)
    parser.add_argument("--quick", action="store_true", help="small sizes, to see that it runs")
    parser.add_argument("--bootstrap", default="", help="a broker that runs already")
    parser.add_argument("--json", type=Path, help="write the figures and every delay to this file")
    parser.add_argument("--plot", type=Path, help="write a plot to this HTML file")
    given = parser.parse_args()
    parts = set(given.parts.split(","))
    if unknown := parts - set(PARTS):
        parser.error(f"--parts: no such part: {', '.join(sorted(unknown))}; there are {', '.join(PARTS)}")
    # It tells of every topic that is too new to have a leader yet.
    logging.getLogger("aiokafka").setLevel(logging.CRITICAL)
    figures: dict[str, Any] = about() | {"partitions": given.partitions}
    print("\n".join(lines(figures)))
    for part, found in measured(parts, (QUICK if given.quick else Sizes())._replace(partitions=given.partitions), given.bootstrap):
        figures[part] = found
        print("\n".join(lines({part: {name: value for name, value in found.items() if not name.endswith("delays")}})), flush=True)
    if given.json is not None:
        given.json.write_text(json.dumps(figures), encoding="utf-8")
    if given.plot is not None:
        plot(figures, given.plot)
    if unmeasured := [part for part in RUN if part in figures and not figures[part]["seen"]]:
        raise SystemExit(f"no alert was seen in {', '.join(unmeasured)}: nothing was measured there")


if __name__ == "__main__":
    main()
