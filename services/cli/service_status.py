"""What a service tells of itself at the address where it is scraped: over mTLS anywhere but on loopback."""

import http.client
import json
import socket
import ssl
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from services.common.tls import server_name

PATIENCE = 5.0

Told = dict[str, Any]


class _Pinned(http.client.HTTPConnection):
    """HTTPS to a service whose certificate carries the name of the mesh, whatever its address is called."""

    def __init__(self, host: str, port: int, service: str, operator: Path) -> None:
        super().__init__(host, port, timeout=PATIENCE)
        self._name = server_name(service)
        self._context = ssl.create_default_context(cafile=str(operator / "ca.crt"))
        self._context.minimum_version = ssl.TLSVersion.TLSv1_3
        self._context.load_cert_chain(operator / "tls.crt", operator / "tls.key")

    def connect(self) -> None:
        plain = socket.create_connection((self.host, self.port), self.timeout)
        self.sock = self._context.wrap_socket(plain, server_hostname=self._name)


def ask(service: str, metrics_url: str, operator: Path) -> Told:
    """What the service says, or nothing where it cannot be asked; blocks. ``operator``: where the certificate lies."""
    url = urlsplit(metrics_url)
    if not url.hostname or not url.port:
        return {}
    connection: http.client.HTTPConnection | None = None
    try:
        if url.scheme == "https":
            connection = _Pinned(url.hostname, url.port, service, operator)
        else:
            connection = http.client.HTTPConnection(url.hostname, url.port, timeout=PATIENCE)
        connection.request("GET", "/status")
        answer = connection.getresponse()
        told = json.loads(answer.read()) if answer.status == 200 else {}
    except (OSError, ValueError, http.client.HTTPException):
        return {}
    finally:
        if connection is not None:
            connection.close()
    return told if isinstance(told, dict) else {}
