"""Bringing services up: started, waited for, given their first credentials, and stopped again when that fails."""

import asyncio
import shlex
import time
from pathlib import Path
from typing import Any

from rich.console import Console

from kubegate.authn.v1 import authn_pb2, authn_pb2_grpc
from services.cli import supervisor
from services.cli.home import CLUSTER, HomeLayout
from services.cli.pki import write_private
from services.cli.stack import Stack
from services.common.deadline import Deadline
from services.common.errors import DomainError
from services.common.runtime_errors import StartupError

READY_PATIENCE = 60.0
"""Seconds until every service must be ready."""

CLUSTER_PATIENCE = 5.0
"""Seconds for which a cluster may be out of reach while everything else is ready."""

progress = Console(stderr=True, highlight=False)


async def bring_up(layout: HomeLayout, names: list[str]) -> None:
    """Starts services and waits until all of the home's are ready, so that the peers of a restarted one are
    connected to it again.

    Raises:
        StartupError: a service ended or did not become ready; those started here are stopped again.
    """
    began = time.monotonic()
    logs = {name: layout.run / f"{name}.log" for name in names}
    try:
        for name, log in logs.items():
            log.unlink(missing_ok=True)
            supervisor.start(layout, name)
        async with Stack.load(layout.root) as stack:
            with progress.status("starting") as line:
                if "authn" in names and not (layout.credentials / "admin.key").exists():
                    peers = [name for name in stack.names if name not in ("mcp-core", CLUSTER)]
                    await _wait(stack, peers, logs, line, began)
                    await bootstrap(stack)
                running = [name for name in stack.names if supervisor.find(layout, name) is not None]
                await _wait(stack, running, logs, line, began)
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
        problems = {name: found for name in names if (found := (await stack.health(name)).problems)}
        if not problems:
            return
        line.update("waiting for " + ", ".join(problems))
        reasons = [reason for found in problems.values() for reason in found]
        if not all(reason.startswith(("cluster: ", "cluster ")) for reason in reasons):
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
    """Makes the first credentials and writes them into the home (R15).

    Raises:
        StartupError: authn refuses, for instance because it has been done before.
    """
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
    # The administrator's key last: its presence says that all are there.
    secrets = {
        "viewer.key": made.viewer_key,
        "admin.password": made.admin_password,
        "admin.key": made.admin_key,
    }
    for name, secret in secrets.items():
        write_private(layout.credentials / name, secret.encode("ascii") + b"\n")
