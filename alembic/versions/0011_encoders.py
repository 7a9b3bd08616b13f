"""which encoder of a file, and what its weights do not show, as told when it was registered

Safe while an older version still serves: columns are added with defaults, and the rule against registering twice only
tells more rows apart. Workers are to be restarted before the API, since an older one would not heed the new columns;
no row has anything in them before the new API serves.
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None

NAME = "uq_encoders_registration"
BEFORE = ["artifact_digest", "name", "given_architecture", "given_input_size", "mean", "std", "method"]


def upgrade() -> None:
    op.add_column("encoders", sa.Column("branch", sa.String(), nullable=True))
    op.add_column("encoders", sa.Column("options", postgresql.JSONB(), server_default="{}", nullable=False))
    op.drop_constraint(NAME, "encoders")
    op.create_unique_constraint(NAME, "encoders", [*BEFORE, "branch", "options"], postgresql_nulls_not_distinct=True)


def downgrade() -> None:
    op.drop_constraint(NAME, "encoders")
    op.create_unique_constraint(NAME, "encoders", BEFORE, postgresql_nulls_not_distinct=True)
    op.drop_column("encoders", "options")
    op.drop_column("encoders", "branch")
