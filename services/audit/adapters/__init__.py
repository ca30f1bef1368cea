"""One file for each outside system: the SQLite store, the mirror file, authn's keys, authz."""
