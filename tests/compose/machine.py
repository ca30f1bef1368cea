"""What the machine lends to the test in containers: Debian's packages, a root file system, certificates, proxies."""

import fcntl
import hashlib
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path

TOOLS = ("dockerd", "docker-compose", "debootstrap", "ip", "nsenter", "unshare", "setpriv")
PACKAGES = "docker.io docker-compose debootstrap iproute2 util-linux"
PATHS = "/usr/local/sbin:/usr/sbin:/sbin"
INCLUDE = ("ca-certificates", "python3", "python3-venv")
CACHE = Path("/var/cache/kubegate-compose-test")
MAX_AGE = 14 * 86_400
"""Seconds after which a kept root file system is made anew, for the sake of its packages' corrections."""
PROXIES = ("http_proxy", "https_proxy", "no_proxy", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY")
BUNDLE = Path("/etc/ssl/certs/ca-certificates.crt")


TERMINAL: Callable[[], AbstractContextManager[object]] = nullcontext
"""What to enter so that standard error is the terminal; pytest takes it from tests."""


def say(text: str) -> None:
    """Progress, for whoever watches a run of minutes."""
    with TERMINAL():
        print(f"compose: {time.strftime('%H:%M:%S')} {text}", file=sys.stderr, flush=True)


def environment() -> dict[str, str]:
    """The process's, with Debian's own tools before others of their names."""
    return {**os.environ, "PATH": f"/usr/bin:/usr/sbin:/bin:/sbin:{os.environ['PATH']}:{PATHS}", "LC_ALL": "C.UTF-8"}


def missing() -> str:
    """Why no engine can run here; empty where one can."""
    if platform.system() != "Linux" or os.geteuid() != 0:
        return "it takes root on Linux"
    absent = [tool for tool in TOOLS if shutil.which(tool, path=environment()["PATH"]) is None]
    if absent:
        return f"{', '.join(absent)} missing; on Debian: apt-get install {PACKAGES}"
    tried = run(["unshare", "--mount", "--net", "--pid", "--fork", "--mount-proc", "true"], check=False)
    return "" if tried.returncode == 0 else f"namespaces cannot be made: {tried.stderr.strip()}"


def run(
    command: list[str], *, check: bool = True, timeout: float = 600, extra: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Runs a command to its end; shows what it said where it fails."""
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        timeout=timeout,
        stdin=subprocess.DEVNULL,
        env={**environment(), **(extra or {})},
        cwd="/",
        check=False,
    )
    if check and done.returncode != 0:
        said = "\n".join((done.stdout + done.stderr).splitlines()[-40:])
        raise AssertionError(f"{' '.join(command)}: exit {done.returncode}\n{said}")
    return done


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """One process at a time."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def base_tree() -> Path:
    """A root file system with Python and the machine's certificates as a tar file, kept between runs."""
    settings = _pip_settings()
    suite = _suite()
    content = json.dumps([suite, platform.machine(), INCLUDE, settings, _uv_settings(settings), _POLICY])
    content += BUNDLE.read_text(encoding="utf-8")
    kept = CACHE / f"base-{hashlib.sha256(content.encode()).hexdigest()[:16]}.tar"
    with locked(CACHE / "lock"):
        if kept.exists() and time.time() - kept.stat().st_mtime < MAX_AGE:
            say(f"base: {kept} of an earlier run")
            return kept
        shutil.rmtree(CACHE / "work", ignore_errors=True)
        for old in CACHE.glob("*.tar*"):
            old.unlink()
        with tempfile.TemporaryDirectory(dir=CACHE, prefix="root-") as directory:
            say(f"base: debootstrap {suite}, a minute or two")
            root = Path(directory) / "root"
            # What it mounts is gone with its namespace, also where it is killed.
            private = ["setpriv", "--pdeathsig", "KILL", "unshare", "--mount", "--pid", "--fork", "--kill-child"]
            options = ["--variant=minbase", f"--include={','.join(INCLUDE)}"]
            run([*private, "debootstrap", *options, suite, str(root), mirror()], timeout=1200)
            (root / "etc/ssl/certs/ca-certificates.crt").write_bytes(BUNDLE.read_bytes())
            (root / "etc/pip.conf").write_text(settings, encoding="utf-8")
            (root / "etc/uv").mkdir()
            (root / "etc/uv/uv.toml").write_text(_uv_settings(settings), encoding="utf-8")
            policy = root / "usr/sbin/policy-rc.d"
            policy.write_text(_POLICY, encoding="ascii")
            policy.chmod(0o755)
            for name in ("var/cache/apt/archives", "var/lib/apt/lists"):
                shutil.rmtree(root / name, ignore_errors=True)
            partial = kept.with_suffix(".part")
            run(["tar", "-C", str(root), "--one-file-system", "-cf", str(partial), "."])
            partial.replace(kept)
    return kept


_POLICY = "#!/bin/sh\n# Nothing is started while an image is built.\nexit 101\n"


def _suite() -> str:
    release = Path("/etc/os-release").read_text(encoding="utf-8").splitlines()
    fields = dict(line.split("=", 1) for line in release if "=" in line)
    return fields.get("VERSION_CODENAME", "bookworm").strip('"') if fields.get("ID") == "debian" else "bookworm"


def mirror() -> str:
    """Where this machine gets its own packages."""
    listed = run(["apt-get", "indextargets", "--format", "$(REPO_URI)"], check=False).stdout.split()
    return next((uri for uri in listed if uri.rstrip("/").endswith("/debian")), "http://deb.debian.org/debian")


def _pip_settings() -> str:
    """How pip reaches its index here, as far as a container can do the same."""
    listing = run([sys.executable, "-m", "pip", "config", "list"], check=False).stdout.splitlines()
    lines = ["[global]", f"cert = {BUNDLE}", "timeout = 180"]
    for name in ("index-url", "extra-index-url", "trusted-host"):
        for line in listing:
            key, _, value = line.partition("=")
            urls = [part for part in value.strip("'\"").replace("\\n", " ").split() if not part.startswith("file:")]
            if key.rpartition(".")[2] == name and urls:
                lines.append(f"{name} = {' '.join(urls)}")
                break
    return "\n".join(lines) + "\n"


def _uv_settings(pip: str) -> str:
    """The same for uv."""
    fields = dict(line.split(" = ", 1) for line in pip.splitlines() if " = " in line)
    lines = ["native-tls = true"]
    if "trusted-host" in fields:
        lines.append(f"allow-insecure-host = {json.dumps(fields['trusted-host'].split())}")
    for url in fields.get("extra-index-url", "").split():
        lines += ["[[index]]", f'url = "{url}"']
    if "index-url" in fields:
        lines += ["[[index]]", f'url = "{fields["index-url"]}"', "default = true"]
    return "\n".join(lines) + "\n"
