"""A process about itself: what it counts is on its page, it is ready when its partitions are open, and it lets go of its port."""

from __future__ import annotations

import asyncio
import json
import re
import socket
from collections.abc import Awaitable, Callable

import aiohttp
import pytest
from prometheus_client.parser import text_string_to_metric_families

from detector.health import LISTEN, Health, ListenError, address, local
from detector.metrics import REASONS, Metrics

Body = Callable[[str], Awaitable[tuple[int, str, str]]]


def served(health: Health, check: Callable[[Body], Awaitable[None]]) -> None:
    """Run ``check`` with a function that fetches a path of the running server: (status, content type, text)."""

    async def run() -> None:
        await health.start()
        host, port = health.at

        async with aiohttp.ClientSession() as session:

            async def get(path: str, method: str = "GET") -> tuple[int, str, str]:
                async with session.request(method, f"http://{host}:{port}{path}") as answer:
                    return answer.status, answer.headers.get("Content-Type", ""), await answer.text()

            try:
                await check(get)
            finally:
                await health.stop()

    asyncio.run(run())


def values(metrics: Metrics) -> dict[str, float]:
    """Every sample as ``name{labels}`` -> value."""
    families = text_string_to_metric_families(metrics.render()[0].decode())
    return {
        f"{sample.name}{sorted(sample.labels.values())}": sample.value
        for family in families
        for sample in family.samples
        if sample.name.startswith("tocsin_")
    }


def filled() -> Metrics:
    """Every metric used once."""
    metrics = Metrics("0.1.0", ("actor",))
    metrics.events.labels("zeek_conn").inc(10)
    for each in (metrics.visits, metrics.repeats, metrics.late, metrics.ticks):
        each.labels("actor").inc(2)
    metrics.reject("zeek_conn", "not-json", 3)
    metrics.dead_letters.labels("zeek_conn").inc()
    metrics.alerts.labels("main", "open").inc()
    metrics.latency.observe(0.02)
    metrics.checkpoint_seconds.labels("actor").observe(0.3)
    metrics.checkpoint_bytes.labels("actor").observe(1 << 20)
    metrics.assigned.labels("actor").set(2)
    metrics.open.labels("actor").set(1)
    metrics.lag("tocsin.by-actor", 1, 40, 0.5)
    return metrics


def test_what_is_counted_is_on_the_page() -> None:
    found = values(filled())
    assert found["tocsin_events_total['zeek_conn']"] == 10
    assert found["tocsin_rejects_total['not-json', 'zeek_conn']"] == 3
    assert found["tocsin_alerts_total['main', 'open']"] == 1
    assert found["tocsin_alert_latency_seconds_bucket['0.025']"] == 1
    assert found["tocsin_alert_latency_seconds_bucket['0.015']"] == 0
    assert found["tocsin_checkpoint_size_bytes_sum['actor']"] == 1 << 20
    assert found["tocsin_lag_records['1', 'tocsin.by-actor']"] == 40
    assert found["tocsin_build_info['0.1.0']"] == 1


def test_names_units_and_help_follow_the_conventions() -> None:
    text = filled().render()[0].decode()
    kinds = dict(re.findall(r"^# TYPE (tocsin_\w+) (\w+)$", text, re.MULTILINE))
    helps = dict(re.findall(r"^# HELP (tocsin_\w+) (.+)$", text, re.MULTILINE))
    assert len(kinds) >= 16
    for name, kind in kinds.items():
        assert len(helps[name]) > 15, name
        assert helps[name].endswith("."), name
        assert (kind == "counter") == name.endswith("_total"), name
        assert not re.search(r"_(ms|milliseconds|kb|count)$", name), name


def test_a_stage_has_its_series_at_zero_before_anything_happens() -> None:
    found = values(Metrics("0.1.0", ("actor", "object")))
    assert found["tocsin_visits_total['actor']"] == found["tocsin_open_partitions['object']"] == 0


def test_reasons_beyond_the_limit_are_counted_together() -> None:
    metrics = Metrics("0.1.0")
    for number in range(REASONS + 50):
        metrics.reject("zeek_conn", f"wrong-type:{number}")
        metrics.reject("zeek_conn", "wrong-type:0")
    found = {key: value for key, value in values(metrics).items() if key.startswith("tocsin_rejects_total")}
    assert len(found) == REASONS + 1
    assert found["tocsin_rejects_total['other', 'zeek_conn']"] == 50
    assert found["tocsin_rejects_total['wrong-type:0', 'zeek_conn']"] == REASONS + 51


def test_a_partition_that_was_let_go_leaves_no_lag_behind() -> None:
    metrics = filled()
    metrics.let_go("tocsin.by-actor", 1)
    metrics.let_go("tocsin.by-actor", 7)  # never read: nothing to remove
    assert not [key for key in values(metrics) if "lag" in key]


def test_two_processes_in_one_interpreter_share_no_numbers() -> None:
    filled()
    assert "tocsin_events_total['zeek_conn']" not in values(Metrics("0.1.0"))


def test_the_page_is_served_in_the_form_that_prometheus_asks_for() -> None:
    async def check(get: Body) -> None:
        status, kind, text = await get("/metrics")
        assert (status, kind.partition(";")[0]) == (200, "text/plain")
        assert "tocsin_events_total" in text

    served(Health(filled(), dict, "127.0.0.1:0"), check)
    assert filled().render("application/openmetrics-text; version=1.0.0")[1].startswith("application/openmetrics-text")
    assert filled().render("application/openmetrics-text; version=1.0.0")[0].endswith(b"# EOF\n")


def test_a_process_is_ready_when_nothing_is_missing_and_says_what_is() -> None:
    missing = {"tocsin.by-actor/3": "its state is being read"}

    async def check(get: Body) -> None:
        status, kind, text = await get("/readyz")
        assert (status, kind.partition(";")[0]) == (503, "application/json")
        assert json.loads(text) == {"ready": False, "missing": {"tocsin.by-actor/3": "its state is being read"}}
        assert (await get("/healthz"))[0] == 200
        missing.clear()
        status, _, text = await get("/readyz")
        assert (status, json.loads(text)) == (200, {"ready": True, "missing": {}})

    served(Health(Metrics("0.1.0"), lambda: missing, "127.0.0.1:0"), check)


def test_nothing_can_be_changed_and_nothing_else_is_there() -> None:
    async def check(get: Callable[..., Awaitable[tuple[int, str, str]]]) -> None:
        assert (await get("/"))[0] == 404
        assert (await get("/metrics/../readyz/x"))[0] == 404
        for method in ("POST", "PUT", "DELETE"):
            assert (await get("/readyz", method))[0] == 405

    served(Health(Metrics("0.1.0"), dict, "127.0.0.1:0"), check)


def test_the_port_is_free_again_after_the_stop_and_a_second_stop_does_nothing() -> None:
    async def run() -> None:
        health = Health(Metrics("0.1.0"), dict, "127.0.0.1:0")
        await health.stop()  # never started
        await health.start()
        host, port = health.at
        reader, writer = await asyncio.open_connection(host, port)  # a connection left open holds nothing up
        await health.stop()
        await health.stop()
        with socket.create_server((host, port)):
            pass
        writer.close()
        await reader.read()

    asyncio.run(run())


def test_a_port_that_is_taken_is_a_sentence() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ListenError, match=f"--listen: 127.0.0.1:{port}: .*in use"):
            asyncio.run(Health(Metrics("0.1.0"), dict, f"127.0.0.1:{port}").start())


@pytest.mark.parametrize(
    "text", ["", "9464", ":9464", "127.0.0.1", "127.0.0.1:", "127.0.0.1:x", "127.0.0.1:65536", "::1:9464", "a b:1"]
)
def test_an_address_that_is_none_is_a_sentence(text: str) -> None:
    with pytest.raises(ListenError, match="--listen: expected an address and a port"):
        address(text)


def test_the_default_is_reached_from_this_machine_only() -> None:
    assert local(address(LISTEN)[0])
    assert local("localhost")
    assert local("::1")
    assert not local("0.0.0.0")  # noqa: S104 - asked, not bound
    assert not local("metrics.example")
