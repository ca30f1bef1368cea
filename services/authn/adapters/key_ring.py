"""The signing keys of one purpose over time: next, current and previous (no restart, no gap).

A key is published before it signs, so that verifiers who keep a key set have it in time, and verifies for as
long as what it signed may live. Which key does what follows from the clock alone, so that replicas agree.
"""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from itertools import pairwise

from cryptography.exceptions import InvalidTag
from sqlalchemy import Connection

from services.authn.adapters import schema
from services.authn.adapters.signing_keys import (
    ALGORITHM,
    KeyEncryptionKey,
    Purpose,
    SealedKey,
    SigningKey,
    generate,
    jwk,
    opened,
    sealed,
)
from services.authn.adapters.store import Store
from services.authn.model import SigningKeyView
from services.common.clock import Clock
from services.common.log import get_logger
from services.common.principal_token import NO_MATTER
from services.common.revocations import signing_key_name
from services.common.runtime_errors import StartupError

log = get_logger("key_ring")


@dataclass(frozen=True, slots=True)
class Schedule:
    """``period``: how long a key signs. ``ahead``: how long it is published before. ``kept``: how long it
    verifies after. ``algorithm``: of keys to come."""

    period: timedelta
    ahead: timedelta
    kept: timedelta
    algorithm: str = ALGORITHM


def in_order(keys: Iterable[SealedKey]) -> list[SealedKey]:
    """Keys in the order in which they sign."""
    return sorted(keys, key=lambda key: (key.active_from, key.created_at, key.kid))


def signing(keys: Sequence[SealedKey], now: datetime) -> SealedKey:
    """Which of the keys, in their order, signs: the newest that has begun to; before any has, the first."""
    return ([key for key in keys if key.active_from <= now] or keys[:1])[-1]


class KeyRing:
    """The keys of one purpose."""

    def __init__(
        self, purpose: Purpose, keys: Callable[[], Mapping[str, SealedKey]], kek: KeyEncryptionKey, clock: Clock
    ) -> None:
        """``keys``: every sealed key of the store, as it is now."""
        self._purpose = purpose
        self._keys = keys
        self._kek = kek
        self._clock = clock
        self._opened: dict[str, SigningKey] = {}

    def sealed(self) -> Sequence[SealedKey]:
        """All keys, in the order in which they sign."""
        return in_order(key for key in self._keys().values() if key.purpose is self._purpose)

    def state(self, key: SealedKey) -> str:
        """``next``, ``current`` or ``previous``."""
        if key.active_from > self._clock.now():
            return "next"
        return "current" if key.kid == self.current.kid else "previous"

    @property
    def current(self) -> SigningKey:
        """The key that signs now."""
        return self._open(signing(self.sealed(), self._clock.now()))

    def find_signing(self, kid: object) -> SigningKey | None:
        """The key of that id, if it is one of these."""
        key = self._keys().get(kid) if isinstance(kid, str) else None
        return self._open(key) if key is not None and key.purpose is self._purpose else None

    async def find(self, key_id: str, since: float = NO_MATTER) -> object | None:
        """The public key of that id, as verifiers of principal tokens ask. What the store holds is never old."""
        key = self.find_signing(key_id)
        return key.public if key is not None else None

    def jwks(self) -> str:
        """The public keys as a JWK set (RFC 7517), as JSON."""
        each = [self._open(key) for key in self.sealed()]
        return json.dumps({"keys": [jwk(key.public, key.algorithm) for key in each]}, sort_keys=True)

    def check(self) -> None:
        """Opens every key.

        Raises:
            StartupError: one does not open under this key-encryption key.
        """
        try:
            for key in self.sealed():
                self._open(key)
        except (InvalidTag, ValueError) as error:
            raise StartupError(
                "the signing keys in the store do not open under the key in kek_file: it is another file than "
                "the one they were made under, or the store was altered; restore the kek_file that belongs to it"
            ) from error

    def forget(self, kid: str) -> None:
        """Drops the opened key from memory."""
        self._opened.pop(kid, None)

    def _open(self, key: SealedKey) -> SigningKey:
        known = self._opened.get(key.kid)
        if known is None:
            known = self._opened[key.kid] = opened(key, self._kek)
        return known


class KeyRotation:
    """Makes and drops the keys of a ring after a schedule."""

    def __init__(
        self, store: Store, ring: KeyRing, purpose: Purpose, kek: KeyEncryptionKey, clock: Clock, schedule: Schedule
    ) -> None:
        self._schedule = schedule
        self._store = store
        self._ring = ring
        self._purpose = purpose
        self._kek = kek
        self._clock = clock

    async def maintain(self) -> None:
        """Does what is due now, if anything is.

        Raises:
            Unavailable: the store cannot be written; what was there stays in use.
        """
        now = self._clock.now()
        schedule = self._schedule
        keys = self._ring.sealed()
        if not keys:
            await self._add(schedule.algorithm, now, now)
        elif keys[-1].active_from <= now and (
            now >= keys[-1].active_from + schedule.period - schedule.ahead or keys[-1].algorithm != schedule.algorithm
        ):
            await self._add(schedule.algorithm, now, now + schedule.ahead)
        over = [key.kid for key, following in pairwise(keys) if following.active_from + schedule.kept <= now]
        if over:
            await self._drop(over)

    async def rotate(self) -> SigningKeyView:
        """A new key that signs from now on.

        Raises:
            Unavailable: the store cannot be written.
        """
        now = self._clock.now()
        return self._view(await self._add(self._schedule.algorithm, now, now))

    async def withdraw(self, kid: str) -> SigningKeyView | None:
        """Ends a key at once, and with it whatever it signed; where it signs now, the next one takes its place, or
        a new one. Returns the key that signs then; ``None`` where there is no such key.

        Raises:
            Unavailable: the store cannot be written; nothing was changed.
        """
        table = schema.signing_keys
        now = self._clock.now()
        spare = sealed(generate(self._schedule.algorithm), self._kek, self._purpose, now, now)

        def write(connection: Connection, _revision: int) -> Callable[[], SealedKey | None]:
            rows = connection.execute(table.select().where(table.c.purpose == self._purpose.value))
            there = in_order(schema.sealed_key(row) for row in rows)
            if all(key.kid != kid for key in there):
                return lambda: None
            connection.execute(table.delete().where(table.c.kid == kid))
            signs = signing(there, now)
            if signs.kid == kid:
                # Never an older one again: it has signed for its time, and may be in the same hands.
                following = [key for key in there if key.active_from > now and key.kid != kid]
                if following:
                    signs = replace(following[0], active_from=now)
                    connection.execute(table.update().where(table.c.kid == signs.kid).values(active_from=now))
                else:
                    signs = spare
                    connection.execute(table.insert().values(schema.sealed_key_row(spare)))

            def show() -> SealedKey:
                mirror = self._store.mirror
                others = {each: key for each, key in mirror.signing_keys.items() if each != kid}
                mirror.signing_keys = {**others, signs.kid: signs}
                self._ring.forget(kid)
                return signs

            return show

        signs = await self._store.change(write, [signing_key_name(kid)])
        if signs is None:
            return None
        log.warning("signing key withdrawn", purpose=self._purpose.value, kid=kid, signs=signs.kid)
        return self._view(signs)

    def list(self) -> Sequence[SigningKeyView]:
        """The keys in the order in which they sign."""
        return [self._view(key) for key in self._ring.sealed()]

    def _view(self, key: SealedKey) -> SigningKeyView:
        return SigningKeyView(key.kid, key.purpose.value, self._ring.state(key), key.active_from)

    async def _add(self, algorithm: str, now: datetime, active_from: datetime) -> SealedKey:
        key = sealed(generate(algorithm), self._kek, self._purpose, now, active_from)
        table = schema.signing_keys
        count = len(self._ring.sealed())

        def write(connection: Connection, _revision: int) -> Callable[[], SealedKey]:
            # Of two replicas for which the same key is due, one makes it.
            there = connection.execute(table.select().where(table.c.purpose == self._purpose.value)).all()
            if len(there) > count:
                return lambda: schema.sealed_key(max(there, key=lambda row: row.active_from))
            connection.execute(table.insert().values(schema.sealed_key_row(key)))

            def show() -> SealedKey:
                mirror = self._store.mirror
                mirror.signing_keys = {**mirror.signing_keys, key.kid: key}
                return key

            return show

        made = await self._store.change(write)
        log.info(
            "signing key made", purpose=self._purpose.value, kid=made.kid, active_from=made.active_from.isoformat()
        )
        return made

    async def _drop(self, kids: Sequence[str]) -> None:
        table = schema.signing_keys

        def write(connection: Connection, _revision: int) -> Callable[[], None]:
            connection.execute(table.delete().where(table.c.kid.in_(kids)))

            def show() -> None:
                kept = {kid: key for kid, key in self._store.mirror.signing_keys.items() if kid not in kids}
                self._store.mirror.signing_keys = kept
                for kid in kids:
                    self._ring.forget(kid)

            return show

        await self._store.change(write)
        log.info("signing keys dropped", purpose=self._purpose.value, kids=list(kids))


async def open_ring(
    store: Store, kek: KeyEncryptionKey, purpose: Purpose, clock: Clock, schedule: Schedule
) -> tuple[KeyRing, KeyRotation]:
    """The stored keys of a purpose; makes the first one where there is none.

    Raises:
        StartupError: a stored key does not open under this key-encryption key.
    """
    ring = KeyRing(purpose, lambda: store.mirror.signing_keys, kek, clock)
    ring.check()
    rotation = KeyRotation(store, ring, purpose, kek, clock, schedule)
    await rotation.maintain()
    return ring, rotation
