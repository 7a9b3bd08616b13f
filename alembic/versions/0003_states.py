"""moves between states held by triggers; audits that are paused, tried again, shared out fairly and found again

Safe while an older version still serves: its moves are all legal, and the columns have defaults.
"""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

AUDITS = (
    "queued>running", "queued>paused", "queued>failed", "queued>cancelled",
    "running>finalising", "running>paused", "running>failed", "running>cancelled",
    "paused>queued", "paused>running", "paused>finalising", "paused>failed", "paused>cancelled",
    "finalising>succeeded", "finalising>failed", "finalising>cancelled",
    "failed>queued", "failed>finalising", "cancelled>queued", "cancelled>finalising",
)  # fmt: skip
CHUNKS = (
    "queued>running", "queued>cancelled", "running>done", "running>queued", "running>failed", "running>cancelled",
    "failed>queued", "cancelled>queued",
)  # fmt: skip
INTAKE = ("received>checking", "checking>ready", "checking>refused", "checking>received")
MOVES = {"audits": AUDITS, "chunks": CHUNKS, "encoders": INTAKE, "datasets": INTAKE}

FUNCTION = """
CREATE FUNCTION check_state_move() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF NEW.state <> OLD.state AND NOT (OLD.state || '>' || NEW.state) = ANY (TG_ARGV) THEN
        RAISE EXCEPTION 'a row of % may not move from % to %', TG_TABLE_NAME, OLD.state, NEW.state
            USING ERRCODE = 'check_violation';
    END IF;
    RETURN NEW;
END
$$
"""
STATES = ("queued", "running", "finalising", "succeeded", "failed", "cancelled")


def upgrade() -> None:
    _states(("queued", "running", "paused", "finalising", "succeeded", "failed", "cancelled"))
    op.add_column("audits", sa.Column("project", sa.String(), nullable=False, server_default=""))
    op.add_column("audits", sa.Column("priority", sa.Integer(), nullable=False, server_default="0"))
    op.add_column("audits", sa.Column("request_digest", sa.String(), nullable=True))
    op.add_column("audits", sa.Column("claimed_at", sa.DateTime(timezone=True), nullable=True))
    op.add_column("audits", sa.Column("rate_since", sa.DateTime(timezone=True), nullable=True))
    op.add_column("audits", sa.Column("rate_from", sa.Integer(), nullable=False, server_default="0"))
    op.create_index("ix_audits_project_claimed_at", "audits", ["project", "claimed_at"])
    op.create_index("ix_audits_request_digest", "audits", ["request_digest"])
    op.create_table(
        "idempotency_keys",
        sa.Column("project", sa.String(), nullable=False),
        sa.Column("key", sa.String(), nullable=False),
        sa.Column("request_digest", sa.String(), nullable=False),
        sa.Column("resource_id", sa.Uuid(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.func.clock_timestamp(), nullable=False),
        sa.PrimaryKeyConstraint("project", "key", name="pk_idempotency_keys"),
    )
    op.execute(FUNCTION)
    for table, moves in MOVES.items():
        arguments = ", ".join(f"'{move}'" for move in moves)
        op.execute(
            f"CREATE TRIGGER state_moves BEFORE UPDATE OF state ON {table} "
            f"FOR EACH ROW EXECUTE FUNCTION check_state_move({arguments})"
        )


def downgrade() -> None:
    for table in MOVES:
        op.execute(f"DROP TRIGGER state_moves ON {table}")
    op.execute("DROP FUNCTION check_state_move()")
    op.drop_table("idempotency_keys")
    op.drop_index("ix_audits_request_digest", "audits")
    op.drop_index("ix_audits_project_claimed_at", "audits")
    for name in ("rate_from", "rate_since", "claimed_at", "request_digest", "priority", "project"):
        op.drop_column("audits", name)
    op.execute("UPDATE audits SET state = 'queued' WHERE state = 'paused'")
    _states(STATES)


def _states(names: tuple[str, ...]) -> None:
    allowed = ", ".join(f"'{name}'" for name in names)
    op.drop_constraint(op.f("ck_audits_state"), "audits")
    op.create_check_constraint(op.f("ck_audits_state"), "audits", f"state IN ({allowed})")
