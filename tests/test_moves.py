"""Profiles move between Kafka and a file in both directions, whole; what belongs to the old logs stays behind."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from connectors.names import Names
from connectors.wire import decode
from detector.checkpoint import Checkpoints, digest
from detector.config import Config, read
from detector.judges import FuseStage
from detector.pipeline import Cores
from detector.stage import Stage
from replay.moves import filled
from tests.chaos import Site, until
from tests.refold import read_topic
from tests.traffic import Feed, flows

pytestmark = [pytest.mark.kafka, pytest.mark.timeout(600)]

Make = Callable[..., Site]


def learned(here: Site, *, applied: tuple[str, ...] = ()) -> list[Stage]:
    """Let an installation learn from some thousand flows, with some configurations applied to its logs, and end it. Returns its
    stages."""
    here.start("all")
    here.ready()
    here.feed(6_000, 6_000, seed=3).done()
    for text in applied:
        apply(here, text)
    here.finish()
    return stages(here)


def apply(here: Site, text: str) -> None:
    """Apply a configuration, and let it go all the way: checkpoints do not say how far the control topic is read."""
    path = here.folder / "control.toml"
    path.write_text(text, "utf-8")
    until(here.at_the_end, "everything is read", 240.0, 0.5)

    def sent() -> int:
        return sum(here.ends(here.topics.by_actor).values())

    wanted = sent() + here.config.kafka.partitions
    here.command("control", "apply", str(path))
    until(lambda: sent() >= wanted, "every partition hears of it", every=0.5)
    until(here.at_the_end, "everything is read", 240.0, 0.5)


def stages(here: Site) -> list[Stage]:
    """The stages of an installation with the state that its topics hold."""
    found: list[Stage] = here.run(filled(here.config))
    return found


def profiles(given: list[Stage]) -> dict[tuple[str, int, str], object]:
    """All that was learned, by stage, partition and record; without what a configuration says, and without the judges' clocks, which
    a file of one partition has from the stage before them."""
    held: dict[tuple[str, int, str], object] = {}
    for stage in given:
        if isinstance(stage, FuseStage):
            for judge in stage.judges.values():
                judge.state.budget.per_day = judge.state.clock = 0
        for table in stage.tables():
            held[stage.name, stage.partition, table.name] = list(table.dump())
        for name, data in stage.blobs():
            if name != "stage":
                held[stage.name, stage.partition, name] = data
    return held


def reads_from(here: Site, there: Site) -> None:
    """Let an installation read the raw topics of another."""
    text = here.path.read_text()
    for mine, its in zip(here.raw, there.raw, strict=True):
        text = text.replace(mine, its)
    here.path.write_text(text, "utf-8")
    here.raw, here.config = there.raw, read(here.path)


def rows(here: Site) -> int:
    """Rows that an installation's ingest has sent on."""
    messages = [message for part in read_topic(here, here.topics.by_actor).values() for message in part]
    packets = [decode(message.value or b"", Names()) for message in messages]
    return int(np.sum([len(packet.block) for packet in packets if not packet.passes]))


@pytest.mark.parametrize("partitions", [1, 4])
def test_profiles_go_into_a_file_and_into_another_installation_which_goes_on_from_now(
    site: Make, tmp_path: Path, partitions: int
) -> None:
    old = site(partitions=partitions)
    before = learned(old, applied=("budget.alerts_per_day = 60\n", "budget.alerts_per_day = 70\n"))
    assert {stage.control.version for stage in before} == {2}
    file = tmp_path / "profiles.sqlite"
    identities = sum(stage.identities for stage in before)
    assert identities > 100
    assert f"{identities:,} identities of {partitions} partition" in old.command("state", "export", str(file))
    assert "name a new file" in old.command("state", "export", str(file), code=4)

    new = site(partitions=partitions)
    reads_from(new, old)
    new.command("state", "import", str(file), "--from-now")
    after = stages(new)
    assert profiles(after) == profiles(before)
    assert {(stage.applied, stage.control.version, len(stage.marks)) for stage in after} == {(0, 0, 0)}
    assert "hold profiles already" in new.command("state", "import", str(file), code=4)

    # What the raw topics kept is not learned a second time; what comes now is, and a first version of a configuration holds.
    new.start("all")
    new.ready()
    apply(new, "budget.alerts_per_day = 80\n")
    Feed(new.bootstrap, next(iter(new.raw)), flows(1_000, seed=4), 2_000, partitions).done()
    new.finish()
    assert rows(new) == 1_000
    went_on = stages(new)
    assert {stage.control.version for stage in went_on} == {1}
    assert {stage.config.budget.alerts_per_day for stage in went_on} == {80}


def embedded(path: Path, config: Config) -> str:
    """A hash of the state in a file of ``tocsin replay --state``."""
    cores = Cores(config)
    with closing(Checkpoints(path, config)) as held:
        held.restore(cores)
    return digest(cores)


def test_what_a_replay_has_learned_goes_live_and_comes_back_as_it_was(site: Make, tmp_path: Path) -> None:
    here = site(partitions=1)
    trace, file, back = tmp_path / "conn.log", tmp_path / "replayed.sqlite", tmp_path / "back.sqlite"
    trace.write_bytes(b"\n".join(flows(5_000, seed=8)) + b"\n")
    here.command("replay", str(trace), "--source", "zeek_conn", "--state", str(file))
    here.command("state", "import", str(file))
    here.command("state", "export", str(back))
    assert embedded(back, here.config) == embedded(file, here.config)
    several = site(partitions=4)
    assert "holds one partition, kafka.partitions is 4" in several.command("state", "import", str(file), code=4)


def test_a_file_of_four_partitions_is_refused_where_there_are_two(site: Make, tmp_path: Path) -> None:
    four, file = site(partitions=4), tmp_path / "profiles.sqlite"
    four.command("state", "export", str(file))
    two = site(partitions=2)
    assert "holds 4 partitions, kafka.partitions is 2" in two.command("state", "import", str(file), code=4)
