"""An issuer on loopback, and authn's authenticator for its tokens with what the test trusts."""

from typing import Any

from services.authn.adapters.external_token import ExternalTokenAuthenticator
from services.authn.adapters.jwks import Documents, HttpsDocuments, KeySets
from services.authn.model import Principal, TrustedIssuer
from services.authn.rules import checked_issuer
from tests.fakes.clock import FakeClock
from tests.fakes.oidc_issuer import Issuer
from tests.unit.authn.support import NOW, Revoked, token


class Trust:
    """The authenticator and the one issuer that it trusts."""

    def __init__(self, provider: Issuer, documents: Documents | None = None, **settings: Any) -> None:
        self.provider = provider
        self.clock = FakeClock(NOW)
        self.documents = HttpsDocuments()
        values = {"issuer": provider.url, "audience": "kubegate", "ca_pem": provider.ca_pem, **settings}
        self.issuer = checked_issuer(TrustedIssuer(**values), "https://own.example")
        self.revoked = Revoked()
        self.keys = KeySets(documents or self.documents, self.clock)
        self.judge = ExternalTokenAuthenticator(self, self.keys, self.revoked)

    def find(self, issuer: str) -> TrustedIssuer | None:
        return self.issuer if issuer == self.issuer.issuer else None

    async def prove(self, text: str) -> Principal:
        return await self.judge.authenticate(token(text), self.clock.now())

    async def prove_claims(self, **changes: Any) -> Principal:
        return await self.prove(self.provider.sign(self.provider.claims(self.clock.now(), **changes)))
