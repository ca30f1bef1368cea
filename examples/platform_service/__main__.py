"""A calendar of maintenance windows: whoever may scale a deployment may book one for it.

    python -m examples.platform_service --certs DIR --endpoints HOME/endpoints.json [--port N]

    curl -H "Authorization: Bearer $KEY" localhost:PORT/windows \
      -d '{"namespace": "default", "deployment": "nginx", "text": "Friday 18:00"}'

Plain HTTP on the loopback address, for it is an example; put TLS in front of a real one.
"""

import argparse
import json
import secrets
import time
import uuid
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from examples.platform_service.kubegate_client import Away, Kubegate, Refused
from kubegate.common.v1 import identity_pb2

MAX_BODY = 10_000


def uuid7() -> str:
    """A UUID version 7 (RFC 9562)."""
    value = (time.time_ns() // 1_000_000 << 80) | secrets.randbits(80)
    value = value & ~(0xF << 76) | 0x7 << 76
    return str(uuid.UUID(int=value & ~(0x3 << 62) | 0x2 << 62))


def handler(kubegate: Kubegate) -> type[BaseHTTPRequestHandler]:
    """The HTTP handler around a client of kubegate."""

    class Windows(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            try:
                status, answer = self._book()
            except Refused as refused:
                status, answer = (401 if str(refused) == "not authenticated" else 403), {"error": str(refused)}
            except Away as away:
                status, answer = 503, {"error": str(away)}
            except (ValueError, KeyError, TypeError):
                status, answer = 400, {"error": "send JSON with namespace, deployment and text"}
            body = json.dumps(answer).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def _book(self) -> tuple[int, dict[str, str]]:
            if self.path != "/windows":
                return 404, {"error": "POST /windows"}
            scheme, _, credential = self.headers.get("Authorization", "").partition(" ")
            if scheme.lower() != "bearer" or not credential:
                raise Refused("not authenticated")
            address = self.client_address[0]
            # 1. Who is it? The credential goes to authn and nowhere else.
            caller = kubegate.authenticate(credential, address)
            wish = json.loads(self.rfile.read(min(int(self.headers.get("Content-Length", "0")), MAX_BODY)))
            namespace, deployment, text = (str(wish[key]) for key in ("namespace", "deployment", "text"))
            # 2. May it? Ask about the action itself, fully resolved; never guess a namespace.
            action = identity_pb2.Action(
                cluster="default",
                group="apps",
                resource="deployments",
                subresource="scale",
                verb="scale",
                namespace=namespace,
                name=deployment,
                tool="book_window",
            )
            decision = kubegate.check(caller, action, address)
            # 3. Record it before it counts: what cannot be recorded does not happen.
            window = uuid7()
            kubegate.record(caller, window, "book_window", f"deployments/{deployment}", namespace, text)
            return 201, {"window": window, "by": caller.name, "decision": decision}

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - named by http.server
            """Nothing: the record is in audit."""

    return Windows


def main() -> None:
    """Serves until interrupted."""
    parser = argparse.ArgumentParser(description="Books maintenance windows.")
    parser.add_argument("--certs", type=Path, required=True, help="of `kubegate certs issue platform/NAME --out DIR`")
    parser.add_argument("--endpoints", type=Path, required=True, help="endpoints.json of a home")
    parser.add_argument("--port", type=int, default=8081)
    args = parser.parse_args()
    kubegate = Kubegate(args.certs, json.loads(args.endpoints.read_text())["services"])
    server = ThreadingHTTPServer(("127.0.0.1", args.port), handler(kubegate))
    print(f"http://127.0.0.1:{server.server_port}/windows", flush=True)  # noqa: T201
    try:
        server.serve_forever()
    except KeyboardInterrupt:
        pass
    finally:
        kubegate.close()


if __name__ == "__main__":
    main()
