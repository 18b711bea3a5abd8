"""The page of a live worker: every number that the runbook names is there, and is what has happened."""

from __future__ import annotations

import json
import socket
import urllib.error
import urllib.request
from collections.abc import Callable
from math import inf

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.chaos import STAGES, Site, until
from tests.traffic import DAY, START, Feed, flow, flows

pytestmark = [pytest.mark.kafka, pytest.mark.timeout(600)]

Make = Callable[..., Site]


def got(address: str, path: str) -> tuple[int, str]:
    """(status, body); status 0 where nobody listens yet."""
    try:
        with urllib.request.urlopen(f"http://{address}{path}", timeout=10) as answer:
            return int(answer.status), answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()
    except OSError:
        return 0, ""


def numbers(address: str) -> dict[tuple[str, str], float]:
    """(metric, its first label) -> sum of its samples."""
    found: dict[tuple[str, str], float] = {}
    for family in text_string_to_metric_families(got(address, "/metrics")[1]):
        for sample in family.samples:
            for label in {"", *(sample.labels.get(key, "") for key in ("stage", "source", "line", "topic"))}:
                found[sample.name, label] = found.get((sample.name, label), 0.0) + sample.value
    return found


def test_the_page_of_a_live_worker_tells_of_every_stage_what_it_has_done(site: Make) -> None:
    here = site(settings="watch.heartbeat_seconds = 2\nworker.tick_seconds = 1\nworker.session_seconds = 60")
    with socket.create_server(("127.0.0.1", 0)) as held:
        address = f"127.0.0.1:{held.getsockname()[1]}"
    here.start("all", listen=address)
    until(lambda: got(address, "/healthz")[0] == 200, "it lives")
    status, body = got(address, "/readyz")
    assert status == 200 or json.loads(body)["missing"]
    until(lambda: got(address, "/readyz")[0] == 200, "it is ready")
    # Ready is more than asked for nothing: every partition is open.
    here.ready()
    (topic,) = here.raw
    here.feed(8_000, 8_000, seed=2).done()

    def judged() -> bool:
        found = numbers(address)
        waiting = sum(
            found.get(("tocsin_lag_records", name), 1.0) for name in (here.topics.by_actor, here.topics.evidence, here.topics.budget)
        )
        return found.get(("tocsin_visits_total", "object"), 0.0) >= 8_000 and waiting == 0

    # Nothing alerts before the first threshold, and that follows the days that have come in one second.
    until(judged, "the days that it learns from are judged", 120.0, 1.0)
    scan = [flow(START + 6.1 * DAY + each, "10.1.0.3", f"10.3.0.{each}", 5_000 + each, 1e9, 1e3, f"S{each}") for each in range(40)]
    Feed(here.bootstrap, topic, scan, 1_000, 4).done()
    # Days behind what was read, and one that is no record.
    Feed(here.bootstrap, topic, [*flows(200, seed=5, days=0.01), b'{"ts": "poison"'], 1_000, 4).done()
    raw, own = 4, here.config.kafka.partitions
    wanted = {
        ("tocsin_events_total", "zeek_conn"): 8_240,
        ("tocsin_visits_total", "actor"): 8_240,
        ("tocsin_visits_total", "object"): 8_240,
        ("tocsin_visits_total", "fuse"): 100,
        ("tocsin_rejects_total", "zeek_conn"): 1,
        ("tocsin_dead_letters_total", "zeek_conn"): 1,
        ("tocsin_late_rows_total", "actor"): 100,
        ("tocsin_ticks_total", "fuse"): 1,
        ("tocsin_alerts_total", "main"): 1,
        ("tocsin_alert_latency_seconds_count", ""): 1,
        ("tocsin_build_info", ""): 1,
    }
    wanted |= {("tocsin_checkpoint_duration_seconds_count", stage): 1 for stage in STAGES[1:]}
    wanted |= {("tocsin_checkpoint_size_bytes_sum", stage): 1 for stage in STAGES[1:]}

    def missing() -> dict[tuple[str, str], float]:
        found = numbers(address)
        return {key: found.get(key, -1.0) for key, least in wanted.items() if found.get(key, -1.0) < least}

    try:
        until(lambda: not missing(), "every number is there", 120.0, 1.0)
    finally:
        assert missing() == {}
    found = numbers(address)
    many = {"ingest": raw, "actor": own, "object": own, "fuse": own, "budget": 1, "watch": 1}
    assert {stage: found["tocsin_open_partitions", stage] for stage in STAGES} == many
    assert {stage: found["tocsin_assigned_partitions", stage] for stage in STAGES} == many
    for name in ("tocsin_lag_records", "tocsin_lag_seconds"):
        assert {label for metric, label in found if metric == name and label} >= {topic, here.topics.by_actor, here.topics.status}
    until(lambda: numbers(address).get(("tocsin_lag_records", here.topics.by_object), inf) <= own, "nothing is far behind", 30.0, 1.0)
    assert found["tocsin_events_total", "zeek_conn"] == 8_240
    # Canaries go on as long as it lives, so that no log has an end to wait for.
    assert here.end(here.members["all"]) < 10
