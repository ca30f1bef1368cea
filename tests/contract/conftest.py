"""What several contract tests share: one PostgreSQL server, for it takes seconds to make."""

from collections.abc import Iterator

import pytest

from tests.fakes.postgres import Postgres


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    """A server; each test takes a database of its own."""
    server = Postgres.find()
    try:
        server.start()
        yield server
    finally:
        server.remove()
