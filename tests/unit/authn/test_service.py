"""The decision: recorded before it is answered, the same refusal for all, no fallback identity."""

import base64
import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.authn.adapters.access_token import AccessTokenAuthenticator, AccessTokenIssuer
from services.authn.adapters.api_key import ApiKeyAuthenticator
from services.authn.adapters.certificate import CertificateAuthenticator
from services.authn.adapters.exchanged_token import Exchanger
from services.authn.adapters.external_token import ExternalTokenAuthenticator
from services.authn.adapters.jwks import KeySets
from services.authn.adapters.principal_tokens import OperatorTokenVerifier, PrincipalTokenIssuer
from services.authn.errors import PUBLIC_MESSAGE, Rejected
from services.authn.model import (
    Credential,
    PasswordCredential,
    Principal,
    Refreshable,
    Secret,
    Source,
    TokenCredential,
    TrustedIssuer,
)
from services.authn.service import MAX_TOKEN, AuthnService, Tokens
from services.common.errors import ResourceExhausted, Unauthenticated, Unavailable
from tests.fakes.clock import FakeClock
from tests.unit.authn.support import (
    NOW,
    PEPPER,
    FixedRevisions,
    Journalist,
    Keys,
    NoIssuers,
    NoRefresh,
    PlainHashing,
    Revoked,
    Users,
    call,
    holders,
    make_key,
    make_ring,
    make_user,
    password,
    passwords,
    token,
)

ACCESS, PRINCIPAL = make_ring(), make_ring()
CLOCK = FakeClock(NOW)
RECORD, TEXT = make_key()
OTHER, _ = make_key()
SOURCE = Source("192.0.2.1", "test/1")


def service(journalist: Journalist, *extra: Any) -> AuthnService:
    users = Users(make_user())
    return AuthnService(
        (
            *extra,
            ApiKeyAuthenticator(Keys(RECORD, OTHER), PEPPER),
            AccessTokenAuthenticator(holders(users, Keys(RECORD), ACCESS), "kubegate", "kubegate"),
            passwords(users, PlainHashing()),
        ),
        Tokens(
            PrincipalTokenIssuer(PRINCIPAL, CLOCK),
            AccessTokenIssuer(ACCESS, "kubegate", "kubegate", 3600, CLOCK),
            NoRefresh(),
            Exchanger(ACCESS, NoIssuers(), "kubegate", "kubegate", 3600, CLOCK),
            Revoked(),
        ),
        FixedRevisions(),
        journalist,
        CLOCK,
    )


@pytest.mark.req("R18", "R5", "I2.5", "I2.7")
async def test_a_success_is_recorded_with_the_token_that_proves_its_user() -> None:
    journalist = Journalist()
    proof = await service(journalist).authenticate(token(TEXT), SOURCE, call())
    (entry,) = journalist.entries
    assert (proof.event_id, proof.revision) == ("event-1", 7)
    assert (entry.kind, entry.action, entry.result) == ("authentication", "authenticate", "success")
    assert entry.user == "alice"
    assert entry.metadata == {"auth_type": "api_key", "asker": "service/mcp-core", "credential_id": RECORD.id}
    assert (entry.source, entry.request_id) == (SOURCE, "request-1")
    assert journalist.tokens == [proof.token]
    verified = await OperatorTokenVerifier(PRINCIPAL, CLOCK).verify(proof.token)
    assert verified == (proof.principal, "service/mcp-core", 7)


@pytest.mark.req("R18", "I2.6")
@pytest.mark.parametrize("credential", [token(TEXT), token("wrong"), None])
async def test_what_cannot_be_recorded_is_not_answered(credential: Credential | None) -> None:
    journalist = Journalist()
    journalist.away_from = 1
    with pytest.raises(Unavailable):
        await service(journalist).authenticate(credential, SOURCE, call())


REFUSED: dict[str, tuple[Credential | None, str, str]] = {
    "none": (None, "unknown", "missing credential"),
    "empty": (token(""), "unknown", "missing credential"),
    "nothing of ours": (token("wrong"), "unknown", "malformed credential"),
    "blank": (token(" "), "unknown", "malformed credential"),
    "malformed key": (token("kg_"), "api_key", "malformed credential"),
    "wrong secret": (token(f"kg_{RECORD.id}_{'0' * 43}"), "api_key", "wrong secret"),
    "unknown key": (token(f"kg_{'0' * 12}_{'0' * 43}"), "api_key", "unknown credential"),
    "no token of ours": (token("a.b.c"), "jwt", "invalid token"),
    "oversized": (token("a.b." + "c" * MAX_TOKEN), "unknown", "oversized credential"),
    "oversized key": (token(TEXT + "0" * MAX_TOKEN), "unknown", "oversized credential"),
    "wrong password": (password("admin", "wrong"), "password", "wrong secret"),
    "unknown user": (password("hunter2", "wrong"), "password", "unknown credential"),
}


@pytest.mark.req("I2.3", "I2.5", "R18")
@pytest.mark.parametrize("name", REFUSED)
async def test_every_refusal_is_the_same_and_recorded_with_its_category(name: str) -> None:
    """Regressions: a demo identity for a missing credential; an empty auth type in the record."""
    credential, auth_type, category = REFUSED[name]
    journalist = Journalist()
    with pytest.raises(Unauthenticated) as caught:
        await service(journalist).authenticate(credential, SOURCE, call())
    assert type(caught.value) is Unauthenticated
    assert caught.value.public_message == PUBLIC_MESSAGE
    (entry,) = journalist.entries
    assert (entry.result, entry.error) == ("failure", category)
    assert entry.metadata["auth_type"] == auth_type
    recorded = repr(entry)
    for secret in _secrets(credential):
        assert secret not in recorded


def _secrets(credential: Credential | None) -> list[str]:
    match credential:
        case TokenCredential(token=text) if len(text) > 8:
            return [text.reveal(), text.reveal()[-43:]]
        case PasswordCredential(password=text):
            return [repr(text.reveal()), "hunter2"]
    return []


@pytest.mark.req("R25")
async def test_failures_fold_by_source_and_by_known_credentials_only() -> None:
    """Random ids in a flood must not make a new event each."""
    journalist = Journalist()
    subject = service(journalist)
    for key_id in ("1" * 12, "2" * 12, RECORD.id, OTHER.id):
        with pytest.raises(Unauthenticated):
            await subject.authenticate(token(f"kg_{key_id}_{'0' * 43}"), SOURCE, call())
    with pytest.raises(Unauthenticated):
        await subject.authenticate(token(f"kg_{'1' * 12}_{'0' * 43}"), Source("192.0.2.2"), call())
    first, second, *others = journalist.folds
    assert first == second
    assert len({first, *others}) == 4
    assert first[0] == "192.0.2.1"


@pytest.mark.req("I2.3")
async def test_a_password_becomes_an_access_token_that_authenticates() -> None:
    journalist = Journalist()
    subject = service(journalist)
    issued = await subject.issue_token(password("admin", "right"), SOURCE, call())
    assert (issued.lifetime, issued.event_id) == (3600, "event-1")
    assert journalist.entries[0].action == "issue_token"
    assert journalist.entries[0].metadata["auth_type"] == "password"
    principal = (await subject.authenticate(TokenCredential(issued.token), SOURCE, call())).principal
    assert (principal.subject, principal.auth_type, principal.amr) == ("admin", "jwt", ("pwd",))
    with pytest.raises(Unauthenticated):
        await subject.issue_token(password("admin", "wrong"), SOURCE, call())
    with pytest.raises(Unauthenticated):
        await subject.issue_token(None, SOURCE, call())


@pytest.mark.req("R5")
async def test_a_principal_token_is_no_credential_of_the_edge() -> None:
    text = (await service(Journalist()).authenticate(token(TEXT), SOURCE, call())).token
    with pytest.raises(Unauthenticated):
        await service(Journalist()).authenticate(token(text), SOURCE, call())


class Overloaded:
    auth_type = "password"

    def recognises(self, credential: Credential) -> bool:
        return True

    async def authenticate(self, credential: Credential, now: object) -> Principal:
        raise ResourceExhausted("Too many.", retry_after=1)


async def test_what_was_not_decided_is_recorded_as_an_error() -> None:
    journalist = Journalist()
    with pytest.raises(ResourceExhausted):
        await service(journalist, Overloaded()).authenticate(token("x"), SOURCE, call())
    assert (journalist.entries[0].result, journalist.entries[0].error) == ("error", "resource_exhausted")


TOKENS = st.one_of(
    st.text(),
    st.text(alphabet="kg_0Aa.=-{}[]\"'\\\x00\ud800\u20ac"),
    st.builds(
        lambda cut, junk: TEXT[:cut] + junk + TEXT[cut + len(junk) :],
        st.integers(0, 60),
        st.text(min_size=1, max_size=3),
    ),
    st.builds(".".join, st.lists(st.text(alphabet="eyJhbGciOiJub25lIn0_-="), min_size=3, max_size=3)),
    st.binary(max_size=64).map(lambda raw: raw.decode("latin-1")),
)
CREDENTIALS = st.one_of(
    TOKENS.filter(lambda text: text != TEXT).map(token),
    st.builds(lambda name, text: PasswordCredential(name, Secret(text)), st.text(), st.text()).filter(
        lambda credential: credential.password.reveal() != "right"
    ),
)


@pytest.mark.req("I2.3")
@given(credential=CREDENTIALS)
async def test_fuzz_nothing_but_unauthenticated_and_never_a_principal(credential: Credential) -> None:
    journalist = Journalist()
    with pytest.raises(Unauthenticated) as caught:
        await service(journalist).authenticate(credential, SOURCE, call())
    assert caught.value.public_message == PUBLIC_MESSAGE
    assert journalist.entries[0].metadata["auth_type"]


JUDGES: dict[str, Callable[[], Any]] = {
    "api_key": lambda: ApiKeyAuthenticator(Keys(RECORD), PEPPER),
    "jwt": lambda: AccessTokenAuthenticator(holders(Users(make_user()), Keys(), ACCESS), "kubegate", "kubegate"),
    "password": lambda: passwords(Users(make_user()), PlainHashing()),
    "certificate": lambda: CertificateAuthenticator([], []),
}


@pytest.mark.req("I2.3")
@pytest.mark.parametrize("name", JUDGES)
@given(credential=CREDENTIALS)
async def test_fuzz_each_authenticator_alone(name: str, credential: Credential) -> None:
    """Also for what it does not recognise: the registry is no guard."""
    judge = JUDGES[name]()
    judge.recognises(credential)
    with pytest.raises(Rejected) as caught:
        await judge.authenticate(credential, NOW)
    assert caught.value.auth_type == judge.auth_type == name


class AnyIssuer:
    """Trusts whoever a token names, and has no key of his."""

    def find(self, issuer: object) -> Any:
        return TrustedIssuer(str(issuer), "kubegate") if isinstance(issuer, str) else None


class NoDocuments:
    async def get(self, url: str, ca_pem: str) -> Any:
        return {"keys": []}


FOREIGN = st.builds(
    lambda header, claims: ".".join(
        base64.urlsafe_b64encode(json.dumps(part).encode()).rstrip(b"=").decode() for part in (header, claims, "x")
    ),
    st.dictionaries(st.sampled_from(["alg", "typ", "kid", "jwk"]), st.one_of(st.text(), st.integers(), st.none())),
    st.dictionaries(st.sampled_from(["iss", "aud", "sub", "exp"]), st.one_of(st.text(), st.integers(), st.none())),
)


@pytest.mark.req("I3.14", "I3.11")
@given(credential=st.one_of(CREDENTIALS, FOREIGN.map(token)))
async def test_fuzz_tokens_of_foreign_issuers(credential: Credential) -> None:
    judge = ExternalTokenAuthenticator(AnyIssuer(), KeySets(NoDocuments(), CLOCK), Revoked())
    judge.recognises(credential)
    with pytest.raises((Rejected, Unavailable)) as caught:
        await judge.authenticate(credential, NOW)
    assert caught.value.__cause__ is None


@pytest.mark.req("R12", "I3.13")
async def test_the_revision_is_read_before_the_credential_is_judged() -> None:
    """So that an end that comes in between ends the proof."""
    order: list[str] = []

    class Judge(Overloaded):
        async def authenticate(self, credential: Credential, now: object) -> Principal:
            order.append("judged")
            return RECORD.principal(NOW)

    class Told(FixedRevisions):
        async def current(self) -> int:
            order.append("revision")
            return 3

    subject = service(Journalist(), Judge())
    subject._revisions = Told()
    proof = await subject.authenticate(token("x"), SOURCE, call())
    assert order == ["revision", "judged"]
    assert proof.revision == 3


@pytest.mark.req("R12", "I2.6")
async def test_without_the_store_nothing_is_judged() -> None:
    journalist = Journalist()
    subject = service(journalist)
    away = FixedRevisions()
    away.away = True
    subject._revisions = away
    with pytest.raises(Unavailable):
        await subject.authenticate(token(TEXT), SOURCE, call())
    assert (journalist.entries[0].result, journalist.entries[0].error) == ("error", "unavailable")


@pytest.mark.req("R18", "R5")
async def test_a_proof_whose_token_audit_refuses_is_a_recorded_refusal() -> None:
    """The credential ended between the proof and the record."""

    class Strict(Journalist):
        async def append(self, entry: Any, deadline: Any, token: str = "") -> str:
            raise Unauthenticated("The credential behind this principal token has ended; authenticate again.")

    journalist = Strict()
    with pytest.raises(Unauthenticated) as caught:
        await service(journalist).authenticate(token(TEXT), SOURCE, call())
    assert caught.value.public_message == PUBLIC_MESSAGE
    assert [(entry.result, entry.error) for entry in journalist.entries] == [("failure", "disabled credential")]


@pytest.mark.req("R25", "I3.5", "R18")
async def test_ending_what_is_no_token_of_ours_is_a_folded_refusal() -> None:
    class Strangers(NoRefresh):
        def recognises(self, token: Secret) -> bool:
            return True

        async def end(self, token: Secret) -> Refreshable | None:
            return None if token.reveal() == "kgr_?" else Refreshable("family", "ana", 1, NOW, ("pwd",))

    journalist = Journalist()
    subject = service(journalist)
    subject._tokens = replace(subject._tokens, refresh=Strangers())
    for _ in range(3):
        await subject.revoke(Secret("kgr_?"), SOURCE, call())
    assert [entry.result for entry in journalist.entries] == ["failure"] * 3
    assert len(set(journalist.folds)) == 1
    await subject.revoke(Secret("kgr_x"), SOURCE, call())
    entry = journalist.entries[-1]
    assert (entry.result, entry.user, entry.metadata["credential_id"]) == ("success", "ana", "family")
