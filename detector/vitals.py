"""What the responder counts, for Prometheus: read from the ledger's history when somebody asks. No identity is ever a label."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

from detector.responder import Service

#: Containments end by a look every half a second: what is later than this is overdue, in microseconds.
LATE = 60_000_000


class Vitals(Collector):
    """``service``: the responder, once there is one. ``behind``: records that were not taken yet. ``anchored``: when the ledger's last
    anchor is known to be kept, seconds since 1970, 0 = never, None = it is not anchored."""

    def __init__(self, version: str, behind: Callable[[], int], anchored: Callable[[], float | None]) -> None:
        self.service: Service | None = None
        self._version, self._behind, self._anchored = version, behind, anchored
        self._registry = CollectorRegistry(auto_describe=False)
        ProcessCollector(registry=self._registry)
        self._registry.register(self)

    def render(self, accept: str = "") -> tuple[bytes, str]:
        """See ``detector.health.Page``."""
        encoder, kind = choose_encoder(accept)
        return encoder(self._registry), kind

    def collect(self) -> Iterator[Metric]:
        """The page. The responder's thread may be at work: nothing here changes anything, and lists are copied in one step."""
        info = GaugeMetricFamily("tocsin_build_info", "The release that runs; always 1.", labels=["version"])
        info.add_metric([self._version], 1)
        yield info
        if self.service is None:
            return
        service, history = self.service, self.service.responder.ledger.history
        results = CounterMetricFamily(
            "tocsin_respond_results", "Steps of the ledger by how they ended, since the start.", labels=["result"]
        )
        for word, times in service.responder.counts().items():
            results.add_metric([word], times)
        refused = CounterMetricFamily("tocsin_respond_refused", "Records refused as not ours.", labels=["kind"])
        for kind in ("alert", "decision"):
            refused.add_metric([kind], service.refused[kind])
        yield from (results, refused)
        now, due = service.clock(), [hold.due for hold in list(history.holds.values())]
        stopped = bool(service.switch() or service.responder.policy.respond.kill_switch)
        figures = {
            "waiting": ("Actions that wait for a person.", len(history.waiting)),
            "contained": ("Containments in force.", len(due)),
            "overdue": ("Containments in force more than a minute after their time.", sum(each + LATE < now for each in due)),
            "kill_switch": ("1 while the kill switch is on.", int(stopped)),
            "ledger_rows": ("Rows of the ledger.", service.responder.ledger.head[0]),
            "behind_records": ("Records on the topics that are not settled.", self._behind()),
        }
        anchored = self._anchored()
        if anchored is not None:
            age = time.time() - anchored if anchored else float("inf")
            figures["anchored_seconds"] = ("Seconds since an anchor of the ledger is known to be kept.", age)  # type: ignore[assignment]
        for name, (text, value) in figures.items():
            yield GaugeMetricFamily(f"tocsin_respond_{name}", text, value=value)
