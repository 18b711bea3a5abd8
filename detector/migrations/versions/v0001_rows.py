"""The rows as the first release wrote them."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    """Make the tables."""
    version = op.create_table("ledger_version", sa.Column("version", sa.Integer, primary_key=True))
    op.create_table(
        "ledger",
        sa.Column("seq", sa.BigInteger().with_variant(sa.Integer, "sqlite"), primary_key=True, autoincrement=False),
        *(sa.Column(name, sa.BigInteger, nullable=False) for name in ("time", "revision", "due")),
        *(
            sa.Column(name, sa.Text, nullable=False)
            for name in ("alert", "action", "verb", "target", "owners", "rule", "step", "mode", "result", "reason", "hash")
        ),
        sa.Column("snapshot", sa.Text, nullable=True),
        sa.Column("prev_hash", sa.Text, nullable=False, unique=True),
    )
    op.bulk_insert(version, [{"version": 1}])
