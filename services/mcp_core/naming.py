"""Names towards the cluster: what may stand in a path, and as whom the core acts there (R2)."""

from __future__ import annotations

import re

from services.common.errors import PermissionDenied
from services.mcp_core.ports import Impersonation

DNS1123_LABEL = r"^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$"
"""RFC 1123 label, at most 63 characters: namespaces and containers."""

DNS1123_SUBDOMAIN = r"^[a-z0-9]([a-z0-9-]*[a-z0-9])?(\.[a-z0-9]([a-z0-9-]*[a-z0-9])?)*$"
"""RFC 1123 subdomain; the length of 253 is checked beside it: names of most objects."""

MAX_IDENTITY = 512
"""Longest user or group name sent to the cluster, in bytes of UTF-8."""

_SEGMENT = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:-]{0,252}")


def is_path_segment(name: str) -> bool:
    """Whether a name may stand alone between two slashes of an API path.

    Wider than DNS-1123, since RBAC objects have colons; never ".", "..", "%" or "/".
    """
    return _SEGMENT.fullmatch(name) is not None and ".." not in name


def impersonation(issuer: str, subject: str, role: str, request_id: str) -> Impersonation:
    """As whom a principal acts in the cluster: `kubegate:<issuer>:<subject>` in one group (R1, R2).

    role: the role whose grant allowed the action, or "" for direct permissions. Since an issuer may hold
    colons, colons and percent signs of the subject are percent-encoded: the last colon separates, and two
    identities never share a name.

    Raises:
        PermissionDenied: a part is empty, reserved (`system:*`), over-long, or has control characters.
    """
    for what, part in (("issuer", issuer), ("subject", subject)):
        _refuse_unfit(what, part)
    if role:
        _refuse_unfit("role", role)
    escaped = subject.replace("%", "%25").replace(":", "%3A")
    user = f"kubegate:{issuer}:{escaped}"
    group = f"kubegate:role:{role}" if role else "kubegate:direct"
    for what, name in (("identity", user), ("group", group)):
        if len(name.encode()) > MAX_IDENTITY:
            raise PermissionDenied(f"The {what} is longer than {MAX_IDENTITY} bytes; the cluster is not asked.")
    return Impersonation(user=user, groups=(group,), request_id=request_id)


def _refuse_unfit(what: str, part: str) -> None:
    # HTTP trims blanks around a header value, so "bob " would arrive as "bob".
    if not part or not part.isprintable() or part != part.strip():
        raise PermissionDenied(f"The {what} of the caller has characters that the cluster may not be sent.")
    if part.lower().startswith("system:"):
        raise PermissionDenied(f"The {what} of the caller is reserved by Kubernetes (system:*).")
