"""A target in a process of its own, and an adapter for it: what a responder that is killed leaves behind can be looked at.

``serve`` is a small HTTP server that switches things off and on and counts every change. ``main`` runs ``tocsin`` with the adapter in
place of the lab's, and dies by SIGKILL at the boundary that the environment names; only this wrapper knows of it.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import traceback
from collections.abc import Callable
from contextlib import redirect_stdout
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar, NoReturn

import httpx
import msgspec
import typer

import replay.respond
from connectors.containment import Action, Applied, Prepared, Rehearsal, Undone, Verb, Verified, available
from connectors.event import SECOND
from detector.ledger import Ledger
from detector.responder import Clock
from replay.cli import app

#: Where the process dies: "<step>:<before|after>:<n>th time". Read by ``main`` only.
CRASH = "TOCSIN_TEST_CRASH"
TARGET = "TOCSIN_TEST_TARGET"
LATER = "TOCSIN_TEST_LATER"


class _Handler(BaseHTTPRequestHandler):
    """PUT switches off, DELETE on, GET tells; every change is counted."""

    off: ClassVar[dict[str, str]]
    changes: ClassVar[list[str]]

    def do_PUT(self) -> None:
        name, action = self.path.lstrip("/").split("/")
        if self.off.setdefault(name, action) == action and f"off {name} {action}" not in self.changes[-1:]:
            self.changes.append(f"off {name} {action}")
        self._answer()

    def do_DELETE(self) -> None:
        name, action = self.path.lstrip("/").split("/")
        if self.off.get(name) == action:
            del self.off[name]
            self.changes.append(f"on {name} {action}")
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def _answer(self) -> None:
        body = json.dumps({"off": self.off, "changes": self.changes}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        """Nothing."""


def serve() -> tuple[ThreadingHTTPServer, dict[str, str], list[str]]:
    """A running target on a free port: the server, what is off, and every change there was."""

    class Handler(_Handler):
        off: ClassVar[dict[str, str]] = {}
        changes: ClassVar[list[str]] = []

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    return server, Handler.off, Handler.changes


class NoSettings(msgspec.Struct, forbid_unknown_fields=True):
    """None."""


class FarTarget:
    """The adapter. ``isolate_pod`` switches off."""

    title: ClassVar[str] = "a target in another process"
    Settings: ClassVar[type[msgspec.Struct]] = NoSettings
    verbs: ClassVar[tuple[Verb, ...]] = (Verb(name="isolate_pod", kinds=("pod",), undoable=True, residual="Nothing.", needs=("put",)),)

    def __init__(self, settings: NoSettings) -> None:
        self._url = os.environ[TARGET]

    def prepare(self, action: Action) -> Prepared:
        return Prepared("already", "is off") if self._name(action) in self._state()["off"] else Prepared("ready", "", {"v": 1})

    def apply(self, action: Action) -> Applied:
        httpx.put(f"{self._url}/{self._name(action)}/{action.id}", trust_env=False, timeout=60)
        return Applied("applied", "switched off")

    def verify(self, action: Action) -> Verified:
        there = self._state()["off"].get(self._name(action)) == action.id
        return Verified("verified" if there else "not-effective", "looked")

    def undo(self, action: Action) -> Undone:
        httpx.delete(f"{self._url}/{self._name(action)}/{action.id}", trust_env=False, timeout=60)
        return Undone("undone", "switched on")

    def verify_undone(self, action: Action) -> Verified:
        return Verified("not-effective" if self._state()["off"].get(self._name(action)) == action.id else "verified", "looked")

    def close(self) -> None:
        """Nothing is held open."""

    @classmethod
    def rehearsal(cls) -> Rehearsal:
        raise NotImplementedError

    def _name(self, action: Action) -> str:
        return action.target.partition(":")[2].replace("/", "-")

    def _state(self) -> dict[str, Any]:
        state: dict[str, Any] = httpx.get(self._url + "/", trust_env=False, timeout=60).json()
        return state


def mortal(owner: type, name: str, called: str | Callable[..., str]) -> None:
    """Make a method a place to die: before or after its call, as the environment says."""
    where, _, when = os.environ.get(CRASH, "").partition(":")
    whole = getattr(owner, name)

    def dying(self: Any, *args: Any, **named: Any) -> Any:
        here = (called if isinstance(called, str) else called(*args)) == where
        if here and when == "before":
            os.kill(os.getpid(), signal.SIGKILL)
        result = whole(self, *args, **named)
        if here and when == "after":
            os.kill(os.getpid(), signal.SIGKILL)
        return result

    setattr(owner, name, dying)


def rows(entries: Any) -> str:
    """What a write is called: after the step and result of its last row."""
    last = list(entries)[-1:]
    return f"row {last[0].step}/{last[0].result}" if last else ""


#: Every boundary of one action's life: where, and on which side of it the process dies.
BOUNDARIES = [
    f"{where}:{when}"
    for where in (
        "row decided/enforced",
        "prepare",
        "row intent/",
        "apply",
        "row outcome/carried-out",
        "verify",
        "row verify/verified",
        "row undo-intent/",
        "undo",
        "row undo/undone",
        "verify_undone",
        "row undo-verify/undo-verified",
    )
    for when in ("before", "after")
]


class Later(Clock):
    """The present, so many seconds later."""

    def __call__(self) -> int:
        return super().__call__() + int(os.environ.get(LATER, "0")) * SECOND


def main(adapter: type = FarTarget, name: str = "lab") -> None:
    """Run ``tocsin`` once for each line read ({"argv": [...], "env": {...}}), in a fork each: killed or not, the next one starts fresh.

    Prints the wait status of each. ``adapter`` stands under ``name``; for adapters of real servers give those.
    """
    available()[name] = adapter
    replay.respond.Clock = Later  # type: ignore[attr-defined]
    with tempfile.TemporaryDirectory() as folder:
        # Once for nothing, so that what is imported late is not imported in every fork.
        (Path(folder) / "none.jsonl").touch()
        app(["respond", f"{folder}/none.jsonl", "--ledger", f"{folder}/ledger"], standalone_mode=False)
    for line in sys.stdin:
        given = json.loads(line)
        child = os.fork()
        if child == 0:
            _life(adapter, given)
        sys.stdout.write(f"{os.waitpid(child, 0)[1]}\n")
        sys.stdout.flush()


def _life(adapter: type, given: dict[str, Any]) -> NoReturn:
    os.environ.update(given["env"])
    for step in ("prepare", "apply", "verify", "undo", "verify_undone"):
        mortal(adapter, step, step)
    mortal(Ledger, "append", rows)
    code = 1
    try:
        with Path(os.devnull).open("w") as nowhere, redirect_stdout(nowhere):
            app(given["argv"], standalone_mode=False)
        code = 0
    except typer.Exit as ended:
        code = ended.exit_code
    except BaseException:
        traceback.print_exc()
    os._exit(code)


class Lives:
    """A process that runs ``tocsin`` again and again: ``python -m <module>`` must call ``main``."""

    def __init__(self, target: str, module: str = "tests.fake_target") -> None:
        self._process = subprocess.Popen(  # noqa: S603  our own module
            [sys.executable, "-m", module], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env={**os.environ, TARGET: target}
        )

    def run(self, *argv: str, crash: str = "", later: int = 0) -> int:
        """One life; its exit code, negative where a signal ended it."""
        assert self._process.stdin
        assert self._process.stdout
        self._process.stdin.write(json.dumps({"argv": list(argv), "env": {CRASH: crash, LATER: str(later)}}) + "\n")
        self._process.stdin.flush()
        return os.waitstatus_to_exitcode(int(self._process.stdout.readline()))

    def close(self) -> None:
        """End the process."""
        assert self._process.stdin
        assert self._process.stdout
        self._process.stdin.close()
        self._process.stdout.close()
        self._process.wait(10)


if __name__ == "__main__":
    main()
