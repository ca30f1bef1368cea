"""Where a log lies and whose it is, from the configuration of the audit service."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from services.audit.checkpoint import BadKey, NoteSigner, NoteVerifier, origin_of
from services.audit.config import Config
from services.audit.verify.findings import Unreadable
from services.common.config import load_config, read_secret
from services.common.runtime_errors import ConfigError


@dataclass(frozen=True, slots=True)
class LogFiles:
    """A log on this machine: its store, its mirror, its public key."""

    store: Path
    mirror: Path
    verifier: NoteVerifier


def log_files(config_file: Path, vkey: str = "") -> LogFiles:
    """The files that a configuration names. The key is ``vkey`` (``name+hash+key``) where it is given, else the
    public half of the configured signing key.

    Raises:
        Unreadable: the configuration or the key cannot be used.
    """
    try:
        config = load_config(Config, config_file)
    except ConfigError as error:
        raise Unreadable(f"the configuration of the audit service cannot be used: is --home right?\n{error}") from error
    if vkey:
        return LogFiles(config.store, config.mirror, public_key(vkey))
    try:
        signer = NoteSigner.from_pem(origin_of(config.log_id), read_secret(config.signing_key_file))
    except (ConfigError, BadKey) as error:
        raise Unreadable(f"{error}; name the public key of the log with --key") from error
    return LogFiles(config.store, config.mirror, signer.verifier)


def public_key(vkey: str) -> NoteVerifier:
    """The public key of a log, as text.

    Raises:
        Unreadable: it is not one.
    """
    try:
        return NoteVerifier.from_vkey(vkey)
    except BadKey as error:
        raise Unreadable(f"the public key cannot be used: {error}") from error


def kept_heads(files: Sequence[Path]) -> Mapping[str, str]:
    """Tree heads that somebody kept, by where they lie. A file is a signed tree head, or the proof beside an export.

    Raises:
        Unreadable: it cannot be read, or is neither.
    """
    heads: dict[str, str] = {}
    for file in files:
        try:
            text = file.read_text(encoding="utf-8")
            heads[str(file)] = str(json.loads(text)["checkpoint"]) if text.startswith("{") else text
        except OSError as error:
            raise Unreadable(f"{file}: cannot be read: {error.strerror}") from error
        except (ValueError, KeyError) as error:
            raise Unreadable(f"{file}: neither a checkpoint nor the proof beside an export") from error
    return heads
