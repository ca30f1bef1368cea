"""What an API key or a user may be made of. All problems are told at once."""

import re
from collections.abc import Iterable
from dataclasses import replace
from datetime import datetime

from services.authn.model import EVERYWHERE, NamespaceScope, NewApiKey, NewUser, Secret, TrustedIssuer
from services.common.errors import InvalidArgument
from services.common.identity import OWN_ISSUER

MAX_ENTRIES = 100
"""Roles, permissions, namespaces or tools of one key at most."""

MAX_TEXT = 2000
"""Characters of all entries of one list together, so that the record holds each list whole."""

ASYMMETRIC = ("EdDSA", "ES256", "RS256")
SYMMETRIC = ("HS256",)
"""Algorithms of issuers with public keys, and of those with a secret: never both of one issuer."""

MAX_PEM = 64 * 1024

# RFC 6749, section 3.3.
_SCOPE = re.compile(r"[!#-\[\]-~]{1,128}")

_HTTPS = re.compile(r"https://[^\s/?#@]+(/[^\s?#]*)?")

MAX_REASON = 200
REASON_WANTED = f"Say why, for the record: 3 to {MAX_REASON} printable characters."

MIN_PASSWORD = 12
MAX_PASSWORD = 1024
"""Characters of a password."""

_NAME = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._@-]{0,126}[A-Za-z0-9])?")
_ROLE = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,61}[A-Za-z0-9])?")
_PERMISSION = re.compile(r"(?:k8s|kubegate):(?:\*|[a-z0-9][a-z0-9.-]{0,62}:(?:\*|[a-z0-9][a-z0-9-]{0,62}))")
_NAMESPACE = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?|(?:[a-z0-9][a-z0-9-]*)?\*(?:[a-z0-9-]*[a-z0-9])?")
_TOOL = re.compile(r"[a-z][a-z0-9_]{0,62}")
_KEY_ID = re.compile(r"[0-9A-Za-z]{1,32}")
_THUMBPRINT = re.compile(r"[0-9A-Za-z_-]{43}")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_MAX_NAMESPACE = 64


def is_key_id(text: str) -> bool:
    """Whether a text can be a key's id. Where it cannot, it may be a whole key, and is not recorded."""
    return _KEY_ID.fullmatch(text) is not None


def is_signing_key_id(text: str) -> bool:
    """Whether a text can be a signing key's id, an RFC 7638 thumbprint."""
    return _THUMBPRINT.fullmatch(text) is not None


def is_reason(text: str) -> bool:
    """Whether a text can stand in the record as the reason of an act."""
    return len(text.strip()) >= 3 and len(text) <= MAX_REASON and text.isprintable()


def is_role(text: str) -> bool:
    """Whether a text can be a role of the policy."""
    return _ROLE.fullmatch(text) is not None


def is_permission(text: str) -> bool:
    """Whether a text can be a permission."""
    return _PERMISSION.fullmatch(text) is not None


def is_scope(text: str) -> bool:
    """Whether a text can be a scope."""
    return _SCOPE.fullmatch(text) is not None


def checked_issuer(issuer: TrustedIssuer, own: str) -> TrustedIssuer:
    """The issuer, with what is left out filled in. ``own``: the issuer of our own access tokens.

    Raises:
        InvalidArgument: lists every problem.
    """
    problems = []
    if not _HTTPS.fullmatch(issuer.issuer) and issuer.secret is None:
        problems.append("issuer must be an https URL")
    if issuer.issuer in (own, OWN_ISSUER):
        problems.append("issuer is our own; tokens of ours are accepted as they are")
    if not issuer.audience:
        problems.append("audience must say whom its tokens are for; a token for anybody is accepted nowhere")
    if issuer.jwks_uri and not _HTTPS.fullmatch(issuer.jwks_uri):
        problems.append("jwks_uri must be an https URL")
    allowed = SYMMETRIC if issuer.secret is not None else ASYMMETRIC
    algorithms = issuer.algorithms or allowed
    unknown = sorted(set(algorithms) - set(allowed))
    if unknown:
        problems.append(f"algorithms may be {', '.join(allowed)}, not {', '.join(unknown)}")
    roles = [*issuer.role_map.values(), *issuer.scope_map.values(), *issuer.default_roles]
    problems += [f"role {text[:64]!r} must be letters, digits and . _ -" for text in roles if not is_role(text)]
    scopes = [*issuer.scope_map, *issuer.initial_scopes]
    bad = [text for text in scopes if not is_scope(text)]
    problems += [f"scope {text[:64]!r} must be printable, without blanks and quotes" for text in bad]
    strange = sorted(set(issuer.initial_scopes) - set(issuer.scope_map))
    if strange:
        problems.append(f"initial scopes must be mapped to a role: {', '.join(strange)[:200]}")
    if issuer.tenant and not _NAME.fullmatch(issuer.tenant):
        problems.append("tenant must be letters, digits and . _ @ -")
    if issuer.tenant and issuer.tenant_claim:
        problems.append("name a tenant or a tenant_claim, not both")
    if len(issuer.ca_pem) > MAX_PEM or max(len(issuer.role_map), len(issuer.scope_map)) > MAX_ENTRIES:
        problems.append("ca_pem, role_map or scope_map is too long")
    if problems:
        raise InvalidArgument("The issuer cannot be trusted: " + "; ".join(problems) + ".")
    types = issuer.token_types or (("", "jwt") if issuer.kubernetes else ("at+jwt",))
    return replace(
        issuer,
        algorithms=algorithms,
        token_types=tuple(text.lower().removeprefix("application/") for text in types),
        subject_claim=issuer.subject_claim or "sub",
        scope_claim=issuer.scope_claim or "scope",
    )


def is_user_name(text: str) -> bool:
    """Whether a text can be a user's name. Where it cannot, it may be a password, and is not recorded."""
    return _NAME.fullmatch(text) is not None


def checked_user(asked: NewUser) -> NamespaceScope:
    """As ``checked_scope``, for a user.

    Raises:
        InvalidArgument: lists every problem.
    """
    grants = NewApiKey(asked.name, asked.roles, asked.permissions, asked.namespaces, (), asked.tenant)
    problems, scope = _problems(grants, "a user")
    if asked.password is not None:
        problems += password_problems(asked.password, asked.name)
    if problems:
        raise InvalidArgument("The user cannot be made: " + "; ".join(problems) + ".")
    return scope


def password_problems(password: Secret, name: str) -> list[str]:
    """What is wrong with a password (NIST SP 800-63B, 5.1.1.2: length matters, composition does not)."""
    if not MIN_PASSWORD <= len(password) <= MAX_PASSWORD:
        return [f"a password has {MIN_PASSWORD} to {MAX_PASSWORD} characters"]
    if name.lower() in password.reveal().lower() and len(password) - len(name) < MIN_PASSWORD:
        return ["the password is little more than the user's name"]
    return []


def checked_scope(asked: NewApiKey, now: datetime) -> NamespaceScope:
    """Checks what was asked for and returns the key's namespaces.

    Without direct permissions, a key that names no namespaces is not capped by any. With them, somebody must
    say where they hold (R4). Names with ``:``, control characters or more than 128 characters are refused, and
    with them everything that means something to Kubernetes, such as ``system:masters`` (R2).

    Raises:
        InvalidArgument: lists every problem.
    """
    problems, scope = _problems(asked, "a key")
    if asked.certificate_sha256 and not _SHA256.fullmatch(asked.certificate_sha256):
        problems.append("certificate_sha256 must be 64 hexadecimal digits: the SHA-256 of the certificate's DER")
    if asked.expires_at is not None and asked.expires_at <= now:
        problems.append("expires_at lies in the past")
    if problems:
        raise InvalidArgument("The key cannot be made: " + "; ".join(problems) + ".")
    return scope


def _problems(asked: NewApiKey, what: str) -> tuple[list[str], NamespaceScope]:
    problems = [
        *_check("identity", [asked.identity], _NAME, "letters, digits and . _ @ -, at most 128 characters"),
        *_check("tenant", [asked.tenant] if asked.tenant else [], _NAME, "letters, digits and . _ @ -"),
        *_check("role", asked.roles, _ROLE, "letters, digits and . _ -"),
        *_check("permission", asked.permissions, _PERMISSION, "k8s:<resource>:<verb>, k8s:<resource>:* or k8s:*"),
        *_check("tool", asked.tools, _TOOL, "a tool's name such as list_pods"),
    ]
    if not asked.roles and not asked.permissions:
        problems.append(f"{what} needs at least one role or permission")
    scope = asked.namespaces
    if scope is None:
        if asked.permissions:
            problems.append("direct permissions need namespaces: name them, or say all namespaces (R4)")
    elif scope.all == bool(scope.patterns):
        problems.append("name namespaces, or say all namespaces; not both and not neither")
    else:
        problems += _check("namespace", scope.patterns, _NAMESPACE, "a name, or a pattern such as feature-*")
        problems += [f"namespace {text[:40]!r}... is too long" for text in scope.patterns if len(text) > _MAX_NAMESPACE]
    return problems, scope if scope is not None else EVERYWHERE


def _check(what: str, values: Iterable[str], form: re.Pattern[str], expected: str) -> list[str]:
    entries = list(values)
    problems = [f"{what} {text[:64]!r} must be {expected}" for text in entries if not form.fullmatch(text)]
    if len(entries) > MAX_ENTRIES:
        return [f"more than {MAX_ENTRIES} entries of {what}"]
    if sum(map(len, entries)) + len(entries) > MAX_TEXT:
        return [f"the entries of {what} are longer than {MAX_TEXT} characters together"]
    if len(set(entries)) != len(entries):
        problems.append(f"a {what} is named twice")
    return problems
