"""Configuration: every problem at once, in words (I2.11)."""

from pathlib import Path

import pytest

from services.common.config import (
    ConfigError,
    FilePath,
    Model,
    PeerAddress,
    TlsFiles,
    load_config,
    read_secret,
)


class Example(Model):
    listen: str
    tls: TlsFiles
    peer: PeerAddress
    store: FilePath
    limit: int = 10


VALID = """
listen: 127.0.0.1:0
tls: {cert_file: a.crt, key_file: a.key, ca_file: ca.crt}
peer: {address: "127.0.0.1:1", server_name: authn.kubegate.internal}
store: data/x.db
"""


def write(tmp_path: Path, text: str, *, files: bool = True) -> Path:
    if files:
        for name in ("a.crt", "a.key", "ca.crt"):
            (tmp_path / name).touch()
    path = tmp_path / "config.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def problems(path: Path) -> str:
    with pytest.raises(ConfigError) as caught:
        load_config(Example, path)
    return str(caught.value)


def test_paths_start_from_the_files_directory(tmp_path: Path) -> None:
    config = load_config(Example, write(tmp_path, VALID))
    assert config.store == tmp_path / "data/x.db"
    assert config.tls.cert_file == tmp_path / "a.crt"


@pytest.mark.req("I2.11")
def test_all_problems_are_reported_at_once_with_their_keys(tmp_path: Path) -> None:
    text = VALID.replace("listen:", "lisen:").replace("a.crt", "a.crt, mode: x") + "limit: many\n"
    message = problems(write(tmp_path, text))
    for part in ("lisen: unknown key", "listen: required key is missing", "tls.mode: unknown key", "limit: "):
        assert part in message
    assert all(line.startswith(str(tmp_path / "config.yaml")) for line in message.splitlines())


@pytest.mark.req("I2.11")
def test_a_missing_certificate_is_named_with_the_next_step(tmp_path: Path) -> None:
    message = problems(write(tmp_path, VALID, files=False))
    assert f"tls.cert_file: cannot read {tmp_path / 'a.crt'}" in message
    assert "kubegate certs rotate" in message


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("a: [1\n", "not valid YAML"),
        ("- a\n", "must hold a mapping"),
        ("", "must hold a mapping"),
        ("peer: !!python/object/apply:os.system [x]\n", "not valid YAML"),
    ],
)
def test_what_is_no_mapping_is_refused(tmp_path: Path, text: str, part: str) -> None:
    assert part in problems(write(tmp_path, text))


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    assert f"{tmp_path / 'none.yaml'}: cannot be read" in problems(tmp_path / "none.yaml")


def test_values_never_appear_in_messages(tmp_path: Path) -> None:
    assert "hunter2" not in problems(write(tmp_path, VALID + "limit: hunter2\n"))


def test_secrets_are_for_their_owner_only(tmp_path: Path) -> None:
    path = tmp_path / "secret"
    path.write_bytes(b"pepper\n")
    path.chmod(0o640)
    with pytest.raises(ConfigError, match="chmod 600"):
        read_secret(path)
    path.chmod(0o600)
    assert read_secret(path) == b"pepper"
    path.write_bytes(b"\n")
    with pytest.raises(ConfigError, match="empty"):
        read_secret(path)
    with pytest.raises(ConfigError, match="cannot be read"):
        read_secret(tmp_path / "none")
