"""`kubegate audit ...` as a process, against a real audit service and its files."""

import asyncio
import json
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from services.audit.checkpoint import NoteSigner, origin_of
from tests.fakes.audit_rig import SIGNING_KEY, Rig, event
from tests.fakes.mesh import Mesh

KUBEGATE = str(Path(sys.executable).with_name("kubegate"))
VKEY = NoteSigner(origin_of("main"), SIGNING_KEY).verifier.vkey


class Home(Rig):
    """A rig in a home."""

    def __init__(self, mesh: Mesh, home: Path) -> None:
        (home / "audit").mkdir(parents=True)
        super().__init__(mesh, home / "audit")
        self.home = home

    async def launch(self, *arguments: str) -> asyncio.subprocess.Process:
        command = [KUBEGATE, "audit", *arguments, "--home", str(self.home)]
        pipe = asyncio.subprocess.PIPE
        return await asyncio.create_subprocess_exec(*command, stdout=pipe, stderr=pipe)

    async def run(self, *arguments: str, code: int = 0) -> str:
        """Standard output, or standard error where the command fails as expected."""
        process = await self.launch(*arguments)
        out, err = (data.decode() for data in await process.communicate())
        assert process.returncode == code, out + err
        return err or out if code else out


@pytest.fixture(scope="module")
def mesh(tmp_path_factory: pytest.TempPathFactory) -> Mesh:
    return Mesh(tmp_path_factory.mktemp("mesh"))


@pytest_asyncio.fixture
async def home(mesh: Mesh, tmp_path: Path) -> AsyncIterator[Home]:
    home = Home(mesh, tmp_path / "home")
    await home.serve_surroundings()
    await home.start()
    home.write_home(home.home)
    for n in range(4):
        await home.append("service/mcp-core", event(resource=f"pods/p{n}", user="\x1b[31mred", namespace=f"n{n % 2}"))
    yield home
    await home.stop()
    await home.stop_surroundings()


def users(text: str) -> list[Any]:
    return [record["resource"] for record in json.loads(text)]


@pytest.mark.req("I2.5")
async def test_query_shows_what_is_asked_for(home: Home) -> None:
    mine = ("query", "--type", "mcp_request", "--json")
    assert users(await home.run(*mine)) == ["pods/p0", "pods/p1", "pods/p2", "pods/p3"]
    assert users(await home.run(*mine, "--newest-first", "--limit", "1")) == ["pods/p3"]
    assert users(await home.run(*mine, "--namespace", "n1", "--since", "1h")) == ["pods/p1", "pods/p3"]
    assert users(await home.run(*mine, "--since", "2999-01-01T00:00:00Z")) == []
    text = await home.run("query", "--resource", "pods/p2")
    assert "pods/p2" in text
    assert "\x1b" not in text, "recorded text cannot steer the terminal"
    assert "unknown" in await home.run("query", "--type", "nonsense", code=2)
    assert "neither" in await home.run("query", "--since", "yesterday", code=2)


@pytest.mark.req("I2.5")
async def test_tail_begins_with_the_newest_and_follows(home: Home) -> None:
    text = await home.run("tail", "--no-follow", "-n", "2", "--type", "mcp_request", "--json")
    assert [json.loads(line)["resource"] for line in text.splitlines()] == ["pods/p2", "pods/p3"]
    process = await home.launch("tail", "-n", "1", "--type", "mcp_request", "--json")
    assert process.stdout is not None
    assert json.loads(await process.stdout.readline())["resource"] == "pods/p3"
    await home.append("service/mcp-core", event(resource="pods/new"))
    assert json.loads(await process.stdout.readline())["resource"] == "pods/new"
    process.terminate()
    await process.wait()


@pytest.mark.req("I2.5", "R23")
async def test_verify_says_intact_altered_or_unreadable_whether_the_service_is_up_or_down(home: Home) -> None:
    assert (await home.run("verify")).startswith("intact: 4 events")
    await home.stop()
    head = (home.directory / "checkpoint").read_text().splitlines()
    assert json.loads(await home.run("verify", "--json")) == {
        "intact": True, "events": 4, "checkpoints": 5, "mirrored": 4, "retired": 0, "root": head[2], "keys": [VKEY],
    }  # fmt: skip
    files = sorted(path.name for path in home.directory.iterdir())
    assert (await home.run("verify")).startswith("intact: 4 events")
    assert sorted(path.name for path in home.directory.iterdir()) == files, "verifying leaves nothing behind"
    mirror = home.directory / "audit.log"
    mirror.write_bytes(mirror.read_bytes().replace(b"pods/p2", b"pods/p7"))
    assert "event 2" in await home.run("verify", code=1)
    answer = json.loads(await home.run("verify", "--json", code=1))
    assert (answer["intact"], answer["sequence"]) == (False, 2)
    (home.directory / "audit.db").write_bytes(b"not a database" * 1000)
    assert "cannot tell" in await home.run("verify", code=2)
    (home.directory / "config.yaml").unlink()
    assert "--home" in await home.run("verify", code=2)


@pytest.mark.req("I2.5", "R23")
async def test_an_export_is_verified_anywhere(home: Home, tmp_path: Path) -> None:
    file = tmp_path / "export.jsonl"
    summary = json.loads(await home.run("export", str(file), "--json"))
    assert summary == {"file": str(file), "proof": f"{file}.proof", "events": 4}
    assert file.read_bytes() == b"".join((home.directory / "audit.log").read_bytes().splitlines(keepends=True)[:4])
    assert (await home.run("export")).encode().startswith(file.read_bytes())
    await home.stop()
    assert "intact: 4 events" in await home.run("verify", str(file))
    elsewhere = Home(home.mesh, tmp_path / "elsewhere")
    assert "intact: 4 events" in await elsewhere.run("verify", str(file), "--key", VKEY)
    assert "intact" in await home.run("verify", "--checkpoint", f"{file}.proof")
    assert "intact" in await elsewhere.run("verify", str(file), "--key", VKEY, "--checkpoint", f"{file}.proof")
    (tmp_path / "kept").write_text("nonsense\n")
    assert "kept is not a signed root" in await home.run("verify", "--checkpoint", str(tmp_path / "kept"), code=1)
    assert "cannot be read" in await home.run("verify", "--checkpoint", str(tmp_path / "absent"), code=2)
    # A copy of the mirror is held against the store, which must have the kept head as well.
    copy = tmp_path / "copy.log"
    copy.write_bytes((home.directory / "audit.log").read_bytes())
    assert "intact" in await home.run("verify", str(copy), "--checkpoint", f"{file}.proof")
    assert "kept is not" in await home.run("verify", str(copy), "--checkpoint", str(tmp_path / "kept"), code=1)
    file.write_bytes(file.read_bytes().replace(b"pods/p2", b"pods/p7"))
    assert "event 2" in await elsewhere.run("verify", str(file), "--key", VKEY, code=1)
    (tmp_path / "export.jsonl.proof").unlink()
    assert "event 2" in await home.run("verify", str(file), code=1), "the store knows, where there is no proof"
    assert "--home" in await elsewhere.run("verify", str(file), "--key", VKEY, code=2)
    assert "public key" in await home.run("verify", str(file), "--key", "nonsense", code=2)


@pytest.mark.req("I4.3", "R23")
async def test_after_a_rotation_of_the_key_older_files_name_the_way_to_theirs(home: Home, tmp_path: Path) -> None:
    file, receipt = tmp_path / "export.jsonl", tmp_path / "one.tlog-proof"
    await home.run("export", str(file))
    await home.run("receipt", json.loads(file.read_text().splitlines()[1])["event_id"], "--out", str(receipt))
    await home.stop()
    home.previous = tmp_path / "old.key"
    (home.directory / "signing.key").rename(home.previous)
    home.signing_key = Ed25519PrivateKey.generate()
    await home.start()
    home.write_home(home.home)
    old, new = json.loads(await home.run("verify", "--json"))["keys"]
    assert (old, new) == (VKEY, NoteSigner(origin_of("main"), home.signing_key).verifier.vkey)
    for each in (file, receipt):
        said = await home.run("verify", str(each), code=1)
        assert "rotated since, name the key of that time with --key" in said
        await home.run("verify", str(each), "--key", old)


@pytest.mark.req("R15", "I2.6")
async def test_who_may_not_read_is_told_so_and_a_stopped_service_is_named(home: Home) -> None:
    (home.home / "credentials" / "admin.key").write_text("viewer")
    assert "denied" in await home.run("query", code=1)
    (home.home / "credentials" / "admin.key").write_text("admin")
    await home.stop()
    assert "audit" in await home.run("query", code=2)


@pytest.mark.req("I4.3", "I4.4")
async def test_exports_by_filter_receipts_and_witnesses_are_verified_without_a_service(home: Home) -> None:
    lines, table = home.home / "some.jsonl", home.home / "some.csv"
    assert "2 events" in await home.run("export", str(lines), "--namespace", "n1")
    assert "2 events" in await home.run("export", str(table), "--namespace", "n1", "--format", "csv")
    assert table.read_text().startswith("timestamp,event_id,")
    event_id = json.loads(lines.read_text().splitlines()[0])["event_id"]
    receipt = home.home / "one.tlog-proof"
    await home.run("receipt", event_id, "--out", str(receipt))
    witness = [str(home.home / "seen"), "--witness-key", str(home.home / "w.key"), "--name", "w.example/1"]
    first = json.loads(await home.run("witness", *witness, "--json"))
    await home.append("service/mcp-core", event())
    second = json.loads(await home.run("witness", *witness, "--json"))
    assert second["events"] > first["events"]
    assert second["key"] == first["key"]
    counts = json.loads(await home.run("stats", "--by", "namespace", "--json"))
    assert {"namespace": "n1", "count": 2} in counts
    await home.stop()
    assert "carries no proof" in await home.run("verify", str(table), code=2)
    for file in (lines, receipt):
        assert json.loads(await home.run("verify", str(file), "--json"))["intact"]
        whole = file.read_text()
        file.write_text(whole.replace("index 1\n", "index 2\n").replace("pods/p1", "pods/p9"))
        await home.run("verify", str(file), code=1)
        file.write_text(whole)
        assert json.loads(await home.run("verify", str(file), "--key", VKEY, "--json"))["intact"]
        seen = ("--checkpoint", str(home.home / "seen"))
        assert "cannot tell" in await home.run("verify", str(file), *seen, code=2), "it is no whole log"
    assert "intact" in await home.run("verify", *seen)
    # The log was cut back to nothing since the witness looked.
    for file in (home.directory / "checkpoint", *home.directory.glob("audit.*")):
        file.unlink()
    await home.start()
    home.write_home(home.home)
    assert "as evidence" in await home.run("witness", *witness, code=1)
    assert "seen is a signed root over" in await home.run("verify", *seen, code=1)


@pytest.mark.req("I4.4")
async def test_any_field_and_text_can_be_asked_for_on_the_command_line(home: Home) -> None:
    found = json.loads(await home.run("query", "--field", "resource=pods/p1", "--field", "resource=pods/p2", "--json"))
    assert [each["resource"] for each in found] == ["pods/p1", "pods/p2"]
    assert json.loads(await home.run("query", "--text", "nothing like it", "--json")) == []
    assert "PATH=VALUE" in await home.run("query", "--field", "resource", code=2)
    assert "no field 'nonsense'" in await home.run("query", "--field", "nonsense=1", code=2)
