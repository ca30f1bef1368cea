"""Elevations as people use them, for the contract tests of authz."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from google.protobuf.duration_pb2 import Duration

from kubegate.audit.v1 import audit_pb2
from kubegate.authz.v1 import authz_pb2, elevation_pb2, elevation_pb2_grpc
from kubegate.common.v1 import identity_pb2, lease_pb2
from tests.contract.authz_world import World, running

AUTHORIZATION = audit_pb2.EVENT_TYPE_AUTHORIZATION
POLICY = """
roles:
  - {name: viewer, permissions: ["k8s:pods:list"], namespaces: [default]}
  - {name: deleter, permissions: ["k8s:pods:delete"], namespaces: [default, staging]}
  - {name: asker, permissions: ["kubegate:elevations:request"]}
  - {name: boss, permissions: ["k8s:*", "kubegate:*"]}
  - {name: small-boss, permissions: ["kubegate:*"]}
deny:
  - {name: frozen, permissions: ["k8s:pods:*"], namespaces: [frozen]}
"""


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with running(tmp_path, POLICY) as world:
        yield world


def pods(verb: str, namespace: str, name: str = "") -> identity_pb2.Action:
    return identity_pb2.Action(verb=verb, resource="pods", namespace=namespace, name=name)


class Desk:
    """Elevations as people use them, each with an operator's certificate."""

    def __init__(self, world: World) -> None:
        self.world = world

    def token(self, subject: str, *roles: str, **more: Any) -> str:
        return self.world.keys.token(azp="operator/admin", subject=subject, roles=roles, **more)

    async def request(
        self, token: str, role: str = "deleter", namespaces: tuple[str, ...] = ("staging",), minutes: int = 10
    ) -> elevation_pb2.Elevation:
        request = elevation_pb2.RequestElevationRequest(
            role=role,
            namespaces=identity_pb2.NamespaceScope(patterns=namespaces),
            duration=Duration(seconds=minutes * 60),
            justification="incident 7",
        )
        response = await self._ask("RequestElevation", request, token)
        return response.elevation  # type: ignore[no-any-return]

    async def approve(self, elevation_id: str, token: str) -> elevation_pb2.Elevation:
        response = await self._ask("ApproveElevation", elevation_pb2.ApproveElevationRequest(id=elevation_id), token)
        return response.elevation  # type: ignore[no-any-return]

    async def revoke(self, elevation_id: str, token: str) -> elevation_pb2.Elevation:
        response = await self._ask("RevokeElevation", elevation_pb2.RevokeElevationRequest(id=elevation_id), token)
        return response.elevation  # type: ignore[no-any-return]

    async def list(self, token: str, *, open_only: bool = False) -> list[elevation_pb2.Elevation]:
        request = elevation_pb2.ListElevationsRequest(open_only=open_only)
        return list((await self._ask("ListElevations", request, token)).elevations)

    async def _ask(self, method: str, request: Any, token: str) -> Any:
        return await self.world.ask(elevation_pb2_grpc.ElevationServiceStub, method, request, token)


@pytest.fixture
def desk(world: World) -> Desk:
    return Desk(world)


async def ping(world: World, call: Any, sequence: int) -> authz_pb2.WatchPolicyResponse:
    await call.write(authz_pb2.WatchPolicyRequest(ping=lease_pb2.LeasePing(sequence=sequence)))
    answer: authz_pb2.WatchPolicyResponse = await call.read()
    assert answer.answer.sequence == sequence
    return answer
