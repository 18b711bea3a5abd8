"""The topics of Tocsin: what they are called, and how each must be set up for the engine to be exact."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from connectors.kafka import Kafka

HOUR_MS = 3_600_000

#: What the header ``tocsin`` of a message says it is, with its version: OCSF findings, people's decisions, heads of the ledger.
ALERTS_SCHEMA, DECISIONS_SCHEMA, LEDGER_SCHEMA = "ocsf-2004/1", "decision/1", "anchor/1"
#: The stages that keep state, each in a compacted topic of its own.
STAGES = ("actor", "object", "fuse", "budget", "watch")


#: A partition of state is read whole when it is opened, and so are the bindings; the newest segment is never compacted: 128 MB are read
#: in about a second, the default of 1 GB would be most of the time that opening takes.
_STATE = {"segment.bytes": str(128 << 20), "min.cleanable.dirty.ratio": "0.2"}


class Topics:
    """The names of our topics, all beginning with ``<prefix>.``.

    >>> Topics("tocsin").by_actor, Topics("tocsin").state("actor")
    ('tocsin.by-actor', 'tocsin.state.actor')
    """

    def __init__(self, prefix: str) -> None:
        self.prefix = prefix
        #: Blocks of events, keyed by who acted; then by what it was done to; then what was surprising, keyed by who acted.
        self.by_actor = f"{prefix}.by-actor"
        self.by_object = f"{prefix}.by-object"
        self.evidence = f"{prefix}.evidence"
        #: OCSF findings.
        self.alerts = f"{prefix}.alerts"
        #: Records that could not be read, with the reason.
        self.deadletter = f"{prefix}.deadletter"
        #: Who stood behind an address, pod, job or token; compacted, one partition, so that one offset says how much of it is known.
        self.bindings = f"{prefix}.bindings"
        #: Configuration, peer groups, change windows, suppressions, thresholds; compacted, one partition.
        self.control = f"{prefix}.control"
        #: Hourly histograms of cells on their way to the one who shares out the alert budget.
        self.budget = f"{prefix}.budget"
        #: Heartbeats of processes and sources.
        self.status = f"{prefix}.status"
        #: What people decided about containment, each signed.
        self.decisions = f"{prefix}.decisions"
        #: The signed head of the responder's ledger, at intervals; one partition, kept for ever: it is what shows a lost tail.
        self.ledger = f"{prefix}.ledger"

    def state(self, stage: str) -> str:
        """The compacted topic of a stage's checkpoints."""
        return f"{self.prefix}.state.{stage}"

    def read_by(self, stage: str) -> str:
        """The topic that a stage with state reads."""
        reads = {"actor": self.by_actor, "object": self.by_object, "fuse": self.evidence, "budget": self.budget, "watch": self.status}
        return reads[stage]

    def all(self) -> list[str]:
        """Every topic of ours."""
        named = [self.by_actor, self.by_object, self.evidence, self.alerts, self.deadletter]
        named += [self.bindings, self.control, self.budget, self.status, self.decisions, self.ledger]
        return named + [self.state(stage) for stage in STAGES]


class Topic(NamedTuple):
    """How a topic must be. ``exact``: settings with this very value; ``at_least``: those that may be larger (-1 = no limit);
    ``advised``: those it is made with and may depart from, as they cost or save time only."""

    name: str
    partitions: int
    replication: int
    exact: dict[str, str]
    at_least: dict[str, int]
    advised: dict[str, str]

    def settings(self) -> dict[str, str]:
        """The settings it is created with."""
        return self.exact | self.advised | {key: str(value) for key, value in self.at_least.items()}


def planned(kafka: Kafka) -> list[Topic]:
    """Every topic of ours as the configuration wants it, in the order of ``Topics.all``."""
    names = Topics(kafka.prefix)
    single = {names.bindings, names.control, names.budget, names.state("budget"), names.state("watch"), names.status}
    single |= {names.decisions, names.ledger}
    compacted = {names.bindings, names.control, *(names.state(stage) for stage in STAGES)}
    made = []
    for name in names.all():
        partitions = 1 if name in single else kafka.partitions
        exact = {
            "cleanup.policy": "compact" if name in compacted else "delete",
            # A leader that lacks acknowledged blocks would take them from everybody.
            "unclean.leader.election.enable": "false",
            # Time counts from the arrival. By the producer's clock, blocks of one that is behind would be deleted at once, and those of
            # one that is an hour ahead refused.
            "message.timestamp.type": "LogAppendTime",
        }
        at_least = {"max.message.bytes": kafka.message_bytes, "min.insync.replicas": kafka.in_sync()}
        if name == names.bindings:
            # Ingest resolves again what it resolved before a crash: what held at a position must still be readable from there on.
            at_least["min.compaction.lag.ms"] = round(kafka.bindings_lag_hours * HOUR_MS)
        if name not in compacted:
            at_least["retention.ms"] = _retention_ms(kafka, name, names)
            at_least["retention.bytes"] = -1
        advised = _STATE if name.startswith(names.state("")) or name == names.bindings else {}
        made.append(Topic(name, partitions, kafka.replication, exact, at_least, advised))
    return made


def _retention_ms(kafka: Kafka, name: str, names: Topics) -> int:
    if name == names.ledger:
        # A few hundred bytes every five minutes at most. The first one deleted would look like one removed.
        return -1
    if name in (names.alerts, names.decisions):
        return round(kafka.alerts_retention_hours * HOUR_MS)
    return round(kafka.retention_hours * HOUR_MS)
