"""The responder's process from its first connection to its last: topics or files in, the ledger's anchors out, a page about itself.

A broker that is away keeps it from hearing, never from taking back what is due. Asked to end, it finishes what is under way; what takes
longer is in the ledger and is taken up by the next start.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
from collections.abc import Callable, Coroutine
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, NamedTuple

from aiokafka.errors import KafkaError as BrokerError

from connectors.kafka import Kafka, KafkaError, connected
from detector.anchor import Anchorer, compared, from_file, key_of
from detector.anchorage import Anchorage
from detector.feeds import Feed, alerts_in, decisions_in
from detector.health import Health
from detector.inbox import Inbox
from detector.ledger import Ledger
from detector.policy import Respond
from detector.responder import News, Service, serve
from detector.vitals import Vitals

log = logging.getLogger("tocsin.respond")

#: Seconds for the call that is under way once it was asked to end: less than supervisors wait before they kill.
DRAIN_SECONDS = 7.0
#: Exit code where that was not enough: what is unfinished goes on with the next start.
AGAIN = 75


class Post(NamedTuple):
    """Where a responder serves. ``alerts``: a file, or None for the topic. ``make``: the service, given what anchors its ledger."""

    respond: Respond
    kafka: Kafka
    book: Ledger
    alerts: Path | None
    follow: bool
    listen: str
    version: str
    make: Callable[[Anchorer | None], Service]


async def stand(post: Post, tell: Callable[[list[News]], None], changed: Callable[[Service], Callable[[], list[News]]]) -> None:
    """Serve until the feeds end or a signal comes. ``changed``: what reads the policy anew, for a service.

    Raises LedgerFailed, AnchorFailed, NoSecret, BadKey, KafkaError (no broker, no topic), ValueError (policy, address), OSError.
    """
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, _asked, stop)
    async with AsyncExitStack() as stack:
        inbox = Inbox(post.kafka, log.warning) if post.alerts is None else None
        anchorage = Anchorage(post.kafka, log.warning) if post.respond.ledger.anchor_topic else None
        anchorers: list[Anchorer] = []
        vitals = Vitals(post.version, inbox.behind if inbox else lambda: 0, lambda: _anchored(anchorers, anchorage))
        if post.listen:
            health = Health(vitals, lambda: _missing(vitals, inbox), post.listen)
            await health.start()
            stack.push_async_callback(health.stop)
        if (inbox or anchorage) and not await _unless(stop, connected(post.kafka, log.warning)):
            return
        anchorer = await _anchorer(post, anchorage, stack)
        anchorers += [anchorer] if anchorer else []
        vitals.service = service = post.make(anchorer)
        # The last anchor is made before the way to the topic is closed.
        stack.callback(service.finish)
        feeds = _feeds(post, inbox, stack)
        if anchorage is not None:
            anchorage.failed.add_done_callback(lambda _: stop.set())
        await serve(service, feeds, tell, changed(service), stop)
        if anchorage is not None and anchorage.failed.done():
            anchorage.failed.result()
        if stop.is_set():
            log.info("drained")


def _asked(stop: asyncio.Event) -> None:
    if not stop.is_set():
        stop.set()
        asyncio.get_running_loop().call_later(DRAIN_SECONDS, _given_up)


def _given_up() -> None:
    log.error("a call to a target takes too long to wait for; what is unfinished is in the ledger and goes on with the next start")
    logging.shutdown()
    # The thread that waits for the target cannot be ended otherwise.
    os._exit(AGAIN)


async def _unless(stop: asyncio.Event, work: Coroutine[Any, Any, None]) -> bool:
    """Wait for something; False where it was asked to end meanwhile."""
    task, ended = asyncio.create_task(work), asyncio.create_task(stop.wait())
    try:
        await asyncio.wait({task, ended}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            return False
        task.result()
        return True
    finally:
        for each in (task, ended):
            each.cancel()
        await asyncio.gather(task, ended, return_exceptions=True)


def _anchored(anchorers: list[Anchorer], anchorage: Anchorage | None) -> float | None:
    """When the last anchor is known to be kept, in seconds since 1970."""
    if not anchorers:
        return None
    return anchorage.arrived if anchorage and anchorage.arrived else anchorers[0].time / 1e6


def _missing(vitals: Vitals, inbox: Inbox | None) -> dict[str, str]:
    if vitals.service is None:
        return {"process": "it is connecting to the broker"}
    away = inbox.away() if inbox else ""
    return {"alerts": away} if away else {}


def _feeds(post: Post, inbox: Inbox | None, stack: AsyncExitStack) -> list[Feed]:
    feeds: list[Feed] = []
    if post.respond.decisions:
        feeds.append(decisions_in(Path(post.respond.decisions), follow=post.follow))
    if inbox is not None:
        stack.push_async_callback(inbox.close)
        return [*feeds, inbox.deliveries()]
    return [*feeds, alerts_in(post.alerts or Path(), follow=post.follow)]


async def _anchorer(post: Post, anchorage: Anchorage | None, stack: AsyncExitStack) -> Anchorer | None:
    """What anchors the ledger, after the anchors there are have been compared with it."""
    settings = post.respond.ledger
    if anchorage is None:
        return from_file(settings, post.book)
    key = key_of(settings)
    stack.push_async_callback(anchorage.stop)
    try:
        lines = await anchorage.start()
    except BrokerError as error:
        raise KafkaError(f"{anchorage.topic}: {str(error) or type(error).__name__}") from None
    anchorer = compared(settings, post.book, lines, key, anchorage.keep, f"the topic {anchorage.topic}")
    await anchorage.settled()
    return anchorer
