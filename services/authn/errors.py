"""Why a credential was refused: one sentence for the caller, a fixed category for the record."""

from enum import StrEnum

from services.authn.model import Principal
from services.common.errors import DomainError, Unauthenticated
from services.common.recorded_changes import code_of

PUBLIC_MESSAGE = "Authentication failed: the credential is not valid."
"""The same for every refusal, so that it never tells which check failed."""


class Reason(StrEnum):
    """Category of a refusal as audit records it. Never carries anything of the credential."""

    MISSING = "missing credential"
    MALFORMED = "malformed credential"
    OVERSIZED = "oversized credential"
    UNKNOWN = "unknown credential"
    MISMATCH = "wrong secret"
    DISABLED = "disabled credential"
    EXPIRED = "expired credential"
    INVALID_TOKEN = "invalid token"
    REVOKED = "revoked token"
    REUSED = "refresh token used twice"
    LOCKED = "locked out"
    SECOND_FACTOR = "wrong or missing second factor"
    CERTIFICATE = "wrong or missing client certificate"


class Rejected(Unauthenticated):
    """A refused credential.

    ``credential_id`` and ``user`` are set only where they name something in the store, for what a stranger
    sent as a name may be a password typed into the wrong field.
    """

    def __init__(self, reason: Reason, auth_type: str, *, credential_id: str = "", user: str = "") -> None:
        super().__init__(PUBLIC_MESSAGE)
        self.reason = reason
        self.auth_type = auth_type
        self.credential_id = credential_id
        self.user = user


class Refused(Exception):
    """What somebody asked for is not given: ``answer`` is for him, the rest for the record. ``who`` is proven; None
    where it was refused before anybody was."""

    def __init__(self, answer: DomainError, who: Principal | None) -> None:
        super().__init__(answer.public_message)
        self.answer = answer
        self.reason = code_of(answer)
        self.auth_type = who.auth_type if who else ""
        self.credential_id = who.credential_id if who else ""
        self.user = who.user if who else ""
