"""``tocsin`` with an ingest that dies at the worst moments: part of what it polled has arrived, the rest has not, nothing is committed.

``CRASHES``: a file that counts them; ``MOST``: after so many it lives on. ``AT_ONCE`` makes it a bad one besides: after a crash it goes
on with every binding that is known by then, not with those that its rows were resolved with.
"""

from __future__ import annotations

import asyncio
import os
import random
import signal
from pathlib import Path
from typing import Any

from detector import collect, intake, takeover
from replay.cli import main


def install(crashes: Path, most: int, *, at_once: bool) -> None:
    """Replace what the module's first line says."""
    done = len(crashes.read_text()) if crashes.exists() else 0
    draw = random.Random(done)
    state = {"left": draw.randint(5, 15) if done < most else 1 << 60, "dying": False}
    split, commit = intake.by_actor, collect.Collector._maybe_commit  # type: ignore[attr-defined]
    processes: list[Any] = []

    async def maybe_commit(self: Any) -> None:
        processes[:] = [self.process]
        if not state["dying"]:
            await commit(self)

    async def die() -> None:
        await processes[0].out.settle()
        with crashes.open("a") as file:
            file.write("x")
        os.kill(os.getpid(), signal.SIGKILL)

    def by_actor(*given: Any, **named: Any) -> list[tuple[int, bytes]]:
        parts = split(*given, **named)
        state["left"] -= 1
        if state["dying"] or (state["left"] <= 0 and len(parts) > 1 and processes):
            if not state["dying"]:
                state["dying"] = True
                asyncio.get_running_loop().create_task(die())
                return draw.sample(parts, len(parts) // 2)
            return []
        return parts

    intake.by_actor = by_actor  # type: ignore[attr-defined]
    collect.Collector._maybe_commit = maybe_commit  # type: ignore[method-assign]
    if at_once:
        agreed_to = takeover.agreed_to

        async def everything(process: Any, _: int) -> Any:
            return await agreed_to(process, -1)

        takeover.agreed_to = everything  # type: ignore[assignment]


if __name__ == "__main__":
    install(Path(os.environ["CRASHES"]), int(os.environ["MOST"]), at_once="AT_ONCE" in os.environ)
    main()
