"""Reaching the broker, and the one sentence that says why not."""

from __future__ import annotations

import asyncio
import os
import ssl
from collections.abc import Awaitable, Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec
import pytest
from aiokafka import AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient

from connectors.kafka import Kafka, KafkaError, Raw, client, connected, problems
from connectors.topics import STAGES, Topics, planned
from tests.broker import PASSWORD, USERNAME, Broker, own_broker
from tests.certificates import Authority


@pytest.fixture(autouse=True)
def _no_secrets_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("TOCSIN_KAFKA_")]:
        monkeypatch.delenv(name)


@pytest.fixture(scope="module")
def secure() -> Iterator[Broker]:
    with own_broker(secure=True) as made:
        yield made


def _settings(broker: Broker, listener: str, folder: Path, **more: object) -> Kafka:
    """Settings that reach this listener, but for what is given."""
    (folder / "username").write_text(USERNAME + "\n")
    (folder / "password").write_text(PASSWORD + "\n")
    given = {
        "bootstrap": [broker.addresses[listener]],
        "security": {"mtls": "ssl", "expired": "ssl"}.get(listener, listener),
        "ca_file": str(broker.authority.ca),
        "username_file": str(folder / "username"),
        "password_file": str(folder / "password"),
        "connect_seconds": 20.0,
    }
    return msgspec.convert(given | more, Kafka)


def _why(settings: Kafka) -> str:
    """All that is said until it gives up."""
    lines: list[str] = []
    with pytest.raises(KafkaError) as raised:
        asyncio.run(connected(settings, lines.append))
    return "\n".join([*lines, str(raised.value)])


# -- settings ---------------------------------------------------------------------------------------------------------------------


def test_the_defaults_are_valid_and_name_a_broker_on_this_machine() -> None:
    assert problems(Kafka()) == []
    assert client(Kafka()) == {"bootstrap_servers": ["127.0.0.1:9092"], "security_protocol": "PLAINTEXT"}


@pytest.mark.parametrize(
    ("given", "key"),
    [
        ({"bootstrap": []}, "kafka.bootstrap:"),
        ({"bootstrap": ["good:9092", "bad"]}, "kafka.bootstrap[1]:"),
        ({"bootstrap": ["host:0"]}, "kafka.bootstrap[0]:"),
        ({"bootstrap": ["host:٣"]}, "kafka.bootstrap[0]:"),
        ({"prefix": "a b"}, "kafka.prefix:"),
        ({"prefix": ""}, "kafka.prefix:"),
        ({"prefix": "p" * 240}, "kafka.prefix:"),
        ({"partitions": 0}, "kafka.partitions:"),
        ({"replication": 0}, "kafka.replication:"),
        ({"replication": 2, "min_insync_replicas": 3}, "kafka.min_insync_replicas:"),
        ({"retention_hours": 0.0}, "kafka.retention_hours:"),
        ({"retention_hours": float("nan")}, "kafka.retention_hours:"),
        ({"alerts_retention_hours": 1e9}, "kafka.alerts_retention_hours:"),
        ({"bindings_lag_hours": -1.0}, "kafka.bindings_lag_hours:"),
        ({"message_bytes": 1000}, "kafka.message_bytes:"),
        ({"connect_seconds": 0.0}, "kafka.connect_seconds:"),
        ({"raw": [Raw(topic="../x", source="zeek_conn")]}, "kafka.raw[0].topic:"),
        ({"raw": [Raw(topic="tocsin.alerts", source="zeek_conn")]}, "kafka.raw[0].topic: tocsin.alerts is one of our own"),
        (
            {"raw": [Raw(topic="zeek", source="zeek_conn"), Raw(topic="zeek", source="harbor")]},
            "kafka.raw[1].topic: zeek is named twice",
        ),
        ({"raw": [Raw(topic="zeek", source="zeek")]}, "kafka.raw[0].source:"),
        ({"raw": [Raw(topic="zeek", source="table")]}, "kafka.raw[0].source:"),
        ({"raw": [Raw(topic="zeek", source="absent.toml")]}, "kafka.raw[0].source: absent.toml:"),
    ],
)
def test_a_mistake_in_the_settings_is_one_sentence_that_names_the_key(given: dict[str, object], key: str) -> None:
    found = problems(Kafka(**given))  # type: ignore[arg-type]
    assert len(found) == 1
    assert found[0].startswith(key)


def test_settings_come_from_a_table_and_an_unknown_key_is_refused() -> None:
    table = {"bootstrap": ["a:1", "[::1]:2"], "security": "sasl_ssl", "raw": [{"topic": "zeek", "source": "zeek_conn"}]}
    assert problems(msgspec.convert(table, Kafka)) == []
    for bad in ({"bootstrapp": "a:1"}, {"security": "tls"}, {"sasl_mechanism": "GSSAPI"}, {"password": "x"}):
        with pytest.raises(msgspec.ValidationError):
            msgspec.convert(bad, Kafka)


def test_every_topic_is_planned_once_and_only_state_bindings_and_control_are_compacted() -> None:
    names = Topics("p")
    plan = {topic.name: topic for topic in planned(Kafka(prefix="p", partitions=7, replication=3))}
    assert list(plan) == names.all()
    compacted = {name for name, topic in plan.items() if topic.exact["cleanup.policy"] == "compact"}
    assert compacted == {names.bindings, names.control, *(names.state(stage) for stage in STAGES)}
    alone = {names.bindings, names.control, names.budget, names.status, names.decisions, names.ledger}
    alone |= {names.state("budget"), names.state("watch")}
    assert {name: topic.partitions for name, topic in plan.items()} == {name: 1 if name in alone else 7 for name in plan}
    assert {topic.at_least["min.insync.replicas"] for topic in plan.values()} == {2}
    assert all("retention.ms" not in topic.settings() for name, topic in plan.items() if name in compacted)


def test_secrets_come_from_files_or_the_environment_which_goes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "u").write_text("from-file\n")
    (tmp_path / "p").write_text("pass word \r\n")
    settings = Kafka(security="sasl_plaintext", username_file=str(tmp_path / "u"), password_file=str(tmp_path / "p"))
    given = client(settings)
    assert (given["sasl_plain_username"], given["sasl_plain_password"]) == ("from-file", "pass word ")
    monkeypatch.setenv("TOCSIN_KAFKA_USERNAME", "from-environment")
    assert client(settings)["sasl_plain_username"] == "from-environment"


def test_a_secret_that_cannot_be_had_names_its_setting_and_never_another_secret(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    authority.issue("client")
    authority.issue("old", days=(-1, -0.1))
    (tmp_path / "u").write_text("user")
    (tmp_path / "empty").write_text("\n")
    (tmp_path / "binary").write_bytes(b"\xff\xfe")
    user = str(tmp_path / "u")
    cases = [
        (Kafka(security="sasl_plaintext"), "kafka.username_file"),
        (Kafka(security="sasl_plaintext", username_file=user), "kafka.password_file"),
        (Kafka(security="sasl_plaintext", username_file=user, password_file=str(tmp_path / "none")), "No such file"),
        (Kafka(security="sasl_plaintext", username_file=user, password_file=str(tmp_path / "empty")), "is empty"),
        (Kafka(security="sasl_plaintext", username_file=user, password_file=str(tmp_path / "binary")), "not a text file"),
        (Kafka(security="ssl", ca_file=user), "holds no certificate"),
        (Kafka(security="ssl", cert_file=str(tmp_path / "client.crt")), "needed together"),
        (Kafka(security="ssl", cert_file=user, key_file=user), "holds no certificate"),
        (Kafka(security="ssl", cert_file=str(tmp_path / "client.crt"), key_file=str(tmp_path / "old.key")), "kafka.key_file"),
        (Kafka(security="ssl", cert_file=str(tmp_path / "old.crt"), key_file=str(tmp_path / "old.key")), "old.crt expired at"),
    ]
    for settings, expected in cases:
        with pytest.raises(KafkaError, match=expected):
            client(settings)


# -- listeners that are no broker -------------------------------------------------------------------------------------------------

Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


def _why_at(handler: Handler, context: ssl.SSLContext | None = None, **settings: Any) -> str:
    """What is said about a server that handles connections so."""

    async def ask() -> str:
        server = await asyncio.start_server(handler, "127.0.0.1", 0, ssl=context)
        port = server.sockets[0].getsockname()[1]
        try:
            await connected(Kafka(bootstrap=[f"127.0.0.1:{port}"], connect_seconds=20.0, **settings))
        except KafkaError as error:
            return str(error)
        finally:
            server.close()
        return ""

    return asyncio.run(ask())


def _says(answer: bytes) -> Handler:
    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError):
            await reader.read(1)
            writer.write(answer)
            writer.close()
            await writer.wait_closed()

    return handler


@pytest.mark.parametrize(
    "answer", [b"HTTP/1.1 400 Bad Request\r\n\r\n", b"SSH-2.0-OpenSSH_9.9\r\n", b"\x00\x00\x00\x02\x00\x00", b"\xff\xff\xff\xff"]
)
def test_what_does_not_speak_kafka_is_named_as_such_whatever_it_says(answer: bytes) -> None:
    assert "does not speak Kafka's protocol" in _why_at(_says(answer))


@pytest.mark.parametrize(
    ("days", "address", "expected"),
    [
        ((-2, -1), "127.0.0.1", "has expired"),
        ((1 / 24, 1), "127.0.0.1", "is not valid yet"),
        ((-1, 1), "127.0.0.2", "is for another name"),
    ],
)
def test_certificates_of_another_time_or_place_are_told_apart(
    tmp_path: Path, days: tuple[float, float], address: str, expected: str
) -> None:
    authority = Authority(tmp_path)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(authority.issue("server", days=days, address=address))
    assert expected in _why_at(_says(b""), context, security="ssl", ca_file=str(authority.ca))


# -- on a real broker -------------------------------------------------------------------------------------------------------------


@pytest.mark.kafka
@pytest.mark.parametrize(
    ("listener", "mechanism"),
    [
        ("plaintext", "PLAIN"),
        ("ssl", "PLAIN"),
        ("sasl_plaintext", "PLAIN"),
        ("sasl_plaintext", "SCRAM-SHA-256"),
        ("sasl_ssl", "SCRAM-SHA-512"),
    ],
)
def test_every_security_connects_and_its_arguments_serve_any_client(
    secure: Broker, tmp_path: Path, listener: str, mechanism: str
) -> None:
    settings = _settings(secure, listener, tmp_path, sasl_mechanism=mechanism)

    async def use() -> None:
        await connected(settings)
        admin = AIOKafkaAdminClient(**client(settings))
        await admin.start()
        await admin.close()
        async with AIOKafkaProducer(**client(settings)):
            pass
        # The library closes the connection it began with and does not wait; under TLS that takes an exchange with the broker. What is
        # left at last is the loop's own.
        while len(asyncio.get_running_loop()._selector.get_map()) > 1:  # type: ignore[attr-defined]  # noqa: ASYNC110  nothing tells
            await asyncio.sleep(0.05)

    asyncio.run(use())


@pytest.mark.kafka
def test_mutual_tls_connects_with_certificates_from_files_and_from_the_environment(
    secure: Broker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    secure.authority.issue("worker")
    certificate, key = secure.folder / "worker.crt", secure.folder / "worker.key"
    asyncio.run(connected(_settings(secure, "mtls", tmp_path, cert_file=str(certificate), key_file=str(key))))
    monkeypatch.setenv("TOCSIN_KAFKA_CERT", certificate.read_text())
    monkeypatch.setenv("TOCSIN_KAFKA_KEY", key.read_text())
    monkeypatch.setenv("TOCSIN_KAFKA_CA", secure.authority.ca.read_text())
    asyncio.run(connected(_settings(secure, "mtls", tmp_path, ca_file="")))


@pytest.mark.kafka
@pytest.mark.parametrize("mechanism", ["PLAIN", "SCRAM-SHA-256"])
@pytest.mark.parametrize("secret", ["username", "password"])
def test_wrong_credentials_are_refused_at_once_and_not_shown(secure: Broker, tmp_path: Path, mechanism: str, secret: str) -> None:
    settings = _settings(secure, "sasl_plaintext", tmp_path, sasl_mechanism=mechanism)
    (tmp_path / secret).write_text("mistaken")
    tried: list[str] = []
    with pytest.raises(KafkaError, match="refuses the username or the password") as raised:
        asyncio.run(connected(settings, tried.append))
    assert tried == []
    assert "mistaken" not in str(raised.value)
    assert secure.addresses["sasl_plaintext"] in str(raised.value)


@pytest.mark.kafka
def test_an_expired_and_an_untrusted_certificate_are_told_apart(secure: Broker, tmp_path: Path) -> None:
    assert "has expired" in _why(_settings(secure, "expired", tmp_path))
    stranger = Authority(tmp_path, "stranger")
    assert "signed by nobody that we trust" in _why(_settings(secure, "ssl", tmp_path, ca_file=str(stranger.ca)))
    assert "kafka.ca_file" in _why(_settings(secure, "sasl_ssl", tmp_path, ca_file=""))


@pytest.mark.kafka
def test_a_broker_that_wants_a_client_certificate_says_so(secure: Broker, tmp_path: Path) -> None:
    assert "wants a client certificate" in _why(_settings(secure, "mtls", tmp_path))
    stranger = Authority(tmp_path, "stranger")
    stranger.issue("alien")
    alien = {"cert_file": str(tmp_path / "alien.crt"), "key_file": str(tmp_path / "alien.key")}
    assert "client certificate that it trusts" in _why(_settings(secure, "mtls", tmp_path, **alien))


@pytest.mark.kafka
@pytest.mark.parametrize(
    ("listener", "security", "expected"),
    [
        ("ssl", "plaintext", "speaks TLS"),
        ("sasl_ssl", "sasl_plaintext", "speaks TLS"),
        ("plaintext", "ssl", "without TLS"),
        ("sasl_plaintext", "sasl_ssl", "without TLS"),
        ("plaintext", "sasl_plaintext", "asks for no username"),
        ("sasl_plaintext", "plaintext", "wants a username"),
        ("sasl_ssl", "ssl", "wants a username"),
    ],
)
def test_a_listener_of_another_security_is_named_as_such(
    secure: Broker, tmp_path: Path, listener: str, security: str, expected: str
) -> None:
    why = _why(_settings(secure, listener, tmp_path, security=security, connect_seconds=3.0))
    assert expected in why
    assert "kafka.security" in why


@pytest.mark.kafka
def test_of_several_addresses_one_that_answers_is_enough(secure: Broker) -> None:
    asyncio.run(connected(Kafka(bootstrap=["127.0.0.1:1", secure.bootstrap], connect_seconds=20.0)))


@pytest.mark.kafka
def test_a_broker_that_is_down_is_tried_again_with_a_line_each_and_given_up(secure: Broker) -> None:
    secure.stop()
    try:
        lines: list[str] = []
        with pytest.raises(KafkaError, match=r"nobody listens there .*kafka\.connect_seconds"):
            asyncio.run(connected(Kafka(bootstrap=[secure.bootstrap], connect_seconds=10.0), lines.append))
        assert len(lines) >= 2
        assert lines[0].startswith(f"attempt 1: kafka.bootstrap: {secure.bootstrap}: nobody listens there")
    finally:
        secure.start()


@pytest.mark.kafka
def test_a_broker_that_comes_up_late_is_found(secure: Broker) -> None:
    secure.stop()

    async def both() -> str:
        lines: asyncio.Queue[str] = asyncio.Queue()
        reached = asyncio.ensure_future(connected(Kafka(bootstrap=[secure.bootstrap], connect_seconds=120.0), lines.put_nowait))
        first = await asyncio.wait_for(lines.get(), 60.0)
        await asyncio.to_thread(secure.start)
        await reached
        return first

    assert "nobody listens there" in asyncio.run(both())


@pytest.mark.kafka
def test_a_broker_that_stands_still_is_no_answer_in_time(secure: Broker) -> None:
    secure.pause()
    try:
        assert "no answer in time" in _why(Kafka(bootstrap=[secure.bootstrap], connect_seconds=1.0))
    finally:
        secure.resume()


@pytest.mark.kafka
def test_an_advertised_address_that_is_wrong_is_named() -> None:
    with own_broker(properties={"advertised.listeners": "PLAINTEXT://127.0.0.1:1"}) as made:
        why = _why(Kafka(bootstrap=[made.bootstrap], connect_seconds=5.0))
    assert "advertised.listeners" in why
    assert "127.0.0.1:1: nobody listens there" in why
