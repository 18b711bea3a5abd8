"""Who approved, when something is taken up again, what a decision rested on; and the version of each row."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    """Add the columns. Rows that are there keep their bytes and so their hashes."""
    op.add_column("ledger", sa.Column("version", sa.Integer, nullable=False, server_default="1"))
    op.add_column("ledger", sa.Column("person", sa.Text, nullable=False, server_default=""))
    op.add_column("ledger", sa.Column("again", sa.BigInteger, nullable=False, server_default="0"))
    op.add_column("ledger", sa.Column("facts", sa.Text, nullable=True))
    op.execute("UPDATE ledger_version SET version = 2")
