"""Adds why a study has ended itself before its budget was used up."""

import sqlalchemy as sa
from alembic import op

revision = "7"
down_revision = "6"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("offkey_studies", sa.Column("enough", sa.Text))


def downgrade() -> None:
    op.drop_column("offkey_studies", "enough")
