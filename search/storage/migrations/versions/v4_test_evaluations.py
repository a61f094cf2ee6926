"""Adds a table of test evaluations: a row for each measurement on held-out test clips."""

import sqlalchemy as sa
from alembic import op

revision = "4"
down_revision = "3"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "offkey_test_looks",
        sa.Column("look", sa.String(32), primary_key=True),
        sa.Column("clips", sa.String(64), nullable=False, index=True),
        sa.Column("looked", sa.Double, nullable=False),
        sa.Column("recipe", sa.String(200), nullable=False),
        sa.Column("recipe_digest", sa.String(64), nullable=False),
        sa.Column("auc", sa.Double, nullable=False),
    )


def downgrade() -> None:
    op.drop_table("offkey_test_looks")
