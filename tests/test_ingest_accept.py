"""``tocsin accept-topic``: what it writes says what it is, like every record of ours."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from connectors.kafka import Kafka, Raw
from connectors.metadata import Placed
from connectors.wire import HEADER
from detector.takeover import KNOWN, KNOWN_SCHEMA
from replay import accept


def test_the_accepted_id_is_written_with_the_header_of_its_version(monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[tuple[tuple[Any, ...], dict[str, Any]]] = []

    class Producer:
        def __init__(self, **_: Any) -> None: ...

        async def start(self) -> None: ...

        async def stop(self) -> None: ...

        async def send_and_wait(self, *given: Any, **named: Any) -> None:
            sent.append((given, named))

    async def connected(_: Kafka) -> None: ...

    async def ids(_: Kafka, topics: list[str]) -> dict[str, str]:
        return dict.fromkeys(topics, "uuid-2")

    async def places(_: Kafka, topics: list[str]) -> dict[str, Placed]:
        return {topic: Placed("uuid-2", 3, 1) for topic in topics}

    monkeypatch.setattr(accept, "AIOKafkaProducer", Producer)
    monkeypatch.setattr(accept, "connected", connected)
    monkeypatch.setattr(accept, "topic_ids", ids)
    monkeypatch.setattr(accept, "places", places)
    many = asyncio.run(accept._accept(Kafka(raw=[Raw(topic="zeek.conn", source="zeek_conn")]), "zeek.conn"))
    assert many == 3
    ((topic, value, key), named) = sent[0]
    assert (topic, value, key) == ("tocsin.control", b"uuid-2", KNOWN + b"zeek.conn")
    assert named == {"partition": 0, "headers": [(HEADER, KNOWN_SCHEMA.encode())]}
