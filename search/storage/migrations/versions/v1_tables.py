"""Creates the tables of studies and of their trials."""

import sqlalchemy as sa
from alembic import op

revision = "1"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    if sa.inspect(op.get_bind()).has_table("offkey_studies"):
        return  # made before the tables had a version
    op.create_table(
        "offkey_studies",
        sa.Column("study_id", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("uid", sa.String(32), nullable=False),
        sa.Column("document", sa.Text, nullable=False),
        sa.Column("identity", sa.Text, nullable=False),
        sa.Column("truth", sa.Text, nullable=False),
        sa.Column("budget", sa.Integer, nullable=False),
        sa.Column("handed_out", sa.Integer, nullable=False),
        sa.Column("hours", sa.Double),
        sa.Column("active_seconds", sa.Double, nullable=False),
        sa.Column("last_seen", sa.Double),
    )
    op.create_table(
        "offkey_trials",
        sa.Column("trial_id", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("study_id", sa.Integer, nullable=False, index=True),
        sa.Column("number", sa.Integer, nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("owner", sa.String(256)),
        sa.Column("lease_until", sa.Double),
        sa.Column("token", sa.Integer, nullable=False),
        sa.Column("attempts", sa.Integer, nullable=False),
        sa.Column("reason", sa.Text),
        sa.Column("scores", sa.LargeBinary),
    )


def downgrade() -> None:
    op.drop_table("offkey_trials")
    op.drop_table("offkey_studies")
