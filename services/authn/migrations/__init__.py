"""The steps from each version of authn's tables to the next, for SQLite and PostgreSQL (Alembic)."""
