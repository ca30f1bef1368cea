"""The first administrator, once in the life of a store (R15). No gRPC, no IO of its own.

An operator's certificate and the one-time token, which only who installs the stack has, stand in for the
principal that does not exist yet.
"""

import hmac
from dataclasses import dataclass

from services.authn.journal import Journal
from services.authn.model import ApiKey, Secret, User
from services.authn.ports import BootstrapSecret, Credentials, KeyMaker, PasswordHashing
from services.common.call import Call
from services.common.clock import Clock
from services.common.errors import AlreadyExists, FailedPrecondition, Unauthenticated

ADMIN = "admin"
VIEWER = "viewer"
ADMIN_PERMISSIONS = ("kubegate:*",)

_DONE = "The first administrator of this store exists already; use `kubegate keys create` with that one's key."


@dataclass(frozen=True, slots=True)
class FirstCredentials:
    """Shown once."""

    admin_key: Secret
    viewer_key: Secret
    admin_password: Secret


class Bootstrap:
    """Makes the keys "admin" and "viewer" and the user "admin"."""

    def __init__(
        self,
        credentials: Credentials,
        token: BootstrapSecret,
        key_maker: KeyMaker,
        hashing: PasswordHashing,
        journal: Journal,
        clock: Clock,
    ) -> None:
        self._credentials = credentials
        self._token = token
        self._key_maker = key_maker
        self._hashing = hashing
        self._journal = journal
        self._clock = clock

    async def run(self, token: Secret, call: Call) -> FirstCredentials:
        """Makes the first credentials.

        Raises:
            AlreadyExists: it was done before in this store.
            FailedPrecondition: no token was set up.
            Unauthenticated: the token is another one.
            Unavailable: nothing was made, or it cannot be recorded; the token stays valid.
        """
        act = self._journal.act(call, "bootstrap", "credentials")
        await self._journal.refusing(act, lambda: self._admit(token))
        password = self._key_maker.make_password()
        password_hash = await self._hashing.hash(password)
        now = self._clock.now()
        admin, admin_key = self._key(ADMIN, ADMIN_PERMISSIONS)
        viewer, viewer_key = self._key(VIEWER, ())
        user = User(
            name=ADMIN, password_hash=password_hash, created_at=now, roles=(ADMIN,), permissions=ADMIN_PERMISSIONS
        )
        details = {"admin_key_id": admin.id, "viewer_key_id": viewer.id, "user": user.name}

        async def make() -> None:
            # Of two at the same time, the store lets one through.
            if not await self._credentials.bootstrap([admin, viewer], user, now):
                raise AlreadyExists(_DONE)

        await self._journal.change(act.about(details), make, undo=self._credentials.undo_bootstrap)
        return FirstCredentials(admin_key, viewer_key, password)

    def _admit(self, token: Secret) -> None:
        if self._credentials.bootstrapped:
            raise AlreadyExists(_DONE)
        expected = self._token.read()
        if expected is None:
            raise FailedPrecondition(
                "No bootstrap token is set up; write one to the file that bootstrap_token_file names."
            )
        if not hmac.compare_digest(expected.reveal().encode(), token.reveal().encode()):
            raise Unauthenticated("The bootstrap token is not the one that was set up.")

    def _key(self, name: str, permissions: tuple[str, ...]) -> tuple[ApiKey, Secret]:
        key_id, text, mac, pepper_version = self._key_maker.make()
        key = ApiKey(
            id=key_id,
            identity=name,
            mac=mac,
            pepper_version=pepper_version,
            created_at=self._clock.now(),
            roles=(name,),
            permissions=permissions,
        )
        return key, text
