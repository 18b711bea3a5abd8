"""What befalls a cluster besides kill -9: members come, go and freeze, the broker restarts, topics refuse."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.broker import own_broker
from tests.chaos import Site, say, until
from tests.refold import Refold, exact, read_topic
from tests.traffic import Feed, pods

pytestmark = [pytest.mark.kafka, pytest.mark.slow, pytest.mark.timeout(900)]

Make = Callable[..., Site]


def test_members_come_and_go_and_one_is_killed_while_partitions_move(site: Make) -> None:
    here = site()
    here.separate(instance=False)
    fed = here.feed(320_000, 8_000)
    for stage in ("ingest", "actor", "object"):
        old = here.members[stage]
        let_go = old.said(": let go at ")
        second = here.start(f"{stage}2", stage, instance=False)
        if stage == "ingest":
            until(second.at_work, "ingest is shared")
            continue
        # Killed just as it gives its partitions to the one that came.
        until(lambda o=old, n=let_go: o.said(": let go at ") > n, "partitions move", every=0.002)  # type: ignore[misc]
        old.kill()
        until(lambda o=old, s=second: o.lives > 1 and o.at_work() and s.at_work(), "both are at work")  # type: ignore[misc]
    for stage in ("actor2", "ingest2"):
        say(f"{stage} left within {here.end(here.members[stage]):.1f} s")
    fed.done()
    longest = here.finish(400)
    say(f"the longest end took {longest:.1f} s")
    assert longest < 20.0
    ends = {name: (member.ended(), member.said('"drained"') > 0) for name, member in here.members.items()}
    assert ends == dict.fromkeys(here.members, (0, True))
    exact(here)


def test_processes_that_froze_and_wake_up_are_fenced_and_end(site: Make) -> None:
    here = site(settings="worker.checkpoint_seconds = 15")
    here.separate()
    # Until the last has woken up, on a slow machine too.
    fed = here.feed(800_000, 4_000)
    for stage in ("ingest", "actor", "object", "judges"):
        frozen = here.members[stage]
        # It has something in memory that is not kept yet; one that has nothing loses nothing, and may go on.
        read = sum(here.inputs(frozen.stages[0]).values())
        until(lambda f=frozen, n=read: sum(here.inputs(f.stages[0]).values()) > n + 20, "there is work")  # type: ignore[misc]
        frozen.signal(signal.SIGSTOP)
        other = here.start(f"{stage}2", *frozen.stages)
        many = 6 if stage == "judges" else 4
        until(lambda o=other, n=many: o.opened() >= n, f"another has taken over from {stage}")  # type: ignore[misc]
        frozen.signal(signal.SIGCONT)
        until(lambda f=frozen: f.exits, f"{stage} has ended")  # type: ignore[misc]
        assert frozen.exits[0] == 75
        say(f"{stage}: {[line['message'] for line in frozen.lines() if line['logger'] == 'tocsin']}")
        here.end(other)
        until(frozen.at_work, f"{stage} is at work again")
    fed.done()
    here.finish(400)
    exact(here)


def test_the_broker_is_killed_and_comes_back(tmp_path: Path) -> None:
    with own_broker() as broker, Site(broker.bootstrap, tmp_path) as here:
        here.separate()
        fed = here.feed(120_000, 8_000)
        time.sleep(5)
        broker.kill()
        time.sleep(2)
        broker.start()
        fed.done()
        here.finish(400)
        say(f"exits { ({name: member.exits for name, member in here.members.items()}) }")
        exact(here)


def test_a_state_topic_that_refuses_a_checkpoint_ends_the_process_until_it_takes_it(site: Make) -> None:
    here = site()
    here.separate()
    objects = here.members["object"]
    here.limit(here.topics.state("object"), 2_000)
    here.feed(60_000, 8_000).done()
    until(lambda: len(objects.exits) >= 2, "the refused checkpoint has ended the process twice", 240)
    assert set(objects.exits) == {75}
    here.limit(here.topics.state("object"))
    here.finish()
    exact(here)


def test_a_produce_that_fails_in_the_middle_of_a_poll_loses_nothing(site: Make) -> None:
    here = site()
    here.separate()
    ingest = here.members["ingest"]
    here.end(ingest)
    here.feed(40_000, 20_000).done()
    ingest.again()
    until(lambda: here.at_the_end("ingest"), "ingest has read a backlog")
    # Partitions differ in size: of what is polled at once some blocks are refused now and others are not.
    largest = sorted(max(len(m.value or b"") for m in messages) for messages in read_topic(here, here.topics.by_actor).values())
    assert largest[0] < largest[-1]
    here.end(ingest)
    here.limit(here.topics.by_actor, (largest[1] + largest[2]) // 2)
    before = here.ends(here.topics.by_actor)
    here.feed(40_000, 20_000, seed=1).done()
    ingest.again()
    lives = len(ingest.exits)
    until(lambda: len(ingest.exits) >= lives + 2, "the refused block has ended the process twice")
    assert ingest.exits[-1] == 75
    assert here.ends(here.topics.by_actor) != before
    here.limit(here.topics.by_actor)
    here.finish()
    refold = exact(here)
    assert sum(fold.stage.dropped for (name, _), fold in refold.folds.items() if name == "actor") > 0


def changing(make: Make, folder: Path, *, at_once: bool) -> tuple[Site, int]:
    """Bindings change all the time, and ingest dies six times in the middle of a poll."""
    crashes = folder / f"crashes-{at_once}"
    environment = {"CRASHES": str(crashes), "MOST": "6"} | ({"AT_ONCE": "1"} if at_once else {})
    raw = {"audit": ("kubernetes_audit", 1), "zeek": ("zeek_conn", 2)}
    here = make(raw=raw, environment=environment, settings="worker.bindings_seconds = 0.2")
    ingest = here.start("ingest", "ingest", module="tests.crashing_ingest")
    here.start("rest", "actor", "object", "fuse", "budget")
    here.ready()
    audit = next(topic for topic in here.raw if topic.endswith("audit"))
    both = here.feed(360_000, 8_000), Feed(here.bootstrap, audit, pods(6_000), 6_000 / 45, 1)
    for each in both:
        each.done()
    here.finish(400)
    return here, len(ingest.exits)


def test_bindings_change_while_ingest_is_killed(site: Make, tmp_path: Path) -> None:
    here, crashes = changing(site, tmp_path, at_once=False)
    refold = exact(here)
    assert crashes >= 2
    moved = sum(fold.stage.dropped for (name, _), fold in refold.folds.items() if name == "actor")
    # Records of several rows were among those that were sent again.
    audit = next(rows for log, rows in refold.expected.items() if ".audit-" in log)
    assert int(audit.min()) >= 3
    say(f"{crashes} crashes, {moved} rows sent again, {len(read_topic(here, here.topics.bindings)[0])} bindings")


def test_bindings_that_take_effect_at_once_would_lose_and_double_rows(site: Make, tmp_path: Path) -> None:
    here, _ = changing(site, tmp_path, at_once=True)
    problems = Refold(here).problems()
    say("\n".join(problems))
    assert any("lost" in problem for problem in problems)


def test_a_stage_that_stands_still_for_a_minute_costs_no_memory_and_loses_nothing(site: Make) -> None:
    here = site()
    here.separate()
    objects = here.members["object"]
    fed = here.feed(8_000 * 70, 8_000)
    objects.signal(signal.SIGSTOP)
    others = [here.members[name] for name in ("ingest", "actor")]
    until(lambda: fed.sent > 80_000, "they are at full speed")
    early = [member.resident_mb() for member in others]
    time.sleep(50)
    late = [member.resident_mb() for member in others]
    say(f"MB of ingest and actor: {early}, after 50 s {late}")
    assert all(after < before + 150 for before, after in zip(early, late, strict=True))
    objects.signal(signal.SIGCONT)
    fed.done()
    began = time.monotonic()
    here.finish(400)
    say(f"caught up {time.monotonic() - began:.0f} s after the last record")
    exact(here)
