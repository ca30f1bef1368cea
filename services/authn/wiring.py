"""Constructs the authn service."""

import asyncio
from collections.abc import Sequence
from datetime import timedelta

from kubegate.authn.v1 import admin_pb2, admin_pb2_grpc, authn_pb2, authn_pb2_grpc
from services.authn.adapters.access_token import LEEWAY, AccessTokenAuthenticator, AccessTokenIssuer
from services.authn.adapters.api_key import ApiKeyAuthenticator, ApiKeyMaker, Pepper
from services.authn.adapters.audit import AuditRecorder
from services.authn.adapters.authz import AuthzPolicy
from services.authn.adapters.bootstrap_token import BootstrapTokenFile
from services.authn.adapters.certificate import CertificateAuthenticator
from services.authn.adapters.counted import CountedRecorder
from services.authn.adapters.credentials import CredentialStore
from services.authn.adapters.exchanged_token import Exchanger
from services.authn.adapters.external_token import ExternalTokenAuthenticator
from services.authn.adapters.holders import Holders
from services.authn.adapters.issuer_store import IssuerStore
from services.authn.adapters.jwks import HttpsDocuments, KeySets
from services.authn.adapters.key_ring import KeyRotation, Schedule, open_ring
from services.authn.adapters.logins import LoginStore
from services.authn.adapters.password import Argon2Pool, PasswordAuthenticator
from services.authn.adapters.principal_tokens import OperatorTokenVerifier, PrincipalTokenIssuer
from services.authn.adapters.signing_keys import KeyEncryptionKey, Purpose
from services.authn.adapters.store import Store
from services.authn.adapters.token_store import RefreshTokenStore, RevokedTokens
from services.authn.adapters.totp import Totp
from services.authn.adapters.user_store import UserStore
from services.authn.admin import CredentialAdmin
from services.authn.admin_servicer import IssuerAdminServicer, SigningKeyAdminServicer, UserAdminServicer
from services.authn.admission import Admission
from services.authn.bootstrap import Bootstrap
from services.authn.config import AuthnConfig
from services.authn.issuer_admin import IssuerAdmin
from services.authn.journal import Journal
from services.authn.service import AuthnService, Tokens
from services.authn.servicer import AuthnServicer, CredentialAdminServicer
from services.authn.signing_admin import SigningKeyAdmin
from services.authn.trust import certificate_rules, client_authorities, configured_issuers, long_secret
from services.authn.user_admin import UserAdmin
from services.common.audit_client import AuditClient
from services.common.clock import SystemClock
from services.common.config import read_secret
from services.common.errors import Unavailable
from services.common.grpc_client import Peer
from services.common.grpc_server import GrpcServer
from services.common.log import get_logger
from services.common.runtime import announce_address
from services.common.telemetry import metrics
from services.common.telemetry.process import Facts, Telemetry
from services.common.writable import WritableProbe

log = get_logger("authn")

GRACE = 5.0
"""Seconds that calls in flight have when the service stops."""

UPKEEP_PERIOD = 15.0
"""Seconds between two writings of last uses, and two looks at the schedule of the signing keys."""

PUBLISHED_AHEAD = timedelta(days=1)
"""How long a signing key is published before it signs."""

PRINCIPAL_KEPT = timedelta(minutes=10)
"""How long a key verifies principal tokens after it signed its last."""


async def main(config: AuthnConfig) -> None:
    """Serves until cancelled."""
    clock = SystemClock()
    pepper = Pepper(long_secret(config.pepper_file))
    kek = KeyEncryptionKey(long_secret(config.kek_file))
    password = read_secret(config.store_password_file).decode() if config.store_password_file else ""
    issuers_of_config = configured_issuers(config)
    store = Store.open(config.store, clock, password=password)
    documents = HttpsDocuments()
    hashing = Argon2Pool()
    audit = Peer("audit", config.audit, config.tls)
    authz = Peer("authz", config.authz, config.tls)
    client = AuditClient(audit, clock)
    telemetry = Telemetry("authn", config.telemetry, config.tls, metrics.AUTHN)
    try:
        store.bind_pepper(pepper.version)
        schedules = _schedules(config)
        access, access_rotation = await open_ring(store, kek, Purpose.ACCESS, clock, schedules[Purpose.ACCESS])
        principal, principal_rotation = await open_ring(
            store, kek, Purpose.PRINCIPAL, clock, schedules[Purpose.PRINCIPAL]
        )
        rotations = {Purpose.ACCESS.value: access_rotation, Purpose.PRINCIPAL.value: principal_rotation}
        recorder = CountedRecorder(AuditRecorder(client))
        journal = Journal(recorder, clock)
        revoked = RevokedTokens(store, clock)
        credentials = CredentialStore(store)
        logins = LoginStore(store, pepper)
        totp = Totp(kek)
        issuers = IssuerStore(store, issuers_of_config)
        authenticators = (
            ApiKeyAuthenticator(store.keys, pepper),
            ExternalTokenAuthenticator(issuers, KeySets(documents, clock), revoked),
            AccessTokenAuthenticator(
                Holders(store.users, store.keys, issuers, revoked, access), config.issuer, config.audience
            ),
            PasswordAuthenticator(store.users, hashing, logins, totp, await PasswordAuthenticator.make_decoy(hashing)),
            CertificateAuthenticator(client_authorities(config), certificate_rules(config)),
        )
        service = AuthnService(
            authenticators,
            Tokens(
                PrincipalTokenIssuer(principal, clock),
                AccessTokenIssuer(access, config.issuer, config.audience, config.access_token_ttl, clock),
                RefreshTokenStore(store, pepper, revoked, config.access_token_ttl, clock),
                Exchanger(access, issuers, config.issuer, config.audience, config.access_token_ttl, clock),
                revoked,
            ),
            store,
            recorder,
            clock,
        )
        maker = ApiKeyMaker(pepper)
        admission = Admission(credentials, OperatorTokenVerifier(principal, clock), AuthzPolicy(authz), journal, clock)
        admin = CredentialAdmin(credentials, maker, admission, journal, clock)
        users = UserAdmin(UserStore(store, logins), hashing, maker, totp, logins, admission, journal, clock)
        signing = SigningKeyAdmin(rotations, admission, journal)
        bootstrap = Bootstrap(
            credentials, BootstrapTokenFile(config.bootstrap_token_file), maker, hashing, journal, clock
        )
        probe = WritableProbe(store.touch)
        problems = lambda: [*client.problems(), *probe.problems()]
        server = GrpcServer(config.listen, config.tls, problems)
        server.add(
            authn_pb2_grpc.add_AuthnServiceServicer_to_server,
            AuthnServicer(service, access.jwks, principal.jwks, issuers.list),
            authn_pb2.DESCRIPTOR.services_by_name["AuthnService"].full_name,
        )
        for name, register, servicer in (
            ("UserAdminService", admin_pb2_grpc.add_UserAdminServiceServicer_to_server, UserAdminServicer(users)),
            (
                "IssuerAdminService",
                admin_pb2_grpc.add_IssuerAdminServiceServicer_to_server,
                IssuerAdminServicer(IssuerAdmin(issuers, config.issuer, admission, journal, clock)),
            ),
            (
                "SigningKeyAdminService",
                admin_pb2_grpc.add_SigningKeyAdminServiceServicer_to_server,
                SigningKeyAdminServicer(signing),
            ),
        ):
            server.add(register, servicer, admin_pb2.DESCRIPTOR.services_by_name[name].full_name)
        server.add(
            authn_pb2_grpc.add_CredentialAdminServiceServicer_to_server,
            CredentialAdminServicer(admin, bootstrap),
            authn_pb2.DESCRIPTOR.services_by_name["CredentialAdminService"].full_name,
        )
        try:
            await telemetry.start(Facts(problems, revision=lambda: f"credentials {store.mirror.revision}"))
            port = await server.start()
            announce_address(config.address_file, f"{config.listen.rpartition(':')[0]}:{port}")
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(store.follow())
                tasks.create_task(probe.keep())
                tasks.create_task(_upkeep(store, list(rotations.values())))
                await server.until_stopped(GRACE)
        finally:
            await journal.drain()
            await store.write_uses()
    finally:
        await telemetry.stop()
        await client.close()
        await audit.close()
        await authz.close()
        hashing.close()
        documents.close()
        store.close()


def _schedules(config: AuthnConfig) -> dict[Purpose, Schedule]:
    period = timedelta(seconds=config.signing_key_period)
    ahead = min(PUBLISHED_AHEAD, period / 4)
    kept = timedelta(seconds=config.access_token_ttl + 2 * LEEWAY)
    return {
        Purpose.ACCESS: Schedule(period, ahead, kept, config.access_token_algorithm),
        Purpose.PRINCIPAL: Schedule(period, ahead, PRINCIPAL_KEPT),
    }


async def _upkeep(store: Store, rotations: Sequence[KeyRotation]) -> None:
    while True:
        await asyncio.sleep(UPKEEP_PERIOD)
        await store.write_uses()
        for rotation in rotations:
            try:
                await rotation.maintain()
            except Unavailable as error:
                log.warning("signing keys not maintained", reason=error.public_message)
