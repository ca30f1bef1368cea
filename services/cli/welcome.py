"""What `kubegate up` says when everything is ready: what lies where, what to paste, what to try."""

import json
import shlex
from typing import Any

from services.cli.home import HomeLayout

CREDENTIALS = ("admin.key", "viewer.key", "admin.password")


def welcome(layout: HomeLayout, endpoints: dict[str, Any]) -> str:
    """The text for standard output. Credentials are shown by place, never by value."""
    base, ca, credentials = endpoints["base_url"], endpoints["ca_file"], layout.credentials
    quoted_ca, admin, viewer = (
        shlex.quote(str(path)) for path in (ca, credentials / "admin.key", credentials / "viewer.key")
    )
    client = {
        "mcpServers": {
            "kubegate": {
                "type": "http",
                "url": endpoints["mcp_url"],
                "headers": {"Authorization": "Bearer ${KUBEGATE_KEY}"},
            }
        }
    }
    embedded = endpoints["kubeconfig"] == str(layout.cluster_kubeconfig)
    there = [name for name in CREDENTIALS if (credentials / name).exists()]
    lost = [name for name in CREDENTIALS if name not in there]
    warning = "" if not lost else f"\n               {', '.join(lost)} lost: make another with `kubegate keys create`"
    curl = f"curl --cacert {quoted_ca} -H"
    return f"""
kubegate is ready.

  MCP URL      {endpoints["mcp_url"]}
  CA           {ca}
  credentials  {credentials}/  {", ".join(there)} (user "admin"){warning}
  audit log    {endpoints["audit_log"]}
  cluster      {"embedded development cluster (in memory)" if embedded else "the one of the kubeconfig"}
  kubeconfig   {endpoints["kubeconfig"]}
{"" if embedded else _REAL_CLUSTER.format(home=shlex.quote(str(layout.root)))}
MCP client configuration (export NODE_EXTRA_CA_CERTS={quoted_ca} KUBEGATE_KEY=$(cat {viewer})):

{json.dumps(client, indent=2)}

Try:

  {curl} "Authorization: Bearer $(cat {viewer})" -X POST {base}/mcp/tools/list_pods -d '{{"namespace":"default"}}'
{_tries(curl, base, admin, viewer, embedded=embedded)}
"""


_REAL_CLUSTER = """
The cluster decides too, as the caller: give it the roles of the policy once, and again when they change:
  kubegate cluster rbac --home {home} | kubectl apply -f -
"""


def _tries(curl: str, base: str, admin: str, viewer: str, *, embedded: bool) -> str:
    # On a cluster that is somebody's, nothing that changes it is suggested.
    tool, arguments = (
        ("scale_deployment", '{"name":"nginx","namespace":"default","replicas":3}')
        if embedded
        else ("list_pods", '{"namespace":"default"}')
    )
    return "\n".join(
        f"""  {curl} "Authorization: Bearer $(cat {key})" -X POST {base}/mcp/tools/{tool} -d '{arguments}'"""
        for key in (admin, viewer)
    )
