"""``tocsin`` with a consumer that is refused: ``REFUSED=topic``, what it reads may not be read any more after a while; ``group``, it
may be no member of its group."""

from __future__ import annotations

import os
import time
from typing import Any

from aiokafka.client import AIOKafkaClient
from aiokafka.consumer.fetcher import Fetcher
from aiokafka.errors import GroupAuthorizationFailedError, TopicAuthorizationFailedError

from replay.cli import main


def install(what: str) -> None:
    """Replace what the module's first line says."""
    if what == "group":

        async def lookup(self: Any, kind: int, key: str) -> int:
            if kind == 0:
                raise GroupAuthorizationFailedError(key)
            return int(await whole(self, kind, key))

        whole = AIOKafkaClient.coordinator_lookup
        AIOKafkaClient.coordinator_lookup = lookup
        return
    fetched, since = Fetcher.fetched_records, time.monotonic()

    async def refused(self: Any, partitions: Any, **more: Any) -> Any:
        if partitions and time.monotonic() - since > 15.0:
            raise TopicAuthorizationFailedError(next(iter(partitions)).topic)
        return await fetched(self, partitions, **more)

    Fetcher.fetched_records = refused


if __name__ == "__main__":
    install(os.environ["REFUSED"])
    main()
