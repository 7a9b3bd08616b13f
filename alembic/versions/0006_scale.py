"""scores written as fast as COPY: their order in blocks, no check of each row; evidence kept; index of open chunks

Safe while an older version still serves: its pages by score sort where they followed an index. Audits that it has
summarised, or summarises yet, have no blocks; pages by score of those sort in every version. To fill the blocks here
would keep tables locked for as long as all scores take to sort.
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

DELETE_SCORES = """
CREATE FUNCTION delete_scores() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    DELETE FROM scores WHERE audit_id = OLD.id;
    RETURN NULL;
END
$$
"""


def upgrade() -> None:
    op.create_table(
        "score_blocks",
        sa.Column("audit_id", sa.Uuid(), nullable=False),
        sa.Column("role", sa.String(), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("first_score", sa.Float(), nullable=False),
        sa.Column("first_position", sa.Integer(), nullable=False),
        sa.Column("positions", postgresql.ARRAY(sa.Integer()), nullable=False),
        sa.ForeignKeyConstraint(
            ["audit_id"], ["audits.id"], name=op.f("fk_score_blocks_audit_id_audits"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("audit_id", "role", "number", name=op.f("pk_score_blocks")),
    )
    op.create_index("ix_score_blocks_first_score", "score_blocks", ["audit_id", "role", "first_score", "number"])
    op.create_table(
        "audit_evidence",
        sa.Column("audit_id", sa.Uuid(), nullable=False),
        sa.Column("confidence", sa.Float(), nullable=False),
        sa.Column("fdr", sa.Float(), nullable=False),
        sa.Column("evidence", postgresql.JSONB(), nullable=False),
        sa.ForeignKeyConstraint(
            ["audit_id"], ["audits.id"], name=op.f("fk_audit_evidence_audit_id_audits"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("audit_id", "confidence", "fdr", name=op.f("pk_audit_evidence")),
    )
    op.create_index(
        "ix_chunks_not_done", "chunks", ["audit_id", "attempts", "number"], postgresql_where=sa.text("state <> 'done'")
    )
    op.drop_index("ix_scores_audit_id_score", table_name="scores")
    op.drop_index("ix_scores_audit_id_role_score", table_name="scores")
    op.execute(DELETE_SCORES)
    op.execute("CREATE TRIGGER delete_scores AFTER DELETE ON audits FOR EACH ROW EXECUTE FUNCTION delete_scores()")
    op.drop_constraint(op.f("fk_scores_audit_id_audits"), "scores", type_="foreignkey")


def downgrade() -> None:
    op.create_foreign_key(
        op.f("fk_scores_audit_id_audits"), "scores", "audits", ["audit_id"], ["id"], ondelete="CASCADE"
    )
    op.execute("DROP TRIGGER delete_scores ON audits")
    op.execute("DROP FUNCTION delete_scores()")
    score = sa.literal_column("score DESC")
    op.create_index("ix_scores_audit_id_role_score", "scores", ["audit_id", "role", score, "position"])
    op.create_index("ix_scores_audit_id_score", "scores", ["audit_id", score, "position"])
    op.drop_index("ix_chunks_not_done", "chunks")
    op.drop_table("audit_evidence")
    op.drop_table("score_blocks")
