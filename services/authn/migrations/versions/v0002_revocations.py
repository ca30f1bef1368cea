"""Revisions of what ends, lock-outs, second factors, trusted issuers, refresh tokens, dated signing keys."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    empty = sa.text("''")
    op.add_column("api_keys", sa.Column("certificate_sha256", sa.String, nullable=False, server_default=empty))
    op.add_column("api_keys", sa.Column("replaced_by", sa.String, nullable=False, server_default=empty))
    op.add_column("users", sa.Column("generation", sa.BigInteger, nullable=False, server_default=sa.text("0")))
    op.add_column("users", sa.Column("totp_sealed", sa.LargeBinary))
    op.add_column("users", sa.Column("totp_confirmed", sa.Boolean, nullable=False, server_default=sa.false()))
    op.add_column("signing_keys", sa.Column("active_from", sa.DateTime))
    op.add_column("signing_keys", sa.Column("algorithm", sa.String, nullable=False, server_default=sa.text("'EdDSA'")))
    op.execute("UPDATE signing_keys SET active_from = created_at")
    head = op.create_table(
        "head",
        sa.Column("one", sa.Boolean, primary_key=True),
        sa.Column("revision", sa.BigInteger, nullable=False),
        sa.Column("floor", sa.BigInteger, nullable=False),
    )
    op.bulk_insert(head, [{"one": True, "revision": 1, "floor": 0}])
    op.create_table(
        "changes",
        sa.Column("revision", sa.BigInteger, primary_key=True),
        sa.Column("name", sa.String, primary_key=True),
        sa.Column("at", sa.DateTime, nullable=False, index=True),
    )
    op.create_table(
        "logins",
        sa.Column("name", sa.String, primary_key=True),
        sa.Column("failures", sa.Integer, nullable=False),
        sa.Column("locked_until", sa.DateTime),
        sa.Column("totp_step", sa.BigInteger, nullable=False),
    )
    op.create_table(
        "recovery_codes",
        sa.Column("user", sa.String, primary_key=True),
        sa.Column("mac", sa.LargeBinary, primary_key=True),
    )
    op.create_table(
        "revoked_tokens",
        sa.Column("credential_id", sa.String, primary_key=True),
        sa.Column("until", sa.DateTime, nullable=False),
    )
    op.create_table(
        "refresh_tokens",
        sa.Column("id", sa.String, primary_key=True),
        sa.Column("family", sa.String, nullable=False, index=True),
        sa.Column("user", sa.String, nullable=False, index=True),
        sa.Column("generation", sa.BigInteger, nullable=False),
        sa.Column("mac", sa.LargeBinary, nullable=False),
        sa.Column("expires_at", sa.DateTime, nullable=False),
        sa.Column("auth_time", sa.DateTime, nullable=False),
        sa.Column("amr", sa.JSON, nullable=False),
        sa.Column("used", sa.Boolean, nullable=False),
    )
    op.create_table(
        "issuers",
        sa.Column("issuer", sa.String, primary_key=True),
        sa.Column("document", sa.JSON, nullable=False),
        sa.Column("enabled", sa.Boolean, nullable=False),
        sa.Column("created_at", sa.DateTime, nullable=False),
    )
