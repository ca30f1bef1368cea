"""Administration of our own signing keys (R15): the schedule's work, done ahead of it."""

from collections.abc import Mapping, Sequence

from services.authn.admission import Admission
from services.authn.journal import Journal
from services.authn.model import SigningKeyView
from services.authn.ports import SigningKeys
from services.common.call import Call
from services.common.errors import InvalidArgument


class SigningKeyAdmin:
    """Lists and rotates the keys of each purpose: ``access`` and ``principal``."""

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
