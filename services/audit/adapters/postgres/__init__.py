"""The scale-out engine: several audit services in one PostgreSQL database, each with a log of its own.

``connection`` opens a database that keeps its promises, ``migrations`` makes the tables, ``store`` writes one log,
``reads`` reads all logs as one.
"""
