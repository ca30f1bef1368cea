"""The tables of the first slice: API keys, users, signing keys, the bootstrap."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    op.create_table("settings", sa.Column("name", sa.String, primary_key=True), sa.Column("value", sa.String))
    op.create_table(
        "api_keys",
        sa.Column("id", sa.String, primary_key=True),
        sa.Column("identity", sa.String, nullable=False),
        sa.Column("mac", sa.LargeBinary, nullable=False),
        sa.Column("pepper_version", sa.String, nullable=False),
        sa.Column("created_at", sa.DateTime, nullable=False),
        sa.Column("roles", sa.JSON, nullable=False),
        sa.Column("permissions", sa.JSON, nullable=False),
        sa.Column("all_namespaces", sa.Boolean, nullable=False),
        sa.Column("namespaces", sa.JSON, nullable=False),
        sa.Column("tools", sa.JSON, nullable=False),
        sa.Column("tenant", sa.String, nullable=False),
        sa.Column("enabled", sa.Boolean, nullable=False),
        sa.Column("expires_at", sa.DateTime),
        sa.Column("last_used_at", sa.DateTime),
    )
    op.create_table(
        "users",
        sa.Column("name", sa.String, primary_key=True),
        sa.Column("password_hash", sa.String, nullable=False),
        sa.Column("created_at", sa.DateTime, nullable=False),
        sa.Column("roles", sa.JSON, nullable=False),
        sa.Column("permissions", sa.JSON, nullable=False),
        sa.Column("all_namespaces", sa.Boolean, nullable=False),
        sa.Column("namespaces", sa.JSON, nullable=False),
        sa.Column("tenant", sa.String, nullable=False),
        sa.Column("enabled", sa.Boolean, nullable=False),
    )
    op.create_table(
        "signing_keys",
        sa.Column("kid", sa.String, primary_key=True),
        sa.Column("purpose", sa.String, nullable=False),
        sa.Column("created_at", sa.DateTime, nullable=False),
        sa.Column("kek_version", sa.String, nullable=False),
        sa.Column("sealed", sa.LargeBinary, nullable=False),
    )
    op.create_table(
        "bootstraps",
        sa.Column("one", sa.Boolean, primary_key=True),
        sa.Column("done_at", sa.DateTime, nullable=False),
        sa.Column("key_ids", sa.JSON, nullable=False),
        sa.Column("user", sa.String, nullable=False),
    )
