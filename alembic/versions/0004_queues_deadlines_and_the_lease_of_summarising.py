"""queues for workers with and without a GPU, deadlines of audits, a lease on summarising, checks tried again

Safe while an older version still serves: the columns have defaults or may be null, and moves are only added.
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

BEFORE = ("received>checking", "checking>ready", "checking>refused", "checking>received")
AFTER = (*BEFORE, "received>refused", "refused>received")


def upgrade() -> None:
    op.add_column(
        "workers", sa.Column("queues", postgresql.ARRAY(sa.String()), nullable=False, server_default="{default}")
    )
    op.add_column("audits", sa.Column("lease_owner", sa.String(), nullable=True))
    op.add_column("audits", sa.Column("lease_expires_at", sa.DateTime(timezone=True), nullable=True))
    op.add_column("audits", sa.Column("queue", sa.String(), nullable=False, server_default="default"))
    # With the clock as its default the column would rewrite the table; a constant first, for the rows there are.
    now = sa.Column("moved_at", sa.DateTime(timezone=True), nullable=False, server_default=sa.func.now())
    op.add_column("audits", now)
    op.alter_column("audits", "moved_at", server_default=sa.func.clock_timestamp())
    op.create_check_constraint(op.f("ck_audits_queue"), "audits", "queue IN ('default', 'gpu')")
    _intake_moves(AFTER)


def downgrade() -> None:
    _intake_moves(BEFORE)
    op.drop_constraint(op.f("ck_audits_queue"), "audits")
    for name in ("moved_at", "queue", "lease_expires_at", "lease_owner"):
        op.drop_column("audits", name)
    op.drop_column("workers", "queues")


def _intake_moves(moves: tuple[str, ...]) -> None:
    arguments = ", ".join(f"'{move}'" for move in moves)
    for table in ("encoders", "datasets"):
        op.execute(
            f"CREATE OR REPLACE TRIGGER state_moves BEFORE UPDATE OF state ON {table} "
            f"FOR EACH ROW EXECUTE FUNCTION check_state_move({arguments})"
        )
