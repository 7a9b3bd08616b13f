"""what the check of a dataset finds: format, labels, skipped samples, looks; twins across the roles of a table

Safe while an older version still serves: columns are added, and may be null.
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None

COLUMNS = {
    "datasets": {
        "format": sa.String(),
        "num_skipped": sa.Integer(),
        "num_equal": sa.Integer(),
        "labels": postgresql.JSONB(),
    },
    "dataset_samples": {"label": sa.String(), "skipped": sa.String(), "looks": sa.LargeBinary()},
    "role_sets": {"twins": postgresql.JSONB()},
}


def upgrade() -> None:
    for table, columns in COLUMNS.items():
        for name, kind in columns.items():
            op.add_column(table, sa.Column(name, kind, nullable=True))
    op.create_index(
        "ix_dataset_samples_skipped",
        "dataset_samples",
        ["dataset_id", "position"],
        postgresql_where=sa.text("skipped IS NOT NULL"),
    )


def downgrade() -> None:
    op.drop_index("ix_dataset_samples_skipped", "dataset_samples")
    for table, columns in COLUMNS.items():
        for name in columns:
            op.drop_column(table, name)
