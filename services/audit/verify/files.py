"""Where a log lies and whose it is, from the configuration of the audit service."""

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
    """A log on this machine: its store, its mirror, its public key, and its tree heads that were published or
    witnessed, by where they lie."""

    store: Path
    mirror: Path
    verifier: NoteVerifier
    heads: Mapping[str, str]


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
    if config.store is None:
        raise Unreadable("the log lies in PostgreSQL; verify an export of it")
    heads = _heads([config.checkpoint, *(witness.file for witness in config.witnesses)])
    if vkey:
        return LogFiles(config.store, config.mirror, public_key(vkey), heads)
    try:
        signer = NoteSigner.from_pem(origin_of(config.log_id), read_secret(config.signing_key_file))
    except (ConfigError, BadKey) as error:
        raise Unreadable(f"{error}; name the public key of the log with --key") from error
    return LogFiles(config.store, config.mirror, signer.verifier, heads)


def _heads(files: Sequence[Path]) -> Mapping[str, str]:
    try:
        return {str(file): file.read_text(encoding="utf-8") for file in files if file.exists()}
    except (OSError, UnicodeDecodeError) as error:
        raise Unreadable("a published or witnessed checkpoint cannot be read") from error


def public_key(vkey: str) -> NoteVerifier:
    """The public key of a log, as text.

    Raises:
        Unreadable: it is not one.
    """
    try:
        return NoteVerifier.from_vkey(vkey)
    except BadKey as error:
        raise Unreadable(f"the public key cannot be used: {error}") from error
