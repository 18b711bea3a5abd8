"""Where the responder's records come from, without a broker (``detector.inbox``): a file of alerts, a folder of people's decisions.

A feed yields deliveries, each at least once, in order. A delivery is settled when its rows are in the ledger; only then is it
committed. What is delivered again is decided once: the ledger knows.
"""

from __future__ import annotations

import asyncio
import os
import pwd
import stat
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import IO, Literal, NamedTuple

from connectors import decision, ocsf
from connectors.names import BadName, identity

#: Pause between two looks at a file or folder, in seconds: containment is asked for within seconds, and a look costs microseconds.
POLL_SECONDS = 0.2


class Delivery(NamedTuple):
    """One record. ``where``: for messages. ``vouched``: whom the channel knows to have sent it, "" for nobody."""

    kind: Literal["alert", "decision"]
    record: bytes
    where: str
    vouched: str = ""
    #: Awaited when it is settled, whatever came of it.
    commit: Callable[[], Awaitable[None]] | None = None
    #: Why it is not one of our records, "" where nothing speaks against it.
    foreign: str = ""
    #: It comes of a replay of what was recorded.
    replay: bool = False


Feed = AsyncIterator[Delivery]


async def alerts_in(path: Path, *, follow: bool) -> Feed:
    """The lines of a file, oldest first; with ``follow`` those that are still to come too, also after the file was replaced.

    Raises OSError where the file cannot be read; with ``follow`` it waits for one that is not there yet.
    """
    number, held = 0, b""
    with ExitStack() as stack:
        file: IO[bytes] | None = None
        while True:
            if file is None:
                file, number, held = _opened(path, follow), 0, b""
                if file is None:
                    await asyncio.sleep(POLL_SECONDS)
                    continue
                stack.pop_all().close()
                stack.enter_context(file)
            piece = file.readline(ocsf.LARGEST + 2 - len(held))
            held += piece
            whole = held.endswith(b"\n")
            if held and (whole or (not piece and not follow) or len(held) > ocsf.LARGEST):
                number += whole
                record, held = held, b""
                if record.strip():
                    yield Delivery("alert", record.rstrip(b"\n"), f"{path}: line {number if whole else number + 1}")
            elif not piece and not follow:
                return
            elif not piece:
                file = None if _replaced(path, file) else file
                await asyncio.sleep(POLL_SECONDS)


def _opened(path: Path, follow: bool) -> IO[bytes] | None:
    """The file; None where it is not there yet and may come. Raises OSError."""
    try:
        return path.open("rb")
    except FileNotFoundError:
        if follow:
            return None
        raise


def _replaced(path: Path, file: IO[bytes]) -> bool:
    """Whether the path names another file by now, or the same one cut short."""
    try:
        now = path.stat()
    except OSError:
        return False
    mine = os.fstat(file.fileno())
    return (now.st_dev, now.st_ino) != (mine.st_dev, mine.st_ino) or now.st_size < file.tell()


async def decisions_in(folder: Path, *, follow: bool) -> Feed:
    """Files dropped into a folder, in order of their names. The owner of a file is who decided: the operating system vouches."""
    seen: set[tuple[str, int]] = set()
    while True:
        for path, changed in _listed(folder):
            if (path.name, changed) not in seen:
                seen.add((path.name, changed))
                with suppress(OSError):
                    yield _dropped(path)
        if not follow:
            return
        await asyncio.sleep(POLL_SECONDS)


def _listed(folder: Path) -> list[tuple[Path, int]]:
    """The files of decisions, each with when it was last changed (nanoseconds)."""
    found = []
    for path in sorted(folder.glob("*.json")):
        with suppress(OSError):
            found.append((path, path.lstat().st_mtime_ns))
    return found


def _unmapped() -> int:
    """The number that stands for every account that has none here."""
    try:
        return int(Path("/proc/sys/kernel/overflowuid").read_text(encoding="ascii"))
    except (OSError, ValueError):
        return 65_534


def _dropped(path: Path) -> Delivery:
    """One file. Raises OSError. No link is followed; a file with a second name is nobody's: another may have put it there."""
    handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    with os.fdopen(handle, "rb") as file:
        about = os.fstat(handle)
        plain = stat.S_ISREG(about.st_mode) and about.st_nlink == 1
        record = file.read(decision.LARGEST + 1) if plain else b""
    vouched = ""
    # Where accounts are mapped (a container, PrivateUsers=), everybody who is not is this one: it vouches for nobody.
    if plain and about.st_uid != _unmapped():
        with suppress(KeyError, BadName):
            vouched = identity("user", pwd.getpwuid(about.st_uid).pw_name)

    async def settled() -> None:
        # Where the folder does not let us, the file stays; the ledger knows that it was taken.
        with suppress(OSError):
            os.unlink(path)  # noqa: PTH108  pathlib's is taken for slow inside a coroutine; this is one system call

    return Delivery("decision", record, str(path), vouched, settled)
