"""audits that are kept whatever the policies say, scores that were deleted, and since when nothing uses a file

Safe while an older version still serves: columns that may be null, and indexes of tables that are small.
"""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None

COLUMNS = (
    ("audits", "kept_at"),
    ("audits", "scores_deleted_at"),
    ("encoders", "released_at"),
    ("datasets", "released_at"),
)


def upgrade() -> None:
    for table, name in COLUMNS:
        op.add_column(table, sa.Column(name, sa.DateTime(timezone=True), nullable=True))
    op.create_index("ix_audits_dataset_id", "audits", ["dataset_id"])
    op.create_index("ix_audits_role_set_id", "audits", ["role_set_id"])
    op.create_index("ix_idempotency_keys_created_at", "idempotency_keys", ["created_at"])


def downgrade() -> None:
    op.drop_index("ix_idempotency_keys_created_at", "idempotency_keys")
    op.drop_index("ix_audits_role_set_id", "audits")
    op.drop_index("ix_audits_dataset_id", "audits")
    for table, name in reversed(COLUMNS):
        op.drop_column(table, name)
