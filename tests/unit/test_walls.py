"""The walls stand: a decision that reaches for gRPC, a message or a store breaks a contract of pyproject.toml."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
ROOMS = {
    "services/authn/admin.py": "sqlalchemy",
    "services/authn/bootstrap.py": "sqlite3",
    "services/authz/policy/engine.py": "kubegate.authz.v1",
    "services/audit/intents.py": "services.common.grpc_client",
    "services/mcp_core/journal.py": "grpc",
    "services/mcp_core/placement.py": "kubegate.authz.v1",
    "services/mcp_core/tools/new_group.py": "aiohttp",
}


def lint(directory: Path) -> tuple[int, str]:
    """Exit code and output of import-linter over a copy of the tree."""
    done = subprocess.run(
        [str(Path(sys.executable).with_name("lint-imports")), "--no-cache", "--contract", "decisions-without-io"],
        cwd=directory,
        capture_output=True,
        text=True,
        check=False,
    )
    return done.returncode, done.stdout + done.stderr


@pytest.mark.req("I2.10")
def test_no_room_of_a_service_imports_what_does_io_but_those_that_are_for_it(tmp_path: Path) -> None:
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    shutil.copytree(ROOT / "services", tmp_path / "services", ignore=shutil.ignore_patterns("__pycache__"))
    code, said = lint(tmp_path)
    assert code == 0, said
    for file, module in ROOMS.items():
        with (tmp_path / file).open("a") as room:
            room.write(f"\nimport {module}\n")
    code, said = lint(tmp_path)
    assert code == 1
    for file in ROOMS:
        room_name = file.removesuffix(".py").replace("/", ".")
        assert f"-   {room_name} -> " in said, said
