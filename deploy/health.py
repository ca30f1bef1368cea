"""Health check of a container: asks its own service, with its own certificate, whether it serves.

Usage: health.py CONFIG. Exit 0: serving; 1: not, with the reasons on standard output.
"""

import ssl
import sys
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import yaml

PATIENCE = 5.0


def https(config: dict[str, Any], home: Path) -> str:
    """What keeps the embedded cluster from serving: the words of /readyz; empty when nothing does."""
    url = f"https://localhost:{config['listen'].rpartition(':')[2]}/readyz"
    authority = (home / config["tls"]["cert_file"]).with_name("ca.crt")
    context = ssl.create_default_context(cafile=str(authority))
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=context))
    try:
        with opener.open(url, timeout=PATIENCE):
            return ""
    except urllib.error.HTTPError as error:
        return error.read().decode(errors="replace") or f"HTTP {error.code}"
    except OSError as error:
        return str(error)


def mesh(config: dict[str, Any], home: Path) -> str:
    """What keeps a service of the mesh from serving, as grpc.health.v1 says; empty when nothing does."""
    import grpc
    from grpc_health.v1 import health_pb2, health_pb2_grpc

    # The core has another certificate, and another listener, for its clients.
    tls, listen = config.get("mesh", config["tls"]), config.get("health_listen", config["listen"])
    files = [(home / tls[key]).read_bytes() for key in ("ca_file", "key_file", "cert_file")]
    port = listen.rpartition(":")[2]
    name = f"{home.name}.kubegate.internal"
    options = (("grpc.ssl_target_name_override", name), ("grpc.enable_http_proxy", 0))
    with grpc.secure_channel(f"127.0.0.1:{port}", grpc.ssl_channel_credentials(*files), options) as channel:
        try:
            check = health_pb2_grpc.HealthStub(channel).Check
            answer, call = check.with_call(health_pb2.HealthCheckRequest(), timeout=PATIENCE)
        except grpc.RpcError as error:
            return str(error.code())
    if answer.status == health_pb2.HealthCheckResponse.SERVING:
        return ""
    said = dict(call.trailing_metadata()).get("kubegate-problems-bin", b"not serving")
    return said.decode(errors="replace")


def main() -> None:
    """Asks once."""
    path = Path(sys.argv[1]).absolute()
    config = yaml.safe_load(path.read_text(encoding="utf-8"))
    problems = (https if "client_ca_file" in config["tls"] else mesh)(config, path.parent)
    if problems:
        print(problems)
        raise SystemExit(1)


if __name__ == "__main__":
    main()
