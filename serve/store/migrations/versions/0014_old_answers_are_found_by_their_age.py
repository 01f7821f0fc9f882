"""old answers are found by their age"""

from __future__ import annotations

from alembic import op

revision = "0014"
down_revision = "0013"
branch_labels = depends_on = None


def upgrade() -> None:
    op.create_index("ix_responses_at", "responses", ["at"])


def downgrade() -> None:
    op.drop_index("ix_responses_at", "responses")
