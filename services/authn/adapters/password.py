"""User name and password: argon2id (RFC 9106) in a bounded pool of threads.

An unknown, locked or disabled user costs one verification too, an unknown one against a hash that nobody's
password has; and each failure is counted durably before it is answered. What is
beyond the pool's queue is refused at once: a flood of passwords must not eat the memory that argon2 demands
nor the time of other callers (R25).
"""

import asyncio
import contextlib
import secrets
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from typing import TypeVar

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError

from services.authn.errors import Reason, Rejected
from services.authn.model import Credential, PasswordCredential, Principal, Secret, User
from services.authn.ports import Logins, PasswordHashing, SecondFactors, Users
from services.common.errors import ResourceExhausted

T = TypeVar("T")

AUTH_TYPE = "password"
MAX_USERNAME = 128
MAX_PASSWORD = 1024
MAX_OTP = 64
MAX_CODE = 8
"""Characters of a one-time password at most; what is longer may be a recovery code."""

MAX_WAITING = 8
"""Attempts on one name that wait for their turn at most."""

WORKERS = 2
QUEUE = 32


class Argon2Pool:
    """At most ``WORKERS`` computations at once, at most ``QUEUE`` waiting."""

    def __init__(self, hasher: PasswordHasher | None = None, *, queue: int = QUEUE) -> None:
        self._hasher = hasher or PasswordHasher()
        self._pool = ThreadPoolExecutor(WORKERS, thread_name_prefix="argon2")
        self._limit = WORKERS + queue
        self._pending = 0

    async def hash(self, password: Secret) -> str:
        return await self._run(lambda: self._hasher.hash(_encode(password)))

    async def verify(self, password_hash: str, password: Secret) -> bool:
        def verify() -> bool:
            try:
                return self._hasher.verify(password_hash, _encode(password))
            except (VerificationError, InvalidHashError):
                return False

        return await self._run(verify)

    async def _run(self, work: Callable[[], T]) -> T:
        if self._pending >= self._limit:
            raise ResourceExhausted("Too many passwords are being checked; try again shortly.", retry_after=1)
        self._pending += 1
        future = asyncio.get_running_loop().run_in_executor(self._pool, work)
        # Counted until the thread is done, not until the caller gives up: the memory is held that long.
        future.add_done_callback(self._finished)
        return await asyncio.shield(future)

    def _finished(self, _future: object) -> None:
        self._pending -= 1

    def close(self) -> None:
        """Ends the threads; what waits is dropped."""
        self._pool.shutdown(wait=False, cancel_futures=True)


def _encode(password: Secret) -> bytes:
    return password.reveal().encode("utf-8", "surrogatepass")


class PasswordAuthenticator:
    """Judges passwords and second factors. Attempts on one name are judged one after the other, so that none of
    them is judged before the failures of those before it are counted."""

    auth_type = AUTH_TYPE

    def __init__(
        self, users: Users, hashing: PasswordHashing, logins: Logins, second_factors: SecondFactors, decoy: str
    ) -> None:
        """``decoy``: a hash under the same parameters that no password matches; see ``make_decoy``."""
        self._users = users
        self._hashing = hashing
        self._logins = logins
        self._second_factors = second_factors
        self._decoy = decoy
        self._turns: dict[str, _Turn] = {}

    @staticmethod
    async def make_decoy(hashing: PasswordHashing) -> str:
        """The hash of a password that is forgotten at once."""
        return await hashing.hash(Secret(secrets.token_urlsafe(32)))

    def recognises(self, credential: Credential) -> bool:
        return isinstance(credential, PasswordCredential)

    async def authenticate(self, credential: Credential, now: datetime) -> Principal:
        if (
            not isinstance(credential, PasswordCredential)
            or not 0 < len(credential.username) <= MAX_USERNAME
            or not 0 < len(credential.password) <= MAX_PASSWORD
            or len(credential.otp) > MAX_OTP
        ):
            raise Rejected(Reason.MALFORMED, AUTH_TYPE)
        known = self._users.find(credential.username)
        name = known.name if known else self._logins.row_of_stranger(credential.username)
        async with self._turn(name):
            # Whoever waited for this turn may find another record.
            user = self._users.find(credential.username) if known else None
            locked = await self._logins.locked(name, now)
            matches = await self._hashing.verify(user.password_hash if user else self._decoy, credential.password)
            if locked or user is None or not matches or not user.enabled:
                if not locked:
                    # Counted for a disabled user too: what costs less would tell that the password is right.
                    await self._logins.failed(name, now)
                raise _refusal(user, Reason.LOCKED if locked else Reason.DISABLED if matches else Reason.MISMATCH)
            amr = await self._finish(user, credential.otp.reveal(), now)
        return user.principal(AUTH_TYPE, _credential_id(user), auth_time=now, amr=amr)

    async def _finish(self, user: User, otp: str, now: datetime) -> tuple[str, ...]:
        """Judges the second factor, where there is one, and ends the row of failures."""
        sealed = user.second_factor
        if sealed is None:
            if not await self._logins.succeeded(user.name, now, None):
                raise _refusal(user, Reason.LOCKED)
            return ("pwd",)
        step = self._second_factors.step(user.name, sealed, otp, now)
        if step is not None and await self._logins.succeeded(user.name, now, step):
            return ("pwd", "otp", "mfa")
        if len(otp) > MAX_CODE and await self._logins.use_recovery_code(user.name, otp, now):
            return ("pwd", "mfa")
        await self._logins.failed(user.name, now)
        raise _refusal(user, Reason.SECOND_FACTOR)

    @contextlib.asynccontextmanager
    async def _turn(self, name: str) -> AsyncIterator[None]:
        turn = self._turns.setdefault(name, _Turn())
        if turn.waiting > MAX_WAITING:
            raise ResourceExhausted(
                "Too many passwords of one name are being checked; try again shortly.", retry_after=1
            )
        turn.waiting += 1
        try:
            async with turn.lock:
                yield
        finally:
            turn.waiting -= 1
            if not turn.waiting:
                self._turns.pop(name, None)


class _Turn:
    """The attempts on one name."""

    def __init__(self) -> None:
        self.lock = asyncio.Lock()
        self.waiting = 0


def _credential_id(user: User) -> str:
    return f"password:{user.name}"


def _refusal(user: User | None, reason: Reason) -> Rejected:
    if user is None:
        return Rejected(Reason.UNKNOWN, AUTH_TYPE)
    return Rejected(reason, AUTH_TYPE, credential_id=_credential_id(user), user=user.name)
