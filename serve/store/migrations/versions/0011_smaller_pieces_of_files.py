"""smaller pieces of files: an eighth of a MiB each, where they were a whole one"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0011"
down_revision = "0010"
branch_labels = depends_on = None

_SIZE = 1 << 17
_PIECES = 8
#: Above every number of a piece, so that old and new ones are told apart while both are there.
_APART = 1_000_000_000


def upgrade() -> None:
    split = sa.text(
        """
        INSERT INTO file_parts (file, number, data, at)
        SELECT file, :apart + number * :pieces + :piece, substr(data, :first, :size), at
        FROM file_parts WHERE number < :apart AND length(data) >= :first
        """
    )
    for piece in range(_PIECES):
        first = piece * _SIZE + 1
        numbers = {"apart": _APART, "pieces": _PIECES, "piece": piece, "first": first}
        op.execute(split.bindparams(**numbers, size=_SIZE))
    apart = {"apart": _APART}
    op.execute(sa.text("DELETE FROM file_parts WHERE number < :apart").bindparams(**apart))
    op.execute(sa.text("UPDATE file_parts SET number = number - :apart").bindparams(**apart))


def downgrade() -> None:
    # Nothing calls it: an older program refuses a store that a newer one has used.
    raise NotImplementedError("pieces are not put together again: begin with an empty store")
