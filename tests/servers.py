"""PostgreSQL and Keycloak for tests: real servers on free ports of 127.0.0.1, each started when first asked for, once a session.

PostgreSQL is taken from the machine: ``initdb`` on the path, or Debian's folder. Keycloak comes through Maven, 176 MB, and is built for
a database in memory, half a minute, once: it then lies in ``${XDG_CACHE_HOME:-~/.cache}/tocsin/keycloak-VERSION``, 190 MB; it needs
``mvn`` and Java 17 or later. Where a server cannot be had the test is skipped and says why; in CI (``CI`` set) it fails.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import signal
import subprocess
import tarfile
import tempfile
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NoReturn

import httpx
import psycopg
import pytest

from tests.kube import until
from tests.ports import free_port

#: Where Debian keeps what is not on the path.
_DEBIAN = Path("/usr/lib/postgresql")
#: The user that PostgreSQL runs as where the tests run as root, which it refuses: nobody.
_NOBODY = 65534
#: Longest that a step of PostgreSQL may take, in seconds; on two busy cores it is one.
_POSTGRES_TIMEOUT = 60
#: No durability, for nothing survives the session; a small cache.
_SETTINGS = "-c fsync=off -c synchronous_commit=off -c full_page_writes=off -c shared_buffers=32MB"


def absent(reason: str) -> NoReturn:
    """Skip the test where a server is missing; in CI, fail it."""
    if os.environ.get("CI"):
        pytest.fail(reason)
    pytest.skip(reason)


class Postgres:
    """A server while it runs. ``stop`` and ``start`` are for tests of a database that goes away and comes back."""

    def __init__(self, programs: Path, folder: Path) -> None:
        self.port = free_port()
        self._programs, self._folder = programs, folder
        self._data = folder / "data"
        self._as: list[str] = []
        if os.geteuid() == 0:
            self._as = ["setpriv", f"--reuid={_NOBODY}", f"--regid={_NOBODY}", "--clear-groups"]
            os.chown(folder, _NOBODY, _NOBODY)
        self._run("initdb", "-D", str(self._data), "-U", "tocsin", "-A", "trust", "--no-sync", "-E", "UTF8", "--locale=C.UTF-8")
        self.start()

    def start(self) -> None:
        """Start it, and wait until it answers."""
        where = f"-p {self.port} -c listen_addresses=127.0.0.1 -c unix_socket_directories={self._folder}"
        self._run("pg_ctl", "-D", str(self._data), "-l", str(self._folder / "log"), "-w", "-o", f"{where} {_SETTINGS}", "start")

    def stop(self) -> None:
        """End it at once, as a power cut does: connections break, nothing is finished."""
        self._run("pg_ctl", "-D", str(self._data), "-m", "immediate", "-w", "stop")

    def database(self) -> str:
        """A new, empty database; its URL for SQLAlchemy."""
        name = f"t{uuid.uuid4().hex}"
        with psycopg.connect(f"host=127.0.0.1 port={self.port} user=tocsin dbname=postgres", autocommit=True) as connection:
            connection.execute(f'CREATE DATABASE "{name}"'.encode())
        return f"postgresql+psycopg://tocsin@127.0.0.1:{self.port}/{name}"

    def _run(self, program: str, *arguments: str) -> None:
        given = {"HOME": str(self._folder), "LC_ALL": "C.UTF-8", "PATH": os.environ.get("PATH", "")}
        log = self._folder.with_suffix(".out")
        # Not a pipe: the server would inherit it, and the end of the output never come.
        with log.open("wb") as out:
            command = [*self._as, str(self._programs / program), *arguments]
            done = subprocess.run(command, env=given, stdout=out, stderr=out, cwd="/", timeout=_POSTGRES_TIMEOUT)  # noqa: S603 - ours
        if done.returncode:
            raise RuntimeError(f"{program}: {log.read_text(errors='replace')[-1000:]}")


def _postgres_programs() -> Path | None:
    found = shutil.which("initdb")
    if found:
        return Path(found).parent
    debian = sorted(_DEBIAN.glob("*/bin/initdb"), key=lambda path: int(path.parts[-3])) if _DEBIAN.is_dir() else []
    return debian[-1].parent if debian else None


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    """A PostgreSQL server."""
    programs = _postgres_programs()
    if programs is None:
        absent("no PostgreSQL: initdb is neither on the path nor below /usr/lib/postgresql")
    with tempfile.TemporaryDirectory(prefix="tocsin-postgres-") as folder:
        # Its socket's path has a limit of 107 bytes, and its owner is another user: a folder of its own in a readable one.
        Path(folder).chmod(0o755)
        home = Path(folder) / "pg"
        home.mkdir()
        server = Postgres(programs, home)
        yield server
        server.stop()


@pytest.fixture
def postgres_url(postgres: Postgres) -> str:
    """An empty database of that server; its URL for SQLAlchemy."""
    return postgres.database()


KEYCLOAK = "26.7.3"
_CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "tocsin"
#: Longest that the download and the build may take, in seconds; measured: 7 and 33.
_KEYCLOAK_BUILD_TIMEOUT = 1800
#: Longest until Keycloak answers, in seconds; measured: 18 to 30 on two busy cores.
_KEYCLOAK_START_TIMEOUT = 240
_ADMIN = "admin"


def build_keycloak() -> Path:
    """The folder of the built server, made where it is absent. Raises RuntimeError where it cannot be."""
    built = _CACHE / f"keycloak-{KEYCLOAK}"
    _CACHE.mkdir(parents=True, exist_ok=True)
    with (_CACHE / "keycloak.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if built.exists():
            return built
        for needed in ("mvn", "java"):
            if not shutil.which(needed):
                raise RuntimeError(f"{built} is absent, and so is {needed} to make it")
        with tempfile.TemporaryDirectory(dir=_CACHE) as work:
            artifact = f"org.keycloak:keycloak-quarkus-dist:{KEYCLOAK}:tar.gz"
            _make("mvn", "-q", "-B", "dependency:copy", f"-Dartifact={artifact}", f"-DoutputDirectory={work}")
            with tarfile.open(Path(work) / f"keycloak-quarkus-dist-{KEYCLOAK}.tar.gz") as packed:
                packed.extractall(work, filter="data")
            home = Path(work) / f"keycloak-{KEYCLOAK}"
            _make(str(home / "bin" / "kc.sh"), "build", "--db=dev-mem", "--health-enabled=true")
            home.rename(built)
    return built


def _make(*command: str) -> None:
    done = subprocess.run(["nice", *command], capture_output=True, text=True, timeout=_KEYCLOAK_BUILD_TIMEOUT)  # noqa: S603, S607 - ours
    if done.returncode:
        raise RuntimeError(f"{command[0]}: {(done.stdout + done.stderr)[-2000:]}")


class Keycloak:
    """A server that runs. ``call`` speaks to it as its administrator."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.client = httpx.Client(base_url=url, timeout=60, trust_env=False)
        self._bearer, self._until = "", 0.0

    def token(self, realm: str, **form: str) -> httpx.Response:
        """What the token endpoint of a realm answers."""
        return self.client.post(f"/realms/{realm}/protocol/openid-connect/token", data=form)

    def call(self, method: str, path: str, body: Any = None) -> httpx.Response:
        """One call of the admin API; any answer is an answer."""
        if time.monotonic() > self._until:
            given = self.token("master", client_id="admin-cli", grant_type="password", username=_ADMIN, password=_ADMIN).json()
            self._bearer, self._until = given["access_token"], time.monotonic() + given["expires_in"] / 2
        headers = {"Authorization": f"Bearer {self._bearer}"}
        return self.client.request(method, f"/admin/realms{path}", headers=headers, json=body)

    def ask(self, method: str, path: str, body: Any = None) -> Any:
        """One call that must succeed; its answer, None where there is none."""
        reply = self.call(method, path, body)
        assert reply.status_code < 300, f"{method} {path}: {reply.status_code} {reply.text[:500]}"
        return reply.json() if reply.content else None


@contextmanager
def running_keycloak(built: Path, home: Path) -> Iterator[Keycloak]:
    """The built server, its files in ``home``; ended afterwards."""
    # Links, for the server writes below its own folder and several may run at once.
    shutil.copytree(built, home, copy_function=os.link)
    port, health = free_port(), free_port()
    given = {**os.environ, "KC_BOOTSTRAP_ADMIN_USERNAME": _ADMIN, "KC_BOOTSTRAP_ADMIN_PASSWORD": _ADMIN}
    given["JAVA_OPTS_KC_HEAP"] = "-Xms128m -Xmx512m"
    command = [str(home / "bin" / "kc.sh"), "start", "--optimized", "--http-enabled=true", "--http-host=127.0.0.1"]
    command += [f"--http-port={port}", f"--http-management-port={health}", "--hostname-strict=false", "--cache=local"]
    log = home / "run.log"

    def ready() -> bool:
        assert process.poll() is None, f"Keycloak ended at once: {log.read_text(errors='replace')[-2000:]}"
        try:
            return httpx.get(f"http://127.0.0.1:{health}/health/ready", trust_env=False).status_code == 200
        except httpx.HTTPError:
            return False

    with log.open("wb") as out:
        # Java is a child of the script: both are ended as one group.
        process = subprocess.Popen(command, env=given, stdout=out, stderr=out, start_new_session=True)  # noqa: S603 - ours
    try:
        until("Keycloak is ready", ready, _KEYCLOAK_START_TIMEOUT)
        yield Keycloak(f"http://127.0.0.1:{port}")
    finally:
        for how in (signal.SIGTERM, signal.SIGKILL):
            if process.poll() is None:
                os.killpg(process.pid, how)
                with suppress(subprocess.TimeoutExpired):
                    process.wait(15)


@pytest.fixture(scope="session")
def keycloak() -> Iterator[Keycloak]:
    """A Keycloak server: the one at TOCSIN_KEYCLOAK, a development server with the administrator ``admin``, else one of our own."""
    named = os.environ.get("TOCSIN_KEYCLOAK")
    if named:
        server = Keycloak(named)
        yield server
        server.client.close()
        return
    try:
        built = build_keycloak()
    except RuntimeError as error:
        absent(f"no Keycloak: {error}")
    with tempfile.TemporaryDirectory(dir=_CACHE, prefix="run-") as folder, running_keycloak(built, Path(folder) / "keycloak") as server:
        yield server
        server.client.close()
