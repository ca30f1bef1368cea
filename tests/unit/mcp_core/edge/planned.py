"""A world whose tool `change` looks ahead."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from services.mcp_core.confirmation import Asking
from services.mcp_core.model import ToolAnswer
from services.mcp_core.pipeline import NOT_AT_ALL
from services.mcp_core.tools.base import ConfirmableArguments, Invocation, Plan, name_argument
from tests.unit.mcp_core.edge.fakes import ALICE, World


class Arguments(ConfirmableArguments, forbid_unknown_fields=True, frozen=True):
    """Arguments of the planned change."""

    name: str
    namespace: str


CALL = {"name": "web", "namespace": "default"}


class Planned:
    """A world whose tool `change` looks ahead; `plan` is what it sees."""

    def __init__(self, plan: Plan | Exception) -> None:
        self.world = World()
        self.plan = plan
        self.prepared: list[Invocation] = []
        self.world.registry["change"] = replace(
            self.world.registry["change"], arguments=Arguments, prepare=self._prepare, resource_name=name_argument
        )

    async def _prepare(self, invocation: Invocation) -> Plan:
        self.world.log.append("prepare")
        self.prepared.append(invocation)
        if isinstance(self.plan, Exception):
            raise self.plan
        return self.plan

    async def call(
        self, credential: str = ALICE, asking: Asking = NOT_AT_ALL, tool: str = "change", **arguments: Any
    ) -> ToolAnswer:
        caller = await self.world.caller(credential)
        return await self.world.pipeline.call(caller, tool, {**CALL, **arguments}, asking)
