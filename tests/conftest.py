"""Fixtures that several test files share. Imports only: each stands where it belongs."""

from tests.kube import kube as kube
from tests.servers import keycloak as keycloak
from tests.servers import postgres as postgres
from tests.servers import postgres_url as postgres_url
