"""events of audits and webhooks, written by triggers in the transaction of the move that they tell of

Safe while an older version still serves: its moves are told of, too.
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

# The number follows from a lock on the audit that is held until the transaction ends: so numbers are without gaps,
# and whoever sees one sees all before it.
ADD_EVENT = """
CREATE FUNCTION add_audit_event(of_audit uuid, kind text, details jsonb) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    PERFORM FROM audits WHERE id = of_audit FOR NO KEY UPDATE;
    INSERT INTO audit_events (audit_id, number, type, data)
    SELECT of_audit, coalesce(max(number), 0) + 1, kind, details FROM audit_events WHERE audit_id = of_audit;
END
$$
"""
TELL_OF_AUDIT = """
CREATE FUNCTION tell_of_audit() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    kind text := 'audit.' || NEW.state;
    failure jsonb := CASE WHEN NEW.state = 'failed'
        THEN jsonb_build_object('code', NEW.failure_code, 'detail', NEW.failure_detail) END;
BEGIN
    PERFORM add_audit_event(NEW.id, kind, jsonb_build_object('state', NEW.state, 'failure', failure));
    IF NEW.state IN ('succeeded', 'failed', 'cancelled') THEN
        INSERT INTO webhook_deliveries (id, webhook_id, type, payload, state)
        SELECT gen_random_uuid(), webhooks.id, kind, jsonb_build_object(
            'type', kind,
            'timestamp', clock_timestamp(),
            'data', jsonb_build_object(
                'audit_id', NEW.id, 'name', NEW.name, 'state', NEW.state, 'failure', failure,
                'finding', NEW.summary->'finding'->>'sentence',
                'links', jsonb_build_object(
                    'self', '/v1/audits/' || NEW.id,
                    'summary', '/v1/audits/' || NEW.id || '/summary',
                    'report', '/v1/audits/' || NEW.id || '/report'))), 'waiting'
        FROM webhooks WHERE project = NEW.project AND disabled_at IS NULL AND kind = ANY (events);
    END IF;
    RETURN NULL;
END
$$
"""
TELL_OF_CHUNK = """
CREATE FUNCTION tell_of_chunk() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM add_audit_event(NEW.audit_id, 'chunk.' || NEW.state, jsonb_build_object(
        'chunk', NEW.number,
        'attempts', NEW.attempts,
        'samples_done', (SELECT coalesce(sum(stop - start), 0) FROM chunks
                         WHERE audit_id = NEW.audit_id AND state = 'done'),
        'samples_total', (SELECT num_samples FROM audits WHERE id = NEW.audit_id),
        -- A chunk that was handed back did not fail: its attempt does not count.
        'failure', CASE WHEN NEW.state <> 'done' AND NEW.attempts = OLD.attempts
            THEN jsonb_build_object('code', NEW.failure_code, 'detail', NEW.failure_detail) END));
    RETURN NULL;
END
$$
"""
TRIGGERS = """
CREATE TRIGGER events_begin AFTER INSERT ON audits FOR EACH ROW EXECUTE FUNCTION tell_of_audit();
CREATE TRIGGER events AFTER UPDATE OF state ON audits FOR EACH ROW
    WHEN (OLD.state <> NEW.state) EXECUTE FUNCTION tell_of_audit();
CREATE TRIGGER events AFTER UPDATE OF state ON chunks FOR EACH ROW
    WHEN (OLD.state = 'running' AND NEW.state IN ('done', 'queued', 'failed')) EXECUTE FUNCTION tell_of_chunk();
CREATE TRIGGER state_moves BEFORE UPDATE OF state ON webhook_deliveries FOR EACH ROW EXECUTE FUNCTION check_state_move(
    'waiting>sending', 'waiting>failed', 'sending>delivered', 'sending>waiting', 'sending>failed',
    'delivered>waiting', 'failed>waiting');
"""
NOW = sa.text("clock_timestamp()")


def _time(name: str, *, required: bool = False) -> sa.Column[object]:
    return sa.Column(name, sa.DateTime(timezone=True), nullable=not required, server_default=NOW if required else None)


def upgrade() -> None:
    op.create_table(
        "audit_events",
        sa.Column("audit_id", sa.Uuid(), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        _time("created_at", required=True),
        sa.Column("type", sa.String(), nullable=False),
        sa.Column("data", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.ForeignKeyConstraint(
            ["audit_id"], ["audits.id"], name="fk_audit_events_audit_id_audits", ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("audit_id", "number", name="pk_audit_events"),
    )
    op.create_table(
        "webhooks",
        sa.Column("id", sa.Uuid(), nullable=False),
        _time("created_at", required=True),
        sa.Column("project", sa.String(), nullable=False),
        sa.Column("url", sa.String(), nullable=False),
        sa.Column("secret", sa.String(), nullable=False),
        sa.Column("events", postgresql.ARRAY(sa.String()), nullable=False),
        _time("disabled_at"),
        sa.PrimaryKeyConstraint("id", name="pk_webhooks"),
    )
    op.create_index("ix_webhooks_project", "webhooks", ["project"])
    op.create_table(
        "webhook_deliveries",
        sa.Column("id", sa.Uuid(), nullable=False),
        _time("created_at", required=True),
        sa.Column("webhook_id", sa.Uuid(), nullable=False),
        sa.Column("type", sa.String(), nullable=False),
        sa.Column("payload", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column("state", sa.String(), nullable=False),
        sa.Column("attempts", sa.Integer(), server_default="0", nullable=False),
        sa.Column("lease_owner", sa.String(), nullable=True),
        _time("lease_expires_at"),
        _time("available_at", required=True),
        _time("enqueued_at"),
        sa.Column("failure_code", sa.String(), nullable=True),
        sa.Column("failure_detail", sa.String(), nullable=True),
        sa.CheckConstraint(
            "state IN ('waiting', 'sending', 'delivered', 'failed')", name=op.f("ck_webhook_deliveries_state")
        ),
        sa.CheckConstraint("(state = 'sending') = (lease_owner IS NOT NULL)", name=op.f("ck_webhook_deliveries_lease")),
        sa.ForeignKeyConstraint(
            ["webhook_id"], ["webhooks.id"], name="fk_webhook_deliveries_webhook_id_webhooks", ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("id", name="pk_webhook_deliveries"),
    )
    op.create_index("ix_webhook_deliveries_webhook_id_created_at", "webhook_deliveries", ["webhook_id", "created_at"])
    op.create_index(
        "ix_webhook_deliveries_open",
        "webhook_deliveries",
        ["available_at"],
        postgresql_where="state IN ('waiting', 'sending')",
    )
    op.create_table(
        "webhook_attempts",
        sa.Column("delivery_id", sa.Uuid(), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        _time("started_at", required=True),
        _time("ended_at"),
        sa.Column("status", sa.Integer(), nullable=True),
        sa.Column("error", sa.String(), nullable=True),
        sa.ForeignKeyConstraint(
            ["delivery_id"],
            ["webhook_deliveries.id"],
            name="fk_webhook_attempts_delivery_id_webhook_deliveries",
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("delivery_id", "number", name="pk_webhook_attempts"),
    )
    for statement in (ADD_EVENT, TELL_OF_AUDIT, TELL_OF_CHUNK, TRIGGERS):
        op.execute(statement)
    # The log of an audit that is there already begins with the state that it is in.
    op.execute(
        "INSERT INTO audit_events (audit_id, number, type, data) SELECT id, 1, 'audit.' || state, "
        "jsonb_build_object('state', state, 'failure', NULL) FROM audits"
    )


def downgrade() -> None:
    for trigger, table in (("events_begin", "audits"), ("events", "audits"), ("events", "chunks")):
        op.execute(f"DROP TRIGGER {trigger} ON {table}")
    for function in ("tell_of_chunk()", "tell_of_audit()", "add_audit_event(uuid, text, jsonb)"):
        op.execute(f"DROP FUNCTION {function}")
    for table in ("webhook_attempts", "webhook_deliveries", "webhooks", "audit_events"):
        op.drop_table(table)
