"""Tokens that ended before their time, and refresh tokens, in the store.

A refresh token is ``kgr_<id>_<secret>``, kept as a MAC like an API key. It is good for one use, which gives the
next one of its family. A second use means that somebody else holds it too: the whole family ends then, its
access tokens included.
"""

import hmac
import re
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Connection, Row, select

from services.authn.adapters import schema
from services.authn.adapters.api_key import ID_LENGTH, SECRET_LENGTH, Pepper, random_base62
from services.authn.adapters.store import Store
from services.authn.errors import Reason, Rejected
from services.authn.model import Principal, Refreshable, Secret
from services.common.clock import Clock

AUTH_TYPE = "refresh_token"
PREFIX = "kgr_"
LIFETIME = timedelta(days=14)
"""Of a family, counted anew at each use."""

_FORM = re.compile(rf"kgr_([0-9A-Za-z]{{{ID_LENGTH}}})_([0-9A-Za-z]{{{SECRET_LENGTH}}})")


class RevokedTokens:
    """The port ``TokenRevocation``, and what authenticators ask of it."""

    def __init__(self, store: Store, clock: Clock) -> None:
        self._store = store
        self._clock = clock

    def is_revoked(self, name: str) -> bool:
        """Whether a token, or a family of tokens, was ended."""
        return name in self._store.mirror.revoked

    async def revoke(self, credential_id: str, until: datetime) -> None:
        table = schema.revoked_tokens
        now = self._clock.now()

        def write(connection: Connection, _revision: int) -> Callable[[], None]:
            over = now - timedelta(minutes=5)
            forgotten = connection.execute(table.delete().where(table.c.until < over)).rowcount
            known = connection.execute(select(table.c.until).where(table.c.credential_id == credential_id)).first()
            if known is None:
                connection.execute(table.insert().values(credential_id=credential_id, until=until))

            def show() -> None:
                mirror = self._store.mirror
                if forgotten:
                    mirror.revoked = {name: each for name, each in mirror.revoked.items() if each >= over}
                mirror.revoked[credential_id] = until

            return show

        await self._store.change(write, [credential_id])


class RefreshTokenStore:
    """The port ``RefreshTokens``."""

    def __init__(self, store: Store, pepper: Pepper, revoked: RevokedTokens, access_lifetime: int, clock: Clock):
        """``access_lifetime``: seconds that an access token beside a refresh token may still live."""
        self._store = store
        self._pepper = pepper
        self._revoked = revoked
        self._access_lifetime = timedelta(seconds=access_lifetime)
        self._clock = clock

    def recognises(self, token: Secret) -> bool:
        return token.reveal().startswith(PREFIX)

    async def start(self, principal: Principal) -> tuple[Secret, str]:
        stands_for = Refreshable(
            random_base62(ID_LENGTH), principal.subject, principal.generation, principal.auth_time, principal.amr
        )
        token, row = self._make(stands_for)
        now = self._clock.now()

        def write(connection: Connection) -> None:
            connection.execute(schema.refresh_tokens.delete().where(schema.refresh_tokens.c.expires_at < now))
            connection.execute(schema.refresh_tokens.insert().values(row))

        await self._store.write(write)
        return token, stands_for.family

    async def use(self, token: Secret) -> tuple[Principal, Secret, str]:
        token_id, mac = self._parsed(token)
        table = schema.refresh_tokens
        now = self._clock.now()

        def take(connection: Connection) -> tuple[Refreshable, Secret | None]:
            row = connection.execute(select(table).where(table.c.id == token_id)).first()
            if row is None or not hmac.compare_digest(row.mac, mac):
                raise Rejected(Reason.UNKNOWN, AUTH_TYPE)
            if row.expires_at <= now:
                raise Rejected(Reason.EXPIRED, AUTH_TYPE, user=row.user)
            stands_for = _stands_for(row)
            ended = schema.revoked_tokens
            if connection.execute(select(ended.c.until).where(ended.c.credential_id == row.family)).first() is not None:
                raise Rejected(Reason.REVOKED, AUTH_TYPE, credential_id=row.family, user=row.user)
            first = connection.execute(table.update().where(table.c.id == token_id, ~table.c.used).values(used=True))
            if first.rowcount != 1:
                return stands_for, None
            following, new = self._make(stands_for)
            connection.execute(table.insert().values(new))
            return stands_for, following

        stands_for, following = await self._store.write(take)
        if following is None:
            await self._end(stands_for.family)
            raise Rejected(Reason.REUSED, AUTH_TYPE, credential_id=stands_for.family, user=stands_for.user)
        user = self._store.users.find(stands_for.user)
        if user is None or user.generation != stands_for.generation or not user.enabled:
            raise Rejected(Reason.DISABLED, AUTH_TYPE, user=user.name if user else "")
        return (
            user.principal(AUTH_TYPE, stands_for.family, stands_for.auth_time, stands_for.amr),
            following,
            stands_for.family,
        )

    async def undo_use(self, token: Secret, following: Secret) -> None:
        table = schema.refresh_tokens
        used, (made, _) = self._parsed(token)[0], self._parsed(following)

        def put_back(connection: Connection) -> None:
            # A second use may have come in between. Its mark on the family stands, whatever is written here.
            if connection.execute(table.delete().where(table.c.id == made, ~table.c.used)).rowcount == 1:
                connection.execute(table.update().where(table.c.id == used).values(used=False))

        await self._store.write(put_back)

    async def end(self, token: Secret) -> Refreshable | None:
        try:
            token_id, mac = self._parsed(token)
        except Rejected:
            return None
        table = schema.refresh_tokens
        row = await self._store.read(lambda c: c.execute(select(table).where(table.c.id == token_id)).first())
        if row is None or not hmac.compare_digest(row.mac, mac):
            return None
        await self._end(row.family)
        return _stands_for(row)

    async def _end(self, family: str) -> None:
        # The mark first, and for as long as a token of the family may be there: one that another replica makes
        # meanwhile, or that a crash leaves, is dead too.
        await self._revoked.revoke(family, self._clock.now() + LIFETIME + self._access_lifetime)
        table = schema.refresh_tokens
        await self._store.write(lambda connection: connection.execute(table.delete().where(table.c.family == family)))

    def _parsed(self, token: Secret) -> tuple[str, bytes]:
        form = _FORM.fullmatch(token.reveal())
        if form is None:
            raise Rejected(Reason.MALFORMED, AUTH_TYPE)
        return form[1], self._pepper.mac(f"refresh/{form[1]}", form[2])

    def _make(self, stands_for: Refreshable) -> tuple[Secret, dict[str, object]]:
        token_id, secret = random_base62(ID_LENGTH), random_base62(SECRET_LENGTH)
        row: dict[str, object] = {
            "id": token_id,
            "family": stands_for.family,
            "user": stands_for.user,
            "generation": stands_for.generation,
            "mac": self._pepper.mac(f"refresh/{token_id}", secret),
            "expires_at": self._clock.now() + LIFETIME,
            "auth_time": stands_for.auth_time,
            "amr": list(stands_for.amr),
            "used": False,
        }
        return Secret(f"{PREFIX}{token_id}_{secret}"), row


def _stands_for(row: Row[Any]) -> Refreshable:
    return Refreshable(row.family, row.user, row.generation, row.auth_time, tuple(row.amr))
