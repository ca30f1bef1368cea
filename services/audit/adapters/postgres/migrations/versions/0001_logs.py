"""Logs, their keys, events by time, checkpoints and nodes."""

from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

# As services.audit.schema.COLUMNS was; a migration never changes after it has run somewhere.
_COLUMNS = (
    "writer", "event_id", "event_type", "timestamp", "user", "action", "resource", "namespace", "result", "tenant",
    "request_id", "phase", "intent_id", "deadline",
)  # fmt: skip


def upgrade() -> None:
    """Makes the tables. Events are partitioned by their own time, months being added by the store; what lies
    outside every month goes to the default partition. Text compares byte by byte, as in SQLite.
    """
    columns = ", ".join(f'"{name}" TEXT COLLATE "C" NOT NULL' for name in _COLUMNS)
    for statement in (
        "CREATE TABLE audit_logs (log_id TEXT PRIMARY KEY, origin TEXT NOT NULL, epoch BIGINT NOT NULL)",
        "CREATE TABLE audit_keys (log_id TEXT NOT NULL REFERENCES audit_logs, number INTEGER NOT NULL, "
        "vkey TEXT NOT NULL, first BIGINT NOT NULL, handover TEXT NOT NULL, PRIMARY KEY (log_id, number))",
        f"CREATE TABLE audit_events (log_id TEXT NOT NULL, sequence BIGINT NOT NULL, event BYTEA NOT NULL, "
        f"leaf BYTEA NOT NULL, {columns}, PRIMARY KEY (log_id, sequence, timestamp)) PARTITION BY RANGE (timestamp)",
        "CREATE TABLE audit_events_default PARTITION OF audit_events DEFAULT",
        "CREATE INDEX audit_events_by_time ON audit_events (timestamp, log_id, sequence)",
        'CREATE INDEX audit_events_by_user ON audit_events ("user", timestamp)',
        "CREATE INDEX audit_events_by_request ON audit_events (request_id) WHERE request_id <> ''",
        "CREATE INDEX audit_events_intents ON audit_events (deadline) WHERE phase = 'intent'",
        "CREATE INDEX audit_events_outcomes ON audit_events (writer, intent_id) WHERE phase = 'outcome'",
        'CREATE TABLE audit_event_keys (writer TEXT COLLATE "C" NOT NULL, event_id TEXT COLLATE "C" NOT NULL, '
        "log_id TEXT NOT NULL, sequence BIGINT NOT NULL, PRIMARY KEY (writer, event_id, log_id))",
        "CREATE TABLE audit_checkpoints (log_id TEXT NOT NULL, number BIGINT NOT NULL, size BIGINT NOT NULL, "
        "root BYTEA NOT NULL, note TEXT NOT NULL, PRIMARY KEY (log_id, number))",
        "CREATE TABLE audit_nodes (log_id TEXT NOT NULL, level INTEGER NOT NULL, position BIGINT NOT NULL, "
        "hash BYTEA NOT NULL, PRIMARY KEY (log_id, level, position))",
    ):
        op.execute(statement)


def downgrade() -> None:
    """There is no way back: it would take the record with it."""
    raise NotImplementedError("the audit tables are never dropped; restore a backup instead")
