"""Files of an export appear whole or not at all, and lose their beginning where retention took it meanwhile."""

from pathlib import Path

import pytest
import typer

from services.cli.audit_places import leave_out, placing


@pytest.mark.req("I4.4")
def test_a_file_takes_its_place_when_all_is_written_and_only_its_owner_reads_it(tmp_path: Path) -> None:
    file = tmp_path / "export.jsonl"
    file.write_bytes(b"before\n")
    with pytest.raises(TypeError), placing(file) as opened:
        opened.writelines([b"half", "no bytes"])  # type: ignore[list-item]
    assert [(each.name, each.read_bytes()) for each in tmp_path.iterdir()] == [("export.jsonl", b"before\n")]
    with placing(file) as opened:
        opened.write(b"whole\n")
    assert [(each.name, each.read_bytes()) for each in tmp_path.iterdir()] == [("export.jsonl", b"whole\n")]
    assert file.stat().st_mode & 0o077 == 0
    with pytest.raises(typer.Exit), placing(tmp_path / "absent" / "export.jsonl"):
        raise AssertionError("nothing is asked for that cannot be written")


@pytest.mark.req("I4.4", "I4.5")
@pytest.mark.parametrize("gone", [0, 1, 40_000, 60_000, 70_000])
def test_lines_of_deleted_events_are_left_out_of_a_file_of_any_size(tmp_path: Path, gone: int) -> None:
    lines = [b'{"sequence":%d,"padding":"%s"}\n' % (n, b"x" * 40) for n in range(60_000)]
    with placing(tmp_path / "export.jsonl") as opened:
        opened.write(b"".join(lines))
        leave_out(opened, gone)
    assert (tmp_path / "export.jsonl").read_bytes() == b"".join(lines[gone:])
