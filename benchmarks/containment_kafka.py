"""From the topic of alerts to the call and to the verified effect, for every verb of every adapter: a responder's process on a real
broker, acting on the fakes that ship with the adapters (over HTTP), and on the real Keycloak and kube-apiserver.

Run as ``python -m benchmarks.containment_kafka [--bootstrap HOST:PORT] [--quick] [--json FILE] [--without-real]``; without a broker one
is started, for as long as it runs. Alerts come one after another, each on a target of its own, round about the verbs.
Two people's word, which verbs that destroy wait for, is taken away: the way is measured, not people. All other rules are asked.
"seen" is the row that says how the look at the effect ended: "verified", or "unverified" for what no adapter can see. Both times run
from just before the alert is produced, by this machine's wall clock.
"""

from __future__ import annotations

import argparse
import asyncio
import copy
import json
import os
import platform
import re
import subprocess
import sys
import tempfile
import time
import uuid
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from msgspec.structs import replace

from connectors import ocsf
from connectors.cluster import create
from connectors.containment import Action, Adapter, Applied, available
from connectors.containment.lab import Lab, LabSettings
from connectors.event import SECOND
from connectors.kafka import Kafka
from connectors.topics import ALERTS_SCHEMA, Topics
from detector.claim import LedgerFailed
from detector.ledger import Ledger
from replay.cli import app

#: Between two alerts, in seconds: each is over before the next, so that the way is measured and no queue.
PAUSE = 0.05
#: Longest that the next alert waits for the end of the one before: an effect that shows only later holds up no other.
STUCK = 2.0
#: Longest that the last effect is waited for, in seconds: pods have 30 to end, caches 11 to forget.
PATIENCE = 120.0

POLICY = """
[kafka]
bootstrap = ["{bootstrap}"]
prefix = "{prefix}"
[respond]
mode = "enforce"
max_per_hour = 10000
max_concurrent = 10000
protect_system = false
breaker = {{ wrong = 1000, window_seconds = 60 }}
[respond.ledger]
url = "sqlite:///{folder}/ledger"
"""
RULE = """
[[respond.rules]]
name = "{verb}"
match = {{ signals = ["{verb}"] }}
actions = [{{ verb = "{verb}", mode = "enforce", max_per_hour = 10000, max_concurrent = 10000, cooldown_seconds = 0 }}]
"""


class Row(NamedTuple):
    """One verb on one kind of target. Seconds from the alert's producing."""

    where: str
    adapter: str
    verb: str
    issued: list[float]
    seen: list[float]
    #: How the look ended -> how often.
    ended: dict[str, int]


def toml(value: Any) -> str:
    """A value as TOML writes it in one line."""
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{json.dumps(key)} = {toml(one)}" for key, one in value.items()) + " }"
    return json.dumps(value)


async def responded(bootstrap: str, folder: Path, where: str, stages: dict[str, Any], environment: dict[str, str]) -> list[Row]:
    """The figures of one responder that has all these adapters. ``stages``: adapter -> its settings and targets."""
    prefix = f"b{uuid.uuid4().hex[:8]}"
    await create(Kafka(bootstrap=[bootstrap], prefix=prefix))
    config = folder / "respond.toml"
    tables = "".join(
        f"[respond.adapters.{name}]\n" + "".join(f"{key} = {toml(value)}\n" for key, value in stage.settings.items())
        for name, stage in stages.items()
    )
    verbs = {verb: name for name, stage in stages.items() for verb in stage.targets}
    rules = "".join(RULE.format(verb=verb) for verb in verbs)
    config.write_text(POLICY.format(bootstrap=bootstrap, prefix=prefix, folder=folder) + tables + rules)
    command = [sys.executable, "-m", "benchmarks.containment_kafka", "respond", "--config", str(config)]
    given = {**os.environ, **environment, "PYTHONUNBUFFERED": "1"}
    with (folder / "out").open("wb") as out, (folder / "err").open("wb") as err:
        process = await asyncio.create_subprocess_exec(*command, stdout=out, stderr=err, stdin=subprocess.DEVNULL, env=given)
    most = max(len(targets) for stage in stages.values() for targets in stage.targets.values())
    turns = [
        (verb, targets[number])
        for number in range(most)
        for stage in stages.values()
        for verb, targets in stage.targets.items()
        if number < len(targets)
    ]
    alerts = {f"{verb}-{place}": (verb, target) for place, (verb, target) in enumerate(turns)}
    # The first of each verb opens connections, and compiles what the first of anything does: it is not counted.
    warm = {uid: alerts[uid] for uid in list(alerts)[: len(verbs)]}
    rest = {uid: one for uid, one in alerts.items() if uid not in warm}
    try:
        await _sent(bootstrap, Topics(prefix).alerts, warm, folder / "out")
        await _until(folder, process, set(warm))
        sent = await _sent(bootstrap, Topics(prefix).alerts, rest, folder / "out")
        await _until(folder, process, set(alerts))
    finally:
        if process.returncode is None:
            process.terminate()
        await process.wait()
    called = {uid: int(at) / 1e9 for uid, at in re.findall(r"called (\S+) (\d+)", (folder / "out").read_text())}
    ends = _ends(folder)
    found = []
    for verb, name in verbs.items():
        mine = [uid for uid in sent if alerts[uid][0] == verb]
        ended: dict[str, int] = {}
        for uid in mine:
            result = ends[uid][1] if uid in ends else "nothing"
            ended[result] = ended.get(result, 0) + 1
        issued = [called[uid] - sent[uid] for uid in mine if uid in called]
        found.append(Row(where, name, verb, issued, [ends[uid][0] - sent[uid] for uid in mine if uid in ends], ended))
    return found


def _ends(folder: Path) -> dict[str, tuple[float, str]]:
    """Alert -> when its action came to its end (seconds since 1970), and how."""
    try:
        with Ledger.at(folder / "ledger", create=False) as ledger:
            entries = list(ledger.entries())
    except LedgerFailed:
        # The responder has not made it yet.
        return {}
    return {
        row.alert: (row.time / SECOND, row.result)
        for row in entries
        if (row.step == "verify" and row.result != "looking") or (row.step == "outcome" and row.result in ("failed", "withdrawn"))
    }


async def _until(folder: Path, process: asyncio.subprocess.Process, uids: set[str]) -> None:
    """Wait for the end of every action. Raises RuntimeError where the responder has ended."""
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        if process.returncode is not None:
            raise RuntimeError(f"the responder ended: {(folder / 'err').read_text()[-1000:]}{(folder / 'out').read_text()[-1000:]}")
        if (folder / "ledger").exists() and uids <= _ends(folder).keys():
            return
        await asyncio.sleep(0.5)


def _value(uid: str, verb: str, target: str) -> bytes:
    from benchmarks.containment import alert

    one = alert(0, target, uid)
    return ocsf.encode(replace(one, signals=[*one.signals, verb]), "bench")


async def _sent(bootstrap: str, topic: str, alerts: dict[str, tuple[str, str]], out: Path | None = None) -> dict[str, float]:
    """When each was given to the producer, seconds since 1970. ``out``: what the responder prints; each is over before the next."""
    producer = AIOKafkaProducer(bootstrap_servers=bootstrap, linger_ms=0)
    await producer.start()
    found = {}
    for uid, (verb, target) in alerts.items():
        value = _value(uid, verb, target)
        found[uid] = time.time()
        await producer.send_and_wait(topic, value, headers=[("tocsin", ALERTS_SCHEMA.encode())])
        await asyncio.sleep(PAUSE)
        if out is not None:
            await asyncio.to_thread(_wait, out, uid, target)
    await producer.stop()
    return found


def _wait(out: Path, uid: str, target: str) -> None:
    """Until the call was made, and the first look at its effect told of; or for too long."""
    end = time.monotonic() + STUCK
    while time.monotonic() < end:
        _, called, after = out.read_text().partition(f"called {uid} ")
        if called and f" {target}: " in after:
            return
        time.sleep(PAUSE / 5)


async def bare(bootstrap: str, many: int) -> list[float]:
    """Seconds from an alert's producing to its reading by a bare consumer of the same broker."""
    prefix = f"b{uuid.uuid4().hex[:8]}"
    await create(Kafka(bootstrap=[bootstrap], prefix=prefix))
    topic = Topics(prefix).alerts
    consumer = AIOKafkaConsumer(topic, bootstrap_servers=bootstrap, auto_offset_reset="earliest", isolation_level="read_committed")
    await consumer.start()
    read: dict[str, float] = {}
    uids = {f"bare-{number}": ("isolate_pod", f"pod:bench/{number}") for number in range(many)}

    async def reading() -> None:
        async for message in consumer:
            read[ocsf.alert_of(message.value).uid] = time.time()
            if len(read) == len(uids):
                return

    task = asyncio.create_task(reading())
    sent = await _sent(bootstrap, topic, uids)
    await task
    await consumer.stop()
    # Of the first the topic's leaders are still being found.
    return [read[uid] - at for uid, at in list(sent.items())[many // 10 :]]


class Bench(Lab):
    """The lab, with a pod for whoever asks."""

    def __init__(self, settings: LabSettings) -> None:
        super().__init__(settings)
        self._pod = next(iter(Lab.rehearsal().adapter.settings.state.pods.values()))  # type: ignore[attr-defined]

    def prepare(self, action: Action) -> object:  # type: ignore[override]
        """See ``Adapter``."""
        self.settings.state.pods.setdefault(action.target, copy.deepcopy(self._pod))
        return super().prepare(action)


def telling(adapter: type[Adapter]) -> None:
    """Make an adapter say when ``apply`` is called, for the first time, and do at once what two people would be asked for."""
    whole = adapter.apply
    told: set[str] = set()

    def apply(self: Adapter, action: Action) -> Applied:
        if action.alert not in told:
            sys.stdout.write(f"called {action.alert} {time.time_ns()}\n")
            told.add(action.alert)
        return whole(self, action)

    adapter.apply = apply  # type: ignore[method-assign]
    adapter.verbs = tuple(replace(verb, destructive=False) for verb in adapter.verbs)


def line(row: Row) -> dict[str, Any]:
    """A row as it is printed and written: milliseconds."""

    def of(seconds: list[float]) -> dict[str, float]:
        return {f"p{q}_ms": round(float(np.percentile(seconds, q)) * 1000.0, 1) for q in (50, 99)} if seconds else {}

    head = {"where": row.where, "adapter": row.adapter, "verb": row.verb, "n": len(row.issued)}
    return {**head, "issued": of(row.issued), "seen": of(row.seen), "ended": row.ended}


def measured(bootstrap: str, many: int, *, with_real: bool) -> dict[str, Any]:
    """Every figure, as it is written."""
    from benchmarks import containment_targets as targets

    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        read = asyncio.run(bare(bootstrap, 10 * many))
        pods = {"isolate_pod": [f"pod:bench/p{number}" for number in range(many + 1)]}
        for where in ("lab", "fake", "real") if with_real else ("lab", "fake"):
            here = folder / where
            here.mkdir()
            if where == "lab":
                rows += asyncio.run(responded(bootstrap, here, "in process", {"lab": targets.Stage({}, pods)}, {}))
                continue
            try:
                with targets.fakes(many + 1) if where == "fake" else targets.real(many + 1, here) as stages:
                    rows += asyncio.run(responded(bootstrap, here, where, stages, targets.ENVIRONMENT))
            except RuntimeError as error:
                sys.stderr.write(f"{where}: {error}\n")
    versions = {each: version(each) for each in ("aiokafka", "httpx", "sqlalchemy", "msgspec")}
    machine = {"machine": platform.machine(), "system": platform.platform(), "cores": os.cpu_count(), "load": os.getloadavg()}
    of_bare = line(Row("broker", "-", "bare consumer", read, [], {}))
    return {**machine, "python": platform.python_version(), "versions": versions, "rows": [of_bare, *map(line, rows)]}


def main() -> None:
    """Print, and write where that is asked for."""
    from benchmarks.kafka_site import broker

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--bootstrap", default="", help="a broker; without, one is started")
    parser.add_argument("--quick", action="store_true", help="5 alerts a verb and not 50")
    parser.add_argument("--json", default="", help="file to write the figures to")
    parser.add_argument("--without-real", action="store_true", help="fakes only")
    given = parser.parse_args()
    with broker(given.bootstrap) as (address, _):
        found = measured(address, 5 if given.quick else 50, with_real=not given.without_real)
    if given.json:
        Path(given.json).write_text(json.dumps(found, indent=1) + "\n")
    rows = found.pop("rows")
    print(json.dumps(found))
    for row in rows:
        issued, seen = row["issued"], row["seen"]
        times = f"issued p50 {issued.get('p50_ms', 0):8.1f} p99 {issued.get('p99_ms', 0):8.1f} ms"
        times += f"   seen p50 {seen.get('p50_ms', 0):8.1f} p99 {seen.get('p99_ms', 0):8.1f} ms" if seen else ""
        print(f"{row['where']:10} {row['adapter']:10} {row['verb']:22} {times}   n {row['n']} {row['ended'] or ''}")


if __name__ == "__main__":
    os.environ.setdefault("PYTHONUNBUFFERED", "1")
    if sys.argv[1:2] == ["respond"]:
        available()["lab"] = Bench  # type: ignore[assignment]
        for one in available().values():
            telling(one)
        app()
    else:
        main()
