"""Values that are named secret never reach the record: a keyed HMAC stands in their place.

The same value under the same key gives the same text, so that a record still shows that two events used the
same one; without the key it cannot be tried against a list of guesses. ``hmac-sha256:<key id>:<32 hex digits>``.
"""

import hmac
import re
from collections.abc import Mapping
from functools import lru_cache
from hashlib import sha256
from typing import Any

# As a part of the name, in snake_case, kebab-case or camelCase. Ids and counts of secrets are no secrets.
_NAMED = re.compile(
    r"(passw(or)?d|passphrase|(?<![a-z])pwd|secret|token|credential|authorization|cookie|(?<![a-z])(otp|jwt|bearer|seed)"
    r"|(api|private|access|signing|encryption|ssh|master|shared)[_.\-/]?key)s?"
    r"([_.\-/]?(value|text|plain|raw|old|new|hash|header|[0-9]+))?$",
    re.IGNORECASE,
)
_HINTS = ("pass", "pwd", "secret", "token", "cred", "key", "auth", "cookie", "otp", "jwt", "bearer", "seed")


class Masker:
    """Masks with one key. Its id, the first digits of its hash under a label, tells which key was used."""

    def __init__(self, key: bytes) -> None:
        self._key = key
        self._id = sha256(b"kubegate audit mask key id\n" + key).hexdigest()[:8]

    def mask(self, fields: dict[str, Any]) -> dict[str, Any]:
        """The fields with the values of secret-named metadata masked."""
        metadata: Mapping[str, str] = fields["metadata"]
        named = [name for name in metadata if is_secret(name)]
        if not named:
            return fields
        return {**fields, "metadata": {**metadata, **{name: self._masked(metadata[name]) for name in named}}}

    def _masked(self, value: str) -> str:
        if not value:
            return value
        digest = hmac.new(self._key, value.encode(), sha256).hexdigest()[:32]
        return f"hmac-sha256:{self._id}:{digest}"


@lru_cache(4096)
def is_secret(name: str) -> bool:
    """Whether a value under this name is a secret."""
    lower = name.lower()
    return any(hint in lower for hint in _HINTS) and _NAMED.search(name) is not None
