"""How long containment takes: an alert taken to the call issued, and to the effect verified; and what the ledger's rows cost of it.

Run as ``python -m benchmarks.containment [--database URL]``. Each adapter is rehearsed on the target it ships
with, in this process, so the figures are ours without the network and the target: what a real one adds is its own.
Beside each figure stands the same
without us: the bare answer of the same target to one request, one row inserted into the same database and committed.

From the topic of alerts, through a responder's process on a real broker: ``benchmarks.containment_kafka``.
"""

from __future__ import annotations

import argparse
import platform
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import sqlalchemy as sa
from msgspec.structs import replace

from connectors import ocsf
from connectors.alert import Alert
from connectors.containment import Action, Adapter, available
from connectors.decision import made
from connectors.event import SECOND
from detector.decide import decide
from detector.history import Entry, History
from detector.ledger import Ledger
from detector.policy import Breaker, Measure, Respond, Rule
from detector.respond import Responder
from detector.wishes import Policy

#: Enough for a p99 of two, few enough for a minute in all.
ALERTS = 200


class Times(NamedTuple):
    """Seconds from a record in hand to the call of ``apply``, and to the row that says how it ended."""

    issued: list[float]
    ended: list[float]


def alert(number: int, target: str, uid: str = "") -> Alert:
    """A grave alert of now on one target."""
    now = int(time.time() * SECOND)
    return Alert(
        uid=uid or f"bench-{number}",
        revision=1,
        activity="open",
        time=now,
        opened=now,
        first=now,
        last=now,
        blamed=target,
        role="actor",
        principals=[target],
        targets=[target],
        score=12.0,
        threshold=9.0,
        evidence_now=30.0,
        evidence_peak=30.0,
        severity=5,
        events=3,
        partners=2,
        signals=["actor_rarity", "egress"],
        streams=["flow"],
        actions=["pull"],
        evidence=[],
        probation=False,
    )


def policy(verb: str) -> Respond:
    """Everything allowed: what is measured is the way, not the stops."""
    measure = Measure(verb=verb, mode="enforce", max_per_hour=10_000, max_concurrent=10_000, cooldown_seconds=0)
    rules = [Rule(name="bench", actions=[measure])]
    return Respond(
        mode="enforce", max_per_hour=10_000, max_concurrent=10_000, protect_system=False, breaker=Breaker(wrong=1_000), rules=rules
    )


def timed(adapter: Adapter, issued: list[float]) -> Adapter:
    """The adapter, noting when ``apply`` is called."""
    whole: Callable[[Action], Any] = adapter.apply

    def apply(action: Action) -> Any:
        issued.append(time.perf_counter())
        return whole(action)

    adapter.apply = apply  # type: ignore[method-assign]
    return adapter


def run(name: str, verb: str, target: str, open_ledger: Callable[[], Ledger]) -> Times:
    """One alert after another, each taken back before the next, on a target made anew each time."""
    found = Times([], [])
    with open_ledger() as ledger:
        for number in range(ALERTS):
            calls: list[float] = []
            adapter = timed(available()[name].rehearsal().adapter, calls)
            responder = Responder(policy(verb), [adapter], ledger)
            record = ocsf.encode(alert(number, target), "bench")
            start = time.perf_counter()
            responder.handle(ocsf.alert_of(record))
            end = time.perf_counter()
            for hold in list(ledger.history.holds.values()):
                responder.hear(made(hold.entry.action, "release", "user:bench", ledger.history.now), ledger.history.now)
            found.ended.append(end - start)
            found.issued.extend(call - start for call in calls[:1])
            responder.close()
    return found


def deciding(rows: int) -> list[float]:
    """Seconds that the kernel takes over one alert, with so many earlier alerts in the history."""
    ready, history = Policy(policy("isolate_pod")), History()
    for number in range(rows):
        target = f"pod:a/p{number}"
        entry = Entry(
            time=number,
            alert=f"a{number}",
            revision=1,
            action=f"x{number}",
            verb="isolate_pod",
            target=target,
            owners=[],
            rule="bench",
            step="decided",
            mode="enforce",
            result="observed",
            reason="",
        )
        history.add(entry)
    found = []
    for number in range(1_000):
        one = alert(number, "pod:team-a/p")
        start = time.perf_counter()
        decide(one, ready, history, one.time)
        found.append(time.perf_counter() - start)
    return found


def show(what: str, seconds: list[float], reference: list[float] | None = None) -> None:
    """p50 and p99 in milliseconds, and how many times the reference's p50."""
    if seconds:
        p50, p99 = np.percentile(np.array(seconds) * 1000.0, [50, 99])
        times = f"   {p50 / (float(np.median(reference)) * 1000.0):7.1f} x the reference" if reference else ""
        print(f"{what:58} p50 {p50:8.3f} ms   p99 {p99:8.3f} ms   n {len(seconds)}{times}")


def bare_rows(url: str) -> list[float]:
    """Seconds that one row takes, inserted and committed, without chain or meaning."""
    engine = sa.create_engine(url)
    rows = sa.Table("bench_bare", sa.MetaData(), sa.Column("seq", sa.Integer, primary_key=True), sa.Column("text", sa.Text))
    found = []
    try:
        rows.create(engine)
        for number in range(ALERTS):
            start = time.perf_counter()
            with engine.begin() as connection:
                connection.execute(rows.insert().values(seq=number, text="x" * 600))
            found.append(time.perf_counter() - start)
        rows.drop(engine)
    finally:
        engine.dispose()
    return found


def bare_calls(name: str, verb: str, target: str) -> list[float]:
    """Seconds that the adapter's own ``verify`` takes on its target: one question and its answer, without kernel, rows or retries."""
    adapter = available()[name].rehearsal().adapter
    action = Action(id="bench", verb=verb, target=target)
    ready = adapter.prepare(action)
    action = replace(action, snapshot=ready.snapshot)
    adapter.apply(action)
    found = []
    for _ in range(ALERTS):
        start = time.perf_counter()
        adapter.verify(action)
        found.append(time.perf_counter() - start)
    adapter.close()
    return found


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--database", help="SQLAlchemy URL of an empty database, to compare with SQLite")
    given = parser.parse_args()
    print(f"{platform.machine()}, {platform.python_implementation()} {platform.python_version()}, SQLAlchemy {sa.__version__}")
    show("the kernel alone, empty history", deciding(0))
    show("the kernel alone, 10,000 alerts before", deciding(10_000))
    with tempfile.TemporaryDirectory() as folder:
        kinds: dict[str, Callable[[], Ledger]] = {
            "memory": Ledger,
            "SQLite": lambda: Ledger.at(Path(folder) / f"{time.monotonic_ns()}"),
        }
        single = {"SQLite": bare_rows(f"sqlite:///{folder}/bare")}
        if given.database:
            kinds["database"] = lambda: Ledger(given.database)
            single["database"] = bare_rows(given.database)
        for kind, open_ledger in kinds.items():
            show(f"{kind}: one bare row, inserted and committed", single.get(kind, []))
            times = run("lab", "isolate_pod", "pod:team-a/trainer-0", open_ledger)
            show(f"ledger in {kind}: record to call issued", times.issued, single.get(kind))
            show(f"ledger in {kind}: record to effect verified", times.ended, single.get(kind))
        for name, adapter in available().items():
            targets = adapter.rehearsal().targets
            for verb in adapter.verbs:
                if verb.destructive or not targets.get(verb.name):
                    continue
                calls = bare_calls(name, verb.name, targets[verb.name][0])
                show(f"{name} {verb.name}: a bare look at the target", calls)
                times = run(name, verb.name, targets[verb.name][0], kinds["SQLite"])
                show(f"{name} {verb.name}: record to call issued", times.issued, calls)
                show(f"{name} {verb.name}: record to effect verified", times.ended, calls)


if __name__ == "__main__":
    main()
