"""Fakes and makers for authn's unit tests."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from services.authn.adapters.api_key import ApiKeyMaker, Pepper
from services.authn.adapters.holders import Holders
from services.authn.adapters.key_ring import KeyRing
from services.authn.adapters.password import PasswordAuthenticator
from services.authn.adapters.signing_keys import KeyEncryptionKey, Purpose, generate, sealed
from services.authn.adapters.totp import Totp
from services.authn.entry import Entry
from services.authn.errors import Reason, Rejected
from services.authn.model import (
    ApiKey,
    Decision,
    Ends,
    Grantable,
    PasswordCredential,
    Principal,
    Refreshable,
    Secret,
    TokenCredential,
    TrustedIssuer,
    User,
)
from services.common.call import Call
from services.common.deadline import Deadline
from services.common.errors import Unavailable
from tests.fakes.clock import FakeClock

NOW = datetime(2026, 11, 22, 12, tzinfo=UTC)
PEPPER = Pepper(b"p" * 32)
MAKER = ApiKeyMaker(PEPPER)
KEK = KeyEncryptionKey(b"k" * 32)


def token(text: str) -> TokenCredential:
    return TokenCredential(Secret(text))


def password(username: str, text: str) -> PasswordCredential:
    return PasswordCredential(username, Secret(text))


def make_key(**fields: object) -> tuple[ApiKey, str]:
    """A key's record and its text."""
    key_id, text, mac, version = MAKER.make()
    record = ApiKey(id=key_id, identity="alice", mac=mac, pepper_version=version, created_at=NOW, roles=("viewer",))
    return replace(record, **fields), text.reveal()  # type: ignore[arg-type]


def make_user(**fields: object) -> User:
    record = User(name="admin", password_hash="hash:right", created_at=NOW, roles=("admin",))
    return replace(record, **fields)  # type: ignore[arg-type]


def make_ring(algorithm: str = "EdDSA") -> KeyRing:
    key = sealed(generate(algorithm), KEK, Purpose.ACCESS, NOW, NOW)
    return KeyRing(Purpose.ACCESS, lambda: {key.kid: key}, KEK, FakeClock(NOW))


def call(peer: str = "service/mcp-core", seconds: float = 10, **metadata: str) -> Call:
    named = {name.replace("_", "-"): value for name, value in metadata.items()}
    return Call(peer, Deadline.after(seconds), named, "request-1")


class Keys:
    """API keys in memory."""

    def __init__(self, *keys: ApiKey) -> None:
        self.records = {key.id: key for key in keys}
        self.touched: list[str] = []

    def find(self, key_id: str) -> ApiKey | None:
        return self.records.get(key_id)

    def touch(self, key_id: str, now: datetime) -> None:
        self.touched.append(key_id)


class Users:
    """Users in memory."""

    def __init__(self, *users: User) -> None:
        self.records = {user.name: user for user in users}

    def find(self, name: str) -> User | None:
        return self.records.get(name)


class Revoked:
    """Tokens that were ended."""

    def __init__(self, *names: str) -> None:
        self.names = set(names)

    def is_revoked(self, name: str) -> bool:
        return name in self.names

    async def revoke(self, credential_id: str, until: datetime) -> None:
        self.names.add(credential_id)


class NoIssuers:
    """Nobody else is trusted."""

    def find(self, issuer: str) -> TrustedIssuer | None:
        return None


def holders(users: Users, keys: Keys, ring: KeyRing, revoked: Revoked | None = None) -> Holders:
    return Holders(users, keys, NoIssuers(), revoked or Revoked(), ring)


class FixedRevisions:
    """A revision that the test sets."""

    def __init__(self) -> None:
        self.revision = 7
        self.away = False

    async def current(self) -> int:
        if self.away:
            raise Unavailable("The credential store does not answer.")
        return self.revision

    async def since(self, known: int) -> Ends:
        return Ends(await self.current())


class NoRefresh:
    """Refresh tokens that are made and never taken."""

    def recognises(self, token: Secret) -> bool:
        return False

    async def start(self, principal: Principal) -> tuple[Secret, str]:
        return Secret("kgr_none"), "family"

    async def use(self, token: Secret) -> tuple[Principal, Secret, str]:
        raise Rejected(Reason.UNKNOWN, "refresh_token")

    async def undo_use(self, token: Secret, following: Secret) -> None:
        raise AssertionError("nothing is used")

    async def end(self, token: Secret) -> Refreshable | None:
        raise AssertionError("nothing is recognised")


class MemoryLogins:
    """Failures in memory; ``refuses_success`` is a step that was used, or a lock that came in between."""

    def __init__(self) -> None:
        self.failures: list[str] = []
        self.successes: list[tuple[str, int | None]] = []
        self.locked_names: set[str] = set()
        self.used: set[int] = set()
        self.codes: set[str] = set()

    def row_of_stranger(self, name: str) -> str:
        return "?1"

    async def locked(self, name: str, now: datetime) -> bool:
        return name in self.locked_names

    async def failed(self, name: str, now: datetime) -> None:
        self.failures.append(name)

    async def succeeded(self, name: str, now: datetime, step: int | None) -> bool:
        if step in self.used:
            return False
        self.successes.append((name, step))
        if step is not None:
            self.used.add(step)
        return True

    async def use_recovery_code(self, name: str, code: str, now: datetime) -> bool:
        if code in self.codes:
            self.codes.remove(code)
            return True
        return False

    async def locked_until(self, name: str) -> datetime | None:
        return None

    async def unlock(self, name: str) -> None:
        self.locked_names.discard(name)


class PlainHashing:
    """Counts verifications; the hash of a password is the password."""

    def __init__(self) -> None:
        self.verified: list[str] = []

    async def hash(self, password: Secret) -> str:
        return f"hash:{password.reveal()}"

    async def verify(self, password_hash: str, password: Secret) -> bool:
        self.verified.append(password_hash)
        return password_hash == f"hash:{password.reveal()}"


def passwords(users: Users, hashing: PlainHashing, logins: MemoryLogins | None = None) -> PasswordAuthenticator:
    """The authenticator over fakes, with real second factors."""
    return PasswordAuthenticator(users, hashing, logins or MemoryLogins(), Totp(KEK), "decoy")


class Journalist:
    """A recorder that remembers what happened in which order; ``away`` answers nothing, and can come late."""

    def __init__(self) -> None:
        self.trace: list[str] = []
        self.entries: list[Entry] = []
        self.tokens: list[str] = []
        self.folds: list[tuple[str, ...]] = []
        self.away_from = float("inf")
        """Number of the first append that fails."""

    async def append(self, entry: Entry, deadline: Deadline, token: str = "") -> str:
        self._take(entry)
        self.tokens.append(token)
        return f"event-{len(self.entries)}"

    async def append_folded(self, key: tuple[str, ...], entry: Entry, deadline: Deadline) -> None:
        self._take(entry)
        self.folds.append(key)

    def _take(self, entry: Entry) -> None:
        if len(self.trace_of_records()) + 1 >= self.away_from:
            self.trace.append("not recorded")
            raise Unavailable("audit is away")
        self.entries.append(entry)
        self.trace.append(f"{entry.phase}:{entry.result}")

    def trace_of_records(self) -> Sequence[str]:
        return [step for step in self.trace if ":" in step]


class FixedPolicy:
    """Answers one decision and remembers what it was asked."""

    def __init__(self, decision: Decision | None = None) -> None:
        self.decision = decision or Decision(True, rule="direct#1", policy_revision="r1")
        self.asked: list[tuple[str, str]] = []
        self.answer = Grantable(rule="direct#1")
        self.grantees: list[Principal] = []

    async def check(self, token: str, area: str, verb: str, call: Call) -> Decision:
        self.asked.append((token, verb))
        return self.decision

    async def grantable(self, token: str, grantee: Principal, call: Call) -> Grantable:
        self.grantees.append(grantee)
        return self.answer


def write_secret(path: Path, value: bytes) -> Path:
    path.write_bytes(value)
    path.chmod(0o600)
    return path
