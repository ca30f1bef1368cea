"""Every command of the README works as it stands (I2.10)."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.e2e.stack import RunningStack

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(\w+)([^\n]*)\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)
SHELL = [code for language, info, code in BLOCKS if language == "sh" and not info.strip()]
PYTHON = [code for language, _, code in BLOCKS if language == "python"]


@pytest.fixture
def clone(stack: RunningStack, tmp_path: Path) -> Path:
    """A directory in which the README's relative paths lead to the running stack."""
    (tmp_path / ".kubegate").symlink_to(stack.home)
    (tmp_path / ".venv").symlink_to(Path(sys.prefix))
    return tmp_path


def execute(command: list[str], cwd: Path) -> str:
    done = subprocess.run(
        command, cwd=cwd, capture_output=True, text=True, timeout=60, stdin=subprocess.DEVNULL, check=False
    )
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.mark.req("I2.10")
@pytest.mark.parametrize("block", SHELL, ids=lambda block: block.split()[0].rpartition("/")[2])
def test_shell_block(block: str, stack: RunningStack, clone: Path) -> None:
    script = block.replace("https://localhost:8443", stack.base_url)
    assert execute(["bash", "-euo", "pipefail", "-c", script], clone).strip()


@pytest.mark.req("I2.10", "I2.2")
@pytest.mark.parametrize("block", PYTHON, ids=["mcp-client"])
def test_python_block(block: str, stack: RunningStack, clone: Path) -> None:
    output = execute([sys.executable, "-c", block.replace("https://localhost:8443", stack.base_url)], clone)
    assert "list_pods" in output
    assert "nginx" in output


@pytest.mark.req("I2.10")
def test_the_only_commands_not_run_here_are_those_that_start_a_stack() -> None:
    """tests/e2e/test_fresh_clone.py runs the first, tests/compose those for containers."""
    kinds = {info.strip(): code for language, info, code in BLOCKS if language == "sh" and info.strip()}
    assert set(kinds) == {"start", "compose"}
    assert kinds["start"] == "make run\n"
    assert {language for language, _, _ in BLOCKS} <= {"text", "sh", "python", "yaml"}


@pytest.mark.req("I2.10")
def test_links_lead_somewhere() -> None:
    for document in [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")]:
        for target in re.findall(r"\]\((?!https?:|#)([^)#]+)", document.read_text(encoding="utf-8")):
            assert (document.parent / target).exists(), f"{document.name} links to {target}"
