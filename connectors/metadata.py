"""The Metadata request, version 12: the first common one that tells a topic's UUID. aiokafka speaks version 5 at most.

A topic that is deleted and made again keeps its name and begins anew at offset 0; only the UUID tells the two apart.
"""

from __future__ import annotations

import base64
from io import BytesIO
from typing import Any, NamedTuple

from aiokafka.protocol.api import Request, RequestStruct, Response
from aiokafka.protocol.types import AbstractType, Boolean, CompactArray, CompactString, Int16, Int32, Schema, TaggedFields

#: Kafka's code of a topic that is not there.
_UNKNOWN = 3

# aiokafka ships no types, so to mypy its classes are Any: hence the exemptions below.


class Placed(NamedTuple):
    """A topic as the brokers hold it. ``uuid`` in Kafka's own spelling; ``replication``: of the partition with the fewest replicas."""

    uuid: str
    partitions: int
    replication: int


class _Uuid(AbstractType[bytes]):  # type: ignore[misc]
    """Sixteen bytes."""

    @classmethod
    def encode(cls, value: bytes) -> bytes:
        return value

    @classmethod
    def decode(cls, data: BytesIO) -> bytes:
        return data.read(16)


_TEXT = CompactString("utf-8")


class _Answer(Response):  # type: ignore[misc]
    API_KEY = 3
    API_VERSION = 12
    SCHEMA = Schema(
        ("throttle_time_ms", Int32),
        ("brokers", CompactArray(("node_id", Int32), ("host", _TEXT), ("port", Int32), ("rack", _TEXT), ("tags", TaggedFields))),
        ("cluster_id", _TEXT),
        ("controller_id", Int32),
        (
            "topics",
            CompactArray(
                ("error_code", Int16),
                ("name", _TEXT),
                ("uuid", _Uuid),
                ("is_internal", Boolean),
                (
                    "partitions",
                    CompactArray(
                        ("error_code", Int16),
                        ("partition", Int32),
                        ("leader", Int32),
                        ("leader_epoch", Int32),
                        ("replicas", CompactArray(Int32)),
                        ("isr", CompactArray(Int32)),
                        ("offline", CompactArray(Int32)),
                        ("tags", TaggedFields),
                    ),
                ),
                ("authorized_operations", Int32),
                ("tags", TaggedFields),
            ),
        ),
        ("tags", TaggedFields),
    )


class _Question(RequestStruct):  # type: ignore[misc]
    API_KEY = 3
    API_VERSION = 12
    FLEXIBLE_VERSION = True
    RESPONSE_TYPE = _Answer
    SCHEMA = Schema(
        ("topics", CompactArray(("uuid", _Uuid), ("name", _TEXT), ("tags", TaggedFields))),
        ("create", Boolean),
        ("authorized_operations", Boolean),
        ("tags", TaggedFields),
    )


class Metadata(Request[_Question]):  # type: ignore[misc]
    """Asks for topics by name; never creates one."""

    API_KEY = 3

    def __init__(self, topics: list[str]) -> None:
        self._topics = topics

    def build(self, request_struct_class: type[_Question]) -> _Question:
        """The request as it goes over the wire."""
        asked: list[tuple[bytes, str, dict[int, bytes]]] = [(bytes(16), topic, {}) for topic in self._topics]
        return request_struct_class(asked, False, False, {})


def placed(answer: Any) -> tuple[dict[str, Placed], dict[str, int]]:
    """The topics of an answer by name, without those that are not there; and the error code of each that could not be told."""
    found: dict[str, Placed] = {}
    failed: dict[str, int] = {}
    for code, name, uuid, _, partitions, *_ in answer.topics:
        if code == 0:
            spelled = base64.urlsafe_b64encode(uuid).decode().rstrip("=")
            found[name] = Placed(spelled, len(partitions), min((len(partition[4]) for partition in partitions), default=0))
        elif code != _UNKNOWN:
            failed[name] = code
    return found, failed
