"""The clusters of an installation, by name. Where there are several, each call names one; none is ever assumed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from services.common.clock import Clock
from services.mcp_core.catalog import Catalog
from services.mcp_core.errors import ActionDenied
from services.mcp_core.journal import bounded
from services.mcp_core.ports import Cluster
from services.mcp_core.tools.base import Arguments

ARGUMENT = "cluster"
"""Of every tool, where there are several clusters."""


@dataclass(frozen=True, slots=True)
class Target:
    """A cluster with what kinds it has."""

    cluster: Cluster
    catalog: Catalog


class Clusters:
    """Those that the configuration allows."""

    def __init__(self, clusters: Sequence[Cluster], clock: Clock) -> None:
        self._targets = {cluster.name: Target(cluster, Catalog(cluster, clock)) for cluster in clusters}

    def __iter__(self) -> Iterator[Target]:
        return iter(self._targets.values())

    def of(self, arguments: Arguments) -> tuple[Target, Arguments]:
        """The cluster that a call's validated arguments name, and the others of them.

        Raises:
            ActionDenied: they name none that there is.
        """
        if len(self._targets) == 1:
            (target,) = self._targets.values()
            return target, arguments
        name = str(arguments.get(ARGUMENT, ""))
        if name not in self._targets:
            raise ActionDenied(f"There is no cluster {bounded(name, 64)!r} that you may use.")
        return self._targets[name], {key: value for key, value in arguments.items() if key != ARGUMENT}
