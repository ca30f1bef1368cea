"""Indexes over the beginnings of texts: PostgreSQL refuses a row whose key does not fit into a third of a page, and one
event with a long user would keep every event of its commit from being stored."""

from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Makes the two indexes anew; ``sql_filter`` asks for the beginning too, so that they are used."""
    for statement in (
        "DROP INDEX audit_events_by_user",
        "DROP INDEX audit_events_by_request",
        'CREATE INDEX audit_events_by_user ON audit_events (left("user", 128), timestamp)',
        "CREATE INDEX audit_events_by_request ON audit_events (left(request_id, 128)) WHERE request_id <> ''",
    ):
        op.execute(statement)


def downgrade() -> None:
    """There is no way back: the old indexes may not hold what is stored by now."""
    raise NotImplementedError("the audit tables are never changed back; restore a backup instead")
