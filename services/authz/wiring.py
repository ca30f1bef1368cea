"""Constructs the authz service."""

import asyncio

from kubegate.authz.v1 import (
    authz_pb2,
    authz_pb2_grpc,
    elevation_pb2,
    elevation_pb2_grpc,
    once_pb2,
    once_pb2_grpc,
    policy_admin_pb2,
    policy_admin_pb2_grpc,
)
from services.authz.adapters.audit_log import AuditLog
from services.authz.adapters.counted import CountedRecorder
from services.authz.adapters.policy_file import PolicyFile
from services.authz.adapters.principal_tokens import PrincipalTokens
from services.authz.adapters.sqlite_once import SqliteOnce
from services.authz.adapters.sqlite_store import SqliteStore
from services.authz.admin_servicer import ElevationServicer, PolicyAdminServicer
from services.authz.admission import Admission
from services.authz.config import AuthzConfig
from services.authz.elevations import Elevations
from services.authz.in_force import InForce
from services.authz.once import Once
from services.authz.once_servicer import OnceServicer
from services.authz.policy_admin import PolicyAdmin
from services.authz.questions import Questions
from services.authz.service import AuthzService
from services.authz.servicer import AuthzServicer
from services.common.audit_client import AuditClient
from services.common.clock import SystemClock
from services.common.grpc_client import Peer
from services.common.grpc_server import GrpcServer
from services.common.principal_token import RemotePrincipalKeys
from services.common.revocations import LivePrincipalVerifier, RevocationLease
from services.common.runtime import announce_address
from services.common.telemetry import metrics
from services.common.telemetry.process import Facts, Telemetry
from services.common.writable import WritableProbe

GRACE = 5.0
"""Seconds that calls in flight have when the service stops."""


SHOWN = len("sha256:") + 12
"""Characters of a policy's revision that the status shows."""


def check(config: AuthzConfig) -> None:
    """Reads what ``main`` reads before it opens the store and asks anybody.

    Raises:
        StartupError: as ``main``.
    """
    PolicyFile(config.policy).load()


async def main(config: AuthzConfig) -> None:
    """Serves until cancelled."""
    clock = SystemClock()
    file = PolicyFile(config.policy)
    policy, content = file.load()
    store = SqliteStore(config.store)
    authn = Peer("authn", config.authn, config.tls)
    audit = Peer("audit", config.audit, config.tls)
    keys = RemotePrincipalKeys(authn, clock)
    lease = RevocationLease(authn, clock)
    client = AuditClient(audit, clock)
    audit_log = AuditLog(client)
    recorder = CountedRecorder(audit_log, clock)
    probe = WritableProbe(store.touch)
    telemetry = Telemetry("authz", config.telemetry, config.tls, metrics.AUTHZ)
    in_force = InForce(policy, content, store, recorder, clock)
    service = AuthzService(in_force, PrincipalTokens(LivePrincipalVerifier(keys, lease, clock)), recorder, clock)
    admission = Admission(service, recorder, clock)
    elevations = Elevations(admission, in_force, store, clock)
    policy_admin = PolicyAdmin(admission, service, in_force, store, file)
    problems = lambda: [*keys.problems(), *lease.problems(), *client.problems(), *probe.problems()]
    server = GrpcServer(config.listen, config.tls, problems, notices=in_force.notices)
    server.add(
        authz_pb2_grpc.add_AuthzServiceServicer_to_server,
        AuthzServicer(service),
        authz_pb2.DESCRIPTOR.services_by_name["AuthzService"].full_name,
    )
    server.add(
        policy_admin_pb2_grpc.add_PolicyAdminServiceServicer_to_server,
        PolicyAdminServicer(policy_admin),
        policy_admin_pb2.DESCRIPTOR.services_by_name["PolicyAdminService"].full_name,
    )
    server.add(
        elevation_pb2_grpc.add_ElevationServiceServicer_to_server,
        ElevationServicer(elevations, clock),
        elevation_pb2.DESCRIPTOR.services_by_name["ElevationService"].full_name,
    )
    server.add(
        once_pb2_grpc.add_OnceServiceServicer_to_server,
        OnceServicer(Once(service, SqliteOnce(store), clock), Questions(service, clock)),
        once_pb2.DESCRIPTOR.services_by_name["OnceService"].full_name,
    )
    try:
        metrics.follow(metrics.POLICY_REJECTED, lambda: float(bool(in_force.rejected)))
        metrics.follow(metrics.POLICY_REVISION, lambda: in_force.lease_revision)
        await in_force.start()
        await telemetry.start(Facts(problems, in_force.notices, revision=lambda: f"policy {in_force.revision[:SHOWN]}"))
        port = await server.start()
        announce_address(config.address_file, f"{config.listen.rpartition(':')[0]}:{port}")
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(keys.keep_fresh())
            tasks.create_task(lease.keep())
            tasks.create_task(probe.keep())
            tasks.create_task(in_force.follow(file.changes(), file.now))
            await server.until_stopped(GRACE)
    finally:
        await admission.drain()
        await audit_log.close()
        await client.close()
        await audit.close()
        await authn.close()
        await store.close()
        await telemetry.stop()
