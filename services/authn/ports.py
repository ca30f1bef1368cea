"""What authn's decisions need from the outside. Adapters implement these; tests use fakes."""

from collections.abc import Sequence
from datetime import datetime
from typing import Protocol

from services.authn.entry import Entry
from services.authn.exchange import Exchange
from services.authn.model import (
    ApiKey,
    Credential,
    Decision,
    Ends,
    Grantable,
    Principal,
    Refreshable,
    Secret,
    SigningKeyView,
    TrustedIssuer,
    User,
)
from services.common.call import Call
from services.common.deadline import Deadline


class Authenticator(Protocol):
    """One way to prove who one is. To add one: a file under adapters/ and a line in wiring.py."""

    @property
    def auth_type(self) -> str:
        """Its name in principals, events and metrics; never empty."""
        ...

    def recognises(self, credential: Credential) -> bool:
        """Whether the credential has the form that this one judges. Cheap, and decides nothing else."""
        ...

    async def authenticate(self, credential: Credential, now: datetime) -> Principal:
        """The principal that the credential proves.

        Raises:
            Rejected: it proves none.
            ResourceExhausted: too many are being judged; this one was not.
        """
        ...


class Revisions(Protocol):
    """The revisions of what ends (R12)."""

    async def current(self) -> int:
        """The revision that records read from now on have at least.

        Raises:
            Unavailable: the records at hand may be old, and the store does not answer.
        """
        ...

    async def since(self, known: int) -> Ends:
        """What ended after a revision, by a read of the store that begins now. Raises as ``current``."""
        ...


class ApiKeys(Protocol):
    """API keys by id, without waiting."""

    def find(self, key_id: str) -> ApiKey | None: ...

    def touch(self, key_id: str, now: datetime) -> None:
        """Notes that a key was accepted, to the minute; written later, off the path of the request."""
        ...


class Revoked(Protocol):
    """Single tokens, and families of them, that were ended."""

    def is_revoked(self, name: str) -> bool: ...


class Users(Protocol):
    """Users by name, without waiting."""

    def find(self, name: str) -> User | None: ...


class Credentials(Protocol):
    """The store as administration sees it. A change is durable and effective when the call returns.

    Every method raises ``Unavailable`` where the store cannot be written; nothing is changed then.
    """

    def list_keys(self) -> Sequence[ApiKey]:
        """All keys, oldest first."""
        ...

    def find_key(self, key_id: str) -> ApiKey | None: ...

    async def find_unused(self, since: datetime, at_most: int) -> Sequence[ApiKey]:
        """Keys that no replica has used since, nor anybody made; the oldest first."""
        ...

    async def add_key(self, key: ApiKey) -> None: ...

    async def set_key_enabled(self, key_id: str, enabled: bool) -> ApiKey | None: ...

    async def rotate_key(self, old: ApiKey, new: ApiKey, ends_at: datetime) -> ApiKey | None:
        """Stores a key and the end of the one that it replaces, in one transaction: the old record as it is
        then; ``None`` where that was replaced before."""
        ...

    async def undo_rotation(self, old: ApiKey, new: ApiKey) -> None: ...

    async def delete_key(self, key_id: str) -> bool: ...

    async def delete_keys(self, key_ids: Sequence[str]) -> Sequence[str]:
        """Returns the ids that there were."""
        ...

    def alive(self, principal: Principal, revision: int, now: datetime) -> bool:
        """Whether the credential behind a principal, proven at ``revision``, is still accepted (R5)."""
        ...

    @property
    def bootstrapped(self) -> bool:
        """Whether the first administrator was ever made in this store (R15)."""
        ...

    async def bootstrap(self, keys: Sequence[ApiKey], user: User, at: datetime) -> bool:
        """Stores the first credentials and that this was done, in one transaction; false if it was before."""
        ...

    async def undo_bootstrap(self) -> None:
        """Takes back a bootstrap whose credentials nobody has seen."""
        ...


class KeyMaker(Protocol):
    """Makes API keys and passwords that nobody can guess."""

    def make(self) -> tuple[str, Secret, bytes, str]:
        """A new key: its id, the whole key ``kg_<id>_<secret>``, its MAC and the pepper's version."""
        ...

    def make_password(self) -> Secret: ...


class PasswordHashing(Protocol):
    """Password hashes (RFC 9106), computed off the event loop."""

    async def hash(self, password: Secret) -> str: ...

    async def verify(self, password_hash: str, password: Secret) -> bool:
        """Raises ``ResourceExhausted`` where too many are waiting."""
        ...


class Logins(Protocol):
    """Failed attempts and used second factors. Each change is durable when its call returns, and nothing that
    fails later takes it back. Every method raises ``Unavailable`` where the store does not answer."""

    def row_of_stranger(self, name: str) -> str:
        """What stands for a name that no user has."""
        ...

    async def locked(self, name: str, now: datetime) -> bool:
        """Whether attempts are refused now, right or wrong."""
        ...

    async def failed(self, name: str, now: datetime) -> None: ...

    async def succeeded(self, name: str, now: datetime, step: int | None) -> bool:
        """Ends a row of failures and uses up a step of a second factor, both or neither; false: neither."""
        ...

    async def use_recovery_code(self, name: str, code: str, now: datetime) -> bool: ...

    async def locked_until(self, name: str) -> datetime | None: ...

    async def unlock(self, name: str) -> None: ...


class SecondFactors(Protocol):
    """Time-based one-time passwords."""

    def make(self, user: str) -> tuple[bytes, Secret]:
        """A new seed, sealed, and the otpauth:// URI that shows it."""
        ...

    def make_recovery_codes(self) -> Sequence[Secret]: ...

    def step(self, user: str, sealed: bytes, code: str, now: datetime) -> int | None:
        """The time step whose code this is."""
        ...


class SigningKeys(Protocol):
    """Our signing keys of one purpose."""

    def list(self) -> Sequence[SigningKeyView]: ...

    async def rotate(self) -> SigningKeyView:
        """A new key that signs from now on; raises ``Unavailable`` where the store cannot be written."""
        ...

    async def withdraw(self, kid: str) -> SigningKeyView | None:
        """Ends a key and whatever it signed: the key that signs from now on. ``None`` where there is no such key;
        raises as ``rotate``."""
        ...


class IssuerRecords(Protocol):
    """Trusted issuers. A change is durable and effective when the call returns, and raises ``Unavailable`` where
    the store cannot be written."""

    def find(self, issuer: str) -> TrustedIssuer | None: ...

    def list(self) -> Sequence[TrustedIssuer]: ...

    async def add(self, issuer: TrustedIssuer, now: datetime) -> bool:
        """False where it is trusted already."""
        ...

    async def set_enabled(self, issuer: str, enabled: bool) -> TrustedIssuer | None: ...

    async def delete(self, issuer: str) -> bool: ...


class UserRecords(Protocol):
    """Users as administration sees them. A change is durable and effective when the call returns, and raises
    ``Unavailable`` where the store cannot be written."""

    def find(self, name: str) -> User | None: ...

    def list(self) -> Sequence[User]: ...

    async def add(self, user: User) -> bool:
        """False where the name is taken."""
        ...

    async def change(self, name: str, *, ends_tokens: bool, **fields: object) -> User | None:
        """Replaces fields of a record. ``ends_tokens``: every token of the user ends with it."""
        ...

    async def reset_password(self, name: str, password_hash: str) -> User | None:
        """Another password; with it the user's tokens and lock-out end."""
        ...

    async def confirm_totp(self, name: str, step: int) -> User | None:
        """Makes a second factor count and uses up a time step of it; the user's tokens end."""
        ...

    async def enrol(self, name: str, sealed: bytes, codes: Sequence[Secret]) -> User | None:
        """Stores a seed that is not confirmed yet, and recovery codes in place of any older ones."""
        ...

    async def delete(self, name: str) -> bool: ...


class PrincipalTokens(Protocol):
    """Signs principal tokens (R5)."""

    def issue(self, principal: Principal, peer: str, revision: int) -> str:
        """A token for one asker, named by its SPIFFE path. ``revision``: asked for before the credential was judged."""
        ...


class AccessTokens(Protocol):
    """Signs access tokens."""

    @property
    def lifetime(self) -> int:
        """Seconds."""
        ...

    def issue(self, principal: Principal, client: str, family: str = "") -> Secret:
        """An access token for the user or key behind ``principal``, asked for by ``client`` (SPIFFE path).
        ``family``: of the refresh token beside it, with which it ends."""
        ...


class ExchangedTokens(Protocol):
    """Access tokens that are made of others (RFC 8693)."""

    def check(self, asked: Exchange) -> None:
        """Raises ``InvalidArgument`` where it asks for what is not issued here."""
        ...

    def exchange(
        self, asked: Exchange, subject: Principal, actor: Principal | None, client: str
    ) -> tuple[Principal, Secret, int]:
        """Whom the new token proves, the token, and its lifetime in seconds. ``subject`` and ``actor``: proven by the
        tokens asked with.

        Raises:
            Rejected: a token has ended by itself meanwhile.
            InvalidArgument, PermissionDenied: it would widen what the subject holds, or another may act for it.
        """
        ...


class RefreshTokens(Protocol):
    """Refresh tokens (RFC 6749, 6), each good for one use."""

    async def start(self, principal: Principal) -> tuple[Secret, str]:
        """A first refresh token for a person, and the family that it founds."""
        ...

    async def use(self, token: Secret) -> tuple[Principal, Secret, str]:
        """The person behind a token, the token that takes its place, and the family.

        Raises:
            Rejected: it is unknown, expired or of an ended user; or was used before, which ends its family.
        """
        ...

    async def undo_use(self, token: Secret, following: Secret) -> None:
        """Takes a use back whose ``following`` nobody has seen; does nothing where the family has ended meanwhile.

        Raises:
            Unavailable: the store cannot be written; the token stays used.
        """
        ...

    def recognises(self, token: Secret) -> bool: ...

    async def end(self, token: Secret) -> Refreshable | None:
        """Ends the family of a token; ``None`` where it is not one of ours."""
        ...


class TokenRevocation(Protocol):
    """Ends single tokens."""

    async def revoke(self, credential_id: str, until: datetime) -> None:
        """Ends a token that would end by itself at ``until``."""
        ...


class OperatorTokens(Protocol):
    """Verifies the principal tokens that operators bring."""

    async def verify(self, token: str) -> tuple[Principal, str, int]:
        """The principal, the SPIFFE path that the token was issued to, and the revision it was issued at.

        Raises:
            Unauthenticated: the token is not valid.
        """
        ...


class Policy(Protocol):
    """authz, for administration actions."""

    async def check(self, token: str, area: str, verb: str, call: Call) -> Decision:
        """Whether the token's principal may ``kubegate:<area>:<verb>``; the operator's token is relayed (R15).

        Raises:
            DomainError: authz did not decide.
        """
        ...

    async def grantable(self, token: str, grantee: Principal, call: Call) -> Grantable:
        """Whether the token's principal holds all that a credential of ``grantee`` would give (R17). Raises as
        ``check``."""
        ...


class Recorder(Protocol):
    """audit. Methods return when the event is durable (R18), and raise ``DomainError`` when it may not be."""

    async def append(self, entry: Entry, deadline: Deadline, token: str = "") -> str:
        """Records an event and returns its id. ``token`` is a principal token of ours that proves its user."""
        ...

    async def append_folded(self, key: tuple[str, ...], entry: Entry, deadline: Deadline) -> None:
        """Records a failure; many with one key within a short time become one counted event (R25)."""
        ...


class BootstrapSecret(Protocol):
    """The one-time bootstrap token."""

    def read(self) -> Secret | None:
        """What the file holds now; ``None`` where there is no file."""
        ...
