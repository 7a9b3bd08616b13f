"""${message}

Safe while an older version still serves: add before you use, stop using before you drop; never rewrite a
large table in one statement. Locks wait 3 seconds at most, then the migration is tried again (see service/migrate.py).
"""

import sqlalchemy as sa
from alembic import op
${imports if imports else ""}

revision = ${repr(up_revision)}
down_revision = ${repr(down_revision)}
branch_labels = None
depends_on = None


def upgrade() -> None:
    ${upgrades if upgrades else "pass"}


def downgrade() -> None:
    ${downgrades if downgrades else "pass"}
