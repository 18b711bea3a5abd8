"""``tocsin`` with the Keycloak adapter, dying where it is told, between two calls of one step too: see ``tests/fake_target.py``."""

from __future__ import annotations

from connectors.containment._http import Http
from connectors.containment.keycloak import Keycloak, KeycloakSettings
from tests.fake_target import main, mortal


def called(method: str, path: str) -> str:
    """What a call is called: its method, and the last part of its path that is no id."""
    return f"http {method} {next((part for part in reversed(path.split('/')) if '-' not in part), '')}"


class Mortal(Keycloak):
    """Each call is a place to die at, too."""

    def __init__(self, settings: KeycloakSettings) -> None:
        super().__init__(settings)
        mortal(Http, "call", called)


if __name__ == "__main__":
    main(Mortal, "keycloak")
