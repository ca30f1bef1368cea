"""A PostgreSQL of the tests' own: Debian's binaries, a directory under /tmp, a port on loopback, a password.

``initdb`` refuses root, so as root it runs under the user that the Debian package made.
"""

import os
import pwd
import secrets
import shutil
import signal
import subprocess
import tempfile
import time
from pathlib import Path

import pytest

from services.cli.home import free_port

BINARIES = [Path("/usr/lib/postgresql") / str(version) / "bin" for version in range(18, 12, -1)]
PATIENCE = 90.0
REQUIRED = "KUBEGATE_REQUIRE_POSTGRES"
"""Set by .ci/run: without PostgreSQL the tests fail instead of being skipped."""


class Postgres:
    """One server; each ``database`` is empty and for one test."""

    def __init__(self, binaries: Path) -> None:
        self._binaries = binaries
        self._user = "postgres" if os.getuid() == 0 else pwd.getpwuid(os.getuid()).pw_name
        self._directory = Path(tempfile.mkdtemp(prefix="kubegate-pg-"))
        self._process: subprocess.Popen[bytes] | None = None
        self._count = 0
        self.password = secrets.token_hex(12)
        self.port = free_port()

    @classmethod
    def find(cls) -> "Postgres":
        """With the newest binaries that there are; skips the test where there are none."""
        for directory in BINARIES:
            if (directory / "initdb").exists():
                return cls(directory)
        missing = "no PostgreSQL server; `apt-get install postgresql` brings one"
        if os.environ.get(REQUIRED):
            pytest.fail(missing)
        pytest.skip(missing)

    def _run(self, *command: str) -> None:
        done = subprocess.run(
            [str(self._binaries / command[0]), *command[1:]],
            user=self._user,
            capture_output=True,
            text=True,
            cwd="/",
            env={**os.environ, "PGPASSWORD": self.password},
            check=False,
        )
        assert done.returncode == 0, done.stderr

    def start(self) -> None:
        """Makes the cluster the first time, and serves until ``stop``."""
        data = self._directory / "data"
        if not data.exists():
            shutil.chown(self._directory, self._user)
            password_file = self._directory / "password"
            password_file.write_text(self.password)
            shutil.chown(password_file, self._user)
            self._run(
                *("initdb", "--no-sync", "--auth=scram-sha-256", "--username=kubegate", f"--pwfile={password_file}"),
                *("--encoding=UTF8", "--locale=C", f"--pgdata={data}"),
            )
        settings = {
            "listen_addresses": "127.0.0.1",
            "port": str(self.port),
            "unix_socket_directories": str(self._directory),
            "shared_buffers": "16MB",
            "max_connections": "50",
        }
        with (self._directory / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [str(self._binaries / "postgres"), "-D", str(data)]
                + [word for name, value in settings.items() for word in ("-c", f"{name}={value}")],
                user=self._user,
                cwd="/",
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        end = time.monotonic() + PATIENCE
        while time.monotonic() < end:
            ready = [str(self._binaries / "pg_isready"), "-q", "-h", "127.0.0.1", "-p", str(self.port)]
            if subprocess.run(ready, check=False).returncode == 0:
                return
            time.sleep(0.05)
        raise AssertionError((self._directory / "log").read_text(errors="replace"))

    def database(self) -> str:
        """The URL, without password, of a new and empty database."""
        self._count += 1
        name = f"test{self._count}"
        address = ("-h", "127.0.0.1", "-p", str(self.port), "-U", "kubegate")
        self._run("createdb", *address, name)
        return f"postgresql://kubegate@127.0.0.1:{self.port}/{name}"

    def socket_url(self) -> str:
        """As ``database``, over the socket and with the password."""
        name = self.database().rpartition("/")[2]
        return f"postgresql://kubegate:{self.password}@/{name}?host={self._directory}&port={self.port}"

    def stop(self) -> None:
        """Is away at once; what was committed stays."""
        if self._process is not None:
            self._process.send_signal(signal.SIGQUIT)
            self._process.wait()
            self._process = None

    def remove(self) -> None:
        """Stops and leaves nothing behind."""
        self.stop()
        shutil.rmtree(self._directory, ignore_errors=True)
