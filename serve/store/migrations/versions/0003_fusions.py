"""fusions"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = depends_on = None


def upgrade() -> None:
    op.create_table(
        "fusions",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("at", sa.BigInteger(), nullable=False),
        sa.Column("project", sa.Text(), nullable=False),
        sa.Column("request", sa.Text(), nullable=False),
        sa.Column("told", sa.JSON(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_fusions")),
    )
    with op.batch_alter_table("fusions", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_fusions_at"), ["at"], unique=False)
        batch_op.create_index(batch_op.f("ix_fusions_request"), ["request"], unique=False)


def downgrade() -> None:
    with op.batch_alter_table("fusions", schema=None) as batch_op:
        batch_op.drop_index(batch_op.f("ix_fusions_request"))
        batch_op.drop_index(batch_op.f("ix_fusions_at"))

    op.drop_table("fusions")
