"""`kubegate status` fits a terminal, also when something is wrong, and says all of it (I9.14)."""

from datetime import UTC, datetime
from typing import Any

import pytest

from services.cli.status_table import COLUMNS, WIDTH, show

NOW = datetime(2026, 11, 28, 12, tzinfo=UTC)


def row(service: str, **said: Any) -> dict[str, Any]:
    nothing = dict.fromkeys(("version", "uptime_seconds", "revision", "head", "certificates", "last_error"))
    return {"service": service, "state": "stopped", "problems": [], "notices": [], **nothing, **said}


def printed(rows: list[dict[str, Any]], capsys: pytest.CaptureFixture[str]) -> list[str]:
    show(rows, NOW)
    return capsys.readouterr().out.splitlines()


@pytest.mark.req("I9.14")
def test_whatever_is_wrong_no_line_is_wider_than_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    problem = "store: " + "the disk is full and nothing can be written " * 12
    error = {
        "at": "2026-11-27T23:59:59.123456Z",
        "component": "policy",
        "event": "changed policy is unusable, " * 4 + "see above",
    }
    lines = printed(
        [
            row("cluster"),
            row(
                "mcp-core",
                state="not ready",
                version="0.10.12",
                uptime_seconds=364 * 86_400 + 23 * 3600,
                revision="policy sha256:0123456789ab",
                head="1000000000 0123456789ab",
                certificates={"mesh": "2027-02-26T00:00:00Z", "edge": "2027-01-01T00:00:00Z"},
                problems=[problem, "second"],
                notices=["the policy file is unusable: \x1b[31mroles"],
                last_error=error,
            ),
        ],
        capsys,
    )
    assert max(map(len, lines)) <= WIDTH
    assert all(column in lines[0] for column in COLUMNS)
    assert lines[1].split() == ["cluster", "stopped"]
    for shown in ("364d 23h", "policy 0123456789ab", "1000000000 0123456789ab", "2027-01-01 (33 d)", "11-27 23:59Z"):
        assert shown in lines[2]
    below = " ".join(line.strip() for line in lines[3:])
    assert f"mcp-core: not ready: {problem.strip()}" in below
    assert "mcp-core: not ready: second" in below
    assert "mcp-core: note: the policy file is unusable: \ufffd[31mroles" in below
    assert f"mcp-core: last error: {error['event']} (policy, 2026-11-27T23:59:59Z)" in below


@pytest.mark.req("I9.14")
def test_where_nothing_is_wrong_there_is_a_table_and_nothing_else(capsys: pytest.CaptureFixture[str]) -> None:
    lines = printed([row("authn", state="ready", uptime_seconds=59), row("authz", state="ready")], capsys)
    assert len(lines) == 3
    assert "59s" in lines[1]
