"""Fixtures that several files share."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

from tests.kube import kube as kube
from tests.servers import keycloak as keycloak
from tests.servers import postgres as postgres
from tests.servers import postgres_url as postgres_url

if TYPE_CHECKING:
    from tests.broker import Broker, Running


@pytest.fixture(scope="session")
def broker() -> Iterator[Broker | Running]:
    """The Kafka broker that the tests share; whoever uses it carries the marker ``kafka`` and topics of its own."""
    # Here, so that a run without Kafka reads none of it.
    from tests.broker import NoBroker, absent, any_broker

    try:
        found = any_broker()
    except NoBroker as error:
        absent(str(error))
    yield found
    found.close()
