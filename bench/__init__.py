"""Measurements: `make bench`, `make soak`. Real processes, real TLS, no assertion on time (R27)."""
