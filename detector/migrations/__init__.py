"""How an older ledger becomes one of this release: Alembic's revisions in ``versions``, run in one transaction."""

from __future__ import annotations

from pathlib import Path

import sqlalchemy as sa
from alembic.operations import Operations
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory

#: The revision of a ledger made by the release that kept no revisions.
_FIRST = "0001"


def migrate(engine: sa.Engine, version: int | None) -> None:
    """Bring the tables up to date. ``version``: of the ledger that is there, None where there is none. Raises SQLAlchemyError."""
    script = ScriptDirectory(str(Path(__file__).parent))
    with engine.connect() as connection:
        if engine.dialect.name == "sqlite":
            # Python's driver begins no transaction before it changes a table.
            connection.exec_driver_sql("BEGIN IMMEDIATE")
        context = MigrationContext.configure(connection, opts={"transactional_ddl": True})
        present = context.get_current_revision()
        if present is None and version is not None:
            context.stamp(script, _FIRST)
            present = _FIRST
        for revision in reversed(list(script.iterate_revisions("head", present or "base"))):
            with Operations.context(context):
                revision.module.upgrade()
            context.stamp(script, revision.revision)
        connection.commit()
