"""The distributed engine on a real broker, each figure beside its reference in the same run.

``python -m benchmarks.kafka [--parts ingest,visits,...] [--partitions N] [--quick] [--bootstrap HOST:PORT] [--json]``; minutes, on
one machine: the broker, the load and our workers share its cores. Without ``--bootstrap`` a broker is started
(``python -m tests.broker``).

``ingest``       raw records to blocks: events a second of processor, over those of a bare aiokafka ``getmany`` over the same topic
``visits``       the two visits of scoring, likewise, over a Faust agent that takes one event at a time and does nothing
``workers``      two workers of a stage beside one
``latency``      raw record to alert at 5,000 events a second, over a relay with as many hops of aiokafka, in turns
``burst``        ten times as much for half a minute: how late alerts come until it is drained, and what is lost
``recovery``     opening the states of a million identities
``checkpoints``  keeping them under load: bytes, how long nothing else is done, evidence meanwhile, SIGTERM

Seconds of processor are those of whole processes, so that other work on the machine changes ratios little; ``cores_to_others`` says how
much of it there was. Delays have no such defence.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import platform
import sys
from collections.abc import Iterator
from importlib import metadata
from typing import Any, NamedTuple

from benchmarks import kafka_live, kafka_parts, kafka_state
from benchmarks.kafka_figures import lines
from benchmarks.kafka_site import Site, broker

PARTS = ("ingest", "visits", "workers", "latency", "burst", "recovery", "checkpoints")
#: Those that need the records, and what another has left.
ON_RECORDS, LIVE, KEPT = PARTS[:3], PARTS[3:5], PARTS[5:]
#: What is said of an argument.
PARTITIONS = "of every topic; as many as cores, at most four, if not given"


class Sizes(NamedTuple):
    """How much is done. ``records``: raw ones; ``agent``: of them for the Faust agent; ``identities``: in them. ``rate``: events a
    second of the live parts, ``history``: events before; ``seconds``: of a turn of each rival, ``turns``: how many; ``burst``: seconds.
    ``kept``: identities of the states; ``loaded``: seconds of load on them; ``partitions``: of every topic. ``budget``: alerts a day of
    event time, which runs; far more than anyone reads, and no more than it takes to have some to measure, for what is remembered of
    suspects is what judges and their checkpoints cost."""

    records: int = 1_500_000
    agent: int = 120_000
    identities: int = 20_000
    rate: float = 5_000.0
    history: int = 1_900_000
    seconds: float = 60.0
    turns: int = 3
    burst: float = 30.0
    kept: int = 1_000_000
    loaded: float = 180.0
    partitions: int = min(os.cpu_count() or 1, 4)
    budget: int = 300

    @property
    def settings(self) -> dict[str, str]:
        """Of a site's configuration."""
        return {"budget.alerts_per_day": str(self.budget)}

    @property
    def settle(self) -> float:
        """Seconds of a turn that are not counted: who had nothing to do since the last one has checkpoints to take, caches to fill."""
        return min(self.seconds / 4, 8.0)


#: To see that everything runs: the figures mean little.
QUICK = Sizes(300_000, 30_000, 5_000, 2_000.0, 100_000, 8.0, 1, 5.0, 30_000, 15.0, budget=1_000)


def measured(parts: set[str], sizes: Sizes, bootstrap: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """(part, figures), each as soon as it is there."""
    with broker(bootstrap) as (address, pid):
        if parts & set(ON_RECORDS):
            with Site(address, partitions=sizes.partitions) as site:
                kafka_parts.prepared(site, sizes.records, sizes.identities)
                if parts & {"ingest", "visits"}:
                    yield "ingest", kafka_parts.ingest(site, sizes.records, pid)
                if "visits" in parts:
                    yield "visits", kafka_parts.visits(site, sizes.records, sizes.agent, pid)
                if "workers" in parts:
                    yield "workers", kafka_parts.workers(site, sizes.records)
        if parts & set(LIVE):
            yield from kafka_live.measured(address, pid, sizes, parts)
        if parts & set(KEPT):
            yield from kafka_state.measured(address, pid, sizes, parts)


def about() -> dict[str, Any]:
    """The machine and the versions."""
    names = ("aiokafka", "faust-streaming", "pyarrow", "numpy", "numba", "msgspec")
    return {
        "machine": f"{platform.machine()} {platform.system()}, {os.cpu_count()} cores, Python {platform.python_version()}",
        "load_average": [round(each, 1) for each in os.getloadavg()],
        "versions": {name: metadata.version(name) for name in names},
    }


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", default=",".join(PARTS), help="some of them, with commas between")
    parser.add_argument("--partitions", type=int, default=Sizes().partitions, help=PARTITIONS)
    parser.add_argument("--quick", action="store_true", help="small sizes, to see that it runs")
    parser.add_argument("--bootstrap", default="", help="a broker that runs already")
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    parts = set(given.parts.split(","))
    if unknown := parts - set(PARTS):
        parser.error(f"--parts: no such part: {', '.join(sorted(unknown))}; there are {', '.join(PARTS)}")
    # It tells of every topic that is too new to have a leader yet.
    logging.getLogger("aiokafka").setLevel(logging.CRITICAL)
    figures: dict[str, Any] = about() | {"partitions": given.partitions}
    if not given.json:
        print("\n".join(lines(figures)))
    for part, found in measured(parts, (QUICK if given.quick else Sizes())._replace(partitions=given.partitions), given.bootstrap):
        figures[part] = found
        if not given.json:
            print("\n".join(lines({part: found})), flush=True)
    if given.json:
        json.dump(figures, sys.stdout)
        print()


if __name__ == "__main__":
    main()
