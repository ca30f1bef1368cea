"""Compose v2 where the machine's own is older: the package of a later Debian, by its hash, from the machine's mirror.

It is unpacked into a cache outside the repository and runs as it is; nothing is installed.
"""

import fcntl
import hashlib
import os
import shutil
import subprocess
import urllib.error
import urllib.request
from pathlib import Path

from tests.compose.machine import mirror

PACKAGE = "pool/main/d/docker-compose/docker-compose_2.26.1-4_amd64.deb"
SHA256 = "47681197cb2b1ab88206b42a1a92fc75f50d9530a6322d03494a473eed0408ea"
"""As the signed index of Debian 13 has it."""

PATIENCE = 120.0


class NotToBeHad(Exception):
    """Why there is no Compose v2 here."""


def compose_v2() -> Path:
    """The program ``docker-compose`` of version 2.

    Raises:
        NotToBeHad: the machine is not one that it runs on, or the mirror is not reached or has it no more.
    """
    if os.uname().machine != "x86_64" or shutil.which("dpkg-deb") is None:
        raise NotToBeHad("Debian's package is unpacked on amd64 with dpkg-deb only")
    root = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "kubegate-tests"
    place = root / f"compose-{SHA256[:16]}"
    root.mkdir(parents=True, exist_ok=True)
    with (root / f"{place.name}.lock").open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        if not (place / "complete").exists():
            shutil.rmtree(place, ignore_errors=True)
            place.mkdir()
            package = place / "package.deb"
            package.write_bytes(_fetched())
            subprocess.run(["dpkg-deb", "-x", str(package), str(place)], check=True, timeout=PATIENCE)
            (place / "complete").touch()
    return place / "usr/libexec/docker/cli-plugins/docker-compose"


def _fetched() -> bytes:
    try:
        with urllib.request.urlopen(f"{mirror().rstrip('/')}/{PACKAGE}", timeout=PATIENCE) as answer:
            content: bytes = answer.read()
    except (urllib.error.URLError, TimeoutError) as error:
        raise NotToBeHad(f"the mirror does not give {PACKAGE}: {error}") from error
    found = hashlib.sha256(content).hexdigest()
    assert found == SHA256, f"{PACKAGE} has the hash {found}, not {SHA256}"
    return content
