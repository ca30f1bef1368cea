"""What is kept of events that retention deletes, and the way to the records of legal holds."""

from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Makes the tables."""
    for statement in (
        "CREATE TABLE audit_retired (log_id TEXT NOT NULL, segment BIGINT NOT NULL, leaves BYTEA NOT NULL, "
        "PRIMARY KEY (log_id, segment))",
        "CREATE TABLE audit_tombstones (log_id TEXT NOT NULL, number BIGINT NOT NULL, size BIGINT NOT NULL, "
        "note TEXT NOT NULL, PRIMARY KEY (log_id, number))",
        "CREATE INDEX audit_events_holds ON audit_events (action) "
        "WHERE action IN ('audit.PlaceHold', 'audit.ReleaseHold')",
    ):
        op.execute(statement)


def downgrade() -> None:
    """There is no way back: deleted events would be missing events."""
    raise NotImplementedError("the audit tables are never dropped; restore a backup instead")
