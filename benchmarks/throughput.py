"""How fast Zeek JSON bytes become alerts on one core, beside bare ``orjson.loads`` of the same bytes into a list.

``python -m benchmarks.throughput [--records N] [--identities N] [--runs N] [--json]``: a detector learns one day of records and is then
measured on the days that follow, in turn with parsing alone, in one process; ratios are medians over the days, and 1.0 means: as fast
as only parsing.

``ratio_to_orjson``          a detector at work; parsed records are all kept in one list, as by a program that reads the file
``ratio_to_orjson_batches``  the same, but parsing lets go of each batch: the least that it can cost
``ratio_to_orjson_cold``     the first day: nothing is known, every identity and pair is new once (against the same list)
"""

from __future__ import annotations

import argparse
import cProfile
import json
import os
import platform
import pstats
import statistics
import sys
import time
from collections.abc import Iterator
from importlib import metadata

import numpy as np
import orjson

from connectors.names import Names
from connectors.sources import Decoded
from connectors.sources.zeek_conn import ZeekConn
from detector.config import parse
from detector.pipeline import Cores, Log, Pipeline, quiet_collector

BATCH = 4096


def records(many: int, identities: int, day: int = 0) -> list[bytes]:
    """Zeek conn records of 500-550 bytes: actors and objects of a Zipf law over ``identities`` addresses, one simulated day."""
    draw = np.random.default_rng([1, day])
    who = np.random.default_rng(1)
    order = who.permutation(identities), who.permutation(identities)

    def zipf(place: int) -> np.ndarray:
        ranks = np.floor(np.exp(draw.random(many) * np.log(identities))).astype(np.int64) - 1
        drawn: np.ndarray = order[place][ranks % identities]
        return drawn

    actors, objects = zipf(0), zipf(1) % max(identities // 10, 1)
    times = 1_772_409_600.0 + day * 86_400.0 + np.sort(draw.random(many)) * 86_400.0
    ports = draw.choice([443, 53, 5000, 2049, 9100, 6443], many)
    sent, got = (draw.lognormal(7, 2, many).astype(np.int64) for _ in range(2))
    lasting = draw.exponential(0.5, many)
    out = []
    for i in range(many):
        a, o = int(actors[i]), int(objects[i])
        out.append(
            orjson.dumps(
                {
                    "ts": float(times[i]),
                    "uid": f"C{i:017d}",
                    "id.orig_h": f"10.{a >> 16 & 255}.{a >> 8 & 255}.{a & 255}",
                    "id.orig_p": 32768 + i % 28000,
                    "id.resp_h": f"10.200.{o >> 8 & 255}.{o & 255}",
                    "id.resp_p": int(ports[i]),
                    "proto": "tcp",
                    "service": "ssl",
                    "duration": float(lasting[i]),
                    "orig_bytes": int(sent[i]),
                    "resp_bytes": int(got[i]),
                    "conn_state": "SF",
                    "local_orig": True,
                    "local_resp": True,
                    "missed_bytes": 0,
                    "history": "ShADadFf",
                    "orig_pkts": 12,
                    "orig_ip_bytes": int(sent[i]) + 480,
                    "resp_pkts": 14,
                    "resp_ip_bytes": int(got[i]) + 560,
                    "community_id": "1:2qWLu47P6NdE990W5Qp7f5erols=",
                    "orig_l2_addr": "00:0d:3a:13:e3:69",
                    "resp_l2_addr": "12:34:56:78:9a:bc",
                    "ip_proto": 6,
                }
            )
        )
    return out


class Lines:
    """Raw records in memory as a log."""

    path = "benchmark"

    def __init__(self, lines: list[bytes], source: ZeekConn) -> None:
        self._lines = lines
        self._source = source

    def __iter__(self) -> Iterator[Decoded]:
        for start in range(0, len(self._lines), BATCH):
            decoded = self._source.decode(self._lines[start : start + BATCH])
            decoded.block.record += start
            yield decoded


class Detector:
    """The whole embedded path, with what it has learned so far."""

    def __init__(self) -> None:
        self.names = Names()
        self.source = ZeekConn(self.names)
        self.cores = Cores(parse(""))
        self.alerts = 0

    def seconds(self, lines: list[bytes]) -> float:
        """How long it takes from bytes to alerts."""
        logs: list[Log] = [Lines(lines, self.source)]
        pipeline = Pipeline(self.cores, names=self.names)
        with quiet_collector():
            began = time.perf_counter()
            for _ in pipeline.run(logs):
                pass
            taken = time.perf_counter() - began
        self.alerts += pipeline.tally.alerts
        return taken


def bare(lines: list[bytes], held: int) -> float:
    """Seconds of ``orjson.loads`` into a list of ``held`` records at a time, under Python's own settings for its collector."""
    seconds = 0.0
    for start in range(0, len(lines), held):
        began = time.perf_counter()
        kept = [orjson.loads(line) for line in lines[start : start + held]]
        seconds += time.perf_counter() - began
        del kept
    return seconds


def measure(many: int, identities: int, runs: int) -> dict[str, object]:
    """The figures of the benchmark."""
    lines = records(many, identities)
    Detector().seconds(lines[:20_000])  # compiles
    detector = Detector()
    cold = bare(lines, many) / detector.seconds(lines)
    ours, listed, batches = [], [], []
    for day in range(1, runs + 1):
        lines = records(many, identities, day)
        listed.append(bare(lines, many))
        ours.append(detector.seconds(lines))
        batches.append(bare(lines, BATCH))
    ratios = [b / a for a, b in zip(ours, listed, strict=True)]
    cores = detector.cores
    held = cores.actors.nbytes() + cores.objects.nbytes()
    return {
        "ratio_to_orjson": round(statistics.median(ratios), 3),
        "ratio_least": round(min(ratios), 3),
        "ratio_most": round(max(ratios), 3),
        "ratio_to_orjson_batches": round(statistics.median(b / a for a, b in zip(ours, batches, strict=True)), 3),
        "ratio_to_orjson_cold": round(cold, 3),
        "microseconds_per_event": round(statistics.median(ours) / many * 1e6, 3),
        "microseconds_per_orjson_loads": round(statistics.median(listed) / many * 1e6, 3),
        "events_per_second": round(many / statistics.median(ours)),
        "bytes_per_record": round(statistics.mean(len(line) for line in lines[:1000]), 1),
        "records": many,
        "identities": cores.identities,
        "pairs": cores.objects.tables["pair"].used,
        "bytes_per_identity": round(held / cores.identities),
        "alerts": detector.alerts,
        "machine": f"{platform.machine()} {platform.system()}, {os.cpu_count()} cores, Python {platform.python_version()}",
        "versions": {name: metadata.version(name) for name in ("orjson", "msgspec", "numpy", "numba", "pyarrow")},
    }


def profile(many: int, identities: int) -> None:
    """Where the time of the second day goes, by function."""
    detector = Detector()
    detector.seconds(records(many, identities))
    lines = records(many, identities, 1)
    profiler = cProfile.Profile()
    profiler.runcall(detector.seconds, lines)
    pstats.Stats(profiler, stream=sys.stdout).sort_stats("tottime").print_stats(25)


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--records", type=int, default=300_000)
    parser.add_argument("--identities", type=int, default=100_000)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--profile", action="store_true", help="print where the time goes instead")
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    if given.profile:
        profile(given.records, given.identities)
        return
    figures = measure(given.records, given.identities, given.runs)
    if given.json:
        print(json.dumps(figures))
        return
    for name, value in figures.items():
        print(f"{name:32} {value}")


if __name__ == "__main__":
    main()
