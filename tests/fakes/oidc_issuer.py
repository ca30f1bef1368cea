"""A small OpenID provider over HTTPS, in a process of its own: discovery and a key set, from a directory.

``python -m tests.fakes.oidc_issuer DIRECTORY`` serves DIRECTORY/discovery.json and jwks.json, writes the port to
DIRECTORY/port and a line for each request to DIRECTORY/requests.
"""

import http.server
import json
import ssl
import subprocess
import sys
import time
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import jwt

from services.authn.adapters.signing_keys import SigningKey, generate, jwk
from services.cli.pki import Authority

PATHS = {"/.well-known/openid-configuration": "discovery.json", "/jwks": "jwks.json"}


class Issuer:
    """The process, its keys, and tokens as it would sign them."""

    def __init__(self, directory: Path) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self.directory = directory
        self.authority = Authority.open(directory / "ca", "issuer CA")
        self.authority.server("localhost", ("localhost", "127.0.0.1")).write(directory, self.authority.certificate)
        self.keys: list[SigningKey] = []
        self._process: subprocess.Popen[bytes] | None = None
        self.url = ""

    @property
    def ca_pem(self) -> str:
        return self.authority.certificate.decode()

    @property
    def requests(self) -> list[str]:
        """Paths asked for so far."""
        path = self.directory / "requests"
        return path.read_text().splitlines() if path.exists() else []

    def start(self) -> None:
        (self.directory / "port").unlink(missing_ok=True)
        self._process = subprocess.Popen([sys.executable, "-m", "tests.fakes.oidc_issuer", str(self.directory)])
        while not (self.directory / "port").exists():
            assert self._process.poll() is None
            time.sleep(0.02)
        self.url = f"https://localhost:{(self.directory / 'port').read_text()}"
        self.publish({"issuer": self.url, "jwks_uri": f"{self.url}/jwks"})

    def stop(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def publish(self, discovery: Any) -> None:
        (self.directory / "discovery.json").write_text(json.dumps(discovery))

    def publish_keys(self, *entries: Any) -> None:
        """The keys that it has, and any further entries."""
        own = [jwk(key.public, key.algorithm) for key in self.keys]
        (self.directory / "jwks.json").write_text(json.dumps({"keys": [*own, *entries]}))

    def new_key(self, algorithm: str = "ES256") -> SigningKey:
        key = generate(algorithm)
        self.keys.append(key)
        self.publish_keys()
        return key

    def claims(self, now: datetime, **changes: Any) -> dict[str, Any]:
        """As RFC 9068 wants them; ``None`` leaves one out."""
        whole = {
            "iss": self.url,
            "aud": "kubegate",
            "sub": "alice",
            "client_id": "cli",
            "jti": "j1",
            "iat": int(now.timestamp()),
            "exp": int((now + timedelta(minutes=5)).timestamp()),
        }
        return {name: value for name, value in {**whole, **changes}.items() if value is not None}

    def sign(self, claims: dict[str, Any], key: SigningKey | None = None, **headers: Any) -> str:
        key = key or self.keys[-1]
        header = {"typ": "at+jwt", "kid": key.kid, **headers}
        header = {name: value for name, value in header.items() if value is not None}
        return jwt.encode(claims, key.private, algorithm=key.algorithm, headers=header)


def serve(directory: Path) -> None:
    """Serves until it is killed."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            with (directory / "requests").open("a") as log:
                log.write(self.path + "\n")
            name = PATHS.get(self.path, "")
            if not name or not (directory / name).exists():
                self.send_error(404)
                return
            content = (directory / name).read_bytes()
            self.send_response(200)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, format: str, *args: Any) -> None:
            """Quiet."""

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(directory / "tls.crt", directory / "tls.key")
    server.socket = context.wrap_socket(server.socket, server_side=True)
    partial = directory / "port.part"
    partial.write_text(str(server.server_address[1]))
    partial.rename(directory / "port")
    server.serve_forever()


if __name__ == "__main__":
    serve(Path(sys.argv[1]))
