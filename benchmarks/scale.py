"""What identities cost: time per event as they grow in number, bytes each, a flood of new ones, and the kernels beside river.

``python -m benchmarks.scale [--json [FILE]] [--full]``; minutes, on one core. Events are made as columns, so that nothing is parsed.

``cost``    time per event at 1 k to 1 M identities, over that at 1 k; one hot set of 1,000 gives all but one event in fifty
``memory``  bytes at the largest of these, each with two pairs: of the tables by owner of the record, and of the process
``flood``   a million new identities in an hour, several times what the limits allow: what is forgotten, kept and said
``spread``  the stages' own time per event with the work spread over 1 to 8 partitions, ``recovery`` of a state, and the ``model`` of
            a site of up to a million events a second: see ``benchmarks.stages``
``speed``   river's HalfSpaceTrees (score, then learn; its features made beforehand) over the two visits' time on the same rows

Ratios are medians of rounds in which the rivals take turns; what comes before a round is not timed.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import platform
import resource
import statistics
import time
from collections.abc import Iterator, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
from river import anomaly

from benchmarks.throughput import BATCH
from connectors.alert import Alert
from connectors.event import DAY, HOUR, SECOND, Action, Basis, Block, Outcome, Stream
from connectors.names import Names
from connectors.sources import Decoded
from detector.config import parse
from detector.pipeline import Cores, Pipeline, quiet_collector
from detector.rows import rows_of
from models.kernels import FULLEST
from models.profiles import Table
from models.signals.river_detector import features

SIZES = (1_000, 10_000, 100_000, 1_000_000)
#: Midnight of a Monday, in microseconds.
START = 1_772_409_600 * SECOND
#: Of a thousand identities so many act; the others are acted upon. The first thousand are the hot set.
ACTING, HOT = 900, 1_000
#: One event in so many comes from anywhere in the population.
WIDE = 50
#: How fast the simulated site is.
EVENTS_A_DAY = 400_000


class Site:
    """Identities whose every act is known: actor i pulls or connects to two objects, the same ones at any size of the site."""

    def __init__(self, names: Names, identities: int) -> None:
        self.names = names
        self.acting = identities * ACTING // 1_000
        objects = identities - self.acting
        self._actors = np.array([names.passing(f"user:u{i}") for i in range(self.acting)], np.int32)
        # Even objects are hosts that are connected to, odd ones are models that are pulled.
        self._objects = np.array([names.passing(f"model:lab/m{i}" if i % 2 else f"host:h{i}") for i in range(objects)], np.int32)
        self._service = names.passing("tcp/443")
        self._clock = START
        self._draw = np.random.default_rng(1)

    def _block(self, actor: np.ndarray, which: np.ndarray, days: float) -> Block:
        """Each actor at one (0 or 1) of its objects, over so many days from where the last block ended."""
        n, hot = len(actor), HOT - ACTING
        spread = actor * 7 + which * 31 + 3
        target = np.where(actor < ACTING, spread % hot, spread % len(self._objects))
        model = target % 2 == 1
        size = self._draw.lognormal(14.0, 1.0, n)
        times = self._clock + np.sort(self._draw.random(n) * days * DAY).astype(np.int64)
        self._clock += int(days * DAY)
        return Block(
            self.names,
            "scale",
            {
                "time": times,
                "stream": np.where(model, Stream.registry, Stream.flow),
                "action": np.where(model, Action.pull, Action.connect),
                "outcome": np.where(self._draw.random(n) < 0.01, Outcome.denied, Outcome.ok),
                "actor": self._actors[actor],
                "object": self._objects[target],
                "detail": np.where(model, -1, self._service),
                "bytes_out": np.where(model, np.nan, size),
                "bytes_in": np.where(model, size, 1e3),
                "bytes_basis": np.where(model, Basis.object, Basis.payload),
                "record": np.arange(n),
            },
        )

    def everyone(self) -> list[Block]:
        """Every identity at both its objects, in two days."""
        order = self._draw.permutation(2 * self.acting)
        parts = np.array_split(order, max(len(order) // BATCH, 1))
        return [self._block(part // 2, part % 2, 2.0 / len(parts)) for part in parts]

    def day(self, events: int) -> list[Block]:
        """What goes on: the hot set by a Zipf law, and now and then anyone."""
        blocks = []
        for _ in range(events // BATCH):
            actor = np.floor(np.exp(self._draw.random(BATCH) * np.log(ACTING))).astype(np.int64) - 1
            anyone = self._draw.random(BATCH) < 1 / WIDE
            actor[anyone] = self._draw.integers(0, self.acting, np.count_nonzero(anyone))
            blocks.append(self._block(actor, self._draw.integers(0, 2, BATCH), BATCH / EVENTS_A_DAY))
        return blocks


def resident() -> int:
    """Bytes of memory of this process; where the system does not tell, the most it ever had."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if platform.system() == "Darwin" else 1024)
    return pages * resource.getpagesize()


def tables(cores: Cores) -> list[Table]:
    """All tables of profiles."""
    return [table for visit in (cores.actors, cores.objects) for table in visit.tables.values()]


def by_owner(cores: Cores) -> dict[str, dict[str, int]]:
    """Bytes of a record, records and bytes in all, by table and owner of the record, the largest first."""
    found = {}
    for table in tables(cores):
        sizes = {owner: kind.itemsize for owner, kind in table.records.items()} | {"protected": 1}
        for owner, size in sizes.items():
            found[f"{table.name}/{owner}"] = {"record": size, "records": table.used, "bytes": size * table.used}
        index = table.nbytes - table.used * sum(sizes.values())
        found[f"{table.name}/index"] = {"record": round(index / max(table.used, 1)), "records": table.used, "bytes": index}
    return dict(sorted(found.items(), key=lambda item: -item[1]["bytes"]))


def bound(cores: Cores) -> int:
    """The most bytes that tables may hold under their limits. An index makes room for a block before it is known how much is new."""
    most = 0
    for table in tables(cores):
        index = 2048
        while table.limit + BATCH > FULLEST * index:
            index *= 2
        most += table.limit * (1 + sum(kind.itemsize for kind in table.records.values())) + index * 12
    return most


def fold(cores: Cores, blocks: Sequence[Block]) -> float:
    """Seconds to fold them."""
    began = time.perf_counter()
    for block in blocks:
        cores.fold(block)
    return time.perf_counter() - began


def cost_and_memory(sizes: Sequence[int], events: int, rounds: int) -> tuple[dict[str, Any], dict[str, Any]]:
    """The first two figures. ``sizes`` ascending; ``events`` a round."""
    largest = sizes[-1]
    before = resident()
    sites = {largest: Site(Names(2 * largest), largest)}
    named = resident()
    cores = {largest: Cores(parse(""))}
    for block in sites[largest].everyone():
        cores[largest].fold(block)
    held = sum(table.nbytes for table in tables(cores[largest]))
    found = cores[largest].identities
    memory = {
        "identities": found,
        "pairs": cores[largest].objects.tables["pair"].used,
        "tables_gb": round(held / 1e9, 3),
        "bytes_per_identity": round(held / found),
        "rss_profiles_gb": round((resident() - named) / 1e9, 3),
        "rss_names_gb": round((named - before) / 1e9, 3),
        "rss_gb": round((resident() - before) / 1e9, 3),
        "by_owner": by_owner(cores[largest]),
    }
    for size in sizes[:-1]:
        sites[size], cores[size] = Site(Names(2 * size), size), Cores(parse(""))
        fold(cores[size], sites[size].everyone())
    seconds: dict[int, list[float]] = {size: [] for size in sizes}
    for round_ in range(rounds + 1):
        for size in sizes:
            taken = fold(cores[size], sites[size].day(events))
            if round_:  # the first one warms
                seconds[size].append(taken)
    done = events // BATCH * BATCH
    base = seconds[sizes[0]]
    cost = {
        str(size): {
            "microseconds_per_event": round(statistics.median(seconds[size]) / done * 1e6, 3),
            "ratio": round(statistics.median(a / b for a, b in zip(seconds[size], base, strict=True)), 3),
        }
        for size in sizes
    }
    return cost, memory


#: Identities that the flood must not wash away: one with a long habit, one seen once; and one that nobody asked to keep.
SERVING, RARE, STRANGER = "sa:prod/serving", "sa:prod/rare", "user:stranger"


class Flood:
    """Fourteen days of habits, then an hour of new identities, as a log whose names are passing."""

    path = "flood"

    def __init__(self, names: Names, identities: int) -> None:
        self.names = names
        self._identities = identities
        #: The most texts that the dictionary held.
        self.held = 0

    def pulls(self, time_: np.ndarray, actor: list[str], object_: list[str], first: int = 0) -> Block:
        """Pulls of a gigabyte each; names as ``kind:name``. ``first``: the number of the first record."""
        of = self.names.of
        coded = [[of(text.partition(":")[0])[text.partition(":")[2]] for text in texts] for texts in (actor, object_)]
        columns = {"time": time_, "stream": Stream.registry, "action": Action.pull, "outcome": Outcome.ok, "actor": coded[0]}
        more = {"object": coded[1], "bytes_in": 1e9, "bytes_basis": Basis.object, "record": first + np.arange(len(time_))}
        self.held = max(self.held, self.names.held)
        return Block(self.names, "flood", columns | more)

    def habits(self) -> list[Block]:
        """Every ten minutes one pull of ``SERVING`` and of fifty others; the seen once on the first day."""
        steps = 14 * 144
        time_ = START + np.repeat(np.arange(steps), 51) * 600 * SECOND + np.tile(np.arange(51), steps) * SECOND
        actor = [SERVING, *(f"user:u{i}" for i in range(50))] * steps
        object_ = ["model:prod/m", *(f"model:lab/m{i % 7}" for i in range(50))] * steps
        actor[60], actor[61] = RARE, STRANGER
        whole = self.pulls(time_, actor, object_)
        return [whole.take(slice(start, start + BATCH)) for start in range(0, len(whole), BATCH)]

    def __iter__(self) -> Iterator[Decoded]:
        begin = START + 14 * DAY
        for start in range(0, self._identities, BATCH):
            numbers = range(start, min(start + BATCH, self._identities))
            time_ = begin + (np.array(numbers) * (HOUR / self._identities)).astype(np.int64)
            objects = [f"model:open/m{i % 50}" for i in numbers]
            yield Decoded(self.pulls(time_, [f"user:new{i}" for i in numbers], objects, start))


def profile(cores: Cores, name: str) -> bytes:
    """All that is remembered of an actor by itself; b"" where nothing is."""
    names = Names()
    names.passing(name)
    table = cores.actors.tables["actor"]
    if not table.known(names.hashes)[0]:
        return b""
    slot = table.look(names.hashes)
    return b"".join(column[slot].tobytes() for column in table.columns.values())


def score_of(cores: Cores, log: Flood, actor: str, time_: int) -> float:
    """The score of the act that ``SERVING`` does all day, done by an actor."""
    scores: list[float] = []
    cores.fold(log.pulls(np.array([time_]), [actor], ["model:prod/m"]), lambda found: scores.extend(found.tolist()))
    return round(scores[0], 3)


def flood(identities: int, limit: int) -> dict[str, Any]:
    """The third figure. What the usual act scores after the flood stands beside what it scores at that time where there was none."""
    limits = f"[limits]\nactors = {limit}\nobjects = {limit}\nendpoints = {2 * limit}\npairs = {4 * limit}\n"
    config = parse(f'{limits}[identities]\nrestricted = ["sa:prod/*", "model:prod/*"]\n')
    cores, spared = Cores(config), Cores(config)
    names = Names(limit)
    log = Flood(names, identities)
    for block in log.habits():
        cores.fold(block)
        spared.fold(block)
    end = START + 14 * DAY
    before = score_of(cores, log, SERVING, end - SECOND)
    score_of(spared, log, SERVING, end - SECOND)
    kept = {name: profile(cores, name) for name in (SERVING, RARE, STRANGER)}
    # What the other figures held would else go while this one is taken.
    gc.collect()
    held, memory = sum(table.nbytes for table in tables(cores)), resident()
    alerts: list[Alert] = []
    pipeline = Pipeline(cores, names=names, on_alert=alerts.append)
    for _ in pipeline.run([log]):
        pass
    grown = resident() - memory
    notices = [notice for alert in alerts if "limit" in (notice := getattr(alert, "notice", ""))]
    after = end + HOUR + 600 * SECOND
    return {
        "identities": pipeline.tally.events,
        "limit": limit,
        "evicted": cores.actors.evicted + cores.objects.evicted,
        "tables_before_mb": round(held / 1e6, 1),
        "tables_after_mb": round(sum(table.nbytes for table in tables(cores)) / 1e6, 1),
        "tables_bound_mb": round(bound(cores) / 1e6, 1),
        "rss_growth_mb": round(grown / 1e6, 1),
        "profile_kept": {name: profile(cores, name) == kept[name] != b"" for name in kept},
        "usual_act_before": before,
        "usual_act_after": score_of(cores, log, SERVING, after),
        "usual_act_without_flood": score_of(spared, log, SERVING, after),
        "same_act_by_a_newcomer": score_of(cores, log, "user:newcomer", after + SECOND),
        "notices": len(notices),
        "notice": notices[0] if notices else "",
        "alerts": sum(alert.activity == "open" for alert in alerts) - len(notices),
        "names_limit": names.limit,
        "names_most_held": log.held,
        "names_restarts": names.epoch,
        "microseconds_per_event": round(pipeline.tally.seconds / identities * 1e6, 3),
    }


def dictionaries(block: Block, counts: np.ndarray) -> list[dict[str, float]]:
    """The rows as river sees them. ``counts``: what the actor's visit counted."""
    rows = rows_of(block, counts, {}, counts, np.ones(len(block)), np.zeros(len(block), np.bool_))
    return [features(rows, i) for i in range(len(block))]


def speed(identities: int, events: int, rounds: int) -> dict[str, Any]:
    """The fourth figure."""
    site, cores = Site(Names(), identities), Cores(parse(""))
    fold(cores, site.everyone())
    fold(cores, site.day(50_000))
    trees: Any = anomaly.HalfSpaceTrees(seed=1)
    ours, theirs = [], []
    for _ in range(rounds):
        blocks = site.day(events)
        sides = []
        began = time.perf_counter()
        for block in blocks:
            side = cores.actors.visit(block)
            for _found in cores.objects.visit(block, side):
                pass
            sides.append(side)
        ours.append(time.perf_counter() - began)
        given = [each for block, side in zip(blocks, sides, strict=True) for each in dictionaries(block, side.counts)]
        began = time.perf_counter()
        for each in given:
            trees.score_one(each)
            trees.learn_one(each)
        theirs.append(time.perf_counter() - began)
    done = events // BATCH * BATCH
    ratios = [b / a for a, b in zip(ours, theirs, strict=True)]
    return {
        "ratio_to_half_space_trees": round(statistics.median(ratios), 1),
        "ratio_least": round(min(ratios), 1),
        "microseconds_per_event": round(statistics.median(ours) / done * 1e6, 3),
        "microseconds_of_half_space_trees": round(statistics.median(theirs) / done * 1e6, 3),
        "signals": len(cores.config.signals),
        "events": done,
    }


def measure(
    sizes: Sequence[int] = SIZES, events: int = 100_000, rounds: int = 7, newcomers: int = 1_000_000, limit: int = 200_000
) -> dict[str, Any]:
    """All figures. ``events``: a round's; ``newcomers``: of the flood; ``limit``: of actors in it."""
    from benchmarks.stages import distributed  # which needs the sites of this module

    with quiet_collector():
        fold(Cores(parse("")), Site(Names(), 1_000).day(8 * BATCH))  # compiles
        cost, memory = cost_and_memory(sizes, events, rounds)
        return {
            "cost": cost,
            "memory": memory,
            "flood": flood(newcomers, limit),
            **distributed(sizes, events, rounds, memory["bytes_per_identity"]),
            "speed": speed(min(10_000, sizes[-1]), max(events // 6, BATCH), rounds),
            "machine": f"{platform.machine()} {platform.system()}, {os.cpu_count()} cores, Python {platform.python_version()}",
            "versions": {name: metadata.version(name) for name in ("numpy", "numba", "pyarrow", "river")},
        }


def lines(figures: dict[str, Any], before: str = "") -> Iterator[str]:
    """Figures as lines for people."""
    for name, value in figures.items():
        if isinstance(value, dict) and not {"record", "bytes"} <= value.keys():
            yield from lines(value, f"{before}{name}.")
        elif isinstance(value, dict):
            yield f"{before + name:60} {value['record']:4} B x {value['records']:9,} = {value['bytes'] / 1e6:8.1f} MB"
        else:
            yield f"{before + name:60} {value}"


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--full", action="store_true", help="a flood against limits of a million actors")
    parser.add_argument("--json", nargs="?", const="-", metavar="FILE", help="the figures as JSON, to a file, or alone to stdout")
    given = parser.parse_args()
    figures = measure(newcomers=1_500_000, limit=1_000_000) if given.full else measure()
    if given.json and given.json != "-":
        Path(given.json).write_text(json.dumps(figures), encoding="utf-8")
    print(json.dumps(figures) if given.json == "-" else "\n".join(lines(figures)))


if __name__ == "__main__":
    main()
