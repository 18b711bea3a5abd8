"""What a stage does in a second of a core: ingest beside a bare ``getmany``, visits beside a Faust agent, two workers beside one."""

from __future__ import annotations

import statistics
from typing import Any

from benchmarks.kafka_figures import Rate, rate
from benchmarks.kafka_load import Sent
from benchmarks.kafka_reference import Reference
from benchmarks.kafka_site import Site, Watch, reference, samples

#: Events of a site to a second of event time: 400,000 a day, as in ``benchmarks.scale``.
PACE = 400_000 / 86_400


def prepared(site: Site, records: int, identities: int) -> Sent:
    """A raw topic with so many records."""
    return site.load(records=records, identities=identities, pace=PACE)


def ingest(site: Site, records: int, broker: int) -> dict[str, Any]:
    """The first figure. What ingest has written stays for the visits."""
    theirs = [drained(site, records)]
    worker = site.start("ingest", "ingest")
    watch = Watch({"ingest": worker.process.pid, "broker": broker})
    site.wait([worker], records)
    used = watch.taken()
    worker.end()
    theirs.append(drained(site, records))
    ours, least = rate(worker.samples), statistics.median(each.per_core for each in theirs)
    return {
        "ratio_to_getmany_per_core": round(ours.per_core / least, 3),
        "events_per_core_second": round(ours.per_core),
        "getmany_per_core_second": round(least),
        "events_per_second": round(ours.per_second),
        "events": worker.done,
        **used,
    }


def drained(site: Site, records: int) -> Rate:
    """Bare aiokafka, over the same records."""
    return rate(
        samples(reference("drain", Reference(bootstrap=site.bootstrap, reads=[site.raw], partitions=site.partitions, records=records)))
    )


def visits(site: Site, records: int, faust_records: int, broker: int) -> dict[str, Any]:
    """The second figure, on what ``ingest`` has left."""
    agents = [agent(site, faust_records)]
    found: dict[str, Any] = {}
    for stage in ("actor", "object"):
        worker = site.start(stage, stage)
        watch = Watch({stage: worker.process.pid, "broker": broker})
        site.wait([worker], records)
        found[stage] = (rate(worker.samples), worker.done, watch.taken())
        worker.end()
    agents.append(agent(site, faust_records))
    base = statistics.median(each.per_core for each in agents)
    out: dict[str, Any] = {"faust_agent_per_core_second": round(base)}
    for stage, (ours, done, used) in found.items():
        out |= {
            f"{stage}_ratio_to_faust_agent": round(ours.per_core / base, 1),
            f"{stage}_events_per_core_second": round(ours.per_core),
            f"{stage}_events_per_second": round(ours.per_second),
            stage: {"events": done, **used},
        }
    return out


def agent(site: Site, records: int) -> Rate:
    """A Faust agent that does nothing, over raw records one at a time."""
    return rate(samples(reference("agent", Reference(bootstrap=site.bootstrap, reads=[site.raw], records=records))))


def workers(raw: Site, records: int) -> dict[str, Any]:
    """The fifth figure: the actors' stage over the same records with one worker, and with two at once."""
    rates: dict[int, list[Rate]] = {}
    for many in (1, 2):
        with Site(raw.bootstrap, partitions=raw.partitions, raw=raw.raw) as site:
            before = site.start("ingest", "ingest")
            site.wait([before], records)
            before.end()
            at_work = [site.launch(f"actor-{number}", "actor") for number in range(many)]
            site.wait(at_work, records)
            rates[many] = [rate(worker.samples) for worker in at_work]
    return compared(rates[1][0], rates[2])


def compared(alone: Rate, both: list[Rate]) -> dict[str, Any]:
    """Two workers beside one. The simulated figure is that of a machine with a core for each: what each costs an event, no more."""
    wall = sum(each.done for each in both) / (max(each.ended for each in both) - min(each.began for each in both))
    return {
        "ratio_two_to_one": round(sum(each.per_core for each in both) / alone.per_core, 2),
        "ratio_is": "simulated: events per second of processor of two workers at once, added up, over that of one",
        "ratio_on_the_wall": round(wall / alone.per_second, 2),
        "one_per_core_second": round(alone.per_core),
        "two_per_core_second": [round(each.per_core) for each in both],
        "two_events": [each.done for each in both],
    }
