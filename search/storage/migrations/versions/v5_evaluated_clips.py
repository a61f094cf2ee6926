"""Adds the clips of each test evaluation. The rows that are there get none: their clips are not known."""

import sqlalchemy as sa
from alembic import op

revision = "5"
down_revision = "4"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("offkey_test_looks", sa.Column("each_clip", sa.LargeBinary))


def downgrade() -> None:
    op.drop_column("offkey_test_looks", "each_clip")
