"""`kubegate up` in the foreground, after somebody said `kubegate down` elsewhere."""

import time
from pathlib import Path

import pytest
import typer

from services.cli import supervisor, up
from services.cli.home import HomeLayout


@pytest.mark.req("I2.1")
def test_who_watches_stops_when_nothing_is_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    looks: list[str] = []
    running = [{"authn", "audit"}, {"audit"}, set[str]()]

    def find(_layout: HomeLayout, name: str) -> object:
        looks.append(name)
        return name if name in running[(len(looks) - 1) // 2] else None

    monkeypatch.setattr(supervisor, "find", find)
    monkeypatch.setattr(time, "sleep", lambda _seconds: None)
    with pytest.raises(typer.Exit) as ended:
        up._watch(HomeLayout(tmp_path), ["authn", "audit"])
    assert ended.value.exit_code == 1
    said = capsys.readouterr().err
    assert "authn stopped" in said
    assert "no service runs any more; start again with `kubegate up" in said
