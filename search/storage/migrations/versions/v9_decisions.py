"""Adds what the thresholds of a test evaluation decided. The rows that are there get nothing: it is not known."""

import sqlalchemy as sa
from alembic import op

revision = "9"
down_revision = "8"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("offkey_test_looks", sa.Column("decisions", sa.Text))


def downgrade() -> None:
    op.drop_column("offkey_test_looks", "decisions")
