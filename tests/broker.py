"""A real Apache Kafka broker for tests and benchmarks: one KRaft node on free ports of 127.0.0.1.

Where it comes from, in this order:

1. ``TOCSIN_TEST_KAFKA``: the bootstrap address of a broker that runs already;
2. Docker, if ``docker info`` succeeds and the image can be had;
3. Java and ``mvn``, which fetches the jars of ``tests/kafka-broker.pom.xml`` once into
   ``${XDG_CACHE_HOME:-~/.cache}/tocsin/kafka-<version>`` (54 MB; delete the folder to be rid of them).

Without any of them a test is skipped with the reason; with ``CI=true`` it fails.
``python -m tests.broker`` runs one in the foreground and prints its bootstrap address.
"""

# ruff: noqa: S603, S607  what is run here, and with which words, is written here

from __future__ import annotations

import argparse
import base64
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import NoReturn, Self

import pytest

from tests.certificates import Authority
from tests.ports import free_port

_POM = Path(__file__).with_name("kafka-broker.pom.xml")
_READY = b"Kafka Server started"
#: Seconds until a broker must be up: 3 on idle cores, many times that on loaded ones.
_START_SECONDS = 90.0

#: The one user of the listeners that ask for a name.
USERNAME, PASSWORD = "tocsin", "correct-horse"

#: Listener -> its security protocol. "expired" shows a certificate of yesterday, "mtls" asks for the client's.
SECURE = {
    "sasl_plaintext": "SASL_PLAINTEXT",
    "ssl": "SSL",
    "mtls": "SSL",
    "sasl_ssl": "SASL_SSL",
    "expired": "SSL",
}

_LOGGING = """\
rootLogger.level = WARN
rootLogger.appenderRef.console.ref = console
logger.started.name = kafka.server.KafkaRaftServer
logger.started.level = INFO
appender.console.type = Console
appender.console.name = console
appender.console.layout.type = PatternLayout
appender.console.layout.pattern = %d %p %m (%c)%n
"""

#: Ends the broker, and removes its folder, when whoever started it is gone without having stopped it (kill -9 of pytest).
_WATCH = 'while kill -0 "$2" 2>/dev/null; do kill -0 "$1" 2>/dev/null || { "$3" "$4" "$5"; sleep 1; rm -rf "$6"; exit; }; sleep 1; done'


class NoBroker(RuntimeError):
    """No broker can be had here; the message says why."""


def version() -> str:
    """The version of Apache Kafka that the tests run."""
    found = re.search(r"<kafka\.version>([\w.]+)<", _POM.read_text(encoding="utf-8"))
    assert found is not None
    return found[1]


def absent(reason: str) -> NoReturn:
    """Skip the test that needs what is not there; in CI fail it."""
    if os.environ.get("CI") == "true":
        pytest.fail(reason, pytrace=False)
    pytest.skip(reason)


def _runs(*command: str, seconds: float = 20.0) -> bool:
    try:
        return subprocess.run(command, capture_output=True, timeout=seconds, check=False).returncode == 0
    except (OSError, subprocess.TimeoutExpired):
        return False


def _image() -> str | None:
    """The Docker image, if Docker runs here and has it or can fetch it."""
    image = f"apache/kafka:{version()}"
    usable = _runs("docker", "info") and (
        _runs("docker", "image", "inspect", image) or _runs("docker", "pull", "-q", image, seconds=600)
    )
    return image if usable else None


def _jars() -> Path:
    """The folder of the jars, fetched if this is the first time. Raises NoBroker."""
    cache = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    kept = Path(cache).expanduser() / "tocsin" / f"kafka-{version()}"
    if kept.is_dir():
        return kept
    for need in ("java", "mvn"):
        if shutil.which(need) is None:
            raise NoBroker(f"needs Apache Kafka: set TOCSIN_TEST_KAFKA, or have Docker, or Java and mvn ({need} is not here)")
    kept.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=kept.parent) as scratch:
        # Into a folder of its own and then renamed: another run may fetch at the same time.
        libs = Path(scratch) / "libs"
        command = ["mvn", "-q", "-B", "-f", str(_POM), "dependency:copy-dependencies", f"-DoutputDirectory={libs}"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
        if done.returncode:
            raise NoBroker(f"needs Apache Kafka: mvn cannot fetch the jars: {(done.stdout + done.stderr)[-800:]}")
        with suppress(OSError):
            libs.rename(kept)
    return kept


class Broker:
    """One broker of our own. Ready to use once made; a context manager that stops it and removes its folder.

    ``bootstrap``: address of the plaintext listener. ``addresses``: the same as ``plaintext``, and with ``secure`` the listeners of
    ``SECURE``; ``authority`` then signed the brokers' certificates and issues the clients'. ``log``: file of the broker's output.
    ``properties`` are laid over the configuration, ``heap_mb`` is Java's heap. ``quick``: up with half the work (4 s of a
    core for 9), but never as fast as it could become: for tests, not for measurements.
    """

    def __init__(
        self, *, secure: bool = False, properties: dict[str, str] | None = None, heap_mb: int = 512, quick: bool = True
    ) -> None:
        self._image = _image()
        self._libs = "/opt/kafka/libs" if self._image else str(_jars())
        self._name = f"tocsin-test-{uuid.uuid4().hex[:12]}"
        # The first compiler only, and the collector that needs no threads.
        self._java = [f"-Xmx{heap_mb}m", *(("-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC") if quick else ())]
        self._process: subprocess.Popen[bytes] | None = None
        self._watch: subprocess.Popen[bytes] | None = None
        self._paused = False
        self.folder = Path(tempfile.mkdtemp(prefix="tocsin-kafka-"))
        self.log = self.folder / "broker.log"
        names = ["plaintext", "controller", *(SECURE if secure else ())]
        self.addresses = {name: f"127.0.0.1:{free_port()}" for name in names}
        controller = self.addresses.pop("controller")
        self.bootstrap = self.addresses["plaintext"]
        self.authority = Authority(self.folder)
        settings = _settings(self.folder, self.addresses, controller)
        if secure:
            settings |= _secure(self.authority)
        lines = [f"{key}={value}" for key, value in (settings | (properties or {})).items()]
        (self.folder / "server.properties").write_text("\n".join(lines) + "\n", encoding="utf-8")
        (self.folder / "log4j2.properties").write_text(_LOGGING, encoding="utf-8")
        try:
            self._format()
            self.start()
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    @property
    def pid(self) -> int | None:
        """Process id of the broker (of the Docker client that holds it), None while it is stopped."""
        return None if self._process is None else self._process.pid

    def start(self) -> None:
        """Start on the data and ports there are, and wait until it serves. Raises NoBroker with the end of its log."""
        assert self._process is None, "the broker runs already"
        written = self.log.stat().st_size if self.log.exists() else 0
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                self._command("kafka.Kafka", str(self.folder / "server.properties")),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                # A Ctrl-C is for the tests; they stop the broker themselves.
                start_new_session=True,
            )
        stop = ("docker", "kill", self._name) if self._image else ("kill", "-9", str(self._process.pid))
        self._watch = subprocess.Popen(
            ["sh", "-c", _WATCH, "watch", str(os.getpid()), str(self._process.pid), *stop, str(self.folder)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        deadline = time.monotonic() + _START_SECONDS
        while _READY not in self.log.read_bytes()[written:]:
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise NoBroker(f"Apache Kafka does not come up: {self.log.read_text(errors='replace')[-2000:]}")
            time.sleep(0.05)

    def stop(self) -> None:
        """Stop in order: flush, say goodbye, end. Nothing if it is stopped already."""
        self.resume()
        self._signal(signal.SIGTERM)
        self._ended(30.0)

    def kill(self) -> None:
        """Kill -9: nothing is flushed, nobody is told."""
        self._signal(signal.SIGKILL)
        self._ended(30.0)

    def pause(self) -> None:
        """Stand still (SIGSTOP): connections stay open and nothing answers."""
        self._signal(signal.SIGSTOP)
        self._paused = True

    def resume(self) -> None:
        """Go on after ``pause``."""
        if self._paused:
            self._signal(signal.SIGCONT)
        self._paused = False

    def close(self) -> None:
        """Stop, and remove the data."""
        self.stop()
        shutil.rmtree(self.folder, ignore_errors=True)

    def _command(self, main: str, *arguments: str) -> list[str]:
        java = ["java", *self._java, f"-Dlog4j2.configurationFile={self.folder / 'log4j2.properties'}"]
        call = ["-cp", f"{self._libs}/*", main, *arguments]
        if self._image is None:
            return [*java, *call]
        place = f"{self.folder}:{self.folder}"
        options = ["--rm", "--network", "host", "--user", f"{os.getuid()}:{os.getgid()}", "--volume", place, "--entrypoint", "java"]
        # The formatter runs to its end under the same name before the broker takes it.
        return ["docker", "run", "--name", self._name, *options, self._image, *java[1:], *call]

    def _format(self) -> None:
        # The letter keeps the id from beginning with "-", which would read as an option.
        cluster = "T" + base64.urlsafe_b64encode(uuid.uuid4().bytes).decode()[1:22]
        scram = [f"{kind}=[name={USERNAME},password={PASSWORD}]" for kind in ("SCRAM-SHA-256", "SCRAM-SHA-512")]
        arguments = ["format", "-t", cluster, "-c", str(self.folder / "server.properties"), "--standalone"]
        arguments += [part for each in scram for part in ("--add-scram", each)]
        command = self._command("kafka.tools.StorageTool", *arguments)
        done = subprocess.run(command, capture_output=True, text=True, timeout=_START_SECONDS, check=False)
        if done.returncode:
            raise NoBroker(f"Apache Kafka cannot format its folder: {(done.stdout + done.stderr)[-2000:]}")

    def _signal(self, what: signal.Signals) -> None:
        if self._process is None or self._process.poll() is not None:
            return
        if self._image is None:
            self._process.send_signal(what)
        else:
            subprocess.run(["docker", "kill", "--signal", what.name, self._name], capture_output=True, timeout=30, check=False)

    def _ended(self, seconds: float) -> None:
        if self._process is None:
            return
        try:
            self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            self._signal(signal.SIGKILL)
            self._process.wait(seconds)
        if self._watch is not None:
            self._watch.kill()
            self._watch.wait(seconds)
        self._process = self._watch = None
        self._paused = False


class Running:
    """A broker that somebody else runs (``TOCSIN_TEST_KAFKA``): it has an address and cannot be stopped, killed or paused."""

    def __init__(self, bootstrap: str) -> None:
        self.bootstrap = bootstrap
        self.addresses = {"plaintext": bootstrap}

    def close(self) -> None:
        """Leave it running."""


def own_broker(*, secure: bool = False, properties: dict[str, str] | None = None) -> Broker:
    """A broker of a test's own, to be killed or set up otherwise; skips the test (in CI: fails it) where none can be had."""
    try:
        return Broker(secure=secure, properties=properties)
    except NoBroker as error:
        absent(str(error))


def any_broker() -> Broker | Running:
    """The running broker that was named, or one of our own. Raises NoBroker."""
    named = os.environ.get("TOCSIN_TEST_KAFKA")
    return Running(named) if named else Broker()


def _settings(folder: Path, addresses: dict[str, str], controller: str) -> dict[str, str]:
    listeners = ",".join(f"{name.upper()}://{address}" for name, address in addresses.items())
    protocols = {"controller": "PLAINTEXT", "plaintext": "PLAINTEXT", **SECURE}
    return {
        "process.roles": "broker,controller",
        "node.id": "1",
        "controller.quorum.bootstrap.servers": controller,
        "listeners": f"{listeners},CONTROLLER://{controller}",
        "advertised.listeners": f"{listeners},CONTROLLER://{controller}",
        "controller.listener.names": "CONTROLLER",
        "inter.broker.listener.name": "PLAINTEXT",
        "listener.security.protocol.map": ",".join(f"{name.upper()}:{kind}" for name, kind in protocols.items()),
        "log.dirs": str(folder / "data"),
        "auto.create.topics.enable": "false",
        # A single broker, and as few partitions of the broker's own topics as show the same behaviour: they cost start-up time.
        "offsets.topic.replication.factor": "1",
        "offsets.topic.num.partitions": "4",
        "transaction.state.log.replication.factor": "1",
        "transaction.state.log.min.isr": "1",
        "transaction.state.log.num.partitions": "4",
        "share.coordinator.state.topic.replication.factor": "1",
        "share.coordinator.state.topic.min.isr": "1",
        "group.initial.rebalance.delay.ms": "0",
        # Tests of lost members must not wait for the six seconds that are the least by default.
        "group.min.session.timeout.ms": "1000",
        # After kill -9 the controller lets the broker in again only when its old session is over: by default nine seconds.
        "broker.session.timeout.ms": "3000",
        "broker.heartbeat.interval.ms": "500",
    }


def _secure(authority: Authority) -> dict[str, str]:
    server, expired = authority.issue("broker"), authority.issue("broker-expired", days=(-1, -0.1))
    plain = f'org.apache.kafka.common.security.plain.PlainLoginModule required user_{USERNAME}="{PASSWORD}";'
    scram = "org.apache.kafka.common.security.scram.ScramLoginModule required;"
    settings: dict[str, str] = {"listener.name.mtls.ssl.client.auth": "required"}
    for name, protocol in SECURE.items():
        of = f"listener.name.{name}."
        if protocol.endswith("SSL"):
            settings[of + "ssl.keystore.type"] = settings[of + "ssl.truststore.type"] = "PEM"
            settings[of + "ssl.keystore.location"] = str(expired if name == "expired" else server)
            settings[of + "ssl.truststore.location"] = str(authority.ca)
        if protocol.startswith("SASL"):
            settings[of + "sasl.enabled.mechanisms"] = "PLAIN,SCRAM-SHA-256,SCRAM-SHA-512"
            settings[of + "plain.sasl.jaas.config"] = plain
            settings[of + "scram-sha-256.sasl.jaas.config"] = scram
            settings[of + "scram-sha-512.sasl.jaas.config"] = scram
    return settings


def main() -> None:
    """Run a broker until interrupted; its addresses go to standard output, the bootstrap address first."""
    parser = argparse.ArgumentParser(prog="python -m tests.broker", description="Run an Apache Kafka broker in the foreground.")
    parser.add_argument("--secure", action="store_true", help="with SASL and TLS listeners as well")
    parser.add_argument("--heap-mb", type=int, default=512, help="Java heap, MB (512)")
    given = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    try:
        with suppress(KeyboardInterrupt), Broker(secure=given.secure, heap_mb=given.heap_mb, quick=False) as broker:
            sys.stdout.write(broker.bootstrap + "\n")
            for name, address in list(broker.addresses.items())[1:]:
                sys.stdout.write(f"{name} {address}\n")
            sys.stdout.flush()
            signal.pause()
    except NoBroker as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
