"""Fixtures that several files share."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from detector.memory import give_back
from tests.kube import kube as kube
from tests.servers import keycloak as keycloak
from tests.servers import postgres as postgres
from tests.servers import postgres_url as postgres_url

if TYPE_CHECKING:
    from tests.broker import Broker, Running
    from tests.chaos import Site
    from tests.keycloak_stage import Realm
    from tests.servers import Keycloak


# Tests make and drop many tables of profiles in this one process.
give_back()


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


@pytest.fixture
def site(broker: Broker | Running, tmp_path: Path) -> Iterator[Callable[..., Site]]:
    """Makes installations on the shared broker; what still runs at the test's end is killed."""
    from tests.chaos import Site

    made: list[Site] = []

    def make(**given: Any) -> Site:
        folder = tmp_path / str(len(made))
        folder.mkdir()
        made.append(Site(broker.bootstrap, folder, **given))
        return made[-1]

    yield make
    for each in made:
        each.close()


@pytest.fixture(scope="module")
def realm(keycloak: Keycloak) -> Iterator[Realm]:
    """A realm of the file's own on the shared Keycloak."""
    from tests.keycloak_stage import Realm

    made = Realm(keycloak)
    yield made
    made.close()
