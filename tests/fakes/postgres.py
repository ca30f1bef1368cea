"""A PostgreSQL of the test's own: Debian's server on a socket in a temporary directory, nothing on the network."""

import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import psycopg
import pytest


def binaries() -> Path | None:
    """Where the newest server's programs lie, if there is one."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: int(path.parts[-3]))
    if found:
        return found[-1].parent
    on_path = shutil.which("initdb")
    return Path(on_path).parent if on_path else None


class Server:
    """A running server. Databases are made by ``url``."""

    def __init__(self, bin_: Path, directory: Path, user: str) -> None:
        self._bin, self._directory, self._user = bin_, directory, user
        self._made = 0

    def _run(self, *command: str) -> None:
        subprocess.run(
            [*_as(self._user), str(self._bin / command[0]), *command[1:]],
            check=True,
            capture_output=True,
            cwd=self._directory,
            timeout=60,
        )

    def init(self) -> None:
        data = str(self._directory / "data")
        self._run(
            "initdb", "--pgdata", data, "--auth", "trust", "--encoding", "UTF8", "--no-locale", "--username", "test"
        )
        settings = f"listen_addresses = ''\nunix_socket_directories = '{self._directory}'\nmax_connections = 60\n"
        with (self._directory / "data" / "postgresql.conf").open("a") as file:
            file.write(settings)

    def start(self) -> None:
        log = str(self._directory / "log")
        self._run("pg_ctl", "--pgdata", str(self._directory / "data"), "--log", log, "--wait", "start")

    def stop(self, mode: str = "fast") -> None:
        """``immediate`` is a crash: nothing is written any more, recovery comes at the next start."""
        self._run("pg_ctl", "--pgdata", str(self._directory / "data"), "--wait", "--mode", mode, "stop")

    def url(self) -> str:
        """The URL of a new, empty database."""
        self._made += 1
        name = f"db{self._made}"
        with psycopg.connect(self._url("postgres"), autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {name}".encode())
        return self._url(name)

    def _url(self, name: str) -> str:
        return f"postgresql://test@/{name}?host={self._directory}"


def _as(user: str) -> Sequence[str]:
    """initdb refuses root."""
    if os.getuid() != 0:
        return ()
    entry = pwd.getpwnam(user)
    return ("setpriv", f"--reuid={entry.pw_uid}", f"--regid={entry.pw_gid}", "--clear-groups", "--")


@contextmanager
def server() -> Iterator[Server]:
    """Starts and stops one; skips where there is no PostgreSQL, but not in CI, whose script installs it."""
    bin_ = binaries()
    if bin_ is None:
        if os.environ.get("CI"):
            pytest.fail("no PostgreSQL found: .ci/run installs it")
        pytest.skip("no PostgreSQL server on this machine; on Debian: apt-get install postgresql")
    user = "postgres" if os.getuid() == 0 else pwd.getpwuid(os.getuid()).pw_name
    # A socket's path may have 107 characters at most.
    directory = Path(tempfile.mkdtemp(prefix="kg-pg-", dir="/tmp"))
    if os.getuid() == 0:
        os.chown(directory, pwd.getpwnam(user).pw_uid, -1)
    running = Server(bin_, directory, user)
    try:
        running.init()
        running.start()
        try:
            yield running
        finally:
            running.stop("immediate")
    finally:
        shutil.rmtree(directory, ignore_errors=True)
