"""The broker: where it is, how we prove who we are, and what is wrong when it cannot be reached.

Names and passwords come from files or from the environment (``TOCSIN_KAFKA_USERNAME``, ``_PASSWORD``, ``_CA``, ``_CERT``, ``_KEY``,
``_KEY_PASSWORD``: the value itself, certificates as PEM text), never from the configuration. The environment goes before the file.

Every command reads this module for the settings and few ever meet a broker, so what costs time to import is imported where it is used.
"""

from __future__ import annotations

import asyncio
import os
import re
import ssl
import tempfile
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import msgspec

from connectors.sources import available
from connectors.sources.table import MappingError, read_mapping
from connectors.topics import Topics

Security = Literal["plaintext", "ssl", "sasl_plaintext", "sasl_ssl"]
Mechanism = Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"]


class KafkaError(ValueError):
    """Kafka cannot be used so: one sentence that names the setting or the address."""


class Raw(msgspec.Struct, forbid_unknown_fields=True, kw_only=True, frozen=True):
    """A topic of raw records. ``source``: a plug-in of ``connectors/sources``, or the mapping file of a table (``*.toml``)."""

    topic: str
    source: str


class Kafka(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """The table ``[kafka]`` of the configuration. ``Kafka()`` is an unsecured broker on this machine."""

    #: ``host:port`` of one or more brokers.
    bootstrap: list[str] = msgspec.field(default_factory=lambda: ["127.0.0.1:9092"])
    #: Our topics are called ``<prefix>.<name>``; another prefix is another installation on the same brokers.
    prefix: str = "tocsin"
    security: Security = "plaintext"
    sasl_mechanism: Mechanism = "SCRAM-SHA-512"
    username_file: str = ""
    password_file: str = ""
    #: Who signed the broker's certificate; "" = whoever this machine trusts.
    ca_file: str = ""
    #: Our own certificate and its key, where the broker asks for one (mTLS).
    cert_file: str = ""
    key_file: str = ""
    key_password_file: str = ""
    #: Partitions of the topics that are spread over workers. Profiles live in partitions: only a migration changes it later.
    partitions: int = 4
    replication: int = 1
    #: Replicas that must have a record before it counts as written; 0 = all but one, at least one.
    min_insync_replicas: int = 0
    #: Blocks, evidence, dead letters. A week is a long weekend of the detector standing still, and time to look after it.
    retention_hours: float = 168.0
    #: Alerts and decisions: a quarter, what an incident review looks back on.
    alerts_retention_hours: float = 2_160.0
    #: Bindings keep every version for so long: longer than any restart of ingest lasts.
    bindings_lag_hours: float = 24.0
    #: Largest record: a chunk of state or a block. Eight times Kafka's default.
    message_bytes: int = 8 << 20
    #: Of what the workers send: zstd takes a third of the disk and of the network, and some processor time of both sides.
    compression: Literal["none", "zstd"] = "none"
    raw: list[Raw] = []
    #: A broker that is down at the start is waited for so long.
    connect_seconds: float = 60.0

    def in_sync(self) -> int:
        """Replicas that must have a record before it counts as written."""
        return self.min_insync_replicas or max(1, self.replication - 1)


#: What a topic may be called (Kafka's own rule).
_NAME = re.compile(r"[A-Za-z0-9._-]+")


def problems(kafka: Kafka) -> list[str]:
    """What types cannot say: one sentence a mistake, each naming the key."""
    names = Topics(kafka.prefix)
    longest = max(len(name) for name in names.all())
    found = [
        (bool(kafka.bootstrap), "kafka.bootstrap: expected at least one address (host:port)"),
        # 249 characters are Kafka's limit of a topic's name.
        (
            bool(_NAME.fullmatch(kafka.prefix)) and longest <= 249,
            "kafka.prefix: expected letters, digits, '.', '_' and '-' in names of at most 249 characters",
        ),
        (1 <= kafka.partitions <= 1_000, "kafka.partitions: expected 1 to 1,000"),
        (1 <= kafka.replication <= 15, "kafka.replication: expected 1 to 15"),
        (
            0 <= kafka.min_insync_replicas <= kafka.replication,
            "kafka.min_insync_replicas: expected 0 (all but one) up to kafka.replication",
        ),
        (1 <= kafka.retention_hours <= 87_600, "kafka.retention_hours: expected 1 to 87,600 (ten years)"),
        (1 <= kafka.alerts_retention_hours <= 87_600, "kafka.alerts_retention_hours: expected 1 to 87,600 (ten years)"),
        (0 <= kafka.bindings_lag_hours <= 720, "kafka.bindings_lag_hours: expected 0 to 720 (30 days)"),
        (1 << 20 <= kafka.message_bytes <= 64 << 20, "kafka.message_bytes: expected 1,048,576 (1 MB) to 67,108,864 (64 MB)"),
        (0 < kafka.connect_seconds <= 3_600, "kafka.connect_seconds: expected above 0 and at most 3,600"),
    ]
    mistakes = [text for good, text in found if not good]
    for place, address in enumerate(kafka.bootstrap):
        if _address(address) is None:
            mistakes.append(f"kafka.bootstrap[{place}]: expected host:port, got {address!r}")
    return mistakes + _raw_problems(kafka, set(names.all()))


def _raw_problems(kafka: Kafka, ours: set[str]) -> list[str]:
    mistakes = []
    seen: set[str] = set()
    for place, raw in enumerate(kafka.raw):
        at = f"kafka.raw[{place}]"
        if not _NAME.fullmatch(raw.topic) or len(raw.topic) > 249 or raw.topic in (".", ".."):
            mistakes.append(f"{at}.topic: expected a topic's name (letters, digits, '.', '_', '-'), got {raw.topic!r}")
        elif raw.topic in ours or raw.topic in seen:
            mistakes.append(f"{at}.topic: {raw.topic} is {'one of our own topics' if raw.topic in ours else 'named twice'}")
        seen.add(raw.topic)
        if raw.source.endswith(".toml"):
            try:
                read_mapping(Path(raw.source))
            except MappingError as error:
                mistakes.append(f"{at}.source: {error}")
        elif raw.source == "table" or raw.source not in available():
            known = ", ".join(name for name in available() if name != "table")
            mistakes.append(f"{at}.source: expected one of {known}, or the mapping file of a table (*.toml), got {raw.source!r}")
    return mistakes


def _address(text: str) -> tuple[str, int] | None:
    host, colon, port = text.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if not (colon and host and host.isprintable() and " " not in host and port.isascii() and port.isdigit()):
        return None
    return (host, int(port)) if 0 < int(port) < 65_536 else None


def client(settings: Kafka) -> dict[str, Any]:
    """Keyword arguments for any aiokafka client. Reads the secrets. Raises KafkaError naming the file or variable."""
    given: dict[str, Any] = {"bootstrap_servers": list(settings.bootstrap), "security_protocol": settings.security.upper()}
    if settings.security.endswith("ssl"):
        given["ssl_context"] = _context(settings)
    if settings.security.startswith("sasl"):
        given["sasl_mechanism"] = settings.sasl_mechanism
        given["sasl_plain_username"] = _needed("username", settings.username_file)
        given["sasl_plain_password"] = _needed("password", settings.password_file)
    return given


def _secret(name: str, file: str) -> str:
    """The value of TOCSIN_KAFKA_<NAME>, else of the file without its last line end; "" if neither is given."""
    value = os.environ.get(f"TOCSIN_KAFKA_{name.upper()}", "")
    if value or not file:
        return value
    try:
        # Relative names lie where systemd puts a unit's credentials (LoadCredential=): that folder has another name for each unit.
        return Path(os.environ.get("CREDENTIALS_DIRECTORY", ""), file).read_text(encoding="utf-8").rstrip("\r\n")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not a text file"
        raise KafkaError(f"kafka.{name}_file: {file}: {reason}") from None


def _needed(name: str, file: str) -> str:
    value = _secret(name, file)
    if not value:
        where = f"{file} is empty" if file else f"name a file, or set TOCSIN_KAFKA_{name.upper()}"
        raise KafkaError(f"kafka.{name}_file: kafka.security needs a {name}: {where}")
    return value


def _context(settings: Kafka) -> ssl.SSLContext:
    authority = _secret("ca", settings.ca_file)
    try:
        context = ssl.create_default_context(cadata=authority or None)
    except (ssl.SSLError, ValueError):
        raise KafkaError(f"kafka.ca_file: {_origin('ca', settings.ca_file)} holds no certificate in PEM form") from None
    certificate, key = _secret("cert", settings.cert_file), _secret("key", settings.key_file)
    if bool(certificate) != bool(key):
        raise KafkaError("kafka.cert_file: a certificate and its key (kafka.key_file) are needed together")
    if not certificate:
        return context
    _valid_today(certificate, _origin("cert", settings.cert_file))
    password = _secret("key_password", settings.key_password_file)
    # The library reads certificate and key from files only; these are ours alone and gone at once.
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "client.pem"
        path.touch(mode=0o600)
        path.write_text(f"{certificate}\n{key}\n", encoding="utf-8")
        try:
            # Always a password, if an empty one: without, the library asks for it on the terminal.
            context.load_cert_chain(path, password=password or " ")
        except (ssl.SSLError, OSError):
            raise KafkaError(
                f"kafka.key_file: {_origin('key', settings.key_file)} is not the key of that certificate, or its password is wrong"
            ) from None
    return context


def _origin(name: str, file: str) -> str:
    return f"TOCSIN_KAFKA_{name.upper()}" if os.environ.get(f"TOCSIN_KAFKA_{name.upper()}") else file


def _valid_today(certificate: str, origin: str) -> None:
    """A broker refuses an expired certificate without saying why; we know before we ask. Raises KafkaError."""
    from cryptography import x509

    try:
        read = x509.load_pem_x509_certificate(certificate.encode())
    except ValueError:
        raise KafkaError(f"kafka.cert_file: {origin} holds no certificate in PEM form") from None
    now = datetime.now(UTC)
    if now > read.not_valid_after_utc:
        raise KafkaError(
            f"kafka.cert_file: {origin} expired at {read.not_valid_after_utc:%Y-%m-%dT%H:%M:%SZ}; it is {now:%Y-%m-%dT%H:%M:%SZ}"
        )
    if now < read.not_valid_before_utc:
        raise KafkaError(
            f"kafka.cert_file: {origin} is valid from {read.not_valid_before_utc:%Y-%m-%dT%H:%M:%SZ}; it is {now:%Y-%m-%dT%H:%M:%SZ}"
        )


async def connected(settings: Kafka, say: Callable[[str], object] | None = None) -> None:
    """Return once a broker has answered, at its bootstrap address and at the one it advertises.

    ``say`` is called with one line for every round that failed. Raises KafkaError when ``connect_seconds`` are over, and at once
    where waiting does not help: wrong credentials, a certificate that is refused, TLS on one side only.
    """
    from connectors.reach import reach

    given = client(settings)
    addresses = [found for found in map(_address, given.pop("bootstrap_servers")) if found is not None]
    loop = asyncio.get_running_loop()
    deadline = loop.time() + settings.connect_seconds
    wait, attempt = 0.5, 0
    while True:
        attempt += 1
        # Ten seconds for one answer: a broker in a long pause of its collector still counts as there.
        away = await reach(addresses, given, max(1.0, min(10.0, deadline - loop.time())))
        if away is None:
            return
        if away.final:
            raise KafkaError(away.why)
        left = deadline - loop.time()
        if left <= 0:
            raise KafkaError(f"{away.why}; gave up after {settings.connect_seconds:g} seconds (kafka.connect_seconds)")
        wait = min(wait, left)
        if say is not None:
            say(f"attempt {attempt}: {away.why}; again in {wait:.1f} s, for {left:.0f} s more")
        await asyncio.sleep(wait)
        # Five seconds between attempts are soon enough for people and seldom enough for a log.
        wait = min(wait * 2, 5.0)
