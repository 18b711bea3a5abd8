"""States that must not be used are refused with what to do, and nothing is noted of a message that is refused."""

from __future__ import annotations

import msgspec
import pytest

from connectors.wire import Control, WireError
from detector.checkpoint import meaning
from detector.config import Config, parse
from detector.judges import FuseStage
from detector.messages import VERSION as MESSAGES
from detector.messages import Message, record_of
from detector.singles import STAGES
from detector.snapshot import HEAD, Refused, Snapshot, digest, restore
from detector.stage import Shared, Stage


@pytest.fixture
def config() -> Config:
    return parse("")


def fresh(config: Config, name: str, partitions: int = 2) -> Stage:
    return STAGES[name](config, 0, partitions, Shared(partitions))


def kept(config: Config, name: str) -> dict[str, bytes]:
    """The records of an empty stage's state."""
    return dict(Snapshot(fresh(config, name), meaning(config), {}).records())


def refusal(config: Config, name: str, records: dict[str, bytes], partitions: int = 2) -> str:
    with pytest.raises(Refused) as raised:
        restore(fresh(config, name, partitions), records, meaning(config))
    return str(raised.value)


@pytest.mark.parametrize("name", sorted(STAGES))
@pytest.mark.parametrize("head", [{"version": 9}, {"version": 2, "applied": "at the end", "pieces": [1]}])
def test_a_head_of_a_newer_release_is_told_from_a_foreign_one_whatever_its_shape(
    config: Config, name: str, head: dict[str, object]
) -> None:
    said = refusal(config, name, kept(config, name) | {HEAD: msgspec.msgpack.encode(head)})
    assert f"the state of {name} 0 is of version {head['version']}; this release reads 1" in said
    assert "Run the release that wrote it, or a newer one" in said


@pytest.mark.parametrize(
    "head", [None, b"", b"\xff\x00", msgspec.msgpack.encode({"stage": "actor"}), msgspec.msgpack.encode({"version": 1})]
)
def test_a_head_that_is_none_is_damaged_or_foreign(config: Config, head: bytes | None) -> None:
    records = kept(config, "actor")
    del records[HEAD]
    said = refusal(config, "actor", records | ({} if head is None else {HEAD: head}))
    assert "damaged or foreign" in said


@pytest.mark.parametrize("name", sorted(STAGES))
def test_a_stage_of_a_newer_release_is_refused(config: Config, name: str) -> None:
    records = kept(config, name)
    own = msgspec.msgpack.decode(records["stage/0"])
    said = refusal(config, name, records | {"stage/0": msgspec.msgpack.encode({**own, "version": own["version"] + 1})})
    assert f"the state of {name} 0: state of version {own['version'] + 1}; this release reads {own['version']}" in said


def test_a_state_for_another_number_of_partitions_says_what_is_left_to_do(config: Config) -> None:
    said = refusal(config, "actor", kept(config, "actor"), partitions=4)
    assert "was made for 2 partitions, the topics now have 4" in said
    assert "another kafka.prefix" in said


def test_a_configuration_that_is_refused_leaves_the_judges_as_they_were(config: Config) -> None:
    stage = fresh(config, "fuse")
    assert isinstance(stage, FuseStage)
    before = digest(stage)
    message = Message(MESSAGES, "object", 1, 7, control=Control(1, "no = [toml"))
    with pytest.raises(WireError, match="version 1 of the configuration cannot be used"):
        stage.take(record_of(message), 0)
    assert digest(stage) == before
    assert (stage.marks, stage.rows, stage.applied) == ({}, 0, 0)
