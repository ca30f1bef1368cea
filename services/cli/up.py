"""`kubegate up | down | restart`: a whole stack on this machine."""

import asyncio
import contextlib
import fcntl
import json
import shlex
import signal
import socket
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer
import yaml

from services.authz.policy import PolicyError, load_policy
from services.cli import supervisor
from services.cli.cluster_rbac import cluster_rbac
from services.cli.home import CLUSTER, EMBEDDED_KINDS, EMBEDDED_NAMESPACES, LOOPBACK, HomeLayout, free_port, prepare
from services.cli.options import DEFAULT_HOME, Home, Json
from services.cli.output import NEGATIVE, emit_json, fail
from services.cli.placing import MESH, Placing, on_loopback
from services.cli.stack import Stack
from services.cli.starting import bring_up
from services.cli.welcome import welcome
from services.common.runtime_errors import StartupError

DEFAULT_PORT = 8443


def up(
    home: Home = DEFAULT_HOME,
    detach: Annotated[bool, typer.Option("--detach", help="Return when ready; stop with `kubegate down`.")] = False,
    kubeconfig: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Operate this cluster; later starts remember it.")
    ] = None,
    embedded: Annotated[
        bool, typer.Option("--embedded", help="Operate the embedded cluster again after --kubeconfig.")
    ] = False,
    port: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            min=0,
            max=65535,
            help="HTTPS port of the edge; 0 picks a free one. Default: the last, or 8443.",
        ),
    ] = None,
    policy: Annotated[Path | None, typer.Option(metavar="FILE", help="Replace the home's policy by this file.")] = None,
    otlp: Annotated[
        str | None,
        typer.Option(
            metavar="HOST:PORT",
            help="Send traces to this OTLP/gRPC collector on loopback, now and at later starts; `off` ends that.",
        ),
    ] = None,
    sample: Annotated[
        float, typer.Option(metavar="RATIO", min=0, max=1, help="Which part of the traces --otlp records.")
    ] = 1.0,
    prepare_only: Annotated[
        bool,
        typer.Option("--prepare-only", help="Make certificates, secrets and configurations; start nothing."),
    ] = False,
    json_output: Json = False,
) -> None:
    """Start a stack and wait until it is ready.

    The first start makes certificates and credentials in the home; later ones start from what lies there, the
    kubeconfig and the port included. Without --kubeconfig an embedded cluster runs: in memory, for development.
    """
    if kubeconfig is not None and embedded:
        fail("--kubeconfig and --embedded exclude each other")
    layout = HomeLayout(home)
    names: list[str] = []
    _stop_like_ctrl_c()
    try:
        with _alone(layout):
            remembered = _remembered(layout)
            if kubeconfig is None and not embedded and remembered.get("kubeconfig"):
                kubeconfig = Path(remembered["kubeconfig"])
            edge_port = free_port() if port == 0 else port or remembered.get("port", DEFAULT_PORT)
            names = [name for name in supervisor.MODULES if name != CLUSTER or kubeconfig is None]
            if not prepare_only:
                _refuse_port_in_use(edge_port)
            fill(layout, edge_port, kubeconfig, policy, on_loopback(edge_port, otlp or "", sample))
            if prepare_only:
                return
            asyncio.run(bring_up(layout, names))
        endpoints = layout.read_endpoints()
        if json_output:
            emit_json(endpoints)
        else:
            print(welcome(layout, endpoints), flush=True)
        if detach:
            return
        print("Ctrl-C stops everything.", flush=True)
        _watch(layout, names)
    except StartupError as error:
        fail(str(error), NEGATIVE)
    except OSError as error:
        fail(f"{error.filename or layout.root}: {error.strerror}; name another directory with --home", NEGATIVE)
    except KeyboardInterrupt:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)
        supervisor.stop_all(layout)
        print("stopped", flush=True)


def down(home: Home = DEFAULT_HOME) -> None:
    """Stop the stack of a home. What it stored stays."""
    layout = HomeLayout(home)
    stopped = supervisor.stop_all(layout)
    print(f"stopped: {', '.join(stopped)}" if stopped else f"nothing was running in {layout.root}")


def restart(
    service: Annotated[str, typer.Argument(help=f"One of {', '.join(supervisor.MODULES)}.")],
    home: Home = DEFAULT_HOME,
) -> None:
    """Stop one service if it runs and start it again; the others heal by themselves."""
    stack = Stack.load(home)
    layout = stack.layout
    if service not in stack.names:
        fail(f"no service {service!r} in {layout.root}; there are {', '.join(stack.names)}")
    if all(supervisor.find(layout, name) is None for name in stack.names):
        fail(f"the stack is not up; start it with `kubegate up --home {shlex.quote(str(home))}`")
    supervisor.stop(layout, service)
    try:
        asyncio.run(bring_up(layout, [service]))
    except StartupError as error:
        fail(str(error), NEGATIVE)
    print(f"{service} is ready")


def _stop_like_ctrl_c() -> None:
    """From here on SIGTERM and a closed terminal stop what was started, as Ctrl-C does."""

    def stop(*_: Any) -> NoReturn:
        raise KeyboardInterrupt

    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, stop)


@contextlib.contextmanager
def _alone(layout: HomeLayout) -> Iterator[None]:
    """One start at a time in a home, and none while it runs.

    Raises:
        StartupError: there is another, or the home is open to others.
    """
    layout.root.mkdir(mode=0o700, parents=True, exist_ok=True)
    if layout.root.stat().st_mode & 0o022:
        raise StartupError(
            f"{layout.root} may be written by others; run `chmod 700 {layout.root}` or name another --home"
        )
    layout.run.mkdir(mode=0o700, exist_ok=True)
    with (layout.run / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise StartupError(f"another `kubegate up` is starting in {layout.root}; wait for it") from error
        running = [name for name in supervisor.MODULES if supervisor.find(layout, name) is not None]
        if running:
            raise StartupError(
                f"already running here: {', '.join(running)}; stop with `kubegate down --home {layout.root}`"
            )
        yield


def _remembered(layout: HomeLayout) -> dict[str, Any]:
    """Port, and kubeconfig where it was given, of the last start."""
    try:
        endpoints = layout.read_endpoints()
        given = endpoints["kubeconfig"] != str(layout.cluster_kubeconfig)
        port = int(endpoints["base_url"].rpartition(":")[2])
        return {"port": port, "kubeconfig": endpoints["kubeconfig"] if given else ""}
    except (StartupError, KeyError, ValueError):
        return {}


def _refuse_port_in_use(port: int) -> None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOOPBACK, port))
        except OSError as error:
            raise StartupError(
                f"port {port} is in use: stop what listens there, or choose another with --port (0 picks a free one)"
            ) from error


def fill(layout: HomeLayout, edge_port: int, kubeconfig: Path | None, policy: Path | None, placing: Placing) -> None:
    """Makes or renews all that a stack starts from.

    Raises:
        StartupError: as ``prepare``, or the policy is not valid.
    """
    prepare(layout, edge_port=edge_port, kubeconfig=kubeconfig, policy=policy, placing=placing)
    _seed_cluster_rbac(layout)
    _write_endpoints(layout, edge_port, placing, embedded=kubeconfig is None)


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


def _write_endpoints(layout: HomeLayout, edge_port: int, placing: Placing, *, embedded: bool) -> None:
    base_url = f"https://localhost:{edge_port}"
    core = yaml.safe_load(layout.config("mcp-core").read_text(encoding="utf-8"))
    document = {
        "base_url": base_url,
        "mcp_url": f"{base_url}/mcp",
        "ca_file": str(layout.edge_ca),
        "audit_log": str(layout.audit_log),
        "policy": str(layout.policy),
        "kubeconfig": str(layout.cluster_kubeconfig) if embedded else core["cluster"]["kubeconfig"],
        "clusters": [each.get("name", "default") for each in (core["cluster"], *(core.get("further_clusters") or ()))],
        "services": {name: placing.address[name] for name in supervisor.MODULES if name != CLUSTER or embedded},
        "health": {**{name: placing.address[name] for name in MESH}, "mcp-core": placing.core_health[1]},
        "metrics": dict(placing.metrics),
    }
    partial = layout.endpoints.with_suffix(".part")
    partial.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
    partial.replace(layout.endpoints)


def _watch(layout: HomeLayout, names: list[str]) -> NoReturn:
    """Says when a service stops or comes back, until interrupted or until none is left, after `kubegate down` say: who
    goes on watching would end the next stack of this home with a late Ctrl-C."""
    alive = set(names)
    while True:
        time.sleep(0.5)
        now_alive = {name for name in names if supervisor.find(layout, name) is not None}
        if not now_alive:
            fail(f"no service runs any more; start again with `kubegate up --home {layout.root}`", NEGATIVE)
        for name in sorted(alive - now_alive):
            command = f"kubegate restart {name} --home {shlex.quote(str(layout.root))}"
            print(f"{name} stopped; the others fail closed. Start it again: {command}", file=sys.stderr, flush=True)
        for name in sorted(now_alive - alive):
            print(f"{name} is back", file=sys.stderr, flush=True)
        alive = now_alive
