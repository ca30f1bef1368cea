"""What a client carries between the rounds of a call: sealed, for the same person, tool and arguments only.

The SDK's boundary encrypts it (AES-256-GCM) with an expiry and a digest of the request, under keys that replicas share.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from mcp.server.context import ServerRequestContext
from mcp.server.request_state import RequestStateBoundary, RequestStateSecurity

from services.mcp_core.mcp.exchange import exchange_of

SECONDS = 600.0
"""How long a person may take to answer."""


def boundary(keys: Sequence[bytes], audience: str) -> RequestStateBoundary:
    """The middleware that seals and opens; the first key seals, each opens. ``audience``: this installation."""
    security = RequestStateSecurity(keys=list(keys), ttl=SECONDS, bind_principal=_principal)
    return RequestStateBoundary(security, default_audience=audience)


def _principal(ctx: ServerRequestContext[Any, Any]) -> str:
    """The person and the credential: who answers is who was asked (R1, R16)."""
    principal = exchange_of(ctx).caller.principal
    return json.dumps([principal.issuer, principal.subject, principal.tenant, principal.credential_id])
