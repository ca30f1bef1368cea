"""Runs a bench for a moment: that it measures what it says is tested, no number that depends on the machine (R27)."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]


def short_bench(module: str, directory: Path, *options: str, seconds: float = 110) -> tuple[Any, str]:
    """The JSON that ``python -m bench.MODULE OPTIONS`` writes, and what it prints at full width."""
    out = directory / f"{module}.json"
    done = subprocess.run(
        [sys.executable, "-m", f"bench.{module}", *options, "--out", str(out)],
        cwd=ROOT,
        env={**os.environ, "COLUMNS": "200"},
        capture_output=True,
        text=True,
        timeout=seconds,
        stdin=subprocess.DEVNULL,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(out.read_text(encoding="utf-8")), done.stdout
