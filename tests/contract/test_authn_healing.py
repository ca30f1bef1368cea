"""authn without its peers, through restarts and crashes: refused, never lost; healed without help (I2.6)."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest
import pytest_asyncio
from grpc_health.v1 import health_pb2, health_pb2_grpc

from kubegate.audit.v1 import audit_pb2
from kubegate.authn.v1 import authn_pb2
from services.common.errors import AlreadyExists, PermissionDenied, Unauthenticated, Unavailable
from tests.fakes.authn_stack import CORE, OPERATOR, AuthnStack


@pytest_asyncio.fixture
async def stack(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[AuthnStack]:
    stack = await AuthnStack.make(tmp_path_factory.mktemp("healing"))
    try:
        yield stack
    finally:
        await stack.stop()


async def health(stack: AuthnStack) -> int:
    stub = health_pb2_grpc.HealthStub(stack.peer(OPERATOR).channel())
    status: int = (await stub.Check(health_pb2.HealthCheckRequest(), timeout=5, wait_for_ready=True)).status
    return status


async def eventually(ask: Callable[[], Awaitable[object]]) -> None:
    """Asks until it is answered; the suite's time limit ends what never is."""
    while True:
        try:
            await ask()
        except Unavailable:
            continue
        return


@pytest.mark.req("I2.6", "R18")
async def test_without_audit_it_starts_is_not_ready_and_answers_nothing(stack: AuthnStack) -> None:
    await stack.start()
    first = await stack.bootstrap()
    issued = await stack.issue("admin", first.admin_password)
    await stack.audit.stop()
    await stack.authn.stop()
    await stack.authn.start()
    assert await health(stack) == health_pb2.HealthCheckResponse.NOT_SERVING
    tokens = (first.admin_key, issued.access_token, "wrong", None)
    refused = await asyncio.gather(
        *(stack.authenticate(token) for token in tokens),
        stack.issue("admin", first.admin_password),
        stack.admin("Bootstrap", authn_pb2.BootstrapRequest(bootstrap_token="guess"), token=""),
        return_exceptions=True,
    )
    assert [type(answer) for answer in refused] == [Unavailable] * 6
    assert (await stack.get("GetPrincipalKeys", as_="service/audit")).jwks_json
    await stack.audit.start()
    await eventually(lambda: stack.authenticate(first.admin_key))
    assert (await stack.authenticate(issued.access_token)).principal.subject == "admin"
    while await health(stack) != health_pb2.HealthCheckResponse.SERVING:
        pass


@pytest.mark.req("I2.6", "R15")
async def test_without_authz_nothing_is_administered_and_authentication_goes_on(stack: AuthnStack) -> None:
    await stack.start()
    await stack.bootstrap()
    await stack.authz.stop()
    with pytest.raises(Unavailable):
        await stack.create("bob", roles=["viewer"])
    assert (await stack.authenticate(stack.first.admin_key)).principal.subject == "admin"
    await stack.authz.start()
    await eventually(lambda: stack.create("bob", roles=["viewer"]))


@pytest.mark.req("I2.1", "R15")
async def test_credentials_outlive_a_crash_and_the_bootstrap_stays_spent(stack: AuthnStack) -> None:
    await stack.start()
    first = await stack.bootstrap()
    made = await stack.create("bob", roles=["viewer"])
    await stack.admin("SetApiKeyEnabled", authn_pb2.SetApiKeyEnabledRequest(id=made.api_key.id, enabled=False))
    issued = await stack.issue("admin", first.admin_password)
    await stack.authn.kill()
    with pytest.raises(Unavailable):
        await stack.authenticate(first.admin_key, seconds=2)
    (stack.authn.directory / "bootstrap-token").unlink()
    await stack.authn.start()
    await eventually(lambda: stack.authenticate(first.viewer_key))
    assert (await stack.authenticate(issued.access_token)).principal.subject == "admin"
    with pytest.raises(Unauthenticated):
        await stack.authenticate(made.key)
    with pytest.raises(AlreadyExists):
        await stack.bootstrap()
    # Keys signed after the restart are the ones that authz already knows.
    await stack.create("carol", roles=["viewer"])


async def test_last_uses_are_written_when_it_stops(stack: AuthnStack) -> None:
    await stack.start()
    first = await stack.bootstrap()
    await stack.authenticate(first.viewer_key)
    assert await stack.authn.stop() == 0
    await stack.authn.start()
    await eventually(lambda: stack.authenticate(first.admin_key, as_=OPERATOR))
    listed = (await stack.admin("ListApiKeys", authn_pb2.ListApiKeysRequest())).api_keys
    assert all(key.HasField("last_used_at") for key in listed)


@pytest.mark.req("R7", "I2.7")
async def test_what_is_not_audit_is_not_written_to(stack: AuthnStack) -> None:
    """A platform service's certificate on audit's port: authn refuses it and so answers nothing."""
    await stack.start()
    first = await stack.bootstrap()
    await stack.audit.stop()
    stack.audit._tls = stack.mesh.tls("platform/billing")
    await stack.audit.start()
    events = len(stack.audit.events)
    with pytest.raises(Unavailable):
        await stack.authenticate(first.admin_key, seconds=4)
    assert len(stack.audit.events) == events


@pytest.mark.req("R18", "R22")
async def test_an_event_that_audit_refuses_keeps_the_answer_back(stack: AuthnStack) -> None:
    await stack.start()
    first = await stack.bootstrap()
    stack.audit.fail_when = lambda event: event.event_type == audit_pb2.EVENT_TYPE_AUTHENTICATION
    for token in (first.admin_key, "wrong"):
        with pytest.raises(Unavailable):
            await stack.authenticate(token)
    with pytest.raises(PermissionDenied):
        await stack.get("GetPrincipalKeys", as_=CORE)
