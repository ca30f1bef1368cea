"""`make run` in a fresh clone, as the README says it, with nothing but Python and make (I2.1)."""

import json
import os
import re
import signal
import ssl
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

ROOT = Path(__file__).parents[2]
START = re.findall(
    r"^```sh start\n(.*?)^```$", (ROOT / "README.md").read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL
)

SETUP_PATIENCE = 600.0
"""Seconds that installing and starting may take before the test gives up."""

pytestmark = [pytest.mark.long, pytest.mark.timeout(900)]


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """What a clone of this tree would hold: no environment, no home, nothing ignored."""
    listing = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        check=True,
    )
    target = tmp_path / "clone"
    for name in filter(None, listing.stdout.decode().split("\0")):
        if (ROOT / name).exists():
            destination = target / name
            destination.parent.mkdir(parents=True, exist_ok=True)
            destination.write_bytes((ROOT / name).read_bytes())
            destination.chmod((ROOT / name).stat().st_mode & 0o777)
    return target


@pytest.fixture
def make_run(clone: Path) -> Iterator[subprocess.Popen[str]]:
    """The README's command, in the foreground of a session of its own, on a port that is free."""
    # What the make that runs this test was told is not for the one that it runs.
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "VIRTUAL_ENV", "MAKE"))}
    kept["PATH"] = os.pathsep.join(part for part in kept["PATH"].split(os.pathsep) if ".venv" not in part)
    with (clone.parent / "output").open("w", encoding="utf-8") as output:
        process = subprocess.Popen(
            ["bash", "-ec", START[0]],
            cwd=clone,
            env=kept | {"ARGS": "--port 0"},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            text=True,
            start_new_session=True,
        )
        yield process
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        subprocess.run([clone / ".venv/bin/kubegate", "down"], cwd=clone, capture_output=True, check=False)


def runs(pid: int) -> bool:
    """Whether a process is there that has not ended; where nobody reaps orphans, they stay as zombies."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace")
    except OSError:
        return False
    return stat.rpartition(")")[2].split()[0] != "Z"


@pytest.mark.req("I2.1", "I2.10")
def test_make_run_in_a_fresh_clone_until_ctrl_c(clone: Path, make_run: subprocess.Popen[str]) -> None:
    def said() -> str:
        return (clone.parent / "output").read_text(encoding="utf-8")

    end = time.monotonic() + SETUP_PATIENCE
    while "Ctrl-C stops" not in said() and make_run.poll() is None and time.monotonic() < end:
        time.sleep(0.5)
    assert make_run.poll() is None, said()
    endpoints = json.loads((clone / ".kubegate/endpoints.json").read_text(encoding="utf-8"))
    key = (clone / ".kubegate/credentials/viewer.key").read_text(encoding="ascii").strip()
    answer = httpx.post(
        f"{endpoints['base_url']}/mcp/tools/list_pods",
        json={"namespace": "default"},
        headers={"Authorization": f"Bearer {key}"},
        verify=ssl.create_default_context(cafile=endpoints["ca_file"]),
        trust_env=False,
    )
    assert answer.status_code == 200, answer.text
    assert "nginx" in answer.text
    for expected in (endpoints["mcp_url"], endpoints["ca_file"], "mcpServers", "viewer.key"):
        assert expected in said()
    assert said().count("curl --cacert") == 3
    assert key not in said()

    pids = [int(path.read_text().split()[0]) for path in (clone / ".kubegate/run").glob("*.pid")]
    assert len(pids) == 5
    # A terminal sends Ctrl-C to the whole foreground group: make, and what it runs.
    os.killpg(make_run.pid, signal.SIGINT)
    make_run.wait(60)
    assert "stopped" in said()
    assert [pid for pid in pids if runs(pid)] == []
