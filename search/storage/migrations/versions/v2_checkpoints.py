"""Adds checkpoints, each worker's device, rate and memory, and the digest of settings that no two trials share."""

import sqlalchemy as sa
from alembic import op

revision = "2"
down_revision = "1"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("offkey_studies", sa.Column("artifacts", sa.Text))
    op.add_column("offkey_trials", sa.Column("checkpoint", sa.String(256)))
    op.add_column("offkey_trials", sa.Column("settings", sa.String(64)))
    op.add_column("offkey_trials", sa.Column("device", sa.String(64)))
    op.add_column("offkey_trials", sa.Column("rate", sa.Double))
    op.add_column("offkey_trials", sa.Column("memory", sa.BigInteger))
    op.create_index("offkey_trials_settings", "offkey_trials", ["study_id", "settings"], unique=True)


def downgrade() -> None:
    op.drop_index("offkey_trials_settings", "offkey_trials")
    for column in ("checkpoint", "settings", "device", "rate", "memory"):
        op.drop_column("offkey_trials", column)
    op.drop_column("offkey_studies", "artifacts")
