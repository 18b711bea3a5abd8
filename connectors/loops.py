"""Event loops that do not wait long for a TLS peer to say goodbye.

A Kafka broker that is busy with a request leaves the goodbye of who asked unanswered, and who closes a client waits for an answer: half
a minute, unless told otherwise. To open a partition takes several clients, so that a restart took as long, and a session ran out.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any

#: Seconds for the goodbye. Who closes a client of ours has had all answers that it waits for.
GOODBYE = 0.2

_Base: type[asyncio.AbstractEventLoop] = asyncio.SelectorEventLoop
with contextlib.suppress(ImportError):
    import uvloop

    # It costs less a message.
    _Base = uvloop.Loop


class Loop(_Base):  # type: ignore[valid-type, misc]
    """An event loop. ``create_connection`` takes ``ssl_shutdown_timeout`` as ever; unless it is given, it is ``GOODBYE``."""

    async def create_connection(self, *arguments: Any, **given: Any) -> Any:
        """See asyncio."""
        if given.get("ssl"):
            given.setdefault("ssl_shutdown_timeout", GOODBYE)
        return await super().create_connection(*arguments, **given)


class Policy(asyncio.DefaultEventLoopPolicy):
    """Makes such loops, in every thread."""

    def new_event_loop(self) -> asyncio.AbstractEventLoop:
        """See asyncio."""
        return Loop()
