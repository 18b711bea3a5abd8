"""``tocsin topics`` on a real broker: made, checked, put right where that is safe, and refused with the remedy where it is not."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from aiokafka.admin import AIOKafkaAdminClient, NewPartitions, NewTopic
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from typer.testing import CliRunner

from connectors.cluster import Found, alter, create, examine, judge, mismatches, topic_ids
from connectors.kafka import Kafka, KafkaError, Raw
from connectors.metadata import Placed
from connectors.topics import Topics, planned
from replay.cli import app
from tests.broker import PASSWORD, USERNAME, Broker, Running, own_broker
from tests.checkout import ROOT

HOUR = 3_600_000


def _settings(broker: Broker | Running, **more: Any) -> Kafka:
    """An installation of its own on the shared broker."""
    return Kafka(bootstrap=[broker.bootstrap], prefix=f"t{uuid.uuid4().hex[:10]}", connect_seconds=20.0, **more)


async def _admin(kafka: Kafka, call: str, *arguments: object) -> None:
    admin = AIOKafkaAdminClient(bootstrap_servers=kafka.bootstrap)
    await admin.start()
    await getattr(admin, call)(*arguments)
    await admin.close()


async def _until(ask: Callable[[], Awaitable[Any]], holds: Callable[[Any], bool]) -> Any:
    """The first answer that holds: what one request changed, the next may not see yet."""
    for _ in range(400):
        if holds(answer := await ask()):
            return answer
        await asyncio.sleep(0.05)
    raise AssertionError(f"the broker still says {answer}")


async def _own(kafka: Kafka, topic: str, holds: Callable[[dict[str, str]], bool]) -> dict[str, str]:
    async def ask() -> dict[str, str]:
        return (await examine(kafka, [topic]))[topic].own

    found: dict[str, str] = await _until(ask, holds)
    return found


async def _set(kafka: Kafka, topic: str, **settings: str) -> None:
    """Alter these settings of a topic and wait until the broker says them."""
    own = (await examine(kafka, [topic]))[topic].own
    changed = own | {key.replace("_", "."): value for key, value in settings.items()}
    await _admin(kafka, "alter_configs", [ConfigResource(ConfigResourceType.TOPIC, topic, changed)])
    await _own(kafka, topic, lambda now: now == changed)


def _as_planned(kafka: Kafka) -> dict[str, Found]:
    return {
        topic.name: Found(Placed("u", topic.partitions, topic.replication), topic.settings(), topic.settings())
        for topic in planned(kafka)
    }


def _config(kafka: Kafka, path: Path) -> str:
    given = {"bootstrap": kafka.bootstrap, "prefix": kafka.prefix, "connect_seconds": kafka.connect_seconds}
    raw = ", ".join(f'{{topic = "{each.topic}", source = "{each.source}"}}' for each in kafka.raw)
    lines = [f"{key} = {value!r}" for key, value in given.items()]
    path.write_text("\n".join(["[kafka]", *lines, f"raw = [{raw}]"]) + "\n")
    return str(path)


# -- the judgement, without a broker ----------------------------------------------------------------------------------------------


def test_topics_as_planned_have_nothing_wrong_and_more_of_a_limit_is_no_less() -> None:
    kafka = Kafka(replication=3)
    found = _as_planned(kafka)
    assert [judge(kafka, topic, found[topic.name]) for topic in planned(kafka)] == [[]] * len(found)
    for topic in planned(kafka):
        there = found[topic.name]
        for key, value in topic.at_least.items():
            larger = there.settings | {key: "-1" if value == -1 else str(value + 1)}
            assert judge(kafka, topic, there._replace(settings=larger)) == []
        better = there._replace(placed=there.placed._replace(replication=5), settings=there.settings | topic.advised)
        assert judge(kafka, topic, better) == []


def test_every_setting_that_is_planned_is_checked() -> None:
    kafka = Kafka(replication=3)
    found = _as_planned(kafka)
    for topic in planned(kafka):
        there = found[topic.name]
        for key, value in (topic.exact | {key: str(least) for key, least in topic.at_least.items()}).items():
            for bad in ("", "5", "other"):
                if bad == "5" and key == "min.insync.replicas":
                    continue
                (wrong,) = judge(kafka, topic, there._replace(settings=there.settings | {key: bad}))
                assert wrong.alter == {key: value}
                assert f"--entity-name {topic.name} --add-config {key}={value}" in wrong.remedy
                assert "tocsin topics --fix" in wrong.remedy


def test_partitions_and_replicas_are_never_altered_and_the_remedy_is_named() -> None:
    kafka = Kafka(partitions=4, replication=3)
    names = Topics("tocsin")
    plan = {topic.name: topic for topic in planned(kafka)}
    there = _as_planned(kafka)[names.by_actor]
    (wrong,) = judge(kafka, plan[names.by_actor], there._replace(placed=Placed("u", 8, 3)))
    assert wrong.alter == {}
    assert "8 partitions, 4 expected" in wrong.what
    assert all(word in wrong.remedy for word in ("kafka.partitions = 8", "kafka.prefix", "'tocsin topics", "'tocsin worker"))
    # A file of one number of partitions is refused by another, so it is no way.
    assert "state export" not in wrong.remedy
    (wrong,) = judge(kafka, plan[names.by_actor], there._replace(placed=Placed("u", 4, 1)))
    assert wrong.alter == {}
    assert "1 replicas, kafka.replication says 3" in wrong.what
    single = _as_planned(kafka)[names.bindings]
    (wrong,) = judge(kafka, plan[names.bindings], single._replace(placed=Placed("u", 2, 3)))
    assert wrong.alter == {}
    assert "kafka.partitions" not in wrong.remedy


# -- on a real broker -------------------------------------------------------------------------------------------------------------


@pytest.mark.kafka
def test_what_is_made_is_as_planned_and_making_it_again_changes_nothing(broker: Broker | Running) -> None:
    kafka = _settings(broker, partitions=3)
    names = Topics(kafka.prefix).all()
    assert {each.topic for each in asyncio.run(mismatches(kafka))} == set(names)
    assert asyncio.run(create(kafka)) == names
    assert asyncio.run(mismatches(kafka)) == []
    before = asyncio.run(topic_ids(kafka, names))
    assert len(set(before.values())) == len(names)
    assert asyncio.run(create(kafka)) == []
    assert asyncio.run(topic_ids(kafka, names)) == before


@pytest.mark.kafka
def test_two_who_make_the_topics_at_the_same_time_both_succeed(broker: Broker | Running) -> None:
    kafka = _settings(broker)

    async def both() -> None:
        await asyncio.gather(create(kafka), create(kafka))

    asyncio.run(both())
    assert asyncio.run(mismatches(kafka)) == []


@pytest.mark.kafka
def test_a_retention_that_is_too_short_is_named_and_put_right_without_losing_other_settings(broker: Broker | Running) -> None:
    kafka = _settings(broker)
    topic = Topics(kafka.prefix).by_actor
    asyncio.run(create(kafka))
    asyncio.run(_set(kafka, topic, retention_ms=str(HOUR), segment_bytes=str(64 << 20)))
    (wrong,) = asyncio.run(mismatches(kafka))
    assert wrong.topic == topic
    assert "retention.ms is 3600000 (1 h), needed is at least 604800000 (168 h) (kafka.retention_hours" in wrong.what
    assert asyncio.run(alter(kafka, [wrong])) == [f"{topic}: retention.ms=604800000"]
    own = asyncio.run(_own(kafka, topic, lambda now: now.get("retention.ms") == "604800000"))
    assert own["segment.bytes"] == str(64 << 20)
    assert own["max.message.bytes"] == str(kafka.message_bytes)
    assert asyncio.run(mismatches(kafka)) == []


@pytest.mark.kafka
def test_state_that_would_be_deleted_and_a_log_that_would_be_compacted_are_wrong(broker: Broker | Running) -> None:
    kafka = _settings(broker)
    names = Topics(kafka.prefix)
    asyncio.run(create(kafka))
    asyncio.run(_set(kafka, names.state("actor"), cleanup_policy="compact,delete"))
    asyncio.run(_set(kafka, names.evidence, cleanup_policy="compact"))
    asyncio.run(_set(kafka, names.alerts, retention_bytes="1000000"))
    wrong = {each.topic: each.what for each in asyncio.run(mismatches(kafka))}
    assert wrong == {
        names.state("actor"): "cleanup.policy is 'compact,delete', needed is 'compact'",
        names.evidence: "cleanup.policy is 'compact', needed is 'delete'",
        names.alerts: "retention.bytes is 1000000, needed is at least no limit",
    }


@pytest.mark.kafka
def test_a_partition_count_that_changed_under_us_is_found_and_not_altered(broker: Broker | Running) -> None:
    kafka = _settings(broker)
    topic = Topics(kafka.prefix).state("object")
    asyncio.run(create(kafka))
    asyncio.run(_admin(kafka, "create_partitions", {topic: NewPartitions(6)}))
    (wrong,) = asyncio.run(_until(lambda: mismatches(kafka), bool))
    assert (wrong.topic, wrong.what) == (topic, "6 partitions, 4 expected")
    assert asyncio.run(alter(kafka, [wrong])) == []
    assert asyncio.run(examine(kafka, [topic]))[topic].placed.partitions == 6


@pytest.mark.kafka
def test_a_topic_that_was_made_anew_has_another_uuid_and_one_that_is_gone_has_none(broker: Broker | Running) -> None:
    kafka = _settings(broker)
    raw = f"{kafka.prefix}-zeek"

    async def ids() -> dict[str, str]:
        return await topic_ids(kafka, [raw])

    async def twice() -> tuple[dict[str, str], dict[str, str]]:
        await _admin(kafka, "create_topics", [NewTopic(raw, 2, 1)])
        first = await _until(ids, bool)
        await _admin(kafka, "delete_topics", [raw])
        await _until(ids, lambda found: not found)
        await _admin(kafka, "create_topics", [NewTopic(raw, 2, 1)])
        return first, await _until(ids, bool)

    first, second = asyncio.run(twice())
    assert first[raw] != second[raw]
    # Kafka's own spelling: 16 bytes in base64 without padding, as kafka-topics.sh prints them.
    assert len(first[raw]) == 22


@pytest.mark.kafka
def test_a_topic_that_the_brokers_refuse_is_named_with_what_they_say(broker: Broker | Running) -> None:
    with pytest.raises(KafkaError, match=r"by-actor: cannot be made: .*replication factor"):
        asyncio.run(create(_settings(broker, replication=9)))


@pytest.mark.kafka
def test_a_broker_that_is_gone_is_an_error_and_not_a_wrong_topic() -> None:
    for call in (mismatches, create):
        with pytest.raises(KafkaError, match=r"kafka\.bootstrap: 127\.0\.0\.1:1"):
            asyncio.run(call(Kafka(bootstrap=["127.0.0.1:1"])))


@pytest.mark.kafka
def test_a_user_who_may_not_look_or_make_is_told_which_topic_and_that_it_is_a_matter_of_rights(tmp_path: Path) -> None:
    (tmp_path / "username").write_text(USERNAME)
    (tmp_path / "password").write_text(PASSWORD)
    rights = {"authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer", "super.users": "User:ANONYMOUS"}
    with own_broker(secure=True, properties=rights) as strict:
        everything = Kafka(bootstrap=[strict.bootstrap], prefix="strict")
        asyncio.run(create(everything))
        nobody = msgspec.structs.replace(
            everything,
            bootstrap=[strict.addresses["sasl_plaintext"]],
            security="sasl_plaintext",
            username_file=str(tmp_path / "username"),
            password_file=str(tmp_path / "password"),
        )
        for call in (mismatches, create):
            with pytest.raises(KafkaError, match=r"^strict\.[\w.-]+: TopicAuthorizationFailedError"):
                asyncio.run(call(nobody))


@pytest.mark.kafka
def test_the_command_makes_checks_and_puts_right_and_says_so_by_its_exit_code(broker: Broker | Running, tmp_path: Path) -> None:
    plain = _settings(broker)
    raw = f"{plain.prefix}-zeek"
    kafka = msgspec.structs.replace(plain, raw=[Raw(topic=raw, source="zeek_conn")])
    run, file = CliRunner(), _config(kafka, tmp_path / "tocsin.toml")
    topics = Topics(kafka.prefix)

    nothing_yet = run.invoke(app, ["topics", "--config", file, "--check"])
    assert nothing_yet.exit_code == 7
    assert nothing_yet.stderr.count("does not exist") == len(topics.all()) + 1

    without_raw = run.invoke(app, ["topics", "--config", file])
    assert without_raw.exit_code == 7
    assert f"{topics.by_actor}: made" in without_raw.stdout
    assert without_raw.stderr == f"tocsin: {raw}: does not exist (kafka.raw). Have its producer make it, or 'tocsin topics --raw'\n"

    whole = run.invoke(app, ["topics", "--config", file, "--raw"])
    assert (whole.exit_code, whole.stdout) == (0, f"{raw}: made\ngood: {len(topics.all())} topics of ours, 1 of raw records\n")

    asyncio.run(_set(kafka, topics.deadletter, retention_ms=str(HOUR)))
    wrong = run.invoke(app, ["topics", "--config", file])
    assert wrong.exit_code == 7
    assert "'tocsin topics --fix'" in wrong.stderr
    fixed = run.invoke(app, ["topics", "--config", file, "--fix"])
    assert (fixed.exit_code, fixed.stderr) == (0, "")
    assert run.invoke(app, ["topics", "--config", file, "--check"]).exit_code == 0


@pytest.mark.kafka
def test_the_command_waits_for_a_broker_that_is_down_and_then_fails_with_its_own_code(tmp_path: Path) -> None:
    file = _config(Kafka(bootstrap=["127.0.0.1:1"], connect_seconds=1.0), tmp_path / "tocsin.toml")
    result = CliRunner().invoke(app, ["topics", "--config", file])
    assert result.exit_code == 6
    assert result.stderr.splitlines()[0].startswith("tocsin: attempt 1: kafka.bootstrap: 127.0.0.1:1: nobody listens there")
    assert "gave up after 1 seconds" in result.stderr.splitlines()[-1]


def test_looking_and_altering_at_once_is_a_mistake() -> None:
    result = CliRunner().invoke(app, ["topics", "--check", "--fix"])
    assert result.exit_code == 2
    assert "--check only looks" in result.stderr


def test_the_documentation_lists_the_topics_as_they_are_made() -> None:
    lines = (ROOT / "docs" / "kafka-topics.md").read_text(encoding="utf-8").splitlines()
    shown = [tuple(cell.strip() for cell in line.strip("|").split("|")) for line in lines if line.startswith("| tocsin.")]
    assert shown == [
        (topic.name, str(topic.partitions), topic.exact["cleanup.policy"], _kept(topic.at_least)) for topic in planned(Kafka())
    ]


def _kept(at_least: dict[str, int]) -> str:
    if "retention.ms" in at_least:
        return f"{at_least['retention.ms'] // HOUR} h" if at_least["retention.ms"] >= 0 else "for ever"
    return f"every version for {at_least['min.compaction.lag.ms'] // HOUR} h" if "min.compaction.lag.ms" in at_least else ""
