"""plans are held by who runs them"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0012"
down_revision = "0011"
branch_labels = depends_on = None


def upgrade() -> None:
    op.add_column("plans", sa.Column("holder", sa.Text))
    op.add_column("plans", sa.Column("held_until", sa.BigInteger))


def downgrade() -> None:
    op.drop_column("plans", "held_until")
    op.drop_column("plans", "holder")
