"""authn and authz as processes, and the core's own adapter beside them, with its lease on authn."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from kubegate.authz.v1 import authz_pb2, authz_pb2_grpc
from kubegate.common.v1 import identity_pb2
from services.common.deadline import Deadline
from services.common.errors import Unauthenticated
from services.common.ids import uuid7
from services.mcp_core.adapters.authn import AuthnAdapter
from services.mcp_core.model import Credential, RequestContext, Source
from tests.fakes.authn_stack import CORE, AuthnStack


class CoreRig:
    """The stack, and the core's adapter with its lease on authn."""

    def __init__(self, stack: AuthnStack) -> None:
        self.stack = stack
        self.adapter = AuthnAdapter(stack.mesh.peer("authn", stack.authn.port, CORE))
        self.authz = stack.mesh.peer("authz", stack.authz.port, CORE)

    async def start(self) -> None:
        await self.stack.start()
        await self.stack.bootstrap()
        self._keeping = asyncio.create_task(self.adapter.keep())
        await self.heard_of_it()

    async def stop(self) -> None:
        self._keeping.cancel()
        await asyncio.gather(self._keeping, return_exceptions=True)
        await self.adapter.close()
        await self.authz.close()

    async def at_the_core(self, token: str) -> Any:
        """The caller, as the core takes him for: from its cache where it may."""
        context = RequestContext(uuid7(), "1" * 32, "mcp", Source("192.0.2.1"), Deadline.after(10))
        return await self.adapter.authenticate(Credential(token), context)

    async def at_authz(self, principal_token: str, namespace: str = "default") -> Any:
        action = identity_pb2.Action(verb="list", resource="pods", namespace=namespace)
        return await self.authz.unary(
            lambda channel: authz_pb2_grpc.AuthzServiceStub(channel).Check,
            authz_pb2.CheckRequest(principal_token=principal_token, action=action),
            Deadline.after(10),
        )

    async def heard_of_it(self) -> None:
        """Until the core's lease has answered a ping that was sent from now on."""
        lease = self.adapter._lease
        sent = lease._sequence
        while lease._sequence < sent + 2 or not lease.fresh():
            await asyncio.sleep(0.02)


async def until_refused(ask: Callable[[], Awaitable[Any]]) -> None:
    """The suite's time limit ends what never comes. Once refused, it stays so."""
    while True:
        try:
            await ask()
        except Unauthenticated:
            break
        await asyncio.sleep(0.02)
    for _ in range(3):
        with pytest.raises(Unauthenticated):
            await ask()
