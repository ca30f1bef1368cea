"""What authn's decisions need from the outside. Adapters implement these; tests use fakes."""

from collections.abc import Sequence
from datetime import datetime
from typing import Protocol

from services.authn.model import ApiKey, Credential, Decision, Entry, Principal, Secret, User
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


class ApiKeys(Protocol):
    """API keys by id, without waiting."""

    def find(self, key_id: str) -> ApiKey | None: ...

    def touch(self, key_id: str, now: datetime) -> None:
        """Notes that a key was accepted, to the minute; written later, off the path of the request."""
        ...


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

    async def add_key(self, key: ApiKey) -> None: ...

    async def set_key_enabled(self, key_id: str, enabled: bool) -> ApiKey | None: ...

    async def delete_key(self, key_id: str) -> bool: ...

    def alive(self, principal: Principal, now: datetime) -> bool:
        """Whether the credential behind a principal is still accepted (R5)."""
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


class PrincipalTokens(Protocol):
    """Signs principal tokens (R5)."""

    def issue(self, principal: Principal, peer: str) -> str:
        """A token for one asker, named by its SPIFFE path."""
        ...


class AccessTokens(Protocol):
    """Signs access tokens."""

    @property
    def lifetime(self) -> int:
        """Seconds."""
        ...

    def issue(self, principal: Principal, client: str) -> Secret:
        """An access token for the user that ``principal`` names, asked for by ``client`` (SPIFFE path)."""
        ...


class OperatorTokens(Protocol):
    """Verifies the principal tokens that operators bring."""

    async def verify(self, token: str) -> tuple[Principal, str]:
        """The principal and the SPIFFE path that the token was issued to.

        Raises:
            Unauthenticated: the token is not valid.
        """
        ...


class Policy(Protocol):
    """authz, for administration actions."""

    async def check(self, token: str, verb: str, call: Call) -> Decision:
        """Whether the token's principal may ``kubegate:keys:<verb>``; the operator's token is relayed (R15).

        Raises:
            DomainError: authz did not decide.
        """
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
