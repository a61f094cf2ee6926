"""Adds the interval of a test AUC, and what thresholds decided. In the rows that are there, neither is known."""

import sqlalchemy as sa
from alembic import op

revision = "9"
down_revision = "8"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("offkey_test_looks", sa.Column("decisions", sa.Text))
    op.add_column("offkey_test_looks", sa.Column("auc_interval", sa.Text))


def downgrade() -> None:
    op.drop_column("offkey_test_looks", "auc_interval")
    op.drop_column("offkey_test_looks", "decisions")
