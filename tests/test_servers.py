"""The servers that tests start."""

from __future__ import annotations

import psycopg
import pytest

from tests.servers import Postgres

pytestmark = pytest.mark.containment


def test_a_postgresql_database_is_new_and_gone_while_its_server_is_stopped(postgres: Postgres) -> None:
    url = postgres.database().replace("+psycopg", "")
    with psycopg.connect(url) as connection:
        assert connection.execute("SELECT count(*) FROM pg_tables WHERE schemaname = 'public'").fetchone() == (0,)
    postgres.stop()
    with pytest.raises(psycopg.OperationalError):
        psycopg.connect(url)
    postgres.start()
    with psycopg.connect(url) as connection:
        assert connection.execute("SELECT 1").fetchone() == (1,)
