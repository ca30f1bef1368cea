"""The tools over a cluster, with everything granted by policy: what is left to refuse is the cluster's."""

from typing import Any

from services.common.clock import SystemClock
from services.mcp_core import tools
from services.mcp_core.adapters.kubernetes import KubernetesCluster
from services.mcp_core.catalog import Catalog
from services.mcp_core.tools import REGISTRY
from services.mcp_core.tools.base import Invocation
from tests.contract.kube import caller, soon


class Rig:
    """The cluster with its catalogue."""

    def __init__(self, cluster: KubernetesCluster) -> None:
        self.cluster = cluster
        self.catalog = Catalog(cluster, SystemClock())

    async def call(self, tool: str, role: str = "admin", **arguments: Any) -> dict[str, Any]:
        row = REGISTRY[tool]
        validated = tools.validate(row, arguments)
        kind = await self.catalog.find(validated["kind"], soon()) if row.any_kind else None
        granted = frozenset(str(need.permission) for need in row.needs(validated))
        result = await row.run(
            Invocation(
                validated,
                (validated.get("namespace", ""),),
                self.cluster.session(caller(role), soon()),
                kind,
                granted,
            )
        )
        tools.check_output(row, result)
        return result
