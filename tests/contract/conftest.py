"""What several contract tests share: a PostgreSQL server, for it takes seconds to make, stores in both engines, and a
server that the cluster's adapter is connected to."""

from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from kubegate.authz.v1 import authz_pb2_grpc
from services.audit.adapters.engine import Store
from services.audit.adapters.postgres.store import PostgresStore
from services.audit.adapters.sqlite_store import SqliteStore
from services.audit.checkpoint import NoteSigner
from services.common.grpc_server import GrpcServer
from tests.contract.authn_target import Target
from tests.contract.echo import SERVICE, Echo, Fixture
from tests.contract.issuer_trust import Trust
from tests.contract.kube_server import authority as authority
from tests.contract.kube_server import cluster as cluster
from tests.contract.kube_server import server as server
from tests.fakes.mesh import Mesh
from tests.fakes.oidc_issuer import Issuer
from tests.fakes.postgres import Postgres
from tests.unit.audit.support import signer

Open = Callable[..., Any]
"""Opens the same store again and again."""


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    """A server; each test takes a database of its own."""
    server = Postgres.find()
    try:
        server.start()
        yield server
    finally:
        server.remove()


@pytest.fixture(params=["sqlite", "postgres"])
def open_store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Open]:
    """Opens the same store again and again; what is left open is closed."""
    opened: list[Store] = []
    url = request.getfixturevalue("postgres").socket_url() if request.param == "postgres" else ""

    def open_(by: NoteSigner | None = None, previous: NoteSigner | None = None, **options: Any) -> Store:
        by = by or signer()
        store: Store
        if url:
            store = PostgresStore(url, "test", by, previous, **options)
        else:
            store = SqliteStore(tmp_path / "audit.db", by, previous, **options)
        opened.append(store)
        return store

    yield open_
    for store in opened:
        try:
            store.close()
        except OSError:
            pass  # closed by the test


@pytest.fixture(params=["sqlite", "postgresql"])
def target(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Target]:
    if request.param == "sqlite":
        target = Target(tmp_path / "authn.db", "")
    else:
        server: Postgres = request.getfixturevalue("postgres")
        target = Target(server.database(), server.password)
    yield target
    target.close()


@pytest.fixture
async def served(tmp_path: Path) -> AsyncIterator[Fixture]:
    mesh, echo = Mesh(tmp_path), Echo()
    problems: list[str] = []
    server = GrpcServer("127.0.0.1:0", mesh.tls("service/authz"), lambda: problems)
    server.add(authz_pb2_grpc.add_AuthzServiceServicer_to_server, echo, SERVICE)
    fixture = Fixture(mesh, echo, await server.start(), server)
    fixture.problems = problems
    yield fixture
    echo.release.set()
    await server.stop(0)


@pytest.fixture(scope="module")
def provider(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Issuer]:
    provider = Issuer(tmp_path_factory.mktemp("issuer"))
    provider.start()
    yield provider
    provider.stop()


@pytest.fixture
def trust(provider: Issuer) -> Iterator[Callable[..., Trust]]:
    made: list[Trust] = []
    provider.keys = []
    provider.new_key()
    provider.publish({"issuer": provider.url, "jwks_uri": f"{provider.url}/jwks"})

    def make(**settings: Any) -> Trust:
        made.append(Trust(provider, **settings))
        return made[-1]

    yield make
    for each in made:
        each.documents.close()
