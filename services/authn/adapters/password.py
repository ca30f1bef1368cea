"""User name and password: argon2id (RFC 9106) in a bounded pool of threads.

An unknown or disabled user costs one verification too, against a hash that nobody's password has. What is
beyond the pool's queue is refused at once: a flood of passwords must not eat the memory that argon2 demands
nor the time of other callers (R25).
"""

import asyncio
import secrets
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from typing import TypeVar

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError

from services.authn.errors import Reason, Rejected
from services.authn.model import Credential, PasswordCredential, Principal, Secret
from services.authn.ports import PasswordHashing, Users
from services.common.errors import ResourceExhausted

T = TypeVar("T")

AUTH_TYPE = "password"
MAX_USERNAME = 128
MAX_PASSWORD = 1024
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
    """Judges passwords."""

    auth_type = AUTH_TYPE

    def __init__(self, users: Users, hashing: PasswordHashing, decoy: str) -> None:
        """``decoy``: a hash under the same parameters that no password matches; see ``make_decoy``."""
        self._users = users
        self._hashing = hashing
        self._decoy = decoy

    @staticmethod
    async def make_decoy(hashing: PasswordHashing) -> str:
        """The hash of a password that is forgotten at once."""
        return await hashing.hash(Secret(secrets.token_urlsafe(32)))

    def recognises(self, credential: Credential) -> bool:
        return isinstance(credential, PasswordCredential)

    async def authenticate(self, credential: Credential, now: datetime) -> Principal:
        if not isinstance(credential, PasswordCredential) or not (
            0 < len(credential.username) <= MAX_USERNAME and 0 < len(credential.password) <= MAX_PASSWORD
        ):
            raise Rejected(Reason.MALFORMED, AUTH_TYPE)
        user = self._users.find(credential.username)
        matches = await self._hashing.verify(user.password_hash if user else self._decoy, credential.password)
        if user is None:
            raise Rejected(Reason.UNKNOWN, AUTH_TYPE)
        credential_id = f"password:{user.name}"
        if not matches:
            raise Rejected(Reason.MISMATCH, AUTH_TYPE, credential_id=credential_id, user=user.name)
        if not user.enabled:
            raise Rejected(Reason.DISABLED, AUTH_TYPE, credential_id=credential_id, user=user.name)
        return user.principal(AUTH_TYPE, credential_id, auth_time=now, amr=("pwd",))
