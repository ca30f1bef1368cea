"""Administration of API keys (R15). No gRPC, no IO of its own.

1. The peer has an operator's certificate (the server has checked that) and brings a principal token that was
   issued to it, of a credential that still lives (R5).
2. authz allows the token's principal ``kubegate:keys:<verb>``.
3. The request itself is well-formed. A refusal at 1-3 is recorded, folded (R25).
4. The intent is durable before the change, the change before the outcome, the outcome before the answer. A
   change whose outcome cannot be recorded is taken back where it widens what anyone may do.
"""

from collections.abc import Sequence

from services.authn.journal import Act, Journal
from services.authn.model import ApiKey, NewApiKey, Secret
from services.authn.ports import Credentials, KeyMaker, OperatorTokens, Policy
from services.authn.rules import checked_scope, is_key_id
from services.common.call import PRINCIPAL_TOKEN_METADATA, Call
from services.common.clock import Clock
from services.common.errors import NotFound, PermissionDenied, Unauthenticated

_NO_TOKEN = "Administration needs a valid principal token of this operator; authenticate again."

_NO_KEY = "There is no key with this id; `kubegate keys list` shows them all."


class CredentialAdmin:
    """Creates, lists, enables, disables and deletes API keys."""

    def __init__(
        self,
        credentials: Credentials,
        key_maker: KeyMaker,
        tokens: OperatorTokens,
        policy: Policy,
        journal: Journal,
        clock: Clock,
    ) -> None:
        self._credentials = credentials
        self._key_maker = key_maker
        self._tokens = tokens
        self._policy = policy
        self._journal = journal
        self._clock = clock

    async def create(self, asked: NewApiKey, call: Call) -> tuple[ApiKey, Secret]:
        """Makes a key and returns its record and the key itself, which cannot be had again.

        Raises:
            Unauthenticated, PermissionDenied: R15.
            InvalidArgument: what was asked for breaks the rules; lists every problem.
            Unavailable: nothing was made.
        """
        act = await self._admit("create", "", call)
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
        )
        details = {
            "credential_id": key.id,
            "identity": key.identity,
            "roles": ",".join(key.roles),
            "permissions": ",".join(key.permissions),
            "namespaces": "*" if key.namespaces.all else ",".join(key.namespaces.patterns),
            "tools": ",".join(key.tools),
            "tenant": key.tenant,
            "expires_at": key.expires_at.isoformat() if key.expires_at else "",
        }
        await self._journal.change(
            act.about(details),
            lambda: self._credentials.add_key(key),
            undo=lambda: self._credentials.delete_key(key_id),
        )
        return key, text

    async def list(self, call: Call) -> Sequence[ApiKey]:
        """All keys, oldest first.

        Raises:
            Unauthenticated, PermissionDenied: R15.
            Unavailable: the reading could not be recorded.
        """
        act = await self._admit("list", "", call)
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
        act = await self._admit("enable" if enabled else "disable", key_id, call)
        before = await self._journal.refusing(act, lambda: self._existing(key_id))
        widens = enabled and not before.enabled

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
        act = await self._admit("delete", key_id, call)
        before = await self._journal.refusing(act, lambda: self._existing(key_id))
        await self._journal.change(
            act.about({"credential_id": key_id, "identity": before.identity}),
            lambda: self._credentials.delete_key(key_id),
        )

    def _existing(self, key_id: str) -> ApiKey:
        key = self._credentials.find_key(key_id)
        if key is None:
            raise NotFound(_NO_KEY)
        return key

    async def _admit(self, verb: str, key_id: str, call: Call) -> Act:
        act = self._journal.act(call, f"keys.{verb}", f"keys/{key_id}" if is_key_id(key_id) else "keys")
        token = call.metadata.get(PRINCIPAL_TOKEN_METADATA, "")
        try:
            principal, party = await self._tokens.verify(token)
            if party != call.peer or not self._credentials.alive(principal, self._clock.now()):
                raise Unauthenticated(_NO_TOKEN)
        except Unauthenticated:
            await self._journal.refused(act, "no valid principal token")
            raise Unauthenticated(_NO_TOKEN) from None
        act = act.by(principal, token)
        decision = await self._policy.check(token, verb, call)
        if not decision.allowed:
            await self._journal.refused(act, "denied by policy")
            raise PermissionDenied(decision.explanation or f"Policy does not allow kubegate:keys:{verb}.")
        return act.decided(decision)
