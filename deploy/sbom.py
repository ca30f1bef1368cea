"""The bill of materials of an image: what is installed in its environment, with the hashes of the lock file.

Usage: sbom.py NAME LOCK, by the Python of that environment; prints CycloneDX 1.6 JSON (ECMA-424). Whatever is installed
without being locked ends the build. What the base brings, Python itself included, is the base's to list.
"""

import json
import re
import sys
import uuid
from collections.abc import Mapping
from importlib.metadata import distributions
from pathlib import Path
from typing import Any

PRODUCT = "kubegate"
_PIN = re.compile(r"^([A-Za-z0-9][A-Za-z0-9._-]*)==([^\s;\\]+)")
_HASH = re.compile(r"--hash=sha256:([0-9a-f]{64})")


def normal(name: str) -> str:
    """A project's name as it is compared (PEP 503)."""
    return re.sub(r"[-_.]+", "-", name).lower()


def locked(text: str) -> dict[tuple[str, str], list[str]]:
    """Name and version of each pin of a lock file, with the SHA-256 of every file that may be installed for it."""
    pins: dict[tuple[str, str], list[str]] = {}
    current: list[str] = []
    for line in text.splitlines():
        if pin := _PIN.match(line):
            current = pins.setdefault((normal(pin[1]), pin[2]), [])
        current += _HASH.findall(line)
    return pins


def bill(name: str, installed: Mapping[str, str], lock: str) -> dict[str, Any]:
    """The document. ``installed``: version by name.

    Raises:
        LookupError: something is installed that is not locked, or by no hash.
    """
    pins = locked(lock)
    present = {normal(one): version for one, version in installed.items()}
    version = present.pop(PRODUCT)
    if strangers := sorted(f"{one}=={at}" for one, at in present.items() if not pins.get((one, at))):
        raise LookupError(f"installed in the image of {name} and not locked with a hash: {', '.join(strangers)}")
    root = f"pkg:pypi/{PRODUCT}@{version}"
    components = [
        {
            "type": "library",
            "bom-ref": f"pkg:pypi/{one}@{at}",
            "name": one,
            "version": at,
            "purl": f"pkg:pypi/{one}@{at}",
            # One of these was installed: a lock file names the files of all platforms.
            "hashes": [{"alg": "SHA-256", "content": digest} for digest in sorted(pins[one, at])],
        }
        for one, at in sorted(present.items())
    ]
    identity = json.dumps([name, version, components])
    return {
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        # The same image gives the same document.
        "serialNumber": f"urn:uuid:{uuid.uuid5(uuid.NAMESPACE_URL, identity)}",
        "version": 1,
        "metadata": {
            "component": {
                "type": "application",
                "bom-ref": root,
                "name": f"{PRODUCT}/{name}",
                "version": version,
                "purl": root,
            }
        },
        "components": components,
        "dependencies": [{"ref": root, "dependsOn": [component["bom-ref"] for component in components]}],
    }


def main() -> None:
    """Prints the document of this environment."""
    name, lock = sys.argv[1], Path(sys.argv[2])
    installed = {one.metadata["Name"]: one.version for one in distributions()}
    try:
        document = bill(name, installed, lock.read_text(encoding="utf-8"))
    except LookupError as error:
        raise SystemExit(f"sbom: {error}") from None
    print(json.dumps(document, indent=2))


if __name__ == "__main__":
    main()
