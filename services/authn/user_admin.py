"""Administration of users (R15). No gRPC, no IO of its own.

As for keys: the operator may (``admission.py``), the request is well-formed, and then intent, change, outcome,
answer. What takes something away from a user ends the user's tokens too.
"""

from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime

from services.authn.admission import Admission
from services.authn.journal import Act, Journal
from services.authn.model import NewUser, Secret, User
from services.authn.ports import KeyMaker, Logins, PasswordHashing, SecondFactors, UserRecords
from services.authn.rules import checked_user, is_user_name, password_problems
from services.common.call import Call
from services.common.clock import Clock
from services.common.errors import AlreadyExists, FailedPrecondition, InvalidArgument, NotFound

_HANDS_OUT = frozenset({"enable", "reset-password", "enrol-totp", "confirm-totp", "remove-totp"})
"""What gives an operator, or somebody, a way to be the user."""

_NO_USER = "There is no user of this name; `kubegate users list` shows them all."
_TAKEN = "There is a user of this name already."


class UserAdmin:
    """Creates, lists, enables, disables and deletes users, and their passwords and second factors."""

    def __init__(
        self,
        records: UserRecords,
        hashing: PasswordHashing,
        maker: KeyMaker,
        second_factors: SecondFactors,
        logins: Logins,
        admission: Admission,
        journal: Journal,
        clock: Clock,
    ) -> None:
        self._records = records
        self._hashing = hashing
        self._maker = maker
        self._second_factors = second_factors
        self._logins = logins
        self._admission = admission
        self._journal = journal
        self._clock = clock

    async def create(self, asked: NewUser, call: Call) -> tuple[User, Secret | None, tuple[str, ...]]:
        """Makes a user; returns the record, the password where it was made here, and those of the user's roles that
        the policy does not know.

        Raises:
            Unauthenticated, PermissionDenied: R15.
            InvalidArgument: what was asked for breaks the rules; lists every problem.
            AlreadyExists: the name is taken.
            Unavailable: nothing was made.
        """
        act = await self._admit("create", asked.name, call)
        namespaces = await self._journal.refusing(act, lambda: checked_user(asked))
        await self._journal.refusing(act, lambda: self._free(asked.name))
        made = self._maker.make_password() if asked.password is None else None
        user = User(
            name=asked.name,
            password_hash=await self._hashing.hash(asked.password or made or Secret("")),
            created_at=self._clock.now(),
            roles=asked.roles,
            permissions=asked.permissions,
            namespaces=namespaces,
            tenant=asked.tenant,
        )

        act, unknown_roles = await self._may_grant(act, user)

        async def add() -> None:
            if not await self._records.add(user):
                raise AlreadyExists(_TAKEN)

        details = {
            "roles": ",".join(user.roles),
            "permissions": ",".join(user.permissions),
            "namespaces": "*" if namespaces.all else ",".join(namespaces.patterns),
            "tenant": user.tenant,
        }
        await self._journal.change(act.about(details), add, undo=lambda: self._records.delete(user.name))
        return self._records.find(user.name) or user, made, unknown_roles

    async def list(self, call: Call) -> Sequence[tuple[User, datetime | None]]:
        """All users by name, each with the end of its lock-out.

        Raises:
            Unauthenticated, PermissionDenied: R15.
            Unavailable: the reading could not be recorded.
        """
        act = await self._admit("list", "", call)
        users = [(user, await self._locked_until(user)) for user in self._records.list()]
        await self._journal.done(act)
        return users

    async def set_enabled(self, name: str, enabled: bool, call: Call) -> User:
        """Enables or disables a user, effective at once. Tokens from before stay dead.

        Raises:
            Unauthenticated, PermissionDenied: R15.
            NotFound: there is no such user.
            Unavailable: nothing was changed.
            FailedPrecondition: the user is disabled, and that is not recorded.
        """
        act, before = await self._existing("enable" if enabled else "disable", name, call)
        widens = enabled and not before.enabled
        return await self._change(
            act,
            lambda: self._records.change(name, ends_tokens=not enabled, enabled=enabled),
            undo=(lambda: self._records.change(name, ends_tokens=True, enabled=False)) if widens else None,
        )

    async def delete(self, name: str, call: Call) -> None:
        """Deletes a user, effective at once. Raises as ``set_enabled``."""
        act, _ = await self._existing("delete", name, call)
        await self._journal.change(act, lambda: self._records.delete(name))

    async def reset_password(self, name: str, password: Secret | None, call: Call) -> Secret | None:
        """Gives a user another password and ends the user's tokens and lock-out; returns the password where
        it was made here.

        Raises:
            As ``set_enabled``.
            InvalidArgument: the password breaks the rules.
        """
        act, _ = await self._existing("reset-password", name, call)
        if password is not None:
            given = password
            await self._journal.refusing(act, lambda: _checked(given, name))
        made = self._maker.make_password() if password is None else None
        hashed = await self._hashing.hash(password or made or Secret(""))
        await self._change(act, lambda: self._records.reset_password(name, hashed))
        return made

    async def enrol_totp(self, name: str, call: Call) -> tuple[Secret, Sequence[Secret]]:
        """Begins a second factor: its otpauth:// URI, and recovery codes. It counts once it is confirmed.

        Raises:
            As ``set_enabled``.
            FailedPrecondition: there is one already.
        """
        act, user = await self._existing("enrol-totp", name, call)
        await self._journal.refusing(act, lambda: _without_second_factor(user))
        sealed, uri = self._second_factors.make(name)
        codes = self._second_factors.make_recovery_codes()
        await self._change(act, lambda: self._records.enrol(name, sealed, codes))
        return uri, codes

    async def confirm_totp(self, name: str, code: str, call: Call) -> User:
        """Makes a second factor count, by a code of it; the user's tokens from before end.

        Raises:
            As ``set_enabled``.
            FailedPrecondition: none was begun, or it counts already.
            InvalidArgument: the code is not its code of now.
        """
        act, user = await self._existing("confirm-totp", name, call)

        def judge() -> int:
            if user.totp_sealed is None or user.totp_confirmed:
                raise FailedPrecondition("Begin a second factor first: `kubegate users enrol-totp`.")
            step = self._second_factors.step(name, user.totp_sealed, code, self._clock.now())
            if step is None:
                raise InvalidArgument("This is not the code that the device shows now; check the device's clock.")
            return step

        step = await self._journal.refusing(act, judge)
        return await self._change(act, lambda: self._records.confirm_totp(name, step))

    async def remove_totp(self, name: str, call: Call) -> User:
        """Takes the second factor away, for a lost device. Raises as ``set_enabled``."""
        act, _ = await self._existing("remove-totp", name, call)
        return await self._change(
            act, lambda: self._records.change(name, ends_tokens=True, totp_sealed=None, totp_confirmed=False)
        )

    async def unlock(self, name: str, call: Call) -> User:
        """Ends a lock-out. Raises as ``set_enabled``."""
        act, user = await self._existing("unlock", name, call)
        await self._journal.change(act, lambda: self._logins.unlock(name))
        return user

    async def _locked_until(self, user: User) -> datetime | None:
        until = await self._logins.locked_until(user.name)
        return until if until is not None and until > self._clock.now() else None

    async def _admit(self, verb: str, name: str, call: Call) -> Act:
        allowed_by = verb if verb in ("create", "list", "enable", "disable", "delete") else "update"
        return await self._admission.admit("users", allowed_by, name if is_user_name(name) else "", call, verb)

    async def _existing(self, verb: str, name: str, call: Call) -> tuple[Act, User]:
        act = await self._admit(verb, name, call)
        user = await self._journal.refusing(act, lambda: self._found(self._records.find(name)))
        if verb in _HANDS_OUT:
            act, _ = await self._may_grant(act, user)
        return act, user

    async def _may_grant(self, act: Act, user: User) -> tuple[Act, tuple[str, ...]]:
        """That the operator holds what the user does: whoever sets a password or a second factor could be him."""
        now = self._clock.now()
        return await self._admission.may_grant(act, user.principal("password", "", now, ("pwd", "otp", "mfa")))

    async def _change(
        self,
        act: Act,
        change: Callable[[], Awaitable[User | None]],
        undo: Callable[[], Awaitable[object]] | None = None,
    ) -> User:
        async def apply() -> User:
            return self._found(await change())

        return await self._journal.change(act, apply, undo=undo)

    def _found(self, user: User | None) -> User:
        if user is None:
            raise NotFound(_NO_USER)
        return user

    def _free(self, name: str) -> None:
        if self._records.find(name) is not None:
            raise AlreadyExists(_TAKEN)


def _checked(password: Secret, name: str) -> None:
    problems = password_problems(password, name)
    if problems:
        raise InvalidArgument("The password cannot be used: " + "; ".join(problems) + ".")


def _without_second_factor(user: User) -> None:
    if user.totp_confirmed:
        raise FailedPrecondition("The user has a second factor; remove it first: `kubegate users remove-totp`.")
