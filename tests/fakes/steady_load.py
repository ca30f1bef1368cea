"""A steady load of calls whose right answers are known, run as a process of its own and stopped by closing its input.

Usage: python -m tests.fakes.steady_load URL CA_FILE ADMIN_KEY_FILE VIEWER_KEY_FILE [CALLERS]

Each caller keeps one connection as long as the server does and sends its next call when the last was answered. On
standard output there is one JSON object for each call: ``call``, ``outcome`` (right, away, withheld, unsure, refused,
lost, wrong), ``request_id`` and ``detail``. away: 503 with Retry-After. withheld: a change whose record took too long,
and the answer says so (R20). unsure: a change that the cluster did not answer, and the answer says that it may have
been done. refused: no connection, so nothing was sent. lost: sent, not answered. wrong: anything else.
"""

import http.client
import itertools
import json
import ssl
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast
from urllib.parse import urlsplit

WITHHELD = b"may have been executed, but its record could not be made durable"
UNSURE = b"it may or may not have been done"
PAUSE = 0.02
"""Seconds that a caller waits after a call that was not answered as it should be."""


@dataclass(frozen=True)
class Call:
    """A call and its right answer."""

    name: str
    tool: str
    arguments: dict[str, Any]
    key: str
    status: int

    def right(self, status: int, body: Any) -> bool:
        if status != self.status:
            return False
        if self.name == "list":
            return any(pod["name"].startswith("nginx-") for pod in body["pods"])
        if self.name == "scale":
            return bool(body["replicas"] == self.arguments["replicas"])
        return True


def calls(caller: int, admin: str, viewer: str) -> Iterator[Call]:
    """Reads, changes and denials in turn. Callers scale to numbers of their own, which no other one asks for."""
    for turn in itertools.count():
        yield Call("list", "list_pods", {"namespace": "default"}, admin, 200)
        replicas = 1 + caller + turn % 2 * 4
        arguments = {"name": "nginx", "namespace": "default", "replicas": replicas}
        yield Call("scale", "scale_deployment", arguments, admin, 200)
        yield Call("denied", "scale_deployment", arguments, viewer, 403)


class Caller(threading.Thread):
    """One client with one connection."""

    def __init__(self, number: int, url: str, context: ssl.SSLContext, keys: tuple[str, str], end: threading.Event):
        super().__init__(daemon=True)
        place = urlsplit(url)
        self._place = (place.hostname or "", place.port or 443, context)
        self._calls = calls(number, *keys)
        self._end = end
        self._connection: http.client.HTTPSConnection | None = None

    def run(self) -> None:
        while not self._end.is_set():
            call = next(self._calls)
            outcome, request_id, detail = self._answer(call)
            line = {"call": call.name, "outcome": outcome, "request_id": request_id, "detail": detail}
            sys.stdout.write(json.dumps(line) + "\n")
            if outcome != "right":
                time.sleep(PAUSE)

    def _answer(self, call: Call) -> tuple[str, str, str]:
        if self._connection is None:
            host, port, context = self._place
            connection = http.client.HTTPSConnection(host, port, context=context, timeout=60)
            try:
                connection.connect()
            except OSError as error:
                return "refused", "", repr(error)
            self._connection = connection
        headers = {"Authorization": f"Bearer {call.key}", "Content-Type": "application/json"}
        try:
            self._connection.request("POST", f"/mcp/tools/{call.tool}", json.dumps(call.arguments), headers)
            response = self._connection.getresponse()
            content = response.read()
        except (OSError, http.client.HTTPException) as error:
            self._hang_up()
            return "lost", "", repr(error)
        if response.will_close:
            self._hang_up()
        request_id = response.getheader("x-request-id") or ""
        if response.status == 503 and int(response.getheader("retry-after") or 0) >= 1:
            return "away", request_id, content.decode()
        if call.name == "scale" and response.status == 500 and WITHHELD in content:
            return "withheld", request_id, ""
        if call.name == "scale" and response.status == 504 and UNSURE in content:
            return "unsure", request_id, ""
        right = call.right(response.status, json.loads(content))
        return ("right", request_id, "") if right else ("wrong", request_id, f"{response.status} {content.decode()}")

    def _hang_up(self) -> None:
        cast("http.client.HTTPSConnection", self._connection).close()
        self._connection = None


def main() -> None:
    """Runs until standard input ends."""
    url, ca_file, *key_files = sys.argv[1:5]
    context = ssl.create_default_context(cafile=ca_file)
    admin, viewer = (Path(file).read_text(encoding="ascii").strip() for file in key_files)
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    end = threading.Event()
    count = int(sys.argv[5]) if len(sys.argv) > 5 else 4
    callers = [Caller(number, url, context, (admin, viewer), end) for number in range(count)]
    for caller in callers:
        caller.start()
    sys.stdin.read()
    end.set()
    for caller in callers:
        caller.join()


if __name__ == "__main__":
    main()
