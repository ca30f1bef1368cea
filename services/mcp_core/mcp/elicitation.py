"""What a call asks MCP clients of 2025: it is held open, its client asks the person and posts the answer (R16).

This server has no sessions, and replicas know nothing of each other. So what a client said in `initialize`, what it can
be asked, comes back with every request as its session id, sealed and of use for that person only; and the answer, which
may reach another replica, goes through authz to the one that holds the call. Whoever answers is authenticated like
everybody, and must be who was asked. Every round is the call again, decided and recorded like the first.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import mcp_types as types
import msgspec
from pydantic import BaseModel, ValidationError

from services.common.deadline import Deadline
from services.common.errors import DomainError, InvalidArgument
from services.common.log import get_logger
from services.mcp_core.confirmation import ConfirmationNeeded
from services.mcp_core.edge.wire import Request
from services.mcp_core.errors import InputRequired
from services.mcp_core.json_text import dump_json
from services.mcp_core.mcp.confirming import KEY, accepts, asking_older, question_params
from services.mcp_core.mcp.dialogue import CAPABILITY, askable
from services.mcp_core.mcp.exchange import Exchange, Needed, sentence
from services.mcp_core.mcp.held import Held, Say
from services.mcp_core.mcp.telling import report
from services.mcp_core.mcp.tools import failed, shown
from services.mcp_core.model import Caller, Dialogue
from services.mcp_core.pipeline import Pipeline
from services.mcp_core.ports import Keeper, Said, Sealer

SESSION = b"mcp-session-id"

WAIT_SECONDS = 45.0
"""How long a person may take for all that one call asks."""

HELD_SECONDS = 55.0
"""How long such a call may take in all: its principal token lives a minute, and has to be as good as new then."""

ACT_SECONDS = 30.0
"""What the call has left when it was answered, at most."""

ROUNDS = 4
"""How often one call may ask."""

LONGEST = 8192
"""Bytes of an answer, as authz has it."""

ANSWERS: Mapping[str, type[BaseModel]] = {
    "elicitation/create": types.ElicitResult,
    "sampling/createMessage": types.CreateMessageResult,
    "roots/list": types.ListRootsResult,
}
"""The shape of an answer, by what was asked."""

log = get_logger("elicitation")


class Elicitations:
    """Keeps nothing: sessions are sealed, questions are authz's."""

    def __init__(self, pipeline: Pipeline, keeper: Keeper, sealer: Sealer) -> None:
        self._pipeline = pipeline
        self._keeper = keeper
        self._sealer = sealer

    def session(self, caller: Caller, message: Mapping[str, Any]) -> str:
        """The session id for an `initialize` whose client can be asked something; "" for others."""
        params = message.get("params")
        capabilities = params.get("capabilities") if isinstance(params, dict) else None
        if not isinstance(capabilities, dict):
            return ""
        can = {name for name in CAPABILITY.values() if isinstance(capabilities.get(name), dict)}
        elicitation = capabilities.get("elicitation")
        if isinstance(elicitation, dict) and "url" in elicitation and "form" not in elicitation:
            can.discard("elicitation")
        return self._sealer.seal(_session(caller, can)) if can else ""

    def can(self, request: Request, caller: Caller) -> frozenset[str]:
        """What the client of a request can be asked, as it said and nobody else."""
        content = self._sealer.open(request.text(SESSION)) if request.text(SESSION) else None
        try:
            said = msgspec.msgpack.decode(content or b"", type=list[str])
        except msgspec.DecodeError:
            return frozenset()
        known = frozenset(said[1].split()) if len(said) > 1 else frozenset[str]()
        return known if content == _session(caller, known) else frozenset()

    async def take(self, caller: Caller, message: Mapping[str, Any]) -> None:
        """Takes the answer that a client posts.

        Raises:
            InvalidArgument: it is too long. NotFound: nothing was asked of this caller under that id.
        """
        result = message.get("result")
        content = dump_json(result) if isinstance(result, dict) else b""
        if len(content) > LONGEST:
            raise InvalidArgument(f"An answer has {LONGEST} bytes at most; answer again, shorter.")
        await self._keeper.answer(caller, str(message["id"]), Said(accepts(result), content))

    async def held(self, exchange: Exchange, message: Mapping[str, Any], needed: Needed) -> Held:
        """The answer to a tools/call that asks, waits and then makes the call again, whatever was said.

        Raises:
            DomainError: nobody can be asked now.
        """
        asked = _requests(needed)
        key = await self._keeper.ask(exchange.caller)
        first = _question(key, next(iter(asked.values())))

        async def rounds(say: Say) -> None:
            await self._rounds(exchange, message["params"], needed, key, say)

        return Held(first, rounds)

    async def _rounds(self, exchange: Exchange, params: Mapping[str, Any], needed: Needed, key: str, say: Say) -> None:
        """What follows the first question: further ones, how far the call is, and the result."""

        async def notify(notification: types.ServerNotification) -> None:
            await say({"jsonrpc": "2.0", **notification.model_dump(mode="json", by_alias=True, exclude_none=True)})

        told = report(notify, exchange.token, exchange.level) if exchange.streamed else None
        patience, end = Deadline.after(WAIT_SECONDS), Deadline.after(HELD_SECONDS)
        dialogue = Dialogue(exchange.can, report=told)
        asked: set[str] = set()
        result = failed(sentence(needed, exchange))
        for _ in range(ROUNDS):
            asking = asking_older(exchange.can)
            caller = _fresh(exchange.caller, end)
            answers: dict[str, object] = {}
            try:
                for name, request in _requests(needed).items():
                    if not key:
                        key = await self._keeper.ask(caller)
                        await say(_question(key, request))
                    said = await self._said(caller, key, patience)
                    key = ""
                    if isinstance(needed, ConfirmationNeeded):
                        asking = replace(asking, token=needed.token, accepted=said.accepted)
                    else:
                        answers[name] = _answer(request, said, needed)
                if isinstance(needed, InputRequired):
                    dialogue = Dialogue(exchange.can, answers, needed.state, told)
                caller = _fresh(caller, end)
                given = params.get("arguments") or {}
                result = shown(await self._pipeline.call(caller, params["name"], given, asking, dialogue))
                break
            except (ConfirmationNeeded, InputRequired) as error:
                asked |= set(_requests(needed))
                result = failed(sentence(error, exchange))
                if asked & set(_requests(error)) or not askable(error, exchange.can):
                    # Who said no, or nothing that will do, is not asked the same again.
                    break
                needed = error
            except DomainError as error:
                result = failed(sentence(error, exchange))
                break
        body = result.model_dump(mode="json", by_alias=True, exclude_none=True)
        await say({"jsonrpc": "2.0", "id": exchange.number, "result": body})

    async def _said(self, caller: Caller, key: str, patience: Deadline) -> Said:
        try:
            return await self._keeper.wait(caller, key, max(patience.remaining(), 0.0))
        except DomainError as error:
            log.warning("no answer", request_id=caller.context.request_id, reason=error.public_message)
            return Said()


def is_answer(message: Any) -> bool:
    """Whether it is a JSON-RPC response, such as a client posts to a question."""
    if not isinstance(message, dict) or message.get("jsonrpc") != "2.0" or "method" in message:
        return False
    return isinstance(message.get("id"), str) and (("result" in message) != ("error" in message))


def _requests(needed: Needed) -> Mapping[str, Mapping[str, object]]:
    if isinstance(needed, InputRequired):
        return needed.requests
    return {KEY: {"method": "elicitation/create", "params": question_params(needed.plan)}}


def _question(key: str, request: Mapping[str, object]) -> Mapping[str, Any]:
    return {"jsonrpc": "2.0", "id": key, **request}


def _answer(request: Mapping[str, object], said: Said, needed: InputRequired) -> object:
    """The answer, in the shape that the protocol has for it.

    Raises:
        InputRequired: there is none.
    """
    try:
        answer = ANSWERS[str(request["method"])].model_validate_json(said.content)
    except ValidationError:
        raise needed from None
    return answer.model_dump(mode="json", by_alias=True, exclude_none=True)


def _fresh(caller: Caller, end: Deadline) -> Caller:
    deadline = Deadline.after(min(ACT_SECONDS, end.remaining()))
    return replace(caller, context=replace(caller.context, deadline=deadline))


def _session(caller: Caller, can: set[str] | frozenset[str]) -> bytes:
    principal = caller.principal
    person = [principal.issuer, principal.subject, principal.tenant, principal.credential_id]
    return msgspec.msgpack.encode(["session", " ".join(sorted(can)), *person])
