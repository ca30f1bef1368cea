"""Which scopes somebody who was denied may ask for (RFC 6750, section 3.1; MCP authorization, scope challenges).

All that a call lacks is named at once, and only what would help: authn says which scopes the token's issuer has
beyond those of the token, authz which of their roles would allow what was denied. Where a part of the call would be
denied with every one of them, nothing is named, for a client would send its user to consent for nothing.
"""

from __future__ import annotations

from collections.abc import Sequence

from services.common.errors import DomainError
from services.common.log import get_logger
from services.mcp_core.model import Action, Caller
from services.mcp_core.ports import Authorizer

log = get_logger("step_up")


async def missing_scopes(authorizer: Authorizer, caller: Caller, actions: Sequence[Action]) -> tuple[str, ...]:
    """The scopes for a call that consists of these actions; empty where none would help, or nobody knows."""
    if not caller.obtainable:
        return ()
    by_role = {role: scope for scope, role in sorted(caller.obtainable, reverse=True)}
    try:
        suggestions = await authorizer.suggest_roles(caller, actions, tuple(by_role))
    except DomainError as error:
        # The denial stands without it.
        log.warning("no scopes named", request_id=caller.context.request_id, reason=error.public_message)
        return ()
    chosen: list[str] = []
    for suggestion in suggestions:
        usable = [role for role in suggestion.roles if role in by_role]
        if suggestion.allowed or not set(usable).isdisjoint(chosen):
            continue
        if not usable:
            return ()
        chosen.append(usable[0])
    return tuple(sorted(by_role[role] for role in chosen))
