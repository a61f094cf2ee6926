"""Adds which workers failed and on which trials, which trials were put back, how often workers were asked to
leave, and the name that a study had at first.
"""

import sqlalchemy as sa
from alembic import op

revision = "8"
down_revision = "7"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("offkey_studies", sa.Column("stops", sa.Integer, nullable=False, server_default="0"))
    op.add_column("offkey_studies", sa.Column("first_name", sa.String(512)))
    op.add_column("offkey_trials", sa.Column("failures", sa.Integer, nullable=False, server_default="0"))
    op.add_column("offkey_trials", sa.Column("failed_on", sa.Text))
    op.add_column("offkey_trials", sa.Column("of_a_place", sa.Boolean, nullable=False, server_default=sa.false()))
    op.create_table(
        "offkey_retried",
        sa.Column("trial_id", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("study_id", sa.Integer, nullable=False, index=True),
    )
    op.create_table(
        "offkey_slots",
        sa.Column("uid", sa.String(32), primary_key=True),
        sa.Column("slot", sa.String(256), primary_key=True),
        sa.Column("failures", sa.Integer, nullable=False),
        sa.Column("in_a_row", sa.Text, nullable=False),
        sa.Column("reason", sa.Text, nullable=False),
    )


def downgrade() -> None:
    op.drop_table("offkey_slots")
    op.drop_table("offkey_retried")
    op.drop_column("offkey_trials", "of_a_place")
    op.drop_column("offkey_trials", "failed_on")
    op.drop_column("offkey_trials", "failures")
    op.drop_column("offkey_studies", "first_name")
    op.drop_column("offkey_studies", "stops")
