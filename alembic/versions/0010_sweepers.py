"""signs of life of the sweepers, and what workers are at

Safe while an older version still serves: a table that it does not know, and a column that may be null.
"""

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None


def upgrade() -> None:
    now = sa.text("clock_timestamp()")
    op.create_table(
        "sweepers",
        sa.Column("id", sa.String(), primary_key=True),
        sa.Column("started_at", sa.DateTime(timezone=True), nullable=False, server_default=now),
        sa.Column("last_seen_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("broker_away_since", sa.DateTime(timezone=True), nullable=True),
    )
    op.add_column("workers", sa.Column("busy_with", sa.String(), nullable=True))


def downgrade() -> None:
    op.drop_column("workers", "busy_with")
    op.drop_table("sweepers")
