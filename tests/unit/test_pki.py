"""Certificates of a development stack as they are written."""

import os
import stat
from pathlib import Path

import pytest

from services.cli.pki import Authority, usable


@pytest.mark.req("R7")
def test_services_that_follow_the_files_see_each_one_whole_and_the_certificate_last(tmp_path: Path) -> None:
    """Regression: the certificates were written in place, so that a service could read a part of one."""
    home = tmp_path / "authn"
    Authority.open(tmp_path / "old", "old CA").mesh("service/authn").write(home, b"old CA")
    before = {name: (home / name).read_bytes() for name in ("tls.key", "ca.crt", "tls.crt")}
    for name in before:
        os.link(home / name, tmp_path / name)
    authority = Authority.open(tmp_path / "new", "new CA")
    authority.mesh("service/authn").write(home, authority.certificate)
    assert usable(home, authority.certificate)
    for name, old in before.items():
        assert (home / name).read_bytes() != old
        assert (tmp_path / name).read_bytes() == old, "whoever has it open reads the old one to its end"
    changed = {name: (home / name).stat().st_ctime_ns for name in before}
    assert max(changed, key=lambda name: (changed[name], name == "tls.crt")) == "tls.crt"
    modes = {name: stat.S_IMODE((home / name).stat().st_mode) for name in before}
    assert modes["tls.key"] == 0o600
    assert modes["tls.crt"] == modes["ca.crt"] == 0o666 & ~_umask()
    assert sorted(path.name for path in home.iterdir()) == ["ca.crt", "tls.crt", "tls.key"]


def _umask() -> int:
    now = os.umask(0)
    os.umask(now)
    return now
