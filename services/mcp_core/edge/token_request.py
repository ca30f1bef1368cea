"""What `POST /auth/token` takes: a user name and password as JSON, or a token exchange (RFC 8693) as a form or JSON."""

from typing import Any
from urllib.parse import parse_qsl

from services.common.errors import InvalidArgument
from services.mcp_core.journal import bounded
from services.mcp_core.model import Grant, PasswordGrant, TokenExchange

EXCHANGE = "urn:ietf:params:oauth:grant-type:token-exchange"
"""`grant_type` of RFC 8693, 2.1."""

_PASSWORD = ("username", "password", "otp")
_TOKENS = ("subject_token", "actor_token")
_TEXTS = ("subject_token_type", "actor_token_type", "scope", "requested_token_type")
_MANY = ("audience", "resource")
MAX_TOKEN, MAX_TEXT, MAX_MANY = 8 * 1024, 1024, 8
"""Characters of a token and of any other text, and entries of a field that may be there more than once."""


def form(body: bytes) -> dict[str, Any]:
    """The fields of a form (RFC 6749, 4.5).

    Raises:
        InvalidArgument: it is malformed, or names a field twice that is there once.
    """
    try:
        pairs = parse_qsl(
            body.decode("ascii"), keep_blank_values=True, strict_parsing=True, errors="strict", max_num_fields=32
        )
    except ValueError:
        raise InvalidArgument("Send the arguments as one JSON object, or as a form in UTF-8.") from None
    fields: dict[str, Any] = {}
    for name, value in pairs:
        if name in _MANY:
            fields.setdefault(name, []).append(value)
        elif name in fields:
            raise InvalidArgument(f"Field {bounded(name, 64)!r} is there twice.")
        else:
            fields[name] = value
    return fields


def grant(fields: dict[str, Any]) -> Grant:
    """What is asked for.

    Raises:
        InvalidArgument: says which field is wrong, and why.
    """
    if "grant_type" in fields or "subject_token" in fields:
        return _exchange(fields)
    unknown = sorted(set(fields) - set(_PASSWORD))
    if unknown:
        raise InvalidArgument(
            f"Unknown field {bounded(unknown[0], 64)!r}; send username, password and, if you have one, otp."
        )
    for key in _PASSWORD:
        value = fields.get(key, "")
        if not _is_text(value, MAX_TEXT) or (key != "otp" and not value):
            raise InvalidArgument(f"Field `{key}` must be a text of 1 to {MAX_TEXT} characters.")
    return PasswordGrant(fields["username"], fields["password"], fields.get("otp", ""))


def _exchange(fields: dict[str, Any]) -> TokenExchange:
    if fields.get("grant_type") != EXCHANGE:
        raise InvalidArgument(f"`grant_type` may be {EXCHANGE}; for a password, send username and password without it.")
    unknown = sorted(set(fields) - {"grant_type", *_TOKENS, *_TEXTS, *_MANY})
    if unknown:
        raise InvalidArgument(f"Unknown field {bounded(unknown[0], 64)!r}; a token exchange has those of RFC 8693.")
    for key in (*_TOKENS, *_TEXTS):
        limit = MAX_TOKEN if key in _TOKENS else MAX_TEXT
        if not _is_text(fields.get(key, ""), limit):
            raise InvalidArgument(f"Field `{key}` must be a text of at most {limit} characters.")
    texts: dict[str, str] = {key: fields.get(key, "") for key in (*_TOKENS, *_TEXTS)}
    return TokenExchange(**texts, audience=_few(fields, "audience"), resource=_few(fields, "resource"))


def _few(fields: dict[str, Any], key: str) -> tuple[str, ...]:
    value = fields.get(key, [])
    found = tuple(value) if isinstance(value, list) else (value,)
    if len(found) > MAX_MANY or not all(_is_text(each, MAX_TEXT) for each in found):
        raise InvalidArgument(f"Field `{key}` must be a text of at most {MAX_TEXT} characters, or a few of them.")
    return found


def _is_text(value: Any, limit: int) -> bool:
    """Whether it is a text for which UTF-8 has a form: JSON may escape half of a surrogate pair."""
    if not isinstance(value, str) or len(value) > limit:
        return False
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True
