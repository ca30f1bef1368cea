"""Administration of API keys (R15). No gRPC, no IO of its own.

1. The operator may (``admission.py``).
2. The request itself is well-formed. A refusal at 1-2 is recorded, folded (R25).
3. The intent is durable before the change, the change before the outcome, the outcome before the answer. A
   change whose outcome cannot be recorded is taken back where it widens what anyone may do.
"""

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime, timedelta

from services.authn.admission import Admission
from services.authn.journal import Journal
from services.authn.model import ApiKey, NewApiKey, Secret
from services.authn.ports import Credentials, KeyMaker
from services.authn.rules import checked_scope, is_key_id
from services.common.call import Call
from services.common.clock import Clock
from services.common.errors import FailedPrecondition, InvalidArgument, NotFound

MAX_OVERLAP = timedelta(days=90)
"""For how long an old key may work beside the one that takes its place."""

MIN_UNUSED = timedelta(days=1)

MAX_PRUNED = 100
"""Keys that one call prunes at most, the oldest first, so that the record names each of them."""


_REPLACED = "This key was replaced before; `kubegate keys list` shows by which one."
_NO_KEY = "There is no key with this id; `kubegate keys list` shows them all."


class CredentialAdmin:
    """Creates, lists, enables, disables, rotates, prunes and deletes API keys."""

    def __init__(
        self,
        credentials: Credentials,
        key_maker: KeyMaker,
        admission: Admission,
        journal: Journal,
        clock: Clock,
    ) -> None:
        self._credentials = credentials
        self._key_maker = key_maker
        self._admission = admission
        self._journal = journal
        self._clock = clock

    async def create(self, asked: NewApiKey, call: Call) -> tuple[ApiKey, Secret, tuple[str, ...]]:
        """Makes a key and returns its record, the key itself, which cannot be had again, and those of its roles that
        the policy does not know.

        Raises:
            Unauthenticated, PermissionDenied: R15.
            InvalidArgument: what was asked for breaks the rules; lists every problem.
            Unavailable: nothing was made.
        """
        act = await self._admission.admit("keys", "create", "", call)
        now = self._clock.now()
        namespaces = await self._journal.refusing(act, lambda: checked_scope(asked, now))
        key_id, text, mac, pepper_version = self._key_maker.make()
        key = ApiKey(
            id=key_id,
            identity=asked.identity,
            mac=mac,
            pepper_version=pepper_version,
            created_at=now,
            roles=asked.roles,
            permissions=asked.permissions,
            namespaces=namespaces,
            tools=asked.tools,
            tenant=asked.tenant,
            expires_at=asked.expires_at,
            certificate_sha256=asked.certificate_sha256,
        )
        act, unknown_roles = await self._admission.may_grant(act, key.principal(now))
        await self._journal.change(
            act.about(_details(key)),
            lambda: self._credentials.add_key(key),
            undo=lambda: self._credentials.delete_key(key_id),
        )
        return key, text, unknown_roles

    async def list(self, call: Call) -> Sequence[ApiKey]:
        """All keys, oldest first.

        Raises:
            Unauthenticated, PermissionDenied: R15.
            Unavailable: the reading could not be recorded.
        """
        act = await self._admission.admit("keys", "list", "", call)
        keys = self._credentials.list_keys()
        await self._journal.done(act)
        return keys

    async def set_enabled(self, key_id: str, enabled: bool, call: Call) -> ApiKey:
        """Enables or disables a key, effective at once.

        Raises:
            Unauthenticated, PermissionDenied: R15.
            NotFound: there is no such key.
            Unavailable: nothing was changed.
            FailedPrecondition: the key is disabled, and that is not recorded.
        """
        act = await self._admission.admit("keys", "enable" if enabled else "disable", _named(key_id), call)
        before = await self._journal.refusing(act, lambda: self._existing(key_id))
        widens = enabled and not before.enabled
        if widens:
            act, _ = await self._admission.may_grant(act, before.principal(self._clock.now()))

        async def change() -> ApiKey:
            changed = await self._credentials.set_key_enabled(key_id, enabled)
            if changed is None:
                raise NotFound(_NO_KEY)
            return changed

        return await self._journal.change(
            act.about({"credential_id": key_id, "identity": before.identity}),
            change,
            undo=(lambda: self._credentials.set_key_enabled(key_id, False)) if widens else None,
        )

    async def delete(self, key_id: str, call: Call) -> None:
        """Deletes a key, effective at once.

        Raises:
            As ``set_enabled``.
        """
        act = await self._admission.admit("keys", "delete", _named(key_id), call)
        before = await self._journal.refusing(act, lambda: self._existing(key_id))
        await self._journal.change(
            act.about({"credential_id": key_id, "identity": before.identity}),
            lambda: self._credentials.delete_key(key_id),
        )

    async def rotate(self, key_id: str, overlap: timedelta, call: Call) -> tuple[ApiKey, Secret, ApiKey]:
        """Makes a key with the grants of another one, which works until ``overlap`` has passed and then never
        again. Returns the new record, the new key, and the old record.

        Raises:
            As ``create``.
            NotFound: there is no such key.
            FailedPrecondition: it was replaced before, or does not work any more.
        """
        act = await self._admission.admit("keys", "rotate", _named(key_id), call)
        now = self._clock.now()
        old = await self._journal.refusing(act, lambda: self._replaceable(key_id, overlap, now))
        new_id, text, mac, pepper_version = self._key_maker.make()
        new = replace(
            old, id=new_id, mac=mac, pepper_version=pepper_version, created_at=now, last_used_at=None, replaced_by=""
        )
        act, _ = await self._admission.may_grant(act, new.principal(now))
        ends_at = now + overlap if old.expires_at is None else min(old.expires_at, now + overlap)

        async def change() -> ApiKey:
            replaced = await self._credentials.rotate_key(old, new, ends_at)
            if replaced is None:
                raise FailedPrecondition(_REPLACED)
            return replaced

        details = {**_details(new), "replaces": old.id, "old_ends_at": ends_at.isoformat()}
        replaced = await self._journal.change(
            act.about(details), change, undo=lambda: self._credentials.undo_rotation(old, new)
        )
        return new, text, replaced

    async def prune(self, unused: timedelta, dry_run: bool, call: Call) -> Sequence[ApiKey]:
        """Deletes the keys that were neither made nor used within ``unused``, or only says which they are; at most
        ``MAX_PRUNED`` at once.

        Raises:
            Unauthenticated, PermissionDenied: R15.
            InvalidArgument: ``unused`` is shorter than a day.
            Unavailable, FailedPrecondition: as ``set_enabled``.
        """
        act = await self._admission.admit("keys", "delete", "", call, "prune")
        since = self._clock.now() - await self._journal.refusing(act, lambda: _checked_unused(unused))
        unwanted = await self._credentials.find_unused(since, MAX_PRUNED)
        ids = ",".join(key.id for key in unwanted)
        act = act.about({"credential_ids": ids, "count": str(len(unwanted))})
        if dry_run or not unwanted:
            await self._journal.done(act)
            return unwanted
        await self._journal.change(act, lambda: self._credentials.delete_keys([key.id for key in unwanted]))
        return unwanted

    def _replaceable(self, key_id: str, overlap: timedelta, now: datetime) -> ApiKey:
        if not timedelta(0) <= overlap <= MAX_OVERLAP:
            raise InvalidArgument(f"The overlap must be at most {MAX_OVERLAP.days} days.")
        key = self._existing(key_id)
        if key.replaced_by:
            raise FailedPrecondition(_REPLACED)
        if not key.enabled or (key.expires_at is not None and key.expires_at <= now):
            raise FailedPrecondition("This key does not work any more; create a new one with `kubegate keys create`.")
        return key

    def _existing(self, key_id: str) -> ApiKey:
        key = self._credentials.find_key(key_id)
        if key is None:
            raise NotFound(_NO_KEY)
        return key


def _named(key_id: str) -> str:
    """What may be recorded of a key's id: what cannot be one may be a whole key."""
    return key_id if is_key_id(key_id) else ""


def _checked_unused(unused: timedelta) -> timedelta:
    if not MIN_UNUSED <= unused <= timedelta(days=3650):
        raise InvalidArgument("Name a time of at least one day and at most ten years for which keys were unused.")
    return unused


def _details(key: ApiKey) -> dict[str, str]:
    return {
        "credential_id": key.id,
        "identity": key.identity,
        "roles": ",".join(key.roles),
        "permissions": ",".join(key.permissions),
        "namespaces": "*" if key.namespaces.all else ",".join(key.namespaces.patterns),
        "tools": ",".join(key.tools),
        "tenant": key.tenant,
        "expires_at": key.expires_at.isoformat() if key.expires_at else "",
        "certificate_sha256": key.certificate_sha256,
    }
