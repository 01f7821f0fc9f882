"""what replicas cost today"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0013"
down_revision = "0012"
branch_labels = depends_on = None


def upgrade() -> None:
    for name in ("day", "before"):
        op.add_column(
            "replica_hours", sa.Column(name, sa.BigInteger(), nullable=False, server_default="0")
        )


def downgrade() -> None:
    op.drop_column("replica_hours", "before")
    op.drop_column("replica_hours", "day")
