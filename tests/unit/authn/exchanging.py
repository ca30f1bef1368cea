"""authn's service over records in memory, with one issuer beside our own, for the tests of token exchange."""

from dataclasses import replace
from typing import Any

import jwt
import pytest

from services.authn.adapters.access_token import AccessTokenAuthenticator, AccessTokenIssuer
from services.authn.adapters.api_key import ApiKeyAuthenticator
from services.authn.adapters.exchanged_token import Exchanger
from services.authn.adapters.external_token import ExternalTokenAuthenticator
from services.authn.adapters.holders import Holders
from services.authn.adapters.key_ring import KeyRing
from services.authn.adapters.principal_tokens import PrincipalTokenIssuer
from services.authn.adapters.signing_keys import Purpose, SealedKey, generate, sealed
from services.authn.exchange import ACCESS_TOKEN, Exchange
from services.authn.model import Issued, Principal, Secret, Source, TrustedIssuer
from services.authn.service import AuthnService, Tokens
from services.common.errors import Unauthenticated
from tests.fakes.clock import FakeClock
from tests.unit.authn.support import (
    KEK,
    NOW,
    PEPPER,
    FixedRevisions,
    Journalist,
    Keys,
    NoRefresh,
    Revoked,
    Users,
    call,
    make_key,
    make_ring,
    make_user,
    token,
)

AUDIENCE = "https://localhost:8443/mcp"


IDP = TrustedIssuer(
    "https://idp.example",
    "kubegate",
    algorithms=("HS256",),
    roles_claim="roles",
    role_map={"ops": "operator", "read": "viewer"},
    groups_claim="groups",
    tenant="acme",
    permissions_claim="permissions",
    secret=Secret("s" * 32),
)


ALICE = make_user(
    name="alice", roles=("operator", "viewer"), permissions=("k8s:pods:list",), tenant="acme", generation=3
)


BOT = make_user(name="bot", roles=("admin",), generation=5)


BOT_ACTS = [{"issuer": "kubegate", "subject": "bot"}]


class Rig:
    """authn's service over records in memory, with one issuer beside our own."""

    def __init__(self) -> None:
        self.clock = FakeClock(NOW)
        key = sealed(generate("EdDSA"), KEK, Purpose.ACCESS, NOW, NOW)
        self.signing: dict[str, SealedKey] = {key.kid: key}
        self.ring = KeyRing(Purpose.ACCESS, lambda: self.signing, KEK, self.clock)
        self.users, self.revoked = Users(ALICE, BOT), Revoked()
        self.record, self.api_key = make_key(identity="ci", tenant="acme")
        self.keys = Keys(self.record)
        self.issuers = {IDP.issuer: IDP}
        self.journalist = Journalist()
        self.source = Source("192.0.2.1", "test/1")
        self.access = AccessTokenIssuer(self.ring, "kubegate", AUDIENCE, 3600, self.clock)
        no_key_sets: Any = None
        self.service = AuthnService(
            (
                ApiKeyAuthenticator(self.keys, PEPPER),
                ExternalTokenAuthenticator(self, no_key_sets, self.revoked),
                AccessTokenAuthenticator(
                    Holders(self.users, self.keys, self, self.revoked, self.ring), "kubegate", AUDIENCE
                ),
            ),
            Tokens(
                PrincipalTokenIssuer(make_ring(), self.clock),
                self.access,
                NoRefresh(),
                Exchanger(self.ring, self, "kubegate", AUDIENCE, 3600, self.clock),
                self.revoked,
            ),
            FixedRevisions(),
            self.journalist,
            self.clock,
        )

    def find(self, issuer: str) -> TrustedIssuer | None:
        return self.issuers.get(issuer)

    def of_user(self, name: str = "alice", family: str = "") -> str:
        user = self.users.records[name]
        proven = user.principal("password", f"password:{name}", self.clock.now(), ("pwd", "otp", "mfa"))
        return self.access.issue(proven, "service/mcp-core", family).reveal()

    def of_key(self) -> str:
        return self.access.issue(self.record.principal(self.clock.now()), "platform/ci").reveal()

    def of_idp(self, **claims: Any) -> str:
        now = int(self.clock.now().timestamp())
        every = {"iss": IDP.issuer, "aud": "kubegate", "sub": "eve", "client_id": "c", "jti": f"j{now}", "iat": now}
        every |= {"exp": now + 600, "roles": ["ops", "read"], "groups": ["g1"], "amr": ["hwk"], "auth_time": now - 60}
        return jwt.encode({**every, **claims}, "s" * 32, algorithm="HS256", headers={"typ": "at+jwt"})

    async def exchange(self, subject_token: str, actor: str = "", scope: str = "", **more: Any) -> Issued:
        asked = Exchange(
            Secret(subject_token), ACCESS_TOKEN, Secret(actor), ACCESS_TOKEN if actor else "", (), scope, ""
        )
        return await self.service.exchange_token(replace(asked, **more), self.source, call())

    async def who(self, text: str) -> Principal:
        return (await self.service.authenticate(token(text), self.source, call())).principal

    async def refused(self, text: str) -> bool:
        try:
            await self.who(text)
        except Unauthenticated:
            return True
        return False


@pytest.fixture
def rig() -> Rig:
    return Rig()


def subjects(rig: Rig) -> dict[str, str]:
    return {
        "user": rig.of_user(),
        "session": rig.of_user(family="fam1"),
        "key": rig.of_key(),
        "elsewhere": rig.of_idp(),
    }
