"""How long a connection to PostgreSQL goes unanswered before it is given up.

Without these a partition in which packets vanish silently leaves a reader waiting for hours and a writer for a quarter
of an hour, and with it everybody who waits for a record.
"""

UNANSWERED: dict[str, str | int] = {
    "connect_timeout": 5,
    "keepalives": 1,
    "keepalives_idle": 5,
    "keepalives_interval": 2,
    "keepalives_count": 5,
    "tcp_user_timeout": 15_000,
}
"""Parameters of libpq: whoever waits gives up after 15 seconds without a sign of life, whether he has sent something
(``tcp_user_timeout``, milliseconds) or not (keepalives, seconds). Sockets of the machine itself ignore them."""
