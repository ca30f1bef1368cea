"""`kubegate up | down | status | restart`: a whole stack on this machine."""

import asyncio
import json
import shlex
import signal
import socket
import sys
import time
from pathlib import Path
from typing import Annotated, Any

import typer
import yaml
from rich.console import Console

from kubegate.authn.v1 import authn_pb2, authn_pb2_grpc
from services.authz.policy import PolicyError, load_policy
from services.cli import supervisor
from services.cli.cluster_rbac import cluster_rbac
from services.cli.home import CLUSTER, EMBEDDED_KINDS, EMBEDDED_NAMESPACES, LOOPBACK, HomeLayout, free_port, prepare
from services.cli.options import DEFAULT_HOME, Home, Json
from services.cli.output import MISUSE, NEGATIVE, emit_json, emit_table, fail, run
from services.cli.pki import write_private
from services.cli.stack import Stack
from services.common.deadline import Deadline
from services.common.errors import DomainError
from services.common.runtime_errors import StartupError

DEFAULT_PORT = 8443
READY_PATIENCE = 60.0
"""Seconds until every service must be ready."""

CLUSTER_PATIENCE = 5.0
"""Seconds for which a cluster may be out of reach while everything else is ready."""

progress = Console(stderr=True, highlight=False)


def up(
    home: Home = DEFAULT_HOME,
    detach: Annotated[bool, typer.Option("--detach", help="Return when ready; stop with `kubegate down`.")] = False,
    kubeconfig: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Operate this cluster instead of the embedded one.")
    ] = None,
    port: Annotated[int, typer.Option(metavar="N", help="HTTPS port of the edge; 0 picks a free one.")] = DEFAULT_PORT,
    policy: Annotated[Path | None, typer.Option(metavar="FILE", help="Replace the home's policy by this file.")] = None,
    prepare_only: Annotated[
        bool,
        typer.Option("--prepare-only", help="Make certificates, secrets and configurations; start nothing."),
    ] = False,
    json_output: Json = False,
) -> None:
    """Start a stack and wait until it is ready.

    The first start makes certificates and credentials in the home; later ones start from what lies there.
    Without --kubeconfig an embedded cluster runs: in memory, for development only.
    """
    layout = HomeLayout(home)
    try:
        running = [name for name in supervisor.MODULES if supervisor.find(layout, name) is not None]
        if running:
            raise StartupError(f"already running here: {', '.join(running)}; stop with `kubegate down --home {home}`")
        names = [name for name in supervisor.MODULES if name != CLUSTER or kubeconfig is None]
        edge_port = port or free_port()
        if not prepare_only:
            _refuse_port_in_use(edge_port)
        prepare(layout, edge_port=edge_port, kubeconfig=kubeconfig, policy=policy)
        _seed_cluster_rbac(layout)
        _write_endpoints(layout, edge_port, embedded=kubeconfig is None)
        if prepare_only:
            return
        asyncio.run(_bring_up(layout, names))
    except StartupError as error:
        fail(str(error), NEGATIVE)
    except KeyboardInterrupt:
        supervisor.stop_all(layout)
        raise typer.Exit(MISUSE) from None
    endpoints = layout.read_endpoints()
    if json_output:
        emit_json(endpoints)
    else:
        print(_welcome(layout, endpoints), flush=True)
    if not detach:
        _watch_until_stopped(layout, names)


def down(home: Home = DEFAULT_HOME) -> None:
    """Stop the stack of a home. What it stored stays."""
    stopped = supervisor.stop_all(HomeLayout(home))
    print(f"stopped: {', '.join(stopped)}" if stopped else "nothing was running")


def status(home: Home = DEFAULT_HOME, json_output: Json = False) -> None:
    """Show each service of the stack: running, ready, and if not, why."""

    async def collect() -> list[dict[str, Any]]:
        async with Stack.load(home) as stack:
            rows = []
            for name, address in stack.layout.read_endpoints()["services"].items():
                process = supervisor.find(stack.layout, name)
                problems = [] if name == CLUSTER else await stack.problems(name)
                ready = process is not None and not problems
                rows.append(
                    {
                        "service": name,
                        "state": "ready" if ready else "not ready" if process else "stopped",
                        "address": address,
                        "pid": process.pid if process else None,
                        "problems": problems if process else [],
                    }
                )
            return rows

    rows = run(collect())
    if json_output:
        emit_json(rows)
    else:
        emit_table(
            ("SERVICE", "STATE", "ADDRESS", "PID", "PROBLEMS"),
            [
                (
                    row["service"],
                    row["state"],
                    row["address"],
                    str(row["pid"] or ""),
                    "; ".join(row["problems"]),
                )
                for row in rows
            ],
            "no services",
        )
    if any(row["state"] != "ready" for row in rows):
        raise typer.Exit(NEGATIVE)


def restart(
    service: Annotated[str, typer.Argument(help=f"One of {', '.join(supervisor.MODULES)}.")],
    home: Home = DEFAULT_HOME,
) -> None:
    """Stop one service if it runs and start it again; the others heal by themselves."""
    layout = HomeLayout(home)
    if service not in supervisor.MODULES or not layout.config(service).exists():
        fail(f"no service {service!r} in {layout.root}; there are {', '.join(supervisor.MODULES)}")
    supervisor.stop(layout, service)
    try:
        asyncio.run(_bring_up(layout, [service]))
    except StartupError as error:
        fail(str(error), NEGATIVE)
    print(f"{service} is ready")


def _refuse_port_in_use(port: int) -> None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOOPBACK, port))
        except OSError as error:
            raise StartupError(
                f"port {port} is in use: stop what listens there, or choose another with --port (0 picks a free one)"
            ) from error


def _seed_cluster_rbac(layout: HomeLayout) -> None:
    try:
        policy = load_policy(layout.policy)
    except PolicyError as error:
        raise StartupError(
            f"{error}\nCorrect the file and start again; `kubegate policy validate {layout.policy}` checks it."
        ) from error
    if layout.config(CLUSTER).exists():
        manifests = cluster_rbac(policy, EMBEDDED_NAMESPACES, kinds=EMBEDDED_KINDS)
        layout.cluster_rbac.write_text(yaml.safe_dump_all(manifests, sort_keys=False), encoding="utf-8")


def _write_endpoints(layout: HomeLayout, edge_port: int, *, embedded: bool) -> None:
    def address(name: str) -> str:
        listen: str = yaml.safe_load(layout.config(name).read_text(encoding="utf-8"))["listen"]
        return listen

    base_url = f"https://localhost:{edge_port}"
    kubeconfig = yaml.safe_load(layout.config("mcp-core").read_text(encoding="utf-8"))["cluster"]["kubeconfig"]
    document = {
        "base_url": base_url,
        "mcp_url": f"{base_url}/mcp",
        "ca_file": str(layout.edge_ca),
        "audit_log": str(layout.audit_log),
        "policy": str(layout.policy),
        "kubeconfig": str(layout.cluster_kubeconfig) if embedded else kubeconfig,
        "services": {name: address(name) for name in supervisor.MODULES if name != CLUSTER or embedded},
        "metrics": {},
    }
    partial = layout.endpoints.with_suffix(".part")
    partial.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
    partial.replace(layout.endpoints)


async def _bring_up(layout: HomeLayout, names: list[str]) -> None:
    began = time.monotonic()
    logs = {name: layout.run / f"{name}.log" for name in names}
    for name in names:
        logs[name].unlink(missing_ok=True)
        supervisor.start(layout, name)
    try:
        async with Stack.load(layout.root) as stack:
            with progress.status("starting") as line:
                waiting = [name for name in names if name != CLUSTER]
                if "authn" in names and not (layout.credentials / "admin.key").exists():
                    await _wait(stack, [name for name in waiting if name != "mcp-core"], logs, line, began)
                    await bootstrap(stack)
                await _wait(stack, waiting, logs, line, began)
    except BaseException:
        for name in reversed(names):
            supervisor.stop(layout, name)
        raise
    progress.print(f"ready after {time.monotonic() - began:.1f} s")


async def _wait(stack: Stack, names: list[str], logs: dict[str, Path], line: Any, began: float) -> None:
    only_cluster_since: float | None = None
    while True:
        for name, log in logs.items():
            if supervisor.find(stack.layout, name) is None:
                raise StartupError(f"{name} ended while starting; its log {log} says:\n{_last(log)}")
        problems = {name: found for name in names if (found := await stack.problems(name))}
        if not problems:
            return
        line.update("waiting for " + ", ".join(problems))
        reasons = [reason for found in problems.values() for reason in found]
        if not all(reason.startswith("cluster: ") for reason in reasons):
            only_cluster_since = None
        elif only_cluster_since is None:
            only_cluster_since = time.monotonic()
        elif time.monotonic() - only_cluster_since > CLUSTER_PATIENCE:
            kubeconfig = stack.layout.read_endpoints()["kubeconfig"]
            hint = f"Check that the cluster answers: kubectl --kubeconfig {shlex.quote(kubeconfig)} get namespaces"
            raise StartupError("\n".join([*reasons, hint]))
        if time.monotonic() - began > READY_PATIENCE:
            details = "\n".join(f"  {name}: {'; '.join(found)}" for name, found in problems.items())
            raise StartupError(
                f"not ready after {READY_PATIENCE:.0f} s:\n{details}\nThe logs lie in {stack.layout.run}"
            )
        await asyncio.sleep(0.1)


def _last(log: Path) -> str:
    return "\n".join("  " + text for text in supervisor.log_tail(log).splitlines())


async def bootstrap(stack: Stack) -> None:
    """Makes the first credentials and writes them into the home (R15)."""
    layout = stack.layout
    token = (layout.service("authn") / "bootstrap-token").read_text(encoding="ascii").strip()
    try:
        made: authn_pb2.BootstrapResponse = await stack.peer("authn").unary(
            lambda channel: authn_pb2_grpc.CredentialAdminServiceStub(channel).Bootstrap,
            authn_pb2.BootstrapRequest(bootstrap_token=token),
            Deadline.after(15),
        )
    except DomainError as error:
        raise StartupError(
            f"the first credentials could not be made: {error.public_message}\n"
            f"If {layout.credentials} was lost, remove {layout.service('authn')} to start with a new authn store."
        ) from error
    layout.credentials.mkdir(mode=0o700, exist_ok=True)
    secrets = {
        "viewer.key": made.viewer_key,
        "admin.password": made.admin_password,
        "admin.key": made.admin_key,
    }
    for name, secret in secrets.items():
        write_private(layout.credentials / name, secret.encode("ascii") + b"\n")


def _welcome(layout: HomeLayout, endpoints: dict[str, Any]) -> str:
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
    cluster = (
        "embedded development cluster (in memory)"
        if endpoints["kubeconfig"] == str(layout.cluster_kubeconfig)
        else endpoints["kubeconfig"]
    )
    curl = f"curl --cacert {quoted_ca} -H"
    arguments = '{"name":"nginx","namespace":"default","replicas":3}'
    return f"""
kubegate is ready.

  MCP URL      {endpoints["mcp_url"]}
  CA           {ca}
  credentials  {credentials}/  admin.key, viewer.key, admin.password (user "admin")
  audit log    {endpoints["audit_log"]}
  cluster      {cluster}
  kubeconfig   {endpoints["kubeconfig"]}

MCP client configuration (export NODE_EXTRA_CA_CERTS={quoted_ca} KUBEGATE_KEY=$(cat {viewer})):

{json.dumps(client, indent=2)}

Try:

  {curl} "Authorization: Bearer $(cat {viewer})" {base}/mcp/resources
  {curl} "Authorization: Bearer $(cat {admin})" -X POST {base}/mcp/tools/scale_deployment -d '{arguments}'
  {curl} "Authorization: Bearer $(cat {viewer})" -X POST {base}/mcp/tools/scale_deployment -d '{arguments}'
"""


def _watch_until_stopped(layout: HomeLayout, names: list[str]) -> None:
    stopping = False

    def stop(*_: Any) -> None:
        nonlocal stopping
        stopping = True

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, stop)
    print("Ctrl-C stops everything.", flush=True)
    alive = set(names)
    while not stopping:
        time.sleep(0.5)
        now_alive = {name for name in names if supervisor.find(layout, name) is not None}
        for name in sorted(alive - now_alive):
            print(
                f"{name} stopped; the others fail closed. Start it again: "
                f"kubegate restart {name} --home {shlex.quote(str(layout.root))}",
                file=sys.stderr,
                flush=True,
            )
        alive = now_alive
    supervisor.stop_all(layout)
    print("stopped", flush=True)
