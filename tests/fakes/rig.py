"""The tools over a cluster, with everything granted by policy: what is left to refuse is the cluster's."""

from dataclasses import replace
from typing import Any

from services.common.clock import SystemClock
from services.mcp_core import tools
from services.mcp_core.adapters.kubernetes import KubernetesCluster
from services.mcp_core.catalog import Catalog
from services.mcp_core.tools import REGISTRY
from services.mcp_core.tools.base import NO_PLAN, Invocation, Plan
from tests.contract.kube import caller, soon


class Rig:
    """The cluster with its catalogue."""

    def __init__(self, cluster: KubernetesCluster) -> None:
        self.cluster = cluster
        self.catalog = Catalog(cluster, SystemClock())

    async def look(
        self, tool: str, role: str = "admin", namespaces: Any = None, **arguments: Any
    ) -> tuple[Invocation, Plan]:
        """What a tool sees before it acts, as the pipeline asks it. namespaces: that were decided."""
        row = REGISTRY[tool]
        controls, validated = tools.split_controls(tools.validate(row, arguments))
        kind = await self.catalog.find(validated["kind"], soon()) if row.any_kind else None
        granted = frozenset(str(need.permission) for need in row.needs(validated))
        invocation = Invocation(
            validated,
            namespaces if namespaces is not None else (validated.get("namespace", ""),),
            self.cluster.session(caller(role), soon()),
            kind,
            granted,
            deadline=soon(),
            dry_run=controls.dry_run,
        )
        return invocation, await row.prepare(invocation) if row.prepare is not None else NO_PLAN

    async def call(self, tool: str, role: str = "admin", namespaces: Any = None, **arguments: Any) -> dict[str, Any]:
        """A whole call, confirmed if it has to be."""
        invocation, plan = await self.look(tool, role, namespaces, **arguments)
        if invocation.dry_run:
            return dict(tools.preview_of(plan).structured)
        row = REGISTRY[tool]
        result = await row.run(replace(invocation, plan=plan))
        tools.check_output(row, result)
        return result
