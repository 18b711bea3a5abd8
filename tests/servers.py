"""PostgreSQL and Keycloak for tests: real servers on free ports of 127.0.0.1, each started when first asked for, once a session.

PostgreSQL is taken from the machine: ``initdb`` on the path, or Debian's folder. Where a server cannot be had the test is skipped and
says why; in CI (``CI`` set) it fails.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

import psycopg
import pytest

from tests.kube import free_port

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
