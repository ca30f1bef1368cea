"""Confirmations of MCP clients of 2025: the call is held open, its client asks the person and posts the answer (R16).

This server has no sessions, and replicas know nothing of each other. So what a client said in `initialize`, that it can
elicit, comes back with every request as its session id, sealed and of use for that person only; and the answer, which
may reach another replica, goes through authz to the one that holds the call. Whoever answers is authenticated like
everybody, and must be who was asked.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from typing import Any

import msgspec

from services.common.deadline import Deadline
from services.common.errors import DomainError
from services.common.log import get_logger
from services.mcp_core.confirmation import Asking, ConfirmationNeeded, Way
from services.mcp_core.edge.wire import SECURITY_HEADERS, Message, Request, Response, Send, dump_json
from services.mcp_core.mcp.confirming import accepts, question_params
from services.mcp_core.mcp.exchange import Exchange, sentence
from services.mcp_core.mcp.tools import failed, shown
from services.mcp_core.model import Caller
from services.mcp_core.pipeline import Pipeline
from services.mcp_core.ports import Keeper, Sealer

SESSION = b"mcp-session-id"

WAIT_SECONDS = 45.0
"""How long a person may take: the principal token of the call lives a minute."""

ACT_SECONDS = 30.0
"""What the call has left when it was confirmed."""


log = get_logger("elicitation")


class Elicitations:
    """Keeps nothing: sessions are sealed, questions are authz's."""

    def __init__(self, pipeline: Pipeline, keeper: Keeper, sealer: Sealer) -> None:
        self._pipeline = pipeline
        self._keeper = keeper
        self._sealer = sealer

    def session(self, caller: Caller, message: Mapping[str, Any]) -> str:
        """The session id for an `initialize` whose client can elicit by form; "" for others."""
        params = message.get("params")
        capabilities = params.get("capabilities") if isinstance(params, dict) else None
        elicitation = capabilities.get("elicitation") if isinstance(capabilities, dict) else None
        if not isinstance(elicitation, dict) or ("url" in elicitation and "form" not in elicitation):
            return ""
        return self._sealer.seal(msgspec.msgpack.encode(_session(caller)))

    def asking(self, request: Request, caller: Caller) -> Asking:
        """How the client of a request can be asked."""
        content = self._sealer.open(request.text(SESSION)) if request.text(SESSION) else None
        known = content is not None and content == msgspec.msgpack.encode(_session(caller))
        return Asking(Way.ELICIT) if known else Asking()

    async def take(self, caller: Caller, message: Mapping[str, Any]) -> None:
        """Takes the answer that a client posts.

        Raises:
            NotFound: nothing was asked of this caller under that id.
        """
        await self._keeper.answer(caller, str(message["id"]), accepted=accepts(message.get("result")))

    async def held(self, exchange: Exchange, message: Mapping[str, Any], needed: ConfirmationNeeded) -> Response:
        """The answer to a tools/call that asks, waits and then makes the call again, confirmed or not."""
        caller = exchange.caller
        key = await self._keeper.ask(caller)

        async def finish() -> Any:
            try:
                accepted = await self._keeper.wait(caller, key, WAIT_SECONDS)
            except DomainError as error:
                log.warning("no answer", request_id=caller.context.request_id, reason=error.public_message)
                accepted = False
            fresh = replace(caller, context=replace(caller.context, deadline=Deadline.after(ACT_SECONDS)))
            params = message["params"]
            asking = Asking(Way.ELICIT, needed.token, accepted=accepted)
            try:
                result = shown(await self._pipeline.call(fresh, params["name"], params.get("arguments") or {}, asking))
            except DomainError as error:
                result = failed(sentence(error, exchange))
            body = result.model_dump(mode="json", by_alias=True, exclude_none=True)
            return {"jsonrpc": "2.0", "id": exchange.number, "result": body}

        question = {
            "jsonrpc": "2.0",
            "id": key,
            "method": "elicitation/create",
            "params": question_params(needed.plan),
        }
        return Held(question, finish)


class Held(Response):
    """A stream of two events: a question, and what came of it."""

    __slots__ = ("_finish", "_question")

    def __init__(self, question: Mapping[str, Any], finish: Callable[[], Awaitable[Any]]) -> None:
        super().__init__(200)
        self._question = question
        self._finish = finish

    async def send(self, send: Send, request_id: str) -> None:
        headers = [
            (b"x-request-id", request_id.encode()),
            (b"content-type", b"text/event-stream"),
            (b"cache-control", b"no-cache, no-transform"),
            (b"x-accel-buffering", b"no"),
            *(pair for pair in SECURITY_HEADERS if pair[0] != b"cache-control"),
        ]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send(_event(self._question, more=True))
        await send(_event(await self._finish(), more=False))


def is_answer(message: Any) -> bool:
    """Whether it is a JSON-RPC response, such as a client posts to a question."""
    if not isinstance(message, dict) or message.get("jsonrpc") != "2.0" or "method" in message:
        return False
    return isinstance(message.get("id"), str) and (("result" in message) != ("error" in message))


def _session(caller: Caller) -> list[str]:
    principal = caller.principal
    return ["session", "elicitation", principal.issuer, principal.subject, principal.tenant, principal.credential_id]


def _event(message: Any, *, more: bool) -> Message:
    return {
        "type": "http.response.body",
        "body": b"event: message\ndata: " + dump_json(message) + b"\n\n",
        "more_body": more,
    }
