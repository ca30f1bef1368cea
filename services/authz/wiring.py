"""Constructs the authz service."""

import asyncio

from kubegate.authz.v1 import authz_pb2, authz_pb2_grpc
from services.authz.adapters.audit_log import AuditLog
from services.authz.adapters.policy_file import PolicyFile, Unreadable
from services.authz.adapters.principal_tokens import PrincipalTokens
from services.authz.config import AuthzConfig
from services.authz.policy.engine import Engine
from services.authz.service import AuthzService
from services.authz.servicer import AuthzServicer
from services.common.audit_client import AuditClient
from services.common.clock import SystemClock
from services.common.grpc_client import Peer
from services.common.grpc_server import GrpcServer
from services.common.principal_token import RemotePrincipalKeys
from services.common.revocations import LivePrincipalVerifier, RevocationLease
from services.common.runtime import announce_address

GRACE = 5.0
"""Seconds that calls in flight have when the service stops."""


async def main(config: AuthzConfig) -> None:
    """Serves until cancelled."""
    clock = SystemClock()
    file = PolicyFile(config.policy)
    policy = file.load()
    authn = Peer("authn", config.authn, config.tls)
    audit = Peer("audit", config.audit, config.tls)
    keys = RemotePrincipalKeys(authn, clock)
    lease = RevocationLease(authn, clock)
    client = AuditClient(audit, clock)
    recorder = AuditLog(client)
    service = AuthzService(Engine(policy), PrincipalTokens(LivePrincipalVerifier(keys, lease, clock)), recorder, clock)
    server = GrpcServer(config.listen, config.tls, lambda: [*keys.problems(), *lease.problems(), *client.problems()])
    server.add(
        authz_pb2_grpc.add_AuthzServiceServicer_to_server,
        AuthzServicer(service),
        authz_pb2.DESCRIPTOR.services_by_name["AuthzService"].full_name,
    )
    try:
        port = await server.start()
        recorder.policy_adopted(service.revision, "")
        announce_address(config.address_file, f"{config.listen.rpartition(':')[0]}:{port}")
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(keys.keep_fresh())
            tasks.create_task(lease.keep())
            tasks.create_task(_follow(file, service))
    finally:
        await server.stop(GRACE)
        await recorder.close()
        await client.close()
        await audit.close()
        await authn.close()


async def _follow(file: PolicyFile, service: AuthzService) -> None:
    async for change in file.changes():
        if isinstance(change, Unreadable):
            service.keep([str(change)])
        else:
            service.reload(change)
