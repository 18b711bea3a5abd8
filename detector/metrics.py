"""What a process counts, for Prometheus. One ``Metrics`` a process, with a registry of its own and no global state.

Labels are few and bounded: stages, sources, our topics and their partitions, reasons of rejects. How many reasons there are is not ours
to choose, so at most ``REASONS`` have a series of their own. No identity is ever a label.

>>> metrics = Metrics("0.1.0")
>>> metrics.visits.labels("actor").inc(3)
>>> [line for line in metrics.render()[0].decode().splitlines() if line.startswith("tocsin_visits_total")]
['tocsin_visits_total{stage="actor"} 3.0']
"""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector
from prometheus_client.exposition import choose_encoder

#: Distinct (reason, source) of rejects that get a series of their own; further reasons are counted as "other".
REASONS = 200
#: From raw record to alert: 5 ms is less than a hop, 25 and 75 ms are the aims at p50 and p99, 2 s is a burst, 60 s an outage.
LATENCY_SECONDS = (0.005, 0.01, 0.015, 0.025, 0.035, 0.05, 0.075, 0.1, 0.15, 0.25, 0.5, 1.0, 2.0, 5.0, 15.0, 60.0)
#: From a few dirty chunks to a million identities.
CHECKPOINT_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
CHECKPOINT_BYTES = tuple(float(4**power << 10) for power in range(11))


class Metrics:
    """The counters, gauges and histograms of a process: ``.labels(...)`` in the order given here, ``.inc``, ``.set``, ``.observe``.

    ``stages``: which the process runs; their series are there from the start, at zero, so that a rate has a first value.
    """

    def __init__(self, version: str, stages: tuple[str, ...] = ()) -> None:
        self.registry = registry = CollectorRegistry(auto_describe=True)
        ProcessCollector(registry=registry)

        def counter(name: str, text: str, *labels: str) -> Counter:
            return Counter(name, text, labels, namespace="tocsin", registry=registry)

        def gauge(name: str, text: str, *labels: str) -> Gauge:
            return Gauge(name, text, labels, namespace="tocsin", registry=registry)

        self.events = counter("events", "Events decoded from raw records.", "source")
        self.visits = counter("visits", "Events scored, by the stage that scored them.", "stage")
        self._rejects = counter("rejects", "Raw records that could not be decoded, by reason.", "reason", "source")
        self.repeats = counter("repeated_rows", "Rows dropped because they were seen before (sent again after a restart).", "stage")
        self.late = counter("late_rows", "Rows scored but not learned, because they came too late.", "stage")
        self.ticks = counter("ticks", "Ticks folded: the time of quiet partitions.", "stage")
        self.dead_letters = counter("dead_letters", "Records written to the dead-letter topic.", "source")
        self.alerts = counter("alerts", "Alert revisions written.", "line", "activity")
        self.latency = Histogram(
            "alert_latency_seconds",
            "From the arrival of the raw record to the alert's writing.",
            namespace="tocsin",
            registry=registry,
            buckets=LATENCY_SECONDS,
        )
        self.checkpoint_seconds = Histogram(
            "checkpoint_duration_seconds",
            "Time that a checkpoint took.",
            ("stage",),
            namespace="tocsin",
            registry=registry,
            buckets=CHECKPOINT_SECONDS,
        )
        self.checkpoint_bytes = Histogram(
            "checkpoint_size_bytes",
            "Bytes that a checkpoint wrote.",
            ("stage",),
            namespace="tocsin",
            registry=registry,
            buckets=CHECKPOINT_BYTES,
        )
        self.assigned = gauge("assigned_partitions", "Partitions that the broker has given to this process.", "stage")
        self.open = gauge("open_partitions", "Partitions whose state is read and which are being worked on.", "stage")
        self._lag_records = gauge("lag_records", "Records of a partition that are not read yet.", "topic", "partition")
        self._lag_seconds = gauge("lag_seconds", "Age of the oldest record of a partition that is not read yet.", "topic", "partition")
        gauge("build_info", "The release that runs; always 1.", "version").labels(version).set(1)
        self._reasons: set[tuple[str, str]] = set()
        for stage in stages:
            by_stage = (self.visits, self.repeats, self.late, self.ticks, self.assigned, self.open)
            for each in (*by_stage, self.checkpoint_seconds, self.checkpoint_bytes):
                each.labels(stage)

    def reject(self, source: str, reason: str, many: int = 1) -> None:
        """Records of a source were refused."""
        key = (reason, source)
        if key not in self._reasons:
            if len(self._reasons) < REASONS:
                self._reasons.add(key)
            else:
                reason = "other"
        self._rejects.labels(reason, source).inc(many)

    def lag(self, topic: str, partition: int, records: int, seconds: float) -> None:
        """How far this process is behind on a partition that it reads."""
        self._lag_records.labels(topic, str(partition)).set(records)
        self._lag_seconds.labels(topic, str(partition)).set(seconds)

    def let_go(self, topic: str, partition: int) -> None:
        """A partition is read by someone else now: an old number of ours must not stand beside theirs."""
        for each in (self._lag_records, self._lag_seconds):
            each.remove_by_labels({"topic": topic, "partition": str(partition)})

    def render(self, accept: str = "") -> tuple[bytes, str]:
        """(page, content type) in the newest form that an ``Accept`` header asks for."""
        encoder, kind = choose_encoder(accept)
        return encoder(self.registry), kind
