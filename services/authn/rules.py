"""What an API key may be made of. All problems are told at once."""

import re
from collections.abc import Iterable
from datetime import datetime

from services.authn.model import EVERYWHERE, NamespaceScope, NewApiKey
from services.common.errors import InvalidArgument

MAX_ENTRIES = 100
"""Roles, permissions, namespaces or tools of one key at most."""

_NAME = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._@-]{0,126}[A-Za-z0-9])?")
_ROLE = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,61}[A-Za-z0-9])?")
_PERMISSION = re.compile(r"(?:k8s|kubegate):(?:\*|[a-z0-9][a-z0-9.-]{0,62}:(?:\*|[a-z0-9][a-z0-9-]{0,62}))")
_NAMESPACE = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?|(?:[a-z0-9][a-z0-9-]*)?\*(?:[a-z0-9-]*[a-z0-9])?")
_TOOL = re.compile(r"[a-z][a-z0-9_]{0,62}")
_KEY_ID = re.compile(r"[0-9A-Za-z]{1,32}")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_MAX_NAMESPACE = 64


def is_key_id(text: str) -> bool:
    """Whether a text can be a key's id. Where it cannot, it may be a whole key, and is not recorded."""
    return _KEY_ID.fullmatch(text) is not None


def checked_scope(asked: NewApiKey, now: datetime) -> NamespaceScope:
    """Checks what was asked for and returns the key's namespaces.

    Without direct permissions, a key that names no namespaces is not capped by any. With them, somebody must
    say where they hold (R4). Names with ``:``, control characters or more than 128 characters are refused, and
    with them everything that means something to Kubernetes, such as ``system:masters`` (R2).

    Raises:
        InvalidArgument: lists every problem.
    """
    problems = [
        *_check("identity", [asked.identity], _NAME, "letters, digits and . _ @ -, at most 128 characters"),
        *_check("tenant", [asked.tenant] if asked.tenant else [], _NAME, "letters, digits and . _ @ -"),
        *_check("role", asked.roles, _ROLE, "letters, digits and . _ -"),
        *_check("permission", asked.permissions, _PERMISSION, "k8s:<resource>:<verb>, k8s:<resource>:* or k8s:*"),
        *_check("tool", asked.tools, _TOOL, "a tool's name such as list_pods"),
    ]
    if not asked.roles and not asked.permissions:
        problems.append("a key needs at least one role or permission")
    scope = asked.namespaces
    if scope is None:
        if asked.permissions:
            problems.append("direct permissions need namespaces: name them, or say all namespaces (R4)")
    elif scope.all == bool(scope.patterns):
        problems.append("name namespaces, or say all namespaces; not both and not neither")
    else:
        problems += _check("namespace", scope.patterns, _NAMESPACE, "a name, or a pattern such as feature-*")
        problems += [f"namespace {text[:40]!r}... is too long" for text in scope.patterns if len(text) > _MAX_NAMESPACE]
    if asked.certificate_sha256 and not _SHA256.fullmatch(asked.certificate_sha256):
        problems.append("certificate_sha256 must be 64 hexadecimal digits: the SHA-256 of the certificate's DER")
    if asked.expires_at is not None and asked.expires_at <= now:
        problems.append("expires_at lies in the past")
    if problems:
        raise InvalidArgument("The key cannot be made: " + "; ".join(problems) + ".")
    return scope if scope is not None else EVERYWHERE


def _check(what: str, values: Iterable[str], form: re.Pattern[str], expected: str) -> list[str]:
    entries = list(values)
    problems = [f"{what} {text[:64]!r} must be {expected}" for text in entries if not form.fullmatch(text)]
    if len(entries) > MAX_ENTRIES:
        return [f"more than {MAX_ENTRIES} entries of {what}"]
    if len(set(entries)) != len(entries):
        problems.append(f"a {what} is named twice")
    return problems
