"""The witness as a service of its own: it looks again and again, with a certificate alone, and stops at a log that is
not what it saw."""

import asyncio
from pathlib import Path

import pytest

from tests.contract.test_audit_cli import Home
from tests.fakes.audit_rig import event
from tests.fakes.mesh import Mesh


@pytest.mark.req("I4.3", "R23")
async def test_a_witness_goes_on_through_outages_and_stops_at_a_log_that_was_cut_back(tmp_path: Path) -> None:
    home = Home(Mesh(tmp_path / "mesh"), tmp_path / "home")
    await home.serve_surroundings()
    await home.start()
    home.write_home(home.home)
    (home.home / "credentials" / "admin.key").unlink()
    own = tmp_path / "witness"
    own.mkdir()
    arguments = (str(own / "seen"), "--witness-key", str(own / "key"), "--name", "w.example/1", "--every", "1")
    process = await home.launch("witness", *arguments)
    out, errors = process.stdout, process.stderr
    assert out is not None
    assert errors is not None

    async def told(size: int) -> None:
        async with asyncio.timeout(60):
            while not (await out.readline()).startswith(b"%d events witnessed" % size):
                assert process.returncode is None

    await told(0)
    for _ in range(3):
        await home.append("service/mcp-core", event())
    await told(3)
    seen = (own / "seen").read_text()
    port = home.port
    await home.stop()
    async with asyncio.timeout(60):
        while b"not looked" not in await errors.readline():
            assert process.returncode is None
    assert (own / "seen").read_text() == seen
    # Whoever runs audit begins anew, on the same address.
    for name in ("audit.db", "audit.db-wal", "audit.db-shm", "audit.log", "checkpoint"):
        (home.directory / name).unlink(missing_ok=True)
    home.listen = f"127.0.0.1:{port}"
    await home.start()
    async with asyncio.timeout(60):
        assert await process.wait() == 1
    assert b"as evidence" in await errors.read()
    assert (own / "seen").read_text() == seen
    await home.stop()
    await home.stop_surroundings()
