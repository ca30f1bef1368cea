"""What has ended at authn, known within a second or not relied on at all (R5, R12).

authn gives every end or change of a credential a revision, in the order of commits. A principal token carries
the revision that authn knew when it judged the credential; whoever verifies it refuses it once the lease says
that its credential ended later, and refuses everything while there is no lease.

A signing key that was withdrawn is another matter: whoever else holds it writes any revision that he likes. So what
it signed is refused whatever it says, for as long as the process lives; and where the history of withdrawals does
not reach back to when the keys at hand were asked for, they are asked for again.
"""

from collections.abc import Iterable, Iterator
from typing import Any

from kubegate.authn.v1 import authn_pb2, authn_pb2_grpc
from kubegate.common.v1 import identity_pb2
from services.common.clock import Clock, SystemClock
from services.common.errors import Unauthenticated, Unavailable
from services.common.grpc_client import Peer
from services.common.lease import Lease
from services.common.principal_token import LIFETIME, NO_MATTER, KeySource, PrincipalVerifier, VerifiedPrincipal

MEMORY = LIFETIME + 30.0
"""Seconds for which an end is remembered: longer than any principal token that it concerns."""

HISTORY = 540.0
"""Seconds before its first answer for which authn has certainly told all ends: it keeps them for ten minutes."""

_SIGNING_KEY = "signing-key:"

PATIENCE = 2.0
"""Seconds that a verification waits for the lease to come back before it refuses."""

_ENDED = "The credential behind this principal token has ended; authenticate again."
_NO_LEASE = "Whether credentials still hold cannot be told until the authn service answers. Try again shortly."


def identity_name(issuer: str, subject: str) -> str:
    """The name under which everything ends that proves an identity."""
    return f"identity:{issuer}:{subject}"


def issuer_name(issuer: str) -> str:
    """The name under which every identity of an issuer ends."""
    return f"issuer:{issuer}"


def signing_key_name(key_id: str) -> str:
    """The name under which everything ends that a key of ours signed."""
    return f"{_SIGNING_KEY}{key_id}"


def names(issuer: str, subject: str, credential_id: str, ends_with: Iterable[str] = ()) -> Iterator[str]:
    """Every name under which a principal may end. A credential made from another one is named
    ``<that one>/<own id>`` and ends with it."""
    yield credential_id
    if "/" in credential_id:
        yield credential_id.partition("/")[0]
    yield identity_name(issuer, subject)
    yield issuer_name(issuer)
    yield from ends_with


class Revocations:
    """The ends that a lease has reported, by name."""

    def __init__(self, clock: Clock | None = None) -> None:
        self._clock = clock or SystemClock()
        self._ended: dict[str, tuple[int, float]] = {}
        self._reset = 0
        # Never forgotten: a withdrawal is rare, and the key is in the wrong hands for good.
        self._withdrawn: set[str] = set()
        self.complete_since: float | None = None
        """Since when every withdrawal is known, monotonic; ``None`` before the first answer."""

    def __len__(self) -> int:
        return len(self._ended)

    def apply(self, response: authn_pb2.WatchRevocationsResponse) -> None:
        """Takes an answer of ``WatchRevocations``."""
        now = self._clock.monotonic()
        if response.reset:
            self._reset = max(self._reset, response.answer.revision)
        if response.reset:
            self.complete_since = now
        elif self.complete_since is None:
            self.complete_since = now - HISTORY
        # An entry without a revision of its own ended at the answer's at the latest.
        for index, name in enumerate(response.ended):
            own = index < len(response.ended_revisions)
            revision = response.ended_revisions[index] if own else response.answer.revision
            known = self._ended.get(name, (0, 0.0))[0]
            self._ended[name] = (max(known, revision), now)
            if name.startswith(_SIGNING_KEY):
                self._withdrawn.add(name)
        for name in [name for name, (_, at) in self._ended.items() if now - at > MEMORY]:
            del self._ended[name]

    def withdrawn(self, key_id: str) -> bool:
        """Whether a signing key was withdrawn."""
        return bool(self._withdrawn) and signing_key_name(key_id) in self._withdrawn

    def ended(self, principal: identity_pb2.Principal, revision: int) -> bool:
        """Whether the credential of a principal that was proven at ``revision`` has ended since."""
        if revision < self._reset:
            return True
        if not self._ended:
            return False
        every = names(principal.issuer, principal.subject, principal.credential_id, principal.ends_with)
        return any(revision < self._ended[name][0] for name in every if name in self._ended)


class RevocationLease:
    """``Revocations`` kept up to date by a lease on authn. Run ``keep`` for as long as it is asked."""

    def __init__(self, authn: Peer, clock: Clock | None = None) -> None:
        self.revocations = Revocations(clock)
        self.lease = Lease(
            authn,
            lambda channel: authn_pb2_grpc.AuthnServiceStub(channel).WatchRevocations,
            authn_pb2.WatchRevocationsRequest,
            self._apply,
            clock,
        )

    def _apply(self, response: Any) -> None:
        self.revocations.apply(response)

    async def keep(self) -> None:
        """Runs until cancelled."""
        await self.lease.keep()

    def problems(self) -> list[str]:
        """Why no principal token is accepted now; empty while the lease holds."""
        return [] if self.lease.fresh() else ["waiting for the authn service: no lease on revocations"]


class LivePrincipalVerifier(PrincipalVerifier):
    """Verifies principal tokens and that their credentials still live."""

    def __init__(self, keys: KeySource, lease: RevocationLease, clock: Clock | None = None) -> None:
        super().__init__(keys, clock)
        self._lease = lease

    async def verify(self, token: str) -> VerifiedPrincipal:
        """The principal that authn vouches for and has not taken back.

        Raises:
            Unauthenticated: as ``PrincipalVerifier``, or the credential has ended, or the key was withdrawn.
            Unavailable: there is no lease, or authn's keys cannot be had.
        """
        known = self._lease.revocations
        while True:
            since = known.complete_since
            verified = await super().verify(token)
            # Asked after whatever was waited for, and right before the answer.
            await self.check_alive(verified)
            if known.complete_since == since:
                return verified

    async def check_alive(self, verified: VerifiedPrincipal) -> None:
        """Returns where the credential of a principal, asked for within the last ``MEMORY`` seconds, still lives.

        Raises:
            Unauthenticated: it has ended, or the key was withdrawn. Unavailable: there is no lease.
        """
        if not self._lease.lease.fresh() and not await self._lease.lease.wait(PATIENCE):
            raise Unavailable(_NO_LEASE)
        known = self._lease.revocations
        if known.withdrawn(verified.key_id) or known.ended(verified.principal, verified.revision):
            raise Unauthenticated(_ENDED)

    async def _key(self, key_id: str) -> Any | None:
        since = self._lease.revocations.complete_since
        return await self._keys.find(key_id, NO_MATTER if since is None else since)
