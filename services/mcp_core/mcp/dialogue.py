"""Asking the client's user: `errors.InputRequired` as MCP's `input_required`, and the answers as a `Dialogue`."""

from __future__ import annotations

from typing import Any

import mcp_types as types
from mcp.server.context import ServerRequestContext
from mcp.shared.exceptions import MCPError

from services.mcp_core.errors import InputRequired
from services.mcp_core.mcp.exchange import Exchange, Needed, sentence
from services.mcp_core.mcp.telling import report
from services.mcp_core.model import Dialogue, Result

CAPABILITY = {"elicitation/create": "elicitation", "sampling/createMessage": "sampling", "roots/list": "roots"}
"""Which capability of the client answers which request of ours."""


def dialogue_of(
    ctx: ServerRequestContext[Any, Any], exchange: Exchange, params: types.InputResponseRequestParams
) -> Dialogue:
    """What the client of this request can be asked, has answered, and wants to hear."""
    can = exchange.can
    capabilities = ctx.session.client_capabilities
    if exchange.modern and capabilities is not None:
        can = frozenset(name for name in CAPABILITY.values() if getattr(capabilities, name, None) is not None)
    answers = {
        key: answer.model_dump(mode="json", by_alias=True, exclude_none=True)
        for key, answer in (params.input_responses or {}).items()
    }

    async def notify(notification: types.ServerNotification) -> None:
        await ctx.session.send_notification(notification, related_request_id=exchange.number)

    told = report(notify, exchange.token, exchange.level) if exchange.streamed else None
    return Dialogue(can, answers, params.request_state or "", told)


def askable(needed: Needed, can: frozenset[str]) -> bool:
    """Whether a client that can be asked so much can be asked this."""
    if not isinstance(needed, InputRequired):
        return "elicitation" in can
    return bool(needed.requests) and all(CAPABILITY[str(each["method"])] in can for each in needed.requests.values())


def ask(needed: InputRequired, exchange: Exchange, can: frozenset[str]) -> types.InputRequiredResult:
    """The round trip that a call asks for.

    Raises:
        MCPError: the client has not declared that it can answer (-32021).
    """
    wanted = {CAPABILITY[str(request["method"])] for request in needed.requests.values()}
    if missing := sorted(wanted - can):
        raise MCPError(
            code=types.MISSING_REQUIRED_CLIENT_CAPABILITY,
            message=sentence(needed, exchange),
            data={"requiredCapabilities": {name: {} for name in missing}},
        )
    exchange.result, exchange.error = Result.FAILURE, needed.public_message
    return types.InputRequiredResult.model_validate(
        {"inputRequests": dict(needed.requests), "requestState": needed.state or None}
    )
