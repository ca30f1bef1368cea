"""What authz said, as the record shows it; with a denial, also which scopes would help."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from services.mcp_core.journal import Entry
from services.mcp_core.model import Action, Allowed, DecisionNote
from services.mcp_core.placement import Denial, Placement
from services.mcp_core.ports import Authorizer
from services.mcp_core.step_up import missing_scopes


@asynccontextmanager
async def denials(authorizer: Authorizer, entry: Entry, actions: Sequence[Action]) -> AsyncIterator[None]:
    """Writes a denial of authz into the entry, and into the denial which scopes would help. ``actions``: what the call
    cannot do without, the first of them what it is about."""
    try:
        yield
    except Denial as denial:
        said, permission = denial.decision, str(actions[0].permission)
        entry.decision = DecisionNote(False, said.reason, said.revision, said.missing_permission or permission)
        entry.metadata["authz_event_id"] = said.event_id
        denial.scopes = await missing_scopes(authorizer, entry.caller, actions)
        entry.metadata["missing_scopes"] = " ".join(denial.scopes)
        raise


def write_decision(entry: Entry, placement: Placement) -> None:
    """Writes what authz allowed into the entry."""
    said = placement.decisions
    rules = sorted({decision.rule for decision in said if isinstance(decision, Allowed)})
    entry.decision = DecisionNote(True, ",".join(rules), said[0].revision, str(placement.action.permission))
    entry.metadata["authz_event_id"] = ",".join(decision.event_id for decision in said[:8])
    if any(isinstance(decision, Allowed) and decision.cached for decision in said):
        entry.metadata["cached"] = "true"
    if placement.namespaces != (entry.namespace,):
        entry.metadata["namespaces"] = ",".join(placement.namespaces)
