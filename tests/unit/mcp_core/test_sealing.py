"""What passes through a client's hands comes back as it was, or not at all (R16)."""

import base64
import os
from pathlib import Path

import pytest

from services.common.config import ConfigError
from services.mcp_core.adapters.sealing import FernetSealer, SealingKeys


def key_file(path: Path, *keys: bytes, mode: int = 0o600) -> Path:
    path.write_bytes(b"".join(base64.b64encode(key) + b"\n" for key in keys))
    path.chmod(mode)
    return path


@pytest.mark.req("R16", "I8.4")
def test_no_altered_token_opens(tmp_path: Path) -> None:
    sealer = FernetSealer(SealingKeys(key_file(tmp_path / "key", os.urandom(32))))
    token = sealer.seal(b"what was asked")
    assert sealer.open(token) == b"what was asked"
    assert b"what was asked" not in base64.urlsafe_b64decode(token)
    for place, char in enumerate(token):
        assert sealer.open(token[:place] + ("A" if char != "A" else "B") + token[place + 1 :]) is None
    # What decodes to the same bytes is not the same token.
    for forged in (token + "=", token + "\n", " " + token, token[:9] + "!" + token[9:], token[:-2], "", "x", "\u00e9"):
        assert sealer.open(forged) is None


@pytest.mark.req("R16")
def test_replicas_share_keys_and_a_new_key_takes_over(tmp_path: Path) -> None:
    old, new = os.urandom(32), os.urandom(32)
    before = FernetSealer(SealingKeys(key_file(tmp_path / "before", old)))
    during = FernetSealer(SealingKeys(key_file(tmp_path / "during", new, old)))
    after = FernetSealer(SealingKeys(key_file(tmp_path / "after", new)))
    assert during.open(before.seal(b"x")) == b"x"
    assert after.open(during.seal(b"x")) == b"x"
    assert after.open(before.seal(b"x")) is None


@pytest.mark.req("R16")
def test_what_is_sealed_for_one_purpose_opens_for_no_other(tmp_path: Path) -> None:
    master = os.urandom(32)
    keys = SealingKeys(key_file(tmp_path / "key", master))
    [one], [other] = keys.derived("request state"), keys.derived("confirmations and sessions")
    assert len({one, other, master}) == 3
    assert {len(one), len(other)} == {32}
    assert keys.derived("request state") == [one]


@pytest.mark.parametrize(
    ("content", "mode", "said"),
    [
        (b"", 0o600, "empty"),
        (b"short\n", 0o600, "base64 key of 32 bytes"),
        (base64.b64encode(bytes(32)), 0o644, "0644"),
    ],
)
def test_an_unusable_key_file_is_named(tmp_path: Path, content: bytes, mode: int, said: str) -> None:
    path = tmp_path / "key"
    path.write_bytes(content)
    path.chmod(mode)
    with pytest.raises(ConfigError, match=said):
        SealingKeys(path)
