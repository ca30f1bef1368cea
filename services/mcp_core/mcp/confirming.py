"""Confirmations in MCP's words (R16): how the client of a request can be asked, the question, and its answer."""

from __future__ import annotations

from collections.abc import Mapping

import mcp_types as types

from services.mcp_core.confirmation import Asking, ConfirmationNeeded, Way
from services.mcp_core.errors import InputRequired
from services.mcp_core.model import Dialogue
from services.mcp_core.tools.base import Change, Plan

KEY = "kubegate.confirm"
"""Of the question among the requests of a round."""

SHOWN = 10
"""Changes that a question names."""

LONGEST = 200
"""Characters of a value that a question shows."""

_SCHEMA = {
    "type": "object",
    "properties": {"confirm": {"type": "boolean", "title": "Do it", "description": "Whether this is to be done."}},
    "required": ["confirm"],
}


def asking_of(dialogue: Dialogue, capabilities: types.ClientCapabilities | None) -> Asking:
    """How a client of 2026 can be asked, and what it answered. A question is a form: URLs are nothing we send."""
    elicitation = capabilities.elicitation if capabilities is not None else None
    if "elicitation" not in dialogue.can or elicitation is None or (elicitation.url and not elicitation.form):
        return Asking()
    answer = dialogue.answers.get(KEY)
    if answer is None:
        return Asking(Way.STATE)
    return Asking(Way.STATE, dialogue.state or "none", accepted=accepts(answer))


def accepts(answer: object) -> bool:
    """Whether an answer to the question is a yes."""
    if not isinstance(answer, Mapping) or answer.get("action") != "accept":
        return False
    content = answer.get("content")
    return isinstance(content, Mapping) and content.get("confirm") is True


def asking_older(can: frozenset[str]) -> Asking:
    """How a client of 2025 can be asked, by what it said that it can."""
    return Asking(Way.ELICIT) if "elicitation" in can else Asking()


def round_trip(needed: ConfirmationNeeded) -> InputRequired:
    """The question as a round of MCP 2026."""
    params = {"mode": "form", **question_params(needed.plan)}
    return InputRequired(needed.public_message, {KEY: {"method": "elicitation/create", "params": params}}, needed.token)


def question_params(plan: Plan) -> dict[str, object]:
    """The parameters of `elicitation/create`: a form, as every revision that knows elicitation has it."""
    return {"message": question(plan), "requestedSchema": _SCHEMA}


def handle(needed: ConfirmationNeeded) -> str:
    """What a client reads that may confirm for itself."""
    return (
        f"{needed.public_message} Ask your user. If it is to be done, call again with the same arguments and "
        f"`confirm`: {needed.token}"
    )


def question(plan: Plan) -> str:
    """What a person reads: the plan, and the first of the changes. Text from the cluster is bounded and on one line."""
    lines = [plan.summary, *(_line(change) for change in plan.changes[:SHOWN])]
    if len(plan.changes) > SHOWN:
        lines.append(f"... and {len(plan.changes) - SHOWN} changes more")
    return "\n".join([*lines, *plan.notes[:SHOWN], "Shall this be done?"])


def _line(change: Change) -> str:
    return f"- {change.path}: {_short(change.before)} -> {_short(change.after)}"


def _short(value: object) -> str:
    text = "nothing" if value is None else "".join(each if each.isprintable() else " " for each in str(value))
    return text if len(text) <= LONGEST else text[:LONGEST] + "..."
