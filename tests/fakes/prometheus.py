"""Debian's Prometheus: promtool for rules, and the server itself, scraping real services."""

import json
import os
import shutil
import subprocess
import urllib.parse
import urllib.request
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import pytest
import yaml

from services.cli.home import free_port

REQUIRED = "KUBEGATE_REQUIRE_PROMETHEUS"
"""Set by .ci/run: without Prometheus the tests fail instead of being skipped."""


def binary(name: str) -> str:
    """The path of ``promtool`` or ``prometheus``; skips the test where there is none."""
    found = shutil.which(name)
    if found is None:
        missing = f"no {name}; `apt-get install prometheus` brings it"
        if os.environ.get(REQUIRED):
            pytest.fail(missing)
        pytest.skip(missing)
    return found


def promtool(*args: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Runs promtool."""
    return subprocess.run(
        [binary("promtool"), *args], capture_output=True, text=True, cwd=cwd, timeout=110, check=False
    )


class Prometheus:
    """A server on loopback with a configuration; its data goes with it."""

    def __init__(self, directory: Path, config: dict[str, Any]) -> None:
        self._directory = directory
        self._config = directory / "prometheus.yaml"
        self._config.write_text(yaml.safe_dump(config))
        self._port = free_port()
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        with (self._directory / "prometheus.log").open("wb") as log:
            self._process = subprocess.Popen(
                [
                    binary("prometheus"),
                    f"--config.file={self._config}",
                    f"--storage.tsdb.path={self._directory / 'data'}",
                    f"--web.listen-address=127.0.0.1:{self._port}",
                ],
                stdout=log,
                stderr=log,
            )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._process is not None
        self._process.terminate()
        self._process.wait(30)

    def query(self, promql: str) -> list[dict[str, Any]]:
        """The result of an instant query; empty while the server starts."""
        url = f"http://127.0.0.1:{self._port}/api/v1/query?{urllib.parse.urlencode({'query': promql})}"
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        try:
            with opener.open(url, timeout=10) as answer:
                data = json.load(answer)
        except OSError:
            return []
        assert data["status"] == "success", data
        result: list[dict[str, Any]] = data["data"]["result"]
        return result
