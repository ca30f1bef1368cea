"""Administration of our own signing keys (R15): the work of the schedule ahead of it, and the end of a leaked key."""

from collections.abc import Mapping, Sequence

from services.authn.admission import Admission
from services.authn.journal import Journal
from services.authn.model import SigningKeyView
from services.authn.ports import SigningKeys
from services.authn.rules import REASON_WANTED, is_reason, is_signing_key_id
from services.common.call import Call
from services.common.errors import InvalidArgument, NotFound

_NO_KEY = "There is no such signing key; `kubegate signing-keys list` shows those that are accepted."


class SigningKeyAdmin:
    """Lists, rotates and withdraws the keys of each purpose: ``access`` and ``principal``."""

    def __init__(self, keys: Mapping[str, SigningKeys], admission: Admission, journal: Journal) -> None:
        self._keys = keys
        self._admission = admission
        self._journal = journal

    async def list(self, call: Call) -> Sequence[SigningKeyView]:
        """Next, current and previous keys, in the order in which they sign.

        Raises:
            Unauthenticated, PermissionDenied: R15.
            Unavailable: the reading could not be recorded.
        """
        act = await self._admission.admit("keys", "list", "", call, "list-signing")
        views = [view for keys in self._keys.values() for view in keys.list()]
        await self._journal.done(act)
        return views

    async def rotate(self, purpose: str, call: Call) -> SigningKeyView:
        """Makes a new key sign from now on; what older ones signed stays valid until it ends.

        Raises:
            Unauthenticated, PermissionDenied: R15.
            InvalidArgument: there is no such purpose.
            Unavailable: nothing was changed.
            FailedPrecondition: the key is made, and that is not recorded.
        """
        act = await self._admission.admit("keys", "rotate", "", call, "rotate-signing")

        def choose() -> SigningKeys:
            if purpose not in self._keys:
                raise InvalidArgument(f"Name what the key signs: {' or '.join(self._keys)}.")
            return self._keys[purpose]

        keys = await self._journal.refusing(act, choose)
        return await self._journal.change(act.about({"purpose": purpose}), keys.rotate)

    async def withdraw(self, kid: str, reason: str, call: Call) -> SigningKeyView:
        """Ends a key that others may hold, and whatever it signed, everywhere within a second (R12). Returns the key
        that signs in its place, or still does. Nothing takes it back: the private key is destroyed here.

        Raises:
            Unauthenticated, PermissionDenied: R15.
            InvalidArgument: there is no reason for the record.
            NotFound: there is no such key.
            Unavailable: nothing was changed.
            FailedPrecondition: the key is withdrawn, and that is not recorded.
        """
        known = is_signing_key_id(kid)
        act = await self._admission.admit("keys", "withdraw", kid if known else "", call, "withdraw-signing")

        def choose() -> tuple[SigningKeys, SigningKeyView]:
            if not is_reason(reason):
                raise InvalidArgument(REASON_WANTED)
            for keys in self._keys.values():
                for view in keys.list():
                    if view.kid == kid:
                        return keys, view
            raise NotFound(_NO_KEY)

        keys, view = await self._journal.refusing(act, choose)
        details = {"purpose": view.purpose, "state": view.state, "reason": reason}

        async def withdraw() -> SigningKeyView:
            signs = await keys.withdraw(kid)
            if signs is None:
                raise NotFound(_NO_KEY)
            return signs

        return await self._journal.change(act.about(details), withdraw)
