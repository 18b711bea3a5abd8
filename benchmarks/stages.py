"""What the stages cost when the work is spread over partitions, what a takeover costs, and what a million events a second would need.

All stages run in this process, one after the other, on the very messages that they would send through the broker; so what is measured
is our code and not the broker, and every partition's share is known although there are not as many cores.
"""

from __future__ import annotations

import statistics
import time
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

from benchmarks.scale import START, Site
from benchmarks.throughput import BATCH
from connectors.names import Names
from connectors.sources import available
from detector.checkpoint import meaning
from detector.config import Config, parse
from detector.router import by_actor
from detector.singles import STAGES
from detector.snapshot import Snapshot, restore
from detector.stage import Shared, Stage

PARTITIONS = (1, 2, 4, 8)
#: In the order in which a record passes them. ``ingest``: decoding and spreading.
ORDER = ("ingest", "actor", "object", "fuse")
#: Flows as a sensor writes them; the values vary where decoding would notice.
RECORD = (
    '{{"ts":{ts:.6f},"uid":"C{n}","id.orig_h":"10.1.{a}.{b}","id.orig_p":{p},"id.resp_h":"10.2.0.{c}","id.resp_p":443,"proto":"tcp",'
    '"service":"ssl","duration":0.25,"orig_bytes":{o},"resp_bytes":2950,"conn_state":"SF"}}'
)
#: Of the model: events a second, how busy a core may be kept, copies of each log.
RATES, BUSY, COPIES = (10_000, 100_000, 1_000_000), 0.6, 3


class Line:
    """All stages of ``many`` partitions, with what each took: seconds and bytes, by stage and partition."""

    def __init__(self, config: Config, many: int) -> None:
        self.many = many
        self.stages: dict[str, list[Stage]] = {
            name: [STAGES[name](config, partition, many, Shared(many)) for partition in range(many)] for name in ORDER[1:]
        }
        self.seconds: dict[str, list[float]] = {name: [0.0] * many for name in ORDER}
        self.sent: dict[str, int] = defaultdict(int)
        self.alerts = 0

    def take(self, messages: list[tuple[int, bytes]]) -> None:
        """Pass messages for the actors' visits through all stages."""
        outs = messages
        for name, writes in (("actor", "by_object"), ("object", "evidence"), ("fuse", "alerts")):
            found, outs = outs, []
            self.sent[name] += sum(len(data) for _, data in found)
            for partition, data in found:
                stage = self.stages[name][partition]
                began = time.perf_counter()
                taken = stage.take(data, stage.applied)
                sent = [*taken.outs, *stage.shared.flush()]
                self.seconds[name][partition] += time.perf_counter() - began
                self.alerts += len(taken.alerts)
                outs += [(out.partition or 0, out.value) for out in sent if out.topic == writes]


def decoding(events: int) -> float:
    """Seconds per event of decoding flows."""
    names = Names()
    source = available()["zeek_conn"](names)
    seconds = 0.0
    for start in range(0, events, BATCH):
        numbers = range(start, start + BATCH)
        records = [
            RECORD.format(ts=START / 1e6 + n / 10, n=n, a=n % 7, b=n % 251, p=1024 + n % 60_000, c=n % 97, o=n % 5_000).encode()
            for n in numbers
        ]
        began = time.perf_counter()
        source.decode(records)
        seconds += time.perf_counter() - began
    return seconds / (len(range(0, events, BATCH)) * BATCH)


def spread(partitions: Sequence[int], identities: int, events: int, rounds: int) -> dict[str, Any]:
    """By number of partitions: microseconds per event by stage (sum over partitions), the busiest partition's share of it times their
    number (1 = even), bytes per event of each log, and what all of it costs against one partition (median of rounds taken in turns)."""
    lines = {many: Line(parse(""), many) for many in partitions}
    sites = {many: Site(Names(2 * identities), identities) for many in partitions}
    took: dict[int, list[float]] = {many: [] for many in partitions}
    done, records = 0, dict.fromkeys(partitions, 0)
    for round_ in range(rounds + 1):
        for many, line in lines.items():
            blocks = sites[many].everyone() if round_ == 0 else sites[many].day(events)
            if round_ == 1:
                line.seconds = {name: [0.0] * many for name in ORDER}
                line.sent.clear()
            before = sum(map(sum, line.seconds.values()))
            for block in blocks:
                block.record += records[many]
                records[many] += len(block)
                began = time.perf_counter()
                messages = by_actor(block, ("raw-0@id",), 0, many)
                line.seconds["ingest"][0] += time.perf_counter() - began
                line.take(messages)
            if round_:
                took[many].append(sum(map(sum, line.seconds.values())) - before)
        done += events // BATCH * BATCH if round_ else 0
    base = took[partitions[0]]
    return {
        str(many): {
            "microseconds_per_event": {name: round(sum(line.seconds[name]) / done * 1e6, 2) for name in ORDER},
            "busiest": {
                name: round(max(line.seconds[name]) * many / total, 2) if (total := sum(line.seconds[name])) else 1.0
                for name in ORDER[1:]
            },
            "bytes_per_event": {name: round(line.sent[name] / done, 1) for name in ORDER[1:]},
            "ratio_to_one": round(statistics.median(a / b for a, b in zip(took[many], base, strict=True)), 2),
        }
        for many, line in lines.items()
    }


def recovery(identities: int) -> dict[str, Any]:
    """A state of the actors' visits: copied, and opened by another process. Without the broker."""
    config = parse("")
    site = Site(Names(2 * identities), identities)
    stage = STAGES["actor"](config, 0, 1, Shared(1, 4 * identities))
    records = 0
    for block in site.everyone():
        block.record += records
        records += len(block)
        for _, data in by_actor(block, ("raw-0@id",), 0, 1):
            stage.take(data, stage.applied)
            stage.shared.flush()
    began = time.perf_counter()
    state = dict(Snapshot(stage, meaning(config), {}).records())
    copied = time.perf_counter() - began
    fresh = STAGES["actor"](config, 0, 1, Shared(1, 4 * identities))
    began = time.perf_counter()
    restore(fresh, state, meaning(config))
    opened = time.perf_counter() - began
    held = fresh.tables()[0].used
    return {
        "identities": held,
        "state_mb": round(sum(map(len, state.values())) / 1e6, 1),
        "copied_identities_per_second": round(held / copied),
        "opened_identities_per_second": round(held / opened),
    }


def model(found: dict[str, Any], decode_us: float, bytes_per_identity: float) -> dict[str, Any]:
    """What a site of each rate needs, from the figures of the most partitions measured. Assumed: costs per event stay what they are (no
    stage knows of the others' partitions but by the length of a message), a core is kept busy to ``BUSY``, partitions are as uneven as
    here, brokers keep ``COPIES`` of each log, raw records are 400 bytes compressed to a quarter."""
    most = found[max(found, key=int)]
    cost = dict(most["microseconds_per_event"])
    cost["ingest"] += decode_us
    plan = {}
    for rate in RATES:
        busy = {name: rate * us / 1e6 / BUSY for name, us in cost.items()}
        # A partition is one thread's: what the busiest has to do must fit.
        needed = {name: max(1, round(busy[name] * most["busiest"].get(name, 1.0) + 0.5)) for name in cost}
        through = 100.0 + sum(most["bytes_per_event"].values())
        plan[str(rate)] = {
            "cores": round(sum(busy.values()), 1),
            "partitions_at_least": max(needed.values()),
            "broker_mb_per_second_written": round(rate * through * COPIES / 1e6, 1),
            "memory_gb_per_million_identities": round(bytes_per_identity * 1e6 / 1e9, 2),
        }
    return {"cost_us": {name: round(us, 2) for name, us in cost.items()}, "at_events_per_second": plan}


def distributed(sizes: Sequence[int], events: int, rounds: int, bytes_per_identity: float) -> dict[str, Any]:
    """``spread``, ``recovery`` and ``model``. ``events``: a round's; ``bytes_per_identity``: as measured."""
    found = spread(PARTITIONS, min(10_000, sizes[-1]), events, rounds)
    decode_us = decoding(events) * 1e6
    return {"spread": found, "recovery": recovery(sizes[-1]), "model": model(found, decode_us, bytes_per_identity)}
