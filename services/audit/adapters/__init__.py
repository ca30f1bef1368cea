"""One file for each outside system: the store in SQLite or PostgreSQL (``postgres``), the mirror file,
the published tree head, authn's keys, authz."""
