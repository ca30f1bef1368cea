"""Puts the audit service together and runs it."""

import asyncio
import hmac
import sys
from functools import partial
from pathlib import Path

from kubegate.audit.v1 import audit_pb2, audit_pb2_grpc
from services.audit.adapters.authz import AuthzPolicy
from services.audit.adapters.engine import Store
from services.audit.adapters.group_commit import GroupCommitLog
from services.audit.adapters.log_metrics import follow_log
from services.audit.adapters.mirror import Mirror, holds_records
from services.audit.adapters.postgres.store import PostgresStore
from services.audit.adapters.principals import TokenPrincipals
from services.audit.adapters.publisher import Publisher, check_not_behind, published
from services.audit.adapters.sqlite_store import SqliteStore
from services.audit.authorizing import Authorizer
from services.audit.checkpoint import BadKey, NoteSigner, origin_of
from services.audit.config import Config
from services.audit.keeping import AuditKeeping
from services.audit.lasting import Lasting
from services.audit.masking import Masker
from services.audit.orphans import OrphanWatch
from services.audit.reading import AuditReading
from services.audit.self_check import SelfCheck
from services.audit.service import AuditService
from services.audit.servicer import AuditServicer
from services.audit.tailing import AuditTailing
from services.common.clock import SystemClock
from services.common.config import read_secret
from services.common.grpc_client import Peer
from services.common.grpc_server import GrpcServer
from services.common.log import get_logger
from services.common.principal_token import RemotePrincipalKeys
from services.common.revocations import LivePrincipalVerifier, RevocationLease
from services.common.runtime import announce_address
from services.common.runtime_errors import ConfigError
from services.common.telemetry import metrics
from services.common.telemetry.process import Facts, Telemetry

THREAD_SWITCH = 0.0005
"""Seconds after which a thread lets another run: the writer waits for the event loop at every SQLite call."""

STOP_GRACE = 5.0
"""Seconds for calls in flight at the end."""

logger = get_logger("audit")


async def main(config: Config) -> None:
    """Serves until cancelled.

    Raises:
        StartupError: the store, mirror, key or address cannot be used.
    """
    sys.setswitchinterval(THREAD_SWITCH)
    clock = SystemClock()
    store = _store(config)
    try:
        check_not_behind(store, config.published, config.witnesses)
        intents = store.reads()
        mirror = Mirror(config.mirror, store.events(), store.first, partial(intents.nodes, 0))
    except BaseException:
        store.close()
        raise
    log = GroupCommitLog(store, mirror, queue_limit=config.queue_limit)
    telemetry = Telemetry("audit", config.telemetry, config.tls, metrics.AUDIT)
    check = SelfCheck(log, store.keys, clock)
    publisher = Publisher(config.published, log)
    logger.info(
        "store opened",
        store=store.name,
        events=store.size,
        key=store.keys.newest.vkey,
        brought_to_mirror=mirror.size - mirror.found,
    )

    authn = Peer("authn", config.authn, config.tls)
    authz = Peer("authz", config.authz, config.tls)
    keys = RemotePrincipalKeys(authn, clock)
    lease = RevocationLease(authn, clock)
    principals = TokenPrincipals(LivePrincipalVerifier(keys, lease, clock))
    masker = Masker(_mask_key(config))
    service = AuditService(log, principals, masker, clock)
    policy = AuthzPolicy(authz, clock)
    authorizer = Authorizer(log, principals, policy, clock, masker)
    lasting = Lasting(authorizer, principals, policy, clock)
    reading = AuditReading(log, authorizer, lasting, clock, masker)
    tailing = AuditTailing(log, lasting, clock)
    keeping = AuditKeeping(log, authorizer, clock, config.retention_days)

    problems = lambda: [*log.problems(), *publisher.problems(), *keys.problems(), *lease.problems()]
    server = GrpcServer(config.listen, config.tls, problems, notices=check.notices)
    server.add(
        audit_pb2_grpc.add_AuditServiceServicer_to_server,
        AuditServicer(service, reading, tailing, keeping),
        audit_pb2.DESCRIPTOR.services_by_name["AuditService"].full_name,
    )
    try:
        follow_log(log, config.queue_limit)
        await telemetry.start(Facts(problems, check.notices, head=check.head))
        port = await server.start()
        announce_address(config.address_file, f"{config.listen.rpartition(':')[0]}:{port}")
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(keys.keep_fresh())
            tasks.create_task(lease.keep())
            tasks.create_task(policy.lease.keep())
            tasks.create_task(publisher.run())
            tasks.create_task(keeping.run())
            tasks.create_task(check.run())
            tasks.create_task(OrphanWatch(intents, clock).run())
            await server.until_stopped(STOP_GRACE)
    finally:
        intents.close()
        await lasting.ended()
        await log.stop()
        await publisher.publish()
        await authn.close()
        await authz.close()
        await telemetry.stop()


def _store(config: Config) -> Store:
    signer = _signer(config, config.signing_key_file)
    old = config.previous_signing_key_file
    previous = _signer(config, old) if old else None
    may_create = not holds_records(config.mirror) and not published(config.published)
    if config.store is not None:
        return SqliteStore(config.store, signer, previous, may_create=may_create)
    return PostgresStore(_url(config), config.log_id, signer, previous, may_create=may_create)


def _url(config: Config) -> str:
    assert config.database_url_file is not None, "the configuration has one of the two"  # noqa: S101
    return read_secret(config.database_url_file).decode("utf-8", "replace")


def _mask_key(config: Config) -> bytes:
    if config.mask_key_file is not None:
        return read_secret(config.mask_key_file)
    return hmac.digest(read_secret(config.signing_key_file), b"kubegate audit mask key", "sha256")


def _signer(config: Config, path: Path) -> NoteSigner:
    try:
        return NoteSigner.from_pem(origin_of(config.log_id), read_secret(path))
    except BadKey as error:
        raise ConfigError(path, [f"signing key of the audit log: {error}; restore the file from a backup"]) from error
