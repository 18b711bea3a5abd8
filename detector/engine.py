"""Faust as we use it: it carries messages and membership, and nothing else of its own."""

from __future__ import annotations

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
