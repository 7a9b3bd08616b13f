"""what is measured, and under which conditions

Safe while an older version still serves: columns are added, nothing is dropped or rewritten but a constraint.
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

REGISTRATION = ["artifact_digest", "name", "given_architecture", "given_input_size", "mean", "std"]


def upgrade() -> None:
    op.add_column("encoders", sa.Column("method", sa.String(), nullable=True))
    _constrain([*REGISTRATION, "method"])
    op.add_column("chunks", sa.Column("conditions", postgresql.JSONB(astext_type=sa.Text()), nullable=True))
    for name in ("alignment_targets", "alignment_references"):
        op.add_column("scores", sa.Column(name, postgresql.ARRAY(sa.Float()), nullable=True))
    op.add_column("scores", sa.Column("reference_spread", sa.Float(), nullable=True))
    op.add_column("scores", sa.Column("num_views", sa.Integer(), nullable=True))


def downgrade() -> None:
    for name in ("num_views", "reference_spread", "alignment_references", "alignment_targets"):
        op.drop_column("scores", name)
    op.drop_column("chunks", "conditions")
    _constrain(REGISTRATION)
    op.drop_column("encoders", "method")


def _constrain(columns: list[str]) -> None:
    op.drop_constraint("uq_encoders_registration", "encoders")
    op.create_unique_constraint("uq_encoders_registration", "encoders", columns, postgresql_nulls_not_distinct=True)
