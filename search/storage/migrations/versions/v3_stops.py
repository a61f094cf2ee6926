"""Adds the time at which a study's workers were last asked to leave."""

import sqlalchemy as sa
from alembic import op

revision = "3"
down_revision = "2"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("offkey_studies", sa.Column("stopped", sa.Double))


def downgrade() -> None:
    op.drop_column("offkey_studies", "stopped")
