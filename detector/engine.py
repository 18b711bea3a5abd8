"""Faust as we use it: it carries messages and membership, and nothing else of its own."""

from __future__ import annotations

import asyncio
import tempfile
from typing import Any

import faust

from detector.process import Process

#: Blocks that Faust may hold for an agent: they count as messages there, and each is up to some thousand rows.
BUFFER = 64


def app_of(process: Process, stage: str, group: str) -> Any:
    """A Faust app without tables, leader or page, whose consumer is a member of ``group``."""
    kafka, worker = process.kafka, process.config.worker
    app = faust.App(
        group,
        broker=[f"kafka://{address}" for address in kafka.bootstrap],
        broker_credentials=_credentials(process.client),
        broker_session_timeout=worker.session_seconds,
        broker_heartbeat_interval=worker.session_seconds / 5,
        broker_request_timeout=max(90.0, 2 * worker.session_seconds),
        broker_max_poll_interval=600.0,
        broker_max_poll_records=BUFFER,
        consumer_group_instance_id=f"{process.instance}-{stage}" if process.instance else None,
        consumer_auto_offset_reset="earliest",
        consumer_max_fetch_size=kafka.message_bytes,
        store="memory://",
        datadir=tempfile.gettempdir(),
        stream_wait_empty=False,
        stream_buffer_maxsize=BUFFER,
        topic_disable_leader=True,
        topic_allow_declare=False,
        web_enabled=False,
        web_tables_enabled=False,
        web_router_enabled=False,
        worker_redirect_stdouts=False,
        autodiscover=False,
    )
    app.in_worker = True
    return app


def _credentials(client: dict[str, Any]) -> Any:
    """The connection's secrets as Faust wants them."""
    context = client.get("ssl_context")
    if "sasl_mechanism" in client:
        return faust.SASLCredentials(
            username=client["sasl_plain_username"],
            password=client["sasl_plain_password"],
            mechanism=client["sasl_mechanism"],
            ssl_context=context,
        )
    return None if context is None else faust.SSLCredentials(context)


def fault(app: Any) -> BaseException | None:
    """What has ended the app's reading, None while it goes on.

    A service of Faust that dies only carries a mark, which ``faust.Worker`` would look at; and a consumer that its group refuses says
    so to who asks it for records in its own way, which Faust does not. Both would look like logs to which nothing comes.
    """
    consumer = app.consumer
    thread = getattr(consumer, "_thread", None)
    for service in (app, consumer, thread, app._fetcher):
        # One that is cancelled is one that a rebalance starts again.
        if service is not None and service.crashed and not isinstance(service.crash_reason, asyncio.CancelledError | None):
            return service.crash_reason  # type: ignore[no-any-return]
    coordinator = getattr(getattr(thread, "_consumer", None), "_coordinator", None)
    if coordinator is None:
        return None
    if coordinator._pending_exception is not None:
        return coordinator._pending_exception  # type: ignore[no-any-return]
    task = getattr(coordinator, "_coordination_task", None)
    return task.exception() if task is not None and task.done() and not task.cancelled() else None
