"""A Docker engine of our own that leaves nothing behind, however its run ends.

dockerd is the first process of a pid, mount and network namespace: when it ends, every container, mount, bridge and
packet filter rule of it ends with it, and the system ends it with whoever started it. Images are built without
networks of its own, over the machine's; containers run in a network namespace that reaches nothing outside.
"""

import os
import signal
import subprocess
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.compose.machine import environment, locked, run, say

ROOM = Path("/var/tmp")
PREFIX = "kubegate-compose-"
START_PATIENCE = 60.0
STOP_PATIENCE = 30.0


def sweep() -> None:
    """Takes away what killed runs have left; those of living processes stay."""
    with locked(ROOM / f"{PREFIX}lock"):
        for directory in ROOM.glob(f"{PREFIX}*/"):
            owner = _read(directory / "owner")
            if owner and _identity(int(owner.split()[0])) == owner:
                continue
            say(f"sweeping {directory}, left by a run that was killed")
            engine = _read(directory / "engine")
            if engine and _identity(int(engine.split()[0])) == engine:
                os.kill(int(engine.split()[0]), signal.SIGKILL)
            _remove(directory)


class Room:
    """The directory of one run: what its engines store, and who owns it."""

    def __init__(self) -> None:
        with locked(ROOM / f"{PREFIX}lock"):
            self.path = Path(tempfile.mkdtemp(prefix=PREFIX, dir=ROOM))
            (self.path / "owner").write_text(_identity(os.getpid()), encoding="ascii")

    def close(self) -> None:
        _remove(self.path)


class Engine:
    """dockerd; ``network``: whether it makes networks, in a namespace of its own, or uses the machine's to build."""

    def __init__(self, room: Room, *, network: bool) -> None:
        self._room = room.path
        self._network = network
        self._process: subprocess.Popen[bytes] | None = None
        self.host = f"unix://{self._room}/docker.sock"

    def __enter__(self) -> Self:
        options = [f"--data-root={self._room}/data", f"--exec-root={self._room}/exec", f"--host={self.host}"]
        options += [f"--pidfile={self._room}/dockerd.pid", f"--cgroup-parent=/{self._room.name}", "--log-level=warn"]
        if self._network:
            # Nobody answers outside: a name that is unknown inside is refused at once.
            options += ["--dns=127.0.0.1"]
        else:
            options += ["--bridge=none", "--iptables=false"]
        script = "ip link set lo up && exec dockerd " + " ".join(options)
        namespaces = ["--mount", "--pid", "--fork", "--kill-child", "--mount-proc", *(["--net"] * self._network)]
        with (self._room / "dockerd.log").open("ab") as log:
            self._process = subprocess.Popen(
                ["setpriv", "--pdeathsig", "KILL", "unshare", *namespaces, "sh", "-c", script],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=environment(),
                cwd="/",
            )
        (self._room / "engine").write_text(_identity(self._process.pid), encoding="ascii")
        end = time.monotonic() + START_PATIENCE
        while run(["docker", "info"], check=False, extra=self.variables).returncode != 0:
            if self._process.poll() is not None or time.monotonic() > end:
                said = (self._room / "dockerd.log").read_text(encoding="utf-8", errors="replace")[-3000:]
                self.__exit__(None, None, None)
                raise AssertionError(f"dockerd does not start:\n{said}")
            time.sleep(0.2)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        """Asks dockerd to end, so that its images are whole for the next one, and ends the namespace in any case."""
        assert self._process is not None
        with suppress(ProcessLookupError, StopIteration):
            os.kill(self.first, signal.SIGTERM)
        try:
            self._process.wait(STOP_PATIENCE)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    @property
    def variables(self) -> dict[str, str]:
        """Environment of docker and docker-compose."""
        return {"DOCKER_HOST": self.host, "DOCKER_BUILDKIT": "1", "DOCKER_CONFIG": f"{self._room}/config"}

    @property
    def first(self) -> int:
        """The first process of the namespaces, which is dockerd."""
        assert self._process is not None
        children = Path(f"/proc/{self._process.pid}/task/{self._process.pid}/children").read_text(encoding="ascii")
        return int(next(iter(children.split())))

    def docker(self, *args: str, check: bool = True, timeout: float = 600) -> str:
        """What ``docker ARGS`` prints."""
        return run(["docker", *args], check=check, timeout=timeout, extra=self.variables).stdout.strip()

    def inside(self, *command: str, pids: bool = False) -> list[str]:
        """A command in the engine's network, and where asked in its process numbers."""
        return ["nsenter", f"--target={self.first}", "--net", *(["--pid"] * pids), "--", *command]


def _remove(directory: Path) -> None:
    end = time.monotonic() + STOP_PATIENCE
    while any(_within(directory, mount) for mount in _mounts()) and time.monotonic() < end:
        time.sleep(0.2)
    # A mount of somebody else is never emptied.
    left = [mount for mount in _mounts() if _within(directory, mount)]
    if left:
        raise AssertionError(f"still mounted, unmount by hand: {', '.join(left)}")
    run(["rm", "-rf", "--one-file-system", str(directory)])
    for group in Path("/sys/fs/cgroup").glob(f"**/{directory.name}"):
        for inner in sorted((path for path in group.rglob("*") if path.is_dir()), reverse=True):
            with suppress(OSError):
                inner.rmdir()
        with suppress(OSError):
            group.rmdir()


def _mounts() -> list[str]:
    return [line.split()[1] for line in Path("/proc/self/mounts").read_text(encoding="utf-8").splitlines()]


def _within(directory: Path, mount: str) -> bool:
    return mount.startswith(f"{directory}/")


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii")
    except OSError:
        return ""


def _identity(pid: int) -> str:
    """Number and start time of a process: a number that was given to another does not pass for it."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace").rpartition(")")[2].split()
    except OSError:
        return ""
    return f"{pid} {stat[19]}" if stat[0] != "Z" else ""
