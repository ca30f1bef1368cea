"""Real service processes for contract tests."""

import asyncio
import sys
from pathlib import Path
from typing import Any

import yaml

from services.common.config import TlsFiles


class ServiceProcess:
    """``python -m services.<module>`` with a configuration file in a directory of its own."""

    def __init__(self, module: str, directory: Path, config: dict[str, Any]) -> None:
        self.module = module
        self.directory = directory
        self.config = config
        self._process: asyncio.subprocess.Process | None = None
        self.port = 0
        directory.mkdir(parents=True, exist_ok=True)

    @property
    def log(self) -> str:
        """What it has written so far."""
        path = self.directory / "log"
        return path.read_text(errors="replace") if path.exists() else ""

    async def start(self) -> None:
        """Starts it and waits until it listens; the second start takes the same port."""
        address_file = self.directory / "address"
        address_file.unlink(missing_ok=True)
        config = {**self.config, "listen": f"127.0.0.1:{self.port}", "address_file": "address"}
        (self.directory / "config.yaml").write_text(yaml.safe_dump(config))
        with (self.directory / "log").open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-m",
                f"services.{self.module}",
                "--config",
                str(self.directory / "config.yaml"),
                stdout=log,
                stderr=log,
            )
        while not address_file.exists():
            if self._process.returncode is not None:
                raise AssertionError(f"{self.module} ended while starting:\n{self.log}")
            await asyncio.sleep(0.02)
        self.port = int(address_file.read_text().rpartition(":")[2])

    async def stop(self) -> int:
        """Stops it as an operator would; returns the exit code."""
        if self._process is None:
            return 0
        if self._process.returncode is None:
            self._process.terminate()
        code = await self._process.wait()
        self._process = None
        return code

    async def kill(self) -> None:
        """Ends it without warning."""
        if self._process is not None:
            self._process.kill()
            await self._process.wait()
            self._process = None


def tls_config(files: TlsFiles) -> dict[str, str]:
    """TLS files as a configuration names them."""
    return {"cert_file": str(files.cert_file), "key_file": str(files.key_file), "ca_file": str(files.ca_file)}


def peer_config(service: str, port: int) -> dict[str, str]:
    """A peer as a configuration names it."""
    return {"address": f"127.0.0.1:{port}", "server_name": f"{service}.kubegate.internal"}
