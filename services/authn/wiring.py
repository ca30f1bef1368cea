"""Constructs the authn service."""

import asyncio
from pathlib import Path

from kubegate.authn.v1 import authn_pb2, authn_pb2_grpc
from services.authn.adapters.access_token import AccessTokenAuthenticator, AccessTokenIssuer
from services.authn.adapters.api_key import ApiKeyAuthenticator, ApiKeyMaker, Pepper
from services.authn.adapters.audit import AuditRecorder
from services.authn.adapters.authz import AuthzPolicy
from services.authn.adapters.bootstrap_token import BootstrapTokenFile
from services.authn.adapters.password import Argon2Pool, PasswordAuthenticator
from services.authn.adapters.principal_tokens import OperatorTokenVerifier, PrincipalTokenIssuer
from services.authn.adapters.signing_keys import KeyEncryptionKey, Purpose, open_ring
from services.authn.adapters.store import Store
from services.authn.admin import CredentialAdmin
from services.authn.bootstrap import Bootstrap
from services.authn.config import AuthnConfig
from services.authn.journal import Journal
from services.authn.service import AuthnService
from services.authn.servicer import AuthnServicer, CredentialAdminServicer
from services.common.audit_client import AuditClient
from services.common.clock import SystemClock
from services.common.config import read_secret
from services.common.grpc_client import Peer
from services.common.grpc_server import GrpcServer
from services.common.runtime import announce_address
from services.common.runtime_errors import ConfigError

GRACE = 5.0
"""Seconds that calls in flight have when the service stops."""

USES_PERIOD = 15.0
"""Seconds between two writings of last uses."""

MIN_SECRET = 32
"""Bytes of a pepper or key-encryption key at least."""


async def main(config: AuthnConfig) -> None:
    """Serves until cancelled."""
    clock = SystemClock()
    pepper = Pepper(_long_secret(config.pepper_file))
    kek = KeyEncryptionKey(_long_secret(config.kek_file))
    store = Store.open(config.store)
    hashing = Argon2Pool()
    audit = Peer("audit", config.audit, config.tls)
    authz = Peer("authz", config.authz, config.tls)
    client = AuditClient(audit, clock)
    try:
        store.bind_pepper(pepper.version)
        access = open_ring(store, kek, Purpose.ACCESS, clock.now())
        principal = open_ring(store, kek, Purpose.PRINCIPAL, clock.now())
        recorder = AuditRecorder(client)
        journal = Journal(recorder, clock)
        authenticators = (
            ApiKeyAuthenticator(store.keys, pepper),
            AccessTokenAuthenticator(store.users, access, config.issuer, config.audience),
            PasswordAuthenticator(store.users, hashing, await PasswordAuthenticator.make_decoy(hashing)),
        )
        service = AuthnService(
            authenticators,
            PrincipalTokenIssuer(principal, clock),
            AccessTokenIssuer(access, config.issuer, config.audience, config.access_token_ttl, clock),
            recorder,
            clock,
        )
        maker = ApiKeyMaker(pepper)
        admin = CredentialAdmin(
            store, maker, OperatorTokenVerifier(principal, clock), AuthzPolicy(authz), journal, clock
        )
        bootstrap = Bootstrap(store, BootstrapTokenFile(config.bootstrap_token_file), maker, hashing, journal, clock)
        server = GrpcServer(config.listen, config.tls, client.problems)
        server.add(
            authn_pb2_grpc.add_AuthnServiceServicer_to_server,
            AuthnServicer(service, access.jwks, principal.jwks),
            authn_pb2.DESCRIPTOR.services_by_name["AuthnService"].full_name,
        )
        server.add(
            authn_pb2_grpc.add_CredentialAdminServiceServicer_to_server,
            CredentialAdminServicer(admin, bootstrap),
            authn_pb2.DESCRIPTOR.services_by_name["CredentialAdminService"].full_name,
        )
        try:
            port = await server.start()
            announce_address(config.address_file, f"{config.listen.rpartition(':')[0]}:{port}")
            while True:
                await asyncio.sleep(USES_PERIOD)
                await store.write_uses()
        finally:
            await server.stop(GRACE)
            await journal.drain()
            await store.write_uses()
    finally:
        await client.close()
        await audit.close()
        await authz.close()
        hashing.close()
        store.close()


def _long_secret(path: Path) -> bytes:
    secret = read_secret(path)
    if len(secret) < MIN_SECRET:
        raise ConfigError(path, [f"secret file holds fewer than {MIN_SECRET} bytes; write a random one"])
    return secret
