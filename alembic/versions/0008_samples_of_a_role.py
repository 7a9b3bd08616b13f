"""an index of the samples of a role, for pages of its scores

Safe while an older version still serves: only registering roles waits while the index is made.
"""

from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_index("ix_role_entries_role", "role_entries", ["role_set_id", "role", "position"])


def downgrade() -> None:
    op.drop_index("ix_role_entries_role", "role_entries")
