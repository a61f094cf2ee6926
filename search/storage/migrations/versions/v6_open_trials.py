"""Adds an index of the open trials, so that a claim does not read the trials that have ended."""

import sqlalchemy as sa
from alembic import op

revision = "6"
down_revision = "5"
branch_labels = None
depends_on = None


def upgrade() -> None:
    is_open = sa.text("state IN ('running', 'waiting')")
    columns = ["study_id", "number"]
    op.create_index("offkey_trials_open", "offkey_trials", columns, sqlite_where=is_open, postgresql_where=is_open)


def downgrade() -> None:
    op.drop_index("offkey_trials_open", "offkey_trials")
